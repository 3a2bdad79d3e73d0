"""Faults put into trainings: how many are noticed by kind, task and step, and what the policies make of them; false alarms.

    python benchmarks/trust_numbers.py [--seeds 3] [--demos 1] [--methods dwa famo ...]

Every fault is put into a training of a tiny random encoder at a known update, once a seed. It counts as detected where the
history has an event of its kind and task at the step at which the rule says it is due (an injected number that is not finite:
that very update), and the run ended as `training.on_nonfinite` says. Healthy runs are trainings with nothing put in: `dao` a
seed, every other balancing method once, and the shipped demo on its real encoder, as `equipoise demo` trains it, a seed. One
counts as held where it has no event at all. `held` and `tried` count runs. Some minutes on two cores.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from _common import ROOT, write

import equipoise as eq
from equipoise.balance import NotFiniteError, available
from equipoise.demo import path as demo_table
from equipoise.training import _pages as pages
from equipoise.training import train

LONG = [
    "training.batch_size=32", "training.max_steps=75", "training.evaluate_every_steps=75", "training.log_every_steps=10",
    "data.test=null",
]  # fmt: skip
SHORT = [
    "training.max_steps=12", "data.test=null", "training.log_every_steps=1", "training.checkpoint_every_steps=3",
    "training.evaluate_every_steps=12",
]  # fmt: skip


def recipe_in(folder: Path) -> dict[str, Any]:
    """The tests' tiny recipe: three tasks on a random encoder of two layers."""
    import torch
    from conftest import tiny_config, tiny_tokenizer, write_table
    from transformers import AutoModel

    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    AutoModel.from_config(tiny_config("bert", len(tokenizer))).save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    return {
        "model": {"backbone": str(folder / "tiny"), "max_length": 24},
        "data": {"train": str(write_table(folder / "table.csv")), "validation": 0.2, "test": 0.2},
        "tasks": {
            "polarity": {"type": "regression", "column": "score", "range": [-1, 1]},
            "label": {"type": "classification"},
            "topic": {"type": "classification"},
        },
        "training": {"epochs": 3, "batch_size": 8, "learning_rate": 1e-3, "precision": "fp32", "log_every_steps": 3},
    }


def watched_faults() -> dict[str, tuple[Callable[[Any], list[Any]], list[str], tuple[int, str, str | None]]]:
    """Name -> what puts it in, the recipe's settings, and the event that is due."""
    from faulty_runs import GradientFault, LossFault, NoLabels

    small = "balance={method: fixed, weights: {polarity: 1, label: 1, topic: 0.001}}"
    slow = "training.learning_rate=1e-6"
    return {
        "loss spike, 100 times": (
            lambda patch: [LossFault(patch, "label", [50], 100)], [*LONG, slow], (50, "loss_spike", "label"),
        ),
        "loss spike, 10 times": (
            lambda patch: [LossFault(patch, "label", [50], 10)], [*LONG, slow], (50, "loss_spike", "label"),
        ),
        "exploding gradient": (
            lambda patch: [GradientFault([50], 1e6)], LONG, (50, "exploding_norm", None),
        ),
        "dead task": (
            lambda patch: [LossFault(patch, "topic", range(10, 200), 0.0, plus=3.0)],
            [*LONG, "balance=equal"], (10 + 50, "dead_task", "topic"),
        ),
        "task that no batch has": (
            lambda patch: [NoLabels(patch, "topic", range(10, 200))], LONG, (60, "no_labels", "topic"),
        ),
        "task starved by its weight": (lambda patch: [], [*LONG, small], (60, "starved_task", "topic")),
    }  # fmt: skip


def policy_faults() -> dict[str, tuple[Callable[[Any, bool], Any], str, str | None]]:
    """Name -> what puts it in (once, or each time), the kind of its event, and its task."""
    from faulty_runs import INF, NAN, GradientFault, LabelFault, LossFault, WeightFault

    return {
        "NaN in a loss": (lambda p, once: LossFault(p, "topic", [8], NAN, once=once), "nonfinite_loss", "topic"),
        "Inf in a loss": (lambda p, once: LossFault(p, "label", [8], INF, once=once), "nonfinite_loss", "label"),
        "NaN in a gradient": (lambda p, once: GradientFault([8], NAN, once=once), "nonfinite_gradient", None),
        "Inf in a gradient": (lambda p, once: GradientFault([8], INF, once=once), "nonfinite_gradient", None),
        "Inf in a label": (lambda p, once: LabelFault(p, "polarity", [8], once=once), "nonfinite_label", "polarity"),
        "NaN in a weight": (lambda p, once: WeightFault([7], once=once), "nonfinite_weight", "polarity"),
    }


def noticed(recipe: dict[str, Any], folder: Path, seeds: range) -> dict[str, list[bool]]:
    """Fault -> whether its event came, a seed."""
    from faulty_runs import watched

    found: dict[str, list[bool]] = {}
    for name, (put, settings, due) in watched_faults().items():
        for seed in seeds:
            place = folder / f"{name}-{seed}".replace(" ", "-")
            with pytest.MonkeyPatch.context() as patch:
                told, _ = watched(recipe, place, [*settings, f"training.seed={seed}"], *put(patch))
            print(f"{name}, seed {seed}: {told}", flush=True)
            found.setdefault(name, []).append(due in [(e["step"], e["kind"], e["task"]) for e in told])
    return found


def handled(recipe: dict[str, Any], folder: Path, seeds: range, policy: str) -> dict[str, list[bool]]:
    """Fault -> whether the run told of it and ended as the policy says, a seed."""
    from faulty_runs import events

    found: dict[str, list[bool]] = {}
    for name, (put, kind, task) in policy_faults().items():
        for seed in seeds:
            place = folder / f"{policy}-{name}-{seed}".replace(" ", "-")
            settings = [*SHORT, f"training.seed={seed}", f"training.on_nonfinite={policy}"]
            stopped: NotFiniteError | None = None
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pages, "write_pages", lambda *args: [])
                try:
                    train(
                        recipe,
                        overrides=settings,
                        output=place,
                        progress=False,
                        callbacks=[put(patch, policy == "rollback")],
                    )
                except NotFiniteError as error:
                    stopped = error
            run = eq.Run(place)
            told = [(e["step"], e["kind"], e["task"]) for e in events(run)]
            steps = [line["step"] for line in run.history if "tasks" in line]
            if policy == "stop" or (policy == "skip" and kind == "nonfinite_weight"):
                right = (8, kind, task) in told and stopped is not None and str(stopped).startswith("step 8: ")
            elif policy == "skip":
                right = (8, kind, task) in told and stopped is None and steps == [*range(1, 8), *range(9, 13)]
            else:
                right = (6, "rollback", task) in told and stopped is None and steps == list(range(1, 13))
            print(f"{name}: {policy}, seed {seed}: {right}", flush=True)
            found.setdefault(f"{name}: {policy}", []).append(right)
    return found


def turned_round(recipe: dict[str, Any], folder: Path, seeds: range) -> dict[str, list[bool]]:
    """Scores whose sign is turned round in the training rows only."""
    from faulty_runs import watched
    from test_training_watch_runs import turned_round as tables

    folder.mkdir()
    turned, right = tables(folder / "table.csv", folder)
    settings = [
        f"data.train={turned}", f"data.validation={right}", "data.test=null", "training.epochs=5", "model.pooling=mean",
        "training.learning_rate=3e-3",
    ]  # fmt: skip
    found = []
    for seed in seeds:
        told, _ = watched(recipe, folder / f"turned-{seed}", [*settings, f"training.seed={seed}"])
        found.append(("worse_than_constant", "polarity") in [(e["kind"], e["task"]) for e in told])
    return {"labels turned round": found}


def alarms(recipe: dict[str, Any], folder: Path, seeds: range, methods: list[str], demos: int) -> dict[str, list[str]]:
    """Healthy run -> what was said in it."""
    from faulty_runs import events, watched
    from test_training_methods import recipe_of

    found = {}
    for seed in seeds:
        found[f"dao, seed {seed}"] = watched(recipe, folder / f"dao-{seed}", [*LONG, f"training.seed={seed}"])[1]
    for method in methods:
        print(f"healthy: {method}", flush=True)
        found[method] = watched(recipe_of(method, recipe), folder / method, LONG)[1]
    for seed in range(demos):
        demo = {
            "data": {"train": str(demo_table()), "validation": 0.1, "test": 0.2},
            "tasks": {
                "polarity": {"type": "regression", "column": "score", "range": [-1, 1]},
                "label": {"type": "classification"},
                "aspect": {"type": "classification"},
            },
            "training": {"epochs": 8, "seed": seed},
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pages, "write_pages", lambda *args: [])
            run = train(demo, output=folder / f"demo-{seed}", progress=False)
        found[f"demo, seed {seed}"] = [e["message"] for e in events(run)]
    return found


def main() -> None:
    """Runs everything and writes `results/trust_numbers.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--demos", type=int, default=1)
    parser.add_argument("--methods", nargs="*", default=sorted(set(available()) - {"dao"}), help="healthy runs")
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "training")]
    seeds, started = range(options.seeds), time.perf_counter()
    logging.getLogger("equipoise").setLevel(logging.ERROR)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        recipe = recipe_in(folder)
        detected = noticed(recipe, folder / "noticed", seeds) | turned_round(recipe, folder / "turned", seeds)
        policies: dict[str, list[bool]] = {}
        for policy in ("stop", "skip", "rollback"):
            policies |= handled(recipe, folder / "handled", seeds, policy)
        said = alarms(recipe, folder / "healthy", seeds, options.methods, options.demos)
    figures = [_figure("injected faults detected and handled as the policy says", {**detected, **policies})]
    quiet = {name: [not words] for name, words in said.items()}
    figures.append(_figure("healthy runs without a false alarm", quiet))
    command = " ".join(["python benchmarks/trust_numbers.py", *sys.argv[1:]])
    write(
        "trust_numbers",
        {
            "command": command,
            "figures": figures,
            "faults": {name: f"{sum(held)} of {len(held)}" for name, held in {**detected, **policies}.items()},
            "said in healthy runs": {name: words for name, words in said.items() if words},
            "seconds": round(time.perf_counter() - started),
        },
    )


def _figure(name: str, found: dict[str, list[bool]]) -> dict[str, Any]:
    held = [one for several in found.values() for one in several]
    return {"name": name, "held": sum(held), "tried": len(held)}


if __name__ == "__main__":
    main()
