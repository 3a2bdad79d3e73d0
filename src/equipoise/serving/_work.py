"""What a worker is given to do, and how its outcome gets back to who waits for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equipoise.inference import Model

__all__ = ["Call", "Closed", "Columns", "Full", "Slice", "Texts", "Unanswered", "WorkerFailure", "settle"]

Columns = Sequence[Sequence[str]]  # one list of texts, or the two of pairs


class Full(Exception):
    """As much waits as may wait; `retry_s`: seconds until that is done."""

    def __init__(self, retry_s: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_s} s")
        self.retry_s = retry_s


class Closed(Exception):
    """The worker takes nothing more: its run has been loaded anew, or the service stops."""


class WorkerFailure(Exception):
    """The model failed at this work; the log has the traceback."""


class Unanswered(WorkerFailure):
    """This work was accepted and cannot be finished: its worker has died, is stuck, or the time to stop has come."""


@dataclass(eq=False)
class Texts:
    """Texts on their way; they may go through the model in several slices.

    Attributes:
        columns: the texts.
        future: of their predictions.
        raw: outputs `[n, outputs]` are wanted, else records.
        taken: texts that have gone to the model.
        parts: what it has given.
    """

    columns: Columns
    future: Future[Any]
    raw: bool
    taken: int = 0
    parts: list[Any] = field(default_factory=list)
    characters: int = 0

    def __post_init__(self) -> None:
        self.characters = sum(len(text) for column in self.columns for text in column)

    def __len__(self) -> int:
        return len(self.columns[0])


@dataclass(eq=False)
class Slice:
    """Some texts that go through the model in one turn."""

    texts: Texts
    start: int
    stop: int

    def columns(self) -> list[Sequence[str]]:
        """Their texts, a list a column."""
        return [column[self.start : self.stop] for column in self.texts.columns]


@dataclass(eq=False)
class Call:
    """Work of another kind with the model."""

    function: Callable[[Model], Any]
    future: Future[Any]


def settle(future: Future[Any], result: Any = None, error: BaseException | None = None) -> None:
    """Gives an outcome to who waits for it, unless nobody does any more or it has been given another one before."""
    with contextlib.suppress(InvalidStateError):
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
