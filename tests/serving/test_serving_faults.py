"""Faults inside the service: whatever was accepted is answered, and the service heals or says that it cannot."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import serving_fixtures
from serving_helpers import FakeModel, client_of, command, fresh, in_threads, problem, serving, wait_until
from wire_helpers import dial, figures, healthy, post, rest, settled, status_of, tell
from wire_helpers import texts as body_of

import equipoise as eq
from equipoise.serving import Limits
from equipoise.serving._worker import Worker

fake = serving_fixtures.fake
trained = serving_fixtures.trained

CLOSE = "Connection: close"
GONE = 'equipoise_requests_total{route="/predict",status="499"}'


def failing_once(model: FakeModel, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """The next call of the model raises this, the others do not."""
    good, left = model.outputs, [error]

    def outputs(*columns: Any) -> Any:
        if left:
            raise left.pop()
        return good(*columns)

    monkeypatch.setattr(model, "outputs", outputs)


# The worker --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [RuntimeError("words"), MemoryError(), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), RecursionError()],
)
def test_whatever_a_model_raises_is_an_answer_and_the_next_request_is_served(
    fake: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    model, folder = fake()
    with client_of(folder) as client:
        failing_once(model, monkeypatch, error)
        answer = client.post("/predict", json={"text": "good"})
        assert answer.status_code == 500
        assert type(error).__name__ in problem(answer)["what"]
        assert client.post("/predict", json={"text": "good"}).status_code == 200
        assert client.get("/health").json() == {"status": "ready"}


def thread_of(client: Any) -> threading.Thread:
    found: threading.Thread = client.app.state.equipoise.runs.get(None).worker._thread
    return found


def test_a_worker_that_is_killed_from_outside_goes_on(fake: Any) -> None:
    """An exception is put into the thread while it waits: it comes out in the middle of its own bookkeeping."""
    _, folder = fake()
    with client_of(folder) as client:
        for _ in range(5):
            ident = ctypes.c_ulong(thread_of(client).ident or 0)
            assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(SystemExit)) == 1
            statuses = [client.post("/predict", json={"text": "good"}).status_code for _ in range(3)]
            assert set(statuses) <= {200, 500}
            assert statuses[-1] == 200
        assert thread_of(client).is_alive()
        assert client.get("/health").status_code == 200


def test_a_thread_that_is_gone_is_replaced_and_who_waited_is_told(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = fake()
    with serving(folder, limits=Limits(stuck_s=4.0)) as (url, server):
        worker = server._service.runs.get(None).worker
        model.gate.clear()
        model.entered.clear()
        answers: list[bytes] = []
        asking = [
            threading.Thread(target=lambda: answers.append(tell(url, post("/predict", body_of("waits"), CLOSE))))
            for _ in range(5)
        ]
        for thread in asking:
            thread.start()
        assert model.entered.wait(60)
        wait_until(lambda: figures(url)["equipoise_requests_in_progress"] == 6)

        def gone() -> None:
            raise SystemExit

        monkeypatch.setattr(worker, "_next", gone)  # when it comes back from the model, it finds no way on
        model.gate.set()
        for thread in asking:
            thread.join(60)
        statuses = Counter(map(status_of, answers))
        assert set(statuses) <= {200, 500, 503}, statuses
        assert sum(statuses.values()) == 5
        assert statuses[200] >= 1  # what was at the model
        wait_until(lambda: not worker.alive)
        wait_until(lambda: healthy(url))
        assert figures(url)['equipoise_workers_replaced_total{run="run"}'] == 1
        settled(url)


def test_a_dead_thread_is_seen(fake: Any) -> None:
    """Even one that died without a word: nobody waits for an answer that cannot come."""
    _, folder = fake()
    with serving(folder, limits=Limits(stuck_s=1.0)) as (url, server):
        worker: Worker = server._service.runs.get(None).worker
        with worker._changed:
            worker._next = lambda: None  # type: ignore[method-assign]  # it ends as if there were nothing more
            worker._changed.notify_all()
        # It still waits in the old one; whoever comes next wakes it, is answered, and then it is gone.
        tell(url, post("/predict", body_of("wakes it"), CLOSE))
        wait_until(lambda: not worker.alive)
        wait_until(lambda: healthy(url))
        assert worker.abandoned == "its worker died"


def test_a_stuck_model_is_left_behind_and_when_that_does_not_help_the_service_says_so(fake: Any) -> None:
    model, folder = fake()
    with serving(folder, limits=Limits(stuck_s=0.4, answer_s=30.0)) as (url, server):
        table = b"POST /files?name=in.csv HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\nConnection: close\r\n\r\ntext\na\n"
        model.gate.clear()
        answers = in_threads(4, lambda _: tell(url, post("/predict", body_of("stuck"), CLOSE)))
        assert [status_of(answer) for answer in answers] == [503] * 4
        assert all(b"the model has not come back for 0.4 s" in answer for answer in answers)
        assert all(b"retry-after: 5" in answer for answer in answers)
        id_ = tell(url, table).rpartition(b'"id":"')[2].partition(b'"')[0].decode()
        ask = f"GET /files/{id_} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        wait_until(lambda: b'"failed"' in tell(url, ask))
        assert b"the model has not come back" in tell(url, ask)
        # Every worker gets stuck: after a few, no more are tried, and that is said.
        health = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

        def given_up() -> bool:
            tell(url, post("/predict", body_of("stuck"), CLOSE))
            return b'"failing"' in tell(url, health) and len(server._service.runs._left["run"]) == 3

        wait_until(given_up)
        assert status_of(tell(url, health)) == 503
        late = tell(url, post("/predict", body_of("late"), CLOSE))
        assert status_of(late) == 503
        assert b"must restart it" in late
        settled(url)
        # What was stuck comes back: its answers are nobody's, and a new worker is tried.
        model.gate.set()
        wait_until(lambda: healthy(url))
        assert status_of(tell(url, health)) == 200
        wait_until(lambda: len([t for t in threading.enumerate() if t.name == "equipoise-run"]) == 1)


def test_a_reload_heals_at_once(fake: Any) -> None:
    _, folder = fake()
    with client_of(folder, limits=Limits(stuck_s=0.4)) as client:
        worker = client.app.state.equipoise.runs.get(None).worker  # type: ignore[attr-defined]
        worker.abandon("said the test")
        assert client.get("/health").json()["status"] in {"failing", "ready"}
        assert client.post("/runs/run/reload").status_code == 200
        assert client.post("/predict", json={"text": "good"}).status_code == 200
        assert client.get("/health").status_code == 200


def test_a_run_is_loaded_once_at_a_time(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = fake()
    with serving(folder) as (url, server):
        loading, go = threading.Event(), threading.Event()
        runs = server._service.runs
        real = runs._load

        def load(name: str) -> Any:
            loading.set()
            assert go.wait(60)
            return real(name)

        monkeypatch.setattr(runs, "_load", load)
        reload = f"POST /runs/run/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n{CLOSE}\r\n\r\n".encode()
        first: list[bytes] = []
        thread = threading.Thread(target=lambda: first.append(tell(url, reload)))
        thread.start()
        assert loading.wait(60)
        others = in_threads(12, lambda _: tell(url, reload))  # more than there are threads for such work
        assert [status_of(answer) for answer in others] == [409] * 12
        assert all(b"retry-after: 5" in answer for answer in others)
        assert healthy(url)
        go.set()
        thread.join(60)
        assert status_of(first[0]) == 200


def test_a_look_that_fails_is_not_the_last_one(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = fake()
    with serving(folder, limits=Limits(stuck_s=0.2)) as (url, server):
        runs = server._service.runs
        real, calls = runs.heal, []

        def heal() -> Any:
            calls.append(1)
            if len(calls) < 3:
                raise RuntimeError("can't start new thread")
            return real()

        monkeypatch.setattr(runs, "heal", heal)
        runs.get(None).worker.abandon("said the test")
        wait_until(lambda: len(calls) > 3)
        wait_until(lambda: healthy(url))


# The queue and its clients ------------------------------------------------------------------------------------------


def test_in_a_full_house_every_request_is_answered_or_refused_and_counted(fake: Any) -> None:
    _, folder = fake(seconds_per_text=0.002)
    with serving(folder, limits=Limits(waiting_requests=4)) as (url, _):
        warm = figures(url)['equipoise_texts_total{run="run"}']

        def ask(number: int) -> list[tuple[int, bool]]:
            found = []
            for turn in range(10):
                word = "x" * (1 + 10 * number + turn)
                answer = tell(url, post("/predict", body_of(word), CLOSE))
                right = f'"length":{float(len(word))}'.encode() in answer
                found.append((status_of(answer), right or b"retry-after: " in answer))
            return found

        answers = [answer for found in in_threads(16, ask) for answer in found]
        statuses = Counter(status for status, _ in answers)
        assert set(statuses) == {200, 429}, statuses
        assert all(right for _, right in answers)
        settled(url)
        found = figures(url)
        for status in (200, 429):
            assert found[f'equipoise_requests_total{{route="/predict",status="{status}"}}'] == statuses[status]
        assert found["equipoise_rejected_total"] == statuses[429]
        assert found['equipoise_texts_total{run="run"}'] - warm == statuses[200]


@pytest.mark.parametrize("moment", ["in its head", "in its body", "while it waits", "at the model", "in its answer"])
def test_a_client_that_hangs_up_leaves_nothing(fake: Any, moment: str) -> None:
    model, folder = fake()
    whole = post("/predict", body_of("x" * 100))
    with serving(folder) as (url, server):
        for _ in range(5):
            if moment in ("while it waits", "at the model"):
                model.gate.clear()
                model.entered.clear()
            with contextlib.ExitStack() as stack:
                if moment == "while it waits":
                    other = stack.enter_context(dial(url))
                    other.sendall(post("/predict", body_of("other"), CLOSE))
                    assert model.entered.wait(60)
                with dial(url) as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # it goes with a reset
                    cut = {"in its head": 40, "in its body": len(whole) - 50}.get(moment, len(whole))
                    sock.sendall(whole[:cut])
                    if moment == "at the model":
                        assert model.entered.wait(60)
                    elif moment == "while it waits":
                        wait_until(lambda: figures(url)['equipoise_waiting_requests{run="run"}'] == 1)
                    elif moment == "in its answer":
                        assert sock.recv(1)
                if moment == "while it waits":
                    wait_until(lambda: figures(url).get(GONE, 0) >= 1)
                    model.gate.set()
                    assert status_of(rest(other)) == 200
            model.gate.set()
            settled(url)
        assert healthy(url)
        wait_until(lambda: not server.server_state.tasks)
        wait_until(lambda: not server.server_state.connections)
        state = server._service.state
        assert (state.bodies, state.busy) == (0, 0)


def test_an_upload_that_breaks_off_leaves_no_file(fake: Any) -> None:
    with serving(fake()[1]) as (url, server):
        folder = server._service.files._folder
        for _ in range(5):
            with dial(url) as sock:
                sock.sendall(
                    b"POST /files?name=in.csv HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\ntext\n"
                )
                wait_until(lambda: list(folder.iterdir()))
            wait_until(lambda: not list(folder.iterdir()))
        assert not server._service.files._files


# The disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def upload(fake: Any) -> Any:
    with client_of(fake()[1]) as client:
        files = client.app.state.equipoise.files  # type: ignore[attr-defined]
        yield client, files, lambda: client.post("/files?name=in.csv", content=b"text\n" + b"good\n" * 5000)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_is_told_and_nothing_half_is_left(upload: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client, files, send = upload
    real = files.reserve

    def reserve(name: str) -> Any:
        file = real(name)
        file.source.symlink_to("/dev/full")
        return file

    monkeypatch.setattr(files, "reserve", reserve)
    answer = send()
    assert answer.status_code == 507
    assert problem(answer)["what"] == "the file cannot be kept: the disk of the service is full"
    assert answer.headers["retry-after"] == "60"
    assert not list(files._folder.iterdir())
    monkeypatch.setattr(files, "reserve", real)
    assert send().status_code == 202
    assert client.post("/predict", json={"text": "good"}).status_code == 200


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "its result could not be written: the disk of the service is full",
        ),
        (
            OSError(errno.EIO, "Input/output error"),
            "its result could not be written: its folder fails (Input/output error)",
        ),
        (MemoryError(), "the service is short of memory. Split it, or try again later"),
    ],
)
def test_a_disk_that_fails_while_a_table_is_scored(
    upload: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, message: str
) -> None:
    client, files, send = upload
    real, hit = files._predict, []

    def predict(file: Any, model: Any) -> Any:
        if type(model).__name__ == "Lane" and not hit:
            hit.append(1)
            file.result.write_bytes(b"half")
            raise error
        return real(file, model)

    monkeypatch.setattr(files, "_predict", predict)
    id_ = send().json()["id"]
    wait_until(lambda: client.get(f"/files/{id_}").json()["state"] == "failed")
    assert client.get(f"/files/{id_}").json()["error"] == message
    assert client.get(f"/files/{id_}/result").status_code == 409
    wait_until(lambda: not list(files._folder.iterdir()))
    again = send().json()["id"]
    wait_until(lambda: client.get(f"/files/{again}").json()["state"] == "done")


def test_the_folder_of_tables_may_vanish(upload: Any) -> None:
    client, files, send = upload
    id_ = send().json()["id"]
    wait_until(lambda: client.get(f"/files/{id_}").json()["state"] == "done")
    place = files._folder
    shutil.rmtree(place)
    assert client.get(f"/files/{id_}/result").status_code == 404
    answer = send()
    assert answer.status_code == 507
    assert "its folder fails" in problem(answer)["what"]
    assert str(place) not in answer.text
    assert client.post("/predict", json={"text": "good"}).status_code == 200
    place.mkdir(mode=0o700)
    assert send().status_code == 202


def test_no_folder_for_tables_is_one_line(fake: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from equipoise.errors import ServiceError
    from equipoise.serving import create_app

    def none(**_: Any) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", none)
    with pytest.raises(ServiceError, match=r"there is no place for tables \(Permission denied\)\. Set TMPDIR"):
        create_app(fake()[1])


@pytest.mark.parametrize(
    ("part", "status", "length"),
    [("bytes=0-3", 206, 4), ("bytes=5-", 206, None), ("bytes=9999999-", 416, None), ("bytes=5-2", 200, None),
     ("bytes=0-0,2-2", 200, None), ("lines=1", 200, None), ("bytes=-", 200, None), ("bytes=" + "9" * 50 + "-", 200, None)],
)  # fmt: skip
def test_parts_of_a_result(upload: Any, part: str, status: int, length: int | None) -> None:
    client, _, send = upload
    id_ = send().json()["id"]
    wait_until(lambda: client.get(f"/files/{id_}").json()["state"] == "done")
    answer = client.get(f"/files/{id_}/result", headers={"range": part})
    assert answer.status_code == status
    if status == 416:
        assert problem(answer)["where"] == "header Range"
        assert answer.headers["content-range"].startswith("bytes */")
    if length is not None:
        assert len(answer.content) == length


# The run's folder ---------------------------------------------------------------------------------------------------


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def truncate(folder: Path) -> None:
    for path in (folder / "model").iterdir():
        os.truncate(path, path.stat().st_size // 2)


def replace(folder: Path) -> None:
    other = folder.with_name("other")
    other.mkdir()
    (other / "README.md").write_text("something else")
    shutil.rmtree(folder)
    other.rename(folder)


@pytest.mark.parametrize("spoil", [remove, truncate, replace])
def test_what_happens_to_the_folder_does_not_touch_what_is_served(
    trained: eq.Run, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    copy = Path(shutil.copytree(trained.folder, tmp_path / "reviews"))
    with client_of(copy, precision="fp32") as client:
        body = {"texts": ["strong profit", "loss " * 30]}
        before = client.post("/predict", json=body).json()
        why = client.post("/explain", json={"text": "strong profit", "task": "label"}).json()
        spoil(copy)
        for _ in range(2):
            assert client.post("/predict", json=body).json() == before
            assert client.post("/explain", json={"text": "strong profit", "task": "label"}).json() == why
            sent = client.post("/files?name=in.csv", content=b"text\nstrong profit\n")
            id_ = sent.json()["id"]
            wait_until(lambda id_=id_: client.get(f"/files/{id_}").json()["state"] == "done")
            answer = client.post("/runs/reviews/reload")
            assert answer.status_code == 409, answer.text
            assert problem(answer)["how"].startswith(f"The old one goes on (version {before['version']})")


def test_a_folder_that_is_written_to_while_it_is_loaded_is_not_taken(
    trained: eq.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from equipoise.inference import load as real

    copy = Path(shutil.copytree(trained.folder, tmp_path / "reviews"))
    with client_of(copy, precision="fp32") as client:
        before = client.post("/predict", json={"text": "strong profit"}).json()

        def load(folder: Path, **settings: Any) -> Any:
            model = real(folder, **settings)
            (copy / "model" / "config.json").write_text("{}")
            return model

        monkeypatch.setattr("equipoise.inference.load", load)
        answer = client.post("/runs/reviews/reload")
        assert answer.status_code == 409
        assert "was written to while it was read" in problem(answer)["what"]
        assert client.post("/predict", json={"text": "strong profit"}).json() == before


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_no_memory_for_a_new_model_leaves_the_old_one(
    fake: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    _, folder = fake()
    with client_of(folder) as client:

        def load(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr("equipoise.inference.load", load)
        answer = client.post("/runs/run/reload")
        assert answer.status_code == 409
        assert "not enough memory" in problem(answer)["what"]
        assert client.post("/predict", json={"text": "good"}).status_code == 200


# Memory, and the end ------------------------------------------------------------------------------------------------


def test_a_request_that_there_is_no_memory_for_is_told_so(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from equipoise.serving import _bodies as bodies

    def none(*_: Any) -> Any:
        raise MemoryError

    with client_of(fake()[1]) as client:
        with monkeypatch.context() as patch:
            patch.setattr(bodies, "_parsed", none)
            answer = client.post("/predict", json={"text": "good"})
            assert answer.status_code == 503
            assert problem(answer)["what"] == "the service is short of memory"
            assert "retry-after" in answer.headers
        assert client.post("/predict", json={"text": "good"}).status_code == 200


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(__import__("resource"), "prlimit"), reason="limits of another process: Linux only")
def test_a_process_that_may_not_grow_answers_and_goes_on(trained: eq.Run) -> None:
    """The real service with the real model; what it may map is frozen at little more than what it has."""
    import resource

    import psutil

    with command(str(trained.folder), "--precision", "fp32") as (process, url), fresh(url) as client:
        assert client.post("/predict", json={"texts": ["strong profit"] * 50}).status_code == 200
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_AS)
        resource.prlimit(
            process.pid, resource.RLIMIT_AS, (psutil.Process(process.pid).memory_info().vms + (8 << 20), hard)
        )
        statuses: Counter[int] = Counter()

        def ask(number: int) -> None:
            texts = ["profit " * 3_000] * 300  # 6 MB
            with fresh(url) as other:
                answer = other.post("/predict", json={"texts": texts})
            statuses[answer.status_code] += 1
            if answer.status_code >= 500:
                assert set(answer.json()["error"]) == {"what", "where", "how"}

        in_threads(6, ask)
        assert process.poll() is None
        assert sum(statuses.values()) == 6, "somebody got no answer"
        assert set(statuses) <= {200, 429, 500, 503, 504}
        resource.prlimit(process.pid, resource.RLIMIT_AS, (soft, hard))
        assert client.post("/predict", json={"text": "strong profit"}).status_code == 200
        assert client.get("/health").status_code == 200


def test_at_the_end_of_its_time_to_stop_what_waits_is_told_and_not_cut_off(fake: Any) -> None:
    model, folder = fake()
    with serving(folder, limits=Limits(grace_s=0.3)) as (url, server):
        model.gate.clear()
        model.entered.clear()
        answers: list[bytes] = []
        asking = [
            threading.Thread(target=lambda: answers.append(tell(url, post("/predict", body_of("waits")))))
            for _ in range(4)
        ]
        for thread in asking:
            thread.start()
        assert model.entered.wait(60)
        wait_until(lambda: figures(url)["equipoise_requests_in_progress"] == 5)
        server.handle_exit(signal.SIGTERM, None)
        for thread in asking:
            thread.join(60)
        assert [status_of(answer) for answer in answers] == [503] * 4
        assert all(b"the service stops and could not finish it in time" in answer for answer in answers)
        model.gate.set()


def test_under_load_a_stop_answers_all_that_it_accepted(fake: Any) -> None:
    """Clients count what they sent whole and what came back; a request that nobody accepted is refused or finds no one."""
    _, folder = fake(seconds_per_text=0.003)
    with serving(folder) as (url, server):
        accepted: Counter[str] = Counter()
        stop = threading.Event()

        def ask(number: int) -> None:
            while not stop.is_set():
                try:
                    with dial(url) as sock:
                        sock.sendall(post("/predict", body_of("good"), CLOSE))
                        answer = rest(sock)
                except ConnectionError:
                    accepted["nobody there"] += 1
                    return
                accepted[str(status_of(answer))] += 1

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: accepted["200"] > 20)
        before = server._service.measures
        server.handle_exit(signal.SIGTERM, None)
        for thread in threads:
            thread.join(60)
        stop.set()
        counted = {status: before.requests.labels("/predict", status)._value.get() for status in ("200", "503")}
        assert accepted["200"] == counted["200"]
        assert accepted["503"] == counted["503"]
        assert set(accepted) <= {"200", "503", "nobody there", "0"}
        time.sleep(0)
