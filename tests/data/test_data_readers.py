import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.data import open_table
from equipoise.data._csv import CELL_CHARACTERS
from equipoise.errors import DataError


def read(path, **options):
    """Every row as a dict, its line and its error or None."""
    rows = []
    for batch in open_table(path, **options):
        for position, row in enumerate(batch.rows.to_pylist()):
            rows.append((row, batch.lines[position], batch.errors.get(position)))
    return rows


def parquet(columns, names=None):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, names=names) if names else pa.table(columns), sink)
    return sink.getvalue()


FATAL = {
    "unknown suffix": (
        "t.xlsx",
        b"x",
        "cannot read files of kind '.xlsx'. Known: .csv, .tsv, .jsonl, .ndjson, .parquet",
    ),
    "zipped parquet": ("t.parquet.gz", b"x", "cannot read files of kind '.parquet.gz'"),
    "empty csv": ("t.csv", b"", "is empty. It needs a header line and rows"),
    "blank csv": ("t.csv", b"\n\n", "is empty. It needs a header line and rows"),
    "header only": ("t.csv", b"text,label\n", "has columns (text, label) but no rows"),
    "duplicate names": ("t.csv", b"text,label, text\na,b,c\n", "columns 1 and 3 are both named 'text'"),
    "broken header": (
        "t.csv",
        b'"text,label\n',
        "t.csv:1: the header cannot be read: a quote is opened and never closed",
    ),
    "latin-1 header": (
        "t.csv",
        b"text,caf\xe9\na,b\n",
        "the name of column 2 is not valid UTF-8. Save the file as UTF-8",
    ),
    "utf-16": ("t.csv", "text,label\na,b\n".encode("utf-16"), "is UTF-16, not UTF-8. Save it as UTF-8"),
    "not gzip": ("t.csv.gz", b"text\na\n", "not a sound gzip file"),
    "truncated gzip": (
        "t.csv.gz",
        gzip.compress(b"text\n" + b"a b c\n" * 9)[:-9],
        "t.csv.gz: the gzip file breaks off",
    ),
    "empty jsonl": ("t.jsonl", b"", "is empty"),
    "json array": ("t.jsonl", b'[{"text": "a"}]\n', "(not a JSON object but an array). Write one object a line"),
    "no json": ("t.ndjson", b"hello\n", "(not JSON: Expecting value at character 1)"),
    "empty parquet": ("t.parquet", b"", "is empty"),
    "not parquet": ("t.parquet", b"text,label\na,b\n", "not a parquet file"),
    "parquet without rows": (
        "t.parquet",
        parquet({"text": pa.array([], pa.string())}),
        "has columns (text) but no rows",
    ),
    "parquet duplicates": (
        "t.parquet",
        parquet([["a"], ["b"]], [" text", "text"]),
        "columns 1 and 2 are both named 'text'",
    ),
}


@pytest.mark.parametrize(("name", "content", "message"), FATAL.values(), ids=list(FATAL))
def test_a_table_that_cannot_be_read_is_one_clear_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path / name)
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.csv: no such file \(looked in "):
        open_table(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match=r"is a folder. Name a file in it"):
        open_table(tmp_path)


def test_gzip_broken_in_the_middle_names_the_line(tmp_path):
    noise = "".join(f"{hash((i, 7)) & 0xFFFFFF:x}\n" for i in range(20_000))
    content = gzip.compress(b"text\n" + noise.encode())
    (tmp_path / "t.csv.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"t.csv.gz: the gzip file breaks off after line \d+"):
        read(tmp_path / "t.csv.gz", batch_rows=100)


#  name -> file, content, position of the broken row, its line, reason, all values of column 'text'
BROKEN_ROWS = {
    "too few cells": ("t.csv", b"text,label\na,b\nc\nd,e\n", 1, 3, "has 1 cell, the header has 2", ["a", "c", "d"]),
    "too many cells": ("t.csv", b"text,label\na,b\nc,d,e\n", 1, 3, "has 3 cells, the header has 2", ["a", "c"]),
    "tabs": ("t.tsv", b"text\tlabel\na\tb\tc\n", 0, 2, "has 3 cells, the header has 2", ["a"]),
    "unclosed quote": ("t.csv", b'text,label\na,b\n"c,d\ne,f\n', 1, 3, "never closed (lines 3 to 4)", ["a", None]),
    "text after a quote": (
        "t.csv", b'text,label\n"a"b,c\nd,e\n', 0, 2, "a quote is closed in the middle of a cell", [None, "d"],
    ),
    "unclosed quote meets the next": (
        "t.csv", b'text,label\n"a,b\n"c",d\ne,f\n', 0, 2, "in the middle of a cell (lines 2 to 3)", [None, "e"],
    ),
    "nul": ("t.csv", b"text,label\na\0,b\nc,d\n", 0, 2, "column 'text' holds a NUL character", ["a\0", "c"]),
    "latin-1": ("t.csv", b"text,label\nb,c\ncaf\xe9,d\n", 1, 3, "column 'text' is not valid UTF-8", ["b", "caf\ufffd"]),
    "long cell": (
        "t.csv", b"text\na\n" + b"x" * (CELL_CHARACTERS + 1) + b"\nb\n", 1, 3, "a cell is longer than", ["a", None, "b"],
    ),
    "broken json": (
        "t.jsonl", b'{"text": "a"}\n{"text": \n{"text": "b"}\n', 1, 2, "not JSON: Expecting value", ["a", None, "b"],
    ),
    "json number": ("t.jsonl", b'{"text": "a"}\n3\n', 1, 2, "not a JSON object but a number", ["a", None]),
    "json nan": ("t.jsonl", b'{"text": "a"}\n{"text": NaN}\n', 1, 2, "not JSON: NaN is no JSON value", ["a", None]),
    "json surrogate": ("t.jsonl", b'{"text": "\\ud800"}\n', 0, 1, "column 'text' is not valid UTF-8", ["\ufffd"]),
    "json nul": ("t.jsonl", b'{"text": "\\u0000"}\n', 0, 1, "column 'text' holds a NUL character", ["\0"]),
    "deep json": ("t.jsonl", b'{"text": "a"}\n' + b"[" * 100_000, 1, 2, "not JSON: ", ["a", None]),
    "parquet bytes": (
        "t.parquet", parquet({"text": [b"a", b"\xff"]}), 1, 2, "column 'text' is not valid UTF-8", ["a", "\ufffd"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "position", "line", "reason", "texts"), BROKEN_ROWS.values(), ids=list(BROKEN_ROWS)
)
def test_a_broken_row_stays_in_its_place(tmp_path, name, content, position, line, reason, texts):
    (tmp_path / name).write_bytes(content)
    rows = read(tmp_path / name)
    assert [row["text"] for row, _, _ in rows] == texts
    assert [bool(error) for _, _, error in rows] == [i == position for i in range(len(texts))]
    assert reason in rows[position][2]
    assert rows[position][1] == line


def test_csv_byte_order_mark_line_ends_embedded_newlines_and_missing_cells(tmp_path):
    content = '\ufeff text ,label\r\n"two\r\nlines, ""quoted""",NA\r\n\r\nnull,""\r\n None ,\r\n'
    (tmp_path / "t.csv").write_bytes(content.encode())
    assert open_table(tmp_path / "t.csv").columns == ["text", "label"]
    assert read(tmp_path / "t.csv") == [
        ({"text": 'two\r\nlines, "quoted"', "label": "NA"}, 2, None),
        ({"text": "null", "label": None}, 5, None),
        ({"text": " None ", "label": None}, 6, None),
    ]


def test_jsonl_values_become_the_text_that_stands_for_them(tmp_path):
    record = {"text": "é", "i": 3, "f": 0.1, "b": True, "n": None, "l": ["a", 1], "d": {"k": 1.5}}
    (tmp_path / "t.jsonl").write_text(json.dumps(record) + "\n\n" + '{"text": ""}\n', encoding="utf-8")
    rows = read(tmp_path / "t.jsonl")
    first = {"text": "é", "i": "3", "f": "0.1", "b": "true", "n": None, "l": '["a", 1]', "d": '{"k": 1.5}'}
    assert rows[0] == (first, 1, None)
    assert rows[1] == ({**dict.fromkeys(first), "text": ""}, 3, None)


def test_jsonl_late_key_is_a_column_only_where_it_is_needed(tmp_path):
    with (tmp_path / "t.jsonl").open("w") as file:
        file.writelines('{"text": "a"}\n' for _ in range(1_500))
        file.write('{"text": "b", "late": 1, "later": 2}\n')
    assert open_table(tmp_path / "t.jsonl").columns == ["text"]
    assert open_table(tmp_path / "t.jsonl", needed=["absent"]).columns == ["text"]
    assert read(tmp_path / "t.jsonl", needed=["late"])[-1] == ({"text": "b", "late": "1"}, 1_501, None)


def test_parquet_types_become_strings(tmp_path):
    table = {
        "text": pa.array(["a", None]),
        "f": pa.array([0.1, float("nan")]),
        "i": pa.array([1, -2], pa.int8()),
        "b": pa.array([True, False]),
        "c": pa.array(["x", "y"]).dictionary_encode(),
        "l": pa.array([["p", "q"], []]),
    }
    (tmp_path / "t.parquet").write_bytes(parquet(table))
    assert read(tmp_path / "t.parquet") == [
        ({"text": "a", "f": "0.1", "i": "1", "b": "true", "c": "x", "l": '["p", "q"]'}, 1, None),
        ({"text": None, "f": None, "i": "-2", "b": "false", "c": "y", "l": "[]"}, 2, None),
    ]


def test_hub_gives_class_names_and_takes_config_and_split(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name, config, *, split):
        asked.append((name, config, split))
        features = datasets.Features(
            text=datasets.Value("string"),
            label=datasets.ClassLabel(names=["neg", "pos"]),
            tags=datasets.List(datasets.ClassLabel(names=["x", "y"])),
        )
        return datasets.Dataset.from_dict(
            {"text": ["a", "b"], "label": [1, -1], "tags": [[0, 1], []]}, features=features
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = read("hub:org/name:config@train[:100]", batch_rows=1)
    assert rows == [
        ({"text": "a", "label": "pos", "tags": '["x", "y"]'}, 1, None),
        ({"text": "b", "label": None, "tags": "[]"}, 2, None),
    ]
    open_table("hub:org/name")
    assert asked == [("org/name", "config", "train[:100]"), ("org/name", None, "train")]


def test_hub_failure_is_one_line(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load(*_, **__):
        raise FileNotFoundError("Couldn't find it\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"hub:org/name: cannot be loaded \(Couldn't find it\)\.$"):
        open_table("hub:org/name")
    with pytest.raises(DataError, match="names no dataset"):
        open_table("hub:")


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), max_size=12)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=8), st.integers(1, 4), st.booleans())
def test_csv_round_trip(tmp_path_factory, rows, batch_rows, zipped):
    path = tmp_path_factory.mktemp("csv") / ("t.csv.gz" if zipped else "t.csv")
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *rows])
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if zipped else content)
    found = read(path, batch_rows=batch_rows)
    assert [(row["a"], row["b"]) for row, _, _ in found] == [(a or None, b or None) for a, b in rows]
    assert not any(error for _, _, error in found)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=8), st.integers(1, 4))
def test_jsonl_and_parquet_round_trip(tmp_path_factory, rows, batch_rows):
    folder = tmp_path_factory.mktemp("json")
    lines = "".join(json.dumps({"a": a, "b": b}, ensure_ascii=len(a) % 2 == 0) + "\n" for a, b in rows)
    (folder / "t.jsonl").write_bytes(lines.encode())
    (folder / "t.parquet").write_bytes(parquet({"a": [a for a, _ in rows], "b": [b for _, b in rows]}))
    for name in ("t.jsonl", "t.parquet"):
        found = read(folder / name, batch_rows=batch_rows)
        assert [(row["a"], row["b"]) for row, _, _ in found] == rows
        assert [line for _, line, _ in found] == list(range(1, len(rows) + 1))


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.binary(max_size=80), st.sampled_from(["t.csv", "t.tsv", "t.jsonl", "t.parquet", "t.csv.gz"]))
def test_any_bytes_are_read_or_refused_but_never_crash(tmp_path_factory, content, name):
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content)
    try:
        lines = [line for _, line, _ in read(path)]
        message = name
    except DataError as error:
        lines, message = [1], str(error)
    assert all(line >= 1 for line in lines)
    assert name in message


def test_a_table_can_be_read_twice(tmp_path):
    (tmp_path / "t.csv").write_text("text\na\nb\n")
    table = open_table(tmp_path / "t.csv", batch_rows=1)
    assert [batch.lines for batch in table] == [batch.lines for batch in table] == [[2], [3]]
