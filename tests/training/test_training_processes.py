"""Two processes (gloo) train one model: what works does, what would be wrong is refused."""

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
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))  # the order of tasks is that of the heads
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    sets = [part for override in overrides for part in ("--set", override)]
    return subprocess.run(
        [*command, "-m", "equipoise.cli", "train", str(file), *sets], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("method", ["equal", "dao", "famo"])
def test_two_processes_train_as_one_does(method: str, tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    # Without dropout two half batches are one batch, also where labels are missing from some rows.
    source = Path(tiny_recipe["model"]["backbone"])
    still = tmp_path / "still"
    shutil.copytree(source, still)
    config = json.loads((still / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (still / "config.json").write_text(json.dumps(config))
    tiny_recipe["model"] |= {"backbone": str(still), "dropout": 0.0}
    # Plain gradient descent: Adam's first steps have the sign of a gradient only, which rounding can turn.
    tiny_recipe["training"] |= {"group_by_length": False, "max_steps": 3, "arguments": {"optim": "sgd"}}
    settings = [f"balance={{method: {method}}}"]
    done = launch(tiny_recipe, tmp_path, *settings)
    assert done.returncode == 0, done.stderr
    one = eq.train(
        tiny_recipe, overrides=[*settings, "training.batch_size=16"], output=tmp_path / "one", progress=False
    )
    two = load_file(Path(tiny_recipe["output"]) / "model" / "model.safetensors")
    for name, value in load_file(one.model_folder / "model.safetensors").items():
        torch.testing.assert_close(two[name], value, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_one_process_writes_the_run(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    done = launch(tiny_recipe, tmp_path, "balance={method: equal}", "training.epochs=2")
    assert done.returncode == 0, done.stderr
    run = eq.Run.open(tiny_recipe["output"])
    lines = [json.loads(line) for line in run.history_file.read_text().splitlines()]
    steps = [line["step"] for line in lines if "tasks" in line]
    assert steps == sorted(set(steps))  # one process writes the history
    rows = run.metrics["data"]["splits"]["train"]["rows"]
    assert run.metrics["training"]["steps"] == 2 * -(-rows // 16)  # a step takes a batch of each process
    assert sorted(p.name for p in run.folder.iterdir()) == [
        "README.md", "history.jsonl", "metrics.json", "model", "predictions", "recipe.yaml", "rejected.jsonl", "report.html",
    ]  # fmt: skip


def test_two_processes_save_the_average_that_one_does(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    still = tmp_path / "still"
    shutil.copytree(tiny_recipe["model"]["backbone"], still)
    config = json.loads((still / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (still / "config.json").write_text(json.dumps(config))
    tiny_recipe["model"] |= {"backbone": str(still), "dropout": 0.0}
    tiny_recipe["data"] |= {"validation": None}
    tiny_recipe["training"] |= {"group_by_length": False, "max_steps": 6, "arguments": {"optim": "sgd"}}
    settings = ["balance={method: equal}", "training.averaging=swa", "training.learning_rate=0.1"]
    done = launch(tiny_recipe, tmp_path, *settings)
    assert done.returncode == 0, done.stderr
    settings.append("training.batch_size=16")
    one = eq.train(tiny_recipe, overrides=settings, output=tmp_path / "one", progress=False)
    last = eq.train(
        tiny_recipe, overrides=[*settings, "training.averaging=null"], output=tmp_path / "last", progress=False
    )
    two = load_file(Path(tiny_recipe["output"]) / "model" / "model.safetensors")
    unaveraged = load_file(last.model_folder / "model.safetensors")
    for name, value in load_file(one.model_folder / "model.safetensors").items():
        torch.testing.assert_close(two[name], value, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    assert (two["classifier.bias"] - unaveraged["classifier.bias"]).abs().max() > 2e-3, "no average would prove nothing"
