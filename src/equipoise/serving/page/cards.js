// A task's card: built once, then told each new value.

import { add, percent, present, short, tick } from "./nodes.js";

export const LONG = 8; // classes shown without being asked for

export function scale(parent, { name, range }) {
  const value = add(parent, "p", { class: "score" });
  if (!range) return (score) => { value.textContent = short(score); };
  const [low, high] = range;
  const place = (score) => `${Math.min(100, Math.max(0, 100 * (score - low) / (high - low)))}%`;
  const middle = low < 0 && high > 0 ? 0 : (low + high) / 2;
  const meter = add(parent, "div",
    { class: "scale", role: "meter", "aria-label": name, "aria-valuemin": low, "aria-valuemax": high });
  const fill = add(meter, "span", { class: "fill" }), thumb = add(meter, "span", { class: "thumb" });
  const ticks = add(parent, "div", { class: "ticks", "aria-hidden": "true" });
  for (const mark of [low, middle, high]) {
    add(ticks, "span", {}, tick(mark)).style.setProperty("--at", place(mark));
  }
  const from = low < 0 && high > 0 ? 0 : low;
  return (score) => {
    value.textContent = short(score);
    meter.setAttribute("aria-valuenow", score);
    meter.setAttribute("aria-valuetext", short(score));
    meter.classList.toggle("below", score < from);
    thumb.style.setProperty("--at", place(score));
    fill.style.setProperty("--from", place(Math.min(from, score)));
    fill.style.setProperty("--to", place(Math.max(from, score)));
  };
}

export function bars(parent, { kind, labels }) {
  const value = add(parent, "p", { class: "class-value" });
  const steps = kind === "ordinal" && labels.length <= 7;
  const list = add(parent, "ul", { class: steps ? "steps" : "bars" });
  const rows = new Map(labels.map((label) => {
    const row = add(list, "li");
    const parts = [add(row, "span", { class: "name" }, label), add(row, "span", { class: "track", "aria-hidden": "true" }), add(row, "span", { class: "share" })];
    add(parts[1], "span", { class: "fill" });
    return [label, { row, share: parts[2] }];
  }));
  let all = labels.length <= LONG + 2;
  const more = all ? null : add(parent, "button", { type: "button", class: "plain", "aria-expanded": "false" });
  const fold = () => [...list.children].forEach((row, at) => { row.hidden = !all && at >= LONG; });
  more?.addEventListener("click", () => {
    all = !all;
    more.setAttribute("aria-expanded", String(all));
    more.textContent = all ? "Fewer" : `All ${labels.length}`;
    fold();
  });
  if (more) more.textContent = `All ${labels.length}`;
  return ({ value: said, probabilities }) => {
    const chosen = kind === "multilabel" ? present(said, probabilities) : new Set([said]);
    value.textContent = kind === "multilabel" ? [...rows.keys()].filter((one) => chosen.has(one)).join(", ") || "none of them" : said;
    for (const [label, { row, share }] of rows) {
      row.style.setProperty("--share", probabilities[label]);
      row.classList.toggle("chosen", chosen.has(label));
      share.textContent = percent(probabilities[label]);
    }
    if (more) list.append(...[...rows].sort(([a], [b]) => probabilities[b] - probabilities[a]).map(([, { row }]) => row));
    fold();
  };
}
