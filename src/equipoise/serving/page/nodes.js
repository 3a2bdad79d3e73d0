// Nodes, numbers in words, and what the browser remembers. Whatever comes from data enters the document as text.

export const $ = (id) => document.getElementById(id);

export function add(parent, tag, props = {}, ...texts) {
  const node = parent.namespaceURI.endsWith("svg") || tag === "svg"
    ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  node.append(...texts); // strings become text nodes
  parent.append(node);
  return node;
}
export const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;
const minus = (text) => text.replace("-", "−");
export const whole = (value) => value.toLocaleString("en");
export const short = (value) => minus(value.toLocaleString("en", Math.abs(value) < 10
  ? { minimumFractionDigits: 2, maximumFractionDigits: 2 } : { maximumSignificantDigits: 4 })).replace(/^−(0\.00)$/, "$1");
export const tick = (value) => minus(String(Number(value.toPrecision(4))));
// With as many digits as the greatest of those that stand beside it needs.
export const signed = (value, greatest) => {
  const digits = Math.min(6, Math.max(0, 1 - Math.floor(Math.log10(greatest))));
  return minus(value.toLocaleString("en", { signDisplay: "exceptZero", minimumFractionDigits: digits, maximumFractionDigits: digits }));
};
export const percent = (share) => (share > 0 && share < 0.005 ? "<1%" : share < 1 && share > 0.995 ? ">99%" : `${Math.round(100 * share)}%`);
export const sentence = (text) => text.replace(/^[a-z]+ /, (first) => first[0].toUpperCase() + first.slice(1)); // not a file's name
export const sigmoid = (value) => 1 / (1 + Math.exp(-value));
export const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });

// The classes that a multilabel value names: the most probable ones that make it up, whatever stands between them.
export function present(value, probabilities) {
  const labels = Object.keys(probabilities);
  const ranked = [...labels].sort((a, b) => probabilities[b] - probabilities[a]);
  for (let count = 1; count <= ranked.length; count += 1) {
    const some = new Set(ranked.slice(0, count));
    const names = labels.filter((label) => some.has(label));
    const gap = (value.length - names.join("").length) / Math.max(1, count - 1);
    if (names.join(value.substr(names[0].length, count > 1 ? gap : 0)) === value) return some;
  }
  return new Set();
}

// A browser may refuse to keep anything; then it is kept until the page is left.
const memory = new Map();
export function keep(area, key, value) {
  memory.set(key, value);
  try { window[area].setItem(key, value); } catch { /* as above */ }
}
export function kept(area, key) {
  try { return window[area].getItem(key) ?? memory.get(key) ?? null; } catch { return memory.get(key) ?? null; }
}
