"""CSV that others' texts cannot turn into formulas (OWASP, "CSV injection").

A spreadsheet runs a cell that begins with one of `= + - @`, a tab or a line end, also where it stands in quotes, and a
formula may fetch addresses or start programs. Such a cell gets an apostrophe before it, which a spreadsheet shows as
text. Plain numbers stay: a minus sign alone does no harm, and `'-0.5` would be no number any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

__all__ = ["safe_cell", "safe_header"]

#: What begins a formula; the wide forms do where the keyboard is Japanese or Chinese.
_FIRST = frozenset("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *", re.ASCII)

T = TypeVar("T")


def safe_cell(value: T) -> T | str:
    """A cell as a spreadsheet may have it. Only text is touched: what is a number, stays one.

    Example:
        >>> [safe_cell(cell) for cell in ("=1+1", "-0.5", "-5 points", "+3%", -0.5, None)]
        ["'=1+1", '-0.5', "'-5 points", "'+3%", -0.5, None]
    """
    if isinstance(value, str) and value[:1] in _FIRST and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def safe_header(names: Iterable[str]) -> list[str]:
    """The columns' names likewise, and still all different.

    Example:
        >>> safe_header(["=a", "'=a", "b"])
        ["''=a", "'=a", 'b']
    """
    names = list(names)
    taken = {name for name in names if safe_cell(name) == name}
    found = []
    for name in names:
        safe = str(safe_cell(name))
        if safe != name:
            while safe in taken:
                safe = f"'{safe}"
            taken.add(safe)
        found.append(safe)
    return found
