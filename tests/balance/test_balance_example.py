"""The example in a plain loop runs, and the page of methods is the one that the classes describe."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_plain_torch_example_runs_and_prints_weights(capsys) -> None:
    script = ROOT / "examples" / "plain_torch.py"
    assert len(script.read_text().splitlines()) < 80
    weights = runpy.run_path(str(script))["main"](steps=60)
    assert weights["score"] < 0.5 < weights["label"], "the loud task is turned down"
    assert sum(weights.values()) == pytest.approx(2.0, rel=1e-5)
    assert capsys.readouterr().out.count("weight") == 6


def test_the_page_of_balancers_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "_generate_balancers.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
