// Tables of the runs. On narrow screens each row is a card, whose values are named.
import { make } from "./dom.js";

/** A table. columns: [name, value(row) as text or an element]. The first names the row. */
export function makeTable(columns, rows) {
  const shown = columns.filter(([, value], index) => !index || rows.some((row) => value(row)));
  const cells = (row) => shown.map(([name, value], index) =>
    make(index ? "td" : "th", index ? { "data-name": name } : { scope: "row" }, value(row) || "–"));
  return make("table", {},
    make("thead", {}, make("tr", {}, ...shown.map(([name]) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...cells(row)))));
}

/** The names of the settings in which runs differ, but for the output, which names them. */
export function listDifferences(runs) {
  const names = [...new Set(runs.flatMap(({ settings }) => Object.keys(settings)))];
  return names.filter((name) => !name.startsWith("output") && new Set(runs.map(({ settings }) => JSON.stringify(settings[name]))).size > 1);
}
