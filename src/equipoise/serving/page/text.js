// The text that is asked about, and the runs that answer.

import { TOKEN, service } from "./api.js";
import { $, add, kept, plural, short, whole } from "./nodes.js";
import { panel } from "./panel.js";

const WAIT_MS = 250; // from the last key to the question
export const EXAMPLES = [
  ["A good quarter", "Quarterly profit beat every forecast, and the board raised the dividend.", "profit"],
  ["A deal that fell through", "The merger fell apart after a third objection; shares slid 12% before lunch.", "merger"],
  ["Good and bad", "Sales grew faster than ever, but the company is sinking deeper into debt.", "debt"],
  ["Hard to tell", "Lovely screen, terrible battery. I still can't decide whether to keep it 🤷", "battery"],
];
let slots = [], asked = 0, timer = 0;

export const chosen = () => slots[0].run;
export const boxes = () => [...$("fields").querySelectorAll("textarea")];
const written = () => boxes().map((box) => (box.value.toWellFormed ? box.value.toWellFormed() : box.value));

export function changed(wait = WAIT_MS) {
  clearTimeout(timer);
  slots.forEach((slot) => slot.end());
  const texts = written(), most = service.info.limits.characters_per_text, longest = Math.max(...texts.map((text) => [...text].length));
  $("clear").hidden = texts.every((text) => !text);
  const over = longest > most;
  $("count").textContent = longest > 0.8 * most ? `${whole(longest)} of ${whole(most)} characters${over ? ": too long" : ""}` : "";
  $("count").classList.toggle("over", over);
  const ready = texts.every((text) => text.trim()) && !over;
  if (ready) timer = setTimeout(() => answer(texts), wait);
  else if (!over) { $("panels").hidden = true; $("between").hidden = true; $("hint").hidden = false; }
}

async function answer(texts) {
  const turn = (asked += 1), mine = slots;
  await Promise.all(mine.map((slot) => slot.show(texts)));
  if (turn !== asked || mine !== slots || mine.some((slot) => slot.stop.signal.aborted)) return;
  $("panels").hidden = false;
  $("hint").hidden = true;
  const said = slots.filter((slot) => slot.said);
  $("said").textContent = said.map(({ run, said: found }) => `${said.length > 1 ? `${run.name}: ` : ""}${run.tasks.map(
    ({ name }) => `${name} ${typeof found[name] === "object" ? found[name].value || "none" : short(found[name])}`).join(", ")}.`).join(" ");
  $("between").hidden = said.length < 2;
  if (said.length > 1) $("between").textContent = difference(...said);
}

function difference(one, other) {
  const both = one.run.tasks.filter(({ name, kind }) => other.run.tasks.some((task) => task.name === name && task.kind === kind));
  if (!both.length) return "The two have no task in common.";
  return both.map(({ name }) => {
    const [a, b] = [one.said[name], other.said[name]];
    if (typeof a !== "object") {
      const gap = short(Math.abs(b - a));
      return `${name}: ${/[1-9]/.test(gap) ? `${gap} ${b > a ? "higher" : "lower"} in ${other.run.name}` : "the same"}`;
    }
    return `${name}: ${a.value === b.value ? `both say ${a.value || "none"}` : `${a.value || "none"} and ${b.value || "none"}`}`;
  }).join(" · ");
}

export function choose(renew) {
  const run = service.info.runs.find(({ name }) => name === $("run").value) ?? service.info.runs[0];
  const others = service.info.runs.filter((one) => one !== run && one.text.length === run.text.length);
  const before = $("other").value, drafts = written();
  $("other").replaceChildren();
  add($("other"), "option", { value: "" }, "nothing");
  for (const { name } of others) add($("other"), "option", { value: `=${name}` }, name);
  if ([...$("other").options].some((option) => option.value === before)) $("other").value = before;
  slots.forEach((slot) => slot.end());
  const other = others.find(({ name }) => `=${name}` === $("other").value);
  slots = [run, other].filter(Boolean).map((one) => panel(one, renew));
  $("panels").replaceChildren(...slots.map((slot) => slot.root));
  $("panels").className = slots.length > 1 ? "two" : "one";
  const same = boxes().length === run.text.length;
  if (!same) $("fields").replaceChildren();
  run.text.forEach((name, at) => {
    const label = same ? boxes()[at].labels[0] : add($("fields"), "label");
    const title = same ? label.firstElementChild : add(label, "span", { class: "field" });
    title.textContent = run.text.length > 1 ? name : "Your text";
    const box = same ? boxes()[at] : add(label, "textarea", { rows: run.text.length > 1 && at ? 1 : 3, dir: "auto", spellcheck: "false" });
    if (!same) box.value = drafts[at] ?? "";
  });
  boxes()[0].placeholder = "Type or paste a text";
  const count = plural(run.tasks.length, "task");
  $("about").textContent = `${run.name} answers ${count} at once: ${run.tasks.map(({ name }) => name).join(", ")}.`;
  $("file-lead").textContent = `A table with the column${run.text.length > 1 ? "s" : ""} ${run.text.map((name) => `“${name}”`).join(" and ")} goes in, `
    + `the same table comes back with what ${run.name} says of every row.`;
  document.title = `${run.name} · Equipoise`;
  const body = JSON.stringify({ texts: [run.text.length > 1 ? [EXAMPLES[2][1], EXAMPLES[2][2]] : EXAMPLES[0][1]], run: run.name });
  $("curl").textContent = `curl ${new URL("predict", location.href)} \\\n  -H 'Content-Type: application/json' \\\n`
    + `${kept("sessionStorage", TOKEN) ? "  -H 'Authorization: Bearer TOKEN' \\\n" : ""}  -d '${body.replaceAll("'", "'\\''")}'`;
  changed(0);
}
