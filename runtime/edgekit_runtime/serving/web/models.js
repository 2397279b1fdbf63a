// What is served: the base and its adapters, in the three pickers.

import { listModels } from "./api.js";
import { byId, element } from "./dom.js";

const PICKERS = ["adapter", "left", "right"];
let served = new Map();

/** Ask what is served and fill the pickers; what was chosen stays chosen. */
export async function refreshModels() {
  const found = await listModels();
  const isFirst = served.size === 0;
  if (String(found.map(({ id }) => id)) === String([...served.keys()])) return;
  served = new Map(found.map((model) => [model.id, model]));
  for (const id of PICKERS) fill(byId(id), found);
  if (isFirst && found.length > 1) byId("right").selectedIndex = 1;
  const [base] = found;
  byId("bundle").textContent = base.id;
  document.title = `${base.id} · edgekit`;
}

function fill(picker, found) {
  const chosen = picker.value;
  const options = found.map((model) => element("option", { value: model.id }, title(model)));
  picker.replaceChildren(...options);
  if (served.has(chosen)) picker.value = chosen;
}

function title(model) {
  if (model.routes_to) return `${model.root} (picks one)`;
  return model.parent === null ? `${model.id} (no adapter)` : model.root;
}

/** What a person calls a model: the adapter's name, or the bundle's with a remark. */
export function nameOf(id) {
  return served.has(id) ? title(served.get(id)) : id;
}

/** Whether the server picks the adapter for each message. */
export function isAuto(id) {
  return served.get(id)?.routes_to !== undefined;
}

/** Whether it reads only what the user said last. */
export function isSingleTurn(id) {
  return served.get(id)?.single_turn ?? false;
}
