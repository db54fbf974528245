// What the runs have written on the way, the newest first.
import { get, make } from "./dom.js";
import { short } from "./numbers.js";

const columns = new Map(); // by run: its element and the number of samples in it

/** Shows the samples of runs side by side. */
export function showSamples(runs) {
  for (const [run, { element }] of columns) {
    if (!runs.includes(run)) {
      element.remove();
      columns.delete(run);
    }
  }
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
    if (column.count) get("samples").querySelector(".samples").append(column.element);
  }
  get("samples").hidden = !runs.some(({ samples }) => samples.length);
}

const name = (run) => make("h3", {}, make("i", { className: `swatch run-${run.color}` }), run.name);
