"""Texts that stand in two splits: counted, and left out of the earlier split where the recipe says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from equipoise.data._assign import Hashes, first_match
from equipoise.data._raw import RawSplit, Source
from equipoise.data._rejected import RejectedWriter

__all__ = ["DROPPED", "SPLITS", "find_leaks"]

#: In the order of the codes that `assign` gives.
SPLITS = ("train", "validation", "test")
#: The code of a row that was left out.
DROPPED = -1
_CHUNK = 4096


@dataclass(frozen=True)
class _Place:
    """The rows of one split: the raw split (by number) and the position in it where each stands, and its hash."""

    raw: NDArray[np.int8]
    position: NDArray[np.int64]
    hashes: Hashes


def find_leaks(
    raw: Mapping[str, RawSplit],
    codes: Mapping[str, NDArray[np.int8]],
    sources: Sequence[Source],
    rejected: RejectedWriter,
    *,
    drop: bool,
) -> dict[str, dict[str, int]]:
    """Counts the rows of train and validation whose text is in a later split.

    Args:
        raw: the rows read.
        codes: raw split -> `[rows]` which split each row goes to; a dropped row's code becomes `DROPPED`.
        sources: the files, to name them.
        rejected: where dropped rows are written.
        drop: whether to drop them, from the earlier split of the two. The test split is never touched.

    Returns:
        `"train/test"` -> rows of train whose text is in test, and how many of them were dropped for it.
    """
    names = list(raw)
    places = {split: _place(raw, codes, number) for number, split in enumerate(SPLITS)}
    report: dict[str, dict[str, int]] = {}
    for earlier, later in (("train", "test"), ("validation", "test"), ("train", "validation")):
        mine, others = places[earlier], places[later]
        if not len(mine.hashes) or not len(others.hashes):
            continue
        match = first_match(mine.hashes, others.hashes)
        leaking = np.flatnonzero(match >= 0)
        dropped = 0
        for start in range(0, len(leaking) if drop else 0, _CHUNK):
            chunk = leaking[start : start + _CHUNK]
            # A row that leaks into both later splits is dropped, and written down, once.
            chunk = chunk[[codes[names[mine.raw[i]]][mine.position[i]] != DROPPED for i in chunk]]
            dropped += len(chunk)
            for row in chunk.tolist():
                origin = raw[names[mine.raw[row]]].table
                twin_table, twin = raw[names[others.raw[match[row]]]].table, int(others.position[match[row]])
                codes[names[mine.raw[row]]][mine.position[row]] = DROPPED
                where = f"{sources[twin_table['file'][twin].as_py()].path}:{twin_table['line'][twin].as_py()}"
                _write(
                    origin, int(mine.position[row]), sources, earlier, f"in the {later} split too ({where})", rejected
                )
        report[f"{earlier}/{later}"] = {"rows": len(leaking), "dropped": dropped}
    return report


def _place(raw: Mapping[str, RawSplit], codes: Mapping[str, NDArray[np.int8]], code: int) -> _Place:
    positions = [np.flatnonzero(codes[name] == code) for name in raw]
    return _Place(
        np.concatenate([np.full(len(rows), number, dtype=np.int8) for number, rows in enumerate(positions)]),
        np.concatenate(positions),
        np.concatenate([part.hashes[rows] for part, rows in zip(raw.values(), positions, strict=True)]),
    )


def _write(
    table: pa.Table, row: int, sources: Sequence[Source], split: str, reason: str, rejected: RejectedWriter
) -> None:
    source = sources[table["file"][row].as_py()]
    cells = dict(zip(source.text, (table["text"][row].as_py(), table["text_pair"][row].as_py()), strict=False))
    rejected.write(source.path, table["line"][row].as_py(), split, f"the same text is {reason}", cells, bad=False)
