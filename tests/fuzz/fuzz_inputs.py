"""Where inputs come from: pieces that have broken readers before, put together, and sound files with damage done to them."""

# ruff: noqa: E501  (one case a line)
from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

__all__ = [
    "csv_tables", "damaged", "json_lines", "json_values", "mappings", "parquet_tables", "plain_tables", "sidecars", "yaml_texts",
]  # fmt: skip

PIECES = [
    "", " ", "a", "good words here", "bad words there", "pos", "neg", "0.5", "-0.5", "-1e-3", "1,5", "1e999", "nan", "inf", "NA",
    "null", "None", "true", "[]", '["pos"]', '["pos", 1]', "pos|neg", "|", "=1+1", "+3%", "-5 p", "@x", "\t", "\r", "\n", "\r\n", '"',
    '""', "'", ",", ";", "\\", "\0", "\ufeff", "\u200b", "\u202e", "\u2028", "\x85", "\x1b[2J", "é", "e\u0301", "😀", "\ud800", "\udce9",
    "{", "}", "[", "]", ":", "#", "- ", "<<", "&a", "*a", "!!int", "!!set", "!!binary", "? ", "| ", "%", "@", "`", "~", "---", "...",
    "1" * 400, "x" * 300, "2024-01-31", "0x1", "1_0", "١", "＝1",
]  # fmt: skip

pieces = st.one_of(st.sampled_from(PIECES), st.text(max_size=6))
cells = st.one_of(st.sampled_from(PIECES), st.lists(pieces, max_size=3).map("".join))
names = st.one_of(
    st.sampled_from(["text", "label", "score", "", " text", "Text", "length", "error", "=a", "a\nb"]), cells
)
headers = st.one_of(st.just(["text", "label", "score"]), st.lists(names, max_size=5))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@st.composite
def plain_tables(draw: Callable[..., Any]) -> tuple[list[str], list[list[str]]]:
    """A header and rows, most of them as wide."""
    header = draw(headers)
    row = st.lists(cells, min_size=len(header), max_size=len(header))
    rows = draw(st.lists(st.one_of(row, row, row, st.lists(cells, max_size=4)), max_size=6))
    return header, rows


@st.composite
def csv_tables(draw: Callable[..., Any], delimiter: str = ",") -> bytes:
    """Written well, written badly, and with bytes put in."""
    header, rows = draw(plain_tables())
    ends = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\r"]))
    if draw(st.booleans()):
        sink = io.StringIO()
        csv.writer(sink, delimiter=delimiter, lineterminator=ends, quoting=csv.QUOTE_ALL).writerows([header, *rows])
        text = sink.getvalue()
    else:
        text = ends.join(delimiter.join(row) for row in [header, *rows]) + draw(st.sampled_from(["", ends]))
    data = _bytes(draw(st.sampled_from(["", "", "\ufeff", ends])) + text)
    return draw(damaged(data)) if draw(st.booleans()) else data


@st.composite
def damaged(draw: Callable[..., Any], data: bytes, most: int = 4) -> bytes:
    """Bytes changed, cut out, put in, doubled, or the end cut off."""
    found = bytearray(data)
    for _ in range(draw(st.integers(0, most))):
        at = draw(st.integers(0, max(len(found), 1)))
        how = draw(st.integers(0, 5))
        if how == 0:
            found[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif how == 1:
            del found[at : at + draw(st.integers(1, 16))]
        elif how == 2:
            found[at:at] = draw(
                st.sampled_from([b"\0", b"\xff", b'"', b"\n", b"\x80", b"\xff\xff\xff\xff", b"{", b"["])
            )
        elif how == 3:
            found[at:at] = found[at : at + draw(st.integers(1, 40))]
        elif how == 4 and draw(st.integers(0, 3)) == 0:
            del found[at:]
        else:
            found[at : at + 1] = bytes([found[at] ^ (1 << draw(st.integers(0, 7)))]) if at < len(found) else b""
    return bytes(found)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.integers(),
    st.floats(),
    cells,
    st.sampled_from(["text", "label", "mse"]),
)
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=5,
)


@st.composite
def json_lines(draw: Callable[..., Any]) -> bytes:
    """Objects, and lines that are none."""
    keys = draw(headers) or ["text"]
    lines = []
    for _ in range(draw(st.integers(0, 6))):
        how = draw(st.integers(0, 9))
        if how < 8:
            lines.append(json.dumps({key: draw(json_values) for key in keys}, ensure_ascii=how < 4))
        elif how == 8:
            lines.append(draw(cells))
        else:
            lines.append(json.dumps(draw(json_values)))
    data = _bytes("\n".join(lines) + draw(st.sampled_from(["", "\n"])))
    return draw(damaged(data)) if draw(st.booleans()) else data


_TYPES: list[tuple[Any, Any]] = [
    (pa.string(), st.text(st.characters(exclude_categories=["Cs"]), max_size=6)),
    (pa.large_string(), st.sampled_from([one for one in PIECES if one.isprintable()])),
    (pa.binary(), st.binary(max_size=4)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.uint8(), st.integers(0, 255)),
    (pa.float64(), st.floats()),
    (pa.float32(), st.floats(width=32)),
    (pa.bool_(), st.booleans()),
    (pa.date32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.timestamp("us"), st.integers(-(2**63), 2**63 - 1)),
    (pa.timestamp("ns", "UTC"), st.integers(-(2**63), 2**63 - 1)),
    (pa.duration("ms"), st.integers(-(2**40), 2**40)),
    (pa.time64("us"), st.integers(0, 86_399_999_999)),
    (pa.list_(pa.string()), st.lists(st.sampled_from(["pos", "neg", "", "=x"]), max_size=3)),
    (pa.list_(pa.float64()), st.lists(st.floats(), max_size=2)),
    (
        pa.struct([("a", pa.int8()), ("b", pa.binary())]),
        st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.binary(max_size=2)}),
    ),
    (pa.map_(pa.string(), pa.int8()), st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 9)), max_size=2)),
    (pa.null(), st.none()),
]


@st.composite
def parquet_tables(draw: Callable[..., Any]) -> bytes:
    """A sound file of any types."""
    rows = draw(st.integers(0, 5))
    columns = {}
    for name in draw(
        st.one_of(
            st.just(["text", "label", "score"]),
            st.lists(st.sampled_from(["text", "label", " label", "more", ""]), unique=True),
        )
    ):
        type_, values = draw(st.sampled_from(_TYPES))
        cells_ = draw(st.lists(st.one_of(st.none(), values), min_size=rows, max_size=rows))
        if pa.types.is_temporal(type_):
            width = pa.int32() if type_ == pa.date32() else pa.int64()
            columns[name] = pa.array(cells_, width).cast(type_, safe=False)
        else:
            columns[name] = pa.array(cells_, type_)
            if draw(st.integers(0, 3)) == 0 and type_ in (pa.string(), pa.int64()):
                columns[name] = columns[name].dictionary_encode()
    sink = io.BytesIO()
    pq.write_table(
        pa.table(columns), sink, row_group_size=draw(st.sampled_from([1, 2, 100])),
        compression=draw(st.sampled_from(["none", "snappy", "zstd"])), data_page_version=draw(st.sampled_from(["1.0", "2.0"])),
    )  # fmt: skip
    return sink.getvalue()


def sound_parquet() -> list[bytes]:
    """Small files to damage."""
    found = []
    for options in (
        {"compression": "none"},
        {"compression": "snappy"},
        {"compression": "none", "use_dictionary": False},
    ):
        sink = io.BytesIO()
        table = pa.table(
            {
                "text": ["good words", None, "bad"],
                "label": ["pos", "neg", "pos"],
                "score": [0.5, None, -1.0],
                "more": [["a"], [], None],
            }
        )
        pq.write_table(table, sink, **options)
        found.append(sink.getvalue())
    return found


SOUND_CSV = b'text,label,score\n"good, words",pos,0.5\nbad words,neg,-1\n"two\nlines",pos,\n'
SOUND_GZIP = gzip.compress(SOUND_CSV, mtime=0)

SOUND_RECIPE = {
    "model": {"backbone": "minilm", "pooling": "auto", "max_length": 64, "adapter": {"type": "lora", "rank": 4}},
    "data": {"train": "t.csv", "validation": 0.1, "test": None, "text": "text", "max_rejected": 0.05},
    "tasks": {
        "polarity": {"type": "regression", "column": "score", "range": [-1, 1]},
        "label": {"type": "classification", "labels": ["neg", "pos"], "class_weights": "balanced"},
        "band": {"type": "classification", "from": "polarity", "bins": 3},
        "stars": {"type": "ordinal"},
        "tags": {"type": "multilabel", "separator": "|"},
    },
    "balance": {"method": "dao", "smoothing": 0.9},
    "training": {"epochs": 2, "batch_size": 8, "seed": 0, "arguments": {}},
    "output": "runs/x",
}

SOUND_SIDECAR = {
    "format_version": 1, "backbone": "minilm", "revision": None, "pooling": "native", "max_length": 64, "text": ["text"],
    "private_layers": 0, "private_modules": [],
    "tasks": [
        {"outputs": [0, 1], "kind": "regression", "name": "polarity", "column": "score", "range": [-1.0, 1.0], "offset": 0.0,
         "scale": 1.0, "loss": "mse", "huber_delta": 1.0},
        {"outputs": [1, 3], "kind": "classification", "name": "label", "column": "label", "labels": ["neg", "pos"], "casefold": False,
         "weights": [1.0, 2.0], "label_smoothing": 0.0, "thresholds": None, "source": None},
        {"outputs": [3, 5], "kind": "classification", "name": "band", "column": "score", "labels": ["bin1", "bin2"], "casefold": False,
         "weights": None, "label_smoothing": 0.0, "thresholds": [0.25],
         "source": {"kind": "regression", "name": "polarity", "column": "score", "range": None, "offset": 0.0, "scale": 1.0,
                    "loss": "huber", "huber_delta": 1.0, "label_weights": {"low": -1.0, "per_unit": 2.0, "weights": [1.0, 1.0]}}},
        {"outputs": [5, 7], "kind": "ordinal", "name": "stars", "column": "stars", "labels": ["1", "2", "3"]},
        {"outputs": [7, 9], "kind": "multilabel", "name": "tags", "column": "tags", "labels": ["x", "y"], "separator": "|",
         "empty": None, "threshold": 0.5},
    ],
}  # fmt: skip


@st.composite
def changed(draw: Callable[..., Any], sound: Any, most: int = 3) -> Any:
    """A sound value with a few of its parts replaced, removed or added, at any depth."""
    found = json.loads(json.dumps(sound))
    for _ in range(draw(st.integers(0, most))):
        node = found
        while isinstance(node, dict | list) and node and draw(st.integers(0, 4)):
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and node[key] and draw(st.integers(0, 3)):
                node = node[key]
                continue
            how = draw(st.integers(0, 4))
            if how == 0:
                del node[key]
            elif how == 1 and isinstance(node, dict):
                node[draw(names)] = draw(json_values)
            elif how == 1:
                node.insert(key, draw(json_values))
            else:
                node[key] = draw(json_values)
            break
    return found


def mappings() -> st.SearchStrategy[Any]:
    """Recipes as Python has them."""
    return st.one_of(changed(SOUND_RECIPE), changed(SOUND_RECIPE), st.dictionaries(names, json_values, max_size=4))


@st.composite
def sidecars(draw: Callable[..., Any]) -> bytes:
    """`multitask.json`, changed as JSON or as bytes."""
    data = json.dumps(draw(changed(SOUND_SIDECAR)), indent=draw(st.sampled_from([None, 2]))).encode()
    return draw(damaged(data)) if draw(st.integers(0, 3)) == 0 else data


@st.composite
def yaml_texts(draw: Callable[..., Any]) -> bytes:
    """Recipes as text: written by a YAML writer, pieced together, or damaged."""
    import yaml

    how = draw(st.integers(0, 3))
    if how < 2:
        text = yaml.safe_dump(
            draw(mappings()),
            allow_unicode=draw(st.booleans()),
            default_flow_style=draw(st.sampled_from([None, True, False])),
        )
        data = _bytes(text)
    else:
        keys = st.sampled_from(
            ["data:", "tasks:", "train:", "text:", "label:", "type:", "balance:", "training:", "model:", "a:"]
        )
        line = st.tuples(
            st.sampled_from(["", "  ", "    ", "- "]),
            st.one_of(keys, cells),
            st.sampled_from([" ", "\n"]),
            st.one_of(cells, keys),
        )
        data = _bytes("\n".join("".join(parts) for parts in draw(st.lists(line, max_size=8))))
    return draw(damaged(data)) if draw(st.booleans()) else data
