"""The journal of a search: one line of JSON for each trial that is over, so that a killed search goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equipoise.errors import RunError

__all__ = ["Journal"]

FORMAT_VERSION = 1


class Journal:
    """A file of finished trials, below a line that says which search they belong to.

    A line is on the disk before the next trial starts. One that was cut off by a kill is dropped, and its trial runs again.

    Args:
        path: the file, made where there is none; None keeps nothing.
        about: what makes the search what it is, as plain data.

    Raises:
        RunError: the file is of another search, or not a journal.

    Attributes:
        trials: the lines that were there, in order.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any]) -> None:
        self.path = path
        self.trials: list[dict[str, Any]] = []
        heading = json.loads(json.dumps({"format_version": FORMAT_VERSION, **about}))
        if path is None:
            return
        lines = self._read(path)
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            self.append(heading)
        elif lines[0] != heading:
            raise RunError(
                f"{path} is the journal of another search: its tasks, grid, seed, first trial or pruning differ. "
                "Set them back, choose another folder, or delete the file"
            )
        self.trials = lines[1:]
        if [line.get("number") for line in self.trials] != [*range(len(self.trials))]:
            raise RunError(f"{path}: trials are missing or out of order. Delete the file to search anew")

    def append(self, line: Mapping[str, Any]) -> None:
        """Adds a line and waits until it is on the disk."""
        if self.path is None:
            return
        with self.path.open("ab") as file:
            file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path) -> list[dict[str, Any]]:
        if not path.exists():
            return []
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        found = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise RunError(f"{path}:{number}: no line of a search's journal. Delete the file to search anew")
            found.append(record)
        if len(whole) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        return found
