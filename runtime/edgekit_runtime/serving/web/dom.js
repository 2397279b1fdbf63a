// Elements. Text goes in as text: nothing here, or anywhere in the page, makes HTML of a string.

export const byId = (id) => document.getElementById(id);

/** Make an element: element("p", {className: "note"}, "some text", another). */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export function button(label, onclick) {
  return element("button", { type: "button", onclick }, label);
}

export function milliseconds(ms) {
  return ms < 10000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** Copy text; where the browser forbids it (no HTTPS), select the element instead. */
export async function copy(text, shown, control) {
  const label = control.textContent;
  try {
    await navigator.clipboard.writeText(text);
    control.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(shown);
    control.textContent = "Selected, press Ctrl+C";
  }
  setTimeout(() => (control.textContent = label), 2000);
}

/** Whether somebody who reads the end of a scrolled element should stay at its end. */
export function isAtEnd(scrolled) {
  return scrolled.scrollHeight - scrolled.scrollTop - scrolled.clientHeight < 48;
}
