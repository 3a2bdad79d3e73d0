"""The one thread that uses a model. Requests that come while it is busy wait, and go through the model together.

Three lanes wait for it: texts of requests, work that is no plain prediction (explanations), and rows of tables. Texts of
requests come first, until they have had as much time as the last turn of another lane took: so nobody starves. What is
long is cut into slices, between which the others get their turn: a table of a million rows holds no request up for
longer than one slice takes.

Whatever goes wrong in the thread, it goes on, and who waited is told. A computation that does not come back cannot be ended,
only left behind: `abandon` answers all who wait, and another worker takes the model (`_runs.py`).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.errors import EquipoiseError
from equipoise.serving._limits import Limits
from equipoise.serving._traces import trace_of
from equipoise.serving._work import Call, Closed, Columns, Full, Slice, Texts, Unanswered, WorkerFailure, settle

if TYPE_CHECKING:
    from equipoise.inference import Model

__all__ = ["Closed", "Full", "Unanswered", "Worker", "WorkerFailure"]

log = logging.getLogger("equipoise.serving")

#: Seconds that a slice of a table should take: how long a request may have to wait for one.
SLICE_S = 0.1
#: A thread that fails so often in a row before it comes to any work is given up.
FAILURES = 3


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
        self._requests: deque[Texts] = deque()
        self._calls: deque[Call] = deque()
        self._tables: deque[Texts] = deque()
        self._waiting = 0  # texts of requests that wait
        self._characters = 0  # of requests that wait, in whole or in part
        self._closed, self._holds = False, 0
        self._abandoned: str | None = None  # why
        self._current: list[Future[Any]] = []  # what the model is at
        self._since: float | None = None  # since when, monotonic
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
        texts = Texts(columns, Future(), raw=False)
        with self._changed:
            if self._closed:
                raise Closed
            limits = self._limits
            if self._requests and (
                self._waiting + len(texts) > limits.waiting_texts
                or self._characters + texts.characters > limits.waiting_characters
                or len(self._requests) >= limits.waiting_requests
            ):
                raise Full(min(60, max(1, math.ceil(self._waiting / self._rate))))
            self._requests.append(texts)
            self._waiting += len(texts)
            self._characters += texts.characters
            self._changed.notify_all()
        return texts.future

    def call(self, function: Callable[[Model], Any]) -> Future[Any]:
        """Work of another kind with the model.

        Raises:
            Full: too much waits.
            Closed: nothing more is taken.
        """
        call = Call(function, Future())
        with self._changed:
            if self._closed:
                raise Closed
            if len(self._calls) >= self._limits.waiting_explanations:
                raise Full(min(60, 2 * len(self._calls)))
            self._calls.append(call)
            self._changed.notify_all()
        return call.future

    def table(self, columns: Columns) -> Future[Any]:
        """Rows of a table; the future gives outputs `[n, outputs]`. The worker must be held.

        Raises:
            Closed: nothing more is taken.
            Unanswered: the worker was given up.
        """
        texts = Texts(columns, Future(), raw=True)
        with self._changed:
            if self._abandoned is not None:
                raise Unanswered(self._abandoned)
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

    def abandon(self, reason: str) -> None:
        """Takes nothing more, and tells all who wait that they get no answer, and why. The thread ends when it can."""
        with self._changed:
            self._closed, self._abandoned = True, self._abandoned or reason
            lost = [*self._current, *self._drop_all()]
            self._current = []
            self._changed.notify_all()
        for future in lost:
            settle(future, error=Unanswered(reason))

    def join(self, timeout_s: float | None = None) -> bool:
        """Waits for the thread to end, and says whether it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def waiting(self) -> tuple[int, int]:
        """Requests and texts that wait for the model."""
        with self._changed:
            return len(self._requests), self._waiting

    @property
    def alive(self) -> bool:
        """Whether the thread is there."""
        return self._thread.is_alive()

    @property
    def abandoned(self) -> str | None:
        """Why it was given up; None = it was not."""
        return self._abandoned

    @property
    def busy_s(self) -> float:
        """Seconds that the model has been at one piece of work."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    # The thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while True:
            try:
                work = self._next()
                if work is None:
                    return
                failures = 0
                self._do(work)
            except BaseException as error:  # whatever it is: if the thread went, all who wait would wait for ever
                log.error("a worker failed\n%s", trace_of(error))
                failures += 1
                with self._changed:
                    lost = self._current or self._drop_all()
                    self._current, self._since = [], None
                for future in lost:
                    settle(future, error=WorkerFailure(f"the worker failed ({type(error).__name__})"))
                if failures >= FAILURES:
                    self.abandon("the worker failed again and again")
                    return
            work = None  # while the thread waits, nothing of a request may stay

    def _do(self, work: Call | list[Slice]) -> None:
        started = time.monotonic()
        if isinstance(work, Call):
            self._answer(work)
            self._owed = time.monotonic() - started
        else:
            self._predict(work)
        with self._changed:
            self._current, self._since = [], None

    def _next(self) -> Call | list[Slice] | None:
        """What is to be done now; waits for it. None = nothing will come any more."""
        with self._changed:
            while True:
                if self._abandoned is not None:
                    return None
                self._drop_cancelled()
                others = bool(self._calls or self._tables)
                if self._requests and (self._owed > 0 or not others):
                    self._gather()
                    batch = self._batch(self._requests, self._limits.batch_characters)
                    if batch:
                        return self._begin(batch)
                elif others:
                    if self._calls and not (self._tables and self._table_next):
                        self._table_next = True
                        return self._begin(self._calls.popleft())
                    self._table_next = False
                    batch = self._batch(self._tables, self._table_characters)
                    if batch:
                        return self._begin(batch)
                elif self._closed and not self._holds:
                    return None
                else:
                    self._changed.wait()

    def _begin(self, work: Call | list[Slice]) -> Call | list[Slice]:
        """Notes what the model is at, in the moment in which it leaves its lane: no work is ever in neither place."""
        self._current = [work.future] if isinstance(work, Call) else [piece.texts.future for piece in work]
        self._since = time.monotonic()
        return work

    def _drop_cancelled(self) -> None:
        """What nobody waits for any more: its client has gone, its time was up, or it has failed."""
        for lane in (self._requests, self._tables):
            for texts in [texts for texts in lane if texts.future.done()]:
                lane.remove(texts)
                if lane is self._requests:
                    self._gone(texts)
        for call in [call for call in self._calls if call.future.cancelled()]:
            self._calls.remove(call)

    def _drop_all(self) -> list[Future[Any]]:
        """Empties the lanes, and gives the futures of what was in them."""
        dropped = [work.future for lane in (self._requests, self._calls, self._tables) for work in lane]
        for lane in (self._requests, self._calls, self._tables):
            lane.clear()
        self._waiting = self._characters = 0
        return dropped

    def _gone(self, texts: Texts) -> None:
        """A request has left its lane, with what is left of it."""
        self._waiting -= len(texts) - texts.taken
        self._characters -= texts.characters

    def _gather(self) -> None:
        """In a busy moment, waits shortly for those who were answered a moment ago to come again.

        A request that comes alone after one that came alone is never made to wait.
        """
        deadline = time.monotonic() + self._limits.gather_ms / 1000
        while len(self._requests) < self._crowd and self._waiting < self._limits.batch_texts and not self._closed:
            left = deadline - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                return

    def _batch(self, lane: deque[Texts], characters: int) -> list[Slice]:
        """Slices for one turn. What does not fit whole goes to the end of its lane with its rest."""
        slices: list[Slice] = []
        texts_left, count = self._limits.batch_texts, len(lane)
        while lane and texts_left > 0 and (characters > 0 or not slices) and count:
            texts = lane.popleft()
            count -= 1
            if texts.future.done():
                if lane is self._requests:
                    self._gone(texts)
                continue
            start = stop = texts.taken
            while stop < len(texts) and stop - start < texts_left and (characters > 0 or stop == start):
                characters -= 1 + sum(len(column[stop]) for column in texts.columns)
                stop += 1
            slices.append(Slice(texts, start, stop))
            texts.taken = stop
            texts_left -= stop - start
            if lane is self._requests:
                self._waiting -= stop - start
            if stop < len(texts):
                lane.append(texts)
            elif lane is self._requests:
                self._characters -= texts.characters
        return slices

    def _predict(self, batch: list[Slice]) -> None:
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

    def _forward(self, batch: list[Slice], raw: bool) -> None:
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

    def _give(self, texts: Texts, part: Any) -> None:
        texts.parts.append(part)
        if sum(map(len, texts.parts)) < len(texts):
            return
        if texts.raw:
            settle(texts.future, np.concatenate(texts.parts))
        else:
            settle(texts.future, [record for part in texts.parts for record in part])

    def _fail(self, texts: Texts, error: Exception) -> None:
        with self._changed:
            for lane in (self._requests, self._tables):
                if texts in lane:  # its rest need not be tried
                    lane.remove(texts)
                    if lane is self._requests:
                        self._gone(texts)
        settle(texts.future, error=_told(error))

    def _answer(self, call: Call) -> None:
        if not call.future.set_running_or_notify_cancel():
            return
        try:
            settle(call.future, call.function(self._model))
        except Exception as error:
            settle(call.future, error=_told(error))


def _told(error: Exception) -> Exception:
    if isinstance(error, EquipoiseError):
        return error
    log.error("a model failed\n%s", trace_of(error))
    return WorkerFailure(f"the model failed ({type(error).__name__})")
