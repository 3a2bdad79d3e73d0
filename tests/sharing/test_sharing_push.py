"""A push sends the model and its card, byte by byte, and nothing else; what goes wrong is one line without the token."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import write_table
from hub_stand_in import READER, TOKEN, Hub, Repository, running_hub
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import close_session
from typer.testing import CliRunner

import equipoise as eq
from equipoise.errors import RunError
from equipoise.training import train


@pytest.fixture(scope="module")
def trained(tiny_backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> eq.Run:
    folder = tmp_path_factory.mktemp("pushed")
    recipe = {
        "model": {"backbone": str(tiny_backbone("bert")), "max_length": 24},
        "data": {"train": str(write_table(folder / "table.csv")), "validation": 0.2},
        "tasks": {
            "polarity": {"type": "regression", "column": "score", "range": [-1, 1]},
            "label": {"type": "classification"},
        },
        "training": {"max_steps": 2, "precision": "fp32", "keep_checkpoints": True},
    }
    return train(recipe, output=folder / "reviews", progress=False)


@pytest.fixture
def run(trained: eq.Run, tmp_path: Path) -> eq.Run:
    return eq.Run(Path(shutil.copytree(trained.folder, tmp_path / "reviews")))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, and a library that was loaded with `HF_ENDPOINT` set to it."""
    with running_hub() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in speaks LFS
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found
        close_session()


def model_files(run: eq.Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.model_folder.iterdir()}


# What arrives --------------------------------------------------------------------------------------------------------


def test_model_and_card_arrive_and_nothing_else(run: eq.Run, hub: Hub) -> None:
    assert run.checkpoints()
    assert (run.folder / "predictions" / "validation.parquet").exists()
    done = eq.push(run, "someone/reviews")
    arrived = hub.files("someone/reviews")
    assert arrived.keys() == model_files(run).keys() | {"README.md"}
    assert set(done.files) == set(arrived)
    for name, content in model_files(run).items():
        if name != "multitask.json":
            assert arrived[name] == content, name
    assert arrived["README.md"] == run.card_file.read_bytes().replace(b"OWNER/NAME", b"someone/reviews")
    card = ModelCard(arrived["README.md"].decode())
    assert 'snapshot_download("someone/reviews")' in card.text
    assert card.data.eval_results
    assert done.bytes == sum(map(len, arrived.values()))
    assert (done.private, done.url) == (True, f"{hub.url}/someone/reviews")
    assert hub.repositories["someone/reviews"].private
    assert [one["summary"] for one in hub.repositories["someone/reviews"].commits] == [
        f"Push reviews, trained with Equipoise {eq.__version__}"
    ]


def test_no_place_of_this_machine_goes_along(run: eq.Run, hub: Hub, tmp_path: Path) -> None:
    eq.push(run, "someone/reviews")
    arrived = hub.files("someone/reviews")
    ours = json.loads(run.tasks_file.read_text())
    assert Path(ours["backbone"]).is_absolute()
    assert json.loads(arrived["multitask.json"]) == ours | {"backbone": Path(ours["backbone"]).name}
    for name, content in arrived.items():
        if not name.endswith(".safetensors"):
            assert str(tmp_path.parent.parent).encode() not in content, name


def test_what_arrived_predicts_as_the_run_does(run: eq.Run, hub: Hub, tmp_path: Path) -> None:
    eq.push(run, "someone/reviews")
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name, content in hub.files("someone/reviews").items():
        (folder / name).write_bytes(content)
    texts = ["strong profit", "loss"]
    assert eq.load(folder).predict(texts).equals(eq.load(run).predict(texts))
    from transformers import AutoModelForSequenceClassification

    assert AutoModelForSequenceClassification.from_pretrained(folder).config.num_labels == 4


def test_the_report_goes_only_when_asked_for(run: eq.Run, hub: Hub) -> None:
    run.report_file.write_text("<html>texts</html>")
    eq.push(run, "someone/reviews")
    assert "report.html" not in hub.files("someone/reviews")
    eq.push(run, "someone/reviews", with_report=True)
    assert hub.files("someone/reviews")["report.html"] == b"<html>texts</html>"
    # It would tell of another model.
    assert eq.push(run, "someone/reviews").removed == ("report.html",)
    assert "report.html" not in hub.files("someone/reviews")
    run.report_file.unlink()
    with pytest.raises(RunError, match=r"report\.html is missing\. Make it with: equipoise report"):
        eq.push(run, "someone/reviews", with_report=True)


def test_a_later_push_leaves_nothing_of_another_model_and_all_of_the_owners(run: eq.Run, hub: Hub) -> None:
    theirs = {".gitattributes": b"x", "LICENSE": b"mine", "notes.txt": b"n", "onnx/model.safetensors": b"o"}
    stale = {"model.private.safetensors": b"old", "adapter_config.json": b"{}", "config.json": b"old"}
    hub.repositories["someone/reviews"] = Repository(True, {"main": theirs | stale})
    done = eq.push(run, "someone/reviews")
    assert done.removed == ("adapter_config.json", "model.private.safetensors")
    arrived = hub.files("someone/reviews")
    assert arrived.keys() == model_files(run).keys() | {"README.md"} | theirs.keys()
    assert arrived["config.json"] == model_files(run)["config.json"]


def test_a_card_that_was_edited_is_sent_as_it_stands(run: eq.Run, hub: Hub) -> None:
    run.card_file.write_text(run.card_file.read_text().replace("# reviews", "# My own words"))
    eq.push(run, "someone/reviews")
    assert b"# My own words" in hub.files("someone/reviews")["README.md"]
    run.card_file.unlink()  # a run of an earlier version
    eq.push(run, "someone/reviews")
    assert b"# reviews" in hub.files("someone/reviews")["README.md"]


def test_only_what_a_model_is_made_of_goes(run: eq.Run, hub: Hub) -> None:
    for name in ("training_args.bin", "notes.py", ".hidden.json", "README.md"):
        (run.model_folder / name).write_text("not ours")
    (run.model_folder / "onnx").mkdir()
    done = eq.push(run, "someone/reviews")
    assert done.left_out == (".hidden.json", "README.md", "notes.py", "onnx/", "training_args.bin")
    assert not set(done.left_out) & (hub.files("someone/reviews").keys() - {"README.md"})
    assert b"not ours" not in hub.files("someone/reviews")["README.md"]


def test_branch_message_and_the_hubs_own_warning(run: eq.Run, hub: Hub) -> None:
    hub.metadata_warning = "no license\nwas given"
    done = eq.push(run, "someone/reviews", branch="second", message="Better labels")
    assert not hub.files("someone/reviews")
    assert "model.safetensors" in hub.files("someone/reviews", "second")
    assert hub.repositories["someone/reviews"].commits[0] | {"description": ""} == {
        "summary": "Better labels",
        "description": "",
        "branch": "second",
    }
    assert done.url.endswith("/someone/reviews/tree/second")
    assert done.notes == ("Warnings while validating metadata in README.md: - no license was given",)
    eq.push(run, "someone/reviews", branch="second")  # which is there by now
    assert len(hub.repositories["someone/reviews"].commits) == 2


def test_who_may_see_it_is_never_left_to_chance(run: eq.Run, hub: Hub) -> None:
    eq.push(run, "someone/open", public=True)
    assert not hub.repositories["someone/open"].private
    before = list(hub.requests)
    with pytest.raises(RunError, match=r"someone/open exists and is public, so everybody would see.*--public"):
        eq.push(run, "someone/open")
    eq.push(run, "someone/closed")
    with pytest.raises(RunError, match=r"someone/closed exists and is private"):
        eq.push(run, "someone/closed", public=True)
    assert len([one for one in hub.requests[len(before) :] if "commit" in one]) == 1


# An adapter ----------------------------------------------------------------------------------------------------------


def test_an_adapter_goes_where_others_have_its_backbone(run: eq.Run, hub: Hub) -> None:
    (run.model_folder / "model.safetensors").rename(run.model_folder / "adapter_model.safetensors")
    adapter = run.model_folder / "adapter_config.json"
    adapter.write_text(json.dumps({"r": 2, "base_model_name_or_path": "/somewhere/site-packages/model"}))
    with pytest.raises(
        RunError, match=r"the model is an adapter on '/.*', a folder that others don't have.*merge: true"
    ):
        eq.push(run, "someone/reviews")
    sidecar = json.loads(run.tasks_file.read_text())
    run.tasks_file.write_text(json.dumps(sidecar | {"backbone": "minilm"}))
    eq.push(run, "someone/reviews")
    arrived = hub.files("someone/reviews")
    assert json.loads(arrived["adapter_config.json"]) == {
        "r": 2,
        "base_model_name_or_path": "sentence-transformers/all-MiniLM-L6-v2",
    }
    assert json.loads(arrived["multitask.json"])["backbone"] == "minilm"


# What goes wrong -----------------------------------------------------------------------------------------------------


def test_without_a_token_it_says_where_to_get_one(
    run: eq.Run, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(RunError, match=r"no token of the hub was found\. Log in with: hf auth login, or set HF_TOKEN"):
        eq.push(run, "someone/reviews")
    assert not hub.requests


@pytest.mark.parametrize(
    ("token", "line"),
    [
        ("hf_wrong", r"the hub refuses the token \(401\)\. Log in with: hf auth login, or set HF_TOKEN"),
        (
            READER,
            r"no right to write to someone/reviews \(403: You don't have the rights.*\)\. Use a token that may write",
        ),
    ],
)
def test_a_token_that_does_not_do_is_told_and_not_shown(
    run: eq.Run, hub: Hub, token: str, line: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(RunError, match=line) as told:
        eq.push(run, "someone/reviews", token=token)
    assert "\n" not in str(told.value)
    assert hub.tokens == {f"Bearer {token}"}  # it was sent, so it could have been shown
    out, err = capfd.readouterr()
    assert token not in str(told.value) + caplog.text + out + err
    assert told.value.__cause__ is None
    assert told.value.__suppress_context__


@pytest.mark.parametrize(
    ("part", "status", "line"),
    [
        ("/commit/", 503, r"the hub has failed \(503\)\. Push again later"),
        ("/commit/", 409, r"was changed meanwhile \(409\)\. Push again"),
        ("/commit/", 413, r"the hub answered 413: told to fail for someone/reviews"),
        ("/preupload/", 429, r"asks to slow down \(429\)"),
        ("/upload/", 403, r"no right to write to someone/reviews \(403"),
        ("/validate-yaml", 400, r"Invalid metadata in README\.md"),
        ("/branch/", 400, r"the hub answered 400: told to fail"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    run: eq.Run, hub: Hub, part: str, status: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the library's tries
    hub.fail[part] = status
    with pytest.raises(RunError, match=line) as told:
        eq.push(run, "someone/reviews", branch="b")
    assert str(told.value).startswith("push: ")
    assert "\n" not in str(told.value)
    assert not hub.files("someone/reviews")  # all or nothing


@pytest.mark.parametrize(
    "name",
    ["reviews", "a/b/c", "https://huggingface.co/a/b", "a/b c", "a/", "/b", "", "a/..", "a/b--c", "a/b.git", "ä/b"],
)
def test_a_bad_name_is_told_before_anything_is_sent(run: eq.Run, hub: Hub, name: str) -> None:
    with pytest.raises(RunError, match=r"is no name of a repository\. Write OWNER/NAME"):
        eq.push(run, name)
    assert not hub.requests


def test_what_is_no_finished_run_is_told(run: eq.Run, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run folder"):
        eq.push(tmp_path / "nowhere", "a/b")
    with pytest.raises(RunError, match=r"holds no trained model\. Is it a run\?"):
        eq.push(run.folder / "predictions", "a/b")
    run.metrics_file.unlink()
    with pytest.raises(RunError, match=r"its training has not finished"):
        eq.push(run, "a/b")
    assert not hub.requests


def test_offline_and_out_of_reach(run: eq.Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RunError, match=r"push: HF_HUB_OFFLINE is set, so nothing is sent"):
        eq.push(run, "someone/reviews")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens here
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(
            RunError, match=r"push: http://127\.0\.0\.1:\d+ cannot be reached \(.*refused.*\)\. Look at"
        ):
            eq.push(run, "someone/reviews")
    assert not hub.requests


# The command line ----------------------------------------------------------------------------------------------------


def command(hub: Hub, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`equipoise push` in a process of its own, with the settings that a user has: environment variables."""
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    settings = {**os.environ, "PYTHONWARNINGS": "error", **settings, **environment}
    return subprocess.run(
        [sys.executable, "-m", "equipoise.cli", "push", *arguments],
        capture_output=True, text=True, env=settings, timeout=300, check=False,
    )  # fmt: skip


def test_the_command_prints_where_it_is(run: eq.Run) -> None:
    with running_hub() as hub:
        done = command(hub, str(run.folder), "someone/reviews", "--public", "--message", "First")
        assert (done.returncode, done.stdout) == (0, f"{hub.url}/someone/reviews\n"), done.stderr
        assert " MB, public: config.json, model.safetensors" in done.stderr
        assert not hub.repositories["someone/reviews"].private
        assert hub.files("someone/reviews")["model.safetensors"] == model_files(run)["model.safetensors"]
        failed = command(hub, str(run.folder), "someone/reviews", "--debug", HF_TOKEN="hf_wrong")
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].startswith("error: push: the hub refuses the token (401)")
    assert "hf_wrong" not in failed.stdout + failed.stderr


def test_an_error_is_one_line_and_exit_code_two(run: eq.Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from equipoise import cli

    found = CliRunner().invoke(cli.app, ["push", str(run.folder), "nobody"], standalone_mode=False)
    assert isinstance(found.exception, RunError)
    done = CliRunner().invoke(cli.app, ["push", str(run.folder), "someone/reviews", "--branch", "b"])
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith(f"{hub.url}/someone/reviews/tree/b\n")
    settings: dict[str, Any] = {"args": ["push", "--help"]}
    assert "report.html" in CliRunner().invoke(cli.app, **settings).output
