"""DAO's guard against a nearly solved task: none, `floor`, `own_floor`, and equal weights beside them, on validation.

    python benchmarks/dao_floor.py [--seeds 3]

FiQA (score + aspect), where the aspect is learned by heart within a few epochs: its gradient then vanishes, and plain DAO
gives it all the weight. Judged on a validation fifth, a new one a seed; the test split is not touched.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _common import ROOT, write

import equipoise as eq

DATA = Path(os.environ.get("EQUIPOISE_DATA", ROOT.parent / "shared" / "data"))
ARMS: dict[str, dict[str, Any]] = {
    "none": {"method": "dao"},
    "floor 0.5": {"method": "dao", "floor": 0.5},
    "own_floor 0.5": {"method": "dao", "own_floor": 0.5},
    "equal": {"method": "equal", "monitor": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    options = parser.parse_args()
    recipe = {
        "data": {"train": str(DATA / "fiqa2018_task1/train.csv"), "validation": 0.2, "text": ["text", "target"]},
        "tasks": {
            "polarity": {"type": "regression", "column": "score", "range": [-1, 1]},
            "aspect": {"type": "classification", "column": "aspect_l1"},
        },
        "training": {"epochs": 8, "learning_rate": 2e-4},
    }
    figures: dict[str, Any] = {"seeds": options.seeds, "arms": {}}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for arm in options.arms:
                run = eq.train(
                    {**recipe, "balance": ARMS[arm]},
                    overrides=[f"training.seed={seed}"],
                    output=Path(folder) / "run",
                    overwrite=True,
                    progress=False,
                )
                curves = [line["metrics"] for line in run.history if "metrics" in line]
                lowest = min(line["tasks"]["polarity"]["weight"] for line in run.history if "tasks" in line)
                found = {
                    "polarity_mse": [m["polarity"]["mse"] for m in curves],
                    "aspect_accuracy": [m["aspect"]["accuracy"] for m in curves],
                    "lowest_polarity_weight": lowest,
                }
                figures["arms"].setdefault(arm, []).append(found)
                mse, accuracy = found["polarity_mse"], found["aspect_accuracy"]
                print(f"seed {seed} {arm}: mse last {mse[-1]:.4f} best {min(mse):.4f}, aspect accuracy last "
                      f"{accuracy[-1]:.3f}, lowest weight of polarity {lowest:.3f}", flush=True)  # fmt: skip
    for arm, runs in figures["arms"].items():
        last = [r["polarity_mse"][-1] for r in runs]
        best = [min(r["polarity_mse"]) for r in runs]
        print(f"{arm}: mse last {np.mean(last):.4f}, best {np.mean(best):.4f}, aspect accuracy last "
              f"{np.mean([r['aspect_accuracy'][-1] for r in runs]):.3f}")  # fmt: skip
    write("dao_floor", figures)


if __name__ == "__main__":
    main()
