// What the server does right now: times of the answers here, memory and queue from /metrics.

import { readMetrics } from "./api.js";
import { Chart } from "./chart.js";
import { byId, milliseconds } from "./dom.js";

const POLL_MS = 2000, SAMPLE_MS = 250, WINDOW_TOKENS = 24;

/** Takes the times of answers, and shows them. */
export class Meter {
  #ttft = new Chart({ title: "Time to first token", kind: "bars", longest: 24, show: milliseconds });
  #rate = new Chart({ title: "Tokens per second", kind: "line", longest: 120, show: (n) => n.toFixed(1) });
  #memory = new Chart({ title: "Memory", kind: "line", longest: 120, show: megabytes });
  #arrivals = [];
  #next = 0;

  constructor() {
    byId("charts").append(this.#ttft.element, this.#rate.element, this.#memory.element);
  }

  /** The first piece of an answer came, so long after the request. */
  first(ms) {
    this.#ttft.add(ms);
    this.#arrivals = [];
    this.#next = performance.now() + 2 * SAMPLE_MS; // of the first few the rate is all chance
  }

  /** A piece of text came: a token, or now and then two. */
  piece() {
    const now = performance.now();
    this.#arrivals = [...this.#arrivals, now].slice(-WINDOW_TOKENS);
    if (now < this.#next) return;
    this.#next = now + SAMPLE_MS;
    this.#rate.add(((this.#arrivals.length - 1) / (now - this.#arrivals[0])) * 1000);
  }

  /** The answer ended, with the server's own times. */
  end(timings) {
    if (timings?.decode_tokens_per_s) this.#rate.add(timings.decode_tokens_per_s);
  }

  /** Ask for metrics now and then while the page is seen; `onState` hears how the server is. */
  watch(onState) {
    const poll = async () => {
      if (!document.hidden) onState(await this.#poll());
      setTimeout(poll, POLL_MS);
    };
    poll();
  }

  async #poll() {
    try {
      const found = await readMetrics();
      const memory = found.edgekit_worker_resident_bytes;
      if (memory !== undefined) this.#memory.add(memory);
      const { edgekit_requests_running: n, edgekit_requests_waiting: waiting } = found;
      byId("queue").textContent = `On the server now: ${n} answered, ${waiting} waiting.`;
      return found.edgekit_worker_up ? "" : "The worker is starting.";
    } catch (error) {
      return error.status === 401 ? "" : "The server does not answer.";
    }
  }
}

function megabytes(bytes) {
  return `${Math.round(bytes / 1e6)} MB`;
}
