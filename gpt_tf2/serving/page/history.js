// Undo and redo: a stack of values.

const PAUSE = 800; // milliseconds, after which typing begins a new step

export class History {
  constructor(value) {
    this.value = value;
    this.past = [];
    this.future = [];
    this.typed = 0;
  }

  /** Makes a value the present one, a step of its own. */
  push(value) {
    this.past.push(this.value);
    this.future = [];
    this.value = value;
    this.typed = 0;
  }

  /** Makes a value the present one. What is typed without a pause is one step. */
  type(value) {
    const now = Date.now();
    if (now - this.typed > PAUSE) this.push(value);
    this.value = value;
    this.typed = now;
  }

  /** Makes a value the present one, within the same step. */
  replace(value) {
    this.value = value;
  }

  undo() {
    this.move(this.past, this.future);
  }

  redo() {
    this.move(this.future, this.past);
  }

  move(from, to) {
    if (!from.length) return;
    to.push(this.value);
    this.value = from.pop();
    this.typed = 0;
  }
}
