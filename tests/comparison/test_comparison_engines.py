"""Jobs in turn and on Ray: same results, failures that stay with their job, and nothing left behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import engine_jobs
import psutil
import pytest

from equipoise import clusters
from equipoise.comparison._engines import in_turn, on_ray
from equipoise.errors import RecipeError, RunError

NUMBERS = [((name, 0), {"number": number}) for number, name in enumerate("abcde")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """One cluster for all tests here, started as `on_ray` starts its own. The tests find it running, as a user's."""
    pytest.importorskip("ray")  # it marks the environment when it is imported, so that comes first
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where the workers find engine_jobs
        with clusters.cluster(2, 2) as ray:
            yield ray
        assert not ray.is_initialized()
    left = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    assert left == {name: value for name, value in environment.items() if name != "PYTEST_CURRENT_TEST"}
    assert signal.getsignal(signal.SIGTERM) is handler


def collected(engine: Any, jobs: Any, work: Any, **settings: int) -> dict[Any, dict[str, Any]]:
    results: dict[Any, dict[str, Any]] = {}

    def done(job: Any, result: dict[str, Any]) -> None:
        assert job not in results
        results[job] = result

    engine(jobs, work, done, **settings)
    return results


# In turn -------------------------------------------------------------------------------------------------------------


def test_in_turn_keeps_the_order_and_this_process() -> None:
    results = collected(in_turn, NUMBERS, engine_jobs.told)
    assert [*results] == [job for job, _ in NUMBERS]
    assert [result["doubled"] for result in results.values()] == [0, 2, 4, 6, 8]
    assert {result["process"] for result in results.values()} == {os.getpid()}


def test_in_turn_tells_of_a_job_before_it_takes_the_next() -> None:
    events: list[str] = []

    def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
        for name in ("a", "b"):
            events.append(f"take {name}")
            yield name, {"way": "well"}

    in_turn(jobs(), engine_jobs.troubled, lambda job, result: events.append(f"done {job}"))
    assert events == ["take a", "done a", "take b", "done b"]


def test_what_a_user_can_mend_fails_one_job_and_a_bug_ends_all() -> None:
    results = collected(in_turn, [("a", {"way": "data"}), ("b", {"way": "well"})], engine_jobs.troubled)
    assert results["a"] == {"status": "failed", "reason": "data.csv:3:\\n no label"}
    assert results["b"] == {"way": "well"}
    with pytest.raises(ZeroDivisionError):
        collected(in_turn, [("a", {"way": "bug"})], engine_jobs.troubled)


def test_only_plain_data_passes() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        collected(in_turn, [("a", {"way": Path()})], engine_jobs.troubled)
    with pytest.raises(TypeError, match="not JSON serializable"):
        collected(in_turn, [("a", {"way": "object"})], engine_jobs.troubled)


# On Ray --------------------------------------------------------------------------------------------------------------


def test_ray_gives_the_same_in_other_processes_with_the_threads_asked_for(cluster: Any) -> None:
    results = collected(on_ray, NUMBERS, engine_jobs.told, workers=2, threads=2)
    assert {job: result["doubled"] for job, result in results.items()} == {
        job: 2 * payload["number"] for job, payload in NUMBERS
    }
    assert os.getpid() not in {result["process"] for result in results.values()}
    assert {(result["threads"], result["omp"]) for result in results.values()} == {(2, "2")}
    assert cluster.is_initialized()  # it was there before, so it stays


def test_a_killed_worker_fails_its_job_and_the_others_go_on(cluster: Any) -> None:
    jobs = [(way, {"way": way}) for way in ("well", "killed", "data", "as well")]
    results = collected(on_ray, jobs, engine_jobs.troubled, workers=1, threads=2)
    assert results["killed"]["status"] == "failed"
    assert "the worker was lost, killed or out of memory" in results["killed"]["reason"]
    assert results["data"] == {"status": "failed", "reason": "data.csv:3:\\n no label"}
    assert results["well"] == {"way": "well"}
    assert results["as well"] == {"way": "as well"}


def test_no_more_jobs_are_taken_than_there_are_workers(cluster: Any, tmp_path: Path) -> None:
    taken: list[int] = []

    def jobs() -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(4):
            taken.append(number)
            yield number, {"folder": str(tmp_path), "number": number, "seconds": 0.2}

    counts: list[int] = []
    atonce: list[int] = []

    def done(job: int, result: dict[str, Any]) -> None:
        counts.append(len(taken) - len(counts))
        atonce.append(result["at_once"])

    on_ray(jobs(), engine_jobs.watched, done, workers=1, threads=2)
    assert counts == [1, 1, 1, 1]
    assert atonce == [1, 1, 1, 1]


def test_without_a_number_the_cluster_is_filled(cluster: Any) -> None:
    assert [clusters.room(cluster, threads) for threads in (1, 2, 3, 4)] == [(0, 4), (0, 2), (0, 1), (0, 1)]


def test_a_bug_in_the_work_ends_all(cluster: Any) -> None:
    with pytest.raises(ZeroDivisionError, match="a bug"):
        collected(on_ray, [("a", {"way": "bug"})], engine_jobs.troubled, workers=1, threads=2)


def test_no_other_machine_can_reach_the_cluster(cluster: Any) -> None:
    here = psutil.Process()
    listening = [
        connection.laddr.ip
        for process in (here, *here.children(recursive=True))
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 3
    assert {address.removeprefix("::ffff:") for address in listening} <= {"127.0.0.1", "::1"}


def test_more_threads_than_any_machine_has(cluster: Any) -> None:
    with pytest.raises(RecipeError, match=r"no machine of the Ray cluster has 64 processors; the largest has 4"):
        collected(on_ray, NUMBERS, engine_jobs.told, workers=1, threads=64)


def test_ctrl_c_stops_what_is_running(cluster: Any, tmp_path: Path) -> None:
    # The last one here: another test would wait for the worker to be replaced.
    def interrupt() -> None:
        until = time.monotonic() + 60
        while not begun.exists() and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    begun = tmp_path / "0.begun"
    jobs = [(0, {"folder": str(tmp_path), "number": 0, "seconds": 100})]
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        collected(on_ray, jobs, engine_jobs.watched, workers=1, threads=2)
    thread.join()
    worker = int(begun.read_text(encoding="utf-8"))
    until = time.monotonic() + 30
    while psutil.pid_exists(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not psutil.pid_exists(worker)
    assert not begun.with_suffix(".over").exists()


# Without a cluster ---------------------------------------------------------------------------------------------------


def fake_ray(monkeypatch: pytest.MonkeyPatch, *, gpus: int = 0, fails: Exception | None = None) -> list[Any]:
    calls: list[Any] = []

    def init(**settings: Any) -> None:
        os.environ["RAY_MARK"] = "left by init"
        calls.append(settings)
        if fails is not None:
            raise fails

    nodes = [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": gpus}, "NodeManagerAddress": "127.0.0.1"}]
    fake = SimpleNamespace(
        is_initialized=lambda: False, init=init, shutdown=lambda: calls.append("shutdown"), nodes=lambda: nodes
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    return calls


def test_a_cluster_of_the_environment_is_joined_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_ray(monkeypatch)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with clusters.cluster(2, 1):
        assert calls[0]["address"] == "auto"
        assert "num_cpus" not in calls[0]
    assert calls[-1] == "shutdown"
    assert "RAY_MARK" not in os.environ
    assert os.environ["RAY_ADDRESS"] == "10.0.0.1:6379"


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ray(monkeypatch, fails=ConnectionError("nobody there\nmore words"))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(RunError, match=r"no Ray cluster at RAY_ADDRESS=10\.0\.0\.1:6379: nobody there$"):
        on_ray(NUMBERS, engine_jobs.told, lambda job, result: None, workers=1, threads=1)


def test_a_job_gets_a_graphics_processor_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ray(monkeypatch, gpus=3)
    assert clusters.room(sys.modules["ray"], 2) == (1, 3)
    assert clusters.room(sys.modules["ray"], 4) == (1, 2)


def test_a_missing_ray_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RecipeError, match=r'pip install "equipoise\[ray\]"'):
        on_ray(NUMBERS, engine_jobs.told, lambda job, result: None, workers=1, threads=1)


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (1, 0), (None, 0)])
def test_less_than_one_of_anything_is_refused(workers: int | None, threads: int) -> None:
    with pytest.raises(RecipeError, match=rf"found workers={workers}, threads={threads}"):
        on_ray(NUMBERS, engine_jobs.told, lambda job, result: None, workers=workers, threads=threads)


def test_work_without_a_name_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="a function of a module"):
        on_ray(NUMBERS, lambda payload: {}, lambda job, result: None, workers=1, threads=1)
