"""One process at a time trains in a run folder."""

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

__all__ = ["locked"]


@contextlib.contextmanager
def locked(run: Run) -> Iterator[None]:
    """Holds the run's lock. The system takes it back when the process ends, however it ends; a file that is left means
    nothing by itself.

    Raises:
        RunError: another process holds it, or nothing can be written beside the run.
    """
    path = run.lock_file
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise RunError(
            f"another process{_holder(path)} trains in '{run.folder}'. Wait for it or stop it, or choose another folder "
            "with -o"
        ) from None
    except OSError as error:
        raise RunError(f"output: nothing can be written beside '{run.folder}': {error.strerror}") from None
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
