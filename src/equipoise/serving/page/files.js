// A file: sent, watched, fetched, drawn.

import { Trouble, ask, service, stopped, tell, upload } from "./api.js";
import { $, add, pause, percent, plural, whole } from "./nodes.js";
import { picture } from "./pictures.js";
import { Tally, csv, jsonl } from "./tables.js";

let working = null;

export const cancel = () => working?.abort();

export async function score(file, run) {
  working?.abort();
  const mine = (working = new AbortController()), { signal } = mine;
  const kind = file.name.split(".").pop().toLowerCase();
  let id = null;
  const state = (text, share) => {
    $("state").textContent = text;
    if (share === undefined) $("progress").removeAttribute("value"); else $("progress").value = share;
  };
  tell($("file-trouble"), null);
  $("result").hidden = true;
  try {
    if (!/^(csv|tsv|jsonl|ndjson|parquet)$/.test(kind)) throw new Trouble(`“${file.name}” is of no kind that can be read. Choose a CSV, TSV, JSON lines (.jsonl) or Parquet file.`);
    if (!file.size) throw new Trouble(`“${file.name}” is empty. Choose a table with a header and rows.`);
    if (file.size > service.info.limits.file_bytes) throw new Trouble(`“${file.name}” has ${whole(Math.ceil(file.size / 2 ** 20))} MiB; at most ${whole(Math.floor(service.info.limits.file_bytes / 2 ** 20))} are taken. Split it.`);
    $("file-name").textContent = file.name;
    $("work").hidden = false;
    state("Sending …", 0);
    const query = new URLSearchParams({ run: run.name, name: file.name });
    const sent = (share) => state(share < 1 ? `Sending: ${percent(share)}` : "Reading the first rows …", share < 1 ? share : undefined);
    ({ id } = await (await ask(`files?${query}`, { body: file, signal, sent }, upload)).json());
    let told = {};
    for (let turn = 0; told.state !== "done"; turn += 1) {
      if (turn) await pause(Math.min(1000, 150 * turn));
      told = await (await ask(`files/${id}`, { signal })).json();
      if (told.state === "failed") throw new Trouble(`The file could not be scored: ${told.error}`);
      if (told.state === "waiting") state("Waiting for its turn …");
      else state(`${plural(told.rows_done, "row")}${told.rows_total ? ` of about ${whole(told.rows_total)}` : ""} scored`,
        told.rows_total ? told.rows_done / told.rows_total : undefined);
    }
    state("Fetching the result …");
    const result = await (await ask(`files/${id}/result`, { signal })).blob();
    if (working === mine) await finished(file.name, kind, run, told, result);
  } catch (error) {
    if (!stopped(error)) tell($("file-trouble"), error);
  }
  if (id) ask(`files/${id}`, { method: "DELETE" }).catch(() => {}); // it lies here now, or nobody wants it
  if (working === mine) { $("work").hidden = true; working = null; }
}

async function finished(name, kind, run, told, blob) {
  URL.revokeObjectURL($("download").href);
  $("download").href = URL.createObjectURL(blob);
  $("download").download = `${name.replace(/\.[^.]*$/, "")}-predicted.${kind}`;
  $("done").textContent = `${plural(told.rows_done - told.bad, "row")} of ${name} scored by ${run.name}.`
    + (told.bad ? ` ${plural(told.bad, "row")} could not be; the column “error” says why.` : "");
  $("pictures").replaceChildren();
  $("bad-rows").replaceChildren();
  const tally = new Tally(run.tasks);
  if (kind !== "parquet") {
    const read = kind === "csv" ? csv(",", tally) : kind === "tsv" ? csv("\t", tally) : jsonl(tally);
    const reader = blob.stream().pipeThrough(new TextDecoderStream()).getReader();
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) read(piece.value);
    read("\n");
  }
  for (const text of tally.errors) add($("bad-rows"), "li", {}, text);
  $("bad-rows").hidden = !tally.errors.length;
  $("result").hidden = false;
  if (kind === "parquet") add($("pictures"), "p", { class: "note" }, "There is no picture: this page cannot read Parquet files.");
  else if (tally.rows) for (const part of tally.parts) picture($("pictures"), part);
  $("result").focus({ preventScroll: true });
}
