"""What a person sees while training: a bar with every task's loss and weight, and one line an evaluation or epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from equipoise.tasks import Task
from equipoise.terminal import Console

__all__ = ["ProgressCallback"]


class ProgressCallback(TrainerCallback):
    """A bar on a terminal; plain lines where the output is a file or a pipe.

    Args:
        tasks: name -> task.
        console: where to print.
    """

    def __init__(self, tasks: Mapping[str, Task], console: Console) -> None:
        self.tasks, self.console = tasks, console
        self.latest: dict[str, Any] = {}
        self.progress: Progress | None = None
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Shows the bar."""
        if self.console.is_terminal and state.is_world_process_zero:
            self.progress = Progress(
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[tasks]}"),
                console=self.console,
                transient=True,
            )
            self.bar = self.progress.add_task("train", total=state.max_steps, completed=state.global_step, tasks="")
            self.progress.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Moves the bar."""
        if self.progress is not None:
            self.progress.update(self.bar, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Shows the tasks' losses and weights beside the bar."""
        if logs and "loss" in logs:
            self.latest = logs
            if self.progress is not None:
                self.progress.update(self.bar, tasks=self._losses())

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Prints one line: where we are, the tasks' losses and weights, their main metrics on validation."""
        if not state.is_world_process_zero:
            return
        found = []
        for name, task in self.tasks.items():
            value = (metrics or {}).get(f"eval_{name}_{task.main_metric[0]}")
            found.append(f"{name} {task.main_metric[0]} {'-' if value is None else f'{value:.4g}'}")
        self.console.print(self._where(state) + "   validation: " + ", ".join(found), highlight=False)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prints the epoch's line where no evaluation follows to print it."""
        if args.eval_strategy != "epoch" and state.is_world_process_zero:
            self.console.print(self._where(state), highlight=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Takes the bar away."""
        self.close()

    def close(self) -> None:
        """Takes the bar away, also when training failed."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def _where(self, state: TrainerState) -> str:
        return f"epoch {state.epoch or 0:.2f}  step {state.global_step}/{state.max_steps}   {self._losses()}"

    def _losses(self) -> str:
        shown = []
        for name in self.tasks:
            loss, weight = self.latest.get(f"{name}/loss"), self.latest.get(f"{name}/weight")
            if loss is not None:
                shown.append(f"{name} {loss:.3g}" + (f" ×{weight:.2f}" if weight is not None else ""))
        return "loss: " + ", ".join(shown) if shown else ""
