// Compare: two models or two settings side by side, on one prompt with one seed.
import { stream } from "./api.js";
import { get, make } from "./dom.js";
import { Runs, describeSpeed } from "./runs.js";
import { Settings } from "./settings.js";

export class Compare {
  constructor(models) {
    this.sides = [
      new Side(get("left"), "left", models, models[0].id, "Precise"),
      new Side(get("right"), "right", models, (models[1] ?? models[0]).id, models[1] ? "Precise" : "Creative"),
    ];
    this.runs = new Runs(get("run"), get("compare-stop"), get("compare-status"));
    get("run").addEventListener("click", () => this.run());
    get("compare").addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.runs.end();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.run();
    });
  }

  run() {
    return this.runs.run("Writing…", async (signal) => {
      const seed = get("compare-seed");
      if (seed.value === "" || !seed.checkValidity()) throw new Error("Seed: use a whole number, 0 or more");
      const shared = { prompt: get("prompt").value, seed: Number(seed.value) };
      const requests = this.sides.map((side) => ({ ...side.read(), ...shared })); // first: they may be unusable
      await Promise.all(this.sides.map((side, index) => side.write(requests[index], signal)));
      return "Done.";
    });
  }
}

class Side {
  constructor(parent, name, models, model, preset) {
    const options = models.map(({ id }) => make("option", {}, id));
    this.model = make("select", { id: `${name}-model` }, ...options);
    this.model.value = model;
    this.text = make("div", { className: "output", id: `${name}-text`, "aria-live": "polite" });
    this.figures = make("p", { className: "status" });
    const controls = make("div");
    this.settings = new Settings(controls, name, { preset, seed: false });
    this.preset = this.settings.preset;
    parent.append(make("label", { className: "row" }, "Model", this.model), this.preset.parentElement,
      make("details", {}, make("summary", {}, "Sampling"), controls), this.text, this.figures);
  }

  read() {
    return { model: this.model.value, ...this.settings.read() };
  }

  async write(body, signal) {
    const began = performance.now();
    let written = "";
    let tokens = 0;
    const shown = make("span", { className: "written" });
    this.text.replaceChildren(body.prompt, shown);
    this.figures.textContent = "";
    this.text.setAttribute("aria-busy", "true"); // read out once it is whole
    try {
      for await (const { choices } of stream("v1/completions", { ...body, logprobs: 0 }, signal)) {
        written += choices[0].text;
        tokens += choices[0].logprobs?.tokens.length ?? 0;
        shown.textContent = written;
      }
    } catch (error) {
      throw new Error(`${body.model}: ${error.message}`);
    } finally {
      this.text.setAttribute("aria-busy", "false");
    }
    this.figures.textContent = describeSpeed(tokens, began);
  }
}
