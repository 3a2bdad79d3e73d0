"""An exception for the log: where it came from and of what kind, never its words.

What an exception says may quote what was being worked on, and texts of requests are never logged.
"""

from __future__ import annotations

import traceback

__all__ = ["trace_of"]


def trace_of(error: BaseException) -> str:
    """The traceback without messages, the cause before what followed from it."""
    parts: list[str] = []
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        frames = "".join(traceback.format_tb(at.__traceback__))
        parts.append(f"{frames}{type(at).__module__}.{type(at).__qualname__} (its words are not logged)")
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return "\nwhich led to\n".join(reversed(parts))
