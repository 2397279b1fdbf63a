// The conversation: kept in this page only, sent whole with every message.

import { Answer } from "./answer.js";
import { byId, element, isAtEnd } from "./dom.js";
import { isAuto, isSingleTurn, nameOf } from "./models.js";
import { readOptions, systemMessages } from "./settings.js";

const SWAPPED =
  "It reads the whole conversation itself: nothing that another adapter computed is used.";
const SINGLE_TURN =
  "It is a single-turn skill: your last message fills its own template. Earlier messages and the system prompt do not reach it.";
const AUTO =
  "For each message the adapter is picked whose examples are most alike; the base answers where none is.";
const ANY_TIME =
  "Change it at any time. From the next message on, the chosen adapter reads the whole conversation itself.";

export class Chat {
  #messages = [];
  #last = null;

  constructor(meter) {
    this.meter = meter;
    byId("adapter").addEventListener("change", () => this.showNote());
  }

  /** Say what the chosen adapter will read. */
  showNote() {
    byId("adapter-note").textContent = readingNote(byId("adapter").value, ANY_TIME);
  }

  /** Forget everything. */
  clear() {
    this.#messages = [];
    this.#last = null;
    byId("log").replaceChildren();
  }

  /** Ask; false where the settings are wrong. */
  send(text, signal) {
    const options = readOptions();
    if (options === null) return false;
    const model = byId("adapter").value;
    if (this.#last !== null && this.#last !== model) this.#showSwap(model);
    this.#last = model;
    add(element("li", { className: "said" }, element("h2", { className: "who" }, "You"), element("div", { className: "text" }, text)));
    return this.#answer(model, options, text, signal);
  }

  async #answer(model, options, text, signal) {
    const log = byId("log");
    const answer = new Answer(nameOf(model));
    const place = element("li", {}, answer.element);
    add(place);
    // Another chat may have begun when the answer is there.
    const messages = this.#messages;
    const asked = { role: "user", content: text };
    const fields = { model, messages: [...systemMessages(), ...messages, asked], ...options };
    let stays = true;
    log.addEventListener("scroll", () => (stays = isAtEnd(log)), { signal });
    const follow = () => stays && (log.scrollTop = log.scrollHeight);
    try {
      const content = await answer.run(fields, signal, this.meter, follow);
      if (content) messages.push(asked, { role: "assistant", content });
    } finally {
      follow();
    }
  }

  #showSwap(model) {
    const words = `${nameOf(model)} answers from here. ${readingNote(model, SWAPPED)}`;
    add(element("li", { className: "swap" }, words));
  }
}

/** What a model reads of the conversation; `whole` where it reads all of it. */
function readingNote(model, whole) {
  if (isAuto(model)) return AUTO;
  return isSingleTurn(model) ? SINGLE_TURN : whole;
}

function add(item) {
  const log = byId("log");
  log.append(item);
  log.scrollTop = log.scrollHeight;
}
