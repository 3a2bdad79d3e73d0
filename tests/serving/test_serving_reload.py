"""A run loaded anew: the old one answers until the new one stands, and goes on where the new one cannot be loaded."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import serving_fixtures
from conftest import write_table
from serving_helpers import client_of, fresh, in_threads, listening, problem, train_tiny, wait_until

import equipoise as eq
from equipoise.errors import RunError
from equipoise.serving import create_app

fake = serving_fixtures.fake
trained = serving_fixtures.trained


@pytest.fixture
def copied(trained: eq.Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.folder, tmp_path / "reviews"))


def half_written(folder: Path) -> None:
    (folder / "metrics.json").unlink()


def without_weights(folder: Path) -> None:
    (folder / "model" / "model.safetensors").unlink()


def cut_off(folder: Path) -> None:
    weights = folder / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def newer(folder: Path) -> None:
    sidecar = folder / "model" / "multitask.json"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"format_version": 99}))


def no_json(folder: Path) -> None:
    (folder / "model" / "multitask.json").write_text('{"format_version": 1, "tas')


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


BREAKS = [
    (half_written, "is half-written: it has no metrics.json. Its training has not finished"),
    (without_weights, "reviews"),
    (cut_off, "the weights cannot be loaded"),
    (newer, "has format version 99; this Equipoise reads 1. Install a newer Equipoise"),
    (no_json, "cannot be read"),
    (gone, "there is no run folder"),
]


@pytest.mark.parametrize(("spoil", "message"), BREAKS)
def test_a_run_that_cannot_be_loaded_leaves_the_old_one(
    copied: Path, spoil: Callable[[Path], None], message: str
) -> None:
    with client_of(copied) as client:
        before = client.post("/predict", json={"text": "strong profit"}).json()
        spoil(copied)
        response = client.post("/runs/reviews/reload")
        assert response.status_code == 409, response.text
        told = problem(response)
        assert message in told["what"]
        assert told["how"].startswith(f"The old one goes on (version {before['version']})")
        assert str(copied.parent) not in response.text
        assert client.post("/predict", json={"text": "strong profit"}).json() == before


@pytest.mark.parametrize(("spoil", "message"), BREAKS)
def test_such_a_run_is_not_served_in_the_first_place(copied: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(copied)
    with pytest.raises(RunError, match=message):
        create_app(copied)


def test_a_new_training_answers_after_a_reload(
    copied: Path, tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    other = train_tiny(tiny_backbone("bert"), write_table(tmp_path / "table.csv", seed=9), tmp_path / "other", seed=3)
    with client_of(copied, precision="fp32") as client:
        before = client.post("/predict", json={"text": "strong profit"}).json()
        shutil.rmtree(copied)
        shutil.copytree(other.folder, copied)
        reloaded = client.post("/runs/reviews/reload").json()
        assert reloaded == {"run": "reviews", "version": reloaded["version"], "replaced": before["version"]}
        after = client.post("/predict", json={"text": "strong profit"}).json()
        assert after["version"] == reloaded["version"] != before["version"]
        expected = eq.load(other, precision="fp32").predict(["strong profit"])
        assert after["predictions"][0]["polarity"] == pytest.approx(expected["polarity"][0], abs=1e-5)
        assert client.get("/info").json()["runs"][0]["version"] == reloaded["version"]
        assert before["version"] not in client.get("/metrics").text
        assert client.post("/runs/reveiws/reload").status_code == 404


def test_under_load_a_reload_drops_nothing(fake: Any) -> None:
    _, folder = fake(seconds_per_text=0.001)
    with listening(folder) as url, fresh(url) as client:
        stop = threading.Event()

        def reload_often() -> None:
            while not stop.is_set():
                assert client.post("/runs/run/reload").status_code == 200

        reloading = threading.Thread(target=reload_often)
        reloading.start()

        def ask(number: int) -> list[bool]:
            texts = ["x" * (number + 1 + k) for k in range(25)]
            found = [client.post("/predict", json={"texts": [text, text]}) for text in texts]
            return [
                answer.status_code == 200 and answer.json()["predictions"] == [{"length": len(text)}] * 2
                for text, answer in zip(texts, found, strict=True)
            ]

        answers = in_threads(4, ask)
        stop.set()
        reloading.join(60)
        assert [len(found) for found in answers] == [25] * 4
        assert all(all(found) for found in answers)
        assert float(metric(client, 'equipoise_requests_total{route="/runs/{name}/reload",status="200"}')) > 1
        wait_until(lambda: len([t for t in threading.enumerate() if t.name == "equipoise-run"]) == 1)


def metric(client: Any, name: str) -> str:
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
    return lines[name]


def test_a_table_is_finished_by_the_model_that_began_it(fake: Any) -> None:
    _, folder = fake(seconds_per_text=0.001)
    with client_of(folder) as client:
        raw = {"content-type": "text/csv"}
        sent = client.post("/files?name=in.csv", content=b"text\n" + b"row\n" * 3000, headers=raw)
        id_ = sent.json()["id"]
        assert client.post("/runs/run/reload").status_code == 200
        threads = {t.name for t in threading.enumerate() if t.name == "equipoise-run"}
        assert threads == {"equipoise-run"}
        wait_until(lambda: client.get(f"/files/{id_}").json()["state"] == "done")
        assert client.get(f"/files/{id_}/result").text.count("\n") == 3001
        wait_until(lambda: len([t for t in threading.enumerate() if t.name == "equipoise-run"]) == 1)


def test_a_model_that_cannot_predict_is_not_taken(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = fake()
    with client_of(folder) as client:
        good = model.outputs

        def broken(*_: Any) -> Any:
            raise RuntimeError("out of memory")

        # The one that serves is the same object here: it is broken while the new one is tried, and mended after.
        monkeypatch.setattr(model, "outputs", broken)
        response = client.post("/runs/run/reload")
        assert response.status_code == 409
        assert "was loaded but cannot predict: the model failed (RuntimeError)" in problem(response)["what"]
        monkeypatch.setattr(model, "outputs", good)
        assert client.post("/predict", json={"text": "good"}).status_code == 200


def test_an_explanation_is_never_of_other_weights_than_the_prediction(copied: Path) -> None:
    """In bf16 the float32 weights are read when they are first asked for: by then they must be the same."""
    body = {"text": "strong profit", "task": "label"}
    with client_of(copied, precision="bf16") as client:
        assert client.get("/info").json()["runs"][0]["precision"] == "bf16"
        card = copied / "model" / "config.json"
        text = card.read_text()
        card.write_text(text + "\n")
        told = problem(client.post("/explain", json=body))
        assert (
            told["what"] == "the files of 'reviews' have changed since it was loaded. Reload it: /runs/reviews/reload"
        )
        assert client.post("/runs/reviews/reload").status_code == 200
        assert client.post("/explain", json=body).status_code == 200
        cut_off(copied)  # they were read once, and for good
        assert client.post("/explain", json=body).status_code == 200
        assert client.post("/predict", json={"text": "strong profit"}).status_code == 200
