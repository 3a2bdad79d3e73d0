"""Parquet of every type, and files that are none."""

# ruff: noqa: E501  (one case a line)
from __future__ import annotations

import datetime
import io
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nasty.case import BASE, SCORE, Case
from nasty.nasty_jsonl import GOOD
from nasty.nasty_labels import names

TEXTS = ["good words", "bad words", "more words"]
LABELS = ["pos", "neg", "pos"]
SECOND = ["pos", "pos", "neg"]  # two classes, also without the second row
BROKEN = "not a parquet file|broken after row"


def parquet(columns: dict[str, Any] | pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), sink, **options)
    return sink.getvalue()


def file(name: str, content: bytes | Callable[[Path], object], **options: Any) -> Case:
    return Case(name, content, **{"file": "t.parquet", **options})


def beside(name: str, array: Any, **options: Any) -> Case:
    """A column that nobody asks for."""
    return file(name, parquet({"text": TEXTS, "label": LABELS, "more": array}), used=3, **options)


def labels(name: str, array: Any, *wanted: str, used: int = 3, **options: Any) -> Case:
    return file(name, parquet({"text": TEXTS, "label": array}), used=used, check=names(*wanted), **options)


def texts(name: str, array: Any, used: int = 3, labels: list[str] = SECOND, **options: Any) -> Case:
    return file(name, parquet({"text": array, "label": labels}), used=used, **options)


def invalid(*values: bytes) -> Any:
    """Bytes that say they are UTF-8."""
    made = pa.array(list(values), pa.binary())
    return pa.Array.from_buffers(pa.string(), len(made), made.buffers())


def flipped(content: bytes, at: int) -> bytes:
    """Some bytes turned over."""
    return content[:at] + bytes(byte ^ 0xFF for byte in content[at : at + 16]) + content[at + 16 :]


PLAIN = parquet({"text": TEXTS * 500, "label": LABELS * 500})
DAY = datetime.date(2024, 1, 31)
MOMENT = datetime.datetime(2024, 1, 31, 12, 30)
TYPES = pa.table({"text": TEXTS, "label": LABELS})
STRUCTS = [{"a": 1, "b": None}, None, {"a": 2, "b": "x"}]

CASES = [
    file("plain", parquet(TYPES), used=3),
    *[file(f"compressed by {how}", parquet(TYPES, compression=how), used=3) for how in ("gzip", "zstd", "brotli", "lz4", "none")],
    file("format 1.0", parquet(TYPES, version="1.0"), used=3),
    file("pages of version 2", parquet(TYPES, data_page_version="2.0"), used=3),
    file("no dictionaries", parquet(TYPES, use_dictionary=False), used=3),
    file("a row group a row", parquet(TYPES, row_group_size=1), used=3),
    file("no rows", parquet(TYPES.slice(0, 0)), error=r"t\.parquet has columns \(text, label\) but no rows"),
    file("no row group", lambda path: pq.ParquetWriter(path, TYPES.schema).close(), error="but no rows"),
    file("no columns", parquet(pa.table({})), error=r"column 'text' is not in"),
    file("names twice", parquet(pa.table([TEXTS, TEXTS, LABELS], names=["text", "text", "label"])), error="columns 1 and 2 are both named 'text'"),
    file("spaces in names", parquet(pa.table([TEXTS, LABELS], names=[" text", "label "])), used=3),
    file("names with anything in them", parquet({"text": TEXTS, "label": LABELS, "a\nb\x1b[2J\u202e": TEXTS}), used=3),
    file("a name that is empty", parquet({"text": TEXTS, "label": LABELS, "": TEXTS}), used=3),
    file("a missing column", parquet({"txt": TEXTS, "label": LABELS}), error=r"column 'text' is not in .*Did you mean 'txt'\?"),
    # Labels of every type
    labels("booleans", [True, False, None], "false", "true", used=2, rejected={"no label": 1}),
    labels("small integers", pa.array([1, -2, 1], pa.int8()), "-2", "1"),
    labels("large integers", pa.array([2**64 - 1, 0, 0], pa.uint64()), "0", str(2**64 - 1)),
    labels("whole floats and NaN", [1.0, 2.0, float("nan")], "1", "2", used=2, rejected={"no label for any task": 1}),
    labels("half floats", pa.array([1.5, 2.5, 1.5], pa.float32()).cast(pa.float16()), "1.5", "2.5"),
    labels("decimals", [Decimal("1.50"), Decimal("-2.25"), Decimal("1.50")], "-2.25", "1.50"),
    labels("dates", [DAY, DAY.replace(day=1), DAY], "2024-01-01", "2024-01-31"),
    file("times", parquet({"text": TEXTS, "label": pa.array([1, 2, 1], pa.time64("us"))}), used=3),
    file("moments", parquet({"text": TEXTS, "label": [MOMENT, MOMENT.replace(year=1900), MOMENT]}), used=3),
    file("moments in a zone", parquet({"text": TEXTS, "label": pa.array([0, 1, 0], pa.timestamp("us", "Europe/Paris"))}), used=3),
    file("spans of time", parquet({"text": TEXTS, "label": pa.array([1, 2, 1], pa.duration("s"))}), used=3),
    labels("dictionaries", pa.array(LABELS).dictionary_encode(), "neg", "pos"),
    labels("large strings", pa.array(LABELS, pa.large_string()), "neg", "pos"),
    labels("views of strings", pa.array(LABELS, pa.string_view()), "neg", "pos"),
    labels("bytes", [b"pos", b"neg", b"pos"], "neg", "pos"),
    labels("bytes of one length", pa.array([b"pos", b"neg", b"pos"], pa.binary(3)), "neg", "pos"),
    labels("bytes that are no text", [b"pos", b"neg", b"\xff\x00"], "neg", "pos", used=2, rejected={"column 'label' is not valid UTF-8": 1}),
    labels("lists of several classes", [["x", "y"], [], ["x"]], "x", "y", tasks={"label": {"type": "multilabel"}}),
    file("lists for one class", parquet({"text": TEXTS, "label": [["x"], ["y"], ["x"]]}), used=3, check=names('["x"]', '["y"]')),
    file("records for classes", parquet({"text": TEXTS, "label": STRUCTS}), used=2, rejected={"no label for any task": 1}),
    file("maps for classes", parquet({"text": TEXTS, "label": pa.array([[("k", 1)], [("k", 2)], []], pa.map_(pa.string(), pa.int64()))}), used=3),
    file("a column of nothing", parquet({"text": TEXTS, "label": pa.nulls(3)}), error=r"3 of 3 rows cannot be used .*no label"),
    file("scores with NaN and infinity", parquet({"text": TEXTS, "score": [0.5, float("nan"), float("inf")]}), used=1, rejected={"no label for any task": 1, "score 'inf' is not a finite number": 1}, tasks=SCORE),
    file("scores as decimals", parquet({"text": TEXTS, "score": [Decimal("0.5"), Decimal("-1.0"), None]}), used=2, rejected={"no label": 1}, tasks=SCORE),
    # Texts of every type
    texts("numbers for texts", [1, 2, 3]),
    texts("lists for texts", [["a", "b"], ["c"], None], labels=LABELS, used=2, rejected={"column 'text' is empty": 1}),
    texts("records for texts", STRUCTS, used=2, rejected={"column 'text' is empty": 1}),
    texts("a dictionary with nothing in it", pa.array(["a", None, "b"]).dictionary_encode(), used=2, rejected={"is empty": 1}),
    file("no text at all", parquet({"text": pa.nulls(3), "label": LABELS}), error="3 of 3 rows cannot be used"),
    texts("text that is no UTF-8", invalid(b"a", b"\xff\xfe", b"b"), used=2, rejected={"column 'text' is not valid UTF-8": 1}),
    file("a dictionary that is no UTF-8", parquet({"text": pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), invalid(b"a", b"\xff")), "label": SECOND}), error="broken after row 0 .*UTF8"),
    texts("NUL", ["a", "b\0c", "d"], used=2, rejected={"column 'text' holds a NUL character": 1}),
    # Columns beside
    beside("pictures beside", [b"\x89PNG\r\n\x1a\n\0\0", b"\xff\xd8\xff", None]),
    beside("moments far away beside", pa.array([2**62, -(2**62), 0], pa.timestamp("us"))),
    beside("zones that do not exist beside", pa.array([0, 1, 2], pa.timestamp("us", "Mars/Olympus"))),
    beside("two fields of one name beside", pa.StructArray.from_arrays([pa.array([1, 2, 3]), pa.array([4, 5, 6])], names=["a", "a"])),
    beside("lists in lists in lists beside", [[[[1], []]], [[]], None]),
    beside("text that is no UTF-8 beside", invalid(b"a", b"b", b"c")),
    file("broken text beside", parquet({"text": TEXTS, "label": LABELS, "more": invalid(b"a", b"b", b"\xff")}), used=2, rejected={"column 'more' is not valid UTF-8": 1}),
    # What is no parquet
    file("empty", b"", error=r"t\.parquet is empty"),
    file("its mark alone", b"PAR1", error=BROKEN),
    file("its mark twice", b"PAR1PAR1", error=BROKEN),
    file("an encrypted footer", b"PARE" + b"\0" * 100 + b"\x10\0\0\0PARE", error=BROKEN),
    file("a footer longer than the file", b"PAR1" + b"\0" * 20 + b"\xff\xff\xff\x7fPAR1", error=BROKEN),
    file("cut in the middle", PLAIN[: len(PLAIN) // 2], error=BROKEN),
    file("without its last byte", PLAIN[:-1], error=BROKEN),
    file("without its first byte", PLAIN[1:], error=BROKEN),
    file("broken in the data", flipped(PLAIN, 40), error=r"broken after row|not a parquet|cannot be used"),
    file("broken in the footer", flipped(PLAIN, len(PLAIN) - 8 - int.from_bytes(PLAIN[-8:-4], "little")), error=BROKEN),
    file("a csv", BASE, error=BROKEN),
    file("lines of json", GOOD, error=BROKEN),
    file("a feather", lambda path: pa.ipc.new_file(path, TYPES.schema).close(), error=BROKEN),
    file("zeros", bytes(4096), error=BROKEN),
    file("parquet under the name of a csv", PLAIN, file="t.csv", error=r"t\.csv is a parquet file\. Let its name end with \.parquet"),
    file("parquet under the name of lines", PLAIN, file="t.jsonl", error=r"t\.jsonl is a parquet file"),
    file("parquet, gzipped", PLAIN, file="t.parquet.gz", error=r"cannot read files of kind '\.parquet\.gz'"),
]  # fmt: skip
