// Starts the page: asks every second what the runs have written, and shows it.
import { send } from "./api.js";
import { Chart } from "./chart.js";
import { get, make, say } from "./dom.js";
import { clock, short, smooth } from "./numbers.js";
import { place } from "./place.js";
import { Run } from "./run.js";
import { showSamples } from "./samples.js";
import { listDifferences, makeTable } from "./table.js";

const INTERVAL = 1000; // milliseconds between two requests
const COLORS = 8;
const RECENT = 20; // steps whose mean loss is told
const fixed = (digits) => (value) => value.toFixed(digits);
const METRICS = {
  loss: { title: "Loss, nats per token", format: fixed(3), isTall: true },
  tokens_per_second: { title: "Tokens/s", format: (value) => short(Math.round(value), 9), fromZero: true },
  learning_rate: { title: "Learning rate", format: (value) => short(value, 3), fromZero: true },
  peak_memory_gb: { title: "Peak memory, GB", format: fixed(2), fromZero: true },
};
const runs = new Map(); // by name
const chips = new Map(); // by run: its button in the legend
const charts = new Map(); // by metric

/** Asks for what is new. Returns whether anything is, and whether there is more to fetch. */
async function fetchNew() {
  const known = new URLSearchParams([...runs.values()].map(({ name, position }) => [name, position]));
  const answer = (await (await send(`runs?${known}`)).json()).runs;
  let changed = false;
  for (const name of runs.keys()) {
    if (answer.some((run) => run.name === name)) continue;
    chips.get(runs.get(name))?.remove();
    runs.delete(name);
    changed = true;
  }
  for (const told of answer) {
    if (!runs.has(told.name)) runs.set(told.name, new Run(told.name, nextColor()));
    changed = runs.get(told.name).take(told) || changed;
  }
  return { changed, hasMore: answer.some(({ complete }) => !complete) };
}

/** The number of the color that the fewest runs have. */
function nextColor() {
  const counts = Array(COLORS).fill(0);
  for (const { color } of runs.values()) counts[color] += 1;
  return counts.indexOf(Math.min(...counts));
}

function show() {
  const all = [...runs.values()];
  const visible = all.filter(({ isHidden }) => !isHidden);
  get("empty").hidden = all.length > 0;
  get("view").hidden = all.length === 0;
  showLegend(all);
  showCharts(visible);
  get("last").querySelector(".table").replaceChildren(makeTable(COLUMNS, all));
  const names = all.length > 1 ? listDifferences(all) : [];
  get("settings").hidden = !names.length;
  const columns = names.map((name) => [name, ({ settings }) => String(settings[name] ?? "")]);
  get("settings").querySelector(".table").replaceChildren(makeTable([COLUMNS[0], ...columns], all));
  showSamples(visible);
  say(get("status"), describe(all));
}

function describe(all) {
  const running = all.filter(({ isRunning }) => isRunning);
  const only = running.length === 1 && running[0].state === "running" ? `${Math.floor((100 * running[0].step) / running[0].steps)} % · ` : "";
  document.title = `${only}gpt-tf2 watch`;
  if (all.length < 2) return all.map(({ name, state }) => `${name}: ${state}`).join();
  return `${all.length} runs, ${running.length || "none"} running`;
}

function showLegend(all) {
  for (const run of all) {
    if (!chips.has(run)) {
      const chip = make("button", {
        className: `chip run-${run.color}`,
        "aria-pressed": "true",
        onclick: () => {
          run.isHidden = !run.isHidden;
          chip.setAttribute("aria-pressed", String(!run.isHidden));
          show();
        },
      }, make("i", { className: `swatch run-${run.color}` }), run.name, make("span"));
      chips.set(run, chip);
      get("legend").append(chip);
    }
    const state = chips.get(run).lastChild;
    if (state.textContent !== run.state) state.textContent = run.state;
    chips.get(run).dataset.state = run.state;
  }
}

function showCharts(visible) {
  const axis = get("axis").querySelector(":checked").value;
  const share = Number(get("smoothing").value);
  const metrics = new Set(visible.flatMap(({ series }) => Object.keys(series).map((name) => name.split("/")[0])));
  const order = Object.keys(METRICS);
  const rank = (metric) => (order.includes(metric) ? order.indexOf(metric) || -1 : 0); // the loss, then what is not known
  const ranked = [...metrics].sort((one, other) => rank(one) - rank(other));
  for (const metric of ranked) {
    if (!charts.has(metric)) {
      const title = metric[0].toUpperCase() + metric.slice(1).replaceAll("_", " ");
      charts.set(metric, new Chart(METRICS[metric] ?? { title, format: fixed(3) }));
    }
  }
  place(get("charts"), ranked.map((metric) => charts.get(metric).element));
  for (const [metric, chart] of charts) {
    const lines = visible.flatMap((run) => Object.entries(run.series).sort().flatMap(([name, { values, ...xs }]) => {
      const [of, kind = ""] = name.split("/");
      if (of !== metric) return [];
      const means = kind === "training" ? smooth(values, Math.round(share * values.length)) : values;
      return [{ name: run.name, color: run.color, kind, xs: xs[axis], ys: means, raw: means === values ? null : values }];
    }));
    chart.show(lines, axis === "times");
  }
}

/** The mean of the last training losses. */
function recentLoss(run) {
  const losses = run.series["loss/training"]?.values.slice(-RECENT) ?? [];
  return losses.length ? losses.reduce((sum, loss) => sum + loss, 0) / losses.length : null;
}

const write = (metric, value) => (value === null ? "" : METRICS[metric].format(value));
const COLUMNS = [
  ["Run", (run) => make("span", {}, make("i", { className: `swatch run-${run.color}` }), run.name)],
  ["State", (run) => run.state],
  ["Step", (run) => (run.steps ? `${short(run.step, 9)} / ${short(run.steps, 9)}` : "")],
  ["Left", (run) => (run.timeLeft === null ? "" : clock(run.timeLeft))],
  [`Loss, ${RECENT} steps`, (run) => write("loss", recentLoss(run))],
  ["Validation", (run) => write("loss", run.last("loss/validation"))],
  ["Best validation", (run) => {
    const best = run.lowest("loss/validation");
    return best ? `${METRICS.loss.format(best.value)}, step ${short(best.step, 9)}` : "";
  }],
  ["Learning rate", (run) => write("learning_rate", run.last("learning_rate"))],
  ["Tokens/s", (run) => write("tokens_per_second", run.last("tokens_per_second"))],
  ["Peak memory", (run) => (run.last("peak_memory_gb") === null ? "" : `${write("peak_memory_gb", run.last("peak_memory_gb"))} GB`)],
  ["Time", (run) => (run.clock === null ? "" : clock(run.time))],
];

async function watch() {
  for (;;) {
    let wait = INTERVAL;
    try {
      const { changed, hasMore } = await fetchNew();
      if (hasMore) wait = 0;
      if (changed || !document.body.dataset.ready || get("status").classList.contains("error")) show();
      document.body.dataset.ready = "";
    } catch (error) {
      say(get("status"), error.message, true);
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

for (const id of ["axis", "smoothing"]) get(id).addEventListener("change", show);
watch();
