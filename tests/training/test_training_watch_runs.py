"""Faults put into trainings: each is noticed, by its name, task and step; a healthy training says nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import write_table
from faulty_runs import INF, NAN, GradientFault, LossFault, NoLabels, events, watched

import equipoise as eq
from equipoise.errors import BalanceError
from equipoise.training import train

# Three steps an epoch, each of 32 rows.
LONG = [
    "training.batch_size=32", "training.max_steps=75", "training.evaluate_every_steps=75", "training.log_every_steps=10",
    "data.test=null",
]  # fmt: skip


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_healthy_training_says_nothing(tiny_recipe: dict[str, Any], tmp_path: Path, seed: int) -> None:
    found, said = watched(tiny_recipe, tmp_path, [*LONG, f"training.seed={seed}"])
    assert (found, said) == ([], [])


def test_a_spike_is_noticed(tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the fault does to the weights is not what is tested.
    settings = [*LONG, "training.learning_rate=1e-6"]
    found, said = watched(tiny_recipe, tmp_path, settings, LossFault(monkeypatch, "label", [50], 100))
    assert [(e["step"], e["kind"], e["task"]) for e in found] == [
        (50, "loss_spike", "label"),
        (50, "exploding_norm", "label"),
    ]
    assert len(said) == 2
    assert said[0].startswith("step 50: task 'label': its loss spiked to 1")


def test_an_explosion_is_noticed(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    found, said = watched(tiny_recipe, tmp_path, LONG, GradientFault([50], 1e6))
    assert [(e["step"], e["kind"], e["task"]) for e in found] == [(50, "exploding_norm", None)]
    assert found[0]["values"]["norm"] > 1e3 * found[0]["values"]["usual"]
    assert len(said) == 1


def test_a_dead_task_is_noticed(tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = LossFault(monkeypatch, "topic", range(10, 200), 0.0, plus=3.0)
    found, _ = watched(tiny_recipe, tmp_path, LONG, fault)
    assert [(e["step"], e["kind"], e["task"]) for e in found] == [(60, "dead_task", "topic")]
    assert "at a loss of 3" in found[0]["message"]


def test_a_task_that_no_batch_has_is_noticed(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = watched(tiny_recipe, tmp_path, LONG, NoLabels(monkeypatch, "topic", range(10, 100)))
    assert [(e["step"], e["kind"], e["task"]) for e in found] == [(60, "no_labels", "topic")]
    assert found[0]["values"] == {"since": 9}


def test_a_task_starved_by_its_weight_is_noticed(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    weights = "balance={method: fixed, weights: {polarity: 1, label: 1, topic: 0.001}}"
    found, _ = watched(tiny_recipe, tmp_path, [*LONG, weights])
    assert [(e["step"], e["kind"], e["task"]) for e in found] == [(60, "starved_task", "topic")]
    assert found[0]["values"]["since"] == 1


def turned_round(source: Path, folder: Path) -> tuple[Path, Path]:
    """A table whose scores are turned round for training, and rows of the same kind that are right."""
    write_table(source, rows=400)
    with source.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["score"] = str(-float(row["score"])) if row["score"] else ""
    with (folder / "turned.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "turned.csv", write_table(folder / "right.csv", rows=120, seed=9)


def test_labels_that_are_turned_round_are_noticed_and_shown(
    tiny_recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turned, right = turned_round(tmp_path / "table.csv", tmp_path)
    settings = [
        f"data.train={turned}", f"data.validation={right}", "data.test=null", "training.epochs=5", "model.pooling=mean",
        "training.learning_rate=3e-3", "training.log_every_steps=50",
    ]  # fmt: skip
    run = train(tiny_recipe, overrides=settings)
    found = events(run)
    assert {(e["kind"], e["task"]) for e in found} == {("worse_than_constant", "polarity")}
    assert len(found) == 1
    assert found[0]["message"] in " ".join(capsys.readouterr().out.split("\n"))
    page = run.report_file.read_text(encoding="utf-8")
    assert "What was noticed while it trained" in page
    assert "polarity&#x27;: mse" in page
    # Readers of the other lines pass over it.
    assert all("event" not in line or set(line) == {"step", "event"} for line in run.history)


@pytest.mark.parametrize(("value", "word"), [("nan", "nan"), ("inf", "inf"), ("-inf", "inf"), ("1e999", "1e999")])
def test_labels_that_are_not_finite_are_rejected_when_read(tiny_recipe: dict[str, Any], value: str, word: str) -> None:
    table = Path(tiny_recipe["data"]["train"])
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, f"200,profit rise strong bank,{value},positive,money"]) + "\n")
    folder = table.parent / "prepared"
    folder.mkdir()
    from equipoise.training import make_plan

    plan = make_plan(eq.recipe.load(tiny_recipe), folder)
    rejected = [json.loads(line) for line in plan.rejected_file.read_text().splitlines()]
    assert len(rejected) == 1
    assert word in rejected[0]["reason"]
    assert rejected[0]["line"] == len(lines) + 1


@pytest.mark.parametrize("factor", [NAN, INF, -INF])
def test_a_loss_that_is_not_finite_is_written_before_the_run_stops(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    with pytest.raises(BalanceError, match=r"^step 4: task 'label': the loss is not finite\. Look at its data"):
        watched(tiny_recipe, tmp_path, [], LossFault(monkeypatch, "label", [4], factor))
    found = events(eq.Run(tmp_path / "run"))
    assert [(e["step"], e["kind"], e["task"]) for e in found] == [(4, "nonfinite_loss", "label")]


def test_a_task_that_the_balancer_leaves_out_is_told(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["balance={method: dao, on_nonfinite: skip}", "training.max_steps=9", "data.test=null"]
    found, said = watched(tiny_recipe, tmp_path, settings, LossFault(monkeypatch, "label", [4, 5, 6], NAN))
    assert [(e["step"], e["kind"], e["task"]) for e in found] == [(4, "nonfinite_loss", "label")]
    assert said == ["step 4: task 'label': the loss is not finite; the task is left out"]


def test_watching_reads_nothing_from_the_device(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a step that logs nothing, whatever the watch gets are plain numbers that the balancer's own check has read.
    from equipoise.training._watch import Watch

    seen: list[Any] = []
    plain = Watch.batch

    def batch(self: Any, step: int, losses: Any, norms: Any, counts: Any) -> None:
        seen.extend([*losses.values(), *norms.values(), *counts.values()])
        plain(self, step, losses, norms, counts)

    monkeypatch.setattr(Watch, "batch", batch)
    watched(tiny_recipe, tmp_path, ["training.max_steps=3", "data.test=null", "data.validation=null"])
    assert len(seen) == 3 * 3 * 3
    assert {type(one) for one in seen} == {float, int}
