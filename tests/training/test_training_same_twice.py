"""The same recipe, seed and machine give the same weights, metrics and history, to the bit; what may differ is bounded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from kill_helpers import Trainings, differences, gap, shared_trainings, trainings
from safetensors.numpy import load_file
from test_training_kills import method_settings

import equipoise as eq
from equipoise import recipe as recipes
from equipoise.balance import available

SETTINGS = [
    "training.max_steps=8", "training.log_every_steps=2", "training.accumulation=2", "training.averaging=ema",
    "training.evaluate_every_steps=4", "model.dropout=0.2", "balance={method: dao, smoothing: 0.5}",
]  # fmt: skip


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    with shared_trainings(tmp_path_factory.mktemp("trainings")) as found:
        yield found


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    """A process in which what should not matter is another: the hash seed, the time zone, the language, the folder."""
    other = {"PYTHONHASHSEED": "4321", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "HOME": "/nowhere", "COLUMNS": "40"}
    with trainings(tmp_path_factory.mktemp("elsewhere"), **other) as found:
        yield found


def written(recipe: dict[str, Any], file: Path, *overrides: str) -> Path:
    file.write_text(recipes.dump(recipes.load(recipe, [*SETTINGS, *overrides])))
    return file


def test_neither_workers_nor_what_ran_before_nor_who_runs_it_matters(
    tiny_recipe: dict[str, Any], tmp_path: Path, server: Trainings, elsewhere: Trainings
) -> None:
    whole = tmp_path / "whole"
    server.whole(written(tiny_recipe, tmp_path / "recipe.yaml"), whole, quick=False)
    # The data under another path, and a relative one; the caches of the first run are gone with it.
    (tmp_path / "moved").mkdir()
    shutil.copy(tiny_recipe["data"]["train"], tmp_path / "moved" / "table.csv")
    moved = tmp_path / "moved" / "recipe.yaml"
    text = written(tiny_recipe, moved).read_text().replace(tiny_recipe["data"]["train"], "table.csv")
    moved.write_text(text)
    elsewhere.whole(moved, tmp_path / "other", quick=False, noise=True)
    for workers in (1, 2):
        recipe = written(tiny_recipe, tmp_path / f"{workers}.yaml", f"training.workers={workers}")
        server.whole(recipe, tmp_path / f"workers-{workers}", quick=False, noise=True)
    for name in ("other", "workers-1", "workers-2"):
        # The table's own path, and the number of workers in the recipe, are what was changed.
        assert unlike(whole, tmp_path / name) == [], name
    assert unlike(whole, tmp_path / "other", keep=True), "a path in the predictions that did not count proves nothing"


def unlike(one: Path, other: Path, *, keep: bool = False) -> list[str]:
    """How two runs differ but for the names of their tables and their recipes."""
    said = [line for line in differences(one, other) if keep or not line.startswith(("recipe.yaml", "predictions/"))]
    said = [line for line in said if keep or not (line.startswith("metrics.json data files") and "file: " in line)]
    for split in () if keep else ("validation", "test"):
        tables = [pq.read_table(eq.Run(run).predictions_file(split)).to_pandas() for run in (one, other)]
        tables = [table.drop(columns="file") for table in tables]
        said += [] if tables[0].equals(tables[1]) else [f"predictions of {split} differ"]
    return said


def test_another_seed_is_another_run(tiny_recipe: dict[str, Any], tmp_path: Path, server: Trainings) -> None:
    for seed in (0, 1):
        server.whole(written(tiny_recipe, tmp_path / f"{seed}.yaml", f"training.seed={seed}"), tmp_path / f"run-{seed}")
    weights = [load_file(tmp_path / f"run-{seed}" / "model" / "model.safetensors") for seed in (0, 1)]
    assert max(gap(*weights).values()) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(available()))
def test_every_balancer_does_the_same_twice(
    method: str, tiny_recipe: dict[str, Any], tmp_path: Path, server: Trainings, elsewhere: Trainings
) -> None:
    # Solvers of others' order their variables by names and sets, and may start from what they solved before.
    recipe = written(tiny_recipe, tmp_path / "recipe.yaml", "data.test=null", *method_settings(method))
    server.whole(recipe, tmp_path / "one")
    elsewhere.whole(recipe, tmp_path / "other", noise=True)
    assert differences(tmp_path / "one", tmp_path / "other") == []


#: Largest difference of a weight after ten updates on one thread and on two: one update at the full rate. 5e-6 was seen.
TOLERANCE = 2e-4


@pytest.mark.slow
def test_another_number_of_threads_stays_near(
    tiny_recipe: dict[str, Any], tmp_path: Path, server: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_recipe["model"] = {"backbone": "minilm", "max_length": 32}
    overrides = ["training.max_steps=10", "training.learning_rate=auto", "data.test=null", "training.batch_size=32"]
    recipe = written(tiny_recipe, tmp_path / "recipe.yaml", *overrides)
    for threads in (1, 2):
        server.whole(recipe, tmp_path / f"threads-{threads}", threads=threads)
    weights = [load_file(tmp_path / f"threads-{threads}" / "model" / "model.safetensors") for threads in (1, 2)]
    apart = max(gap(*weights).values())
    losses = [[line["loss"] for line in eq.Run(tmp_path / f"threads-{n}").history if "loss" in line] for n in (1, 2)]
    with capsys.disabled():
        print(f"\nthreads 1 and 2: weights differ by up to {apart:.2g}; losses {json.dumps(losses)}")
    assert apart < TOLERANCE
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
