"""Reading label columns: texts, numbers, class names.

A label is read without the white space around it, and a blank one is a missing one. Columns of millions of rows are read
by Arrow, or once per distinct value; only labels that cannot be used are touched one by one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator

from equipoise.errors import DataError
from equipoise.tasks._base import Encoded

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
# Targets are float32; a greater number would silently become infinite.
LARGEST = float(np.finfo(np.float32).max)
# Longer runs of digits are no class numbers, and Python refuses to read very long ones.
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)


def as_text(labels: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Labels as one array of trimmed text, null where missing or blank."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = labels.cast(pa.large_string())
    if isinstance(text, pa.ChunkedArray):
        text = text.combine_chunks()
    text = pc.utf8_trim_whitespace(text)
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.large_string()), text)


def distinct(labels: pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """The distinct labels, and for each row which of them it carries (-1: none)."""
    encoded = as_text(labels).dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, encoded.dictionary.to_pylist()


def read_numbers(
    labels: pa.Array | pa.ChunkedArray, column: str, range_: tuple[float, float] | None = None
) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Labels as numbers.

    Args:
        labels: `[n]` strings or null.
        column: what the reasons call the label.
        range_: the least and the greatest number that is allowed.

    Returns:
        `[n]`, NaN where missing or unusable, and position -> why a label cannot be used.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    text = as_text(labels)
    numeric = pc.match_substring_regex(text, NUMBER)
    digits = pc.if_else(numeric, text, pa.scalar(None, pa.large_string()))
    values = pc.cast(digits, pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    usable = np.abs(values) <= LARGEST
    if range_ is not None:
        usable &= (values >= range_[0]) & (values <= range_[1])
    present = text.is_valid().to_numpy(zero_copy_only=False)
    reasons: dict[int, str] = {}
    bad = np.flatnonzero(present & ~usable)
    for position, label in zip(bad.tolist(), text.take(pa.array(bad)).to_pylist(), strict=True):
        what = f"{column} {quoted(label)}"
        if _NOT_FINITE.fullmatch(label):
            reasons[position] = f"{what} is not a finite number"
        elif np.isnan(values[position]):
            reasons[position] = f"{what} is not a number"
        elif range_ is not None:
            reasons[position] = f"{what} is outside the range [{shown(range_[0])}, {shown(range_[1])}]"
        else:
            reasons[position] = f"{what} is too large for a 32-bit number"
    values[~usable] = np.nan
    return values, reasons


def encode_distinct(
    labels: pa.Array | pa.ChunkedArray, read: Callable[[str], float | NDArray[np.float32] | str], shape: tuple[int, ...]
) -> Encoded:
    """Encodes a column by reading each distinct label once.

    Args:
        labels: `[n]` strings or null.
        read: label -> its target, or, as a string, why there is none.
        shape: the shape of one target: `()` or `(classes,)`.
    """
    codes, texts = distinct(labels)
    # One row more than there are labels: a missing label has code -1 and so finds the last one, which is NaN.
    table = np.full((len(texts) + 1, *shape), np.nan, dtype=np.float32)
    problems: dict[int, str] = {}
    for code, text in enumerate(texts):
        target = read(text)
        if isinstance(target, str):
            problems[code] = target
        else:
            table[code] = target
    bad = np.flatnonzero(np.isin(codes, list(problems))) if problems else np.empty(0, dtype=np.int64)
    return Encoded(
        table[codes], {row: problems[code] for row, code in zip(bad.tolist(), codes[bad].tolist(), strict=True)}
    )


def names_of(
    indices: NDArray[np.floating] | NDArray[np.integer],  # [n]; NaN where there is no class
    names: Sequence[str],
) -> NDArray[np.object_]:
    """Class indices -> class names, None where there is none."""
    table = np.array([*names, None], dtype=object)
    return table[np.where(np.isnan(indices), len(names), indices).astype(np.int64)]


def check_classes(name: str, column: str, counts: Mapping[str, int], encoded: Encoded, rows: int) -> None:
    """Refuses fewer than two classes, and logs those that cannot be learned for want of an example.

    Args:
        name: the task's.
        column: where its labels stand.
        counts: class -> how many training rows carry it.
        encoded: of the training rows.
        rows: how many there are.

    Raises:
        DataError: there are not two classes.
    """
    held = [label for label, count in counts.items() if count]
    if len(held) < 2:
        found = f"only the class {quoted(held[0])}" if held else "no usable label"
        first = f": {next(iter(encoded.reasons.values()))}" if encoded.reasons else ""
        raise DataError(
            f"{name}: {found} in column '{column}' of the {rows} training rows; at least two classes are needed{first}"
        )
    if missing := [label for label in counts if label not in held]:
        logger.warning("%s: no training example of %s", name, listed(missing))


def are_integers(texts: Iterable[str]) -> bool:
    """Whether every label is a whole number."""
    return all(_INTEGER.fullmatch(text) for text in texts)


def in_order(texts: Iterable[str]) -> list[str]:
    """Class names sorted: as numbers where all are whole numbers (0, 1, 2, 10), else as text."""
    names = sorted(texts)
    return sorted(names, key=int) if are_integers(names) else names


def quoted(text: str) -> str:
    """A label as messages show it: in quotes, and short."""
    return f"'{text}'" if len(text) <= 60 else f"'{text[:57]}...'"


def shown(number: float) -> str:
    """A number as the user would write it: `1`, not `1.0`."""
    return str(int(number)) if float(number).is_integer() and abs(number) < 1e15 else repr(float(number))


def listed(names: Sequence[str]) -> str:
    """Class names as messages list them; of very many only the first."""
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more


def _as_name(value: Any) -> Any:
    # YAML reads an unquoted 'no' as false and 1.50 as 1.5: the text in the file can no longer be known.
    if isinstance(value, bool | float):
        raise ValueError(f"class name {value!r} must be in quotes, as it stands in the data")
    return str(value) if isinstance(value, int) else value


def _as_names(value: Any) -> Any:
    return [_as_name(name) for name in value] if isinstance(value, list | tuple) else value


def _as_weights(value: Any) -> Any:
    return {_as_name(name): weight for name, weight in value.items()} if isinstance(value, Mapping) else value


def _check_names(names: list[str]) -> list[str]:
    if len(names) < 2:
        raise ValueError(f"at least two classes are needed, not {len(names)}")
    for name in names:
        if name != name.strip() or not name:
            raise ValueError(
                f"class name '{name}' is blank or has white space around it, which labels are read without"
            )
    check_unique(names)
    return names


def check_unique(names: Sequence[str]) -> None:
    """Raises ValueError naming the names that come twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"class names must differ; more than once: {', '.join(twice)}")


#: Class names in a recipe. Whole numbers are taken as their text.
Names = Annotated[list[str], BeforeValidator(_as_names), AfterValidator(_check_names)]
#: Class name -> weight in a recipe.
Weights = Annotated[dict[str, float], BeforeValidator(_as_weights)]
