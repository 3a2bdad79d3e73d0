"""Trainings that are killed and resumed, the recipes that they are tried on, and what must come out the same.

A trial is a run that dies by one fault after the other, each in a process of its own, and is resumed until it ends. Then
it is compared with the run of the same recipe that nobody stopped: file by file, byte by byte.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

SERVER = Path(__file__).with_name("kill_server.py")

#: What a clock or the system's memory says; everything else of `metrics.json` must be equal.
TIMES = frozenset({"seconds", "total_seconds", "samples_per_second", "peak_memory_mb"})

Fault = dict[str, Any]


class Trainings:
    """Hands trainings to `kill_server.py`, one at a time."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        own = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", **environment}
        self.log = folder / "trainings.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SERVER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | own,
                text=True,
            )
        self._warm = False

    def go(self, recipe: Path, output: Path, fault: Fault | None = None, **options: Any) -> tuple[int, float]:
        """Resumes the run that is in `output`, or trains it.

        Args:
            recipe: its file, read where there is no run yet.
            output: the run folder.
            fault: of `kill_server.py`, or None to let it end.
            options: `quick`, `threads`, `noise`, `folder`, `overwrite`, `trace` and `processes` of a job.

        Returns:
            The exit status of the training's process, -9 where it was killed, and its seconds.
        """
        job: dict[str, Any] = {"quick": True, "threads": None, "noise": False, "overwrite": False, "trace": None}
        job["processes"] = 1
        job |= {"folder": str(self.folder), "log": str(self.log), "recipe": str(recipe), "output": str(output)}
        job["fault"] = fault
        if not self._warm and fault is None:  # what the first one imported, the next ones find imported
            job["modules"], self._warm = str(self.folder / "modules.json"), True
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job | options) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the server of trainings is gone:\n{self.tail()}"
        answer = json.loads(line)
        return answer["status"], answer["seconds"]

    def whole(self, recipe: Path, output: Path, **options: Any) -> list[str]:
        """Trains a run without a fault; gives the changes of files that it made."""
        trace = self.folder / "trace.json"
        status, _ = self.go(recipe, output, trace=str(trace), **options)
        assert status == 0, self.tail()
        words: list[str] = json.loads(trace.read_text())
        return words

    def tail(self) -> str:
        """The last of what the trainings printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]

    def close(self) -> None:
        """Ends the process."""
        with self.process as process:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)


@contextlib.contextmanager
def trainings(folder: Path, **environment: str) -> Iterator[Trainings]:
    """A server for as long as this lasts."""
    server = Trainings(folder, **environment)
    try:
        yield server
    finally:
        server.close()


_SHARED: list[Trainings] = []


@contextlib.contextmanager
def shared_trainings(folder: Path) -> Iterator[Trainings]:
    """The server that all tests of a session share: it takes seconds to start."""
    if not _SHARED:
        _SHARED.append(Trainings(folder))
    try:
        yield _SHARED[0]
    finally:
        while _SHARED:
            _SHARED.pop().close()


# Trials ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """What came of a run that was killed: the faults that hit, by kind, and how its end differs from the whole run's."""

    hits: Counter[str]
    deviations: list[str]


def survive(
    server: Trainings, recipe: Path, reference: Path, output: Path, faults: Sequence[Fault], **options: Any
) -> Trial:
    """Kills a run by every fault in turn, lets it end, and compares."""
    hits: Counter[str] = Counter()
    for fault in faults:
        status, _ = server.go(recipe, output, fault, **options)
        if status == 0 and not hits and fault is not faults[-1]:  # it was over before a kill by the clock: begin anew
            shutil.rmtree(output)
            continue
        if status == 0:  # it ended before the fault's moment came
            break
        if status != -9:
            return Trial(hits, [f"after {dict(hits)}, at {fault}: {last_line(server.tail())}"])
        hits[fault["kind"]] += 1
    else:
        status, _ = server.go(recipe, output, **options)
        if status != 0:
            return Trial(hits, [f"after {list(faults)}: {last_line(server.tail())}"])
    return Trial(hits, differences(reference, output))


def last_line(text: str) -> str:
    """The line of a traceback that says what is wrong."""
    return (text.strip().splitlines() or ["nothing was printed"])[-1]


def draw(seed: str, words: Sequence[str], *, steps: int, evaluations: int, seconds: float | None = None) -> list[Fault]:
    """One fault of every kind, in a random order.

    Args:
        seed: the same gives the same.
        words: the changes of files of the whole run.
        steps, evaluations: that it makes.
        seconds: that it takes, for a kill from outside; None = no such kill.
    """
    rng = random.Random(seed)
    moments = ["on_step_begin", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end"]
    checkpoints = max(sum(word.startswith("os.rename checkpoints/.partial") for word in words), 1)
    found: list[Fault] = [
        {"kind": "step", "n": rng.randint(1, steps - 1), "when": rng.choice(moments)},
        {"kind": "history", "n": rng.randint(1, 4), "bytes": rng.randint(0, 60)},
        {"kind": "file", "match": "^os.rename checkpoints/.partial", "n": rng.randint(1, checkpoints)}
        | {"tear": rng.choice([None, rng.randrange(1000)])},
        {"kind": "file", "match": "", "n": rng.randint(1, len(words)), "tear": rng.randrange(1000)},
    ]
    if evaluations:
        found.append({"kind": "evaluate", "n": rng.randint(1, evaluations)})
    if seconds is not None:
        found.append({"kind": "time", "seconds": rng.uniform(0, seconds)})
    rng.shuffle(found)
    return found


# What must be the same ------------------------------------------------------------------------------------------------


def differences(expected: Path, found: Path) -> list[str]:
    """How a finished run differs from another of the same recipe, in words; pages and times do not count."""
    names, other = (_names(folder) for folder in (expected, found))
    said = [f"{name} is missing" for name in sorted(names - other)]
    said += [f"{name} is left over" for name in sorted(other - names)]
    cache = found.with_name(f".{found.name}.cache")
    said += [f"{cache.name} is left over beside the run"] if cache.exists() else []
    for name in sorted(names & other):
        said += _unlike(name, expected / name, found / name)
    lines = [json.loads(line) for line in (found / "history.jsonl").read_text().splitlines()]
    kinds = Counter((line["step"], "tasks" in line, "metrics" in line, "note" in line) for line in lines)
    said += [f"history.jsonl: step {key[0]} stands there {count} times" for key, count in kinds.items() if count > 1]
    return said


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _unlike(name: str, one: Path, other: Path) -> list[str]:
    if one.is_dir() or name in ("report.html", "README.md"):  # pages tell of times
        return []
    if name.endswith(("metrics.json", "evaluations.json", "checkpoint.json")):
        found = [json.loads(path.read_text()) for path in (one, other)]
        for data in found if name.endswith("checkpoint.json") else ():
            del data["files"]["evaluations.json"]  # its clock's seconds are in it
        return _walk(name, *found)
    if name == "history.jsonl":
        return _walk(name, *([json.loads(line) for line in path.read_text().splitlines()] for path in (one, other)))
    if name == "recipe.yaml":
        texts = [path.read_text().replace(str(path.parent.parent), "").split("\noutput:")[0] for path in (one, other)]
        return [] if texts[0] == texts[1] else [f"{name} differs"]
    if one.read_bytes() == other.read_bytes():
        return []
    if name.endswith(".safetensors"):
        gaps = gap(load_file(one), load_file(other))
        return [f"{name}: {key} by up to {value:.3g}" for key, value in gaps.items() if value] or [f"{name} differs"]
    return [f"{name} differs"]


def gap(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Tensor's name -> how far the two are apart at most; infinite where one is missing or of another shape."""
    apart = {name: float("inf") for name in one.keys() ^ other.keys()}
    for name in one.keys() & other.keys():
        a, b = np.asarray(one[name], np.float64), np.asarray(other[name], np.float64)
        apart[name] = float(np.abs(a - b).max(initial=0)) if a.shape == b.shape else float("inf")
    return apart


def _walk(where: str, one: Any, other: Any) -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [key for key in dict.fromkeys([*one, *other]) if key not in TIMES]
        return [
            line for key in keys for line in _walk(f"{where} {key}", one.get(key, "absent"), other.get(key, "absent"))
        ]
    if isinstance(one, list) and isinstance(other, list):
        said = [] if len(one) == len(other) else [f"{where}: {len(other)} in place of {len(one)}"]
        return said + [
            line for at, pair in enumerate(zip(one, other, strict=False)) for line in _walk(f"{where}[{at}]", *pair)
        ]
    return [] if one == other else [f"{where}: {other!r} in place of {one!r}"[:300]]
