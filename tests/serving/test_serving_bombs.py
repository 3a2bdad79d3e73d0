"""Little that unpacks to much, names that point elsewhere: bounded in memory, refused in words, and never on the disk."""

from __future__ import annotations

import gzip
import io
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import serving_fixtures
from serving_helpers import JSON, client_of, problem, serving, wait_until
from starlette.testclient import TestClient
from wire_helpers import dial, figures, growth, post, rest, status_of, tell

from equipoise.serving import Limits
from equipoise.serving import _parquet_check as parquet_check

fake = serving_fixtures.fake

RAW = {"content-type": "application/octet-stream"}
MANY = 8 << 20


@pytest.fixture
def client(fake: Any) -> Iterator[TestClient]:
    with client_of(fake()[1]) as client:
        yield client


# Bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/predict", "/explain", "/files?name=in.csv"])
@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate", "compress", "gzip, identity", "x-unknown"])
def test_packed_bodies_are_not_unpacked(client: TestClient, path: str, coding: str) -> None:
    body = gzip.compress(b'{"text": "' + b"x" * 1_000_000 + b'"}')
    response = client.post(path, content=body, headers={**JSON, "content-encoding": coding})
    assert response.status_code == 415
    assert problem(response)["where"] == "header Content-Encoding"
    assert response.headers["accept-encoding"] == "identity"
    plain = client.post("/predict", content=b'{"text": "good"}', headers={**JSON, "content-encoding": "identity"})
    assert plain.status_code == 200


@pytest.mark.parametrize(
    ("unit", "status"),
    [
        (b"{},", 422),
        (b"[],", 422),
        (b"1,", 422),
        (b'"",', 422),
        (b"[[[[[[[[", 422),
        (b'{"a":', 422),
        (b"[[1,2],3],", 422),
        (b'"\\"', 422),
        (b"\\", 400),
        (b"null,", 422),
    ],
)
def test_a_body_of_very_many_values_costs_little(client: TestClient, unit: bytes, status: int) -> None:
    body = b'{"texts": [' + unit * ((MANY - 100) // len(unit))
    body += b'""]}' if unit.endswith(b",") else b""
    response = None

    def ask() -> None:
        nonlocal response
        response = client.post("/predict", content=body, headers=JSON)

    assert growth(ask) < 150
    assert response is not None
    assert response.status_code == status
    assert problem(response)["where"] == "body"


def test_many_commas_in_texts_are_not_many_values(client: TestClient) -> None:
    words = ['a, [b], {c}, \\" d' * 500] * 100
    assert sum(word.count(",") for word in words) > 65_536
    assert len(client.post("/predict", json={"texts": words}).json()["predictions"]) == 100


def test_bodies_that_are_sent_at_the_same_time_are_bounded_together(fake: Any) -> None:
    with serving(fake()[1], limits=Limits(bodies_bytes=10_000)) as (url, server):
        with dial(url) as first:
            first.sendall(post("/predict", b'{"text": "' + b"x" * 7990, length=9_000))
            wait_until(lambda: server._service.state.bodies == 8_000)
            answer = tell(url, post("/predict", b'{"text": "' + b"y" * 4000 + b'"}', "Connection: close"))
            assert status_of(answer) == 429
            assert b"retry-after: 5" in answer
            assert status_of(tell(url, post("/predict", b'{"text": "good"}', "Connection: close"))) == 200
            first.sendall(b"x" * 998 + b'"}')
            first.settimeout(60)
            assert b"200 OK" in first.recv(65_536)
        wait_until(lambda: server._service.state.bodies == 0)
        assert figures(url)["equipoise_requests_in_progress"] == 1


def test_characters_that_wait_are_bounded(fake: Any) -> None:
    model, folder = fake()
    with serving(folder, limits=Limits(waiting_characters=1_000)) as (url, _):
        model.gate.clear()
        model.entered.clear()
        with dial(url) as first, dial(url) as second:
            first.sendall(post("/predict", b'{"text": "first"}', "Connection: close"))
            assert model.entered.wait(60)
            second.sendall(post("/predict", b'{"text": "%s"}' % (b"x" * 900), "Connection: close"))
            wait_until(lambda: figures(url)['equipoise_waiting_requests{run="run"}'] == 1)
            answer = tell(url, post("/predict", b'{"text": "%s"}' % (b"x" * 200), "Connection: close"))
            assert status_of(answer) == 429
            model.gate.set()
            assert status_of(rest(first)) == status_of(rest(second)) == 200
        assert status_of(tell(url, post("/predict", b'{"text": "%s"}' % (b"x" * 200), "Connection: close"))) == 200


# Tables ------------------------------------------------------------------------------------------------------------


def send(client: Any, name: str, content: bytes) -> Any:
    return client.post("/files", params={"name": name}, content=content, headers=RAW)


def parquet(table: pa.Table, **settings: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", **settings)
    return sink.getvalue()


def one_long_text(rows: int, long: int) -> pa.Table:
    indices = pa.array([0] * rows, pa.int32())
    return pa.table({"text": pa.DictionaryArray.from_arrays(indices, pa.array(["x" * long]))})


def nothings(count: int) -> pa.Table:
    inner = pa.nulls(count, pa.int32())
    lists = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), inner)
    return pa.table({"text": ["a"], "list": lists})


BOMBS = {
    "a long text in every row": lambda: parquet(one_long_text(50_000, 4 << 20), store_schema=False),
    "the same, as categories": lambda: parquet(one_long_text(50_000, 4 << 20)),
    "a page of zeros": lambda: parquet(pa.table({"text": pa.array(["\0" * (900 << 20)], pa.large_string())})),
    "a list of nothings": lambda: parquet(nothings(30_000_000)),
    "too many rows": lambda: parquet(pa.table({"text": pa.array(["a"] * 3_000)})),
}


def test_parquet_bombs_are_found_by_another_process(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service = client.app.state.equipoise  # type: ignore[attr-defined]
    monkeypatch.setattr(service.files, "_limits", Limits(file_rows=2_000))
    for name, make in BOMBS.items():
        if name == "a page of zeros":
            continue  # it takes a gigabyte to make: the slow test's
        if name != "too many rows":
            monkeypatch.setattr(service.files, "_limits", Limits())
        content = make()
        assert len(content) < 1 << 20, name
        answers: list[Any] = []
        assert (
            growth(lambda content=content, answers=answers: answers.append(send(client, "in.parquet", content))) < 100
        ), name
        assert answers[0].status_code == 422, (name, answers[0].text)
        told = problem(answers[0])
        assert told["what"].startswith("in.parquet "), (name, told)
        assert not list(service.files._folder.iterdir())
        monkeypatch.setattr(service.files, "_limits", Limits(file_rows=2_000))


@pytest.mark.slow
def test_a_parquet_page_of_a_gigabyte(client: TestClient) -> None:
    content = BOMBS["a page of zeros"]()
    assert len(content) < 1 << 20
    response = send(client, "in.parquet", content)
    assert response.status_code == 422
    assert "to unpack" in problem(response)["what"] or "unpacked" in problem(response)["what"]


def test_a_parquet_file_that_breaks_its_reader_breaks_another_process(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "breaks.py"
    broken.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(parquet_check, "__file__", str(broken))
    response = send(client, "in.parquet", parquet(pa.table({"text": ["a"]})))
    assert response.status_code == 422
    assert problem(response)["what"] == "in.parquet cannot be unpacked within bounds of memory and time"
    broken.write_text("while True: pass\n")
    monkeypatch.setattr(parquet_check, "CLOCK_S", 0.2)
    response = send(client, "in.parquet", parquet(pa.table({"text": ["a"]})))
    assert problem(response)["what"] == "in.parquet takes more than 0.2 seconds to unpack"


@pytest.mark.parametrize(("where", "what"), [(40, "is broken after row "), (-8, "is not a parquet file (")])
def test_what_the_other_process_cannot_read_ours_does_not_open(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, where: int, what: str
) -> None:
    content = bytearray(parquet(pa.table({"text": [f"{n} profits rose" for n in range(2000)]})))
    content[where : where + 4] = bytes(4)
    monkeypatch.setattr("equipoise.data._readers.open_parquet", lambda *args, **kwargs: pytest.fail("it was opened"))
    response = send(client, "in.parquet", bytes(content))
    assert response.status_code == 422
    assert problem(response)["what"].startswith(f"in.parquet {what}"), response.text
    assert "equipoise-" not in response.text  # no path of the service


def test_the_token_is_not_given_to_that_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EQUIPOISE_TOKEN", "s3cret")
    spy = tmp_path / "spy.py"
    spy.write_text("import json, os\nprint(json.dumps({'refused': str('EQUIPOISE_TOKEN' in os.environ)}))\n")
    monkeypatch.setattr(parquet_check, "__file__", str(spy))
    with pytest.raises(parquet_check.TooMuch, match=r"^False$"):
        parquet_check.rows_of("any", 1)


def archive() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("in.csv", "text\n" + "x\n" * 1_000_000)
    return sink.getvalue()


@pytest.mark.parametrize(
    "name", ["in.zip", "in.csv.gz", "in.csv.zip", "in.gz", "in.csv.zst", "in.csv.bz2", "in.parquet.gz"]
)
def test_packed_tables_are_not_unpacked(client: TestClient, name: str) -> None:
    for content in (archive(), gzip.compress(b"text\n" + b"x\n" * 1_000_000)):
        response = send(client, name, content)
        assert response.status_code == 415
        plain = send(client, "in.csv", content)  # by another name it is a text file, and read as what it is
        assert plain.status_code == 422
        assert "Unpack it" in problem(plain)["what"] or "end with .gz" in problem(plain)["what"]
    assert not list(client.app.state.equipoise.files._folder.iterdir())  # type: ignore[attr-defined]


def test_a_text_in_a_table_is_bounded_like_one_in_a_request(client: TestClient) -> None:
    id_ = send(client, "in.csv", b"text\ngood\n" + b"x" * 60_000 + b"\n").json()["id"]
    wait_until(lambda: client.get(f"/files/{id_}").json()["state"] == "done")
    assert client.get(f"/files/{id_}").json()["bad"] == 1
    assert "column 'text' has 60000 characters, at most 50000 are taken" in client.get(f"/files/{id_}/result").text


# Names -------------------------------------------------------------------------------------------------------------

MARK = "zzmarkzz"
NAMES = [
    f"../../../tmp/{MARK}.csv", f"/etc/{MARK}.csv", f"..\\..\\{MARK}.csv", f"C:\\{MARK}.csv", f"{MARK}\0.csv", f"\0/{MARK}.csv",
    f"CON.{MARK}.csv", f"file:///{MARK}.csv", f"hub:{MARK}.csv", f"~/{MARK}.csv", f"${{HOME}}/{MARK}.csv", f"-rf {MARK}.csv",
    f".{MARK}.csv", f"{MARK}\r\nSet-Cookie: a=b.csv", f"{MARK}\u202efdp.csv", MARK * 25 + ".csv", f'{MARK}";x=".csv',
]  # fmt: skip


def test_no_name_in_a_request_reaches_the_file_system(fake: Any) -> None:
    """Python tells every file that it opens, lists, renames or removes: none bears a name that a request sent."""
    seen: list[str] = []
    listening = threading.Event()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if listening.is_set() and event.split(".")[0] in {"open", "os", "shutil", "pathlib", "tempfile", "glob"}:
            seen.append(repr(arguments))

    sys.addaudithook(hook)  # for good: hooks cannot be taken away, so it is told when to listen
    with client_of(fake()[1], token=None) as client:
        listening.set()
        try:
            for name in NAMES:
                sent = send(client, name, b"text\ngood\n")
                assert sent.status_code in (202, 422), (name, sent.text)
                if sent.status_code == 202:
                    id_ = sent.json()["id"]
                    wait_until(lambda id_=id_: client.get(f"/files/{id_}").json()["state"] == "done")
                    result = client.get(f"/files/{id_}/result")
                    assert result.status_code == 200
                    shown = result.headers["content-disposition"]
                    assert not any(bad in shown for bad in ("/", "\\", "\r", "\n", "\0", "..", '";x')), shown
                    assert "set-cookie" not in result.headers
                plain = quote(name)
                for path in (
                    f"/files/{plain}", f"/files/{plain}/result", f"/page/{plain}", f"/runs/{plain}/reload", f"/{plain}",
                ):  # fmt: skip
                    for quoted in (path, path.replace("/..", "/%2e%2e").replace("../", "..%2f")):
                        for method in ("GET", "POST", "DELETE"):
                            response = client.request(method, quoted)
                            assert response.status_code in (404, 405), (method, quoted, response.status_code)
                for body in ({"text": "good", "run": name}, {"text": "good", "task": "length", "run": name}):
                    response = client.post("/explain" if "task" in body else "/predict", json=body)
                    assert response.status_code == 404, name
                assert (
                    client.post("/files", params={"name": "in.csv", "run": name}, content=b"text\na\n").status_code
                    == 404
                )
        finally:
            listening.clear()
    assert seen, "the hook heard nothing"
    assert not [event for event in seen if MARK in event]
