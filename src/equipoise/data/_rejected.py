"""Rows that cannot be used: each one is written down with its reason, and too many of them stop the run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from equipoise.errors import DataError

__all__ = ["RejectedWriter"]

_CELL_CHARACTERS = 500
#: More kinds than this come from labels that look like reasons; the rest is counted together.
_MOST_KINDS = 1_000
#: What differs between two reasons of one kind: what was typed, and numbers.
_VARIABLE = re.compile(r"'[^']*'|-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass
class _Kind:
    """Reasons that differ only in values and numbers; the first one stands for all."""

    reason: str
    example: str
    count: int = 0


class RejectedWriter:
    """Writes `rejected.jsonl` and counts by kind of reason. Memory grows with the kinds, not with the rows.

    Args:
        path: the file, replaced if it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.total = 0
        # The name of a file may be no valid Unicode; what stands for its bytes is then a JSON escape.
        self._file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def __enter__(self) -> RejectedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(
        self, file: str, line: int, split: str, reason: str, row: Mapping[str, str | None], *, bad: bool = True
    ) -> None:
        """Writes one row.

        Args:
            file: the source as the user wrote it.
            line: where the row starts.
            split: the split that it was read for.
            reason: why it cannot be used.
            row: its cells; each is cut to 500 characters.
            bad: False for a sound row that is left out for the sake of others (a leak): it does not count as bad.
        """
        cells = {name: cell if cell is None else cell[:_CELL_CHARACTERS] for name, cell in row.items()}
        record = {"file": file, "line": line, "split": split, "reason": reason, "row": cells}
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self.total += bad
        key = (split, _VARIABLE.sub("…", reason))
        if key not in self._kinds and len(self._kinds) >= _MOST_KINDS:
            key, reason = (split, ""), "another reason"
        if key not in self._kinds:
            self._kinds[key] = _Kind(reason, f"{file}:{line}")
        self._kinds[key].count += 1

    def check(self, read: int, max_rejected: float) -> None:
        """Stops when at least a share of the rows is bad. None bad is never too many.

        Raises:
            DataError: how many of how many, the three most frequent reasons with an example each, and where all are.
        """
        if not self.total or self.total < max_rejected * read:
            return
        self._file.flush()
        kinds = sorted(self._kinds.values(), key=lambda kind: -kind.count)[:3]
        reasons = "; ".join(f"{kind.count} x {kind.reason} (as at {kind.example})" for kind in kinds)
        raise DataError(
            f"{self.total} of {read} rows cannot be used ({self.total / read:.2%}; the run stops at data.max_rejected = "
            f"{max_rejected:g}): {reasons}. All of them are in {self.path}."
        )

    def report(self) -> dict[str, list[dict[str, Any]]]:
        """Split -> its kinds of reason, the most frequent first."""
        splits: dict[str, list[dict[str, Any]]] = {}
        for (split, _), kind in sorted(self._kinds.items(), key=lambda item: -item[1].count):
            entry = {"reason": kind.reason, "count": kind.count, "example": kind.example}
            splits.setdefault(split, []).append(entry)
        return splits
