"""A disk that refuses: the n-th time that Python opens a file to write, makes, renames or cuts one below some folder.

What libraries write in C++ or Rust passes by here; full disks and file size limits are for that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Audit event -> which of its arguments is the path.
EVENTS = {"open": 0, "os.mkdir": 0, "os.rename": 1, "os.truncate": 0, "os.remove": 0, "os.rmdir": 0}


class Refusals:
    """Counts, and refuses from one call on."""

    def __init__(self) -> None:
        self.below: tuple[str, ...] = ()
        self.seen: list[str] = []
        self.first, self.more, self.code = -1, False, errno.ENOSPC

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook."""
        if not self.below or event not in EVENTS:
            return
        path = arguments[EVENTS[event]]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        name = os.path.abspath(os.fsdecode(path))
        if not name.startswith(self.below):
            return
        at = len(self.seen)
        self.seen.append(f"{event} {os.path.basename(name)}")
        if self.first >= 0 and (at == self.first or (self.more and at > self.first)):
            raise OSError(self.code, os.strerror(self.code), name)


REFUSALS = Refusals()
INSTALLED = False


@contextlib.contextmanager
def refusing(folder: Path, first: int = -1, *, more: bool = False, code: int = errno.ENOSPC) -> Iterator[list[str]]:
    """Refuses the call number `first` (-1 = none) that writes in a run's folder or beside it; `more`: and all after it.

    Yields:
        What was called: grows as it happens.
    """
    global INSTALLED
    if not INSTALLED:
        sys.addaudithook(REFUSALS)  # for good; without a folder it does nothing
        INSTALLED = True
    REFUSALS.seen = []
    REFUSALS.first, REFUSALS.more, REFUSALS.code = first, more, code
    REFUSALS.below = (str(folder), str(folder.with_name(f".{folder.name}.")))
    try:
        yield REFUSALS.seen
    finally:
        REFUSALS.below = ()
