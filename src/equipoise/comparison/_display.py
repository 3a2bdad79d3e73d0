"""One display for the whole comparison: how many runs are done, and how far the present one is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback

from equipoise.terminal import Console

__all__ = ["Display"]


class Display(TrainerCallback):
    """Two bars on a terminal, a line for each finished run everywhere. It is a callback of the trainings it shows.

    Args:
        total: how many trainings there are, those of searches among them.
        console: where to print.
    """

    def __init__(self, total: int, console: Console) -> None:
        self.total, self.done, self.console = total, 0, console
        self.progress: Progress | None = None
        self.all: Any = None
        self.one: Any = None

    def __enter__(self) -> Display:
        if self.console.is_terminal and not self.console.quiet:
            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.all = self.progress.add_task("trainings", total=self.total, completed=self.done)
            self.one = self.progress.add_task("steps", total=None)
            self.progress.start()
        return self

    def __exit__(self, *args: object) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def skip(self, count: int) -> None:
        """Some trainings were done before."""
        self.done += count

    def finish(self, name: str, said: str, count: int = 1) -> None:
        """A training is done: moves the bar and prints its line."""
        self.done += count
        if self.progress is not None:
            self.progress.update(self.all, completed=self.done)
        self.console.print(f"[{self.done}/{self.total}] {name}: {said}", highlight=False, markup=False)

    def say(self, lines: Sequence[str]) -> None:
        """Prints lines above the bars."""
        for line in lines:
            self.console.print(line, highlight=False, markup=False)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the second bar anew."""
        if self.progress is not None:
            self.progress.reset(self.one, total=state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Moves the second bar."""
        if self.progress is not None:
            self.progress.update(self.one, completed=state.global_step)
