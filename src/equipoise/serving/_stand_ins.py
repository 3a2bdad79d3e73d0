"""What stands for a model where a table is read: one stops at the first rows, one asks the worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as NotYet
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.serving._runs import Served

if TYPE_CHECKING:
    from equipoise.inference import Model

__all__ = ["Cancelled", "FirstRows", "Lane", "Opened"]


class Cancelled(Exception):
    """The table is not wanted any more."""


class Opened(Exception):
    """The table could be opened and its first rows read: there is nothing more to check."""


class FirstRows:
    """Stands for a model until the first rows are to be predicted."""

    def __init__(self, model: Model) -> None:
        self.text, self.tasks, self.read = model.text, model.tasks, model.read

    def outputs(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Any:
        """Everything before has worked."""
        raise Opened


class Lane:
    """Stands for a model: its predictions are made by the worker, between the requests.

    Args:
        served: the run.
        cancelled: whether the table is not wanted any more.
    """

    def __init__(self, served: Served, cancelled: Callable[[], bool]) -> None:
        model = served.model
        self.text, self.tasks, self.read = model.text, model.tasks, model.read
        self._worker, self._cancelled = served.worker, cancelled

    def outputs(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Any:
        """`[n, outputs]`, as `Model.outputs`."""
        columns = [texts] if pairs is None else [texts, pairs]
        # Similar lengths together: the worker cuts slices in this order.
        order = np.argsort([-sum(len(column[i]) for column in columns) for i in range(len(texts))], kind="stable")
        future = self._worker.table([[column[i] for i in order] for column in columns])
        while True:
            try:
                outputs = future.result(timeout=0.2)
            except NotYet:
                if future.done():  # the model's own time-out, not ours
                    raise
                if self._cancelled():
                    future.cancel()
                    raise Cancelled from None
            else:
                found = np.empty_like(outputs)
                found[order] = outputs
                return found
