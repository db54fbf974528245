// A chart of lines over steps or time, as SVG. Its values can be pointed at, and read by keyboard as those of a slider.
import { make } from "./dom.js";
import { clock, lastUpTo, short, thin, tickDistance, ticks } from "./numbers.js";

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { top: 8, right: 14, bottom: 26, left: 52 };
const MOST_DOTS = 60; // on a line of validations
const EDGE = 6; // pixels around the axes in which a line or a point is still seen
const OUTLIERS = 0.005; // share of a line's values that may lie outside, above or below

/** A new element of SVG. */
function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** The path of points, each of which `place` turns into pixels. */
const path = (points, place) => points.map((point, index) => `${index ? "L" : "M"}${place(point)}`).join("");

export class Chart {
  /** title: with its unit. format(value): as text. isTall: among the others. fromZero: whether the axis begins there. */
  constructor({ title, format, isTall = false, fromZero = false }) {
    this.format = format;
    this.fromZero = fromZero;
    this.lines = [];
    this.isTime = false;
    this.x = null; // that is pointed at
    this.scale = null; // from values to pixels
    this.svg = draw("svg", { "aria-hidden": "true" });
    this.tip = make("div", { className: "tip", hidden: true });
    this.plot = make("div", { className: "plot", tabIndex: 0, role: "slider", "aria-label": title }, this.svg, this.tip);
    this.key = make("span", { className: "key" });
    this.element = make("section", { className: isTall ? "chart tall" : "chart" },
      make("h2", {}, title, this.key), this.plot);
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerdown", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.pointAt(null));
    this.plot.addEventListener("keydown", (event) => this.press(event));
    this.plot.addEventListener("blur", () => this.pointAt(null));
    new ResizeObserver(() => this.render()).observe(this.plot);
  }

  /** Shows lines: each has a `name`, a `color`, a `kind` such as "validation", `xs`, `ys`, and `raw` if ys are smoothed. */
  show(lines, isTime) {
    this.lines = lines.filter(({ xs }) => xs.length);
    this.isTime = isTime;
    const kinds = [...new Set(this.lines.map(({ kind }) => kind))].sort();
    const names = kinds.length > 1 ? kinds.map((kind) => make("span", { className: kind }, kind)) : [];
    this.key.replaceChildren(...names);
    this.render();
  }

  /** The range of the values, without a line's outliers. */
  range() {
    const bounds = this.lines.flatMap(({ xs, ys, raw }) => {
      const sorted = thin(xs, raw ?? ys, 1000).map(([, y]) => y).sort((one, other) => one - other);
      const cut = Math.floor(sorted.length * OUTLIERS);
      return [sorted[cut], sorted.at(-1 - cut)];
    });
    const [low, high] = [Math.min(...bounds), Math.max(...bounds)];
    return this.fromZero ? [Math.min(0, low), high] : [low, high];
  }

  /** Draws it all again, in the size that it has now. */
  render() {
    const [width, height] = [this.plot.clientWidth, this.plot.clientHeight];
    this.svg.replaceChildren();
    this.scale = null;
    if (!width || !this.lines.length) return this.pointAt(null);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
    let [low, high] = this.range();
    if (high - low < 1e-9 * Math.max(Math.abs(high), 1e-6)) [low, high] = this.fromZero ? [0, high || 1] : [low - 0.5, high + 0.5];
    const distance = tickDistance(high - low, inner.height / 45);
    [low, high] = [Math.floor(low / distance + 1e-6) * distance, Math.ceil(high / distance - 1e-6) * distance];
    const last = Math.max(...this.lines.map(({ xs }) => xs.at(-1)), this.isTime ? 1e-3 : 1);
    this.scale = { last, ...inner, x: (x) => (x / last) * inner.width, y: (y) => ((high - y) / (high - low)) * inner.height };
    const { x, y } = this.scale;
    const place = ([atX, atY]) => `${x(atX).toFixed(1)} ${y(atY).toFixed(1)}`;

    const axes = draw("g", { class: "axes", transform: `translate(${MARGIN.left} ${MARGIN.top})` });
    for (const tick of ticks(low, high, distance)) {
      axes.append(draw("line", { x2: inner.width, y1: y(tick), y2: y(tick) }),
        draw("text", { x: -8, y: y(tick) + 4, "text-anchor": "end" }, short(tick)));
    }
    const apart = Math.max(tickDistance(last, inner.width / 60, this.isTime), this.isTime ? 0 : 1);
    for (const tick of ticks(0, last, apart)) {
      axes.append(draw("text", { x: x(tick), y: inner.height + 19, "text-anchor": "middle" }, this.isTime ? clock(tick) : short(tick, 9)));
    }
    const [wide, tall] = [inner.width + 2 * EDGE, inner.height + 2 * EDGE];
    const inside = draw("svg", { x: MARGIN.left - EDGE, y: MARGIN.top - EDGE, width: wide, height: tall,
      viewBox: `${-EDGE} ${-EDGE} ${wide} ${tall}` });
    const most = inner.width * 2;
    for (const { color, raw, xs } of this.lines) {
      if (raw) inside.append(draw("path", { class: `raw run-${color}`, d: path(thin(xs, raw, most), place) }));
    }
    for (const { color, kind, xs, ys } of this.lines) {
      const points = thin(xs, ys, most);
      inside.append(draw("path", { class: `line ${kind} run-${color}`, d: path(points, place) }));
      if (points.length > (kind === "validation" ? MOST_DOTS : 1)) continue;
      inside.append(...points.map(([atX, atY]) => draw("circle", { class: `run-${color}`, cx: x(atX), cy: y(atY), r: 3 })));
    }
    this.mark = draw("g", { class: "mark", transform: `translate(${MARGIN.left} ${MARGIN.top})` });
    this.svg.append(axes, inside, this.mark);
    this.pointAt(this.x);
  }

  point(event) {
    if (!this.scale) return;
    const at = (event.clientX - this.plot.getBoundingClientRect().left - MARGIN.left) / this.scale.width;
    this.pointAt(Math.min(Math.max(at, 0), 1) * this.scale.last);
  }

  press(event) {
    if (!this.scale) return;
    const pace = (this.scale.last / 100) * (event.shiftKey ? 10 : 1);
    const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
    const { last } = this.scale;
    if (by) this.pointAt(Math.min(Math.max((this.x ?? last) + by * (this.isTime ? pace : Math.max(pace, 1)), 0), last));
    else if (event.key === "Home") this.pointAt(0);
    else if (event.key === "End") this.pointAt(last);
    else if (event.key === "Escape") this.pointAt(null);
    else return;
    event.preventDefault();
  }

  /** Marks a place on the axis with the values there, or nothing. */
  pointAt(x) {
    this.x = x === null || this.isTime ? x : Math.round(x);
    this.mark?.replaceChildren();
    this.tip.hidden = x === null || !this.scale;
    if (!this.tip.hidden) {
      const values = this.valuesAt(this.x);
      const { x: toX, y: toY, width, height } = this.scale;
      const at = toX(this.x);
      this.mark.append(draw("line", { x1: at, x2: at, y2: height }),
        ...values.map(({ line, x, y }) => draw("circle", { class: `run-${line.color}`, cx: toX(x), cy: toY(y), r: 4 })));
      this.tip.replaceChildren(make("b", {}, this.nameOf(this.x)), ...values.map(({ line, y }) => make("div", {},
        make("i", { className: `swatch run-${line.color} ${line.kind}` }),
        make("span", {}, line.kind === "validation" ? `${line.name}, validation` : line.name), make("span", {}, this.format(y)))));
      this.tip.style.left = "0"; // where it has its full width
      const left = MARGIN.left + at + (at > width / 2 ? -12 - this.tip.offsetWidth : 12);
      this.tip.style.left = `${Math.max(0, Math.min(left, this.plot.clientWidth - this.tip.offsetWidth))}px`;
    }
    this.tell();
  }

  /** The lines' values at a place: those of the last point up to it. */
  valuesAt(x) {
    return this.lines.flatMap((line) => {
      const index = lastUpTo(line.xs, x);
      return index < 0 ? [] : [{ line, x: line.xs[index], y: line.ys[index] }];
    });
  }

  nameOf(x) {
    return this.isTime ? clock(x) : `step ${short(x, 9)}`;
  }

  /** Tells screen readers what is pointed at, or else the last values. */
  tell() {
    const last = this.scale?.last ?? 0;
    const x = this.x ?? last;
    const values = this.valuesAt(x).map(({ line, y }) => `${[line.name, line.kind].filter(Boolean).join(" ")} ${this.format(y)}`);
    const text = this.lines.length ? [this.nameOf(x), ...values].join(", ") : "nothing to show";
    for (const [name, value] of [["min", 0], ["max", last], ["now", x], ["text", text]]) {
      this.plot.setAttribute(`aria-value${name}`, value);
    }
  }
}
