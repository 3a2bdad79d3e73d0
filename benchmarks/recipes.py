"""Trains the recipes in `recipes/` with several seeds and collects the test figures beside both baselines.

    python benchmarks/recipes.py                       # all four, seeds 0 1 2
    python benchmarks/recipes.py fiqa sst --seeds 0 1

Resumable: a run that is finished and of the same recipe is read, not trained again; one that was killed goes on from its
checkpoint. The runs are in `runs/benchmark/`.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from _common import ROOT, write

import equipoise as eq
from equipoise import recipe as recipes

RECIPES = ("fiqa", "sst", "emobank", "phrasebank_fiqa")
SHOWN = {"regression": ("pearson", "mse", "mae", "ccc"), "classification": ("accuracy", "macro_f1", "mcc")}


def run_of(recipe: str, seed: int, overrides: list[str]) -> eq.Run:
    folder = ROOT / "runs" / "benchmark" / f"{recipe}-{seed}"
    file = ROOT / "recipes" / f"{recipe}.yaml"
    wanted = recipes.load(file, [f"training.seed={seed}", f"output={folder}", *overrides])
    run = eq.Run(folder)
    if run.recipe_file.exists() and run.recipe_file.read_text(encoding="utf-8") == recipes.dump(wanted):
        return run if run.metrics_file.exists() else eq.resume(folder)
    return eq.train(wanted, overwrite=True)  # a run of another recipe, or none


def mean_of(values: list[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return statistics.mean(numbers) if len(numbers) == len(values) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], dest="overrides")
    options = parser.parse_args()
    figures: dict[str, Any] = {"seeds": options.seeds, "recipes": {}}
    for recipe in options.recipes:
        runs = [run_of(recipe, seed, options.overrides) for seed in options.seeds]
        all_metrics = [run.metrics for run in runs]
        first = all_metrics[0]
        print(f"\n{recipe}: {len(runs)} seeds, {first['training']['seconds']:.0f} s a training")
        print(
            "| task | metric | this model: mean ± sd (seeds) | TF-IDF + linear | mean / majority |\n|---|---|---|---|---|"
        )
        table: dict[str, Any] = {}
        for task, metrics in first["splits"]["test"].items():
            bases = [m["baselines"]["test"][task] for m in all_metrics]  # a seeded validation share changes them
            for name in [n for group in SHOWN.values() for n in group if n in metrics]:
                values = [m["splits"]["test"][task][name] for m in all_metrics]
                rivals = {key: mean_of([(b[key] or {}).get(name) for b in bases]) for key in ("tfidf", "constant")}
                table.setdefault(task, {})[name] = {"values": values, **rivals}
                shown = ", ".join(f"{v:.4f}" for v in values)
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                others = " | ".join("-" if v is None else f"{v:.4f}" for v in rivals.values())
                print(f"| {task} | {name} | {statistics.mean(values):.4f} ± {spread:.4f} ({shown}) | {others} |")
        kept = ("seconds", "steps", "samples_per_second", "best_step", "precision")
        facts = [{key: m["training"][key] for key in kept} for m in all_metrics]
        figures["recipes"][recipe] = {"test": table, "training": facts}
        write(f"recipe_{recipe}", {"seeds": options.seeds, **figures["recipes"][recipe]})


if __name__ == "__main__":
    main()
