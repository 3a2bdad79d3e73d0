"""Short runs that keep their weights in memory: the same weights as through checkpoints, and nothing on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

import equipoise as eq
from equipoise.errors import RunError
from equipoise.training import MultiTaskTrainer, Selection, make_plan, train
from equipoise.training._clock import Clock
from equipoise.training._run import build_trainer

# A rate that wrecks the weights, so that the best evaluation is none of the last.
WRECKED = ["training.learning_rate=0.3", "training.epochs=5", "training.warmup=0.5", "training.select=polarity.mse"]


def in_memory(recipe: dict[str, Any], folder: Path, overrides: list[str], **settings: Any) -> MultiTaskTrainer:
    """A trained Trainer, before its best weights are put back."""
    cache = folder / "cache"
    cache.mkdir(parents=True)
    run = eq.Run.create(folder / "run")
    plan = make_plan(eq.recipe.load(recipe, overrides), cache)
    trainer = build_trainer(plan, run, settings.pop("callbacks", []), in_memory=True, **settings)
    trainer.train()
    return trainer


@pytest.mark.parametrize("more", [[], ["model.adapter={rank: 2, merge: false}", "training.learning_rate=3"]])
def test_the_best_weights_are_those_of_a_run_with_checkpoints(
    tiny_recipe: dict[str, Any], tmp_path: Path, more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which evaluation is the best is another test's matter; here it must not be the last, on any machine.
    monkeypatch.setattr(Selection, "best", lambda self, evaluations: min(1, len(evaluations) - 1))
    monkeypatch.setattr(Selection, "candidates", lambda self, evaluations: list(range(len(evaluations))))
    whole = train(tiny_recipe, overrides=[*WRECKED, *more], progress=False)
    trainer = in_memory(tiny_recipe, tmp_path / "memory", [*WRECKED, *more])
    assert trainer.best_step == whole.metrics["training"]["best_step"] != trainer.state.global_step
    last = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert trainer.load_best() == trainer.best_step
    found = trainer.model.state_dict()
    assert any(not torch.equal(found[name], value) for name, value in last.items())
    # The metrics of the kept weights are those of the evaluation that was the best.
    best = next(e["metrics"] for e in trainer.evaluations if e["step"] == trainer.best_step)
    assert trainer.score(trainer.eval_dataset) == best
    if not more:
        saved = load_file(whole.model_folder / "model.safetensors")
        assert all(torch.equal(value, found[name]) for name, value in saved.items())


def test_nothing_but_the_history_is_written_and_little_is_kept(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    trainer = in_memory(tiny_recipe, tmp_path, [*WRECKED, "training.checkpoint_every_steps=2"])
    files = [path.name for path in trainer.run.folder.rglob("*") if path.is_file()]
    assert files == ["history.jsonl"]
    candidates = trainer.selection.candidates([e["metrics"] for e in trainer.evaluations])
    assert set(trainer._kept) == {trainer.evaluations[i]["step"] for i in candidates}
    assert len(trainer._kept) < len(trainer.evaluations)
    assert all(value.device.type == "cpu" for kept in trainer._kept.values() for value in kept.values())


def test_a_frozen_part_is_not_copied(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    trainer = in_memory(tiny_recipe, tmp_path, ["model.adapter={rank: 2}", "training.epochs=1"])
    (kept,) = trainer._kept.values()
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained <= set(kept) <= trained | {name for name, _ in trainer.model.named_buffers()}


def test_a_sharded_model_is_refused(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MultiTaskTrainer, "sharded", True)
    with pytest.raises(RunError, match=r"in_memory: .* sharded"):
        in_memory(tiny_recipe, tmp_path, [])


# Seconds --------------------------------------------------------------------------------------------------------------


class Now:
    """A clock that tests turn by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("equipoise.training._clock.time.perf_counter", lambda: self.now)


def test_the_clock_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    time, clock = Now(monkeypatch), Clock()
    clock.start()
    time.now += 3
    with clock.paused():
        time.now += 50
        assert clock.seconds == 3
    time.now += 2
    clock.stop()
    time.now += 50
    with clock.paused():
        time.now += 50
    assert clock.seconds == 5, "a clock that stands is not started by a pause"
    clock.start(earlier=10)
    time.now += 1
    assert clock.seconds == 11


class Turn(TrainerCallback):
    """One second a step, and 1000 for each evaluation and each checkpoint."""

    def __init__(self, time: Now, stop: int | None = None) -> None:
        self.time, self.stop = time, stop

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.time.now += 1
        if state.global_step == self.stop:
            raise KeyboardInterrupt

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.time.now += 1000


def test_evaluations_tell_the_seconds_of_training_alone_also_over_a_stop(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = Now(monkeypatch)
    settings = ["training.checkpoint_every_steps=4", "training.epochs=3"]
    save = MultiTaskTrainer._write_checkpoint

    def slow(self: Any, *args: Any) -> None:
        time.now += 1000
        save(self, *args)

    monkeypatch.setattr(MultiTaskTrainer, "_write_checkpoint", slow)
    whole = train(tiny_recipe, overrides=settings, output=tmp_path / "a", progress=False, callbacks=[Turn(time)])
    lines = [line for line in whole.history if "metrics" in line]
    assert [line["step"] for line in lines] == [9, 18, 27]
    assert [line["seconds"] for line in lines] == [9, 18, 27]
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe, overrides=settings, output=tmp_path / "b", progress=False, callbacks=[Turn(time, stop=15)])
    resumed = eq.resume(tmp_path / "b", progress=False, callbacks=[Turn(time)])
    assert [line["seconds"] for line in resumed.history if "metrics" in line] == [9, 18, 27]
