// Small helpers for the document. Text only ever gets in as text, never as markup.

export const byId = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function say(id, text) {
  // Unchanged text is left alone, so that screen readers do not repeat it.
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

export const decimal = (value) => (value == null ? "–" : value.toFixed(3).replace("-", "−"));
export const percent = (value) => (value == null ? "–" : `${(100 * value).toFixed(1)} %`);
