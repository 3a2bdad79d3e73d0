"""A service that really listens, and a model that does what the test says."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import numpy as np
from starlette.testclient import TestClient

import equipoise as eq
from equipoise.errors import RunError
from equipoise.serving import create_app
from equipoise.serving._server import server_of

JSON = {"content-type": "application/json"}


class FakeModel:
    """Says of each text how long it is; waits while `gate` is closed; fails where a text says so.

    Attributes:
        batches: the texts of each call of `outputs`.
        threads: the threads that called it.
        gate: closed, nothing goes through.
        entered: set when a call of `outputs` has begun.
    """

    def __init__(self, text: Sequence[str] = ("text",), seconds_per_text: float = 0.0) -> None:
        self.text, self.device, self.precision = tuple(text), "cpu", "fp32"
        task = SimpleNamespace(size=1, kind="regression", main_metric=("mse", "min"), to_dict=lambda: {"range": None})
        self.tasks = {"length": task}
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self._seconds = seconds_per_text

    def outputs(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Any:
        self.threads.add(threading.current_thread().name)
        self.batches.append(list(texts))
        self.entered.set()
        assert self.gate.wait(60)
        time.sleep(self._seconds * len(texts))
        if "poison" in texts:
            raise RuntimeError("the secret of a text")
        return np.array([[len(text)] for text in texts], dtype=np.float32)

    def exact(self) -> Any:
        """It has no gradients, as an ONNX export has none."""
        raise RunError("there are no weights to walk back through")

    def read(self, outputs: Any) -> dict[str, Any]:
        return {"length": outputs[:, 0]}

    def records(self, outputs: Any) -> list[dict[str, Any]]:
        return [{"length": float(value)} for value in outputs[:, 0]]


def train_tiny(backbone: Path, table: Path, output: Path, **changes: Any) -> eq.Run:
    """A run of three tasks in seconds; `changes` are its training settings."""
    recipe = {
        "model": {"backbone": str(backbone), "max_length": 24, "pooling": "native"},
        "data": {"train": str(table), "validation": 0.2},
        "tasks": {
            "polarity": {"type": "regression", "column": "score", "range": [-1, 1]},
            "label": {"type": "classification"},
            "topic": {"type": "classification"},
        },
        "training": {"max_steps": 4, "precision": "fp32", "learning_rate": 1e-3, **changes},
    }
    return eq.train(recipe, output=output, progress=False)


@contextlib.contextmanager
def client_of(runs: Any, **settings: Any) -> Iterator[TestClient]:
    """The application without a server, as `localhost`."""
    app = create_app(runs, **settings)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


@contextlib.contextmanager
def listening(runs: Any, **settings: Any) -> Iterator[str]:
    """The application behind the service's own server on a free loopback port; gives its address."""
    with serving(runs, **settings) as (url, _):
        yield url


@contextlib.contextmanager
def serving(runs: Any, **settings: Any) -> Iterator[tuple[str, Any]]:
    """The same, and gives the server, too."""
    app = create_app(runs, **settings)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    server = server_of(app, url)
    thread = threading.Thread(target=lambda: server.run(sockets=[sock]))
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield url, server
    finally:
        server.should_exit = True
        thread.join(60)
        sock.close()
    assert not thread.is_alive()


@contextlib.contextmanager
def command(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`equipoise serve ...` in a process of its own, on a free port; gives it and its address when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "equipoise.cli", "serve", *arguments, "--port", "0"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stderr is not None
    try:
        url, seen = "", []
        for line in process.stderr:
            seen.append(line)
            if " at http://" in line:
                url = line.split(" at ")[1].split()[0]
                break
        assert url, "".join(seen)
        yield process, url
    finally:
        process.kill()
        process.wait(60)
        process.stderr.close()


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Waits for something to become true, and gives it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)
    return found


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Does the same `count` times at once and gives what each returned."""
    found: list[Any] = [None] * count

    def one(number: int) -> None:
        found[number] = work(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return found


def problem(response: Any) -> dict[str, str]:
    """The body of a refusal: one shape, whatever went wrong."""
    assert response.headers["content-type"].startswith("application/json"), response.text
    body = response.json()
    assert set(body) == {"error"}, body
    assert set(body["error"]) == {"what", "where", "how"}, body
    assert body["error"]["what"]
    assert body["error"]["how"]
    assert "Traceback" not in response.text
    return body["error"]


def fresh(url: str, **settings: Any) -> httpx2.Client:
    """A client of a real service."""
    return httpx2.Client(base_url=url, timeout=60, **settings)
