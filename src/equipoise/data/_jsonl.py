"""JSON lines: one object a line.

The columns are the keys of the first 1,000 objects. A key that comes later is a column only if the caller says that it
needs it; any other late key is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa

from equipoise.data._table import (
    BATCH_CHARACTERS,
    CELL_COST,
    MOST_COLUMNS,
    RowBatch,
    Table,
    build_batch,
    check_columns,
    file_errors,
)
from equipoise.data._text_files import LINE_CHARACTERS, Lines, LongLine, open_text
from equipoise.errors import DataError

__all__ = ["open_jsonl"]

_LOOK_AHEAD = 1_000
#: Deeper objects come from no one who writes tables, and Python's own limit depends on who calls.
_DEPTH = 100

Keys = dict[str, str]  # column -> the key as it stands in the file, perhaps with white space around it


def open_jsonl(path: Path, name: str, *, batch_rows: int, needed: Sequence[str]) -> Table:
    """Opens a file of JSON lines.

    Args:
        path: the file.
        name: the file as the user wrote it.
        batch_rows: rows a batch.
        needed: columns to look for beyond the first 1,000 objects where those lack them.

    Raises:
        DataError: the file cannot be read, is empty, or none of its first 1,000 lines is a JSON object.
    """
    with file_errors(name), open_text(path, name, newline="\n") as file:
        keys = _keys(Lines(file, "\n"), name, needed)

    def batches() -> Iterator[RowBatch]:
        lines_read = 0
        with file_errors(name, lambda: lines_read), open_text(path, name, newline="\n") as file:
            for batch in _batches(Lines(file, "\n"), keys, batch_rows):
                lines_read = batch.lines[-1]
                yield batch

    return Table(name, list(keys), batches)


def _values(lines: Lines) -> Iterator[tuple[dict[str, Any] | str, int]]:
    """Each object, or why there is none, and how many characters it has. Blank lines are passed over."""
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except LongLine:
            yield f"a line is longer than {LINE_CHARACTERS} characters", 0
            continue
        if line.strip():
            yield _parse(line), len(line)


def _keys(lines: Lines, name: str, needed: Sequence[str]) -> Keys:
    seen: dict[str, None] = {}
    count, first_error = 0, ""
    for count, (value, _) in enumerate(_values(lines), 1):
        if isinstance(value, dict):
            # Past the look-ahead only what is needed still becomes a column.
            seen.update(dict.fromkeys(value if count <= _LOOK_AHEAD else [key for key in needed if key in value]))
        else:
            first_error = first_error or value
        if len(seen) > MOST_COLUMNS:
            break
        if count >= _LOOK_AHEAD and (not seen or all(key in seen for key in needed)):
            break
    if not count:
        raise DataError(f"{name} is empty.")
    if not seen:
        raise DataError(
            f"{name}: none of the first {count} lines holds a JSON object with keys "
            f"({first_error or 'only {}'}). Write one object a line."
        )
    return dict(zip(check_columns(name, list(seen)), seen, strict=True))


def _batches(lines: Lines, keys: Keys, batch_rows: int) -> Iterator[RowBatch]:
    records: list[dict[str, Any]] = []
    starts: list[int] = []
    errors: dict[int, str] = {}
    weight = 0
    for value, characters in _values(lines):
        if not isinstance(value, dict):
            errors[len(starts)] = value
            value = {}
        records.append(value)
        starts.append(lines.number)
        weight += characters + CELL_COST * len(keys)
        if len(starts) >= batch_rows or weight >= BATCH_CHARACTERS:
            yield _batch(records, keys, starts, errors)
            records, starts, errors, weight = [], [], {}, 0
    if starts:
        yield _batch(records, keys, starts, errors)


def _batch(records: list[dict[str, Any]], keys: Keys, starts: list[int], errors: dict[int, str]) -> RowBatch:
    held = {key for record in records for key in record}
    nothing = pa.nulls(len(records), pa.string())  # of many keys that are columns, most may be in no row of these
    cells = [[_cell(record.get(key)) for record in records] if key in held else nothing for key in keys.values()]
    return replace(build_batch(list(keys), cells, starts, errors), records=records)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value; write null")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # the last one would win, and the first be lost without a word
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key '{key[:60]}' stands twice")
            seen.add(key)
    return found


_DECODER = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_object)


def _parse(line: str) -> dict[str, Any] | str:
    """The object, or why there is none."""
    try:
        value = _DECODER.decode(line.strip())
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at character {error.pos + 1}"
    except RecursionError:
        return f"not JSON: nested more than {_DEPTH} levels deep"
    except ValueError as error:
        digits = str(error).startswith("Exceeds the limit")  # Python reads no number of more than 4,300
        return f"not JSON: {'a number has too many digits' if digits else error}"
    if not isinstance(value, dict):
        names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
        return f"not a JSON object but {names.get(type(value), 'a number')}"
    return f"not JSON: nested more than {_DEPTH} levels deep" if _too_deep(value) else value


def _too_deep(value: dict[str, Any]) -> bool:
    level: list[Any] = [value]
    for _ in range(_DEPTH):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def _cell(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (list, dict, bool)):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)
