// Finding and making elements.

/** The element with an id. */
export const get = (id) => document.getElementById(id);

/** A new element. Properties are set as such, but `on…` are listeners and those with a hyphen are attributes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "for" || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Shows a message in a status line, which screen readers read out. */
export function say(line, message, isError = false) {
  line.textContent = message;
  line.classList.toggle("error", isError);
}
