"""Talking to a service byte by byte, as those do who mean no good."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
from collections.abc import Callable
from typing import Any

from serving_helpers import wait_until

GET = b"GET /info HTTP/1.1\r\nHost: localhost\r\n"


def dial(url: str, **options: int) -> socket.socket:
    """A connection; `receive` is the size of what the kernel takes for us unasked."""
    sock = socket.socket()
    sock.settimeout(60)
    if "receive" in options:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["receive"])
    try:
        sock.connect(("127.0.0.1", int(url.rsplit(":", 1)[1])))
    except OSError:
        sock.close()
        raise
    return sock


def rest(sock: socket.socket) -> bytes:
    """Everything until the service closes the connection, however it does."""
    found = b""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while chunk := sock.recv(65_536):
            found += chunk
    return found


def tell(url: str, data: bytes) -> bytes:
    """Sends bytes and gives everything that comes until the connection is closed."""
    with dial(url) as sock:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            sock.sendall(data)
        return rest(sock)


def status_of(answer: bytes) -> int:
    """The status of the first answer; 0 = there is none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


def one_answer(sock: socket.socket) -> bytes:
    """One whole answer with a Content-Length, of a connection that stays open."""
    found = b""
    while b"\r\n\r\n" not in found:
        chunk = sock.recv(65_536)
        assert chunk, found
        found += chunk
    head, _, body = found.partition(b"\r\n\r\n")
    lines = [line.split(b":", 1) for line in head.split(b"\r\n")[1:]]
    length = next(int(value) for name, value in lines if name.lower() == b"content-length")
    while len(body) < length:
        body += sock.recv(65_536)
    return head + b"\r\n\r\n" + body


def post(path: str, body: bytes, *lines: str, length: int | None = None) -> bytes:
    """A whole request."""
    first = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body) if length is None else length}",
        *lines,
    )
    return "\r\n".join(first).encode() + b"\r\n\r\n" + body


def texts(*values: str) -> bytes:
    """The body of a request for predictions."""
    return json.dumps({"texts": values}).encode()


def figures(url: str) -> dict[str, float]:
    """What `/metrics` counts now."""
    answer = tell(url, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    lines = answer.partition(b"\r\n\r\n")[2].decode().splitlines()
    return {name: float(value) for name, value in (x.rsplit(" ", 1) for x in lines if x and not x.startswith("#"))}


def closed(url: str, reason: str) -> float:
    """Connections that the service closed, for that reason."""
    return figures(url).get(f'equipoise_connections_closed_total{{reason="{reason}"}}', 0.0)


def healthy(url: str) -> bool:
    """Whether somebody else is served."""
    answer = tell(url, post("/predict", texts("good"), "Connection: close"))
    return status_of(answer) == 200 and answer.endswith(b'"predictions":[{"length":4.0}]}')


def settled(url: str, run: str = "run") -> None:
    """Waits until nothing is left of any request: none in progress but the one that asks, none waiting."""

    def none() -> bool:
        found = figures(url)
        return (
            found["equipoise_requests_in_progress"] == 1
            and found[f'equipoise_waiting_requests{{run="{run}"}}'] == 0
            and found[f'equipoise_waiting_texts{{run="{run}"}}'] == 0
        )

    wait_until(none)


def growth(work: Callable[[], Any]) -> int:
    """By how many megabytes the most that this process ever held has grown."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
