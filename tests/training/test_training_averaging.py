"""Averages of the weights: what they are by hand, that training does not see them, and that they survive a stop."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stopped_runs import StopAt
from torch import nn
from transformers import TrainerCallback

import equipoise as eq
from equipoise.errors import RecipeError, RunError
from equipoise.training import MultiTaskTrainer, Selection, make_plan, resume, train
from equipoise.training._averaging import AVERAGED_FILE, WeightAverage
from equipoise.training._run import build_trainer

EMA, SWA = ["training.averaging=ema"], ["training.averaging=swa", "training.averaging_start=0.4"]


def walked(average: WeightAverage, values: list[float], model: nn.Module | None = None) -> nn.Linear:
    """A model with one trained weight that takes these values, one an update."""
    model = model or nn.Linear(1, 1)
    for step, value in enumerate(values, start=1):
        with torch.no_grad():
            model.weight.fill_(value)
        average.on_step_end(None, SimpleNamespace(global_step=step, max_steps=6), None, model=model)
    return model


def averaged(average: WeightAverage, model: nn.Linear) -> float:
    with average.in_place(model):
        return model.weight.item()


def test_ema_by_hand() -> None:
    average = WeightAverage("ema", decay=0.2, start=0.5)
    model = walked(average, [1.0, 4.0, 10.0])
    # The first average is the weight; then min(0.2, 2/11) = 2/11 of it is kept, then min(0.2, 3/12) = 0.2.
    second = 2 / 11 * 1 + 9 / 11 * 4
    assert averaged(average, model) == pytest.approx(0.2 * second + 0.8 * 10, rel=1e-6)


def test_swa_by_hand() -> None:
    average = WeightAverage("swa", decay=0.2, start=0.5)
    model = walked(average, [1.0, 2.0, 3.0])
    assert averaged(average, model) == 3.0, "before it begins, the weights themselves count"
    walked(average, [1.0, 2.0, 3.0, 10.0, 20.0, 60.0], model)
    assert averaged(average, model) == pytest.approx(30.0)


def test_the_very_same_weights_come_back() -> None:
    average = WeightAverage("ema", decay=0.9, start=0.5)
    model = walked(average, [0.1, 0.7])
    before = model.weight.detach().clone()
    with contextlib.suppress(KeyboardInterrupt), average.in_place(model):
        assert not torch.equal(model.weight, before)
        raise KeyboardInterrupt
    assert torch.equal(model.weight, before)
    assert model.weight.requires_grad


def test_what_is_frozen_is_not_averaged(tmp_path: Path) -> None:
    average, model = WeightAverage("ema", decay=0.9, start=0.5), nn.Linear(1, 1)
    model.bias.requires_grad_(False)
    walked(average, [1.0, 2.0], model)
    average.save(tmp_path, model)
    assert set(load_file(tmp_path / AVERAGED_FILE)) == {"weight", "updates averaged"}


def test_a_model_that_grows_is_not_averaged_by_position() -> None:
    average, model = WeightAverage("ema", decay=0.9, start=0.5), nn.Linear(1, 1)
    walked(average, [1.0], model)
    model.more = nn.Linear(1, 1)
    with pytest.raises(RunError, match=r"training\.averaging: the model trains 4 tensors, and trained 2 before"):
        walked(average, [1.0], model)


# In a run -------------------------------------------------------------------------------------------------------------


class Track(TrainerCallback):
    """The averages in float64, by their definition."""

    def __init__(self, kind: str) -> None:
        self.kind, self.steps = kind, 0
        self.average: dict[str, torch.Tensor] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self.kind == "swa" and state.global_step <= 0.4 * state.max_steps:
            return
        kept = self.steps / (self.steps + 1) if self.kind == "swa" else min(0.999, (1 + self.steps) / (10 + self.steps))
        for name, p in model.named_parameters():
            value = p.detach().double()
            self.average[name] = kept * self.average[name] + (1 - kept) * value if self.steps else value.clone()
        self.steps += 1


def lines_of(run: eq.Run, evaluations: bool) -> list[dict[str, Any]]:
    dropped = {"samples_per_second", "seconds"}
    return [
        {k: v for k, v in line.items() if k not in dropped}
        for line in run.history
        if ("metrics" in line) == evaluations
    ]


@pytest.mark.parametrize("overrides", [EMA, SWA])
def test_the_average_is_judged_and_saved_and_training_does_not_see_it(
    tiny_recipe: dict[str, Any], tmp_path: Path, overrides: list[str]
) -> None:
    tiny_recipe["training"]["select"] = "topic.accuracy"
    track = Track(overrides[0].rpartition("=")[2])
    plain = train(tiny_recipe, output=tmp_path / "plain", progress=False)
    run = train(tiny_recipe, overrides=overrides, progress=False, callbacks=[track])
    assert lines_of(run, evaluations=False) == lines_of(plain, evaluations=False)
    assert lines_of(run, evaluations=True) != lines_of(plain, evaluations=True)
    last = train(
        tiny_recipe,
        overrides=[*overrides, "data.validation=null"],
        output=tmp_path / "last",
        progress=False,
        callbacks=[track := Track(track.kind)],
    )
    saved = load_file(last.model_folder / "model.safetensors")
    for name, value in track.average.items():
        torch.testing.assert_close(saved[name].double(), value, atol=1e-6, rtol=1e-5)
    # What was judged in training is what was saved.
    best = next(
        line for line in run.history if line.get("step") == run.metrics["training"]["best_step"] and "metrics" in line
    )
    assert run.metrics["splits"]["validation"]["polarity"]["mse"] == pytest.approx(
        best["metrics"]["polarity"]["mse"], rel=1e-5
    )


def assert_equal_runs(run: eq.Run, other: eq.Run) -> None:
    for kind in (True, False):
        assert lines_of(run, kind) == lines_of(other, kind)
    found, expected = (load_file(r.model_folder / "model.safetensors") for r in (run, other))
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert run.metrics["splits"] == other.metrics["splits"]


@pytest.mark.parametrize(
    ("stop", "overrides"),
    [
        (13, [*EMA, "training.layer_decay=0.5"]),
        pytest.param(17, [*SWA, "training.accumulation=2", "training.epochs=5"], marks=pytest.mark.slow),
        (5, SWA),  # before the average begins
        pytest.param(20, [*EMA, "model.adapter={rank: 4, dropout: 0.2}"], marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_ends_bit_equal(
    tiny_recipe: dict[str, Any], tmp_path: Path, stop: int, overrides: list[str]
) -> None:
    overrides = [*overrides, "training.checkpoint_every_steps=4"]
    whole = train(tiny_recipe, overrides=overrides, output=tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe, overrides=overrides, output=tmp_path / "broken", progress=False, callbacks=[StopAt(stop)])
    assert_equal_runs(resume(tmp_path / "broken", progress=False), whole)


def test_a_run_stopped_when_all_steps_are_done_saves_the_average(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny_recipe, overrides=EMA, output=tmp_path / "whole", progress=False)

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("equipoise.training._run._save", stop)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_recipe, overrides=EMA, output=tmp_path / "broken", progress=False)
    assert_equal_runs(resume(tmp_path / "broken", progress=False), whole)


@pytest.mark.parametrize("kept", ["the last", "the second"])
def test_in_memory_the_best_average_is_kept(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    # Which evaluation is best is said here: left to a training, it would hang on the processor's last digits.
    def scores(self: Selection, evaluations: Sequence[Any]) -> np.ndarray[Any, Any]:
        order = np.arange(len(evaluations), dtype=np.float64)[:, None]
        return -order if kept == "the last" else np.abs(order - 1)

    monkeypatch.setattr(Selection, "scores", scores)
    overrides = [*EMA, "training.select=polarity.mse", "training.epochs=4"]
    whole = train(tiny_recipe, overrides=overrides, progress=False)
    (tmp_path / "cache").mkdir()
    plan = make_plan(eq.recipe.load(tiny_recipe, overrides), tmp_path / "cache")
    trainer = build_trainer(plan, eq.Run.create(tmp_path / "memory"), [], in_memory=True)
    trainer.train()
    best = trainer.load_best()
    assert best == whole.metrics["training"]["best_step"]
    assert (best == trainer.state.global_step) == (kept == "the last")
    found = trainer.model.state_dict()
    assert all(
        torch.equal(value, found[name]) for name, value in load_file(whole.model_folder / "model.safetensors").items()
    )
    # Judging the chosen weights once more must not bring the last average back.
    trainer.evaluate()
    again = trainer.model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in found.items())


def test_sharded_models_are_refused(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match=r"training\.averaging: does not go with training\.arguments\.fsdp"):
        eq.recipe.load(tiny_recipe, [*EMA, "training.arguments={fsdp: full_shard}"])
    monkeypatch.setattr(MultiTaskTrainer, "sharded", True)
    with pytest.raises(RunError, match=r"training\.averaging: does not go with a model that is sharded"):
        train(tiny_recipe, overrides=EMA, progress=False)


def test_a_model_that_changes_its_form_is_refused_with_the_recipe(tiny_recipe: dict[str, Any]) -> None:
    tiny_recipe["model"] |= {"private_layers": 1, "private_when": "conflict"}
    with pytest.raises(RecipeError, match=r"training\.averaging: does not go with model\.private_when: conflict"):
        eq.recipe.load(tiny_recipe, EMA)
