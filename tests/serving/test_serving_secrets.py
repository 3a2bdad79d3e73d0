"""Texts, tokens and addresses of requests: in no log, in no answer of another, in no list of processes."""

from __future__ import annotations

import hmac
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import serving_fixtures
from serving_helpers import client_of, fresh, serving, wait_until
from wire_helpers import post, tell

from equipoise.errors import ServiceError
from equipoise.serving import _guard as guard
from equipoise.serving._traces import trace_of

fake = serving_fixtures.fake

TOKEN = "tok3n-zz"
SECRET = "confidentialwords"


@pytest.mark.parametrize("given", ["", "x", TOKEN[:-1], TOKEN + "x", TOKEN[::-1], "ö" * 30, TOKEN * 50])
def test_the_token_is_compared_in_constant_time(fake: Any, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(guard.hmac, "compare_digest", spy)
    with client_of(fake()[1], token=TOKEN) as client:
        headers = {"authorization": f"Bearer {given}".encode("latin-1")}
        assert client.get("/info", headers=headers).status_code == 401
        assert client.get("/info", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert len(compared) == 2
    for one, other in compared:
        assert len(one) == len(other) == 32  # not even the length of the token tells on
        assert TOKEN.encode() not in other


@pytest.mark.parametrize(
    "twice", ["authorization", "host", "origin", "content-type", "content-length", "content-encoding"]
)
def test_a_header_that_stands_there_twice_is_refused(fake: Any, twice: str) -> None:
    values = {
        "authorization": f"Bearer {TOKEN}", "host": "localhost", "origin": "http://localhost",
        "content-type": "application/json", "content-length": "17", "content-encoding": "identity",
    }  # fmt: skip
    headers = [(name.encode(), value.encode()) for name, value in values.items()]
    with client_of(fake()[1], token=TOKEN) as client:
        assert client.post("/predict", content=b'{"text": "good" }', headers=headers).status_code == 200
        doubled = [*headers, (twice.encode(), values[twice].encode())]
        response = client.post("/predict", content=b'{"text": "good" }', headers=doubled)
        assert response.status_code == 400, response.text
        assert response.json()["error"]["what"] == f"the header {twice} stands there twice"


@pytest.mark.parametrize(
    "origin", ["http://[", "http://[::1", "//", "\xe9", "http://localhost@evil.example", "[" * 2000]
)
def test_an_origin_that_is_none_is_refused(fake: Any, origin: str) -> None:
    with client_of(fake()[1]) as client:
        headers = {"origin": origin.encode("latin-1")}
        assert client.post("/predict", json={"text": "good"}, headers=headers).status_code == 403


@pytest.mark.parametrize("length", ["\xb2", "1" * 5000, "", "0x10"])
def test_a_length_that_is_none_is_no_bug(fake: Any, length: str) -> None:
    with client_of(fake()[1]) as client:
        headers = {"content-type": "application/json", "content-length": length.encode("latin-1")}
        assert client.post("/predict", content=b'{"text": "good"}', headers=headers).status_code in (200, 400, 413)


def test_nothing_of_a_request_is_logged_or_told_to_others(
    fake: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """All loggers at DEBUG, both streams, and every answer that others may read."""
    for name in list(logging.Logger.manager.loggerDict):
        monkeypatch.setattr(logging.getLogger(name), "disabled", False)
    caplog.set_level(logging.DEBUG)
    for name in (
        "uvicorn",
        "uvicorn.error",
        "uvicorn.access",
        "uvicorn.asgi",
        "equipoise",
        "equipoise.serving",
        "asyncio",
    ):
        caplog.set_level(logging.DEBUG, name)
    model, folder = fake()
    good = model.outputs

    def outputs(texts: Any, pairs: Any = None) -> Any:
        if any("fails" in text for text in texts):
            try:
                raise ValueError(f"inner words: {texts}")
            except ValueError as error:
                raise RuntimeError(f"cannot read {texts}") from error
        return good(texts, pairs)

    monkeypatch.setattr(model, "outputs", outputs)
    monkeypatch.setattr(model, "exact", lambda: model)  # so that the explanation goes on, and fails inside
    with serving(folder, token=TOKEN) as (url, server), fresh(url) as client:
        service = server._service
        headers = {
            "authorization": f"Bearer {TOKEN}",
            "x-note": SECRET,
            "cookie": f"session={SECRET}",
            "user-agent": SECRET,
        }
        client.headers.update(headers)
        asked = [
            client.post("/predict", json={"text": SECRET}),
            client.post("/predict", json={"text": f"{SECRET} fails"}),
            client.post("/predict", json={SECRET: SECRET}),
            client.post("/predict", json={"text": SECRET, "run": SECRET}),
            client.post("/predict", content=SECRET.encode(), headers={"content-type": "application/json"}),
            client.post(f"/predict?token={TOKEN}&q={SECRET}", json={"text": SECRET}),
            client.post("/explain", json={"text": SECRET, "task": "length"}),
            client.get(f"/{SECRET}/{TOKEN}"),
            client.get(f"/files/{SECRET}"),
            client.post(f"/runs/{SECRET}/reload"),
            client.get("/info", headers={"authorization": f"Bearer {SECRET}"}),
            client.get("/info", headers={"host": SECRET}),
            client.post("/predict", json={"text": SECRET}, headers={"origin": f"http://{SECRET}"}),
        ]
        assert [answer.status_code for answer in asked] == [
            200, 500, 422, 404, 400, 200, 500, 404, 404, 404, 401, 421, 403,
        ]  # fmt: skip
        for content in (f"text\n{SECRET}\n", f"text\n{SECRET} fails\n", f"{SECRET}\nx\n"):
            sent = client.post(f"/files?name={SECRET}.csv", content=content.encode())
            if sent.status_code == 202:
                id_ = sent.json()["id"]
                wait_until(lambda id_=id_: client.get(f"/files/{id_}").json()["state"] in {"done", "failed"})
        monkeypatch.setattr(service, "run", lambda name: (_ for _ in ()).throw(KeyError(f"{name} {SECRET} {TOKEN}")))
        assert client.post("/predict", json={"text": SECRET, "run": SECRET}).status_code == 500
        tell(url, b"GET /%s HTTP/1.1\r\n%s\r\n\r\n" % (SECRET.encode(), TOKEN.encode()))
        tell(url, post("/predict", SECRET.encode(), f"Authorization: Bearer {TOKEN}", "Connection: close"))
        others = [client.get(path).text for path in ("/info", "/metrics", "/openapi.json", "/health", "/")]
    for answer in [*others, *(answer.text for answer in asked)]:
        assert TOKEN not in answer
    for answer in others:
        assert SECRET not in answer
    streams = capfd.readouterr()
    # The test's own client logs what it sends, too.
    records = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    logged = "\n".join(logging.Formatter().format(record) for record in records)
    logged += streams.out + streams.err + repr([record.__dict__ for record in records])
    assert "POST /predict 200 " in logged
    assert "a model failed" in logged
    assert "ValueError" in logged, "the cause is not told"
    assert "outputs" in logged, "the place is not told"
    assert "a bug at /predict" in logged
    assert SECRET not in logged
    assert TOKEN not in logged


def test_a_trace_has_places_and_kinds_and_no_words() -> None:
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as inner:
            inner.add_note(SECRET)
            raise ValueError(SECRET) from None
    except ValueError as error:
        told = trace_of(error)
    assert "test_a_trace_has_places_and_kinds_and_no_words" in told
    assert "builtins.ValueError (its words are not logged)" in told
    assert "KeyError" not in told.splitlines()[-1]
    assert SECRET not in told


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "holds no token"),
        (b"\n \n", "holds no token"),
        (b"x" * 5000, "more than a token"),
    ],
)
def test_token_files_that_hold_none(tmp_path: Path, content: bytes | None, message: str) -> None:
    from equipoise._cli_serve import _token_of

    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ServiceError, match=message):
        _token_of(file)


def test_answers_of_errors_have_no_words_of_the_body(fake: Any) -> None:
    with client_of(fake()[1]) as client:
        for body in ([SECRET], {"texts": [{"a": SECRET}]}, {"text": {"a": SECRET}}, {"texts": SECRET}, SECRET):
            response = client.post("/predict", content=json.dumps(body), headers={"content-type": "application/json"})
            assert response.status_code == 422
            assert SECRET not in response.text
