"""Two processes (gloo) train one model: what works does, what would be wrong is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import equipoise as eq

pytestmark = pytest.mark.distributed


def launch(recipe: dict[str, Any], folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    sets = [part for override in overrides for part in ("--set", override)]
    return subprocess.run(
        [*command, "-m", "equipoise.cli", "train", str(file), *sets], capture_output=True, text=True, check=False
    )


def test_equal_weights_train_in_two_processes(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    done = launch(tiny_recipe, tmp_path, "balance={method: equal}", "training.epochs=2")
    assert done.returncode == 0, done.stderr
    run = eq.Run.open(tiny_recipe["output"])
    lines = [json.loads(line) for line in run.history_file.read_text().splitlines()]
    steps = [line["step"] for line in lines if "tasks" in line]
    assert steps == sorted(set(steps))  # one process writes the history
    rows = run.metrics["data"]["splits"]["train"]["rows"]
    assert run.metrics["training"]["steps"] == 2 * -(-rows // 16)  # a step takes a batch of each process
    assert sorted(p.name for p in run.folder.iterdir()) == [
        "history.jsonl", "metrics.json", "model", "predictions", "recipe.yaml", "rejected.jsonl",
    ]  # fmt: skip


def test_weights_that_would_differ_by_process_are_refused(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    done = launch(tiny_recipe, tmp_path)
    assert done.returncode != 0
    assert "balance.method: dao measures shared of one process's rows" in done.stderr
