// The small window with what else the model considered for a token.
import { get, make } from "./dom.js";
import { isText } from "./draft.js";

const DELAY = 300; // milliseconds in which the pointer may come from the token to the window

/** A token's name with its white space made visible. */
const show = (name) => name.replace(/ /g, "␣").replace(/\n/g, "↵").replace(/\t/g, "⇥");
const percent = (logprob) => {
  const share = 100 * Math.exp(logprob);
  return share < 0.1 ? "< 0.1 %" : `${share.toFixed(share < 10 ? 1 : 0)} %`;
};

export class Alternatives {
  /** choose(token, name) is called with the alternative that somebody takes. leave() gets the focus back. */
  constructor(choose, leave) {
    this.choose = choose;
    this.leave = leave;
    this.box = get("alternatives");
    this.element = null;
    this.box.addEventListener("pointerenter", () => clearTimeout(this.timer));
    this.box.addEventListener("pointerleave", () => this.hideSoon());
    this.box.addEventListener("keydown", (event) => this.move(event));
  }

  /** Shows a token's alternatives under its element. */
  open(token, element, focus = false) {
    clearTimeout(this.timer);
    if (this.element !== element || this.box.hidden) this.fill(token);
    this.element?.classList.remove("active");
    this.element = element;
    element.classList.add("active");
    this.box.hidden = false;
    this.place(element);
    if (focus) this.box.querySelector("button:not(:disabled)")?.focus();
  }

  fill(token) {
    const names = Object.entries(token.top).sort((one, other) => other[1] - one[1]);
    if (!(token.name in token.top)) names.push([token.name, token.logprob]);
    this.box.replaceChildren(...names.map(([name, logprob]) => {
      const isTaken = name === token.name;
      const bar = make("meter", { min: 0, max: 1, value: Math.exp(logprob), "aria-hidden": "true" });
      return make("button", {
        "aria-label": `${name.trim() || show(name)}, ${percent(logprob)}${isTaken ? ", in the text" : ""}`,
        className: isTaken ? "taken" : "",
        disabled: !isText(name) || !isText(token.name),
        onclick: () => this.take(token, name),
      }, make("span", { className: "name" }, show(name)), bar, make("span", { className: "share" }, percent(logprob)));
    }));
  }

  take(token, name) {
    this.hide();
    this.leave();
    this.choose(token, name);
  }

  place(element) {
    const rectangles = element.getClientRects();
    const token = rectangles[rectangles.length - 1];
    const paper = this.box.offsetParent.getBoundingClientRect();
    const left = Math.min(token.left - paper.left, paper.width - this.box.offsetWidth - 8);
    this.box.style.left = `${Math.max(8, left)}px`;
    this.box.style.top = `${token.bottom - paper.top}px`;
  }

  move(event) {
    const buttons = [...this.box.querySelectorAll("button:not(:disabled)")];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      const next = buttons.indexOf(document.activeElement) + step;
      buttons[(next + buttons.length) % buttons.length].focus();
    } else if (event.key === "Escape" || event.key === "Tab") {
      this.hide();
      this.leave();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  hideSoon() {
    clearTimeout(this.timer);
    if (!this.box.contains(document.activeElement)) this.timer = setTimeout(() => this.hide(), DELAY);
  }

  hide() {
    clearTimeout(this.timer);
    this.element?.classList.remove("active");
    this.box.hidden = true;
  }
}
