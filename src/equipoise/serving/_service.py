"""What a service has beside its endpoints: its runs, its tables, its counters, and the way to a worker and back."""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from fastapi import Request

from equipoise.errors import EquipoiseError
from equipoise.serving._files import Files
from equipoise.serving._guard import State, stopping
from equipoise.serving._limits import Limits
from equipoise.serving._measures import Measures
from equipoise.serving._refusal import Refusal
from equipoise.serving._runs import Runs, Served
from equipoise.serving._worker import Closed, Full, Unanswered, WorkerFailure

__all__ = ["Service"]

log = logging.getLogger("equipoise.serving")


class Service:
    """Everything that a service has, beside its endpoints.

    Args:
        folders: name -> run folder.
        device: where the models run.
        precision: of their products.
        limits: what a request may cost.
    """

    def __init__(self, folders: Mapping[str, Path], *, device: str | None, precision: str, limits: Limits) -> None:
        self.limits, self.state, self.measures = limits, State(), Measures()
        observe = self.measures.observe_batch
        self.runs = Runs(folders, device=device, precision=precision, limits=limits, observe=observe)
        try:
            self.files = Files(limits, self.measures)
        except BaseException:
            self.runs.close()  # their threads would stay
            raise

    def watch(self) -> None:
        """Looks after the workers, once a second: those that died or are stuck are replaced."""
        if self.state.draining:
            return
        for name, why in self.runs.heal():
            log.error("%s: %s; what it was at and what waited was answered with 503", name, why)
            self.measures.replaced.labels(name).inc()

    def abandon(self, reason: str) -> None:
        """Answers everything that still waits with 503."""
        self.runs.abandon(reason)

    def close(self) -> None:
        """Ends tables and workers."""
        self.state.draining = True
        self.files.close()
        self.runs.close()

    def run(self, name: str | None) -> Served:
        """A run by the name that a request gives.

        Raises:
            Refusal: 404 there is none.
        """
        served = self.runs.get(name)
        if served is None:
            names = [run.name for run in self.runs.all()]
            near = difflib.get_close_matches(name or "", names, n=1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise Refusal(404, "there is no such run", f"{hint}Runs: {', '.join(names)}.", where="run")
        return served

    async def ask(
        self, request: Request, name: str | None, submit: Callable[[Served], Future[Any]]
    ) -> tuple[Served, Any]:
        """Hands work to a run's worker and waits for it.

        Raises:
            Refusal: 429 too much waits; 503 the service stops, or its worker died or is stuck; 504 it took too
                long; 499 the client has gone; 422 the
                model refuses the text; 500 the model failed.
        """
        for _ in range(10):
            served = self.run(name)
            try:
                future = submit(served)
            except Closed:  # it was loaded anew between these two lines: ask the new one
                if served.worker.abandoned is not None and self.runs.get(name) is served:
                    raise _unanswered(served.worker.abandoned) from None
                continue
            except Full as full:
                self.measures.rejected.inc()
                raise Refusal(
                    429,
                    "too many requests wait",
                    f"Try again in {full.retry_s} s.",
                    headers={"retry-after": str(full.retry_s)},
                ) from None
            try:
                return served, await _finished(request, future, self.limits.answer_s)
            except Unanswered as error:
                raise _unanswered(str(error)) from None
            except WorkerFailure as error:
                raise Refusal(500, str(error), "Send other texts, or tell whoever runs the service.") from None
            except EquipoiseError as error:
                message = self.runs.without_paths(served.name, str(error))
                raise Refusal(422, message, "Mend the request.") from None
        raise stopping()


def _unanswered(why: str) -> Refusal:
    return Refusal(
        503,
        why,
        "Try again in a moment; if it stays, whoever runs the service must restart it.",
        headers={"retry-after": "5"},
    )


async def _finished(request: Request, future: Future[Any], limit_s: float) -> Any:
    """A worker's answer, unless the time is up or the client hangs up: then the work is dropped, if it still waits."""
    waiting = asyncio.wrap_future(future)
    # Most answers come at once, and nobody looks meanwhile whether the client is there.
    await asyncio.wait({waiting}, timeout=min(0.25, limit_s))
    if not waiting.done():
        gone = asyncio.ensure_future(_gone(request))
        await asyncio.wait({waiting, gone}, timeout=max(0.0, limit_s - 0.25), return_when=asyncio.FIRST_COMPLETED)
        left = gone.done()
        gone.cancel()
        if not waiting.done():
            waiting.cancel()
            if left:
                raise Refusal(499, "the client has gone", "Wait for the answer.")
            raise Refusal(504, f"the answer took longer than {limit_s:g} s", "Send fewer texts, or try again later.")
    return waiting.result()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
