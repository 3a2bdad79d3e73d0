"""Where the trainings of a comparison run: one after the other in this process, or side by side on Ray.

What goes to a worker and what comes back is JSON, and the work is named, not sent: no code travels with data.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from equipoise.clusters import cluster, room
from equipoise.errors import EquipoiseError

__all__ = ["in_turn", "on_ray"]

Jobs = Iterable[tuple[Hashable, Mapping[str, Any]]]
Work = Callable[[dict[str, Any]], Mapping[str, Any]]
Done = Callable[[Any, dict[str, Any]], None]


def in_turn(jobs: Jobs, work: Work, done: Done) -> None:
    """Does one job after the other, in this process.

    Args:
        jobs: a key and a payload each; the payload is plain data.
        work: makes a result, plain data too, of a payload. An `EquipoiseError` makes the job a failed one, any other
            exception ends everything.
        done: called with a job's key and its result, or `{"status": "failed", "reason": ...}`.
    """
    for job, payload in jobs:
        done(job, json.loads(_outcome(work, json.dumps(payload))))


def on_ray(jobs: Jobs, work: Work, done: Done, *, workers: int | None, threads: int) -> None:
    """Does several jobs at a time, in worker processes that Ray starts; results come in the order they are ready.

    Runs on the cluster that this process is connected to, else on that of `RAY_ADDRESS`, else on one of this machine
    that is started for the purpose, listens on the loopback device only and is gone afterwards. Machines of a cluster
    need the same equipoise installed, and see the same files.

    Args:
        jobs: as of `in_turn`; no more are taken at once than there are workers.
        work: as of `in_turn`, a function of a module: workers import it by its name. A worker takes one job at a time,
            and may take another one after it.
        done: as of `in_turn`, called in this process. A worker that dies makes its job a failed one.
        workers: jobs at a time; None: as many as there are processors, and graphics processors if there are any, for.
        threads: processor threads of each. Where the cluster has graphics processors, each job gets one.

    Raises:
        RecipeError: Ray is not installed; `workers` or `threads` is less than one, or more threads than a machine has.
        RunError: no connection to the cluster.
    """
    module, name = work.__module__, work.__qualname__
    if module == "__main__" or "<" in name:
        raise ValueError(f"work must be a function of a module that workers can import, found {module}.{name}")
    with cluster(workers, threads) as ray:
        gpus, fit = room(ray, threads)
        attempt = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)(_in_worker)
        waiting = iter(jobs)
        running: dict[Any, Hashable] = {}
        try:
            while True:
                for job, payload in itertools.islice(waiting, (workers or fit) - len(running)):
                    running[attempt.remote(module, name, json.dumps(payload), threads)] = job
                if not running:
                    return
                ready, _ = ray.wait([*running], num_returns=1)
                done(running.pop(ready[0]), _fetched(ray, ready[0]))
        finally:  # an error or Ctrl-C: nobody waits for the others any more
            for task in running:
                ray.cancel(task, force=True)


def _in_worker(module: str, name: str, payload: str, threads: int) -> str:
    """What a worker does: JSON to JSON."""
    os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}  # read when torch is loaded
    import torch

    torch.set_num_threads(threads)
    return _outcome(getattr(importlib.import_module(module), name), payload)


def _outcome(work: Work, payload: str) -> str:
    try:
        return json.dumps(work(json.loads(payload)))
    except EquipoiseError as error:
        return json.dumps(_failed(str(error)))


def _failed(reason: str) -> dict[str, Any]:
    return {"status": "failed", "reason": " ".join(reason.split())}


def _fetched(ray: Any, task: Any) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(ray.get(task))
    except ray.exceptions.RayTaskError:  # an exception of the work itself
        raise
    except ray.exceptions.RayError as error:
        kind, told = type(error).__name__, str(error).partition("\n")[0]
        return _failed(f"the worker was lost, killed or out of memory ({kind}: {told})")
    return result
