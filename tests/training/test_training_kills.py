"""Runs that are killed with signal 9, at any moment, end bit for bit as the run that nobody stopped."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import write_table
from kill_helpers import Fault, Trainings, Trial, differences, draw, shared_trainings, survive

import equipoise as eq
from equipoise import recipe as recipes
from equipoise.balance import available
from equipoise.balance._registry import settings_of

#: Another seed draws other moments; `benchmarks/trust_kills.py` sets both.
SEED = os.environ.get("EQUIPOISE_KILL_SEED", "0")
COUNTS = os.environ.get("EQUIPOISE_KILL_COUNTS")

STEPS = 14
BASE = [
    "data.test=null", f"training.max_steps={STEPS}", "training.log_every_steps=2", "training.checkpoint_every_steps=3",
]  # fmt: skip

#: What a method cannot be built without, and what makes it move within a few steps.
SETTINGS: dict[str, dict[str, Any]] = {
    "fixed": {"weights": {"polarity": 1.0, "label": 0.5, "topic": 2.0}},
    "metabalance": {"target": "polarity"},
    "pcd": {"primary": "polarity"},
    "priority": {"of": "dao", "priorities": {"polarity": 2.0}},
    "recompute_every": {"of": {"method": "dao"}, "every": 3},
    "running_average": {"of": {"method": "imtl_g"}},
    "torchjd": {"weighting": "GradVacWeighting", "settings": {"beta": 0.5}},
    "coba": {"window": 4, "warmup": 2},
    "explore_then_freeze": {"explore": 4},
}

#: Feature -> settings on top of BASE.
FEATURES: dict[str, list[str]] = {
    "dropout": ["model.dropout=0.3", "balance={method: dao, smoothing: 0.9, every: 3}"],
    "data weights": ["balance={method: dao, data_weights: inverse_frequency, double_batch: true}"],
    "density weights": ["balance={method: dao, data_weights: {polarity: density, label: entropy}}"],
    "accumulation": ["training.accumulation=3", "balance={method: gradvac}", "training.log_every_steps=1"],
    "shuffled": ["training.group_by_length=false", "balance={method: uncertainty}"],
    "tables": ["balance={method: gradnorm}"],
    "ema": ["training.averaging=ema", "training.evaluate_every_steps=4"],
    "swa": ["training.averaging=swa", "training.averaging_start=0.3"],
    "lora": ["model.adapter={rank: 4, dropout: 0.2}"],
    "lora alone": ["model.adapter={rank: 4, merge: false}", "balance={method: mgda, shared: adapter}"],
    "mtl_lora": ["model.adapter={type: mtl_lora, rank: 4, dropout: 0.2}", "training.averaging=ema"],
    "private": ["model.private_layers=1"],
    "conflict": [
        "model.private_layers=1", "model.private_when=conflict", "model.private_patience=5", "model.private_below=1.0",
    ],
    "consistency": ["training.consistency=1.5", "balance={method: famo}", "training.accumulation=2"],
    "held out": ["balance={method: coba, window: 4, warmup: 2, held_out: 0.2}", "training.consistency=1.0"],
    "early stopping": [
        "training.learning_rate=0.3", "training.warmup=0.5", "training.early_stopping=1", "training.max_steps=null",
        "training.epochs=8", "training.checkpoint_every_steps=null", "training.batch_size=16",
    ],
    "early stopping within": [
        "training.learning_rate=0.3", "training.warmup=0.5", "training.early_stopping=2",
        "training.evaluate_every_steps=3", "training.max_steps=30", "training.checkpoint_every_steps=2",
    ],
    "bf16": ["training.precision=bf16", "training.calibrate=true"],
    "workers": ["training.workers=2", "training.accumulation=2"],
    "derived": ["tasks.band={type: classification, from: polarity, bins: 3}"],
    "by epochs": ["training.max_steps=null", "training.epochs=1.5", "training.checkpoint_every_steps=null"],
    "evaluations": ["training.evaluate_every_steps=4", "training.checkpoint_every_steps=null", "training.calibrate=true"],
    "no validation": ["data.validation=null", "training.accumulation=2"],
    "everywhere": ["balance={method: pcgrad, shared: all}", "training.layer_decay=0.8", "training.schedule=cosine"],
    "recomputed": ["model.gradient_checkpointing=true", "balance={method: nash_mtl}"],
    "kept": ["training.keep_checkpoints=true", "training.select=polarity.mse", "training.learning_rate=0.1"],
}  # fmt: skip


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    with shared_trainings(tmp_path_factory.mktemp("trainings")) as found:
        yield found


Make = Callable[[list[str]], Path]


@pytest.fixture
def recipe_of(tiny_recipe: dict[str, Any], tmp_path: Path) -> Make:
    """A function from settings to a recipe's file."""

    def make(overrides: list[str]) -> Path:
        file = tmp_path / "recipe.yaml"
        file.write_text(recipes.dump(recipes.load(tiny_recipe, [*BASE, *overrides])))
        return file

    return make


def counted(case: str, trials: list[Trial]) -> None:
    """Tells the benchmark what was tried, and fails where anything differs."""
    if COUNTS is not None:
        with Path(COUNTS).open("a", encoding="utf-8") as file:
            for trial in trials:
                line = {"case": case, "kills": sum(trial.hits.values()), "kinds": dict(trial.hits)}
                file.write(json.dumps(line | {"equal": not trial.deviations}) + "\n")
    deviations = [line for trial in trials for line in trial.deviations]
    assert not deviations, f"{case}: " + "\n".join(deviations[:20])
    assert all(trial.hits for trial in trials), f"{case}: nothing was killed, so nothing was shown"


def method_settings(method: str) -> list[str]:
    """The method with averages and intervals where it has them, so that there is something to remember."""
    settings = {"every": 2, "smoothing": 0.5, "double_batch": False} | SETTINGS.get(method, {})
    known = settings_of(available()[method])
    settings = {key: value for key, value in settings.items() if key in known}
    return [f"balance={json.dumps({'method': method, **settings})}", "training.accumulation=2"]


# In every run of the tests --------------------------------------------------------------------------------------------

EVERY_RUN: dict[str, tuple[list[str], list[list[Fault]]]] = {
    "averaged and accumulated": (
        ["training.averaging=ema", "training.accumulation=2", "balance={method: dao, smoothing: 0.9, every: 2}"],
        [
            [
                {"kind": "file", "match": "^os.rename checkpoints/.partial", "n": 2, "tear": 5},
                {"kind": "step", "n": 8, "when": "on_optimizer_step"},
                {"kind": "file", "match": r"^os.(remove|rmdir) checkpoints/\.?checkpoint-", "n": 2},
                {"kind": "evaluate", "n": 1},
                {"kind": "history", "n": 3, "bytes": 17},
                {"kind": "file", "match": "^os.rename .model.tmp model", "n": 1, "tear": 3},
                {"kind": "file", "match": "^os.rename .*metrics.json", "n": 1},
                {"kind": "file", "match": r"^os.(remove|rmdir) checkpoints/checkpoint-", "n": 3},
            ],
        ],
    ),
    "adapted and mixed": (
        ["model.adapter={rank: 4, dropout: 0.2}", "balance={method: famo}", "training.workers=1"],
        [
            [
                {"kind": "file", "match": "^os.rename checkpoints/.partial", "n": 1},
                {"kind": "step", "n": 11, "when": "on_step_end"},
                {"kind": "file", "match": "^os.rename .*history.jsonl", "n": 1, "tear": 1},
                {"kind": "file", "match": r"^os.rmdir checkpoints/\.?checkpoint-", "n": 1},
                {"kind": "evaluate", "n": 1},
                {"kind": "file", "match": "^os.rename .model.tmp adapter", "n": 1},
            ],
        ],
    ),
}


@pytest.mark.parametrize("case", sorted(EVERY_RUN))
def test_a_run_killed_again_and_again_ends_bit_equal(
    case: str, server: Trainings, recipe_of: Make, tmp_path: Path
) -> None:
    overrides, trials = EVERY_RUN[case]
    recipe = recipe_of(overrides)
    server.whole(recipe, tmp_path / "whole")
    found = [
        survive(server, recipe, tmp_path / "whole", tmp_path / f"killed-{at}", faults)
        for at, faults in enumerate(trials)
    ]
    counted(case, found)
    assert [sum(trial.hits.values()) for trial in found] == [len(faults) for faults in trials]


def test_what_differs_is_seen(server: Trainings, recipe_of: Make, tmp_path: Path) -> None:
    whole, other = tmp_path / "whole", tmp_path / "other"
    server.whole(recipe_of([]), whole)
    history, metrics = whole / "history.jsonl", whole / "metrics.json"
    lines = history.read_text().splitlines(keepends=True)

    def said(change: Callable[[], object]) -> str:
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(whole, other)
        change()
        return "; ".join(differences(whole, other))

    def weight(folder: Path) -> None:
        data = bytearray((folder / "model" / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (folder / "model" / "model.safetensors").write_bytes(data)

    assert said(lambda: None) == ""
    assert "model/model.safetensors" in said(lambda: weight(other))
    assert "stands there 2 times" in said(lambda: (other / history.name).write_text("".join([*lines, lines[-1]])))
    assert "history.jsonl: " in said(lambda: (other / history.name).write_text("".join([*lines[:3], *lines[4:]])))
    assert "mse" in said(lambda: (other / metrics.name).write_text(metrics.read_text().replace('"mse": 0', '"mse": 1')))
    assert "is left over" in said(lambda: (other / ".model.old").mkdir())
    assert "is missing" in said(lambda: (other / "predictions" / "validation.parquet").unlink())


# Many kills -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(available()))
def test_every_balancer_is_resumed_bit_equal(method: str, server: Trainings, recipe_of: Make, tmp_path: Path) -> None:
    recipe = recipe_of(method_settings(method))
    server.whole(recipe, tmp_path / "whole")
    rng = random.Random(f"{SEED} {method}")
    faults: list[Fault] = [
        {"kind": "step", "n": rng.randint(2, 5), "when": "on_step_end"},
        {"kind": "file", "match": "^os.rename checkpoints/.partial", "n": rng.randint(1, 2), "tear": rng.randrange(99)},
        {"kind": "step", "n": rng.randint(10, 13), "when": rng.choice(["on_optimizer_step", "on_step_begin"])},
    ]
    counted(f"balancer {method}", [survive(server, recipe, tmp_path / "whole", tmp_path / "killed", faults)])


@pytest.mark.slow
@pytest.mark.parametrize("feature", sorted(FEATURES))
def test_every_feature_is_resumed_bit_equal(feature: str, server: Trainings, recipe_of: Make, tmp_path: Path) -> None:
    overrides = list(FEATURES[feature])
    if feature == "tables":
        tables = [
            {"path": str(write_table(tmp_path / "one.csv", 60, seed=1)), "tasks": ["polarity", "topic"]},
            {"path": str(write_table(tmp_path / "two.csv", 60, seed=2)), "tasks": ["label"]},
        ]
        overrides.append(f"data.train={json.dumps(tables)}")
    recipe = recipe_of(overrides)
    words = server.whole(recipe, tmp_path / "whole")
    lines = eq.Run(tmp_path / "whole").history
    evaluations, steps = sum("metrics" in line for line in lines), max(line["step"] for line in lines)
    trials = []
    for at in range(2):
        faults = draw(f"{SEED} {feature} {at}", words, steps=steps, evaluations=evaluations, seconds=1.5)
        trials.append(survive(server, recipe, tmp_path / "whole", tmp_path / f"killed-{at}", faults))
    counted(f"feature {feature}", trials)


#: Of the changes of files in one run, every so many-th is the moment of a kill.
STRIDE = 7


@pytest.mark.slow
def test_a_kill_at_any_change_of_a_file_loses_nothing(server: Trainings, recipe_of: Make, tmp_path: Path) -> None:
    recipe = recipe_of(["model.adapter={rank: 2}", "training.max_steps=6", "training.averaging=ema"])
    words = server.whole(recipe, tmp_path / "whole", quick=False)
    first = random.Random(SEED).randrange(STRIDE)
    trials = []
    for n in range(first + 1, len(words) + 1, STRIDE):
        fault = {"kind": "file", "match": "", "n": n, "tear": n}
        trials.append(survive(server, recipe, tmp_path / "whole", tmp_path / "killed", [fault], quick=False))
        shutil.rmtree(tmp_path / "killed")
    counted("any change of a file", trials)


@pytest.mark.slow
def test_a_replaced_run_that_is_killed_can_be_replaced_again(
    server: Trainings, recipe_of: Make, tmp_path: Path
) -> None:
    recipe, run = recipe_of(["training.max_steps=3"]), tmp_path / "run"
    server.whole(recipe, tmp_path / "whole")
    server.whole(recipe, run)
    trials = []
    for n in (1, 2, 4, 8, 16):
        fault = {"kind": "file", "match": "^os.(remove|rmdir|rename|mkdir) (?!\\.\\.)", "n": n}
        assert server.go(recipe, run, fault, overwrite=True)[0] == -9
        status, _ = server.go(recipe, run, overwrite=True)
        assert status == 0, server.tail()
        trials.append(Trial({"replaced": 1}, differences(tmp_path / "whole", run)))  # type: ignore[arg-type]
    counted("replaced", trials)
