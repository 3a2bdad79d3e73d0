"""What a client can do to a connection, from garbage to saying nothing: each is answered or ended, and others are served."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import serving_fixtures
from serving_helpers import FakeModel, in_threads, serving, wait_until
from wire_helpers import GET, closed, dial, figures, healthy, one_answer, post, rest, settled, status_of, tell
from wire_helpers import texts as body_of

from equipoise.serving import Limits
from equipoise.serving import _protocol as protocol

fake = serving_fixtures.fake

QUICK = Limits(head_s=0.4, idle_s=0.4, stalled_s=0.5)


@pytest.fixture
def url(fake: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(protocol, "LOOK_S", 0.05)
    with serving(fake()[1], limits=QUICK) as (url, _):
        yield url


# Slow and silent ones ----------------------------------------------------------------------------------------------


def test_headers_that_trickle_are_ended_while_others_are_served(url: str) -> None:
    def trickle(_: int) -> bytes:
        with dial(url) as sock, contextlib.suppress(ConnectionResetError, BrokenPipeError):
            sock.sendall(GET)
            while True:  # a header that never ends, a byte at a time
                sock.sendall(b"x")
                time.sleep(0.02)
                sock.settimeout(0.001)
                with contextlib.suppress(TimeoutError):
                    if found := sock.recv(4096):
                        return found
                    return b"closed"
        return b"closed"

    answers = in_threads(20, trickle)
    assert healthy(url)
    assert {status_of(answer) for answer in answers} <= {0, 408}
    assert any(b"the headers came too slowly" in answer for answer in answers)
    wait_until(lambda: closed(url, "head") == 20)


def test_who_connects_and_says_nothing_is_closed(url: str) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(dial(url)) for _ in range(10)]
        assert healthy(url)
        assert [rest(sock) for sock in silent] == [b""] * 10
    assert closed(url, "head") == 10


def test_the_second_request_of_a_connection_has_no_more_time_for_its_head(url: str) -> None:
    with dial(url) as sock:
        sock.sendall(GET + b"\r\n")
        assert status_of(one_answer(sock)) == 200
        sock.sendall(GET)
        assert status_of(rest(sock)) == 408
    with dial(url) as sock:  # idle after an answer: closed without a word
        sock.sendall(GET + b"\r\n")
        assert status_of(one_answer(sock)) == 200
        assert rest(sock) == b""


def test_a_body_that_nobody_asked_for_and_that_never_ends(url: str) -> None:
    with dial(url) as sock:
        sock.sendall(GET + b"Content-Length: 100000000\r\n\r\nxxxx")
        assert status_of(one_answer(sock)) == 200

        def ended() -> bool:
            try:
                sock.sendall(b"x")
            except OSError:
                return True
            return False

        wait_until(ended)
    wait_until(lambda: closed(url, "rest") == 1)


def test_who_does_not_read_its_answer_is_cut_off(url: str) -> None:
    rows = b"text\n" + (b"word " * 4000 + b"\n") * 600  # 12 MB: more than the kernel holds for both sides
    head = f"POST /files?name=in.csv HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(rows)}\r\nConnection: close\r\n\r\n"
    answer = tell(url, head.encode() + rows)
    assert status_of(answer) == 202, answer
    id_ = answer.rpartition(b'"id":"')[2].partition(b'"')[0].decode()
    ask = f"GET /files/{id_}%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    wait_until(lambda: b'"done"' in tell(url, (ask % "").encode()))
    with dial(url, receive=4096) as sock:
        sock.sendall((ask % "/result").encode())
        wait_until(lambda: closed(url, "stalled") == 1)
        settled(url)
        assert len(rest(sock)) < len(rows)
    assert len(tell(url, (ask % "/result").encode())) > len(rows)  # who reads gets it whole


def test_a_full_house_closes_who_has_been_silent_longest_and_never_one_that_is_served(
    fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LOOK_S", 0.05)
    model, folder = fake()
    with serving(folder, limits=Limits(connections=4)) as (url, _), contextlib.ExitStack() as stack:
        silent = [stack.enter_context(dial(url)) for _ in range(4)]
        assert healthy(url)
        assert rest(silent[0]) == b""  # the first that came
        wait_until(lambda: closed(url, "evicted") >= 1)
        model.gate.clear()
        busy = [stack.enter_context(dial(url)) for _ in range(4)]
        for sock in busy:
            sock.sendall(post("/predict", body_of("busy"), "Connection: close"))
            time.sleep(0.05)  # one after the other: each takes the place of a silent one
        wait_until(lambda: model.entered.is_set())
        answer = tell(url, GET + b"\r\n")
        assert status_of(answer) == 503
        assert b"retry-after: 1" in answer
        assert b"as many connections as it may" in answer
        model.gate.set()
        assert [status_of(rest(sock)) for sock in busy] == [200] * 4
        wait_until(lambda: healthy(url))


# What is no HTTP, or two things at once -----------------------------------------------------------------------------

HOST = b"Host: localhost\r\n"
PREDICT = b"POST /predict HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\r\n\r\n\r\n", 400),
        (b"garbage\r\n\r\n", 400),
        (bytes(range(256)) * 4, 400),
        (TLS_HELLO, 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/9.9\r\n" + HOST + b"\r\n", 505),
        (b"GET /\r\n\r\n", 400),
        (b"GET /in fo HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"G\x00T / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
        (b"GET /info HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /info HTTP/1.1\r\n" + HOST + b"x: y\r\n" * 200 + b"\r\n", 431),
        (b"GET /info HTTP/1.1\r\n" + HOST + b"x: y\r\n" * 100_000, 431),
        (b"GET /info HTTP/1.1\r\n\r\n", 400),
        (b"GET /info HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET /info HTTP/1.1\r\n" + HOST + b"X : y\r\n\r\n", 400),
        (b"GET /info HTTP/1.1\r\n" + HOST + b" folded\r\n\r\n", 421),
        (b"GET /info HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n", 400),
        (PREDICT + b"Content-Length: -1\r\n\r\n", 400),
        (PREDICT + b"Content-Length: ten\r\n\r\n", 400),
        (PREDICT + b"Content-Length: +5\r\n\r\n12345", 400),
        (PREDICT + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (PREDICT + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345", 400),
        (PREDICT + b"Content-Length: 5, 6\r\n\r\n12345", 400),
        (PREDICT + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (PREDICT + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
        (PREDICT + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (PREDICT + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 501),
        (PREDICT + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
        (PREDICT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (PREDICT + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n", 400),
        (PREDICT + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n", 400),
        (PREDICT + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"x" * 40_000, 431),
        (PREDICT + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}XX", 400),
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_ends(
    fake: Any, running: str, sent: bytes, status: int
) -> None:
    answer = tell(running, sent)
    assert status_of(answer) == status, answer
    assert answer.count(b"HTTP/1.1 ") == 1, "a second request was found in it"
    assert b'{"error":' in answer
    assert b"Traceback" not in answer
    assert healthy(running)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One service for all who only send."""
    folder = tmp_path_factory.mktemp("fake") / "run"
    folder.mkdir()
    (folder / "multitask.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("equipoise.inference.load", lambda *_, **__: FakeModel())
        patch.setattr("equipoise.inference.own_memory", lambda model: None)
        with serving(folder, limits=Limits(head_s=2.0, idle_s=2.0)) as (url, _):
            yield url


def test_http_1_0_is_answered_and_closed(running: str) -> None:
    answer = tell(running, b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert status_of(answer) == 200
    assert status_of(tell(running, b"GET /health HTTP/1.0\r\n\r\n")) == 421  # for nobody we know


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "BREW", "get"])
def test_methods_that_are_none_of_ours(running: str, method: str) -> None:
    answer = tell(running, f"{method} /info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert status_of(answer) == 405, answer
    assert b"\r\nallow: GET\r\n" in answer


def test_many_requests_in_one_breath_are_answered_in_order(running: str) -> None:
    words = ["x" * (n + 1) for n in range(50)]
    last = post("/predict", body_of("last"), "Connection: close")
    answers = tell(running, b"".join(post("/predict", body_of(word)) for word in words) + last)
    found = [part.rpartition(b'"length":')[2].partition(b"}")[0] for part in answers.split(b"HTTP/1.1 200 ")[1:]]
    assert [float(value) for value in found] == [*range(1, 51), 4]


def test_garbage_behind_a_request_does_not_spoil_its_answer(running: str) -> None:
    answers = tell(running, post("/predict", body_of("good")) + b"\x00\x01garbage\r\n\r\n")
    assert status_of(answers) == 200
    assert b'"length":4.0' in answers
    assert b"HTTP/1.1 400 " in answers


def test_a_body_shorter_than_it_said_is_not_answered_as_if_it_were_whole(running: str) -> None:
    with dial(running) as sock:
        sock.sendall(post("/predict", body_of("good"), length=1000))
        sock.shutdown(socket.SHUT_WR)
        assert b'"predictions"' not in rest(sock)
    assert healthy(running)


def test_what_stands_behind_the_length_is_another_request(running: str) -> None:
    inner = b"GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    answers = tell(running, post("/predict", body_of("good")) + inner)
    assert answers.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 421 " in answers  # it is looked at like every other


def test_a_body_is_asked_for_only_where_it_is_wanted(running: str) -> None:
    with dial(running) as sock:
        sock.sendall(post("/predict", b"", "Expect: 100-continue", "Connection: close", length=len(body_of("good"))))
        assert sock.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body_of("good"))
        assert b'"length":4.0' in rest(sock)
    for length, lines, status in ((99_999_999_999, (), 413), (100, ("Content-Encoding: gzip",), 415)):
        with dial(running) as sock:
            sock.sendall(post("/predict", b"", "Expect: 100-continue", *lines, length=length))
            assert status_of(rest(sock)) == status


def test_a_body_in_very_many_pieces_is_refused(running: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head = PREDICT + b"Transfer-Encoding: chunked\r\n\r\n"
    whole = body_of("good")
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in whole) + b"0\r\n\r\n"
    with dial(running) as sock:
        sock.sendall(head + pieces)
        assert status_of(one_answer(sock)) == 200
    monkeypatch.setattr(protocol, "PIECES", 10)
    assert status_of(tell(running, head + pieces)) == 400
    large = body_of("x" * 1000)
    with dial(running) as sock:  # as many pieces, but not so small
        sock.sendall(head + b"".join(b"40\r\n%s\r\n" % large[at : at + 64] for at in range(0, 960, 64)))
        tail = large[960:]
        sock.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(tail), tail))
        assert status_of(one_answer(sock)) == 200


def test_the_service_counts_what_it_refused(running: str) -> None:
    before = closed(running, "malformed")
    tell(running, b"garbage\r\n\r\n")
    assert closed(running, "malformed") == before + 1
    assert figures(running)["equipoise_requests_in_progress"] == 1
