"""A training that is taken back to its last good checkpoint, and goes on from there at a lower rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.balance import NotFiniteError
from equipoise.runs import Run
from equipoise.training._history import plain_numbers

__all__ = ["FACTOR", "TakenBackError", "rollbacks_of", "scale_rates", "take_back"]

#: What the learning rates are multiplied by each time. A power of two, so that nothing is rounded.
FACTOR = 0.5


class TakenBackError(NotFiniteError):
    """The training is to go on from its last good checkpoint: whoever started it has to see to that.

    Args:
        words: what is not finite, with its step.
        tasks: as `NotFiniteError`.
        step: the one that failed.
        rollbacks: how many there have been, this one included.
    """

    def __init__(self, words: str, tasks: Mapping[str, str], step: int, rollbacks: int) -> None:
        super().__init__(words, tasks=tasks)
        self.step, self.rollbacks = step, rollbacks


def take_back(run: Run, step: int, *, words: str, failed: int, task: str | None, rollbacks: int) -> str:
    """Cuts the history back to a checkpoint and tells there of the rollback, in one write.

    A run that is killed before its next checkpoint reads from this line how often it was taken back, because the
    checkpoint that it resumes from is older.

    Args:
        run: the run folder.
        step: of the checkpoint; 0 for the start.
        words: what happened.
        failed: the step in which it did.
        task: whose numbers they were, or None.
        rollbacks: how many there have been, this one included.

    Returns:
        What is told.
    """
    place = f"step {step}" if step else "the start"
    message = f"{words}; the training goes back to {place} and on at {FACTOR**rollbacks:g} of its learning rate"
    event = {
        "kind": "rollback",
        "task": task,
        "message": message,
        "values": {"failed": failed, "rollbacks": rollbacks, "rate": FACTOR**rollbacks},
    }
    run.truncate_history(step, then=plain_numbers({"step": step, "event": event}))
    return message


def rollbacks_of(history: Sequence[Mapping[str, Any]], step: int) -> int:
    """How often a training had been taken back that stands at a step, by its history."""
    events = [line["event"] for line in history if "event" in line and line.get("step", 0) <= step]
    return max([event["values"]["rollbacks"] for event in events if event["kind"] == "rollback"], default=0)


def scale_rates(optimizer: Any, scheduler: Any, factor: float) -> None:
    """Multiplies the learning rates of all groups: those of the next step, and those that the schedule goes by."""
    if factor == 1:
        return
    for group in optimizer.param_groups:
        for key in ("lr", "initial_lr"):
            if key in group:
                group[key] *= factor
    for name in ("base_lrs", "_last_lr"):  # of torch's schedulers; a plateau's has the groups' rates only
        if name in vars(scheduler):
            setattr(scheduler, name, [rate * factor for rate in getattr(scheduler, name)])
