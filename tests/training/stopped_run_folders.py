"""A run that was stopped on the way and the same run unstopped: trained once a module, copied for every test."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_table
from stopped_runs import StopAt, comparable, weights

from equipoise.runs import Run
from equipoise.training import resume, train


@dataclass(frozen=True)
class Stopped:
    """What the tests start from.

    Attributes:
        recipe: of both.
        whole: the finished run.
        stopped: the run that ended at step 13, with checkpoints at 3, 6, 9 and 12.
    """

    recipe: dict[str, Any]
    whole: Run
    stopped: Run

    def copy(self, folder: Path) -> Run:
        """The stopped run, somewhere else."""
        shutil.copytree(self.stopped.folder, folder)
        return Run(folder)

    def same(self, run: Run) -> None:
        """Asserts that a run ended as the unstopped one; what it noted on the way is left out."""
        expected = weights(self.whole)
        found = weights(run)
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in found.items())
        lines = [line for line in run.history if "note" not in line]
        assert comparable(lines) == comparable(self.whole.history)
        assert run.metrics["splits"] == self.whole.metrics["splits"]

    def resumes(self, run: Run) -> None:
        """Resumes and asserts the same end."""
        self.same(resume(run.folder, progress=False))


def settings(folder: Path, backbone: Path) -> dict[str, Any]:
    """Three tasks, 18 steps, a checkpoint every third."""
    return {
        "model": {"backbone": str(backbone), "max_length": 24},
        "data": {"train": str(write_table(folder / "table.csv")), "validation": 0.2, "test": 0.2},
        "tasks": {
            "polarity": {"type": "regression", "column": "score", "range": [-1, 1]},
            "label": {"type": "classification"},
        },
        "training": {
            "epochs": 2,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "precision": "fp32",
            "log_every_steps": 2,
            "checkpoint_every_steps": 3,
        },
        "output": str(folder / "run"),
    }


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Callable[[str], Path]) -> Stopped:
    folder = tmp_path_factory.mktemp("stopped")
    recipe = settings(folder, tiny_backbone("bert"))
    whole = train(recipe, output=folder / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, output=folder / "stopped", progress=False, callbacks=[StopAt(13)])
    return Stopped(recipe, whole, Run(folder / "stopped"))


def steps_of(run: Run) -> list[int]:
    """The steps of the checkpoints under their own names."""
    return [int(path.name.rpartition("-")[2]) for path in run.checkpoints()]


def manifest(checkpoint: Path) -> dict[str, Any]:
    """`checkpoint.json`."""
    data: dict[str, Any] = json.loads((checkpoint / "checkpoint.json").read_text())
    return data


def flip(path: Path, at: int = -1) -> None:
    """Turns one bit, of the byte in the middle or at a place."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at < 0 else at] ^= 1
    path.write_bytes(data)


def as_before_manifests(checkpoint: Path) -> None:
    """Makes of a checkpoint what the version before manifests wrote."""
    (checkpoint / "checkpoint.json").unlink()
    state = checkpoint / "evaluations.json"
    data = json.loads(state.read_text())
    del data["format_version"]
    state.write_text(json.dumps(data))
