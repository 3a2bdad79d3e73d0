"""Many files on Ray Data: actors hold the model, and whole files go to them.

The rows of the dataset are file names, and its one stage is a pool of actors that read, predict and write a file where
they are. Rows of text never pass through Ray: a prediction costs a thousand times what reading its row does, so moving
the reading elsewhere would gain nothing, and an output that must be one file, in order, would have to be collected
again. What keeps memory bounded is the same as on one machine, blocks of rows within `predict_file`; Ray Data hands a
worker its next bundle of files when it has finished the last.
"""

from __future__ import annotations

import importlib
import json
import logging
import traceback
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from equipoise.clusters import cluster, room
from equipoise.errors import EquipoiseError, RunError
from equipoise.inference._score import ModelHolder, score_file

__all__ = ["bundles", "on_ray"]

Job = Mapping[str, Any]

#: Small files travel together, so that handing them out costs little: so many bytes, or so many files.
BUNDLE_BYTES, BUNDLE_FILES = 2**20, 64

#: How many workers may be lost over a file. More than one: a machine may be taken away for no fault of the file's.
TRIES = 3


def on_ray(
    jobs: Sequence[Job], folder: str, options: Mapping[str, Any], *, workers: int | None
) -> Generator[dict[str, Any], None, None]:
    """Scores files in worker processes; records come as files are finished.

    Args:
        jobs: of `score_file`. Workers see the same paths.
        folder: the `model` folder, which workers load from.
        options: of `ModelHolder`; `threads` None is 1. Where the cluster has graphics processors, each worker gets one.
        workers: None: as many as there is room for.

    Raises:
        RecipeError: Ray is not installed or has no room for a worker.
        RunError: no connection to the cluster, or a worker cannot load the model.
    """
    threads = options["threads"] or 1
    if not jobs:
        return
    with cluster(workers, threads) as ray, _quiet() as data:
        gpus, fit = room(ray, threads)
        packed = bundles(jobs, workers or fit)
        rows = [{"jobs": json.dumps([dict(job) for job in bundle])} for bundle in packed]
        dataset = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            FileScorer,
            fn_constructor_args=(folder, {**options, "threads": threads}),
            batch_size=1,
            # One bundle at a time: a second one in an actor's queue would wait for a long file while others are idle.
            compute=data.ActorPoolStrategy(size=min(workers or fit, len(packed)), max_tasks_in_flight_per_actor=1),
            num_cpus=threads,
            num_gpus=gpus or None,
        )
        for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
            for text in batch["record"].tolist():
                record = json.loads(text)
                if "halt" in record:
                    raise RunError(record["halt"])
                if "bug" in record:
                    raise RuntimeError(f"a worker failed:\n{record['bug']}")
                yield record


def bundles(jobs: Iterable[Job], workers: int) -> list[list[Job]]:
    """Jobs in the order they are handed out, those of small files together.

    The largest files come first: what is handed out last decides how long the others wait for the end.

    Args:
        jobs: of `score_file`.
        workers: every one gets several bundles, if there are files enough.
    """
    sized = sorted(((_bytes(job), job) for job in jobs), key=lambda pair: -pair[0])
    most = min(BUNDLE_BYTES, sum(size for size, _ in sized) // (4 * workers))
    packed: list[list[Job]] = []
    weight = 0
    for size, job in sized:
        if not packed or weight + size > most or len(packed[-1]) >= BUNDLE_FILES:
            packed.append([])
            weight = 0
        packed[-1].append(job)
        weight += size
    return packed


def _bytes(job: Job) -> int:
    try:
        return Path(job["path"]).stat().st_size
    except OSError:
        return 0  # it will fail, and quickly


def _counted(model: ModelHolder, job: Job) -> dict[str, Any]:
    """Scores a file, unless workers were lost over it again and again.

    Ray gives the bundle of a lost worker to another one, for ever. So each try leaves a byte beside the output, which is
    gone when the file is done: a file that kills its workers is found out, and the others of its bundle go on.
    """
    target = Path(job["target"])
    tries = target.with_name(f".{target.name}.tries")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tries.open("ab") as file:
        before = file.tell()
        file.write(b".")
    try:
        if before >= TRIES:
            reason = f"{job['input']}: its worker was lost {before} times, killed or out of memory"
            return {"output": job["output"], "input": job["input"], "status": "failed", "reason": reason, "seconds": 0}
        return score_file(model, job)
    finally:
        tries.unlink(missing_ok=True)


class FileScorer:
    """An actor of the pool: takes bundles of jobs as JSON, gives records as JSON."""

    def __init__(self, folder: str, options: Mapping[str, Any]) -> None:
        self._model = ModelHolder(folder, options)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Scores the files of some bundles, one after the other."""
        jobs = [job for bundle in batch["jobs"].tolist() for job in json.loads(bundle)]
        return {"record": [json.dumps(self._score(job)) for job in jobs]}

    def _score(self, job: Job) -> dict[str, Any]:
        try:
            return _counted(self._model, job)
        except EquipoiseError as error:  # of the model: no file can be scored
            return {"halt": str(error)}
        except Exception:
            return {"bug": traceback.format_exc()}


@contextmanager
def _quiet() -> Iterator[Any]:
    """Ray Data that writes nothing to the terminal; its settings are taken back."""
    data: Any = importlib.import_module("ray.data")
    context = data.DataContext.get_current()
    wanted = {"enable_progress_bars": False, "print_on_execution_start": False}
    before = {name: getattr(context, name) for name in wanted}
    logger = logging.getLogger("ray.data")
    handlers = list(logger.handlers)
    logger.handlers = [one for one in handlers if not isinstance(one, logging.StreamHandler)]
    try:
        for name, value in wanted.items():
            setattr(context, name, value)
        yield data
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        logger.handlers = handlers
