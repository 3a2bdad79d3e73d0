"""CSV that we write runs nothing in a spreadsheet, says the same in every engine, and can be had raw."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from many_files import trained

import equipoise as eq
from equipoise.inference import predict_file, predict_lines
from equipoise.inference._spreadsheet import safe_cell, safe_header

FORMULAS = [
    "=1+1", '=HYPERLINK("http://example.org","x")', "=cmd|' /C calc'!A0", "+1+1", "+cmd|' /C calc'!A0", "-1+1", "-2+3+cmd|'x'!A0",
    "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1+1", "＋1", "－1+1", "＠x", "-", "+", "=", "-5 points", "+3%", "-1,5", "+49 30 12",
    "--1", "-x", "-.", "+1e", "-1 2", "=", "-١",
]  # fmt: skip
PLAIN = [
    "-0.5",
    "-5",
    "+1",
    "-.5",
    "-1e-3",
    "+2.E+4",
    "-7 ",
    "1+1",
    "a=b",
    " =1",
    "'=1",
    "",
    "e-mail@x",
    "1-2",
    "😀",
    "{=1}",
    '"=1"',
]


@pytest.mark.parametrize("cell", FORMULAS)
def test_what_begins_like_a_formula_is_text(cell: str) -> None:
    assert safe_cell(cell) == "'" + cell


@pytest.mark.parametrize("cell", PLAIN)
def test_all_else_stays_as_it_is(cell: str) -> None:
    assert safe_cell(cell) == cell


def test_what_is_no_text_stays_what_it_is() -> None:
    for value in (-0.5, -3, True, None, [-1]):
        assert safe_cell(value) is value


def test_names_of_columns_stay_different() -> None:
    assert safe_header(["=a", "'=a", "-1", "a", "+b"]) == ["''=a", "'=a", "-1", "a", "'+b"]


class Length:
    """A model whose class names are formulas, too."""

    text = ("text",)
    tasks: Any = {}  # noqa: RUF012

    def outputs(self, texts: list[str], pairs: Any = None) -> Any:
        import numpy as np

        return np.array([[-len(text)] for text in texts], dtype=np.float32).reshape(len(texts), 0 + 1)

    def read(self, outputs: Any) -> dict[str, Any]:
        import numpy as np

        return {"@score": outputs[:, 0], "class": np.array(["=bad"] * len(outputs), dtype=object)}


MODEL: Any = Length()
MODEL.tasks = {"@score": type("Task", (), {"size": 1})()}


def rows_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def table(folder: Path) -> Path:
    path = folder / "in.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["text", "=note", "n"], *[[f"t {i}", cell, "-0.5"] for i, cell in enumerate(FORMULAS + PLAIN)]]
        )
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_predictions_hold_no_formula(tmp_path: Path, kind: str) -> None:
    predict_file(MODEL, table(tmp_path), tmp_path / f"out.{kind}")
    header, *rows = rows_of(tmp_path / f"out.{kind}")
    assert header == ["text", "'=note", "n", "'@score", "class", "error"]
    assert [row[1] for row in rows] == ["'" + cell for cell in FORMULAS] + PLAIN
    assert {row[2] for row in rows} == {"-0.5"}
    assert rows[0][3:5] == ["-3.0", "'=bad"]


def test_raw_cells_are_as_they_were(tmp_path: Path) -> None:
    predict_file(MODEL, table(tmp_path), tmp_path / "out.csv", raw_cells=True)
    header, *rows = rows_of(tmp_path / "out.csv")
    assert header[1] == "=note"
    assert [row[1] for row in rows] == FORMULAS + PLAIN
    with (tmp_path / "lines.txt").open("w", newline="") as file:
        file.write("=1+1\n-5\n")
    for raw, text in ((False, "'=1+1"), (True, "=1+1")):
        with (tmp_path / "lines.txt").open(encoding="utf-8", errors="surrogateescape") as lines:
            predict_lines(MODEL, lines, tmp_path / "lines.csv", raw_cells=raw)
        assert [row[0] for row in rows_of(tmp_path / "lines.csv")] == ["text", text, "-5"]


def test_jsonl_and_parquet_are_untouched(tmp_path: Path) -> None:
    predict_file(MODEL, table(tmp_path), tmp_path / "out.jsonl")
    found = [json.loads(line)["=note"] for line in (tmp_path / "out.jsonl").read_text().split("\n")[:-1]]
    assert [one or "" for one in found] == FORMULAS + PLAIN
    predict_file(MODEL, table(tmp_path), tmp_path / "out.parquet")
    assert [one or "" for one in pq.read_table(tmp_path / "out.parquet")["=note"].to_pylist()] == FORMULAS + PLAIN


def test_numbers_stay_and_what_only_looks_like_one_does_not(tmp_path: Path) -> None:
    columns = {
        "text": ["a"],
        "f": [-0.5],
        "i": [-1],
        "d": [Decimal("-1.50")],
        "b": [b"=x"],
        "s": pa.array([-1], pa.duration("s")),
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    predict_file(MODEL, tmp_path / "in.parquet", tmp_path / "out.csv")
    assert rows_of(tmp_path / "out.csv")[1][:6] == ["a", "-0.5", "-1", "-1.50", "b'=x'", "'-1 day, 23:59:59"]


def test_our_own_csv_reads_back_with_the_apostrophe_and_gets_no_second_one(tmp_path: Path) -> None:
    predict_file(MODEL, table(tmp_path), tmp_path / "one.csv")
    predict_file(MODEL, tmp_path / "one.csv", tmp_path / "two.csv")
    assert [row[1] for row in rows_of(tmp_path / "two.csv")] == [row[1] for row in rows_of(tmp_path / "one.csv")]


def test_every_line_end_in_a_cell_reads_back(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a\rb", "c\nd", "e\r\nf", "g"]}), tmp_path / "in.parquet")
    predict_file(MODEL, tmp_path / "in.parquet", tmp_path / "out.csv")
    assert [row[0] for row in rows_of(tmp_path / "out.csv")] == ["text", "a\rb", "c\nd", "e\r\nf", "g"]
    assert b"\r\n" not in (tmp_path / "out.csv").read_bytes().replace(b"e\r\nf", b"")


def test_half_a_character_in_json_lines_stays_what_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a\\ud800"}\n{"text": "b"}\n')
    for output in (tmp_path / "out.jsonl", "-"):
        predict_file(MODEL, tmp_path / "in.jsonl", output)
    for text in ((tmp_path / "out.jsonl").read_text(), capsys.readouterr().out):
        rows = [json.loads(line) for line in text.split("\n")[:-1]]
        assert [row["text"] for row in rows] == ["a\ud800", "b"]
        assert [row["error"] for row in rows] == ["column 'text' is not valid UTF-8", None]


def test_what_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    far = pa.array([2**62], pa.timestamp("us"))
    pq.write_table(pa.table({"text": ["a"], "when": far}), tmp_path / "in.parquet")
    for kind in ("csv", "jsonl"):
        with pytest.raises(
            eq.EquipoiseError, match=r"column 'when' \(timestamp\[us\]\) cannot be written as text .* write parquet"
        ):
            predict_file(MODEL, tmp_path / "in.parquet", tmp_path / f"out.{kind}")
    predict_file(MODEL, tmp_path / "in.parquet", tmp_path / "out.parquet")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "plain.csv").write_text("text\na\n")
    with pytest.raises(eq.EquipoiseError, match=r"folder\.csv: cannot be written \(Is a directory\)"):
        predict_file(MODEL, tmp_path / "plain.csv", tmp_path / "folder.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.csv", "in.parquet", "out.parquet", "plain.csv"]


def test_many_files_and_the_choice_is_remembered(tiny_backbone: Any, tmp_path: Path) -> None:
    run = trained(tiny_backbone("bert"), tmp_path)
    (tmp_path / "in").mkdir()
    table(tmp_path / "in")
    found = {}
    for raw in (False, True):
        scored = eq.predict_files(run, str(tmp_path / "in/*.csv"), tmp_path / "out", raw_cells=raw)
        assert [file.status for file in scored.files] == ["scored"]
        found[raw] = rows_of(scored.files[0].output)
    assert scored.files[0].redone == "it was made with other settings"
    assert [row[1] for row in found[False][1:]] == ["'" + cell for cell in FORMULAS] + PLAIN
    assert [row[1] for row in found[True][1:]] == FORMULAS + PLAIN
