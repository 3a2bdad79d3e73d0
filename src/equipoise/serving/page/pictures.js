// Pictures of a scored table.

import { add, percent, plural, short, tick, whole } from "./nodes.js";

export function picture(parent, { task, values, counts }) {
  const figure = add(parent, "figure", { class: "card" });
  add(figure, "h3", {}, task.name);
  const total = values.length || [...counts.values()].reduce((sum, count) => sum + count, 0);
  if (!total) { add(figure, "figcaption", {}, "No row has a value."); return; }
  const [data, caption, draw] = task.labels ? ofClasses(task, counts) : ofScores(task, values);
  const frame = add(figure, "svg", { role: "img", "aria-label": `${task.name}: ${caption}` });
  add(figure, "figcaption", {}, caption);
  const table = add(add(add(figure, "details"), "summary", {}, "As a table").parentNode, "table");
  for (const [name, count] of data) {
    const row = add(table, "tr");
    add(row, "th", { scope: "row" }, name);
    add(row, "td", { class: "number" }, whole(count));
  }
  let width = 0; // the width it is drawn for: text keeps its size on every screen
  new ResizeObserver(() => {
    if (width === frame.clientWidth || !frame.clientWidth) return;
    width = frame.clientWidth;
    frame.replaceChildren();
    frame.setAttribute("height", draw(frame, width));
  }).observe(frame);
}

function ofScores({ range }, values) {
  const sorted = Float64Array.from(values).sort();
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  let [low, high] = range ?? [sorted[0], sorted.at(-1)];
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const counts = new Array(20).fill(0);
  for (const value of values) counts[Math.min(19, Math.max(0, Math.floor(20 * (value - low) / (high - low))))] += 1;
  const edge = (at) => short(low + (at * (high - low)) / 20);
  const caption = `${plural(values.length, "row")}, from ${short(sorted[0])} to ${short(sorted.at(-1))}, mean ${short(mean)}, `
    + `half of them below ${short(sorted[Math.floor(sorted.length / 2)])}`;
  return [counts.map((count, at) => [`${edge(at)} to ${edge(at + 1)}`, count]), caption, (frame, width) => {
    const most = Math.max(...counts), left = 8 + 7 * whole(most).length, step = (width - left - 12) / 20, floor = 170;
    for (const part of [1, 0.5]) {
      add(frame, "line", { x1: left, x2: width - 12, y1: floor - 140 * part, y2: floor - 140 * part, class: "grid" });
      if (part === 1) add(frame, "text", { x: left - 6, y: floor - 136, "text-anchor": "end" }, whole(most));
    }
    counts.forEach((count, at) => {
      const tall = Math.max(count ? 2 : 0, (140 * count) / most), middle = low + ((at + 0.5) * (high - low)) / 20;
      const bar = add(frame, "rect", { x: left + at * step + 1, y: floor - tall, width: Math.max(1, step - 2), height: tall, rx: 2,
        class: low < 0 && high > 0 ? (middle < 0 ? "down" : "up") : "plain" });
      add(bar, "title", {}, `${edge(at)} to ${edge(at + 1)}: ${plural(count, "row")}`);
    });
    const x = (value) => left + 20 * step * ((value - low) / (high - low));
    add(frame, "line", { x1: left, x2: width - 12, y1: floor + 0.5, y2: floor + 0.5, class: "axis" });
    add(frame, "line", { x1: x(mean), x2: x(mean), y1: 22, y2: floor, class: "mean" });
    add(frame, "text", { x: Math.min(width - 50, Math.max(left + 34, x(mean))), y: 14, "text-anchor": "middle", class: "strong" }, `mean ${short(mean)}`);
    [[low, "start"], [low < 0 && high > 0 ? 0 : (low + high) / 2, "middle"], [high, "end"]].forEach(([value, anchor]) => {
      add(frame, "text", { x: x(value), y: floor + 18, "text-anchor": anchor }, tick(value));
    });
    return 194;
  }];
}

function ofClasses({ kind }, counts) {
  const data = kind === "ordinal" ? [...counts] : [...counts].sort(([, a], [, b]) => b - a);
  const total = data.reduce((sum, [, count]) => sum + count, 0), most = Math.max(...counts.values());
  const seen = data.slice(0, 12), rest = data.length - seen.length;
  const top = data.reduce((best, one) => (one[1] > best[1] ? one : best));
  const caption = kind === "multilabel" ? `most often ${top[0]}, in ${plural(top[1], "row")}${rest > 0 ? `; ${rest} more classes in the table` : ""}`
    : `${plural(total, "row")}, most often ${top[0]} (${percent(top[1] / total)})${rest > 0 ? `; ${rest} more classes in the table` : ""}`;
  return [data, caption, (frame, width) => {
    const left = Math.min(0.42 * width, 18 + 7.8 * Math.max(...seen.map(([name]) => name.length))), room = width - left - 60;
    const fits = Math.max(4, Math.floor(left / 7.8) - 1);
    seen.forEach(([name, count], at) => {
      const y = 30 * at + 8;
      const label = add(frame, "text", { x: left - 10, y: y + 14, "text-anchor": "end" }, name.length > fits ? `${name.slice(0, fits - 1)}…` : name);
      add(label, "title", {}, name);
      add(frame, "rect", { x: left, y, width: room, height: 20, rx: 4, class: "rail" });
      if (count) add(frame, "rect", { x: left, y, width: Math.max(3, (room * count) / most), height: 20, rx: 4, class: "plain" });
      add(frame, "text", { x: left + room + 8, y: y + 14, class: "strong" }, whole(count));
    });
    return 30 * seen.length + 10;
  }];
}
