"""`equipoise serve` as a process: its address, its refusals in one line, its signals."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from serving_helpers import command, fresh, in_threads, wait_until

import equipoise as eq
from equipoise.errors import ServiceError
from equipoise.serving import serve

pytest_plugins = ["serving_fixtures"]


def refused(*arguments: str, **environment: str) -> str:
    """What the command says when it does not start: one line, exit code 2."""
    done = subprocess.run(
        [sys.executable, "-m", "equipoise.cli", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr.strip()


def test_what_cannot_start_is_one_line(trained: eq.Run, tmp_path: Path) -> None:
    run = str(trained.folder)
    assert "there is no run folder" in refused(str(tmp_path / "absent"), "--port", "0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert refused(run, "--port", port).startswith(
            f"error: port {port} on 127.0.0.1 is in use. Choose another with --"
        )
    half = Path(shutil.copytree(trained.folder, tmp_path / "half"))
    (half / "metrics.json").unlink()
    assert "is half-written: it has no metrics.json" in refused(str(half), "--port", "0")
    open_to_all = refused(run, "--host", "0.0.0.0", "--port", "0")
    assert "host 0.0.0.0 is open to other machines, and there is no token. Set EQUIPOISE_TOKEN" in open_to_all


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "no.such.host.invalid"}, "host 'no.such.host.invalid' is unknown"),
        ({"host": "192.0.2.1"}, "cannot listen on 192.0.2.1"),
        ({"host": "::"}, "host :: is open to other machines"),
        ({"token": ""}, "the token must be printable ASCII without blanks, and not empty"),
        ({"token": "größer"}, "the token must be printable ASCII"),
        ({"token": "two words"}, "the token must be printable ASCII"),
    ],
)
def test_addresses_and_tokens_that_cannot_be(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ServiceError, match=message):
        serve("runs/none", port=0, **settings)  # type: ignore[arg-type]


def test_without_its_packages_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ServiceError, match=r'the service needs the package uvicorn. Install .*"equipoise\[serve\]"'):
        serve("runs/none", port=0)


def test_sigterm_finishes_what_was_accepted_and_refuses_what_is_new(trained: eq.Run) -> None:
    with command(str(trained.folder)) as (process, url), fresh(url) as client:
        texts = ["strong profit " * 20] * 1000
        answers: list[Any] = []
        asking = threading.Thread(
            target=lambda: answers.extend(in_threads(6, lambda _: client.post("/predict", json={"texts": texts})))
        )
        with fresh(url) as watching:
            asking.start()
            wait_until(lambda: "equipoise_requests_in_progress 7.0" in watching.get("/metrics").text)
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: watching.get("/health").status_code == 503)
            late = watching.post("/predict", json={"text": "late"})
            assert late.status_code == 503
            assert late.json()["error"]["what"] == "the service is stopping and takes nothing new"
            assert "retry-after" in late.headers
        asking.join(60)
        assert process.wait(60) == 0
    assert len(answers) == 6
    for answer in answers:
        assert answer.status_code == 200
        assert len(answer.json()["predictions"]) == 1000


def test_sigint_ends_an_idle_service_at_once_and_leaves_no_folder(trained: eq.Run, tmp_path: Path) -> None:
    with command(str(trained.folder), TMPDIR=str(tmp_path)) as (process, url), fresh(url) as client:
        assert client.get("/health").status_code == 200
        assert list(tmp_path.glob("equipoise-serve-*"))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not list(tmp_path.glob("equipoise-serve-*"))


def test_a_table_that_was_accepted_is_finished_and_fetched(trained: eq.Run) -> None:
    with command(str(trained.folder)) as (process, url), fresh(url) as client:
        table = b"text\n" + b"strong profit beats the market\n" * 20_000
        sent = client.post("/files?name=in.csv", content=table, headers={"content-type": "text/csv"})
        id_ = sent.json()["id"]
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: client.get("/health").status_code == 503)
        wait_until(lambda: client.get(f"/files/{id_}").json()["state"] == "done")
        time.sleep(0.3)  # it waits for who asked
        assert client.get(f"/files/{id_}/result").text.count("\n") == 20_001
        assert process.wait(60) == 0


def test_names_tokens_and_sighup(trained: eq.Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained.folder, tmp_path / "copy"))
    arguments = (f"old={trained.folder}", f"new={copy}")
    with command(*arguments, EQUIPOISE_TOKEN="s3cret") as (process, url), fresh(url) as client:
        assert client.get("/info").status_code == 401
        client.headers["authorization"] = "Bearer s3cret"
        runs = client.get("/info").json()["runs"]
        assert [run["name"] for run in runs] == ["old", "new"]
        card = copy / "model" / "config.json"
        card.write_text(card.read_text() + "\n")  # another version of the same model
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: client.get("/info").json()["runs"][1]["version"] != runs[1]["version"])
        wait_until(lambda: client.get("/info").json()["runs"][0]["version"] == runs[0]["version"])
        (copy / "metrics.json").unlink()
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        for line in process.stderr:
            if "new goes on as it is" in line:
                assert "half-written" in line
                break
            assert "s3cret" not in line
        assert client.post("/predict", json={"text": "profit", "run": "new"}).status_code == 200


def test_the_command_line_names_runs() -> None:
    from equipoise._cli_serve import _named

    assert _named(["runs/a", "b=runs/a"]) == {"a": "runs/a", "b": "runs/a"}
    with pytest.raises(ServiceError, match=r"two runs are called 'a'\. Give one another name: NAME=other/a"):
        _named(["runs/a", "other/a"])
