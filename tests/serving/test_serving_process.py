"""`equipoise serve` as a process: its address, its refusals in one line, its signals."""

from __future__ import annotations

import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import serving_fixtures
from serving_helpers import command, fresh, in_threads, wait_until

import equipoise as eq
from equipoise.cli import main
from equipoise.errors import ServiceError
from equipoise.serving import serve

trained = serving_fixtures.trained


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the command says when it does not start: one line, exit code 2."""

    def start(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["equipoise", "serve", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        assert said.startswith("error: ")
        return said

    return start


def test_what_cannot_start_is_one_line(refused: Callable[..., str], trained: eq.Run, tmp_path: Path) -> None:
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
    assert "contradict each other" in refused(run, "--no-token", "--token", "x")
    assert "there is no run folder" in refused(
        str(tmp_path / "absent"), "--host", "0.0.0.0", "--no-token", "--port", "0"
    )


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


def taken(metrics: str) -> float:
    """Requests for predictions that are being answered or have been; the one for the metrics is one in progress."""
    lines = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    answered = float(lines.get('equipoise_requests_total{route="/predict",status="200"}', 0))
    return float(lines["equipoise_requests_in_progress"]) - 1 + answered


def test_sigterm_finishes_what_was_accepted_and_refuses_what_is_new(trained: eq.Run, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret-zz\n")
    headers = {"authorization": "Bearer s3cret-zz"}
    with (
        command(str(trained.folder), "--token-file", str(secret)) as (process, url),
        fresh(url, headers=headers) as client,
        fresh(url, headers=headers) as watching,
    ):
        assert client.get("/info", headers={"authorization": "Bearer wrong"}).status_code == 401
        if sys.platform == "linux":  # the token stands neither among the processes nor in the environment
            place = Path("/proc") / str(process.pid)
            assert b"s3cret-zz" not in (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
        table = b"text\n" + b"strong profit beats the market\n" * 2_000
        sent = client.post("/files?name=in.csv", content=table, headers={"content-type": "text/csv"})
        id_ = sent.json()["id"]
        texts = ["strong profit " * 20] * 1000
        answers: list[Any] = []
        asking = threading.Thread(
            target=lambda: answers.extend(in_threads(4, lambda _: client.post("/predict", json={"texts": texts})))
        )
        asking.start()
        wait_until(lambda: taken(watching.get("/metrics").text) == 4)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: watching.get("/health").status_code == 503)
        for late in (watching.post("/predict", json={"text": "late"}), watching.get("/")):
            assert late.status_code == 503
            assert late.json()["error"]["what"] == "the service is stopping and takes nothing new"
            assert "retry-after" in late.headers
        asking.join(60)
        wait_until(lambda: watching.get(f"/files/{id_}").json()["state"] == "done")
        time.sleep(0.3)  # it waits for who asked
        assert watching.get(f"/files/{id_}/result").text.count("\n") == 2_001
        assert process.wait(60) == 0
    assert len(answers) == 4
    for answer in answers:
        assert answer.status_code == 200
        assert len(answer.json()["predictions"]) == 1000


def test_names_tokens_sighup_and_sigint(trained: eq.Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained.folder, tmp_path / "copy"))
    arguments = (f"old={trained.folder}", f"new={copy}")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {"EQUIPOISE_TOKEN": "s3cret", "TMPDIR": str(temporary)}
    with command(*arguments, **environment) as (process, url), fresh(url) as client:
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
        assert list(temporary.glob("equipoise-serve-*"))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not list(temporary.glob("equipoise-serve-*"))


def test_the_command_line_names_runs() -> None:
    from equipoise._cli_serve import _named

    assert _named(["runs/a", "b=runs/a"]) == {"a": "runs/a", "b": "runs/a"}
    with pytest.raises(ServiceError, match=r"two runs are called 'a'\. Give one another name: NAME=other/a"):
        _named(["runs/a", "other/a"])
