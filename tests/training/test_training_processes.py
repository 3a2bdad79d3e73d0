"""Two processes (gloo) train one model: what works does, what would be wrong is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from kill_helpers import Trainings, shared_trainings
from safetensors.torch import load_file

import equipoise as eq

pytestmark = pytest.mark.distributed

#: So few rows a process that a task is sometimes without a label in one of them, or in both.
SPARSE = {"max_steps": 6, "batch_size": 1}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    with shared_trainings(tmp_path_factory.mktemp("trainings")) as found:
        yield found


@pytest.fixture
def still_recipe(tiny_recipe: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Without dropout two half batches are one batch, also where labels are missing from some rows."""
    still = tmp_path / "still"
    shutil.copytree(tiny_recipe["model"]["backbone"], still)
    config = json.loads((still / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (still / "config.json").write_text(json.dumps(config))
    tiny_recipe["model"] |= {"backbone": str(still), "dropout": 0.0}
    # Plain gradient descent: Adam's first steps have the sign of a gradient only, which rounding can turn.
    tiny_recipe["training"] |= {"group_by_length": False, "arguments": {"optim": "sgd"}}
    return tiny_recipe


def in_two(server: Trainings, recipe: dict[str, Any], folder: Path) -> int:
    """Trains it in two processes; the exit status."""
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))  # the order of tasks is that of the heads
    return server.go(file, Path(recipe["output"]), processes=2)[0]


def assert_as_one(server: Trainings, recipe: dict[str, Any], folder: Path, weights: str) -> dict[str, torch.Tensor]:
    """Two processes end with the weights of one whose batches are twice as long; gives them."""
    assert in_two(server, recipe, folder) == 0, server.tail()
    rows = 2 * recipe["training"]["batch_size"]
    one = eq.train(recipe, overrides=[f"training.batch_size={rows}"], output=folder / "one", progress=False)
    two, found = (load_file(run.model_folder / weights) for run in (eq.Run.open(recipe["output"]), one))
    assert found.keys() == two.keys()
    for name, value in found.items():
        torch.testing.assert_close(two[name], value, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    return two


@pytest.mark.parametrize("method", ["equal", "dao", "famo"])
def test_two_processes_train_as_one_does(
    method: str, server: Trainings, still_recipe: dict[str, Any], tmp_path: Path
) -> None:
    still_recipe["balance"] = {"method": method}
    still_recipe["training"] |= {"max_steps": 3}
    assert_as_one(server, still_recipe, tmp_path, "model.safetensors")


def test_two_processes_save_the_average_that_one_does(
    server: Trainings, still_recipe: dict[str, Any], tmp_path: Path
) -> None:
    still_recipe["balance"] = {"method": "equal"}
    still_recipe["data"] |= {"validation": None}
    still_recipe["training"] |= {"max_steps": 6, "averaging": "swa", "learning_rate": 0.1}
    two = assert_as_one(server, still_recipe, tmp_path, "model.safetensors")
    settings = ["training.averaging=null", "training.batch_size=16"]
    last = eq.train(still_recipe, overrides=settings, output=tmp_path / "last", progress=False)
    unaveraged = load_file(last.model_folder / "model.safetensors")
    assert (two["classifier.bias"] - unaveraged["classifier.bias"]).abs().max() > 2e-3, "no average would prove nothing"


def test_two_processes_train_private_layers_as_one_does(
    server: Trainings, still_recipe: dict[str, Any], tmp_path: Path
) -> None:
    still_recipe["balance"] = {"method": "dao"}
    still_recipe["model"] |= {"private_layers": 1}
    still_recipe["training"] |= SPARSE
    assert_as_one(server, still_recipe, tmp_path, "model.private.safetensors")


def test_two_processes_train_adapters_of_tasks_as_one_does(
    server: Trainings, still_recipe: dict[str, Any], tmp_path: Path
) -> None:
    still_recipe["balance"] = {"method": "dao", "shared": "representation"}
    still_recipe["model"] |= {"adapter": {"type": "mtl_lora", "rank": 2, "dropout": 0.0}}
    still_recipe["training"] |= SPARSE | {"learning_rate": 0.1}
    two = assert_as_one(server, still_recipe, tmp_path, "mtl_lora.safetensors")
    assert max(value.abs().max() for name, value in two.items() if "lora_B" in name) > 1e-3  # they begin at zero


def test_two_processes_do_not_part_on_the_way(server: Trainings, tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    tiny_recipe["model"] |= {"private_layers": 1, "private_when": "conflict"}
    assert in_two(server, tiny_recipe, tmp_path) != 0
    assert "model.private_when: conflict trains in one process only" in server.tail()


def test_one_process_writes_the_run(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    """As a user starts it."""
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(tiny_recipe, sort_keys=False))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    settings = ["--set", "balance={method: equal}", "--set", "training.epochs=2"]
    done = subprocess.run(
        [*command, "-m", "equipoise.cli", "train", str(file), *settings], capture_output=True, text=True, check=False
    )
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
