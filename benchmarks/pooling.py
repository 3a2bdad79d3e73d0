"""Native against mean pooling for the bundled encoder, judged on validation splits alone, paired by seed.

    python benchmarks/pooling.py [--seeds 5]

FiQA with a new validation split a seed (it is small: one seed says nothing), Financial PhraseBank, and 3,000 seeded rows
of SST. The best evaluation of each run counts, for both arms alike. The difference of each pair (same seed, same split,
same order) is given with a 95 % t interval.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _common import ROOT, write
from scipy import stats

import equipoise as eq

DATA = Path(os.environ.get("EQUIPOISE_DATA", ROOT.parent / "shared" / "data"))
SCORE = {"type": "regression", "column": "score", "range": [-1, 1]}


def sets(folder: Path) -> dict[str, dict[str, Any]]:
    sample = folder / "sst_3000.csv"
    with (DATA / "sst" / "train.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    with sample.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *random.Random(0).sample(rows, 3000)])
    return {
        "fiqa": {
            "data": {"train": str(DATA / "fiqa2018_task1/train.csv"), "validation": 0.2, "text": ["text", "target"]},
            "tasks": {"polarity": SCORE, "aspect": {"type": "classification", "column": "aspect_l1"}},
            "training": {"epochs": 6},
        },
        "phrasebank": {
            "data": {
                "train": str(DATA / "financial_phrasebank/train.csv"),
                "validation": str(DATA / "financial_phrasebank/validation.csv"),
            },
            "tasks": {"label": {"type": "classification"}},
            "training": {"epochs": 2},
        },
        "sst_3000": {
            "data": {"train": str(sample), "validation": str(DATA / "sst/validation.csv")},
            "tasks": {
                "polarity": {"type": "regression", "column": "score", "range": [0, 1]},
                "band": {"type": "classification", "from": "polarity", "bins": 5},
            },
            "training": {"epochs": 3},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", nargs="*")
    parser.add_argument("--poolings", nargs=2, default=["native", "mean"])
    parser.add_argument(
        "--rates", nargs="+", default=["1e-4"], help="learning rates; each arm is shown at each of them"
    )
    options = parser.parse_args()
    figures: dict[str, Any] = {"seeds": options.seeds, "sets": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, recipe in sets(Path(folder)).items():
            if options.sets and name not in options.sets:
                continue
            for rate in options.rates:
                found: dict[str, dict[str, list[float]]] = {}
                for seed in range(options.seeds):
                    for pooling in options.poolings:
                        run = eq.train(
                            {**recipe, "model": {"pooling": pooling}},
                            overrides=[f"training.seed={seed}", f"training.learning_rate={rate}"],
                            output=Path(folder) / "run",
                            overwrite=True,
                            progress=False,
                        )
                        for task, metrics in run.metrics["splits"]["validation"].items():
                            metric = "mse" if "mse" in metrics else "accuracy"
                            found.setdefault(f"{task} {metric}", {}).setdefault(pooling, []).append(metrics[metric])
                for key, arms in found.items():
                    first, second = (np.array(arms[pooling]) for pooling in options.poolings)
                    difference = second - first
                    spread = stats.sem(difference)  # 0 where every pair differs alike: no interval can be given then
                    low, high = stats.t.interval(0.95, len(difference) - 1, difference.mean(), spread or np.nan)
                    print(f"  by seed: {dict(zip(options.poolings, (first.tolist(), second.tolist()), strict=True))}")
                    means = ", ".join(f"{p} {np.mean(arms[p]):.4f}" for p in options.poolings)
                    print(f"{name} lr {rate} {key}: {means}, {options.poolings[1]} - {options.poolings[0]} = "
                          f"{difference.mean():+.4f} [{low:+.4f}, {high:+.4f}]", flush=True)  # fmt: skip
                figures["sets"][f"{name} lr {rate}"] = found
    write("pooling", figures)


if __name__ == "__main__":
    main()
