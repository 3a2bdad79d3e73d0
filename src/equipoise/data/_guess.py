"""A first look at a table that nobody has described yet: which column is the text, which ones are tasks, and why."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from equipoise.data._readers import open_table
from equipoise.data._relations import explained_by
from equipoise.data._table import nothing_to_read
from equipoise.errors import DataError
from equipoise.tasks._labels import NUMBER

__all__ = ["Column", "Guess", "guess"]

Role = Literal["text", "score", "class", "multilabel", "ordinal", "ignored"]

_ROWS = 5_000
# Of very wide tables fewer rows are looked at, and of very long texts: so many cells and characters at most.
_CELLS = 2_000_000
_CHARACTERS = 1 << 26
#: In tables with more columns that can be learned, nobody looks for pairs that say the same.
_MOST_RELATED = 50
_MOST_CLASSES = 50
_TEXT_WORDS = 3.0
_LABEL_WORDS = 4.0
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([T ].*)?|\d{1,2}[./]\d{1,2}[./]\d{2,4}( .*)?")
_NUMBER = re.compile(NUMBER)
_SPLITS = {"train", "training", "validation", "valid", "val", "dev", "test", "eval"}
_ID_NAME = re.compile(r"(^|[_\W])(id|ids|idx|index|row|nr|uuid|guid|start|end|offset|year|timestamp)$", re.IGNORECASE)
_RANGES = [(0, 1), (-1, 1), (1, 5), (0, 5), (-3, 3), (1, 7), (1, 9), (1, 10), (0, 10), (-5, 5), (-10, 10), (0, 100)]
_RANGES += [(-100, 100)]


@dataclass(frozen=True)
class Column:
    """A column and what it seems to be.

    Attributes:
        name: its name in the table.
        role: what to use it for.
        why: one sentence.
        settings: what its task needs beside type and column.
        note: what to think about before it is used; "" where there is nothing.
    """

    name: str
    role: Role
    why: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Guess:
    """What a table seems to hold.

    Attributes:
        columns: every column, in the table's order.
        rows: how many rows were looked at.
        broken: how many of them could not be read, and were passed over.
        words: the number of words that 95 % of the texts do not exceed.
    """

    columns: list[Column]
    rows: int
    broken: int
    words: int

    @property
    def text(self) -> Column:
        """The text column."""
        return next(column for column in self.columns if column.role == "text")

    @property
    def tasks(self) -> list[Column]:
        """The columns that can be learned."""
        return [column for column in self.columns if column.role not in ("text", "ignored")]

    @property
    def ignored(self) -> list[Column]:
        """The columns that are left out."""
        return [column for column in self.columns if column.role == "ignored"]


def guess(path: str | Path) -> Guess:
    """Looks at the first 5,000 rows of a table (fewer of a very wide one) and says what its columns are good for.

    Args:
        path: a table as `open_table` takes it.

    Raises:
        DataError: the table cannot be read, or has no text column, or nothing to learn; the message says what it has.
    """
    values, broken = _first_rows(path)
    rows = len(next(iter(values.values())))
    text = _text_column(values)
    if text is None:
        shown = "; ".join(f"'{name}': {_look(name, cells).why}" for name, cells in values.items())
        raise DataError(
            f"{path}: no column looks like text ({_TEXT_WORDS:g} words or more on average, hardly repeated). Seen: {shown}."
        )
    columns = [_text(name, cells) if name == text else _look(name, cells) for name, cells in values.items()]
    if sum(column.role not in ("text", "ignored") for column in columns) <= _MOST_RELATED:
        columns = _related(columns, values)
    result = Guess(columns, rows + broken, broken, _percentile_words(values[text]))
    if not result.tasks:
        shown = "; ".join(f"'{column.name}': {column.why}" for column in columns)
        raise DataError(f"{path}: no column can be learned, neither a score nor classes. Seen: {shown}.")
    return result


def _first_rows(path: str | Path) -> tuple[dict[str, list[str | None]], int]:
    table = open_table(path)
    values: dict[str, list[str | None]] = {name: [] for name in table.columns}
    most = max(1, min(_ROWS, _CELLS // max(len(values), 1)))
    broken = seen = size = 0
    for batch in table:
        rows = batch.rows.slice(0, most - seen)
        broken += sum(position < rows.num_rows for position in batch.errors)
        for name, cells in zip(values, rows.columns, strict=True):
            values[name] += [
                None if cell is None or nothing_to_read(cell) else cell.strip()
                for position, cell in enumerate(cells.to_pylist())
                if position not in batch.errors
            ]
        seen += rows.num_rows
        size += rows.nbytes
        if seen >= most or size >= _CHARACTERS:
            break
    if not values or not next(iter(values.values())):
        raise DataError(f"{path}: none of the first {seen} rows can be read.")
    return values, broken


def _words(cells: Sequence[str]) -> float:
    return sum(len(cell.split()) for cell in cells) / max(len(cells), 1)


def _percentile_words(cells: Sequence[str | None]) -> int:
    lengths = sorted(len(cell.split()) for cell in cells if cell)
    return lengths[int(0.95 * (len(lengths) - 1))]


def _text_column(values: Mapping[str, Sequence[str | None]]) -> str | None:
    candidates: dict[str, float] = {}
    for name, cells in values.items():
        filled = [cell for cell in cells if cell]
        repeated = len(set(filled)) <= len(filled) / 5
        if name and filled and not repeated and _words(filled) >= _TEXT_WORDS and not _is_date(filled):
            candidates[name] = _words(filled)
    return max(candidates, key=lambda name: candidates[name]) if candidates else None


def _text(name: str, cells: Sequence[str | None]) -> Column:
    filled = [cell for cell in cells if cell]
    return Column(name, "text", f"the longest texts: {_words(filled):.0f} words on average")


def _is_date(cells: Sequence[str]) -> bool:
    return sum(_DATE.fullmatch(cell) is not None for cell in cells) >= 0.95 * len(cells)


def _look(name: str, cells: Sequence[str | None]) -> Column:
    """What a column that is not the text is good for."""
    filled = [cell for cell in cells if cell]
    distinct = Counter(filled)
    share = "" if len(filled) == len(cells) else f", in {len(filled)} of {len(cells)} rows"
    if not filled:
        return Column(name, "ignored", "empty")
    if not name:
        return Column(name, "ignored", "has no name; give it one to use it")
    if len(distinct) == 1:
        return Column(name, "ignored", f"the same in every row: {_shown(filled[0])}")
    if {value.casefold() for value in distinct} <= _SPLITS:
        return Column(name, "ignored", "names the split; give the parts as files of their own to use it")
    if _is_date(filled):
        return Column(name, "ignored", "dates")
    if all(cell.startswith(("http://", "https://")) for cell in filled):
        return Column(name, "ignored", "addresses")
    numbers = [number for cell in filled if (number := _number(cell)) is not None]
    if len(numbers) >= 0.98 * len(filled):
        return _numeric(name, numbers, len(filled) - len(numbers), share)
    several = _multilabel(name, filled, distinct, share)
    if several is not None:
        return several
    if len(distinct) == len(filled):
        return Column(name, "ignored", f"different in every row{share}")
    if len(distinct) > _MOST_CLASSES or len(distinct) > len(filled) / 2 or _words(list(distinct)) > _LABEL_WORDS:
        pair = ". It may be the other half of a pair of texts" if _words(filled) >= 1.2 else ""
        return Column(
            name, "ignored", f"{len(distinct)} distinct values{share}: too many or too long for classes{pair}"
        )
    return Column(name, "class", f"{len(distinct)} classes{share}: {_counts(distinct)}")


def _number(cell: str) -> float | None:
    if not _NUMBER.match(cell):  # as labels are read in training: Python itself would take 1_000 for a number
        return None
    number = float(cell)
    return number if abs(number) < float("inf") else None


def _numeric(name: str, numbers: Sequence[float], bad: int, share: str) -> Column:
    distinct = Counter(numbers)
    whole = all(number.is_integer() for number in distinct)
    note = f"{bad} cells are no numbers and will be rejected" if bad else ""
    if whole and len(distinct) == len(numbers) and len(numbers) > 10:
        return Column(name, "ignored", "a whole number that differs in every row: an identifier")
    if whole and len(distinct) > 10 and _ID_NAME.search(name):
        return Column(name, "ignored", "its name and whole numbers make it an identifier or a position")
    shown = _counts(Counter({f"{value:g}": count for value, count in sorted(distinct.items())}), order=False)
    if whole and len(distinct) == 2:
        return Column(name, "class", f"2 classes{share}: {shown}", note=note)
    if whole and len(distinct) <= 10 and len(distinct) < len(numbers):
        return Column(name, "ordinal", f"{len(distinct)} whole numbers, like stars{share}: {shown}", note=note)
    if len(distinct) == 2:
        return Column(name, "class", f"2 classes{share}: {shown}", note=note)
    low, high = min(distinct), max(distinct)
    range_ = _range(low, high)
    why = f"{len(distinct)} distinct numbers from {low:g} to {high:g}{share}"
    if whole:
        note = "; ".join(
            part for part in (note, "whole numbers: delete the task if they count or number something") if part
        )
    return Column(name, "score", why, {"range": range_}, note)


def _range(low: float, high: float) -> list[float]:
    """The narrowest usual range that holds the scores, if they fill half of it; else their own."""
    fitting = [r for r in _RANGES if r[0] <= low and high <= r[1] and high - low >= (r[1] - r[0]) / 2]
    best = min(fitting, key=lambda r: r[1] - r[0], default=(low, high))
    return [int(end) if float(end).is_integer() else end for end in best]


def _multilabel(name: str, filled: Sequence[str], distinct: Counter[str], share: str) -> Column | None:
    """Cells that hold several labels each, drawn from few."""
    if all(cell.startswith("[") and cell.endswith("]") for cell in filled):
        try:
            lists = [[str(part) for part in json.loads(cell)] for cell in filled]
        except (ValueError, TypeError, RecursionError):
            return None
        return _several(name, lists, "JSON lists", {}, share)
    for separator in "|;,":
        if sum(separator in cell for cell in filled) >= 0.1 * len(filled):
            lists = [[part.strip() for part in cell.split(separator) if part.strip()] for cell in filled]
            column = _several(name, lists, f"separated by '{separator}'", {"separator": separator}, share)
            if column is not None and len({part for parts in lists for part in parts}) <= len(distinct):
                return column
    return None


def _several(
    name: str, lists: Sequence[Sequence[str]], how: str, settings: dict[str, Any], share: str
) -> Column | None:
    parts = Counter(part for labels in lists for part in labels)
    recur = bool(parts) and sum(parts.values()) >= 3 * len(parts)
    if not recur or not 2 <= len(parts) <= _MOST_CLASSES or _words(list(parts)) > 3:
        return None
    return Column(name, "multilabel", f"several of {len(parts)} labels a row, {how}{share}: {_counts(parts)}", settings)


def _related(columns: Sequence[Column], values: Mapping[str, Sequence[str | None]]) -> list[Column]:
    """Leaves out columns that repeat another one, and says of class columns what they follow from."""
    result = list(columns)
    for position, column in enumerate(result):
        twin = _twin(position, result, values)
        if twin is not None:
            result[position] = Column(column.name, "ignored", f"says the same as '{twin}', value for value")
    for position, column in enumerate(result):
        if column.role not in ("class", "ordinal"):
            continue
        for other in result:
            if other.name == column.name or other.role not in ("class", "ordinal", "score"):
                continue
            relation = explained_by(values[column.name], values[other.name], scores=other.role == "score")
            if relation is not None:
                note = f"{relation.text.format(other=other.name)}, so it adds a view of it and no information"
                result[position] = replace(column, note="; ".join(part for part in (column.note, note) if part))
                break
    return result


def _twin(position: int, columns: Sequence[Column], values: Mapping[str, Sequence[str | None]]) -> str | None:
    """The column that says the same and is kept: names rather than numbers, else the one that comes first."""
    mine = columns[position]
    for other_position, other in enumerate(columns):
        if other is mine or mine.role in ("text", "ignored", "multilabel"):
            continue
        if other.role in ("text", "ignored", "multilabel") or (mine.role == "score") != (other.role == "score"):
            continue
        loses = (_is_numeric(values[mine.name]), position) > (_is_numeric(values[other.name]), other_position)
        relation = explained_by(values[mine.name], values[other.name], scores=False) if loses else None
        if relation is not None and relation.one_to_one:
            return other.name
    return None


def _is_numeric(cells: Sequence[str | None]) -> bool:
    return all(_number(cell) is not None for cell in cells if cell)


def _counts(counts: Counter[str], *, order: bool = True, most: int = 6) -> str:
    items = counts.most_common() if order else list(counts.items())
    more = ", ..." if len(items) > most else ""
    return ", ".join(f"{_shown(value)} {count}" for value, count in items[:most]) + more


def _shown(value: str) -> str:
    return value if len(value) <= 30 else value[:29] + "…"
