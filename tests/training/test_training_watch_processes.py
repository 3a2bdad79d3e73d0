"""Two processes (gloo): a number that is not finite in one of them is met by both alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from faulty_runs import events
from safetensors.torch import load_file

import equipoise as eq

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SCRIPT = """
import os, sys
sys.path[:0] = sys.argv[2:4]
import pytest
from faulty_runs import LossFault
from equipoise.training import train

patch = pytest.MonkeyPatch()
# The fault is in the rows of one process only, and in the second of an update's two batches.
steps = [5] if os.environ["RANK"] == "1" else []
fault = LossFault(patch, "label", steps, float("nan"), once=True, batch=2)
train(sys.argv[1], overrides=sys.argv[4:], callbacks=[fault])
"""


@pytest.mark.parametrize(
    ("policy", "kind", "rate"), [("skip", "nonfinite_loss", 1.0), ("rollback", "rollback", 0.5), ("stop", None, 1.0)]
)
def test_all_processes_decide_alike(
    tiny_recipe: dict[str, Any], tmp_path: Path, policy: str, kind: str | None, rate: float
) -> None:
    tiny_recipe["training"] |= {"max_steps": 9, "accumulation": 2, "checkpoint_every_steps": 3, "log_every_steps": 1}
    tiny_recipe["training"] |= {"on_nonfinite": policy, "evaluate_every_steps": 9}
    file, script = tmp_path / "recipe.yaml", tmp_path / "script.py"
    file.write_text(yaml.safe_dump(tiny_recipe, sort_keys=False))
    script.write_text(SCRIPT)
    here = Path(__file__).parent
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    done = subprocess.run(
        [*command, str(script), str(file), str(here), str(here.parent)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    run = eq.Run(Path(tiny_recipe["output"]))
    if policy == "stop":
        assert done.returncode != 0
        assert done.stderr.count("step 5: task 'label': the loss is not finite") >= 2, "each process says so"
        assert [e["step"] for e in events(run)] == [5]
        return
    assert done.returncode == 0, done.stderr
    found = [e for e in events(run) if e["kind"] != "worse_than_constant"]
    assert [e["kind"] for e in found] == [kind]
    steps = [line["step"] for line in run.history if "tasks" in line]
    assert steps == [step for step in range(1, 10) if policy == "rollback" or step != 5]
    assert all(torch.isfinite(value).all() for value in load_file(run.model_folder / "model.safetensors").values())
    rates = {line["step"]: line["learning_rate"] for line in run.history if "learning_rate" in line}
    # The schedule falls by 1/8 of the highest rate a step after one of warm-up; one that is left out does not count.
    assert rates[9] / max(rates.values()) == pytest.approx((1 / 8 if policy == "rollback" else 2 / 8) * rate, rel=1e-3)
