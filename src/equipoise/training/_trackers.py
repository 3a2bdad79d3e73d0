"""What `training.trackers` turns on: the stock Trainer's integrations, with a name for every task's values.

The integrations put `train/` before whatever the Trainer logs and know nothing of tasks. Here each of them is told the
lines of `history.jsonl` instead, so that both say the same to the digit:

    train/loss, train/grad_norm, train/learning_rate, train/samples_per_second, train/epoch
    TASK/loss, TASK/weight, TASK/norm, TASK/data_weight         of the last batch
    cosine/TASK|TASK                                            between two tasks' gradients
    validation/TASK/METRIC                                      of an evaluation

Setting up and closing stay the integrations' own, as far as they send nothing out by default. The recipe as resolved is
the run's configuration, `training.epochs` and all.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import MLflowCallback, TensorBoardCallback, TrackioCallback, WandbCallback

from equipoise.errors import RecipeError
from equipoise.recipe import Recipe
from equipoise.runs import Run

__all__ = ["Tracker", "check_trackers", "names_of_run", "trackers", "values_of"]

#: First parts of names that are not a task's.
GROUPS = ("train", "cosine", "validation", "test")


def values_of(line: Mapping[str, Any]) -> dict[str, float]:
    """A line of `history.jsonl` as names and numbers; what is not known (null) or no number is left out.

    Example:
        >>> values_of({"step": 2, "loss": 0.5, "tasks": {"a": {"loss": 0.5, "weight": 1.0}, "b": {}}, "cosines": {"a|b": None}})
        {'train/loss': 0.5, 'a/loss': 0.5, 'a/weight': 1.0}
        >>> values_of({"step": 2, "split": "validation", "metrics": {"a": {"mse": 0.1, "n": 9}}})
        {'validation/a/mse': 0.1}
    """
    found: dict[str, Any] = {}
    if "metrics" in line:
        for task, metrics in line["metrics"].items():
            found |= {f"{line['split']}/{task}/{name}": value for name, value in metrics.items() if name != "n"}
    else:
        found |= {f"train/{key}": value for key, value in line.items() if key != "step"}
        for task, values in line.get("tasks", {}).items():
            found |= {f"{task}/{name}": value for name, value in values.items()}
        found |= {f"cosine/{pair}": value for pair, value in line.get("cosines", {}).items()}
    return {
        name: value for name, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }


def names_of_run(folder: Path) -> tuple[str, str]:
    """The project and the run that trackers know a run folder as.

    A folder called `runs` belongs to the project around it; without one, the folder above the run is the project.

    Example:
        >>> names_of_run(Path("/data/reviews/runs/second"))
        ('reviews', 'second')
        >>> names_of_run(Path("/data/comparisons/headlines/runs/dao/seed-0"))
        ('headlines', 'dao/seed-0')
        >>> names_of_run(Path("/data/reviews/second"))
        ('reviews', 'second')
    """
    parts = folder.resolve().parts
    inner = [at for at, part in enumerate(parts[:-1]) if part == "runs"]
    at = inner[-1] if inner else len(parts) - 2
    project = parts[at - 1] if inner else parts[max(at, 0)]
    name = "/".join(parts[at + 1 :]) if inner else parts[-1]
    return re.sub(r"[^\w.-]+", "-", project).strip("-") or "equipoise", name


def check_trackers(recipe: Recipe) -> None:
    """Refuses what cannot be tracked, before anything is trained.

    Raises:
        RecipeError: a package is missing, or a task has a name that trackers use for something else.
    """
    for name in recipe.training.trackers:
        if find_spec(name) is None:
            raise RecipeError(
                f"training.trackers: {name} is not installed. Install it with: pip install {name}, or leave it out"
            )
    taken = [name for name in recipe.tasks if name in GROUPS]
    if recipe.training.trackers and taken:
        raise RecipeError(
            f"tasks.{taken[0]}: trackers keep other values under '{taken[0]}/'. Rename the task, or leave "
            "training.trackers out"
        )


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A recipe's settings by their full keys.

    Example:
        >>> dict(flat({"training": {"epochs": 4}, "output": "runs/x"}))
        {'training.epochs': 4, 'output': 'runs/x'}
    """
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class Tracker(TrainerCallback):
    """What the four have in common: the trainer hands each history line to `record`.

    Args:
        run: the run folder.
    """

    #: Whether what stood after the checkpoint of a resumed run can be taken back, so that the same curve goes on.
    takes_back = False

    def __init__(self, run: Run) -> None:
        super().__init__()  # the integration's own
        self.run, self.open = run, False

    @property
    def settings(self) -> dict[str, Any]:
        """The run's recipe by full keys."""
        return dict(flat(yaml.safe_load(self.run.recipe_file.read_text(encoding="utf-8"))))

    def record(self, line: Mapping[str, Any]) -> None:
        """Logs one line of the history, once the training has begun."""
        values = values_of(line)
        if self.open and values:
            self.write(values, line["step"])

    def write(self, values: dict[str, float], step: int) -> None:
        """Logs numbers by name."""
        raise NotImplementedError

    def begin(self, args: TrainingArguments, state: TrainerState, **kwargs: Any) -> None:
        """Opens the tracker's run."""
        raise NotImplementedError

    def end(self) -> None:
        """Closes it."""
        raise NotImplementedError

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Opens the tracker's run. A resumed training begins a new one with the history so far, where it must."""
        if not state.is_world_process_zero:
            return
        before = [] if self.takes_back else self.run.history
        if before:
            # Points after the checkpoint cannot be taken back, and would stand there twice.
            args = copy.copy(args)
            args.run_name = f"{args.run_name}-from-{state.global_step}"
        self.begin(args, state, **kwargs)
        self.open = True
        for line in before:
            self.record(line)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Nothing: `record` is told more, by name."""

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Closes the tracker's run."""
        self.close()

    def close(self) -> None:
        """Closes the tracker's run, also when training failed. Once is enough."""
        if self.open:
            self.open = False
            self.end()


class TensorBoard(Tracker, TensorBoardCallback):
    """Event files in the run folder's `tensorboard/`, or below `TENSORBOARD_LOGGING_DIR`."""

    takes_back = True  # the reader of event files drops what lies after the step that a writer begins at

    def begin(self, args: TrainingArguments, state: TrainerState, **kwargs: Any) -> None:
        """Opens an event file."""
        folder = Path(self.logging_dir, names_of_run(self.run.folder)[1]) if self.logging_dir else None
        place = folder or self.run.tensorboard_folder
        self.tb_writer = self._SummaryWriter(str(place), purge_step=state.global_step + 1 if place.exists() else None)
        TensorBoardCallback.on_train_begin(self, args, state, None, **kwargs)
        rows = [f"| {key} | `{value}` |" for key, value in self.settings.items()]
        self.tb_writer.add_text("recipe", "\n".join(["| setting | value |", "| --- | --- |", *rows]))

    def write(self, values: dict[str, float], step: int) -> None:
        """One scalar a name."""
        for name, value in values.items():
            self.tb_writer.add_scalar(name, value, step)
        self.tb_writer.flush()

    def end(self) -> None:
        """Closes the event file."""
        TensorBoardCallback.on_train_end(self, None, None, None)


class Trackio(Tracker, TrackioCallback):
    """Trackio's own store on this machine, or the Space that `training.arguments` or the environment names."""

    def begin(self, args: TrainingArguments, state: TrainerState, **kwargs: Any) -> None:
        """Begins a run. The stock callback would go on in a run of the same name, which may be another training's."""
        self.arguments, self.model = args, kwargs.get("model")
        self._trackio.init(
            project=args.project,
            name=args.run_name,
            space_id=args.trackio_space_id,
            resume="never",
            private=args.hub_private_repo,
            bucket_id=args.trackio_bucket_id,
            config=self.settings,
        )
        self._space_id = self._trackio.context_vars.current_space_id.get()
        self._initialized = True

    def write(self, values: dict[str, float], step: int) -> None:
        """One point of the step."""
        self._trackio.log(values, step=step)

    def end(self) -> None:
        """Ends the run, and freezes its Space where there is one."""
        zero = TrainerState(is_world_process_zero=True)
        TrackioCallback.on_train_end(self, self.arguments, zero, None, model=self.model)


class MLflow(Tracker, MLflowCallback):
    """MLflow's store: where `MLFLOW_TRACKING_URI` says, else its default on this machine."""

    def __init__(self, run: Run) -> None:
        # MLflow reports its use to its makers unless it is told not to before it is loaded.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        super().__init__(run)

    def begin(self, args: TrainingArguments, state: TrainerState, **kwargs: Any) -> None:
        """Begins a run in the project's experiment."""
        if "MLFLOW_EXPERIMENT_NAME" not in os.environ and self._ml_flow.active_run() is None:
            self._ml_flow.set_experiment(args.project)
        self.setup(args, state, kwargs.get("model"))
        short = {k: v for k, v in self.settings.items() if len(str(v)) <= self._MAX_PARAM_VAL_LENGTH}
        parts = list(short.items())
        for at in range(0, len(parts), self._MAX_PARAMS_TAGS_PER_BATCH):
            self._ml_flow.log_params(dict(parts[at : at + self._MAX_PARAMS_TAGS_PER_BATCH]))

    def write(self, values: dict[str, float], step: int) -> None:
        """One metric a name; MLflow's names have no `|`."""
        known = {re.sub(r"[^0-9A-Za-z_\-\. :/]", "_", name): value for name, value in values.items()}
        later = {"synchronous": False} if self._async_log else {}
        self._ml_flow.log_metrics(metrics=known, step=step, **later)

    def end(self) -> None:
        """Ends the run, if it is ours."""
        MLflowCallback.on_train_end(self, None, TrainerState(is_world_process_zero=True), None)


class Wandb(Tracker, WandbCallback):
    """Weights & Biases, offline unless `WANDB_MODE` says otherwise: `wandb sync` sends it later."""

    def __init__(self, run: Run) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        super().__init__(run)

    def begin(self, args: TrainingArguments, state: TrainerState, **kwargs: Any) -> None:
        """Begins a run, unless the caller has begun one."""
        self.ours = self._wandb.run is None
        if self.ours:
            self._wandb.init(
                project=os.environ.get("WANDB_PROJECT") or args.project,
                name=args.run_name,
                mode=os.environ.get("WANDB_MODE") or "offline",
            )
        self.setup(args, state, **kwargs)
        self._wandb.config.update(self.settings, allow_val_change=True)

    def write(self, values: dict[str, float], step: int) -> None:
        """One point; the stock set-up has made `train/global_step` the axis of all."""
        self._wandb.log({**values, "train/global_step": step})

    def end(self) -> None:
        """Ends the run if it is ours, so that the next training in this process has its own."""
        if self.ours:
            self._wandb.finish()


KINDS: dict[str, type[Tracker]] = {"trackio": Trackio, "tensorboard": TensorBoard, "mlflow": MLflow, "wandb": Wandb}


def trackers(names: Sequence[str], run: Run) -> list[Tracker]:
    """The callbacks of `training.trackers`; `check_trackers` has seen to it that their packages are there."""
    return [KINDS[name](run) for name in dict.fromkeys(names)]
