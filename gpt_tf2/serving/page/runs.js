// One run at a time of a part of the page: its buttons, its status line, and how it ends.
import { say } from "./dom.js";

export class Runs {
  /** start, stop: buttons. line: the status line. */
  constructor(start, stop, line) {
    this.start = start;
    this.stop = stop;
    this.line = line;
    this.aborter = null;
    stop.addEventListener("click", () => this.end());
  }

  get isRunning() {
    return this.aborter !== null;
  }

  end() {
    this.aborter?.abort();
  }

  /** Awaits work(signal), which returns what to say when it is done. */
  async run(doing, work) {
    if (this.isRunning) return;
    this.aborter = new AbortController();
    const { signal } = this.aborter;
    this.start.disabled = true;
    this.stop.disabled = false;
    say(this.line, doing);
    try {
      const done = await work(signal);
      say(this.line, signal.aborted ? "Stopped." : done);
    } catch (error) {
      if (signal.aborted) say(this.line, "Stopped.");
      else say(this.line, error.message, true);
    } finally {
      const hadFocus = document.activeElement === this.stop;
      this.aborter = null;
      this.start.disabled = false;
      this.stop.disabled = true;
      if (hadFocus) this.start.focus();
    }
  }
}

/** "24 tokens, 30 tokens/s" of a run that began at a time. */
export function describeSpeed(tokens, began) {
  const rate = tokens / Math.max((performance.now() - began) / 1000, 0.001);
  return `${tokens} ${tokens === 1 ? "token" : "tokens"}, ${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s.`;
}
