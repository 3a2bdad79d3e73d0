"""What stands around every request: who may ask, whether anything new is taken, what is logged, counted and added."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from equipoise.serving._measures import Measures, route_of
from equipoise.serving._refusal import Refusal
from equipoise.serving._traces import trace_of

__all__ = ["Guard", "State", "note", "short_of_memory", "stopping"]

log = logging.getLogger("equipoise.serving")

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
#: Routes that need no token: the page asks for it, and a load balancer has none.
FREE = {"/", "/page", "/health"}
#: Routes that are answered while the service stops: what was accepted is fetched, and its end is watched.
STAYING = {"/health", "/metrics", "/info", "/files/{id}", "/files/{id}/result"}
#: Headers of which a request may have one: of two, others may believe another one than we do.
ONCE = {
    b"host",
    b"authorization",
    b"content-length",
    b"content-type",
    b"content-encoding",
    b"transfer-encoding",
    b"origin",
}


class State:
    """What the whole service knows of itself."""

    def __init__(self) -> None:
        self.draining = False
        self.busy = 0  # requests that are being answered
        self.bodies = 0  # bytes of JSON bodies that are being received or read


class Guard:
    """ASGI middleware around the application.

    Args:
        app: the application.
        state: of the service.
        measures: its counters.
        token: what a request must carry; None = nothing.
        hosts: names that a `Host` may have beside `localhost` and loopback addresses.
        any_address: a `Host` may be any address written in numbers: the service listens on all of them.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        state: State,
        measures: Measures,
        token: str | None,
        hosts: Sequence[str],
        any_address: bool,
    ) -> None:
        self._app, self._state, self._measures = app, state, measures
        # Digests are compared: they have one length, so not even the token's can be found out by the clock.
        self._token = None if token is None else hashlib.sha256(token.encode()).digest()
        self._hosts = {"localhost", *(host.lower().strip("[]") for host in hosts)}
        self._any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route, started, status = route_of(scope["path"]), time.perf_counter(), 0

        async def add(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", []))
                present = {name.lower() for name, _ in headers}
                headers += [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in present]
                if self._state.draining and b"connection" not in present:
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            await send(message)

        self._state.busy += 1
        self._measures.busy.set(self._state.busy)
        try:
            try:
                self._check(scope, route)
                await self._app(scope, receive, add)
            except Refusal as refusal:
                await refusal.response()(scope, receive, add)
            except MemoryError:
                if status:
                    raise Broken from None
                await short_of_memory().response()(scope, receive, add)
            except Exception as error:
                log.error("a bug at %s\n%s", route, trace_of(error))
                if status:  # half an answer is out: nothing sound can follow it
                    raise Broken from None
                what = f"the service failed ({type(error).__name__})"
                await Refusal(500, what, "It is a bug of the service; its log tells more.").response()(
                    scope, receive, add
                )
        finally:
            self._state.busy -= 1
            self._measures.busy.set(self._state.busy)
            seconds = time.perf_counter() - started
            self._measures.observe_request(route, status, seconds)
            method = scope["method"] if scope["method"] in {"GET", "POST", "DELETE", "HEAD", "OPTIONS"} else "other"
            told = scope.get("equipoise", {})
            log.info(
                "%s %s %d %.1f ms%s",
                method,
                route,
                status,
                1000 * seconds,
                "".join(f" {k}={v}" for k, v in told.items()),
            )

    def _check(self, scope: Scope, route: str) -> None:
        headers = dict(scope["headers"])
        names = [name for name, _ in scope["headers"] if name in ONCE]
        if len(names) != len(set(names)):
            twice = next(name for name in names if names.count(name) > 1).decode("latin-1")
            raise Refusal(400, f"the header {twice} stands there twice", "Send it once.", where=f"header {twice}")
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._known(host):
            raise Refusal(
                421,
                "the request is for a host that this service does not answer for",
                "Use localhost or the address it was started with, or start it with --allow-host NAME.",
                where="header Host",
            )
        if scope["method"] not in {"GET", "HEAD"}:
            origin = headers.get(b"origin")
            if origin is not None and _place(origin) != host.lower():
                raise Refusal(
                    403,
                    "a page of another site sent the request",
                    "Ask from the service's own page, or from a program.",
                    where="header Origin",
                )
        if self._token is not None and route not in FREE:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(
                hashlib.sha256(given.strip()).digest(), self._token
            ):
                what = "the token is wrong" if given else "the service asks for a token"
                raise Refusal(
                    401,
                    what,
                    "Send the header 'Authorization: Bearer TOKEN'.",
                    where="header Authorization",
                    headers={"www-authenticate": "Bearer", "connection": "close"},
                )
        if self._state.draining and route not in STAYING:
            raise stopping()

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # A name that an attacker makes point here (DNS rebinding) is a name; addresses in numbers are what they say.
        return address.is_loopback or self._any_address


class Broken(Exception):
    """An answer was begun and cannot be finished: the server closes the connection."""


def _place(origin: bytes) -> str | None:
    try:
        return urlsplit(origin.decode("latin-1")).netloc.lower()
    except ValueError:  # no address at all
        return None


def short_of_memory() -> Refusal:
    """What a request is told that there is no memory for."""
    return Refusal(
        503, "the service is short of memory", "Try again later, or send less.", headers={"retry-after": "10"}
    )


def stopping() -> Refusal:
    """What a request is told while the service stops."""
    return Refusal(
        503,
        "the service is stopping and takes nothing new",
        "Try again in a moment.",
        headers={"retry-after": "5", "connection": "close"},
    )


def note(scope: Any, **values: int | str) -> None:
    """Adds figures to a request's line in the log: counts and names of runs, never texts."""
    scope.setdefault("equipoise", {}).update(values)
