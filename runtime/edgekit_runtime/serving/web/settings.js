// The settings of an answer, as fields of a request.

import { byId } from "./dom.js";

const NUMBERS = {
  temperature: "temperature",
  top_p: "top-p",
  max_tokens: "max-tokens",
  seed: "seed",
};

/** The fields that are filled in; null where one is wrong, which the browser then says. */
export function readOptions() {
  const given = {};
  for (const [field, id] of Object.entries(NUMBERS)) {
    const input = byId(id);
    if (!input.validity.valid) {
      byId("settings").open = true;
      input.reportValidity();
      return null;
    }
    if (input.value !== "") given[field] = input.valueAsNumber;
  }
  return given;
}

/** The system message, as a list to put before a conversation. */
export function systemMessages() {
  const content = byId("system").value.trim();
  return content ? [{ role: "system", content }] : [];
}
