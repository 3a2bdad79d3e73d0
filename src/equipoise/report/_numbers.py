"""Numbers as people read them: as many digits as the interval around them supports, and a true minus sign."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["MISSING", "decimals", "half_width", "interval", "number", "plus_minus", "ratio", "seconds", "signed"]

MISSING = "–"
MOST_DECIMALS = 6


def decimals(values: Iterable[float | None], spreads: Iterable[float | None] = ()) -> int:
    """Decimals for one column, so that its numbers stand under each other.

    Args:
        values: the column's numbers.
        spreads: half widths of their intervals, where there are any: the middle one shows two significant digits.

    Returns:
        0 to 6. Without spreads the largest number shows four significant digits.

    Example:
        >>> decimals([0.0812, 0.0790], [0.0031, 0.0028])
        4
        >>> decimals([1234.5])
        0
    """
    known = [abs(spread) for spread in spreads if spread]
    if known:
        return _clamp(1 - math.floor(math.log10(statistics.median(known))))
    sizes = [abs(value) for value in values if value]
    return _clamp(3 - math.floor(math.log10(max(sizes)))) if sizes else 2


def _clamp(places: int) -> int:
    return max(0, min(MOST_DECIMALS, places))


def number(value: float | None, places: int) -> str:
    """`-0.5` with 2 places is `−0.50`; nothing known is a dash."""
    if value is None:
        return MISSING
    text = f"{value:,.{places}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else f"{0:.{places}f}"


def signed(value: float | None, places: int) -> str:
    """As `number`, with a plus sign before what is above zero."""
    text = number(value, places)
    return f"+{text}" if value is not None and value > 0 and text.strip("0.,") else text


def half_width(found: Mapping[str, Any]) -> float | None:
    """Half the width of `low` to `high`; nothing where there is no interval, as with one seed."""
    low, high = found.get("low"), found.get("high")
    return None if low is None or high is None else (high - low) / 2


def plus_minus(found: Mapping[str, Any] | None, places: int) -> str:
    """`0.0812 ± 0.0031`."""
    if found is None or found.get("mean") is None:
        return MISSING
    half = half_width(found)
    return number(found["mean"], places) + ("" if half is None else f" ± {number(half, places)}")


def interval(found: Mapping[str, Any] | None, places: int) -> str:
    """`[−0.5, +1.2]`, or nothing."""
    if found is None or half_width(found) is None:
        return ""
    return f"[{signed(found['low'], places)}, {signed(found['high'], places)}]"


def ratio(value: float | None) -> str:
    """`1.12×`."""
    return MISSING if value is None else f"{value:.2f}×"


def seconds(value: float | None) -> str:
    """Seconds below two minutes, then minutes, then hours.

    Example:
        >>> seconds(61.2), seconds(600), seconds(9000)
        ('61.2 s', '10.0 min', '2.50 h')
    """
    if value is None:
        return MISSING
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.2f} h"
