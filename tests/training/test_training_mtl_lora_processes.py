"""Task-specific adapters over two processes (gloo) train as in one."""

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


def test_two_processes_train_adapters_as_one_does(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    still = tmp_path / "still"
    shutil.copytree(tiny_recipe["model"]["backbone"], still)
    config = json.loads((still / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (still / "config.json").write_text(json.dumps(config))
    adapter = {"type": "mtl_lora", "rank": 2, "dropout": 0.0}
    tiny_recipe["model"] |= {"backbone": str(still), "dropout": 0.0, "adapter": adapter}
    tiny_recipe["balance"] = {"method": "dao", "shared": "representation"}
    # So few rows a process that a task is sometimes without a label in one of them, or in both.
    tiny_recipe["training"] |= {
        "group_by_length": False,
        "max_steps": 6,
        "learning_rate": 0.1,
        "arguments": {"optim": "sgd"},
        "batch_size": 1,
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(tiny_recipe, sort_keys=False))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    done = subprocess.run(
        [*command, "-m", "equipoise.cli", "train", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    one = eq.train(tiny_recipe, overrides=["training.batch_size=2"], output=tmp_path / "one", progress=False)
    two = load_file(Path(tiny_recipe["output"]) / "model" / "mtl_lora.safetensors")
    found = load_file(one.model_folder / "mtl_lora.safetensors")
    assert found.keys() == two.keys()
    for name, value in found.items():
        torch.testing.assert_close(two[name], value, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    assert max(value.abs().max() for name, value in found.items() if "lora_B" in name) > 1e-3  # they begin at zero
