"""The endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from equipoise.errors import EquipoiseError
from equipoise.runs import Run
from equipoise.serving._answers import Explanation, Health, Info, PredictResponse, Reloaded, Ticket, Told, body_of
from equipoise.serving._bodies import ExplainRequest, PredictRequest, chunks, columns_of, read_json
from equipoise.serving._files import KINDS, File, disk_refusal
from equipoise.serving._guard import Guard, note, stopping
from equipoise.serving._limits import Limits
from equipoise.serving._page import page_file
from equipoise.serving._refusal import Problem, Refusal, json_response
from equipoise.serving._runs import Loading, Served, give_back_memory, named
from equipoise.serving._service import Service
from equipoise.serving._traces import trace_of
from equipoise.serving._worker import Closed

if TYPE_CHECKING:
    from equipoise.inference import Model

__all__ = ["build"]

log = logging.getLogger("equipoise.serving")

PROBLEM: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "Refused, with what, where and how."},
    "5XX": {"model": Problem, "description": "Stopping (503), too slow (504), or a failure (500)."},
}


def build(
    runs: str | Path | Run | Sequence[str | Path | Run] | Mapping[str, str | Path | Run],
    *,
    token: str | None = None,
    hosts: Sequence[str] = (),
    any_address: bool = False,
    device: str | None = None,
    precision: str = "auto",
    limits: Limits,
) -> FastAPI:
    """The application; see `equipoise.serving.create_app`."""
    service = Service(named(runs), device=device, precision=precision, limits=limits)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        often = min(1.0, limits.stuck_s / 4)
        looking = [
            asyncio.create_task(_every(60, lambda: asyncio.to_thread(service.files.sweep))),
            asyncio.create_task(_every(10, lambda: asyncio.to_thread(give_back_memory))),
            asyncio.create_task(_every(often, service.watch)),
        ]
        try:
            yield
        finally:
            for task in looking:
                task.cancel()
            await asyncio.to_thread(service.close)

    app = FastAPI(
        title="Equipoise",
        version=version("equipoise"),
        description="Trained runs behind HTTP: every task's prediction for a text, and why.",
        docs_url=None,  # those pages fetch scripts from other addresses
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.equipoise = service
    app.add_middleware(
        Guard, state=service.state, measures=service.measures, token=token, hosts=hosts, any_address=any_address
    )
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _wrong_query)
    app.add_exception_handler(HTTPException, _no_route)
    if token is not None:
        _tell_token(app)
    _add_predictions(app, service)
    _add_files(app, service)
    _add_rest(app, service)
    return app


def _tell_token(app: FastAPI) -> None:
    """Lets OpenAPI tell that requests must carry a token."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        told = plain()
        told.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        told["security"] = [{"token": []}]
        told["paths"]["/health"]["get"]["security"] = []
        return told

    app.openapi = openapi  # type: ignore[method-assign]


async def _every(seconds: float, look: Callable[[], Awaitable[None] | None]) -> None:
    """Looks again and again; a look that fails is logged, and the next one comes."""
    while True:
        await asyncio.sleep(seconds)
        try:
            waiting = look()
            if waiting is not None:
                await waiting
        except Exception as error:
            log.error("the service could not look after itself\n%s", trace_of(error))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


async def _wrong_query(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = " ".join(str(part) for part in first["loc"])[:60]
    return Refusal(422, f"{first['msg']}".lower()[:200], "See /openapi.json.", where=where).response()


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        refusal = Refusal(404, "there is nothing at this address", "See /openapi.json.", where="path")
    else:
        refusal = Refusal(error.status_code, str(error.detail).lower(), "See /openapi.json.", where="method")
    refusal.headers.update(error.headers or {})
    return refusal.response()


def _add_predictions(app: FastAPI, service: Service) -> None:
    limits = service.limits

    @app.post("/predict", response_model=PredictResponse, responses=PROBLEM, openapi_extra=body_of(PredictRequest))
    async def predict(request: Request) -> Response:
        """Predicts every task for one text or many, in the order given."""
        asked = await read_json(request, PredictRequest, limits, service.state)
        if (asked.texts is None) == (asked.text is None):
            raise Refusal(422, "there must be 'texts' or 'text', and not both", "Send one of them.", where="texts")
        texts = asked.texts if asked.texts is not None else [asked.text or ""]
        if len(texts) > limits.texts_per_request:
            what = f"the request has {len(texts)} texts; at most {limits.texts_per_request} are taken"
            raise Refusal(422, what, "Send several requests, or a file to /files.", where="texts")
        note(request.scope, texts=len(texts))

        def submit(served: Served) -> Future[Any]:
            one = asked.texts is None
            columns = columns_of(texts, served.model.text, limits.characters_per_text, one=one)
            if texts:
                return served.worker.predict(columns)
            nothing: Future[Any] = Future()
            nothing.set_result([])
            return nothing

        served, records = await service.ask(request, asked.run, submit)
        return json_response({"run": served.name, "version": served.version, "predictions": records})

    @app.post("/explain", response_model=Explanation, responses=PROBLEM, openapi_extra=body_of(ExplainRequest))
    async def explain(request: Request) -> Response:
        """Says which words of a text pushed one task's prediction, and how far."""
        asked = await read_json(request, ExplainRequest, limits, service.state)

        def submit(served: Served) -> Future[Any]:
            from equipoise.inference import explain as explain_text

            tasks = served.model.tasks
            if asked.task not in tasks:
                raise Refusal(422, "the run has no such task", f"Tasks: {', '.join(tasks)}.", where="task")
            labels = tasks[asked.task].to_dict().get("labels")
            if asked.target is not None and asked.target not in (labels or []):
                known = f"Classes: {', '.join(labels)}." if labels else "A score has no classes: leave it out."
                raise Refusal(422, "the task has no such class", known, where="target")
            columns = columns_of([asked.text], served.model.text, limits.characters_per_explanation, one=True)
            cells = [column[0] for column in columns]
            text = cells[0] if len(cells) == 1 else (cells[0], cells[1])

            def work(model: Model) -> Any:
                served.exact()
                return explain_text(model, text, asked.task, target=asked.target)

            return served.worker.call(work)

        served, found = await service.ask(request, asked.run, submit)
        return json_response({"run": served.name, "version": served.version, **found})


def _add_files(app: FastAPI, service: Service) -> None:
    limits, files = service.limits, service.files
    binary = {"schema": {"type": "string", "format": "binary"}}
    body = {
        "requestBody": {"required": True, "content": dict.fromkeys(["application/octet-stream", "text/csv"], binary)}
    }

    @app.post("/files", status_code=202, response_model=Ticket, responses=PROBLEM, openapi_extra=body)
    async def upload(
        request: Request,
        name: Annotated[str, Query(description="the file's name; its ending tells its kind", max_length=255)],
        run: Annotated[str | None, Query(description="the run; without it the default run")] = None,
    ) -> Response:
        """Takes a table (the body, as it is) and scores it in the background."""
        service.run(run)
        try:
            file = files.reserve(name)
        except OSError as error:
            raise disk_refusal(error) from None
        try:
            size = 0
            with file.source.open("wb") as sink:
                last = b"\n"
                async for chunk in chunks(request, limits.file_bytes, limits, what="file"):
                    sink.write(chunk)
                    file.lines += chunk.count(b"\n")
                    last = chunk[-1:]
                    if size >> 24 != (size + len(chunk)) >> 24:  # every 16 MiB
                        files.room()
                    size += len(chunk)
                file.lines += last != b"\n"
            for _ in range(10):
                served = service.run(run)
                await asyncio.get_running_loop().run_in_executor(files.checking, files.check, file, served)
                if service.state.draining:
                    raise stopping()
                with contextlib.suppress(Closed):
                    files.start(file, served)
                    break
            else:
                raise stopping()
        except OSError as error:
            files.remove(file)
            raise disk_refusal(error) from None
        except BaseException:
            files.remove(file)
            raise
        return json_response({"id": file.id}, 202, {"location": f"/files/{file.id}"})

    @app.get("/files/{id}", response_model=Told, responses=PROBLEM)
    async def watch(id: str) -> Response:
        """How far a table is."""
        return json_response(files.get(id).told())

    @app.get("/files/{id}/result", response_class=FileResponse, responses=PROBLEM)
    async def fetch(request: Request, id: str) -> Response:
        """The table with the predictions as further columns, of the same kind."""
        file = files.get(id)
        if file.state == "failed":
            raise Refusal(
                409, f"the file could not be scored: {file.error}", "Mend it and send it again.", where="path"
            )
        if file.state != "done":
            raise Refusal(409, "the file is not done", "Ask for its state, and again when it is 'done'.", where="path")
        return _result(request, file)

    @app.delete("/files/{id}", status_code=204, responses=PROBLEM)
    async def forget(id: str) -> Response:
        """Forgets a table; if it is being scored, that ends."""
        files.remove(files.get(id))
        return Response(status_code=204)


def _result(request: Request, file: File) -> Response:
    try:
        status = os.stat(file.result)
    except FileNotFoundError:  # deleted since, or its place was needed
        raise Refusal(404, "there is no such file", "Send it again.", where="path") from None
    wanted = re.fullmatch(r"bytes=([0-9]{1,18})-([0-9]{0,18})", request.headers.get("range", ""))
    if wanted is None or (
        wanted[2] and int(wanted[2]) < int(wanted[1])
    ):  # parts of other kinds are not given: the whole is a right answer to them, too
        request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
    elif int(wanted[1]) >= status.st_size:
        headers = {"content-range": f"bytes */{status.st_size}"}
        raise Refusal(
            416, "the file ends before that", "Ask for a part that it has.", where="header Range", headers=headers
        )
    file.fetched = True
    stem = file.name.rpartition(".")[0] or "table"
    name = f"{stem}-predicted.{file.kind}"
    return FileResponse(file.result, media_type=KINDS[file.kind], filename=name, stat_result=status)


def _add_rest(app: FastAPI, service: Service) -> None:
    @app.get("/info", response_model=Info, responses=PROBLEM)
    async def info() -> Response:
        """The runs, their tasks, and what a request may cost."""
        runs = service.runs.all()
        return json_response(
            {
                "version": version("equipoise"),
                "default": service.runs.default,
                "limits": service.limits.told(),
                "runs": [served.described() for served in runs],
            }
        )

    @app.get("/health", response_model=Health, responses={**PROBLEM, 503: {"model": Health}})
    async def health() -> Response:
        """200 when requests are taken; 503 while the service stops, or where a model died or is stuck and stays so."""
        status = "stopping" if service.state.draining else "failing" if service.runs.failing() else "ready"
        return json_response({"status": status}, 200 if status == "ready" else 503)

    @app.get("/metrics", response_class=Response, responses={**PROBLEM, 200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Counters for Prometheus."""
        runs = service.runs.all()
        text = service.measures.text({s.name: s.worker.waiting for s in runs}, {s.name: s.version for s in runs})
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    @app.post("/runs/{name}/reload", response_model=Reloaded, responses=PROBLEM)
    async def reload(name: str) -> Response:
        """Loads a run anew; the old one answers until the new one stands."""
        before = service.run(name)
        try:
            fresh = await asyncio.to_thread(service.runs.reload, name, wait=False)
        except Loading:
            raise Refusal(
                409, "the run is being loaded already", "Wait for that.", where="run", headers={"retry-after": "5"}
            ) from None
        except EquipoiseError as error:
            message = service.runs.without_paths(name, str(error))
            how = f"The old one goes on (version {before.version}). Mend the run and reload again."
            raise Refusal(409, message, how, where="run") from None
        return json_response({"run": name, "version": fresh.version, "replaced": before.version})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return page_file("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def page_part(name: str) -> Response:
        return page_file(name)
