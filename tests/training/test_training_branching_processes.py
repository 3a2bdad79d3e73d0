"""Private layers over two processes (gloo): from the start they train as in one, in the middle they are refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import equipoise as eq

pytestmark = pytest.mark.distributed


def launch(recipe: dict[str, Any], folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    sets = [part for override in overrides for part in ("--set", override)]
    return subprocess.run(
        [*command, "-m", "equipoise.cli", "train", str(file), *sets], capture_output=True, text=True, check=False
    )


def test_two_processes_train_private_layers_as_one_does(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    still = tmp_path / "still"
    shutil.copytree(tiny_recipe["model"]["backbone"], still)
    config = json.loads((still / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (still / "config.json").write_text(json.dumps(config))
    tiny_recipe["model"] |= {"backbone": str(still), "dropout": 0.0, "private_layers": 1}
    # So few rows a process that a task is sometimes without a label in one of them, or in both.
    tiny_recipe["training"] |= {
        "group_by_length": False,
        "max_steps": 6,
        "arguments": {"optim": "sgd"},
        "batch_size": 1,
    }
    done = launch(tiny_recipe, tmp_path, "balance={method: dao}")
    assert done.returncode == 0, done.stderr
    one = eq.train(
        tiny_recipe,
        overrides=["balance={method: dao}", "training.batch_size=2"],
        output=tmp_path / "one",
        progress=False,
    )
    two = load_file(Path(tiny_recipe["output"]) / "model" / "model.private.safetensors")
    found = load_file(one.model_folder / "model.private.safetensors")
    assert found.keys() == two.keys()
    for name, value in found.items():
        torch.testing.assert_close(two[name], value, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_two_processes_do_not_part_on_the_way(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    done = launch(tiny_recipe, tmp_path, "model.private_layers=1", "model.private_when=conflict")
    assert done.returncode != 0
    assert "model.private_when: conflict trains in one process only" in done.stderr
