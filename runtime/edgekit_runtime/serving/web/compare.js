// Two adapters, one prompt: one after the other, so that neither slows the other down.

import { Answer } from "./answer.js";
import { byId, element } from "./dom.js";
import { nameOf } from "./models.js";
import { readOptions, systemMessages } from "./settings.js";

export class Compare {
  constructor(meter) {
    this.meter = meter;
  }

  clear() {
    byId("pair").replaceChildren();
  }

  /** Ask both; false where the settings are wrong. */
  send(text, signal) {
    const options = readOptions();
    if (options === null) return false;
    const models = [byId("left").value, byId("right").value];
    const answers = models.map((model) => new Answer(nameOf(model)));
    const said = element("article", { className: "said" }, element("h2", { className: "who" }, "You"), element("div", { className: "text" }, text));
    byId("pair").replaceChildren(said, ...answers.map((answer) => answer.element));
    return this.#ask(models, answers, options, text, signal);
  }

  async #ask(models, answers, options, text, signal) {
    const messages = [...systemMessages(), { role: "user", content: text }];
    for (const [index, model] of models.entries()) {
      if (signal.aborted) return;
      // An error is shown in its place; the other one answers all the same.
      await answers[index].run({ model, messages, ...options }, signal, this.meter).catch(() => {});
    }
  }
}
