"""One process at a time works in a folder."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from equipoise.errors import RunError
from equipoise.runs import Run

__all__ = ["hold_folder", "locked"]


def locked(run: Run) -> contextlib.AbstractContextManager[None]:
    """Holds the run's lock, as `hold_folder` does."""
    return hold_folder(run.folder, run.lock_file, "trains")


@contextlib.contextmanager
def hold_folder(folder: Path, path: Path, doing: str) -> Iterator[None]:
    """Keeps other processes from a folder. The system takes the lock back when the process ends, however it ends; a file
    that is left means nothing by itself.

    Args:
        folder: for the message.
        path: the lock's file, in or beside it.
        doing: what its holder does there, such as `trains`.

    Raises:
        RunError: another process holds it, or the file cannot be written.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise RunError(
            f"another process{_holder(path)} {doing} in '{folder}'. Wait for it or stop it, or choose another folder "
            "with -o"
        ) from None
    except OSError as error:
        where = "beside" if path.parent != folder else "in"
        raise RunError(f"output: nothing can be written {where} '{folder}': {error.strerror}") from None
    try:
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            path.write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}), encoding="utf-8")
        yield
    finally:
        # While it is held: who opened the file meanwhile finds that it has no name any more, and begins anew.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def _holder(path: Path) -> str:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return f" (pid {int(data['pid'])} on {data['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
