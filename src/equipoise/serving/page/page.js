// The page's beginning: asks the service what it holds, and ties the page's controls to what they do.

import { ask, service, tell } from "./api.js";
import { LONG } from "./cards.js";
import { cancel, score } from "./files.js";
import { $, add, keep, kept, tick, whole } from "./nodes.js";
import { EXAMPLES, boxes, changed, choose, chosen } from "./text.js";

const THEME = "equipoise-theme";
const KINDS = { regression: "score", classification: "one of", ordinal: "in order, one of", multilabel: "any of" };
const METRICS = { mse: "mean squared error", mae: "mean absolute error", macro_f1: "macro F1", r2: "R²", ccc: "CCC" };

// The models that are served ------------------------------------------------------------------------------------------

function describe(run, several) {
  const card = add($("runs"), "article", { class: "card about-run" });
  add(card, "h3", {}, run.name);
  const when = new Date(run.loaded_at);
  add(card, "p", { class: "note" }, `version ${run.version} · on ${run.device}, ${run.precision} · loaded ${Number.isNaN(when.getTime()) ? run.loaded_at : when.toLocaleString("en", { dateStyle: "medium", timeStyle: "short" })}`
    + ` · reads ${run.text.join(" and ")}${several && run.name === service.info.default ? " · the default" : ""}`);
  const table = add(add(card, "div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Tasks of ${run.name}` }), "table");
  const head = add(add(table, "thead"), "tr");
  for (const title of ["Task", "Says", "How well"]) add(head, "th", { scope: "col" }, title);
  const body = add(table, "tbody");
  for (const { name, kind, range, labels } of run.tasks) {
    const row = add(body, "tr"), metric = run.metrics?.[name];
    add(row, "th", { scope: "row" }, name);
    const classes = labels && labels.length > LONG ? `${labels.slice(0, LONG).join(", ")} and ${labels.length - LONG} more` : labels?.join(", ");
    add(row, "td", {}, labels ? `${KINDS[kind] ?? kind}: ${classes}` : `a score${range ? ` from ${tick(range[0])} to ${tick(range[1])}` : ", without bounds"}`);
    const told = add(row, "td");
    if (metric) {
      add(told, "strong", {}, metric.value.toLocaleString("en", { maximumSignificantDigits: 3 }));
      told.append(` ${METRICS[metric.metric] ?? metric.metric.replaceAll("_", " ")}, ${metric.split}`);
    } else told.append("not told");
  }
}

// Light and dark ------------------------------------------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)"), html = document.documentElement;
const isDark = () => (html.dataset.theme ? html.dataset.theme === "dark" : dark.matches);
const theme = () => {
  $("theme").textContent = isDark() ? "Light" : "Dark";
  $("theme").setAttribute("aria-pressed", String(isDark()));
  $("theme").setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
};
html.dataset.theme = kept("localStorage", THEME) ?? "";
$("theme").addEventListener("click", () => {
  html.dataset.theme = isDark() ? "light" : "dark";
  keep("localStorage", THEME, html.dataset.theme);
  theme();
});
dark.addEventListener("change", theme);
theme();

// The beginning -------------------------------------------------------------------------------------------------------

async function start() {
  try {
    service.info = await (await ask("info")).json();
  } catch (error) {
    tell($("trouble"), error);
    add($("trouble"), "button", { type: "button" }, "Try again").addEventListener("click", start);
    return;
  }
  const { info } = service;
  tell($("trouble"), null);
  const before = $("run").value;
  $("run").replaceChildren();
  for (const { name } of info.runs) add($("run"), "option", { value: name }, name);
  $("run").value = info.runs.some(({ name }) => name === before) ? before : info.default;
  $("choice").hidden = info.runs.length < 2;
  $("runs").replaceChildren();
  for (const run of info.runs) describe(run, info.runs.length > 1);
  $("model-title").textContent = info.runs.length > 1 ? "The models" : "The model";
  $("file-note").textContent = `CSV, TSV, JSON lines or Parquet, up to ${whole(Math.floor(info.limits.file_bytes / 2 ** 20))} MiB`;
  $("ready").hidden = false;
  choose(start);
}

for (const [title, ...texts] of EXAMPLES) {
  add($("examples"), "button", { type: "button", class: "chip" }, title).addEventListener("click", () => {
    boxes().forEach((box, at) => { box.value = texts[at]; });
    changed(0);
  });
}
$("fields").addEventListener("input", () => changed());
$("clear").addEventListener("click", () => { boxes().forEach((box) => { box.value = ""; }); changed(); boxes()[0].focus(); });
for (const id of ["run", "other"]) $(id).addEventListener("change", () => choose(start));
$("table").addEventListener("change", () => { if ($("table").files[0]) score($("table").files[0], chosen()); $("table").value = ""; });
$("cancel").addEventListener("click", () => { cancel(); $("table").focus(); });
for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(type, (event) => {
    event.preventDefault(); // a file that misses the place must not replace the page
    const over = $("drop").contains(event.target);
    $("drop").classList.toggle("over", over && (type === "dragenter" || type === "dragover"));
    if (type === "drop" && over && event.dataTransfer.files[0]) score(event.dataTransfer.files[0], chosen());
  });
}
start();
