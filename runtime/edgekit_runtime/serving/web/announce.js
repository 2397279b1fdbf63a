// Tells screen readers of an answer by whole sentences: token by token they would stammer.

import { byId, element } from "./dom.js";

const MAX_LINES = 30;

export function announce(text) {
  const region = byId("announcer");
  region.append(element("p", {}, text));
  while (region.childElementCount > MAX_LINES) region.firstElementChild.remove();
}

/** Takes pieces of text, and announces them when a sentence or a line ends. */
export class Sentences {
  #rest = "";

  push(piece) {
    this.#rest += piece;
    const end = this.#rest.search(/[.!?:;\n](?=\s\S*$)/);
    if (end < 0) return;
    announce(this.#rest.slice(0, end + 1).trim());
    this.#rest = this.#rest.slice(end + 1);
  }

  end() {
    if (this.#rest.trim()) announce(this.#rest.trim());
    this.#rest = "";
  }
}
