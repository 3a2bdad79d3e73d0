"""What was sent: read piece by piece within limits of size and time, and checked, with the place of what is wrong."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from itertools import islice
from typing import Annotated, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from equipoise.serving._guard import State
from equipoise.serving._limits import Limits
from equipoise.serving._refusal import Refusal

__all__ = ["ExplainRequest", "PredictRequest", "chunks", "columns_of", "read_json"]

#: Beyond the seconds that every body may take, one second for so many bytes.
BYTES_PER_S = 65_536
#: Of a body that is refused, so many bytes are still read, that the client sees the answer and no broken connection.
DISCARDED = 64 << 20
#: Values in a JSON body. Read, each takes up to half a kilobyte: eight megabytes of `{},{},` would take a gigabyte.
VALUES = 65_536

# A text, or what begins a value. Possessive, and closed by the end too: it never goes back, whatever is sent.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[,\[{]', re.DOTALL)

Text = Annotated[str, StringConstraints(strict=True)]
Pair = Annotated[list[Text], Field(min_length=2, max_length=2)]


class PredictRequest(BaseModel):
    """Texts to predict: `texts`, or `text` for one."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"texts": ["Profit beats all hopes.", "Sales fell sharply."]},
                {"text": "Profit beats all hopes.", "run": "reviews"},
                {"texts": [["Profit rose, debt too.", "debt"], ["Profit rose, debt too.", "profit"]]},
            ]
        },
    )

    # The first wrong text is told, and there may be very many.
    texts: Annotated[list[Text | Pair], Field(fail_fast=True)] | None = Field(
        default=None, description="texts, or pairs of texts if the run was trained on pairs"
    )
    text: Text | Pair | None = Field(default=None, description="one text, or one pair")
    run: Text | None = Field(default=None, description="the run's name; without it the default run")


class ExplainRequest(BaseModel):
    """One text whose words are to be weighed for one task."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"text": "Profit beats all hopes.", "task": "label", "target": "positive"}]},
    )

    text: Text | Pair = Field(description="a text, or a pair if the run was trained on pairs")
    task: Text = Field(description="the task's name")
    target: Text | None = Field(default=None, description="a class of the task; without it the predicted one")
    run: Text | None = Field(default=None, description="the run's name; without it the default run")


M = TypeVar("M", bound=BaseModel)


async def chunks(request: Request, limit: int, limits: Limits, *, what: str) -> AsyncIterator[bytes]:
    """The body, piece by piece.

    Args:
        request: its body has not been read.
        limit: bytes.
        limits: of the service, for the time.
        what: `body` or `file`, for the message.

    Raises:
        Refusal: 413 it is too big; 408 it comes too slowly; 415 it is packed; 499 the client has gone.
    """
    loop = asyncio.get_running_loop()
    started, size = loop.time(), 0
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        # A few kilobytes can unpack to gigabytes.
        raise Refusal(
            415,
            f"a {what} that is packed is not taken",
            "Send it as it is, without the header Content-Encoding.",
            where="header Content-Encoding",
            headers={"accept-encoding": "identity", "connection": "close"},
        )
    length = request.headers.get("content-length", "")
    announced = int(length) if re.fullmatch("[0-9]{1,20}", length) else None

    def too_big() -> Refusal:
        found = f"more than {limit}" if announced is None else str(announced)
        return Refusal(
            413,
            f"the {what} has {found} bytes; at most {limit} are taken",
            "Send less at once, in several requests." if what == "body" else "Split the file.",
            where="body",
            headers={"connection": "close"},
        )

    if announced is not None and announced > limit + DISCARDED:
        raise too_big()
    while True:
        left = started + limits.body_s + size / BYTES_PER_S - loop.time()
        try:
            message = await asyncio.wait_for(request.receive(), max(left, 0.001))
        except TimeoutError:
            raise Refusal(
                408,
                f"the {what} came too slowly: {size} bytes in {loop.time() - started:.0f} seconds",
                f"Send it within {limits.body_s:.0f} seconds, and a second more for every 64 KiB.",
                where="body",
                headers={"connection": "close"},
            ) from None
        if message["type"] == "http.disconnect":
            raise Refusal(499, "the client has gone", "Send the whole request.")
        chunk: bytes = message.get("body", b"")
        last = not message.get("more_body", False)
        size += len(chunk)
        over = size > limit or (announced is not None and announced > limit)
        if over and (last or size > limit + DISCARDED):
            raise too_big()
        if chunk and not over:
            yield chunk
        if last:
            return


async def read_json(request: Request, model: type[M], limits: Limits, state: State) -> M:
    """A JSON body, read and checked.

    Args:
        request: its body has not been read.
        model: what it must be.
        limits: of the service.
        state: of the service; bodies that are being received are counted there.

    Raises:
        Refusal: 415 it is not declared as JSON; 400 it is no JSON, or not UTF-8; 422 it is another request's or wrong
            somewhere, which is told; 429 too much is being received; 413, 408 as `chunks`.
    """
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != "application/json" or charset not in ("", "utf-8", "utf8"):
        raise Refusal(
            415,
            "the body must be JSON in UTF-8",
            "Send the header 'Content-Type: application/json'.",
            where="header Content-Type",
        )
    parts: list[bytes] = []
    held = 0
    try:
        async for chunk in chunks(request, limits.body_bytes, limits, what="body"):
            held += len(chunk)
            state.bodies += len(chunk)
            if state.bodies > limits.bodies_bytes:
                raise Refusal(
                    429,
                    "too much is being sent at the same time",
                    "Try again in a moment, or send less at once.",
                    headers={"retry-after": "5", "connection": "close"},
                )
            parts.append(chunk)
        return _parsed(b"".join(parts), model)
    finally:
        state.bodies -= held


def _parsed(body: bytes, model: type[M]) -> M:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(
            400, f"the body is not UTF-8: byte {error.start} is wrong", "Encode it as UTF-8.", where="body"
        ) from None
    marks = sum(body.count(mark) for mark in (b'"', b",", b"[", b"{"))  # most of them stand in texts, as a rule
    # A text and its comma are two.
    if marks > VALUES and next(islice(_TOKEN.finditer(body), 2 * VALUES, None), None) is not None:
        what = f"the body has more than {VALUES} values"
        raise Refusal(422, what, "Send less at once, in several requests.", where="body")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _refused(model, error) from None


def _refused(model: type[BaseModel], error: ValidationError) -> Refusal:
    """The first thing that is wrong, in words. Nothing of the body is repeated but its keys."""
    first = error.errors(include_url=False, include_input=False)[0]
    kind, place = first["type"], first["loc"]
    if kind == "json_invalid":
        reason = str(first["ctx"]["error"]) if "ctx" in first else "it cannot be parsed"
        return Refusal(400, f"the body is no JSON: {reason}", "Send one JSON object.", where="body")
    known = ", ".join(model.model_fields)
    if not place:
        return Refusal(422, "the body is no JSON object", f"Send an object with {known}.", where="body")
    where = str(place[0])[:60]
    if kind == "extra_forbidden":
        return Refusal(422, f"unknown key '{where}'", f"Known keys: {known}.", where=where)
    if kind == "missing":
        return Refusal(422, f"'{where}' is missing", f"Send it; keys: {known}.", where=where)
    if where == "texts" and len(place) > 1:
        return Refusal(
            422, "it is neither a text nor a pair of texts", "Send texts as JSON strings.", where=f"texts[{place[1]}]"
        )
    wanted = {"texts": "a list of texts", "text": "a text, or a pair of texts"}.get(where, "a text")
    return Refusal(422, f"'{where}' must be {wanted}", f"Send {wanted} as JSON.", where=where)


def columns_of(
    texts: Sequence[str | list[str]], names: Sequence[str], most: int, *, one: bool = False
) -> list[list[str]]:
    """Texts or pairs as one list a text column of the model.

    Args:
        texts: as they were sent.
        names: the model's text columns, one or two.
        most: characters of a text.
        one: it was sent as `text`.

    Raises:
        Refusal: 422 one is empty, too long, or no text or pair as the model reads them; its position is told.
    """
    columns: list[list[str]] = [[] for _ in names]
    for position, value in enumerate(texts):
        where = "text" if one else f"texts[{position}]"
        cells = [value] if isinstance(value, str) else value
        if len(cells) != len(names):
            reads, found = (
                ("one text", "a pair") if len(names) == 1 else (f"pairs ({', '.join(names)})", "a single text")
            )
            sent = '"..."' if len(names) == 1 else '["...", "..."]'
            raise Refusal(422, f"the run reads {reads}, found {found}", f"Send {sent}.", where=where)
        for name, cell, column in zip(names, cells, columns, strict=True):
            inside = "" if len(names) == 1 else f" ({name})"
            if not cell.strip():
                raise Refusal(422, f"the text{inside} is empty", "Leave it out, or send a text.", where=where)
            if len(cell) > most:
                what = f"the text{inside} has {len(cell)} characters; at most {most} are taken"
                raise Refusal(422, what, "Shorten it: a model reads only a text's beginning.", where=where)
            column.append(cell)
    return columns
