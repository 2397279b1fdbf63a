// Puts the page together: views, the message box, the key, the theme.

import { key, ServerError } from "./api.js";
import { Chat } from "./chat.js";
import { Compare } from "./compare.js";
import { byId } from "./dom.js";
import { Meter } from "./live.js";
import { refreshModels } from "./models.js";

const meter = new Meter();
const views = { chat: new Chat(meter), compare: new Compare(meter) };
let shown = "chat";
let running = null;

function show(name) {
  shown = name;
  for (const view of Object.keys(views)) {
    byId(view).hidden = view !== name;
    byId(`show-${view}`).setAttribute("aria-pressed", String(view === name));
  }
}

async function send() {
  const box = byId("prompt");
  const text = box.value.trim();
  if (!text || running !== null) return;
  const abort = new AbortController();
  const answering = views[shown].send(text, abort.signal);
  if (answering === false) return;
  running = abort;
  box.value = "";
  swapButtons("send", "stop");
  try {
    await answering;
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    if (box.value === "") box.value = text; // to be sent again
    if (error.status === 401) askKey(error.message);
  } finally {
    running = null;
    abort.abort();
    swapButtons("stop", "send");
  }
}

/** Show one button in the place of the other, and let it have the focus if that one had it. */
function swapButtons(from, to) {
  const hasFocus = document.activeElement === byId(from);
  byId(to).hidden = false;
  if (hasFocus) byId(to).focus();
  byId(from).hidden = true;
}

function stop() {
  running?.abort();
}

/** How the server is; screen readers say it again whenever it is set. */
function say(state) {
  if (byId("server").textContent !== state) byId("server").textContent = state;
}

async function start() {
  try {
    await refreshModels();
    views.chat.showNote();
    say("");
  } catch (error) {
    if (error.status === 401) askKey(key.get() ? error.message : "");
    else say(error.message);
  }
}

function askKey(message) {
  byId("show-key").hidden = false;
  byId("key-error").textContent = message;
  byId("key").value = "";
  if (!byId("key-dialog").open) byId("key-dialog").showModal();
}

function bindKey() {
  byId("show-key").hidden = !key.get();
  byId("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    key.set(byId("key").value);
    byId("key-dialog").close();
    await start();
    byId("prompt").focus();
  });
  byId("show-key").addEventListener("click", () => askKey(""));
  byId("forget-key").addEventListener("click", () => {
    key.forget();
    location.reload();
  });
}

function bindTheme() {
  const root = document.documentElement, picker = byId("theme");
  picker.value = root.dataset.theme ?? "";
  picker.addEventListener("change", () => {
    if (picker.value) {
      root.dataset.theme = picker.value;
      localStorage.setItem("edgekit-theme", picker.value);
    } else {
      delete root.dataset.theme;
      localStorage.removeItem("edgekit-theme");
    }
  });
}

function bindComposer() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  byId("options").addEventListener("submit", (event) => event.preventDefault());
  byId("stop").addEventListener("click", stop);
  document.addEventListener("keydown", (event) => event.key === "Escape" && stop());
}

for (const view of Object.keys(views)) {
  byId(`show-${view}`).addEventListener("click", () => show(view));
}
byId("new-chat").addEventListener("click", () => {
  stop();
  views[shown].clear();
  byId("prompt").focus();
});
byId("base-url").textContent = `${location.origin}/v1`;
bindKey();
bindTheme();
bindComposer();
// Adapters may be loaded and unloaded while the page is open.
window.addEventListener("focus", () => byId("key-dialog").open || start());
start();
meter.watch(say);
