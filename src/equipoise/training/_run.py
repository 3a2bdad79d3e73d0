"""One run from recipe to metrics: the only function that puts all rooms together."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback, TrainingArguments, set_seed

from equipoise import recipe as recipes
from equipoise.balance import create
from equipoise.errors import RecipeError, RunError
from equipoise.evaluation import score_histograms
from equipoise.models import load_model, pick_device, save_model
from equipoise.recipe import Recipe
from equipoise.runs import RUN_VERSION, Run, replace_folder, write_json
from equipoise.terminal import Console
from equipoise.training._branching import branching
from equipoise.training._calibration import Lines, calibrate
from equipoise.training._facts import quiet_transformers, training_facts, versions
from equipoise.training._judge import evaluate_splits
from equipoise.training._pages import wind_up
from equipoise.training._plan import Plan, make_plan
from equipoise.training._progress import ProgressCallback
from equipoise.training._ranks import on_main, processes
from equipoise.training._resumable import Found
from equipoise.training._selection import Selection
from equipoise.training._session import begin, keep_rejected, note, take_up, vacate, writing
from equipoise.training._trackers import Tracker, names_of_run, trackers
from equipoise.training._trainer import MultiTaskTrainer
from equipoise.training._watch_attempts import attempts

__all__ = ["resume", "train"]

METRICS_VERSION = RUN_VERSION


def train(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    callbacks: Sequence[TrainerCallback] = (),
) -> Run:
    """Trains one model on all tasks of a recipe, evaluates it and writes the run folder.

    Args:
        recipe: a YAML file, the same as a mapping, or a loaded recipe.
        overrides: `a.b=c` settings that win over the recipe.
        output: the run folder, in place of the recipe's.
        overwrite: replace a run that stands there.
        progress: print what happens.
        callbacks: transformers' callbacks of your own.

    Returns:
        The run; `equipoise.load(run)` predicts with it.

    Raises:
        EquipoiseError: the recipe, the data or the folder cannot be used, or a loss is no longer finite.
    """
    if isinstance(recipe, Recipe):
        if overrides:
            raise RecipeError(
                "overrides go with a recipe's file or mapping. Load it with them: recipe.load(file, overrides)"
            )
        settings = recipe
    else:
        settings = recipes.load(recipe, overrides)
    if output is not None:
        settings = settings.model_copy(update={"output": str(output)})
    run = Run(Path(settings.output))
    with writing(run):
        on_main(lambda: vacate(run, overwrite))
        plan = _plan(settings, run)
        on_main(lambda: begin(run, plan, overwrite))  # not before: until here nothing of an earlier run is lost
        return _train(plan, run, None, progress, callbacks)


def resume(
    folder: str | Path,
    *,
    progress: bool = True,
    callbacks: Sequence[TrainerCallback] = (),
    trust_remote_code: bool = False,
) -> Run:
    """Continues a run that was stopped, from its latest checkpoint that is whole; without one, from its start.

    Every byte of the checkpoint is compared with its manifest first. A damaged one is named and set aside (renamed
    `checkpoint-STEP.damaged`), and the one before is taken.

    Args:
        folder: the run's.
        progress: show it.
        callbacks: of transformers' Trainer, beside our own.
        trust_remote_code: where the run's recipe asks for it, run the code that its backbone brings along. The recipe in a
            folder is not enough: the folder may be somebody else's.

    Raises:
        RunError: there is no run in the folder, it is finished, another process trains there, a newer version wrote it,
            or none of its checkpoints is whole.
    """
    run = Run(Path(folder))
    if not run.recipe_file.is_file() and not run.replaced_folder.is_dir():
        raise RunError(f"there is no run in '{folder}' to continue")
    with writing(run):
        found = on_main(lambda: take_up(run))
        for text in found.notes:  # now: what comes may fail
            _console(progress).print(f"warning: {text}", highlight=False, markup=False)
        try:
            settings = recipes.load(run.recipe_file)
        except RecipeError as error:
            raise RunError(str(error)) from None
        if settings.model.trust_remote_code and not trust_remote_code:
            raise RunError(
                f"the recipe in '{folder}' asks for its backbone's own code to be run, and none of it has run. Read it; to "
                "run it, resume with trust_remote_code=True, or --trust-remote-code"
            )
        plan = _plan(settings, run)
        if found.finished:
            for warning in on_main(lambda: wind_up(plan, run)):
                _console(progress).print(f"warning: {warning}", highlight=False, markup=False)
            return run
        on_main(lambda: keep_rejected(run, plan))
        return _train(plan, run, found, progress, callbacks)


def _console(progress: bool) -> Console:
    return Console(quiet=not progress or not processes().is_main_process, soft_wrap=True)


def _plan(recipe: Recipe, run: Run) -> Plan:
    state = processes()
    cache = run.cache_folder / str(state.process_index)  # each process reads the data for itself
    shutil.rmtree(cache, ignore_errors=True)
    try:
        cache.mkdir(parents=True)
    except OSError as error:
        raise RunError(f"output: nothing can be written beside '{run.folder}': {error.strerror}") from None
    return make_plan(recipe, cache)


def _train(plan: Plan, run: Run, found: Found | None, progress: bool, callbacks: Sequence[TrainerCallback]) -> Run:
    state, recipe = processes(), plan.recipe
    console = _console(progress)
    started = time.perf_counter()
    for line in opening_lines(plan):
        console.print(line, highlight=False)
    with quiet_transformers():
        watching = [ProgressCallback(plan.prepared.tasks, console), *callbacks]
        say = partial(console.print, highlight=False, markup=False)

        def attempt(plan: Plan, found: Found) -> tuple[MultiTaskTrainer, float]:
            trainer = build_trainer(plan, run, watching, say=say)
            return trainer, _optimise(trainer, run, found, console)

        plan, (trainer, seconds) = attempts(attempt, plan, run, found or Found(), say)
        best = trainer.load_best()
        if state.is_main_process:
            note(run, trainer.state.global_step, trainer.load_warnings, console)
        lines = calibrate(trainer)[0] if recipe.training.calibrate else {}
        weights = trainer.gathered_weights()
        if state.is_main_process:
            _save(trainer, plan, run, weights)
    if state.is_main_process:
        if best is not None and best != trainer.state.global_step:
            console.print(
                f"best evaluation: step {best} ({recipe.training.select}); its weights are kept", highlight=False
            )
        for task, fitted in lines.items():
            moved = f" {fitted['offset']:+.3f}" if fitted["offset"] else ""
            console.print(f"calibrated: {task}, {fitted['scale']:.3f} x output{moved}", highlight=False)
        for warning in _finish(trainer, plan, run, seconds, best, lines, started):
            console.print(f"warning: {warning}", highlight=False, markup=False)
    state.wait_for_everyone()
    return run


def _finish(
    trainer: MultiTaskTrainer,
    plan: Plan,
    run: Run,
    seconds: float,
    best: int | None,
    lines: Lines,
    started: float,
) -> list[str]:
    """Judges the model as it was saved, writes `metrics.json` and what people look at, and clears up; gives warnings."""
    loaded = load_model(run.model_folder, trusted=plan.recipe.model.trust_remote_code)
    loaded.model.to(pick_device())
    metrics = evaluate_splits(loaded, plan, run)
    about = plan.describe()
    facts = training_facts(trainer, plan, seconds, best) | {
        "calibration": lines,
        "total_seconds": round(time.perf_counter() - started, 2),
    }
    write_json(
        run.metrics_file,
        {
            "format_version": METRICS_VERSION,
            **metrics,
            "training": facts,
            "data": about["data"],
            "tokens": about["tokens"],
            "scores": score_histograms(plan.prepared.tasks, {k: v.targets for k, v in plan.prepared.splits.items()}),
            "versions": versions(),
        },
    )
    return wind_up(plan, run)


#: `trust_remote_code` without anything to trust.
NO_CODE = "trust_remote_code: the backbone brings no code along, so the setting is not needed"


def opening_lines(plan: Plan) -> list[str]:
    """What is said before the first step."""
    report = plan.prepared.report
    rows = ", ".join(f"{len(split)} {name}" for name, split in plan.prepared.splits.items())
    lines = [
        f"rows: {rows}" + (f"; {report['rows_rejected']} rejected (rejected.jsonl)" if report["rows_rejected"] else "")
    ]
    lines += [f"warning: {warning}" for warning in report["warnings"]]
    about = plan.describe()
    lines.append(
        f"model: {plan.backbone.name} ({plan.backbone.origin}), {about['pooling']} pooling, "
        f"{about['trainable_parameters']:,} of {about['parameters']:,} parameters train"
    )
    if plan.model.private_plan is not None:  # also through a peft model, which hands on what it does not know
        when = ", once their gradients disagree" if plan.recipe.model.private_when == "conflict" else ""
        count, tasks = plan.recipe.model.private_layers, len(plan.prepared.tasks)
        lines.append(f"private layers: the last {count} exist once for each of {tasks} tasks{when}")
    if plan.recipe.model.trust_remote_code:
        files = ", ".join(plan.backbone.code)
        lines.append(f"trust_remote_code: the backbone's own code runs here: {files}" if files else NO_CODE)
    adapter = plan.recipe.model.adapter
    if adapter is not None and adapter.type == "mtl_lora":
        lines.append(f"adapters: mtl_lora, so the backbone runs once for each of {len(plan.prepared.tasks)} tasks")
    lines.append(f"precision: {about['precision']}, because {about['precision_reason']}")
    method = plan.recipe.balance.method
    rate = f"learning rate {about['learning_rate']:g}"
    lines.append(f"training: {about['steps']} steps on {about['device']}, {rate}, balanced by {method}")
    if plan.consistency is not None:
        lines.append(f"consistency: every row passes twice, and their divergence counts {plan.consistency:g} times")
    if plan.averaging is not None:
        lines.append(f"averaging: {plan.averaging}, so an average of the weights is judged and saved")
    if plan.held_out is not None:
        lines.append(f"held out: {len(plan.held_out)} training rows weigh the tasks ({method}) and train nothing")
    return lines


def build_trainer(
    plan: Plan,
    run: Run,
    callbacks: Sequence[TrainerCallback],
    *,
    in_memory: bool = False,
    say: Callable[[str], None] | None = None,
) -> MultiTaskTrainer:
    """The Trainer of a plan, ready to train. `in_memory`: it writes no checkpoint. `say`: prints what happens on the way."""
    recipe = plan.recipe
    settings = recipe.training
    tasks = plan.prepared.tasks
    validation = plan.tokens.get("validation")
    balancer = create(recipe.balance.method, list(tasks), **recipe.balance.options)
    set_seed(settings.seed)
    trainer = MultiTaskTrainer(
        plan.model,
        training_arguments(plan, run, evaluate=validation is not None),
        tasks=tasks,
        balancer=balancer,
        measured_at=recipe.balance.shared,
        train_dataset=plan.training_rows,
        eval_dataset=validation,
        tokenizer=plan.backbone.tokenizer,
        sidecar=plan.sidecar,
        run=run,
        selection=Selection(settings.select, tasks),
        patience=settings.early_stopping,
        head_learning_rate=settings.head_learning_rate or 10 * plan.learning_rate,
        layer_decay=settings.layer_decay,
        group_by_length=settings.group_by_length,
        callbacks=[
            *branching(recipe.model, plan.model, tasks, run, say),
            *trackers(settings.trackers, run),
            *callbacks,
        ],
        held_out=plan.held_out,
        averaging=plan.averaging,
        averaging_decay=settings.averaging_decay,
        averaging_start=settings.averaging_start,
        consistency=plan.consistency,
        in_memory=in_memory,
        on_nonfinite=settings.on_nonfinite,
        max_rollbacks=settings.max_rollbacks,
        say=say,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.checkpoints_kept = settings.checkpoints_kept
    return trainer


def training_arguments(plan: Plan, run: Run, *, evaluate: bool) -> TrainingArguments:
    """The recipe's `training` in transformers' words."""
    settings = plan.recipe.training
    steps = settings.evaluate_every_steps
    save_steps = settings.checkpoint_every_steps
    project, name = names_of_run(run.folder)
    known: dict[str, Any] = {
        "output_dir": str(run.checkpoint_folder),
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "learning_rate": plan.learning_rate,
        "weight_decay": settings.weight_decay,
        "warmup_steps": settings.warmup,
        "lr_scheduler_type": "constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        "max_grad_norm": settings.max_grad_norm or 0.0,
        "seed": settings.seed,
        "bf16": plan.precision[0] == "bf16",
        "fp16": plan.precision[0] == "fp16",
        "use_cpu": pick_device().type == "cpu",
        "eval_strategy": ("no" if not evaluate else "steps" if steps else "epoch"),
        "eval_steps": steps,
        "save_strategy": "steps" if save_steps else "no" if evaluate else "epoch",
        "save_steps": save_steps or 500,
        "logging_steps": settings.log_every_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": "none",  # `trackers` has its own of them
        "project": project,
        "run_name": name,
        "dataloader_num_workers": settings.workers,
        "dataloader_pin_memory": pick_device().type == "cuda",
        "torch_compile": settings.compile,
        "remove_unused_columns": False,
        "label_names": ["targets"],
    }
    try:
        return TrainingArguments(**(known | settings.arguments))
    except TypeError as error:
        raise RunError(f"training.arguments: {error}. They are passed to transformers.TrainingArguments") from None


def _optimise(trainer: MultiTaskTrainer, run: Run, found: Found, console: Console) -> float:
    """Runs the loop; returns its seconds."""
    started = time.perf_counter()
    checkpoint, step = found.checkpoint, 0  # what stands at 0 tells how often the start was gone back to
    if checkpoint is not None:
        step = int(checkpoint.name.rpartition("-")[2])
        console.print(f"continuing from step {step}", highlight=False)
    if trainer.is_world_process_zero():
        kept = run.truncate_history(step)
        note(run, step, found.notes)
        if step > 0 and not kept:
            note(run, step, ["history.jsonl held no line up to this step: what came before it is lost"], console)
    try:
        if checkpoint is not None and trainer.nothing_left(checkpoint):
            trainer.restore(checkpoint)
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, ProgressCallback | Tracker):
                callback.close()
    return time.perf_counter() - started


def _save(trainer: MultiTaskTrainer, plan: Plan, run: Run, weights: dict[str, torch.Tensor] | None) -> None:
    """Writes `model/`, and `adapter/` where there is one. `weights`: gathered, where the model is sharded."""
    # From here on the trained model is only read; the device is wanted for judging what was saved.
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False).to("cpu")
    adapter = plan.recipe.model.adapter
    temporary = run.folder / ".model.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        if adapter is not None and adapter.merge:
            save_model(model, plan.backbone.tokenizer, plan.sidecar, temporary, state_dict=weights)
            replace_folder(temporary, run.adapter_folder)
            # In float32: half precision would round away much of what the adapter adds to a weight.
            model, weights = model.float().merge_and_unload(), None
        save_model(model, plan.backbone.tokenizer, plan.sidecar, temporary, state_dict=weights)
        replace_folder(temporary, run.model_folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
