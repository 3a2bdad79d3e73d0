"""HTTP/1.1 on one connection, with a clock on every phase in which a client could keep us waiting.

Uvicorn's own protocol closes a connection that is idle after an answer, and waits for ever for one that never finishes
its headers, never reads its answer or never ends a body that nobody asked for. Here each of these has its time, and a full
house closes the connection that has been silent longest rather than turn a new one away.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from equipoise.serving._limits import Limits

__all__ = ["HEAD_BYTES", "protocol_of"]

#: Of a request's first line and headers.
HEAD_BYTES = 16_384
HEADERS = 100
#: A body may come in so many pieces; one of more must have 16 bytes in a piece on average, for each costs as much as a kilobyte.
PIECES = 20_000
#: Bytes a second of an answer that a client must take.
TAKEN_PER_S = 16_384
#: Between two looks at a connection's clocks.
LOOK_S = 0.5

Count = Callable[[str], None]


def protocol_of(limits: Limits, count: Count, connections: int) -> type[H11Protocol]:
    """The protocol of one service.

    Args:
        limits: of the service.
        count: is told each time a connection is closed or refused here, and why (one of a few words).
        connections: that may be open at once.
    """

    class Bounded(_Protocol):
        def __init__(
            self,
            config: Config,
            server_state: ServerState,
            app_state: dict[str, Any],
            _loop: asyncio.AbstractEventLoop | None = None,
        ) -> None:
            super().__init__(config, server_state, app_state, _loop)
            self.limits, self.count, self.most = limits, count, connections

    return Bounded


class _Connection(h11.Connection):
    """h11's, which remembers what to answer to what it refuses, and bounds what it accepts."""

    status = 400
    pieces = size = 0

    def next_event(self) -> Any:
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            self.status = error.error_status_hint or 400
            raise
        if isinstance(event, h11.Request):
            self.pieces = self.size = 0
            if event.http_version not in (b"1.0", b"1.1"):
                self._refuse("another version of HTTP", 505)
            names = [name for name, _ in event.headers]
            if len(names) > HEADERS:
                self._refuse(f"more than {HEADERS} headers", 431)
            if b"transfer-encoding" in names and b"content-length" in names:
                # Two lengths: whoever stands between us and the client may believe the other one (request smuggling).
                self._refuse("two lengths of one body", 400)
        elif isinstance(event, h11.Data):
            self.pieces += 1
            self.size += len(event.data)
            if self.pieces > PIECES and self.size < 16 * self.pieces:
                self._refuse("a body in too many pieces", 400)
        return event

    def _refuse(self, what: str, status: int) -> None:
        self.status = status
        raise h11.RemoteProtocolError(what, error_status_hint=status)


class _Taken:
    """A transport that counts what is written, so that one can see how much the client took."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self.written = transport, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self.written += len(data)
        self._transport.write(data)


class _Protocol(H11Protocol):
    limits: Limits
    count: Count
    most: int
    conn: _Connection

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn = _Connection(h11.SERVER, HEAD_BYTES)
        self._silent_since = self.loop.time()  # when it last had nothing to do for us
        self._head_since: float | None = self._silent_since  # when it owed us the rest of a head
        self._rest_since: float | None = None  # when its answer was out, and its body still came
        self._mark: tuple[float, int] | None = None  # when we last looked, and what it had taken of its answer
        self._look_task: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(_Taken(transport))  # type: ignore[arg-type]
        if len(self.connections) > self.most and not self._make_room():
            self.count("full")
            self._say(503, "the service has as many connections as it may", "Try again in a moment.")
            return
        self._look_task = self.loop.call_later(LOOK_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look_task is not None:
            self._look_task.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_since is None and self.conn.their_state is h11.IDLE:
            self._head_since = self.loop.time()
        # A head is looked at before much more of it is taken: it cannot be longer than HEAD_BYTES just by coming at once.
        start = 0
        while start < len(data) and not self.transport.is_closing():
            stop = start + HEAD_BYTES if self.conn.their_state is h11.IDLE else len(data)
            super().data_received(data[start:stop])
            start = stop
        if self.conn.their_state is not h11.IDLE:
            self._head_since = None

    def on_response_complete(self) -> None:
        self._silent_since = self.loop.time()
        if self.conn.their_state is h11.SEND_BODY:
            self._rest_since = self._silent_since
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self.count("malformed")
        what = {431: "the request's headers are too long or too many"}.get(self.conn.status, "this is no HTTP request")
        self._say(self.conn.status, what, "Send HTTP/1.1, with one length for a body.")

    # Inside ---------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Closes the connection where one of its times is up."""
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            return
        self._look_task = self.loop.call_later(LOOK_S, self._look)
        now, limits = self.loop.time(), self.limits
        if self._stalled(now):
            self.count("stalled")
            self.transport.abort()
        elif self.transport.is_closing():
            pass  # only the rest of its last answer has still to be taken
        elif self._head_since is not None and now - self._head_since > limits.head_s:
            self.count("head")
            if self.conn.trailing_data[0]:
                self._say(408, "the headers came too slowly", f"Send them within {limits.head_s:g} seconds.")
            else:
                self.transport.close()
        elif self._rest_since is not None:
            if self.conn.their_state is not h11.SEND_BODY:
                self._rest_since = None
            elif now - self._rest_since > limits.idle_s:
                self.count("rest")
                self.transport.abort()

    def _stalled(self, now: float) -> bool:
        """Whether an answer lies here that its client does not take."""
        left = self.transport.get_write_buffer_size()
        if not left:
            self._mark = None
            return False
        taken = self.transport.written - left  # type: ignore[attr-defined]
        if self._mark is None:
            self._mark = now, taken
        since, before = self._mark
        if now - since <= self.limits.stalled_s:
            return False
        self._mark = now, taken
        return bool(taken - before < TAKEN_PER_S * self.limits.stalled_s)

    def _make_room(self) -> bool:
        """Closes the connection that has been silent longest; whether there was one."""
        silent = [
            other
            for other in self.connections
            if isinstance(other, _Protocol)
            and other is not self
            and (other.cycle is None or other.cycle.response_complete)
            and not other.transport.is_closing()
        ]
        if not silent:
            return False
        self.count("evicted")
        min(silent, key=lambda other: other._silent_since).transport.abort()
        return True

    def _say(self, status: int, what: str, how: str) -> None:
        """An answer of the connection's own, and its end. Nothing is said into the middle of another answer."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": {"what": what, "where": None, "how": how}}).encode()
            headers = [
                ("content-type", "application/json; charset=utf-8"),
                ("content-length", str(len(body))),
                ("connection", "close"),
                *([("retry-after", "1")] if status == 503 else []),
            ]
            for event in (
                h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status]),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        cycle: Any = self.cycle  # None before the first request
        if cycle is not None and not cycle.response_complete:  # what it was for need not go on
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()
