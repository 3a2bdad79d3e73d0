"""What can go wrong through no bug of ours: each error says what is wrong, where, and what to do.

The command line prints one line and exits with code 2. Anything that is not an `EquipoiseError` is a bug and keeps its
traceback.
"""

from __future__ import annotations

import re

__all__ = ["BalanceError", "DataError", "EquipoiseError", "RecipeError", "RunError", "ServiceError"]

# A name in a table may hold what clears a terminal, forges a line or turns the direction of reading.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_LINE_FEED = re.compile("\n")
_CHARACTERS = 4_000


def _escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode("ascii")


class EquipoiseError(Exception):
    """Base class of every error that a user can cause and mend. Control characters in its message are written out."""

    def __init__(self, *args: object) -> None:
        super().__init__(*[_UNSEEN.sub(_escaped, arg) if isinstance(arg, str) else arg for arg in args])


class RecipeError(EquipoiseError):
    """The recipe cannot be used: an unknown key, a wrong value, an impossible combination."""


class DataError(EquipoiseError):
    """The data cannot be used: a file, a column or too many rows are missing or unusable. One line, whatever it quotes."""

    def __init__(self, *args: object) -> None:
        super().__init__(*[_one_line(arg) if isinstance(arg, str) else arg for arg in args])


class BalanceError(EquipoiseError):
    """The tasks' losses cannot be balanced: not finite, unknown, or not connected to what is shared."""


class RunError(EquipoiseError):
    """A run folder cannot be read, written or continued."""


class ServiceError(EquipoiseError):
    """The service cannot be started or a request cannot be answered."""


def _one_line(message: str) -> str:
    line = _LINE_FEED.sub(_escaped, message)
    return line if len(line) <= _CHARACTERS else f"{line[: _CHARACTERS // 2]} ... {line[-_CHARACTERS // 2 :]}"
