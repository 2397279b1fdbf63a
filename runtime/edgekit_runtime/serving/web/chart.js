// A small chart: a title, the value of now, and how it was, drawn as SVG.

import { element } from "./dom.js";

const WIDTH = 240, HEIGHT = 48, SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** A chart of the last values; `kind` is "line" or "bars". */
export class Chart {
  #values = [];
  #now = element("strong", {}, "–");
  #picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });

  constructor({ title, kind, longest, show }) {
    Object.assign(this, { title, kind, longest, show });
    const caption = element("figcaption", {}, `${title} `, this.#now);
    this.element = element("figure", { className: "chart" }, caption, this.#picture);
    this.#picture.setAttribute("aria-label", `${title}: nothing yet`);
  }

  add(value) {
    this.#values = [...this.#values, value].slice(-this.longest);
    this.#now.textContent = this.show(value);
    this.#draw();
  }

  #draw() {
    const most = Math.max(...this.#values), least = Math.min(...this.#values);
    const range = `lowest ${this.show(least)}, highest ${this.show(most)}`;
    this.#picture.setAttribute("aria-label", `${this.title}: now ${this.#now.textContent}, ${range}`);
    const step = WIDTH / this.longest;
    const height = (value) => (most > 0 ? (value / most) * (HEIGHT - 4) : 0);
    const first = this.longest - this.#values.length;
    const at = this.#values.map((value, index) => [(first + index) * step, height(value)]);
    const drawn = this.kind === "bars" ? bars(at, step) : [line(at, step)];
    this.#picture.replaceChildren(...drawn);
  }
}

function bars(at, step) {
  return at.map(([x, height]) =>
    svg("rect", { x: x + 1, y: HEIGHT - height, width: Math.max(1, step - 2), height, class: "column" }));
}

function line(at, step) {
  const points = at.map(([x, height]) => `${x + step / 2},${HEIGHT - 2 - height}`).join(" ");
  return svg("polyline", { points, class: "line" });
}
