// The controls of sampling: a sentence each, and presets.
import { make } from "./dom.js";

const CONTROLS = [
  { name: "max_tokens", label: "Length", min: 1, max: 1024, step: 1, about: "The most tokens to write. A word has one or two." },
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05,
    about: "0 always takes the likeliest token. Higher values take more risks." },
  { name: "top_p", label: "Top p", min: 0.05, max: 1, step: 0.01,
    about: "Draws from the likeliest tokens that make up this share of the probability." },
  { name: "top_k", label: "Top k", min: 0, max: 200, step: 1, about: "Draws from this number of the likeliest tokens. 0 is all." },
  { name: "min_p", label: "Min p", min: 0, max: 0.5, step: 0.01,
    about: "Drops tokens with less than this fraction of the likeliest one's probability." },
  { name: "repetition_penalty", label: "Repetition penalty", min: 1, max: 2, step: 0.05,
    about: "Above 1, words that occurred already become less likely." },
];
const SEED = { name: "seed", label: "Seed", about: "The same number gives the same text again. Leave it empty for another one each time." };
const OPEN = { temperature: 1, top_p: 1, top_k: 0, min_p: 0, repetition_penalty: 1 };
const PRESETS = {
  Precise: { ...OPEN, temperature: 0, repetition_penalty: 1.1 },
  Balanced: { ...OPEN, temperature: 0.8, top_p: 0.95 },
  Creative: { ...OPEN, temperature: 1.1, min_p: 0.02 },
  "As learned": OPEN,
};

/** Controls in an element. Ids begin with a prefix. A hidden seed is one that the caller gives. */
export class Settings {
  constructor(parent, prefix, { preset = "Balanced", seed = true } = {}) {
    this.inputs = {};
    this.preset = make("select", { id: `${prefix}-preset`, onchange: () => this.apply(this.preset.value) },
      ...Object.keys(PRESETS).map((name) => make("option", {}, name)), make("option", { disabled: true, value: "" }, "Your own"));
    parent.append(make("label", { className: "row" }, "Preset", this.preset),
      ...CONTROLS.map((control) => this.makeSlider(prefix, control)), ...(seed ? [this.makeSeed(prefix)] : []));
    this.set("max_tokens", 60);
    this.preset.value = preset;
    this.apply(preset);
  }

  makeSlider(prefix, control) {
    const { name, label, about, min, max, step } = control;
    const id = `${prefix}-${name}`;
    const shown = { min, max, step };
    const fine = Number.isInteger(step) ? step : 0.01;
    const number = make("input", { id, type: "number", ...shown, step: fine, "aria-describedby": `${id}-about` });
    const slider = make("input", { type: "range", ...shown, tabIndex: -1, "aria-hidden": "true" });
    const change = (from, to) => () => {
      to.value = from.value;
      if (name !== "max_tokens") this.preset.value = "";
    };
    number.addEventListener("input", change(number, slider));
    slider.addEventListener("input", change(slider, number));
    this.inputs[name] = { number, slider };
    return make("div", { className: "control" }, make("label", { htmlFor: id }, label),
      make("div", { className: "row" }, slider, number), make("p", { className: "hint", id: `${id}-about` }, about));
  }

  makeSeed(prefix) {
    const id = `${prefix}-seed`;
    const number = make("input", { id, type: "number", min: 0, step: 1, "aria-describedby": `${id}-about` });
    this.seed = number;
    return make("div", { className: "control" }, make("div", { className: "row" }, make("label", { htmlFor: id }, SEED.label), number),
      make("p", { className: "hint", id: `${id}-about` }, SEED.about));
  }

  apply(preset) {
    for (const [name, value] of Object.entries(PRESETS[preset])) this.set(name, value);
  }

  set(name, value) {
    for (const input of Object.values(this.inputs[name])) input.value = value;
  }

  /** The fields of a request that differ from the API's own defaults, and the length. Throws if a number is unusable. */
  read() {
    const fields = {};
    for (const { name, label } of CONTROLS) {
      const input = this.inputs[name].number;
      if (input.value === "" || !input.checkValidity()) {
        input.focus();
        throw new Error(`${label}: use a number from ${input.min} to ${input.max}, in steps of ${input.step}`);
      }
      const value = Number(input.value);
      if (value !== OPEN[name]) fields[name] = value;
    }
    if (this.seed?.value) fields.seed = Number(this.seed.value);
    return fields;
  }
}
