"""A connection to Ray: to a cluster that is there, or to one of this machine that no other machine can reach.

Rooms that spread work use it; what the work is, and how it is spread, is theirs. Ray is imported when it is asked for.
"""

from __future__ import annotations

import importlib
import ipaddress
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from equipoise.errors import RecipeError, RunError

__all__ = ["cluster", "room"]

_STORE = 256 * 2**20  # bytes for what is on its way between processes: Ray would take a third of the memory


@contextmanager
def cluster(workers: int | None, threads: int) -> Iterator[Any]:
    """A connection to Ray. One that was there before is left as it is.

    Gives the cluster that this process is connected to, else that of `RAY_ADDRESS`, else one of this machine that is
    started for the purpose, listens on the loopback device only and is gone afterwards. Machines of a cluster need the
    same equipoise installed, and see the same files.

    Args:
        workers: how many work at once; None: as many as there are processors for.
        threads: processor threads of each.

    Raises:
        RecipeError: Ray is not installed; `workers` or `threads` is less than one.
        RunError: no connection to the cluster.
    """
    if (workers is not None and workers < 1) or threads < 1:
        raise RecipeError(f"Ray needs one worker and one thread or more, found workers={workers}, threads={threads}")
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    with _left_as_it_was():
        try:
            with _quiet():
                if os.environ.get("RAY_ADDRESS"):
                    _connect(ray)
                else:
                    _start(ray, max(threads, (workers or 0) * threads or _processors()))
            yield ray
        finally:
            ray.shutdown()


def room(ray: Any, threads: int) -> tuple[int, int]:
    """How many graphics processors a job gets, and how many jobs the cluster has room for.

    Args:
        ray: of `cluster`.
        threads: processors that each job takes.

    Raises:
        RecipeError: no machine has so many processors.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(any(node.get("GPU", 0) >= 1 for node in nodes))
    jobs = 0
    for node in nodes:
        fit = int(node.get("CPU", 0) // threads)
        jobs += min(fit, int(node.get("GPU", 0))) if gpus else fit
    if not jobs:
        most = max((int(node.get("CPU", 0)) for node in nodes), default=0)
        raise RecipeError(
            f"no machine of the Ray cluster has {threads} processors; the largest has {most}. Lower threads"
        )
    return gpus, jobs


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
def _quiet() -> Iterator[None]:
    """Keeps Ray's C++ side, which warns of Ray Data's own ways, off the terminal, and its line that says so.

    What goes wrong is told to Python as well. Whoever sets RAY_BACKEND_LOG_LEVEL sees all.
    """
    if "RAY_BACKEND_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    with tempfile.TemporaryFile() as held:
        terminal = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            os.write(2, b"".join(line for line in held if b"RAY_BACKEND_LOG_LEVEL" not in line))


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
            f'running on Ray needs Ray. Install it with: pip install "equipoise[ray]" ({error})'
        ) from error
