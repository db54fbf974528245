// Write: a text that the model continues, and whose tokens can be replaced by others.
import { Alternatives } from "./alternatives.js";
import { stream, tokenize } from "./api.js";
import { get, make } from "./dom.js";
import { EMPTY, append, branch, edit, readTokens, tokenAt } from "./draft.js";
import { History } from "./history.js";
import { Runs, describeSpeed } from "./runs.js";

const CONSIDERED = 5; // alternatives to each token

export class Write {
  /** model(): the name of the chosen one. settings: of sampling. */
  constructor(model, settings) {
    this.model = model;
    this.settings = settings;
    this.area = get("text");
    this.mirror = document.querySelector(".mirror");
    this.history = new History(edit(EMPTY, this.area.value)); // what was typed while the page loaded;
    this.runs = new Runs(get("continue"), get("stop"), get("write-status"));
    this.alternatives = new Alternatives((token, name) => this.take(token, name), () => this.area.focus());
    this.elements = new Map();
    this.listen();
    this.show();
  }

  get draft() {
    return this.history.value;
  }

  /** The request that continues the text, or the end of it if the model's context does not hold more. */
  async request(signal) {
    const body = { model: this.model(), prompt: this.draft.text, ...this.settings.read() };
    const { tokens, max_model_len: context } = await tokenize(body.model, body.prompt, signal);
    const kept = Math.max(context - body.max_tokens, Math.ceil(context / 2));
    if (tokens.length > kept) body.prompt = tokens.slice(-kept);
    return { path: "v1/completions", body };
  }

  listen() {
    get("continue").addEventListener("click", () => this.continue());
    get("undo").addEventListener("click", () => this.travel("undo"));
    get("redo").addEventListener("click", () => this.travel("redo"));
    get("show-alternatives").addEventListener("click", () => this.openAtCursor());
    this.area.addEventListener("input", () => {
      this.history.type(edit(this.draft, this.area.value));
      this.alternatives.hide();
      this.show();
    });
    this.area.addEventListener("keydown", (event) => this.press(event));
    this.area.addEventListener("pointermove", (event) => this.point(event));
    this.area.addEventListener("click", (event) => this.point(event));
    this.area.addEventListener("pointerleave", () => this.alternatives.hideSoon());
    get("write").addEventListener("keydown", (event) => event.key === "Escape" && this.runs.end());
  }

  press(event) {
    const command = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    if (command && key === "enter") this.continue();
    else if (command && key === "z") this.travel(event.shiftKey ? "redo" : "undo");
    else if (command && key === "y") this.travel("redo");
    else if (event.altKey && key === "arrowdown") this.openAtCursor();
    else return;
    event.preventDefault();
  }

  point(event) {
    if (this.runs.isRunning) return;
    const element = document.elementsFromPoint(event.clientX, event.clientY).find((one) => this.elements.has(one));
    if (element) this.alternatives.open(this.elements.get(element), element);
    else this.alternatives.hideSoon();
  }

  openAtCursor() {
    const token = tokenAt(this.draft, this.area.selectionStart);
    const element = [...this.elements].find(([, other]) => other === token)?.[0];
    if (element && !this.runs.isRunning) this.alternatives.open(token, element, true);
  }

  travel(direction) {
    if (this.runs.isRunning) return this.runs.end();
    this.history[direction]();
    this.alternatives.hide();
    this.show();
  }

  take(token, name) {
    if (this.runs.isRunning) return;
    this.history.push(branch(this.draft, token, name));
    this.show();
    this.continue(false);
  }

  /** Continues the text, as a step of its own to undo. */
  continue(isStep = true) {
    this.alternatives.hide();
    return this.runs.run("Writing…", async (signal) => {
      const before = this.draft;
      const scored = [];
      let written = "";
      let seen = "";
      this.area.readOnly = true;
      get("written").textContent = "";
      if (isStep) this.history.push(before);
      const began = performance.now();
      try {
        const { path, body } = await this.request(signal);
        if (Array.isArray(body.prompt)) seen = ` The model saw the last ${body.prompt.length} tokens of the text.`;
        for await (const { choices } of stream(path, { ...body, logprobs: CONSIDERED }, signal)) {
          written += choices[0].text;
          scored.push(...readTokens(choices[0].logprobs));
          this.history.replace(append(before, written, scored));
          this.showSoon();
        }
      } finally {
        this.area.readOnly = false;
        if (isStep && !written) this.history.undo();
        this.show();
        get("written").textContent = written;
      }
      return (written ? describeSpeed(scored.length, began) : "The model ends the text here.") + seen;
    });
  }

  showSoon() {
    this.frame ??= requestAnimationFrame(() => this.show());
  }

  /** Shows the draft: as text in the field, and as tinted tokens behind it. */
  show() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    const { text, tokens } = this.draft;
    const bottom = () => this.mirror.getBoundingClientRect().bottom;
    const follows = this.runs.isRunning && bottom() <= innerHeight; // unless somebody reads further up
    if (this.area.value !== text) {
      this.area.value = text;
      this.area.setSelectionRange(text.length, text.length);
    }
    const parts = [];
    this.elements = new Map();
    let shown = 0;
    for (const token of tokens) {
      const element = make("span", { className: `token ${tint(token.logprob)}` }, text.slice(token.start, token.end));
      parts.push(text.slice(shown, token.start), element);
      this.elements.set(element, token);
      shown = token.end;
    }
    this.mirror.replaceChildren(...parts, `${text.slice(shown)}\u200b`); // so that a last empty line has its height
    if (follows && bottom() > innerHeight) get("write-status").scrollIntoView({ block: "nearest" });
    get("undo").disabled = !this.history.past.length;
    get("redo").disabled = !this.history.future.length;
    get("show-alternatives").disabled = !tokens.length;
  }
}

/** The class of a token by its probability. */
function tint(logprob) {
  const probability = Math.exp(logprob);
  return probability > 0.5 ? "sure" : probability > 0.1 ? "likely" : probability > 0.02 ? "unlikely" : "rare";
}
