// A run: what its history says, line by line.

const RECENT = 50; // steps that the time left is reckoned from

export class Run {
  /** color: the number of its color. */
  constructor(name, color) {
    this.name = name;
    this.color = color;
    this.isHidden = false;
    this.position = "";
    this.forget();
  }

  forget() {
    this.series = {}; // by name: { steps, times, values }. Times are seconds of training.
    this.samples = []; // { step, text }
    this.settings = {};
    this.steps = 0; // of the whole run
    this.step = 0;
    this.time = 0;
    this.end = null;
    this.clock = null; // of the last line, in seconds since 1970
  }

  /** Takes the server's answer. Returns whether anything has changed. */
  take({ running, replaces, position, lines }) {
    const changed = running !== this.isRunning || lines !== "" || (replaces && this.position !== position);
    if (replaces) this.forget();
    this.isRunning = running;
    this.position = position;
    for (const line of lines.split("\n")) {
      try {
        this.add(JSON.parse(line));
      } catch {
        // damaged, or the empty one at the end
      }
    }
    return changed;
  }

  add({ run, steps, settings, end, step, time, sample, ...figures }) {
    if (!Number.isFinite(step) || !Number.isFinite(time)) return;
    if (run === undefined && this.clock !== null) this.time += Math.max(time - this.clock, 0); // not while it was stopped
    this.clock = time;
    this.step = Math.max(this.step, step);
    if (run !== undefined) [this.steps, this.settings, this.end] = [Number(steps) || 0, settings ?? {}, null];
    if (end !== undefined) this.end = end;
    if (typeof sample === "string") this.samples.push({ step, text: sample });
    for (const [name, value] of Object.entries(figures)) {
      if (!Number.isFinite(value)) continue;
      const series = (this.series[name] ??= { steps: [], times: [], values: [] });
      series.steps.push(step);
      series.times.push(this.time);
      series.values.push(value);
    }
  }

  get state() {
    if (this.isRunning && this.end !== null) return "starting"; // a new run, which has written nothing yet
    if (this.end === "failed") return "failed";
    if (this.end !== null) return this.step < this.steps ? "stopped" : "finished";
    if (!this.isRunning) return this.clock === null ? "no history" : "killed";
    return this.step ? "running" : "starting";
  }

  /** The last value of a series, or null. */
  last(name) {
    return this.series[name]?.values.at(-1) ?? null;
  }

  /** The lowest value of a series after a step of training, with its step, or null. */
  lowest(name) {
    const { steps, values } = this.series[name] ?? { steps: [], values: [] };
    let best = null;
    values.forEach((value, index) => {
      if (steps[index] && (best === null || value < best.value)) best = { step: steps[index], value };
    });
    return best;
  }

  /** Seconds until it is done, or null. */
  get timeLeft() {
    const { steps, times } = this.series["loss/training"] ?? { steps: [], times: [] };
    const first = Math.max(steps.length - 1 - RECENT, 0);
    const done = steps.at(-1) - steps[first];
    return this.state === "running" && done ? ((times.at(-1) - times[first]) / done) * (this.steps - steps.at(-1)) : null;
  }
}
