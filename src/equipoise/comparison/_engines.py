"""Where the trainings of a comparison run: one after the other in this process, or side by side on Ray.

What goes to a worker and what comes back is JSON, and the work is named, not sent: no code travels with data.
"""

from __future__ import annotations

import importlib
import ipaddress
import itertools
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from equipoise.errors import EquipoiseError, RecipeError, RunError

__all__ = ["in_turn", "on_ray"]

Jobs = Iterable[tuple[Hashable, Mapping[str, Any]]]
Work = Callable[[dict[str, Any]], Mapping[str, Any]]
Done = Callable[[Any, dict[str, Any]], None]

_STORE = 256 * 2**20  # bytes for what is on its way between processes: Ray would take a third of the memory


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
    if (workers is not None and workers < 1) or threads < 1:
        raise RecipeError(f"Ray needs one worker and one thread or more, found workers={workers}, threads={threads}")
    module, name = work.__module__, work.__qualname__
    if module == "__main__" or "<" in name:
        raise ValueError(f"work must be a function of a module that workers can import, found {module}.{name}")
    with _cluster(workers, threads) as ray:
        gpus, room = _room(ray, threads)
        attempt = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)(_in_worker)
        waiting = iter(jobs)
        running: dict[Any, Hashable] = {}
        try:
            while True:
                for job, payload in itertools.islice(waiting, (workers or room) - len(running)):
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


def _room(ray: Any, threads: int) -> tuple[int, int]:
    """How many graphics processors a job gets, and how many jobs the cluster has room for."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(any(node.get("GPU", 0) >= 1 for node in nodes))
    room = 0
    for node in nodes:
        fit = int(node.get("CPU", 0) // threads)
        room += min(fit, int(node.get("GPU", 0))) if gpus else fit
    if not room:
        most = max((int(node.get("CPU", 0)) for node in nodes), default=0)
        raise RecipeError(
            f"no machine of the Ray cluster has {threads} processors; the largest has {most}. Lower threads"
        )
    return gpus, room


@contextmanager
def _cluster(workers: int | None, threads: int) -> Iterator[Any]:
    """A connection to Ray. One that was there before is left as it is."""
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    with _left_as_it_was():
        try:
            if os.environ.get("RAY_ADDRESS"):
                _connect(ray)
            else:
                _start(ray, max(threads, (workers or 0) * threads or _processors()))
            yield ray
        finally:
            ray.shutdown()


def _connect(ray: Any) -> None:
    try:
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        told = str(error).partition("\n")[0]
        raise RunError(f"no Ray cluster at RAY_ADDRESS={os.environ['RAY_ADDRESS']}: {told}") from error


def _start(ray: Any, processors: int) -> None:
    """Starts a cluster of this machine that no other one can reach: whoever reaches it can run code in it.

    Ray takes the machine's public address for 127.0.0.1 unless it is told that clusters of several machines are out.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    several = getattr(constants, "ENABLE_RAY_CLUSTER", None)
    constants.ENABLE_RAY_CLUSTER = False
    try:
        ray.init(
            address="local",
            num_cpus=processors,
            object_store_memory=_STORE,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
    finally:
        constants.ENABLE_RAY_CLUSTER = several
    address = ray.nodes()[0]["NodeManagerAddress"]
    if not ipaddress.ip_address(address).is_loopback:
        raise RunError(
            f"this version of Ray listens on {address}, which other machines may reach. Start a cluster yourself and "
            "set RAY_ADDRESS, or use another version"
        )


@contextmanager
def _left_as_it_was() -> Iterator[None]:
    """Takes back what `ray.init` does to this process: environment, level of its logger, handler of SIGTERM."""
    environment = dict(os.environ)
    level = logging.getLogger("ray").level
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if main else None
    try:
        yield
    finally:
        for name in os.environ.keys() | environment.keys():
            if not name.startswith("RAY_") and name != "PYTHONBREAKPOINT":
                continue
            if name in environment:
                os.environ[name] = environment[name]
            else:
                del os.environ[name]
        logging.getLogger("ray").setLevel(level)
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise RecipeError(
            f'training on Ray needs Ray. Install it with: pip install "equipoise[ray]" ({error})'
        ) from error
