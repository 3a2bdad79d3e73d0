"""Whole tables over HTTP: taken, scored between requests, bounded, given back as `predict_file` would write them."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import serving_fixtures
from conftest import write_table
from serving_helpers import client_of, fresh, listening, problem, wait_until
from starlette.testclient import TestClient

import equipoise as eq
from equipoise.serving import Limits
from equipoise.serving._answers import Told

fake = serving_fixtures.fake
trained = serving_fixtures.trained

RAW = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def client(trained: eq.Run) -> Iterator[TestClient]:
    with client_of(trained, precision="fp32") as client:
        yield client


def send(client: Any, name: str, content: bytes, **query: str) -> Any:
    return client.post("/files", params={"name": name, **query}, content=content, headers=RAW)


def finished(client: Any, id_: str) -> dict[str, Any]:
    """Its last state."""
    found: dict[str, Any] = {}

    def done() -> bool:
        found.update(client.get(f"/files/{id_}").json())
        return found["state"] in {"done", "failed"}

    wait_until(done)
    Told.model_validate(found)
    return found


def folder_of(client: TestClient) -> Path:
    return client.app.state.equipoise.files._folder  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_comes_back_as_predict_file_writes_it(
    client: TestClient, trained: eq.Run, tmp_path: Path, kind: str
) -> None:
    rows = list(csv.DictReader(io.StringIO(write_table(tmp_path / "table.csv", rows=2500, seed=5).read_text())))
    source = tmp_path / f"in.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), source)
    elif kind == "jsonl":
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with source.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    sent = send(client, f"weird näme/{source.name}", source.read_bytes())
    assert sent.status_code == 202, sent.text
    id_ = sent.json()["id"]
    assert sent.headers["location"] == f"/files/{id_}"
    assert finished(client, id_) == {"state": "done", "rows_done": 2500, "rows_total": 2500, "bad": 0, "run": "reviews"}
    result = client.get(f"/files/{id_}/result")
    assert result.headers["content-disposition"] == f'attachment; filename="in-predicted.{kind}"'
    eq.predict_file(eq.load(trained, precision="fp32"), source, tmp_path / f"out.{kind}")
    (tmp_path / f"got.{kind}").write_bytes(result.content)
    found, expected = (table_of(tmp_path / f"{name}.{kind}") for name in ("got", "out"))
    assert list(found) == list(expected)
    for name, column in expected.items():
        if name in {"polarity"} or "/" in name.removeprefix("predicted/"):
            assert [float(x) for x in found[name]] == pytest.approx([float(x) for x in column], abs=1e-5)
        else:
            assert found[name] == column, name
    assert client.delete(f"/files/{id_}").status_code == 204
    assert client.get(f"/files/{id_}").status_code == 404
    assert not list(folder_of(client).glob(f"{id_}*"))


def table_of(path: Path) -> dict[str, list[Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pydict()
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        rows = list(csv.DictReader(io.StringIO(path.read_text(), newline=""), delimiter=delimiter))
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_bad_rows_stay_and_are_counted(client: TestClient) -> None:
    id_ = send(client, "in.csv", b"id,text\n1,strong profit\n2,\n3\n").json()["id"]
    told = finished(client, id_)
    assert told == {"state": "done", "rows_done": 3, "rows_total": 3, "bad": 2, "run": "reviews"}
    rows = list(csv.DictReader(io.StringIO(client.get(f"/files/{id_}/result").text)))
    assert [row["error"] for row in rows] == ["", "column 'text' is empty", "has 1 cell, the header has 2"]


@pytest.mark.parametrize(
    ("name", "content", "status", "what"),
    [
        ("in.csv", b"", 422, "in.csv is empty"),
        ("in.csv", b"id,text\n", 422, "in.csv has columns (id, text) but no rows"),
        ("in.parquet", b"", 422, "in.parquet is empty"),
        (
            "in.csv",
            b"headline,score\nprofit,1\n",
            422,
            "in.csv has no column 'text'. The model reads text; columns: head",
        ),
        ("in.csv", bytes(range(256)) * 50, 422, "in.csv"),
        ("in.csv", b"\x89PNG\r\n\x1a\n" + bytes(1000), 422, "in.csv"),
        ("in.jsonl", bytes(range(128, 256)) * 50, 422, "in.jsonl"),
        ("in.parquet", b"PAR1" + bytes(1000), 422, "in.parquet is not a parquet file ("),
        ("in.csv", "text\ngrößer\n".encode("utf-16"), 422, "in.csv"),
        ("in.xlsx", b"text\nprofit\n", 415, "the file is of no kind that can be read"),
        ("in.csv.gz", b"text\nprofit\n", 415, "the file is of no kind that can be read"),
        ("csv", b"text\nprofit\n", 415, "the file is of no kind that can be read"),
        ("../../../etc/in.csv", b"", 422, "in.csv is empty"),
    ],
)
def test_what_is_no_table_is_refused_at_once(
    client: TestClient, name: str, content: bytes, status: int, what: str
) -> None:
    before = set(folder_of(client).iterdir())
    response = send(client, name, content)
    assert response.status_code == status, response.text
    assert problem(response)["what"].startswith(what), response.text
    assert str(folder_of(client)) not in response.text
    assert set(folder_of(client).iterdir()) == before, "something is left of it"


def test_a_request_without_a_name_or_with_an_unknown_run(client: TestClient) -> None:
    response = client.post("/files", content=b"text\nprofit\n", headers=RAW)
    assert response.status_code == 422
    assert problem(response)["where"] == "query name"
    response = send(client, "in.csv", b"text\nprofit\n", run="reveiws")
    assert response.status_code == 404
    assert "Did you mean 'reviews'?" in problem(response)["how"]
    assert client.get("/files/unknown").status_code == 404
    assert client.get("/files/unknown/result").status_code == 404
    assert client.delete("/files/unknown").status_code == 404


def test_ids_cannot_be_guessed_and_files_are_for_this_user_only(client: TestClient) -> None:
    ids = {send(client, "in.csv", b"text\nprofit\n").json()["id"] for _ in range(5)}
    assert len(ids) == 5
    assert min(map(len, ids)) >= 22  # 128 bits and more
    assert folder_of(client).stat().st_mode & 0o077 == 0


def test_too_big_too_many_rows_and_too_many_files(fake: Any) -> None:
    _, folder = fake()
    with listening(folder, limits=Limits(file_bytes=5000, file_rows=1500, files=2)) as url, fresh(url) as client:
        big = send(client, "in.csv", b"text\n" + b"profit\n" * 1000)
        assert big.status_code == 413
        assert problem(big)["how"] == "Split the file."
        long = send(client, "in.csv", b"text\n" + b"a\n" * 2000).json()["id"]
        assert finished(client, long)["error"] == "in.csv has more than 1500 rows. Split it"
        refused = client.get(f"/files/{long}/result")
        assert refused.status_code == 409
        assert "more than 1500 rows" in problem(refused)["what"]
        kept = send(client, "in.csv", b"text\na\n").json()["id"]
        finished(client, kept)
        third = send(client, "in.csv", b"text\na\n")
        assert third.status_code == 429
        assert third.headers["retry-after"] == "60"
        assert client.get(f"/files/{kept}/result").status_code == 200
        assert send(client, "in.csv", b"text\na\n").status_code == 202  # what was fetched makes room
        assert client.get(f"/files/{kept}").status_code == 404


def test_files_go_when_their_time_is_up(fake: Any) -> None:
    with client_of(fake()[1], limits=Limits(file_age_s=0.2)) as client:
        id_ = send(client, "in.csv", b"text\na\n").json()["id"]
        wait_until(lambda: client.get(f"/files/{id_}").status_code == 404)
        assert not list(folder_of(client).iterdir())
        place = folder_of(client)
    assert not place.exists()


def test_while_a_table_is_scored_requests_go_between_its_slices(fake: Any) -> None:
    model, folder = fake(seconds_per_text=0.001)
    with listening(folder) as url, fresh(url) as client:
        id_ = send(client, "in.csv", b"text\n" + b"row of a table\n" * 5000).json()["id"]
        wait_until(lambda: client.get(f"/files/{id_}").json()["state"] == "running")
        for number in range(10):
            assert client.post("/predict", json={"text": f"request {number}"}).status_code == 200
        told = client.get(f"/files/{id_}").json()
        assert told["state"] == "running", "the requests waited for the table"
        early = client.get(f"/files/{id_}/result")
        assert early.status_code == 409
        assert problem(early)["what"] == "the file is not done"
        assert finished(client, id_)["rows_done"] == 5000
        positions = [n for n, batch in enumerate(model.batches) if batch[0].startswith("request")]
        rows = [n for n, batch in enumerate(model.batches) if batch[0].startswith("row")]
        assert rows[0] < positions[0] < positions[-1] < rows[-1]
        assert len(model.threads) == 1


def test_a_table_that_is_not_wanted_any_more_stops(fake: Any) -> None:
    model, folder = fake(seconds_per_text=0.01)
    with client_of(folder) as client:
        id_ = send(client, "in.csv", b"text\n" + b"row\n" * 50_000).json()["id"]
        wait_until(lambda: client.get(f"/files/{id_}").json()["state"] == "running")
        assert client.delete(f"/files/{id_}").status_code == 204
        assert client.get(f"/files/{id_}").status_code == 404
        assert client.post("/predict", json={"text": "a"}).status_code == 200
        wait_until(lambda: not list(folder_of(client).iterdir()))
        count = len(model.batches)
        time.sleep(0.3)
        assert len(model.batches) <= count + 1
        assert sum(map(len, model.batches)) < 5000


def test_a_model_that_fails_at_a_table(fake: Any) -> None:
    _, folder = fake()
    with client_of(folder) as client:
        id_ = send(client, "in.csv", b"text\ngood\npoison\n").json()["id"]
        assert finished(client, id_)["error"] == "the model failed (RuntimeError)"
        assert finished(client, send(client, "in.csv", b"text\ngood\n").json()["id"])["state"] == "done"


def test_an_upload_that_breaks_off_leaves_nothing(fake: Any) -> None:
    import socket

    _, folder = fake()
    with listening(folder) as url, fresh(url) as client:
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as sock:
            sock.sendall(
                b"POST /files?name=in.csv HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\ntext\nprofit\n"
            )
            wait_until(lambda: "equipoise_requests_in_progress 2.0" in client.get("/metrics").text)
        gone = 'equipoise_requests_total{route="/files",status="499"} 1.0'
        wait_until(lambda: gone in client.get("/metrics").text)
        assert client.get("/health").status_code == 200
