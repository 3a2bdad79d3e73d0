"""The cost model of `docs/scale.md`: seconds of a prediction over many files with n workers, from measured rates."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BILLION = 1_000_000_000


@dataclass(frozen=True)
class Rates:
    """What a machine gives, measured without Ray but for the last four.

    Attributes:
        rows_per_second: of one worker of one thread, reading, hashing and writing on the local disk included; by how many
            work side by side on the machine.
        file_s: of a file beside its rows.
        start_s: from a process's start until its imports are done; by how many start side by side.
        load_s: until the model is loaded and the first text is scored; likewise.
        identity_s: hashing the model, which the driver does once.
        cluster_s: until Ray runs here.
        dataset_s: until a Ray Data stage of empty actors has given its first two results.
        bundle_s: of each further one.
        stop_s: until Ray is gone.
    """

    rows_per_second: dict[int, float]
    file_s: float
    start_s: dict[int, float]
    load_s: dict[int, float]
    identity_s: float
    cluster_s: float
    dataset_s: float
    bundle_s: float
    stop_s: float

    def row_s(self, workers: int) -> float:
        """Seconds a row; more workers on a machine than were measured are taken to do no worse than those."""
        return 1 / self.rows_per_second[min(workers, max(self.rows_per_second))]

    def before_s(self, workers: int) -> float:
        """Until the first worker can take a file."""
        side_by_side = min(workers, max(self.start_s))
        ray = self.cluster_s + self.dataset_s
        return self.start_s[1] + self.identity_s + ray + self.start_s[side_by_side] + self.load_s[side_by_side]


def finish(bundles: Sequence[float], workers: int) -> float:
    """When the last of some bundles is done: each goes to the worker that is free first, as Ray Data hands them out."""
    free = [0.0] * workers
    for seconds in bundles:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def predicted_seconds(bundles: Sequence[Sequence[int]], workers: int, rates: Rates) -> float:
    """Wall time of `equipoise predict --engine ray` on one machine.

    Args:
        bundles: the rows of each file of each bundle, in the order they are handed out.
        workers: on this machine.
        rates: of it.
    """
    loads = [rates.bundle_s + sum(rates.file_s + rows * rates.row_s(workers) for rows in bundle) for bundle in bundles]
    return rates.before_s(workers) + finish(loads, workers) + rates.stop_s


@dataclass(frozen=True)
class Assumed:
    """What a plan takes for granted, because it was not measured here."""

    rows: int = BILLION
    rows_per_file: int = 100_000
    storage_mb_s: float = 200.0  # of each machine, from and to where the files are
    failures_per_machine_hour: float = 1 / 500
    restart_s: float = 120.0  # until a lost worker's machine is replaced and has the model


def plan(
    name: str, machines: int, workers: int, row_s: float, rates: Rates, bytes_row: dict[str, float], assumed: Assumed
) -> dict[str, Any]:
    """Wall time of a large job, with storage and failures, and what it moves.

    Args:
        name: of the machines, for people.
        machines: how many.
        workers: on each.
        row_s: seconds a row of one worker.
        rates: of this machine, for what is not rows.
        bytes_row: `in` and `out`, of one row in its file.
        assumed: what was not measured.
    """
    files = math.ceil(assumed.rows / assumed.rows_per_file)
    # A worker reads its file twice (checksum, rows) and writes it once; nothing of that happens while it computes.
    megabytes = (2 * bytes_row["in"] + bytes_row["out"]) * assumed.rows_per_file / 1e6
    file_s = rates.file_s + assumed.rows_per_file * row_s + megabytes / (assumed.storage_mb_s / workers)
    compute = rates.before_s(workers) + finish([file_s + rates.bundle_s] * files, machines * workers) + rates.stop_s
    # A failing machine loses, of each of its workers, half a file on the average, and the time to come back.
    lost_s = file_s / 2 + assumed.restart_s
    share = assumed.failures_per_machine_hour / 3600 * lost_s
    return {
        "machines": name,
        "workers": machines * workers,
        "hours": compute / 3600 / (1 - share),
        "worker_hours": machines * workers * compute / 3600 / (1 - share),
        "minutes_a_file": file_s / 60,
        "share_storage": megabytes / (assumed.storage_mb_s / workers) / file_s,
        "share_lost": share,
        "failures": assumed.failures_per_machine_hour * machines * compute / 3600,
        "files": files,
        "files_per_second": files / compute,  # each is a line that the driver flushes to disk
    }
