// Numbers: axes, and how values read.

const CLOCK = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400]; // seconds

/** A round distance between the ticks of an axis, about `count` of them. */
export function tickDistance(span, count, isTime = false) {
  const least = span / count;
  if (isTime && least <= CLOCK.at(-1)) return CLOCK.find((distance) => distance >= least);
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].find((factor) => factor * power >= least * (1 - 1e-9)) * power;
}

/** The multiples of a distance from `low` to `high`. */
export function ticks(low, high, distance) {
  const first = Math.ceil(low / distance - 1e-6);
  const count = Math.floor(high / distance + 1e-6) - first + 1;
  return Array.from({ length: Math.max(count, 0) }, (_, index) => (first + index) * distance);
}

/** A number to so many digits: 5,200 or 0.03 or 2e-5. */
export function short(value, digits = 4) {
  if (value !== 0 && Math.abs(value) < 0.001) return Number(value.toPrecision(digits)).toExponential().replace("e-", "e−");
  return value.toLocaleString("en-US", { maximumSignificantDigits: digits });
}

/** Seconds as 0:07, 12:30 or 1:02:03. */
export function clock(seconds) {
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** The mean of each value and those before it, `window` in all. */
export function smooth(values, window) {
  if (window < 2) return values;
  const means = [];
  let sum = 0;
  values.forEach((value, index) => {
    sum += value - (index >= window ? values[index - window] : 0);
    means.push(sum / Math.min(index + 1, window));
  });
  return means;
}

/** The points [x, y] of a line, at most about `most`: of more, the lowest and the highest of each stretch. */
export function thin(xs, ys, most) {
  const stretch = Math.ceil((2 * xs.length) / most);
  if (stretch < 3) return xs.map((x, index) => [x, ys[index]]);
  const points = [];
  for (let start = 0; start < xs.length; start += stretch) {
    const end = Math.min(start + stretch, xs.length);
    let [low, high] = [start, start];
    for (let index = start; index < end; index++) {
      if (ys[index] < ys[low]) low = index;
      if (ys[index] > ys[high]) high = index;
    }
    for (const index of low < high ? [low, high] : [high, low]) points.push([xs[index], ys[index]]);
  }
  return points;
}

/** The index of the last of rising numbers that is not above x; -1 if all are. */
export function lastUpTo(xs, x) {
  let [low, high] = [0, xs.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= x) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
