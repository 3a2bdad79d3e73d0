// Scored tables, read piece by piece and counted.

import { present, whole } from "./nodes.js";

// Cells by RFC 4180, piece by piece: quotes hold separators and line ends, and two of them are one.
export function csv(separator, tally) {
  let row = [], cell = "", quoted = false, closing = false, header = true;
  const end = () => { row.push(cell); cell = ""; };
  return (piece) => {
    for (const character of piece) {
      if (closing) {
        closing = false;
        if (character === '"') { cell += '"'; continue; }
        quoted = false;
      }
      if (quoted) {
        if (character === '"') closing = true; else cell += character;
      } else if (character === '"' && cell === "") quoted = true;
      else if (character === separator) end();
      else if (character === "\n") {
        if (row.length || cell) {
          end();
          if (header) tally.head(row); else tally.row(row);
          header = false;
        }
        row = [];
      } else if (character !== "\r") cell += character;
    }
  };
}

export function jsonl(tally) {
  let left = "";
  const names = tally.names();
  tally.head(names);
  return (piece) => {
    const lines = (left + piece).split("\n");
    left = lines.pop();
    for (const line of lines) {
      if (!line) continue;
      const record = JSON.parse(line);
      tally.row(names.map((name) => {
        let held = name; // a key that the input had already is kept, and ours stands beside it
        while (Object.hasOwn(record, `predicted/${held}`)) held = `predicted/${held}`;
        return record[held] ?? "";
      }));
    }
  };
}

// Counts what a scored table says, row by row. Our columns are its last: a task's value, its classes; then the errors.
export class Tally {
  constructor(tasks) {
    this.rows = 0;
    this.errors = [];
    this.parts = tasks.map((task) => ({ task, values: [], counts: new Map((task.labels ?? []).map((label) => [label, 0])) }));
  }

  names() {
    return [...this.parts.flatMap(({ task }) => [task.name, ...(task.labels ?? []).map((label) => `${task.name}/${label}`)]), "error"];
  }

  head(columns) { this.first = columns.length - this.names().length; }

  row(cells) {
    this.rows += 1;
    const error = cells[cells.length - 1];
    if (error && this.errors.length < 5) this.errors.push(`Row ${whole(this.rows)}: ${error}`);
    let at = this.first;
    for (const { task, values, counts } of this.parts) {
      const cell = cells[at], labels = task.labels ?? [];
      if (!error && !task.labels) values.push(Number(cell));
      else if (!error && task.kind === "multilabel") {
        for (const one of present(cell, Object.fromEntries(labels.map((label, k) => [label, Number(cells[at + 1 + k])])))) {
          counts.set(one, counts.get(one) + 1);
        }
      } else if (!error && counts.has(cell)) counts.set(cell, counts.get(cell) + 1);
      at += 1 + labels.length;
    }
  }
}
