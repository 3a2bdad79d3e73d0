"""One training among many: judged, with its history, and without a model folder.

`equipoise compare` makes hundreds of them from data that is read once; what a run folder keeps beside (checkpoints,
weights, the baselines that are the same for all) is left out.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from equipoise import recipe as recipes
from equipoise.errors import RecipeError
from equipoise.runs import Run, write_json, write_text
from equipoise.training._calibration import calibrate
from equipoise.training._facts import forget_peak_memory, quiet_transformers, training_facts, versions
from equipoise.training._judge import judge, judged_splits
from equipoise.training._plan import Plan
from equipoise.training._run import METRICS_VERSION, build_trainer
from equipoise.training._trainer import MultiTaskTrainer

__all__ = ["run_trial"]

#: Told at each evaluation: the share of the steps that is done, (0, 1], and task -> validation metrics so far at the best
#: evaluation. True stops the training.
Watch = Callable[[float, dict[str, Any]], bool]


def run_trial(
    plan: Plan,
    folder: Path,
    *,
    seconds: float | None = None,
    watch: Watch | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains, judges the best evaluation's weights and writes recipe, history, predictions and, last, `metrics.json`.

    The weights are judged in the training's precision (`equipoise train` judges what it saved, in float32), and where there
    is a test split, the validation split's metrics are those of the evaluation that was the best.

    Args:
        plan: of `make_plan`.
        folder: what stands there is replaced; a folder without `metrics.json` is a trial that was stopped.
        seconds: stop the training after so many, evaluations left out; None trains all steps.
        watch: may stop a training that leads nowhere. It is then not judged.
        callbacks: transformers' callbacks.
        notes: what else `training` shall hold, plain data.

    Returns:
        What `metrics.json` holds: `splits` (split, task, metric), `training` (what it cost), `versions`. Of a training
        that `watch` stopped, `splits` is empty and nothing is written.

    Raises:
        EquipoiseError: the training fails, or a time limit goes with an average that begins after a share of the steps.
    """
    if seconds is not None and plan.averaging == "swa":
        raise RecipeError(
            "training.averaging: swa begins after a share of the steps, and a time limit has none. Use ema"
        )
    run = Run(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_text(run.recipe_file, recipes.dump(plan.recipe))
    forget_peak_memory()
    with quiet_transformers():
        trainer = build_trainer(plan, run, callbacks, in_memory=True)
        judge_at = _Watcher(trainer, seconds, watch)
        trainer.add_callback(judge_at)
        started = time.perf_counter()
        trainer.train()
        spent = time.perf_counter() - started
        best = trainer.load_best()
    # What evaluations take depends on how many there are and not on the method, so it is told apart.
    facts = training_facts(trainer, plan, trainer.clock.seconds, best)
    facts |= dict(notes or {})
    facts |= {"examples": trainer.rows_trained, "judging_seconds": round(spent - trainer.clock.seconds, 2)}
    found: dict[str, Any] = {"format_version": METRICS_VERSION, "splits": {}, "training": facts, "versions": versions()}
    if judge_at.stopped:
        return found
    started = time.perf_counter()
    known = None if best is None else _best_metrics(trainer)
    facts["calibration"] = {}
    if plan.recipe.training.calibrate and known is not None:
        facts["calibration"], known = calibrate(trainer)
    found["splits"] = _judged(trainer, plan, run, known)
    facts["judging_seconds"] = round(facts["judging_seconds"] + time.perf_counter() - started, 2)
    write_json(run.metrics_file, found)
    return found


def _judged(trainer: MultiTaskTrainer, plan: Plan, run: Run, validation: dict[str, Any] | None) -> dict[str, Any]:
    """Split -> task -> metrics. `validation`: those of that split, as far as they are known already."""
    found: dict[str, Any] = {}
    splits = judged_splits(plan)
    if validation is not None and "test" in splits:  # whose predictions are what statistics are made of
        found["validation"] = validation
        splits.remove("validation")
    return found | judge(trainer.model, plan.backbone.tokenizer, plan.prepared.tasks, plan, run, splits)


def _best_metrics(trainer: MultiTaskTrainer) -> dict[str, Any]:
    metrics: dict[str, Any] = next(e for e in trainer.evaluations if e["step"] == trainer.best_step)["metrics"]
    return metrics


class _Watcher(TrainerCallback):
    """Stops a training at its time limit, or where `watch` says so."""

    def __init__(self, trainer: MultiTaskTrainer, seconds: float | None, watch: Watch | None) -> None:
        self.trainer, self.seconds, self.watch = trainer, seconds, watch
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Looks at the training's clock; a training that ends early is evaluated once more where it ends."""
        if self.seconds is not None and self.trainer.clock.seconds >= self.seconds:
            control.should_training_stop = True
            # Where evaluations come by epochs, the one that is cut off ends with its own.
            control.should_evaluate = self.trainer.eval_dataset is not None and args.eval_strategy != "epoch"

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Asks `watch` about the best evaluation so far."""
        if self.watch is None or state.global_step >= state.max_steps:
            return
        if self.watch(state.global_step / state.max_steps, _best_metrics(self.trainer)):
            self.stopped = control.should_training_stop = True
