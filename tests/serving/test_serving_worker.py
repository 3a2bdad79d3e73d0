"""The thread that uses a model: who shares a batch, who goes first, and what one failure does to the others."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from serving_helpers import FakeModel, wait_until

from equipoise.errors import DataError
from equipoise.serving import Limits
from equipoise.serving._worker import Closed, Full, Worker, WorkerFailure


@pytest.fixture
def workers() -> Iterator[Any]:
    made: list[tuple[FakeModel, Worker]] = []

    def make(observe: Any = None, **limits: Any) -> tuple[FakeModel, Worker]:
        model = FakeModel()
        worker = Worker(model, Limits(**limits), observe=observe)  # type: ignore[arg-type]
        made.append((model, worker))
        return model, worker

    yield make
    for model, worker in made:
        model.gate.set()
        worker.close()
        assert worker.join(60)


def busy(model: FakeModel, worker: Worker) -> Future[Any]:
    """Something that the model is at, until its gate opens."""
    model.gate.clear()
    model.entered.clear()
    future = worker.predict([["first"]])
    assert model.entered.wait(60)
    return future


def test_what_comes_while_the_model_is_busy_goes_through_together(workers: Any) -> None:
    seen: list[tuple[int, int]] = []
    model, worker = workers(observe=lambda texts, requests: seen.append((texts, requests)))
    first = busy(model, worker)
    futures = [worker.predict([["x" * n] * n]) for n in (1, 2, 3)]
    assert worker.waiting == (3, 6)
    model.gate.set()
    assert first.result(60) == [{"length": 5.0}]
    assert [future.result(60) for future in futures] == [[{"length": float(n)}] * n for n in (1, 2, 3)]
    assert model.batches == [["first"], ["x", "xx", "xx", "xxx", "xxx", "xxx"]]
    wait_until(lambda: len(seen) == 2)
    assert seen == [(1, 1), (6, 3)]
    assert worker.waiting == (0, 0)
    assert len(model.threads) == 1


def test_a_long_request_lets_others_through_between_its_slices(workers: Any) -> None:
    model, worker = workers(batch_texts=4)
    first = busy(model, worker)
    long, short = worker.predict([[f"{n:02}" for n in range(10)]]), worker.predict([["short"]])
    model.gate.set()
    first.result(60)
    assert len(long.result(60)) == 10
    assert short.done()
    assert model.batches[1:] == [["00", "01", "02", "03"], ["short", "04", "05", "06"], ["07", "08", "09"]]


def test_characters_bound_a_batch_too_and_one_text_always_goes(workers: Any) -> None:
    model, worker = workers(batch_characters=10)
    first = busy(model, worker)
    future = worker.predict([["a" * 50, "b" * 4, "c" * 4, "d" * 4]])
    model.gate.set()
    first.result(60)
    assert [record["length"] for record in future.result(60)] == [50, 4, 4, 4]
    assert [len(batch) for batch in model.batches[1:]] == [1, 2, 1]


def test_one_bad_text_fails_its_own_request_only(workers: Any) -> None:
    model, worker = workers()
    first = busy(model, worker)
    good, bad, also_good = worker.predict([["good"]]), worker.predict([["poison"]]), worker.predict([["fine"]])
    model.gate.set()
    assert first.result(60)
    assert good.result(60) == also_good.result(60) == [{"length": 4.0}]
    with pytest.raises(WorkerFailure, match=r"^the model failed \(RuntimeError\)$"):  # not what it said
        bad.result(60)
    assert worker.predict([["after"]]).result(60) == [{"length": 5.0}]


def test_a_failed_slice_ends_its_request_at_once(workers: Any) -> None:
    model, worker = workers(batch_texts=2)
    future = worker.predict([["poison", "a", "b", "c", "d", "e", "f", "g"]])
    with pytest.raises(WorkerFailure):
        future.result(60)
    assert worker.predict([["after"]]).result(60)
    assert worker.waiting == (0, 0)
    assert sum(map(len, model.batches)) < 8


def test_an_error_of_the_users_keeps_its_words(workers: Any) -> None:
    _, worker = workers()

    def refuse(model: Any) -> None:
        raise DataError("no such task")

    with pytest.raises(DataError, match="no such task"):
        worker.call(refuse).result(60)


def test_beyond_the_bounds_it_says_when_to_come_again(workers: Any) -> None:
    model, worker = workers(waiting_texts=5, waiting_requests=2, waiting_explanations=1)
    first = busy(model, worker)
    second = worker.predict([["a"] * 3])
    with pytest.raises(Full) as full:
        worker.predict([["b"] * 3])
    assert 1 <= full.value.retry_s <= 60
    third = worker.predict([["c"]])
    with pytest.raises(Full):
        worker.predict([["d"]])  # the third request that waits
    call = worker.call(lambda model: "called")
    with pytest.raises(Full):
        worker.call(lambda model: "too many")
    model.gate.set()
    assert [len(future.result(60)) for future in (first, second, third)] == [1, 3, 1]
    assert call.result(60) == "called"


def test_a_request_bigger_than_the_queue_is_taken_when_nothing_waits(workers: Any) -> None:
    _, worker = workers(waiting_texts=5)
    assert len(worker.predict([["a"] * 9]).result(60)) == 9


def test_what_nobody_waits_for_is_not_done(workers: Any) -> None:
    model, worker = workers()
    first = busy(model, worker)
    dropped, kept, call = worker.predict([["dropped"]]), worker.predict([["kept"]]), worker.call(lambda model: 1)
    assert dropped.cancel()
    assert call.cancel()
    model.gate.set()
    assert first.result(60)
    assert kept.result(60)
    assert model.batches == [["first"], ["kept"]]
    assert worker.waiting == (0, 0)


def test_requests_go_before_tables_and_explanations_but_do_not_starve_them(workers: Any) -> None:
    model, worker = workers()
    worker.hold()
    done: list[str] = []
    first = busy(model, worker)
    table = worker.table([["row"] * 3])
    call = worker.call(lambda model: done.append("call"))
    request = worker.predict([["request"]])
    model.gate.set()
    for future in (first, table, call, request):
        future.result(60)
    assert model.batches[:2] == [["first"], ["request"]]
    assert model.batches[2:] == [["row"] * 3]
    assert done == ["call"]
    # While requests keep coming without end, a table comes to its turn.
    model._seconds = 0.02
    table = worker.table([["row"] * 3])
    rounds = 0
    while not table.done():
        worker.predict([["again"]])
        worker.predict([["again"]]).result(60)
        rounds += 1
        assert rounds < 1000
    worker.release()


def test_a_table_is_cut_into_slices_and_comes_back_whole_and_in_order(workers: Any) -> None:
    model, worker = workers(batch_texts=16)
    worker.hold()
    rows = ["x" * (n % 7 + 1) for n in range(100)]
    outputs = worker.table([rows]).result(60)
    assert outputs[:, 0].tolist() == [len(row) for row in rows]
    assert len(model.batches) >= 100 / 16
    worker.release()


def test_closed_it_finishes_what_it_has_and_takes_nothing(workers: Any) -> None:
    model, worker = workers()
    worker.hold()
    first = busy(model, worker)
    second, call = worker.predict([["second"]]), worker.call(lambda model: 7)
    worker.close()
    for attempt in (lambda: worker.predict([["late"]]), lambda: worker.call(len), worker.hold):
        with pytest.raises(Closed):
            attempt()
    model.gate.set()
    assert first.result(60)
    assert second.result(60)
    assert call.result(60) == 7
    assert len(worker.table([["row"]]).result(60)) == 1  # a table that held it may still come
    assert not worker.join(0.05)
    worker.release()
    assert worker.join(60)
    with pytest.raises(Closed):
        worker.table([["row"]])
