"""`/predict`, `/explain`, `/info`, `/health`, `/metrics` and what they say to requests that cannot be answered."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import serving_fixtures
from serving_helpers import JSON, FakeModel, client_of, fresh, in_threads, listening, problem, wait_until
from starlette.testclient import TestClient

import equipoise as eq
from equipoise.errors import ServiceError
from equipoise.serving import Limits, create_app
from equipoise.serving._answers import Explanation, Health, Info, PredictResponse

fake = serving_fixtures.fake
trained = serving_fixtures.trained

TEXTS = ["strong profit", "loss " * 30, "the court deal", "market \U0001f4c8 größer", "\x00 bank"]


@pytest.fixture(scope="module")
def client(trained: eq.Run) -> Iterator[TestClient]:
    with client_of({"reviews": trained, "again": trained}, precision="fp32") as client:
        yield client


def same(found: dict[str, Any], model: Any, texts: list[str]) -> None:
    """The service says what the model says in Python."""
    expected = model.records(model.outputs(texts))
    assert len(found["predictions"]) == len(texts)
    for one, other in zip(found["predictions"], expected, strict=True):
        assert one["polarity"] == pytest.approx(other["polarity"], abs=1e-5)
        assert one["label"]["probabilities"] == pytest.approx(other["label"]["probabilities"], abs=1e-5)
        assert one["label"]["value"] == other["label"]["value"]


def test_predictions_are_those_of_python(client: TestClient, trained: eq.Run) -> None:
    model = eq.load(trained, precision="fp32")
    found = client.post("/predict", json={"texts": TEXTS}).json()
    PredictResponse.model_validate(found)
    assert found["run"] == "reviews"
    same(found, model, TEXTS)
    frame = model.predict(TEXTS)
    assert [row["polarity"] for row in found["predictions"]] == pytest.approx(frame["polarity"].tolist(), abs=1e-5)
    one = client.post("/predict", json={"text": TEXTS[0], "run": "again"}).json()
    assert one["run"] == "again"
    assert one["version"] == found["version"]  # the same files
    same(one, model, TEXTS[:1])
    assert client.post("/predict", json={"texts": []}).json()["predictions"] == []


def test_at_once_and_alone_the_answers_are_equal(trained: eq.Run) -> None:
    model = eq.load(trained, precision="fp32")
    with listening(trained, precision="fp32") as url, fresh(url) as client:
        texts = [f"profit {'rise ' * (number % 9)}bank" for number in range(40)]
        answers = in_threads(40, lambda n: client.post("/predict", json={"text": texts[n]}).json())
        for text, answer in zip(texts, answers, strict=True):
            same(answer, model, [text])


@pytest.mark.parametrize(
    ("body", "status", "where", "what"),
    [
        ({"texts": ["good", ""]}, 422, "texts[1]", "the text is empty"),
        ({"texts": ["good", " \n\t"]}, 422, "texts[1]", "the text is empty"),
        ({"text": ""}, 422, "text", "the text is empty"),
        ({"texts": ["good", "x" * 1_000_000]}, 422, "texts[1]", "the text has 1000000 characters; at most 50000"),
        ({"texts": ["good"] * 10_000}, 422, "texts", "the request has 10000 texts; at most 1000"),
        ({"texts": ["good", 3]}, 422, "texts[1]", "it is neither a text nor a pair of texts"),
        ({"texts": ["good", ["a", "b", "c"]]}, 422, "texts[1]", "it is neither a text nor a pair of texts"),
        ({"texts": ["good", ["a", "b"]]}, 422, "texts[1]", "the run reads one text, found a pair"),
        ({"texts": "good"}, 422, "texts", "'texts' must be a list of texts"),
        ({"text": None}, 422, "texts", "there must be 'texts' or 'text', and not both"),
        ({"text": "a", "texts": ["b"]}, 422, "texts", "there must be 'texts' or 'text', and not both"),
        ({"text": 1.5}, 422, "text", "'text' must be a text"),
        ({"text": "a", "nmae": "b"}, 422, "nmae", "unknown key 'nmae'"),
        ({"text": "a", "run": "reveiws"}, 404, "run", "there is no such run"),
        ({"text": "a", "run": 7}, 422, "run", "'run' must be a text"),
        (["good"], 422, "body", "the body is no JSON object"),
        (None, 422, "body", "the body is no JSON object"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    client: TestClient, body: Any, status: int, where: str, what: str
) -> None:
    response = client.post("/predict", content=json.dumps(body), headers=JSON)
    assert response.status_code == status, response.text
    told = problem(response)
    assert told["where"] == where
    assert what in told["what"]


def test_an_unknown_run_is_told_the_nearest(client: TestClient) -> None:
    response = client.post("/predict", json={"text": "a", "run": "reveiws"})
    assert problem(response)["how"] == "Did you mean 'reviews'? Runs: reviews, again."


@pytest.mark.parametrize(
    ("content", "status", "what"),
    [
        (b"{", 400, "the body is no JSON: EOF while parsing"),
        (b"", 400, "the body is no JSON: EOF while parsing"),
        (b'{"text": "a",}', 400, "the body is no JSON: trailing comma"),
        (b'{"text": NaN}', 422, "'text' must be a text"),
        (b"text=good", 400, "the body is no JSON"),
        ('{"text": "größer"}'.encode("latin-1"), 400, "the body is not UTF-8: byte 12 is wrong"),
        ('{"text": "good"}'.encode("utf-16"), 400, "the body is not UTF-8"),
        (b'{"text": "\\ud800"}', 400, "the body is no JSON"),  # half a character
        (b'{"texts": ' + b"[" * 60_000 + b"]" * 60_000 + b"}", 400, "recursion limit"),
        (b'{"texts": ' + b"[" * 150_000 + b"]" * 150_000 + b"}", 422, "more than 65536 values"),
        (b'{"text": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001, 400, "recursion limit"),
        (b'{"text": ' + b"9" * 100_000 + b"}", 400, "out of range"),
    ],
)
def test_no_json_or_another_encoding(client: TestClient, content: bytes, status: int, what: str) -> None:
    response = client.post("/predict", content=content, headers=JSON)
    assert response.status_code == status, response.text
    assert what in problem(response)["what"]


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
)
def test_json_must_be_declared(client: TestClient, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    response = client.post("/predict", content=b'{"text": "good"}', headers=headers)
    assert response.status_code == 415
    assert problem(response)["where"] == "header Content-Type"
    declared = client.post(
        "/predict", content=b'{"text": "good"}', headers={"content-type": "Application/JSON; charset=UTF-8"}
    )
    assert declared.status_code == 200


def test_pairs(fake: Any) -> None:
    _, folder = fake(text=("text", "target"))
    with client_of(folder) as client:
        found = client.post("/predict", json={"texts": [["profit", "bank"], ["loss", "oil"]]})
        assert [row["length"] for row in found.json()["predictions"]] == [6, 4]
        alone = client.post("/predict", json={"texts": [["profit", "bank"], "loss"]})
        assert problem(alone)["what"] == "the run reads pairs (text, target), found a single text"
        empty = client.post("/predict", json={"text": ["profit", " "]})
        assert problem(empty) == {**problem(empty), "what": "the text (target) is empty", "where": "text"}


def test_explanations(client: TestClient) -> None:
    found = client.post("/explain", json={"text": "strong profit", "task": "label"})
    assert found.status_code == 200, found.text
    Explanation.model_validate(found.json())
    assert [word["text"] for word in found.json()["words"]] == ["strong", "profit"]
    target = client.post("/explain", json={"text": "strong profit", "task": "label", "target": "negative"}).json()
    assert target["target"] == "negative"
    for body, where in (
        ({"text": "a", "task": "lable"}, "task"),
        ({"text": "a", "task": "label", "target": "happy"}, "target"),
        ({"text": "a", "task": "polarity", "target": "happy"}, "target"),
        ({"text": "a"}, "task"),
        ({"text": "", "task": "label"}, "text"),
        ({"text": "a" * 5_001, "task": "label"}, "text"),
        ({"text": "a", "task": "label", "run": "none"}, "run"),
    ):
        response = client.post("/explain", json=body)
        assert response.status_code == (404 if where == "run" else 422), response.text
        assert problem(response)["where"] == where
    assert "polarity, label, topic" in problem(client.post("/explain", json={"text": "a", "task": "x"}))["how"]


def test_info_tells_the_tasks_and_no_place_on_this_machine(client: TestClient, trained: eq.Run) -> None:
    response = client.get("/info")
    info = Info.model_validate(response.json())
    assert (info.default, [run.name for run in info.runs]) == ("reviews", ["reviews", "again"])
    run = info.runs[0]
    assert [(task.name, task.kind, task.range, task.labels) for task in run.tasks] == [
        ("polarity", "regression", (-1, 1), None),
        ("label", "classification", None, ["negative", "neutral", "positive"]),
        ("topic", "classification", None, ["money", "work"]),
    ]
    measured = trained.metrics["splits"]["validation"]["polarity"]["mse"]
    assert run.metrics["polarity"].model_dump() == {"split": "validation", "metric": "mse", "value": measured}
    assert info.limits["texts_per_request"] == 1000
    assert str(trained.folder) not in response.text
    assert str(Path.home()) not in response.text
    assert Health.model_validate(client.get("/health").json()).status == "ready"


def test_metrics_count_and_nothing_of_a_request_becomes_a_label(client: TestClient) -> None:
    before = client.get("/metrics").text.count("equipoise_requests_total")
    for n in range(30):
        assert client.get(f"/no/such/{n}").status_code == 404
        assert client.get(f"/files/{n}").status_code == 404
        assert client.post(f"/runs/{n}/reload").status_code == 404
    client.post("/predict", json={"texts": ["good"] * 7})
    text = client.get("/metrics").text
    assert text.count("equipoise_requests_total") <= before + 5
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(lines['equipoise_requests_total{route="other",status="404"}']) >= 30
    assert float(lines['equipoise_texts_total{run="reviews"}']) >= 7
    assert float(lines['equipoise_waiting_texts{run="reviews"}']) == 0
    version = client.get("/info").json()["runs"][0]["version"]
    assert float(lines[f'equipoise_model{{run="reviews",version="{version}"}}']) == 1


def test_openapi_has_examples_that_work_and_no_page_with_outside_scripts(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    examples = schema["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]["examples"]
    assert client.post("/predict", json=examples[0]).status_code == 200
    assert {"/predict", "/explain", "/info", "/health", "/metrics", "/files", "/runs/{name}/reload"} <= set(
        schema["paths"]
    )
    for path in ("/docs", "/redoc", "/docs/oauth2-redirect"):
        assert client.get(path).status_code == 404


def test_a_full_queue_is_429_and_what_was_taken_is_answered(fake: Any) -> None:
    model, folder = fake()
    with listening(folder, limits=Limits(waiting_requests=3)) as url, fresh(url) as client, occupied(model, client):

        def ask(number: int) -> Any:
            return client.post("/predict", json={"text": "x" * (number + 1)})

        def release() -> None:
            wait_until(lambda: "equipoise_rejected_total 8.0" in client.get("/metrics").text)
            model.gate.set()

        releasing = threading.Thread(target=release)
        releasing.start()
        answers = in_threads(11, ask)  # three wait, eight are refused
        releasing.join(60)
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) == 8
        assert problem(refused[0])["what"] == "too many requests wait"
        assert 1 <= int(refused[0].headers["retry-after"]) <= 60
        for number, answer in enumerate(answers):
            if answer.status_code != 429:
                assert answer.json()["predictions"] == [{"length": number + 1}]


@contextlib.contextmanager
def occupied(model: FakeModel, client: Any) -> Iterator[None]:
    """A request is at the model and its gate is closed; in the end it is open, and that request is answered."""
    model.gate.clear()
    model.entered.clear()
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(client.post("/predict", json={"text": "occupied"})))
    asking.start()
    try:
        assert model.entered.wait(60)
        yield
    finally:
        model.gate.set()
        asking.join(60)
    assert answers[0].json()["predictions"] == [{"length": 8}]


def test_a_failing_model_is_500_without_its_words_and_the_service_goes_on(fake: Any) -> None:
    _, folder = fake()
    with client_of(folder) as client:
        response = client.post("/predict", json={"texts": ["good", "poison"]})
        assert response.status_code == 500
        assert problem(response)["what"] == "the model failed (RuntimeError)"
        assert "secret" not in response.text
        assert client.post("/predict", json={"text": "good"}).status_code == 200


def test_an_answer_that_takes_too_long_is_504_and_its_work_is_dropped(fake: Any) -> None:
    model, folder = fake()
    with client_of(folder, limits=Limits(answer_s=0.3)) as client:
        model.gate.clear()
        model.entered.clear()
        assert client.post("/predict", json={"text": "first"}).status_code == 504  # at the model
        response = client.post("/predict", json={"text": "second"})  # waits behind it
        assert response.status_code == 504
        assert "longer than 0.3 s" in problem(response)["what"]
        model.gate.set()
        assert client.post("/predict", json={"text": "third"}).status_code == 200
        assert model.batches[1:] == [["first"], ["third"]]  # behind the first prediction at loading


def test_a_client_that_hangs_up_hurts_nobody(fake: Any) -> None:
    model, folder = fake()
    body = b'{"text": "gone"}'
    lines = (
        "POST /predict HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    with listening(folder) as url, fresh(url) as client:
        with occupied(model, client):
            address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
            leavers = [socket.create_connection(address) for _ in range(5)]
            for leaver in leavers:
                leaver.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            wait_until(lambda: 'equipoise_waiting_requests{run="run"} 5.0' in client.get("/metrics").text)
            for leaver in leavers:
                leaver.close()
            gone = 'equipoise_requests_total{route="/predict",status="499"} 5.0'
            wait_until(lambda: gone in client.get("/metrics").text)
        assert client.post("/predict", json={"text": "stays"}).json()["predictions"] == [{"length": 5}]
        assert not [batch for batch in model.batches if "gone" in batch]


def test_names_of_runs(trained: eq.Run, fake: Any) -> None:
    with pytest.raises(ServiceError, match=r"two runs are called 'reviews'\. Give one another name: NAME="):
        create_app([trained, trained.folder])
    with pytest.raises(ServiceError, match="cannot be called 'a/b'"):
        create_app({"a/b": trained})
    with pytest.raises(ServiceError, match="there is no run to serve"):
        create_app([])
    model: FakeModel
    model, folder = fake("other")
    with client_of([trained, folder]) as client:
        assert client.post("/predict", json={"text": "good", "run": "other"}).json()["predictions"] == [{"length": 4}]
        assert client.post("/predict", json={"text": "good"}).json()["run"] == "reviews"
    assert len(model.batches) == 2
