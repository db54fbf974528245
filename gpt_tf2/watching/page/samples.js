// What the runs have written on the way, the newest first.
import { get, make } from "./dom.js";
import { short } from "./numbers.js";
import { place } from "./place.js";

const columns = new Map(); // by run: its element and the number of samples in it

/** Shows the samples of runs side by side. */
export function showSamples(runs) {
  for (const run of columns.keys()) if (!runs.includes(run)) columns.delete(run);
  for (const run of runs) {
    if (!columns.has(run)) columns.set(run, { element: make("section", {}, name(run)), count: 0 });
    const column = columns.get(run);
    if (column.count > run.samples.length) {
      column.element.replaceChildren(name(run));
      column.count = 0;
    }
    for (const sample of run.samples.slice(column.count)) {
      column.element.querySelector("details")?.removeAttribute("open");
      column.element.firstChild.after(make("details", { open: true },
        make("summary", {}, `step ${short(sample.step, 9)}`), make("p", {}, sample.text.trim())));
    }
    column.count = run.samples.length;
  }
  const written = runs.filter(({ samples }) => samples.length);
  place(get("samples").querySelector(".samples"), written.map((run) => columns.get(run).element));
  get("samples").hidden = !written.length;
}

const name = (run) => make("h3", {}, make("i", { className: `swatch run-${run.color}` }), run.name);
