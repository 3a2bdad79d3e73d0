"""Tables that are too long, too wide, or both. tests/data/test_data_nasty.py bounds the memory that they may take."""

# ruff: noqa: E501  (one case a line)
from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nasty.case import BASE, HEAD, Case
from nasty.nasty_jsonl import GOOD


def long_cell(before: str, after: str):
    """50 MB in one cell."""

    def make(path: Path) -> None:
        with path.open("w") as file:
            file.write(before)
            for _ in range(50):
                file.write("words " * 174_763)
            file.write(after)

    return make


def bomb(before: str, megabytes: int = 100):
    """A gzip file of some kilobytes that unpacks to one endless line behind a sound table."""

    def make(path: Path) -> None:
        with gzip.open(path, "wb", compresslevel=3) as file:
            file.write(before.encode())
            for _ in range(megabytes):
                file.write(b"a" * (1 << 20))
            file.write(b"\n")

    return make


def wide(columns: int, rows: int):
    def make(path: Path) -> None:
        with path.open("w") as file:
            file.write("text,label," + ",".join(f"c{i}" for i in range(columns)) + "\n")
            for row in range(rows):
                file.write(f"text {row},{'ab'[row % 2]}" + "," * columns + "\n")

    return make


def wide_lines(path: Path) -> None:
    more = {f"c{i}": None for i in range(10_000)}
    lines = [json.dumps({"text": f"text {row}", "label": "ab"[row % 2], **more}) for row in range(20)]
    path.write_text("\n".join(lines))


def wide_parquet(path: Path) -> None:
    table = {"text": ["a", "b"], "label": ["x", "y"], **{f"c{i}": [1, 2] for i in range(10_000)}}
    pq.write_table(pa.table(table), path)


def dictionary_bomb(decoded: bool):
    """A megabyte in a dictionary and 1,000 rows that mean it: 1 GB of text in a file of some kilobytes."""

    def make(path: Path) -> None:
        texts = pa.DictionaryArray.from_arrays(
            pa.array([0, 1] * 500, pa.int32()), pa.array(["a" * (1 << 20), "b" * (1 << 20)])
        )
        table = pa.table({"text": texts, "label": ["x", "y"] * 500})
        # Without Arrow's own schema the column is one of strings; the file has its dictionary all the same.
        pq.write_table(table, path, compression="zstd", store_schema=not decoded)

    return make


def longest_rows(path: Path) -> None:
    """Rows of 3 MB, which are rows still."""
    with path.open("w") as file:
        file.write(HEAD)
        for row in range(20):
            file.write("words " * 500_000 + f"{row},{'ab'[row % 2]}\n")


def long_text(path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b" * (50 << 20), "c"], "label": ["x", "y", "x"]}), path)


CELL = "a (cell|line) is longer than"
MORE = '"}\n' + GOOD

CASES = [
    Case("a cell of 50 MB", long_cell(BASE, ",pos\nmore words,pos\n"), used=3, rejected={CELL: 1}),
    Case("a quoted cell of 50 MB", long_cell(BASE + '"', '",pos\nmore words,pos\n'), used=3, rejected={CELL: 1}),
    Case("a cell of 50 MB in a tsv", long_cell(BASE.replace(",", "\t"), "\tpos\n"), used=2, rejected={CELL: 1}, file="t.tsv"),
    Case("a text of 50 MB in a line", long_cell(GOOD + '{"label": "pos", "text": "', MORE), used=4, rejected={CELL: 1}, file="t.jsonl"),
    Case("a header of 50 MB", long_cell("text,", "\n" + BASE), error=r"t\.csv:1: the header cannot be read: a line is longer than 16777216"),
    Case("an open quote and 7 MB of lines", lambda path: path.write_text(BASE + '"' + "some words\n" * 600_000), used=2, rejected={CELL: 1, "has 1 cell, the header has 2": 218_699}),
    Case("a bomb of one line", bomb(BASE), used=2, rejected={r"a line is longer than 16777216 characters": 1}, file="t.csv.gz"),
    Case("a bomb of one quoted line", bomb(BASE + '"'), used=2, rejected={"a line is longer than|never closed": 1}, file="t.csv.gz"),
    Case("a bomb for a header", bomb(""), file="t.csv.gz", error=r"t\.csv\.gz:1: the header cannot be read: a line is longer than"),
    Case("a bomb of lines", bomb(GOOD + '{"text": "'), used=2, rejected={r"a line is longer than 16777216 characters": 1}, file="t.jsonl.gz"),
    Case("10,000 columns", wide(10_000, 30), used=30),
    Case("10,000 columns, 3,000 rows", wide(10_000, 3_000), used=3_000),
    Case("20,001 columns", wide(20_000, 2), error=r"t\.csv has 20002 columns; at most 20000 are read\. Keep the text and the labels"),
    Case("four million cells in a row", lambda path: path.write_text(BASE + "a," * 4_000_000 + "\n"), used=2, rejected={"has 4000001 cells, the header has 2": 1}),
    Case("10,000 keys", wide_lines, used=20, file="t.jsonl"),
    Case("10,000 columns of parquet", wide_parquet, used=2, file="t.parquet"),
    Case("a text of 50 MB in parquet", long_text, used=3, file="t.parquet"),
    Case("rows of 3 MB", longest_rows, used=20),
    Case("a dictionary that stands for 1 GB", dictionary_bomb(False), used=1000, file="t.parquet"),
    Case("strings that stand for 1 GB", dictionary_bomb(True), used=1000, file="t.parquet"),
    Case("200,000 rows", lambda path: path.write_text(HEAD + "".join(f"text {row},{'ab'[row % 2]}\n" for row in range(200_000))), used=200_000),
]  # fmt: skip
