"""The server around the application: its address, its signals, and how it stops."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from equipoise.errors import EquipoiseError, ServiceError
from equipoise.runs import Run
from equipoise.serving._app import build
from equipoise.serving._limits import Limits
from equipoise.serving._protocol import HEAD_BYTES, protocol_of
from equipoise.serving._service import Service
from equipoise.serving._traces import trace_of

__all__ = ["run_server", "server_of"]

log = logging.getLogger("equipoise.serving")

#: Kernels that oneDNN keeps at once, each with memory of its own for one shape of batch. Its default is 1,024, and a service's
#: memory would grow for hours. Read when the first is made.
KERNELS = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128"
#: Files that the process may need beside its connections: tables, the model, what libraries open.
SPARE_FILES = 300


def run_server(
    runs: str | Path | Run | Sequence[str | Path | Run] | Mapping[str, str | Path | Run],
    *,
    host: str,
    port: int,
    token: str | None,
    open_to_all: bool,
    hosts: Sequence[str],
    device: str | None,
    precision: str,
    limits: Limits,
) -> None:
    """See `equipoise.serving.serve`."""
    if token is not None and not (token and token.isascii() and token.isprintable() and " " not in token):
        raise ServiceError("the token must be printable ASCII without blanks, and not empty")
    os.environ.setdefault(*KERNELS)
    sock = _bind(host, port)  # before models are loaded: a port that is taken is told at once
    try:
        address = ipaddress.ip_address(sock.getsockname()[0])
        if token is None and not open_to_all and not address.is_loopback:
            raise ServiceError(
                f"host {host} is open to other machines, and there is no token. Set EQUIPOISE_TOKEN or --token, "
                "listen on 127.0.0.1, or say --no-token if everyone may ask"
            )
        if not log.hasHandlers():  # nobody has set logging up: one line a request on standard error
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            log.addHandler(handler)
            log.setLevel(logging.INFO)
        everywhere = address.is_unspecified
        app = build(
            runs,
            token=token,
            hosts=[*hosts, host],
            any_address=everywhere or not address.is_loopback,
            device=device,
            precision=precision,
            limits=limits,
        )
        server = server_of(app, _shown(host, sock.getsockname()[1]))
        before = signal.getsignal(signal.SIGHUP)
        in_main = threading.current_thread() is threading.main_thread()
        if in_main:
            signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=server.reload_all, daemon=True).start())
        try:
            server.run(sockets=[sock])
        finally:
            if in_main:
                signal.signal(signal.SIGHUP, before)
    finally:
        sock.close()


def server_of(app: FastAPI, url: str) -> _Server:
    """The server of an application that `build` made, not started.

    Args:
        app: the application.
        url: what it says where it listens.
    """
    service: Service = app.state.equipoise
    limits = service.limits

    def count(reason: str) -> None:
        service.measures.closed.labels(reason).inc()

    config = uvicorn.Config(
        app,
        # Not whichever parser happens to be installed: limits and clocks are this one's.
        http=protocol_of(limits, count, _connections(limits.connections)),
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        backlog=128,
        timeout_keep_alive=limits.idle_s,  # type: ignore[arg-type]  # it takes any number of seconds
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    return _Server(config, service, url)


def _connections(wanted: int) -> int:
    """Connections for which this process may have files, after it has asked for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        more = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(OSError, ValueError):  # it is a request; what is there is divided below
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    return max(1, min(wanted, max(soft - SPARE_FILES, soft // 2)))


class _Server(uvicorn.Server):
    """Uvicorn, which at the first signal takes nothing new, finishes what was accepted and only then goes."""

    def __init__(self, config: uvicorn.Config, service: Service, url: str) -> None:
        super().__init__(config)
        self._service, self._url = service, url
        self._deadline: float | None = None
        self._last: float | None = None  # when it goes, answered or not
        self._accepted: set[str] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says where it listens."""
        await super().startup(sockets)
        names = ", ".join(served.name for served in self._service.runs.all())
        log.info("serving %s at %s (Ctrl-C stops)", names, self._url)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal starts the stop, a second one cuts it short."""
        if self._deadline is not None:
            self.should_exit = self.force_exit = True
            return
        self._accepted = self._service.files.unfinished()
        self._deadline = time.monotonic() + self._service.limits.grace_s
        self._service.state.draining = True
        log.info("stopping: nothing new is taken, what was accepted is finished (Ctrl-C again ends at once)")

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to go."""
        if self._deadline is not None:
            now, service = time.monotonic(), self._service
            if self._last is None and now > self._deadline:
                service.abandon("the service stops and could not finish it in time")
                self._last = now + 2  # for those answers to go out
            waited_for = self._last is None and bool(self._accepted & service.files.unsettled())
            busy = bool(service.state.busy) or waited_for
            self.should_exit = self.should_exit or not busy or (self._last is not None and now > self._last)
        return await super().on_tick(counter)

    def reload_all(self) -> None:
        """At SIGHUP: every run anew; one that cannot be loaded goes on as it is."""
        for served in self._service.runs.all():
            try:
                fresh = self._service.runs.reload(served.name)
                log.info("reloaded %s: version %s", served.name, fresh.version)
            except EquipoiseError as error:
                log.error("%s goes on as it is: %s", served.name, error)
            except Exception as error:  # a bug must not keep the other runs from being loaded
                log.error("%s goes on as it is\n%s", served.name, trace_of(error))


def _bind(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ServiceError(
            f"host '{host}' is unknown ({error}). Use 127.0.0.1, or an address of this machine"
        ) from None
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)  # localhost: 127.0.0.1 before ::1
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise ServiceError(
                f"port {port} on {host} is in use. Choose another with --port, or stop what listens there"
            ) from None
        raise ServiceError(f"cannot listen on {host}, port {port}: {error.strerror}") from None
    return sock


def _shown(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
