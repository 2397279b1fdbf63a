// One answer: its text as it comes, what it cost, and what can be done with it.

import { announce, Sentences } from "./announce.js";
import { streamChat } from "./api.js";
import { button, copy, element, milliseconds } from "./dom.js";
import { isAuto, nameOf } from "./models.js";

const HOW_IT_ENDED = {
  length: "cut off at its longest length",
  tool_calls: "called a tool",
};

/** A block that an answer of a model streams into. */
export class Answer {
  #text = element("div", { className: "text" });
  #meta = element("p", { className: "meta" });
  #actions = element("div", { className: "actions" });
  #name;
  #title;

  constructor(name) {
    this.#name = name;
    this.#title = element("h2", { className: "who" }, name);
    this.element = element("article", { className: "answer" }, this.#title, this.#text, this.#meta, this.#actions);
  }

  /**
   * Stream an answer into the block; return its text, with what came before an abort.
   *
   * `meter` is told of the times. Raises ServerError after showing it.
   */
  async run(fields, signal, meter, onPiece = () => {}) {
    const sentences = new Sentences();
    const started = performance.now();
    let text = "", ttft = null;
    const pieces = streamChat(fields, signal);
    this.element.setAttribute("aria-busy", "true");
    announce(`${this.#name} answers.`);
    try {
      let next = await pieces.next();
      for (; !next.done; next = await pieces.next()) {
        const { text: piece, model } = next.value;
        if (ttft === null) {
          meter.first((ttft = performance.now() - started));
          if (isAuto(fields.model)) this.#picked(model);
        }
        meter.piece();
        this.#text.append(text ? piece : piece.trimStart());
        text += piece;
        sentences.push(piece);
        onPiece();
      }
      meter.end(next.value.timings);
      this.#meta.textContent = summary(next.value, ttft);
    } catch (error) {
      if (error.name !== "AbortError") throw this.#failed(error);
      this.#meta.textContent = "Stopped.";
    } finally {
      sentences.end();
      this.element.removeAttribute("aria-busy");
      if (text) this.#addCopy(text);
    }
    announce(this.#meta.textContent);
    return text;
  }

  /** Offer something below the answer. */
  offer(label, act) {
    this.#actions.append(button(label, act));
  }

  #picked(model) {
    this.#name = nameOf(model);
    this.#title.textContent = `${this.#name}, picked for this message`;
    announce(`${this.#title.textContent}.`);
  }

  #failed(error) {
    this.element.classList.add("failed");
    this.#meta.textContent = error.message;
    this.#meta.classList.add("error");
    announce(error.message);
    return error;
  }

  #addCopy(text) {
    const control = button("Copy", () => copy(text, this.#text, control));
    control.setAttribute("aria-label", `Copy the answer of ${this.#name}`);
    this.#actions.append(control);
  }
}

function summary({ finishReason, usage, timings }, ttft) {
  const cached = usage.prompt_tokens_details.cached_tokens;
  const rate = timings?.decode_tokens_per_s;
  const parts = [
    tokens(usage.completion_tokens),
    ttft === null ? "" : `first after ${milliseconds(ttft)}`,
    rate ? `${rate.toFixed(1)} tokens/s` : "",
    `prompt ${tokens(usage.prompt_tokens)}, ${cached} from the cache`,
    HOW_IT_ENDED[finishReason] ?? "",
  ];
  return parts.filter(Boolean).join(" · ");
}

function tokens(n) {
  return `${n} token${n === 1 ? "" : "s"}`;
}
