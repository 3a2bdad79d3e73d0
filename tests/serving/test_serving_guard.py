"""Who may ask, how much, and how slowly; and what every answer carries."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import serving_fixtures
from serving_helpers import JSON, client_of, fresh, listening, problem
from starlette.testclient import TestClient

from equipoise.serving import Limits
from equipoise.serving import _page as page

fake = serving_fixtures.fake

TOKEN = "s3cret-Token"


@pytest.fixture
def client(fake: Any) -> Iterator[TestClient]:
    with client_of(fake()[1]) as client:
        yield client


@pytest.fixture
def guarded(fake: Any) -> Iterator[TestClient]:
    with client_of(fake()[1], token=TOKEN, hosts=["models.example"]) as client:
        yield client


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("127.0.0.1:1", 200),
        ("127.8.8.8", 200),
        ("[::1]:8000", 200),
        ("LOCALHOST", 200),
        ("models.example", 421),
        ("localhost.models.example", 421),
        ("10.0.0.1", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_a_name_that_was_made_to_point_here_is_refused(client: TestClient, host: str, status: int) -> None:
    response = client.get("/info", headers={"host": host})
    assert response.status_code == status
    if status != 200:
        assert problem(response)["where"] == "header Host"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://localhost", 200),
        ("http://models.example", 403),
        ("null", 403),
        ("http://localhost:1", 403),
    ],
)
def test_pages_of_other_sites_cannot_ask(client: TestClient, origin: str | None, status: int) -> None:
    headers = {} if origin is None else {"origin": origin}
    response = client.post("/predict", json={"text": "good"}, headers=headers)
    assert response.status_code == status
    if status != 200:
        assert problem(response)["where"] == "header Origin"
    assert client.post("/runs/run/reload", headers=headers).status_code == status
    if origin is not None:
        preflight = client.options("/predict", headers={**headers, "access-control-request-method": "POST"})
        assert not [name for name in preflight.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("header", "status", "what"),
    [
        (f"Bearer {TOKEN}", 200, ""),
        (f"bearer {TOKEN}", 200, ""),
        (None, 401, "the service asks for a token"),
        ("Bearer", 401, "the service asks for a token"),
        (f"Bearer {TOKEN}x", 401, "the token is wrong"),
        (f"Bearer {TOKEN[:-1]}", 401, "the token is wrong"),
        (f"Basic {TOKEN}", 401, "the token is wrong"),
        ("Bearer größer", 401, "the token is wrong"),
    ],
)
def test_a_token_opens_everything_but_the_page_and_health(
    guarded: TestClient, header: str | None, status: int, what: str
) -> None:
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    for method, path in (
        ("GET", "/info"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("POST", "/predict"),
        ("POST", "/runs/run/reload"),
    ):
        response = guarded.request(method, path, headers=headers, **({"json": {"text": "a"}} if "pred" in path else {}))
        assert response.status_code == status, path
        if status == 401:
            assert problem(response)["what"] == what
            assert response.headers["www-authenticate"] == "Bearer"
            assert TOKEN not in response.text
    for method, path in (("POST", "/explain"), ("POST", "/files"), ("GET", "/files/x"), ("DELETE", "/files/x")):
        assert (guarded.request(method, path, headers=headers).status_code == 401) == (status == 401), path
    assert guarded.get("/health", headers=headers).status_code == 200


def test_hosts_that_were_named_are_known(guarded: TestClient) -> None:
    assert guarded.get("/health", headers={"host": "Models.Example:443"}).status_code == 200


def test_the_page_is_a_fixed_list_of_files_and_no_request_decides_a_path(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    for name in ("index.html", "page.css", "page.js", "secret.txt"):
        (folder / name).write_text(f"<p>{name}</p>")
    (tmp_path / "outside.html").write_text("outside")
    monkeypatch.setattr(page, "FOLDER", folder)
    home = client.get("/")
    assert home.text == "<p>index.html</p>"
    assert home.headers["content-type"] == "text/html; charset=utf-8"
    policy = home.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert client.get("/page/page.js").headers["content-type"] == "text/javascript; charset=utf-8"
    for path in (
        "/page/secret.txt", "/page/../outside.html", "/page/..%2foutside.html", "/page/%2e%2e/outside.html", "/page/", "/page",
        "//etc/passwd", "/page/index.html%00",
    ):  # fmt: skip
        response = client.get(path)
        assert response.status_code == 404, path
        problem(response)


def test_every_answer_carries_the_headers(client: TestClient) -> None:
    for response in (
        client.get("/info"),
        client.get("/"),
        client.get("/nothing"),
        client.put("/predict"),
        client.post("/predict", content=b"{", headers=JSON),
        client.get("/info", headers={"host": "other"}),
    ):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in response.headers["content-security-policy"]
    assert problem(client.put("/predict"))["where"] == "method"
    assert client.put("/predict").headers["allow"] == "POST"


def test_a_bug_is_500_in_our_shape_and_logged(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = client.app.state.equipoise  # type: ignore[attr-defined]

    def broken() -> None:
        raise ZeroDivisionError("a secret")

    with monkeypatch.context() as patch:
        patch.setattr(service.runs, "all", broken)
        response = client.get("/info")
    assert response.status_code == 500
    assert problem(response)["what"] == "the service failed (ZeroDivisionError)"
    assert "secret" not in response.text
    assert "ZeroDivisionError" in caplog.text
    assert "a secret" not in caplog.text.replace('raise ZeroDivisionError("a secret")', "")
    assert client.get("/health").status_code == 200


def test_the_log_has_one_line_a_request_without_texts_or_tokens(fake: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "equipoise.serving")
    with client_of(fake()[1], token=TOKEN) as client:
        headers = {"authorization": f"Bearer {TOKEN}"}
        client.post("/predict", json={"texts": ["confidential words", "b"]}, headers=headers)
        client.post("/predict?q=confidential", json={"texts": ["confidential", ""]}, headers=headers)
        client.get("/confidential/path", headers={"authorization": "Bearer confidential"})
    lines = [record.getMessage() for record in caplog.records if record.name == "equipoise.serving"]
    assert len(lines) == 3, lines
    assert lines[0].startswith("POST /predict 200 ")
    assert lines[0].endswith(" ms texts=2")
    assert lines[1].startswith("POST /predict 422 ")
    assert lines[2].startswith("GET other 401 ")
    assert "confidential" not in caplog.text
    assert TOKEN not in caplog.text


def test_bodies_that_are_too_big_are_refused_whether_or_not_they_say_so(fake: Any) -> None:
    with listening(fake()[1], limits=Limits(body_bytes=10_000)) as url, fresh(url) as client:
        body = b'{"text": "' + b"x" * 20_000 + b'"}'
        told = problem(client.post("/predict", content=body, headers=JSON))
        assert told == {**told, "what": "the body has 20012 bytes; at most 10000 are taken", "where": "body"}
        pieces = (body[start : start + 1000] for start in range(0, len(body), 1000))
        response = client.post("/predict", content=pieces, headers=JSON)  # chunked, without a length
        assert response.status_code == 413
        assert problem(response)["what"] == "the body has more than 10000 bytes; at most 10000 are taken"
        assert client.post("/predict", json={"text": "good"}).status_code == 200


def test_a_body_that_is_announced_far_too_big_is_not_waited_for(fake: Any) -> None:
    with listening(fake()[1]) as url, raw(url) as sock:
        sock.sendall(head("Content-Length: 99999999999"))
        assert b"413" in reply(sock)


def test_a_body_that_trickles_is_408(fake: Any) -> None:
    with listening(fake()[1], limits=Limits(body_s=0.3)) as url:
        with raw(url) as sock:
            sock.sendall(head("Content-Length: 100") + b'{"text": ')
            answer = reply(sock)
        assert b" 408 " in answer.split(b"\r\n")[0]
        assert b"came too slowly: 9 bytes" in answer
        with fresh(url) as client:
            assert client.post("/predict", json={"text": "good"}).status_code == 200


def test_half_a_body_and_gone(fake: Any) -> None:
    with listening(fake()[1]) as url:
        with raw(url) as sock:
            sock.sendall(head("Content-Length: 100") + b'{"text": ')
        with fresh(url) as client:
            assert client.post("/predict", json={"text": "good"}).status_code == 200


def raw(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=60)


def head(*lines: str) -> bytes:
    first = ("POST /predict HTTP/1.1", "Host: localhost", "Content-Type: application/json", *lines)
    return "\r\n".join(first).encode() + b"\r\n\r\n"


def reply(sock: socket.socket) -> bytes:
    """Everything until the service closes the connection."""
    found = b""
    while chunk := sock.recv(65_536):
        found += chunk
    return found
