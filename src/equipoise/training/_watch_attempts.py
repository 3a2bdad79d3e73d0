"""Trains until the end, also where that means to go back to the last good checkpoint once or a few times."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from equipoise.runs import Run
from equipoise.training._plan import Plan, RunData, make_plan
from equipoise.training._ranks import on_main
from equipoise.training._resumable import Found, resumable_or_start
from equipoise.training._watch_rollback import TakenBackError, take_back

__all__ = ["attempts"]

T = TypeVar("T")


def attempts(
    train: Callable[[Plan, Found], T], plan: Plan, run: Run, found: Found, say: Callable[[str], None]
) -> tuple[Plan, T]:
    """Calls `train` until it is not taken back.

    A training that is taken back is built anew and resumed, as one is that was killed, so that both go on alike. Without a
    checkpoint it begins again from its start. The rows are not read again.

    Args:
        train: builds a trainer of a plan and trains it from a checkpoint.
        plan: of the first attempt.
        run: the run folder.
        found: where the first attempt begins.
        say: shows a sentence to people.

    Returns:
        The plan whose model was trained to the end, and what `train` gave.

    Raises:
        EquipoiseError: the training fails; or no checkpoint is whole.
    """
    while True:
        try:
            return plan, train(plan, found)
        except TakenBackError as error:
            fault = TakenBackError(
                error.words, error.tasks, error.step, error.rollbacks
            )  # without what the traceback holds
        _release(plan.model)
        found = on_main(lambda fault=fault: _go_back(run, fault, say))  # type: ignore[misc]
        data = RunData(plan.backbone, plan.prepared, plan.tokens, plan.rejected_file)
        plan = make_plan(plan.recipe, run.cache_folder, data)


def _go_back(run: Run, fault: TakenBackError, say: Callable[[str], None]) -> Found:
    found = resumable_or_start(run)
    for note in found.notes:
        say(f"warning: {note}")
    step = 0 if found.checkpoint is None else int(found.checkpoint.name.rpartition("-")[2])
    task = next(iter(fault.tasks)) if len(fault.tasks) == 1 else None
    say(take_back(run, step, words=fault.words, failed=fault.step, task=task, rollbacks=fault.rollbacks))
    return found


def _release(model: Any) -> None:
    """Gives the memory of a model's weights back, whoever still knows it."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.grad, tensor.data = None, tensor.data.new_empty(0)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
