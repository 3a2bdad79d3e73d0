"""Trainings that the kernel ends for want of memory: nobody is left to write down why, so the next process does it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from equipoise.errors import RunError
from equipoise.runs import write_json

__all__ = ["attempt"]

#: One may be another process's misfortune.
DEATHS = 2


@contextlib.contextmanager
def attempt(folder: Path) -> Iterator[None]:
    """Holds a note beside `folder` while it is trained, so that a process which the kernel ends leaves it behind.

    Only ends during which the kernel said that it had no memory left count: a comparison that is killed, or a machine that
    is taken away, may go on as often as it likes. Where the kernel doesn't tell (it is not Linux), nothing counts.

    Raises:
        RunError: that has happened twice to this training.
    """
    note = folder.with_name(f".{folder.name}.attempt")
    before, now = _read(note), _kernel()
    deaths = before.get("deaths", 0)
    # The count starts anew with the machine.
    if now and before.get("boot") == now["boot"] and now["kills"] > before.get("kills", now["kills"]):
        deaths += 1
    if deaths >= DEATHS:
        note.unlink()
        raise RunError(
            f"out of memory: {DEATHS} times the kernel has ended the process in this training. Give it less to do at once "
            "(training.batch_size, model.max_length, model.gradient_checkpointing), or more memory"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_json(note, now | {"deaths": deaths})
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def _read(note: Path) -> dict[str, Any]:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _kernel() -> dict[str, Any]:
    """Which start of the machine this is, and how many processes it has ended since for want of memory."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        counts = dict(line.split() for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines())
        return {"boot": boot, "kills": int(counts["oom_kill"])}
    except (OSError, ValueError, KeyError):
        return {}
