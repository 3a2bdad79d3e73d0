"""Faults that are put into a training at a given update, and trainings that are only watched."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

import equipoise as eq
from equipoise.training import MultiTaskTrainer, make_plan
from equipoise.training import _feeds as feeds
from equipoise.training._run import build_trainer

NAN, INF = float("nan"), float("inf")


class Fault(TrainerCallback):
    """Something that goes wrong in some updates (counted from 1).

    Args:
        steps: in which.
        once: it does not come again where an update is made again.
        batch: of an update's accumulated batches, in which; None = in all.
    """

    def __init__(self, steps: Iterable[int], *, once: bool = False, batch: int | None = None) -> None:
        self.steps, self.once, self.batch = set(steps), once, batch
        self.step, self.batches, self.struck = 0, 0, 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step, self.batches = state.global_step + 1, 0

    def strikes(self) -> bool:
        """Whether it is now. Asked once a batch."""
        self.batches += 1
        if self.step not in self.steps or (self.batch is not None and self.batches != self.batch):
            return False
        if self.once:
            self.steps.discard(self.step)
        self.struck += 1
        return True


class LossFault(Fault):
    """One task's losses are multiplied, and something is added: `0, plus=3` makes them constant, with a gradient of zero."""

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        task: str,
        steps: Iterable[int],
        factor: float,
        plus: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(steps, **options)
        plain = feeds.task_losses

        def faulty(*args: Any, **kwargs: Any) -> Any:
            losses, labels = plain(*args, **kwargs)
            if torch.is_grad_enabled() and self.strikes():
                losses[task] = losses[task] * factor + plus
            return losses, labels

        patch.setattr(feeds, "task_losses", faulty)


class NoLabels(Fault):
    """One task's labels are taken out of the batches."""

    def __init__(self, patch: pytest.MonkeyPatch, task: str, steps: Iterable[int]) -> None:
        super().__init__(steps)
        plain = MultiTaskTrainer.compute_loss

        def faulty(trainer: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if self.strikes():
                inputs["labelled"][task] = inputs["labelled"][task][:0]
            return plain(trainer, model, inputs, *args, **kwargs)

        patch.setattr(MultiTaskTrainer, "compute_loss", faulty)


class LabelFault(Fault):
    """One task's labels are infinite."""

    def __init__(self, patch: pytest.MonkeyPatch, task: str, steps: Iterable[int], **options: Any) -> None:
        super().__init__(steps, **options)
        plain = MultiTaskTrainer.compute_loss

        def faulty(trainer: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if self.strikes():
                inputs["targets"][task] = torch.full_like(inputs["targets"][task], INF)
            return plain(trainer, model, inputs, *args, **kwargs)

        patch.setattr(MultiTaskTrainer, "compute_loss", faulty)


class GradientFault(Fault):
    """The gradient of a weight in the middle of the model is multiplied: no task's own gradient shows it."""

    def __init__(self, steps: Iterable[int], factor: float, **options: Any) -> None:
        super().__init__(steps, **options)
        self.factor = factor

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        weight = model.bert.encoder.layer[0].attention.self.query.weight
        weight.register_hook(lambda gradient: gradient * self.factor if self.strikes() else None)


class WeightFault(Fault):
    """A weight of one task's output is NaN after some updates."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self.strikes():
            with torch.no_grad():
                model.classifier.bias[0] = NAN


def watched(
    recipe: dict[str, Any], folder: Path, overrides: list[str], *callbacks: TrainerCallback
) -> tuple[list[dict[str, Any]], list[str]]:
    """Trains in memory, which leaves out what comes after a training; gives the events and what was said."""
    cache = folder / "cache"
    cache.mkdir(parents=True)
    run = eq.Run.create(folder / "run")
    plan = make_plan(eq.recipe.load(recipe, overrides), cache)
    said: list[str] = []
    trainer = build_trainer(plan, run, list(callbacks), in_memory=True, say=said.append)
    trainer.train()
    return events(run), said


def events(run: eq.Run) -> list[dict[str, Any]]:
    """The events of a run's history, each with its step."""
    return [{"step": line["step"], **line["event"]} for line in run.history if "event" in line]
