"""The one thread that uses a model. Requests that come while it is busy wait, and go through the model together.

Three lanes wait for it: texts of requests, work that is no plain prediction (explanations), and rows of tables. Texts of
requests come first, until they have had as much time as the last turn of another lane took: so nobody starves. What is
long is cut into slices, between which the others get their turn: a table of a million rows holds no request up for
longer than one slice takes.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.errors import EquipoiseError
from equipoise.serving._limits import Limits

if TYPE_CHECKING:
    from equipoise.inference import Model

__all__ = ["Closed", "Full", "Worker", "WorkerFailure"]

log = logging.getLogger("equipoise.serving")

Columns = Sequence[Sequence[str]]  # one list of texts, or the two of pairs
#: Seconds that a slice of a table should take: how long a request may have to wait for one.
SLICE_S = 0.1


class Full(Exception):
    """As much waits as may wait; `retry_s`: seconds until that is done."""

    def __init__(self, retry_s: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_s} s")
        self.retry_s = retry_s


class Closed(Exception):
    """The worker takes nothing more: its run has been loaded anew, or the service stops."""


class WorkerFailure(Exception):
    """The model failed at this work; the log has the traceback."""


@dataclass(eq=False)
class _Texts:
    """Texts on their way; they may go through the model in several slices."""

    columns: Columns
    future: Future[Any]
    raw: bool  # outputs `[n, outputs]` are wanted, else records
    taken: int = 0  # texts that have gone
    parts: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.columns[0])


@dataclass(eq=False)
class _Slice:
    texts: _Texts
    start: int
    stop: int

    def columns(self) -> list[Sequence[str]]:
        return [column[self.start : self.stop] for column in self.texts.columns]


@dataclass(eq=False)
class _Call:
    function: Callable[[Model], Any]
    future: Future[Any]


class Worker:
    """Runs a model in a thread of its own.

    Args:
        model: it is used by this thread only.
        limits: of the service.
        name: of the run, for the thread and the log.
        observe: is told of each batch of requests how many texts and how many requests it held.
    """

    def __init__(
        self, model: Model, limits: Limits, *, name: str = "run", observe: Callable[[int, int], None] | None = None
    ) -> None:
        self._model, self._limits, self._observe = model, limits, observe
        self._changed = threading.Condition()
        self._requests: deque[_Texts] = deque()
        self._calls: deque[_Call] = deque()
        self._tables: deque[_Texts] = deque()
        self._waiting = 0  # texts of requests that wait
        self._closed, self._holds = False, 0
        self._crowd = 1  # requests in the last batch
        self._owed, self._table_next = SLICE_S, False  # seconds of requests until another lane has its turn
        self._table_characters = 16_384
        self._rate = 100.0  # texts a second, a running average
        self._thread = threading.Thread(target=self._run, name=f"equipoise-{name}", daemon=True)
        self._thread.start()

    # What others call -----------------------------------------------------------------------------------------------

    def predict(self, columns: Columns) -> Future[list[dict[str, Any]]]:
        """Texts of a request; the future gives `Model.records` of them.

        Raises:
            Full: too much waits.
            Closed: nothing more is taken.
        """
        texts = _Texts(columns, Future(), raw=False)
        with self._changed:
            if self._closed:
                raise Closed
            limits = self._limits
            if self._requests and (
                self._waiting + len(texts) > limits.waiting_texts or len(self._requests) >= limits.waiting_requests
            ):
                raise Full(min(60, max(1, math.ceil(self._waiting / self._rate))))
            self._requests.append(texts)
            self._waiting += len(texts)
            self._changed.notify_all()
        return texts.future

    def call(self, function: Callable[[Model], Any]) -> Future[Any]:
        """Work of another kind with the model.

        Raises:
            Full: too much waits.
            Closed: nothing more is taken.
        """
        call = _Call(function, Future())
        with self._changed:
            if self._closed:
                raise Closed
            if len(self._calls) >= self._limits.waiting_explanations:
                raise Full(min(60, 2 * len(self._calls)))
            self._calls.append(call)
            self._changed.notify_all()
        return call.future

    def table(self, columns: Columns) -> Future[Any]:
        """Rows of a table; the future gives outputs `[n, outputs]`. The worker must be held."""
        texts = _Texts(columns, Future(), raw=True)
        with self._changed:
            if self._closed and not self._holds:
                raise Closed
            self._tables.append(texts)
            self._changed.notify_all()
        return texts.future

    def hold(self) -> None:
        """Keeps the thread for rows of a table, even when nothing else is taken any more.

        Raises:
            Closed: nothing more is taken.
        """
        with self._changed:
            if self._closed:
                raise Closed
            self._holds += 1

    def release(self) -> None:
        """Ends a `hold`."""
        with self._changed:
            self._holds -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Takes nothing more; what was accepted is finished, then the thread ends."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, timeout_s: float | None = None) -> bool:
        """Waits for the thread to end, and says whether it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def waiting(self) -> tuple[int, int]:
        """Requests and texts that wait for the model."""
        with self._changed:
            return len(self._requests), self._waiting

    # The thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            work = self._next()
            if work is None:
                return
            started = time.monotonic()
            if isinstance(work, _Call):
                self._answer(work)
                self._owed = time.monotonic() - started
            else:
                self._predict(work)
            del work  # while the thread waits, nothing of a request may stay

    def _next(self) -> _Call | list[_Slice] | None:
        """What is to be done now; waits for it. None = nothing will come any more."""
        with self._changed:
            while True:
                self._drop_cancelled()
                others = bool(self._calls or self._tables)
                if self._requests and (self._owed > 0 or not others):
                    self._gather()
                    batch = self._batch(self._requests, self._limits.batch_characters)
                    if batch:
                        return batch
                elif others:
                    if self._calls and not (self._tables and self._table_next):
                        self._table_next = True
                        return self._calls.popleft()
                    self._table_next = False
                    return self._batch(self._tables, self._table_characters)
                elif self._closed and not self._holds:
                    return None
                else:
                    self._changed.wait()

    def _drop_cancelled(self) -> None:
        """What nobody waits for any more: its client has gone, or its time was up."""
        for lane in (self._requests, self._tables):
            for texts in [texts for texts in lane if texts.future.cancelled()]:
                lane.remove(texts)
                if lane is self._requests:
                    self._waiting -= len(texts) - texts.taken
        for call in [call for call in self._calls if call.future.cancelled()]:
            self._calls.remove(call)

    def _gather(self) -> None:
        """In a busy moment, waits shortly for those who were answered a moment ago to come again.

        A request that comes alone after one that came alone is never made to wait.
        """
        deadline = time.monotonic() + self._limits.gather_ms / 1000
        while len(self._requests) < self._crowd and self._waiting < self._limits.batch_texts and not self._closed:
            left = deadline - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                return

    def _batch(self, lane: deque[_Texts], characters: int) -> list[_Slice]:
        """Slices for one turn. What does not fit whole goes to the end of its lane with its rest."""
        slices: list[_Slice] = []
        texts_left, count = self._limits.batch_texts, len(lane)
        while lane and texts_left > 0 and (characters > 0 or not slices) and count:
            texts = lane.popleft()
            count -= 1
            if texts.future.cancelled():
                if lane is self._requests:
                    self._waiting -= len(texts) - texts.taken
                continue
            start = stop = texts.taken
            while stop < len(texts) and stop - start < texts_left and (characters > 0 or stop == start):
                characters -= 1 + sum(len(column[stop]) for column in texts.columns)
                stop += 1
            slices.append(_Slice(texts, start, stop))
            texts.taken = stop
            texts_left -= stop - start
            if lane is self._requests:
                self._waiting -= stop - start
            if stop < len(texts):
                lane.append(texts)
        return slices

    def _predict(self, batch: list[_Slice]) -> None:
        raw = batch[0].texts.raw
        started = time.monotonic()
        self._forward(batch, raw)
        seconds = max(time.monotonic() - started, 1e-6)
        count = sum(piece.stop - piece.start for piece in batch)
        if raw:
            factor = min(2.0, max(0.5, SLICE_S / seconds))
            self._table_characters = int(
                min(8 * self._limits.batch_characters, max(256, self._table_characters * factor))
            )
            self._owed = seconds
            return
        self._owed -= seconds
        self._crowd = len(batch)
        self._rate += 0.1 * (count / seconds - self._rate)
        if self._observe is not None:
            self._observe(count, len(batch))

    def _forward(self, batch: list[_Slice], raw: bool) -> None:
        pieces = [piece.columns() for piece in batch]
        columns = [[text for piece in pieces for text in piece[i]] for i in range(len(pieces[0]))]
        try:
            outputs = self._model.outputs(*columns)
            found = outputs if raw else self._model.records(outputs)
        except Exception as error:
            if len(batch) > 1:  # one of them spoils it: alone, only that one fails
                for piece in batch:
                    self._forward([piece], raw)
            else:
                self._fail(batch[0].texts, error)
            return
        start = 0
        for piece in batch:
            count = piece.stop - piece.start
            self._give(piece.texts, found[start : start + count])
            start += count

    def _give(self, texts: _Texts, part: Any) -> None:
        texts.parts.append(part)
        if sum(map(len, texts.parts)) < len(texts) or not texts.future.set_running_or_notify_cancel():
            return
        if texts.raw:
            texts.future.set_result(np.concatenate(texts.parts))
        else:
            texts.future.set_result([record for part in texts.parts for record in part])

    def _fail(self, texts: _Texts, error: Exception) -> None:
        with self._changed:
            for lane in (self._requests, self._tables):
                if texts in lane:  # its rest need not be tried
                    lane.remove(texts)
                    if lane is self._requests:
                        self._waiting -= len(texts) - texts.taken
        if texts.future.set_running_or_notify_cancel():
            texts.future.set_exception(_told(error))

    def _answer(self, call: _Call) -> None:
        if not call.future.set_running_or_notify_cancel():
            return
        try:
            call.future.set_result(call.function(self._model))
        except Exception as error:
            call.future.set_exception(_told(error))


def _told(error: Exception) -> Exception:
    if isinstance(error, EquipoiseError):
        return error
    log.error("a model failed", exc_info=error)
    return WorkerFailure(f"the model failed ({type(error).__name__})")
