"""The runs that are served: loaded, named, and loaded anew while the old one still answers."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.errors import RunError, ServiceError
from equipoise.runs import Run
from equipoise.serving._limits import Limits
from equipoise.serving._worker import Worker

if TYPE_CHECKING:
    from equipoise.inference import Model

__all__ = ["Loading", "Runs", "Served", "give_back_memory", "named"]

Observe = Callable[[str, int, int], None]
Signature = list[tuple[str, int, int, int]]  # name, inode, bytes, time of the last change
#: Stuck threads of a run beside which one more worker is tried.
LEFT = 2


class Loading(Exception):
    """The run is being loaded anew already."""


@dataclass(frozen=True)
class Served:
    """A run in memory.

    Attributes:
        name: what requests call it.
        version: of its model's files: the first 12 digits of their SHA-256.
        loaded_at: when, ISO 8601, UTC.
        metrics: task -> its main metric, where the run tells one.
        folder: of the model's files.
        signature: what they looked like when they were loaded.
        ready: not empty when gradients can be taken.
    """

    name: str
    version: str
    loaded_at: str
    model: Model
    worker: Worker
    metrics: Mapping[str, Any]
    folder: Path
    signature: Signature
    ready: list[bool] = field(default_factory=list)

    def exact(self) -> None:
        """Makes the model ready for gradients, in its worker's thread: in float32, its weights may have to be read again.

        Raises:
            RunError: they are not those any more that were loaded, or it has no gradients.
        """
        from equipoise.inference import own_memory

        if self.model.precision == "fp32" or self.ready:
            return
        if _signature(self.folder) != self.signature:
            raise RunError(
                f"the files of '{self.name}' have changed since it was loaded. Reload it: /runs/{self.name}/reload"
            )
        self.model.exact()
        own_memory(self.model)
        self.ready.append(True)

    def described(self) -> dict[str, Any]:
        """Plain data for `GET /info`; no path of this machine."""
        tasks = []
        for name, task in self.model.tasks.items():
            told = task.to_dict()
            tasks.append(
                {
                    "name": name,
                    "kind": task.kind,
                    "range": told.get("range"),
                    "labels": told.get("labels"),
                    "multilabel": task.kind == "multilabel",
                }
            )
        return {
            "name": self.name,
            "version": self.version,
            "loaded_at": self.loaded_at,
            "text": list(self.model.text),
            "device": str(self.model.device),
            "precision": self.model.precision,
            "tasks": tasks,
            "metrics": dict(self.metrics),
        }


def named(
    runs: str | Path | Run | Sequence[str | Path | Run] | Mapping[str, str | Path | Run],
) -> dict[str, Path]:
    """Name -> folder, in the order given.

    Raises:
        ServiceError: there is none, two have the same name, or a name does not fit into an address.
    """
    if isinstance(runs, str | Path | Run):
        runs = [runs]
    pairs = list(runs.items()) if isinstance(runs, Mapping) else [(None, run) for run in runs]
    found: dict[str, Path] = {}
    for given, run in pairs:
        folder = run.folder if isinstance(run, Run) else Path(run)
        whole = folder.resolve()
        name = given or (whole.parent.name if whole.name == "model" else whole.name)
        if not name or "/" in name or not name.isprintable() or len(name) > 100:
            raise ServiceError(f"a run cannot be called {name!r}. Give it a name: NAME={folder}")
        if name in found:
            raise ServiceError(f"two runs are called '{name}'. Give one another name: NAME={folder}")
        found[name] = folder
    if not found:
        raise ServiceError("there is no run to serve. Name at least one run folder")
    return found


class Runs:
    """The runs of a service.

    Args:
        folders: name -> folder.
        device: where the models run.
        precision: of their products.
        limits: of the service.
        observe: is told of each batch: the run, texts, requests.

    Raises:
        RunError: one cannot be loaded.
    """

    def __init__(
        self, folders: Mapping[str, Path], *, device: str | None, precision: str, limits: Limits, observe: Observe
    ) -> None:
        self._folders, self._device, self._precision = dict(folders), device, precision
        self._limits, self._observe = limits, observe
        self._loading = {name: threading.Lock() for name in folders}
        self._left: dict[str, list[Worker]] = {
            name: [] for name in folders
        }  # given up, their threads maybe still there
        self._told: dict[str, Worker] = {}  # the last one of each run that was told to be lost
        self._retired: list[Worker] = []  # replaced by a reload, and finishing what they have
        self._served: dict[str, Served] = {}
        try:
            for name in folders:
                self._served[name] = self._load(name)
        except BaseException:
            self.close()
            raise

    @property
    def default(self) -> str:
        """The run of requests that name none."""
        return next(iter(self._folders))

    def all(self) -> list[Served]:
        """Every run as it is served now, the default first."""
        return list(self._served.values())

    def get(self, name: str | None) -> Served | None:
        """The run of that name as it is served now; None = the default. None if there is no such."""
        return self._served.get(self.default if name is None else name)

    def reload(self, name: str, *, wait: bool = True) -> Served:
        """Loads a run anew beside the old one, which answers until the new one stands and then finishes what it has.

        Args:
            name: of the run.
            wait: for one that is being loaded already, and load it once more then.

        Raises:
            RunError: it cannot be loaded; the old one goes on.
            Loading: it is being loaded already.
        """
        if not self._loading[name].acquire(blocking=wait):
            raise Loading
        try:
            fresh = self._load(name)
            old, self._served[name] = self._served[name], fresh
            old.worker.close()
            self._retired.append(old.worker)
        finally:
            self._loading[name].release()
        return fresh

    def heal(self) -> list[tuple[str, str]]:
        """Gives up workers that have died or are stuck, and gives their models to new ones.

        A thread that is stuck cannot be ended, so it stays behind. Where `LEFT` of them are, another would hardly help: the
        run then answers that it cannot, until one of them ends or it is loaded anew.

        Returns:
            The runs that lost a worker, and why.
        """
        lost: list[tuple[str, str]] = []
        stuck = f"the model has not come back for {self._limits.stuck_s:g} s"
        kept = [worker for worker in self._retired if worker.alive]
        if len(kept) < len(self._retired):
            give_back_memory()
        self._retired = kept
        for worker in self._retired:
            if worker.busy_s > self._limits.stuck_s and worker.abandoned is None:
                worker.abandon(stuck)
        for served in self.all():
            worker, name = served.worker, served.name
            if worker.abandoned is None:
                if not worker.alive and self._served[name] is served:
                    worker.abandon("its worker died")
                elif worker.busy_s > self._limits.stuck_s:
                    worker.abandon(stuck)
                else:
                    continue
            if self._told.get(name) is not worker:
                self._told[name] = worker
                lost.append((name, worker.abandoned or ""))
            if not self._loading[name].acquire(blocking=False):
                continue  # a new one is on its way
            try:
                left = [other for other in self._left[name] if other.alive]
                if worker not in left and worker.alive:
                    left.append(worker)
                self._left[name] = left
                if len(left) <= LEFT and self._served[name] is served:
                    self._served[name] = replace(served, worker=self._worker(name, served.model))
            finally:
                self._loading[name].release()
        return lost

    def failing(self) -> list[str]:
        """Runs that cannot answer now."""
        return [
            served.name
            for served in self.all()
            if served.worker.abandoned is not None
            or not served.worker.alive
            or served.worker.busy_s > self._limits.stuck_s
        ]

    def abandon(self, reason: str) -> None:
        """Tells all who still wait that they get no answer."""
        for worker in (*self._retired, *(served.worker for served in self.all())):
            worker.abandon(reason)

    def without_paths(self, name: str, message: str) -> str:
        """An error's words without the place of the run on this machine."""
        folder = self._folders[name]
        for path in (folder.resolve(), folder):
            message = message.replace(str(path), name)
        return message

    def close(self) -> None:
        """Lets every worker finish what it has."""
        for served in self._served.values():
            served.worker.close()
        for served in self._served.values():
            served.worker.join(0.5 if served.worker.abandoned is not None else 10)

    def _load(self, name: str) -> Served:
        from equipoise.inference import load, own_memory

        folder = self._folders[name]
        try:
            model_folder, metrics = _find(folder)
            before = _signature(model_folder)
            model = load(model_folder, device=self._device, precision=self._precision)
            own_memory(model)
            version = _version(model_folder)
            if _signature(model_folder) != before:
                raise RunError(f"{folder} was written to while it was read. Load it again when it is finished")
        except OSError as error:
            raise RunError(f"{folder} cannot be read: {error.strerror or error}") from error
        except (MemoryError, RuntimeError) as error:  # torch has no error of its own for a processor's memory
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            raise RunError(f"there is not enough memory to load {folder}. Free some, or use a smaller model") from error
        main = _main_metrics(model, metrics)
        worker = self._worker(name, model)
        try:  # the first prediction of a model is slow, and shows whether it works
            worker.predict([["."] for _ in model.text]).result()
        except Exception as error:
            worker.close()
            raise RunError(f"{folder} was loaded but cannot predict: {_first_line(error)}") from error
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return Served(name, version, now, model, worker, main, model_folder, before)

    def _worker(self, name: str, model: Model) -> Worker:
        return Worker(
            model, self._limits, name=name, observe=lambda texts, requests: self._observe(name, texts, requests)
        )


def _find(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The model folder of a run that is finished and its metrics; or a model folder alone."""
    if (folder / "multitask.json").is_file():
        return folder, {}
    run = Run.open(folder)
    if not run.metrics_file.is_file():
        raise RunError(f"'{folder}' is half-written: it has no metrics.json. Its training has not finished")
    return run.model_folder, run.metrics


def _signature(folder: Path) -> Signature:
    """What changes when a file is replaced or written to."""
    return sorted(
        (path.name, status.st_ino, status.st_size, status.st_mtime_ns)
        for path in folder.iterdir()
        if path.is_file()
        for status in [path.stat()]
    )


def _version(folder: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                whole.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:12]


def give_back_memory() -> None:
    """Lets the allocator return what models and requests have left: glibc keeps the holes of every thread for itself."""
    with contextlib.suppress(OSError, AttributeError):  # another system's C library has no such function
        ctypes.CDLL(None).malloc_trim(0)
    if "pyarrow" in sys.modules:  # tables have been read: it has an allocator of its own
        sys.modules["pyarrow"].default_memory_pool().release_unused()


def _main_metrics(model: Model, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Each task's main metric on the test split, else on validation."""
    found: dict[str, Any] = {}
    splits = metrics.get("splits")
    if not isinstance(splits, dict):
        return found
    for name, task in model.tasks.items():
        metric = task.main_metric[0]
        for split in ("test", "validation"):
            value = (splits.get(split) or {}).get(name, {}).get(metric)
            if isinstance(value, int | float):
                found[name] = {"split": split, "metric": metric, "value": value}
                break
    return found


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
