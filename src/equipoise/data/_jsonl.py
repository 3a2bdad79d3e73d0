"""JSON lines: one object a line.

The columns are the keys of the first 1,000 objects. A key that comes later is a column only if the caller says that it
needs it; any other late key is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TextIO

from equipoise.data._table import BATCH_CHARACTERS, RowBatch, Table, build_batch, check_columns, file_errors, open_text
from equipoise.errors import DataError

__all__ = ["open_jsonl"]

_LOOK_AHEAD = 1_000


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
        columns = _columns(file, name, needed)

    def batches() -> Iterator[RowBatch]:
        lines_read = 0
        with file_errors(name, lambda: lines_read), open_text(path, name, newline="\n") as file:
            for batch in _batches(file, columns, batch_rows):
                lines_read = batch.lines[-1]
                yield batch

    return Table(name, columns, batches)


def _columns(file: TextIO, name: str, needed: Sequence[str]) -> list[str]:
    seen: dict[str, None] = {}
    lines, first_error = 0, ""
    for line in file:
        if not line.strip():
            continue
        lines += 1
        value = _parse(line)
        if isinstance(value, dict):
            # Past the look-ahead only what is needed still becomes a column.
            seen.update(dict.fromkeys(value if lines <= _LOOK_AHEAD else [key for key in needed if key in value]))
        else:
            first_error = first_error or value
        if lines >= _LOOK_AHEAD and (not seen or all(key in seen for key in needed)):
            break
    if not lines:
        raise DataError(f"{name} is empty.")
    if not seen:
        raise DataError(
            f"{name}: none of the first {lines} lines holds a JSON object with keys "
            f"({first_error or 'only {}'}). Write one object a line."
        )
    check_columns(name, list(seen))
    return list(seen)


def _batches(file: TextIO, columns: list[str], batch_rows: int) -> Iterator[RowBatch]:
    cells: list[list[str | None]] = [[] for _ in columns]
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    errors: dict[int, str] = {}
    characters = 0
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        value = _parse(line)
        if not isinstance(value, dict):
            errors[len(lines)] = value
            value = {}
        for column, values in zip(columns, cells, strict=True):
            values.append(_cell(value.get(column)))
        records.append(value)
        lines.append(number)
        characters += len(line)
        if len(lines) >= batch_rows or characters >= BATCH_CHARACTERS:
            yield replace(build_batch(columns, cells, lines, errors), records=records)
            cells, records, lines, errors, characters = [[] for _ in columns], [], [], {}, 0
    if lines:
        yield replace(build_batch(columns, cells, lines, errors), records=records)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value; write null")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _parse(line: str) -> dict[str, Any] | str:
    """The object, or why there is none."""
    try:
        value = _DECODER.decode(line.strip())
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at character {error.pos + 1}"
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    if not isinstance(value, dict):
        names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
        return f"not a JSON object but {names.get(type(value), 'a number')}"
    return value


def _cell(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (list, dict, bool)):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)
