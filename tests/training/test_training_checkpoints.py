"""A checkpoint is complete or absent; a damaged one is known, named and set aside, and the one before is used."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stopped_run_folders import Stopped, as_before_manifests, flip, manifest, steps_of, stopped
from stopped_runs import comparable
from transformers import TrainerCallback

import equipoise as eq
from equipoise.errors import RunError
from equipoise.models import output_layer
from equipoise.runs import Run
from equipoise.training import resume, train
from equipoise.training._manifest import condition_of, keep_weights_only, seal
from equipoise.training._resumable import find_resumable, latest_whole

__all__ = ["stopped"]


def last(run: Run) -> Path:
    return run.checkpoints()[-1]


def notes(run: Run) -> list[str]:
    return [line["note"] for line in run.history if "note" in line]


# What is written -----------------------------------------------------------------------------------------------------


def test_a_manifest_tells_every_file_by_size_and_checksum(stopped: Stopped) -> None:
    for checkpoint in stopped.stopped.checkpoints():
        data = manifest(checkpoint)
        assert data["format_version"] == 1
        assert data["equipoise"] == eq.__version__
        assert checkpoint.name == f"checkpoint-{data['step']}"
        found = {
            path.relative_to(checkpoint).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in checkpoint.rglob("*")
            if path.is_file() and path.name != "checkpoint.json"
        }
        assert data["files"] == found
        assert data["resumable"] == ("optimizer.pt" in found)
        assert ("rng_state.pth" in found) == ("scheduler.pt" in found) == data["resumable"]


def test_the_latest_two_can_be_resumed_from(stopped: Stopped) -> None:
    found = {path.name: manifest(path)["resumable"] for path in stopped.stopped.checkpoints()}
    assert [name for name, resumable in found.items() if resumable] == ["checkpoint-9", "checkpoint-12"]
    assert not [path.name for path in stopped.stopped.checkpoint_folder.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_as_many_are_kept_as_the_recipe_says(stopped: Stopped, tmp_path: Path) -> None:
    settings = ["training.checkpoints_kept=3", "training.keep_checkpoints=true", "data.validation=null"]
    run = train(stopped.recipe, overrides=settings, output=tmp_path / "run", progress=False)
    assert len(run.checkpoints()) == 3
    assert all(condition_of(path) == condition_of(last(run)) for path in run.checkpoints())
    assert condition_of(last(run)).resumable


def test_weights_only_is_true_at_every_moment(
    stopped: Stopped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped.copy(tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", interrupted)  # killed between the manifest and the files
        with pytest.raises(KeyboardInterrupt):
            keep_weights_only(last(run))
    assert (last(run) / "optimizer.pt").exists()
    condition = condition_of(last(run))
    assert (condition.fault, condition.resumable) == (None, False)
    keep_weights_only(last(run))
    assert not (last(run) / "optimizer.pt").exists()
    assert condition_of(last(run)).fault is None
    assert latest_whole(run) == run.checkpoint_folder / "checkpoint-9"


def interrupted(*args: Any, **kwargs: Any) -> None:
    raise KeyboardInterrupt


# Damage --------------------------------------------------------------------------------------------------------------

DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights cut off": (
        lambda c: os.truncate(c / "model.safetensors", 1000),
        r"model\.safetensors has 1,000 bytes, and had",
    ),
    "a bit turned in the weights": (lambda c: flip(c / "model.safetensors"), r"model\.safetensors has changed"),
    "a bit turned in the optimiser": (lambda c: flip(c / "optimizer.pt"), r"optimizer\.pt has changed"),
    "the optimiser gone": (lambda c: (c / "optimizer.pt").unlink(), r"optimizer\.pt is missing"),
    "random states gone": (lambda c: (c / "rng_state.pth").unlink(), r"rng_state\.pth is missing"),
    "the balancer empty": (lambda c: os.truncate(c / "balancer.safetensors", 0), r"balancer\.safetensors has 0 bytes"),
    "evaluations exchanged": (
        lambda c: (c / "evaluations.json").write_bytes((c.parent / "checkpoint-9" / "evaluations.json").read_bytes()),
        r"evaluations\.json has",
    ),
    "a folder for a file": (
        lambda c: ((c / "scheduler.pt").unlink(), (c / "scheduler.pt").mkdir()),
        r"scheduler\.pt is no plain file",
    ),
    "a link for a file": (
        lambda c: (
            (c / "config.json").rename(c.parent / "config.json"),
            (c / "config.json").symlink_to(c.parent / "config.json"),
        ),
        r"config\.json is no plain file",
    ),
    "the manifest gone": (lambda c: (c / "checkpoint.json").unlink(), r"checkpoint\.json is missing"),
    "the manifest cut off": (lambda c: os.truncate(c / "checkpoint.json", 100), r"checkpoint\.json is no manifest"),
    "the manifest empty": (lambda c: (c / "checkpoint.json").write_text("{}"), r"checkpoint\.json is no manifest"),
    "the manifest a list": (lambda c: (c / "checkpoint.json").write_text("[]"), r"checkpoint\.json is no manifest"),
    "the manifest nested without end": (
        lambda c: (c / "checkpoint.json").write_text("[" * 100_000),
        r"checkpoint\.json is no manifest",
    ),
    "the manifest lists nothing": (
        lambda c: change(c, files={}),
        r"checkpoint\.json is no manifest: ValueError: it lists no evaluations",
    ),
    "the manifest leads elsewhere": (
        lambda c: change(c, files={"../checkpoint-9/config.json": {"bytes": 1, "sha256": ""}}),
        r"a name that leads out of the folder",
    ),
}


def change(checkpoint: Path, **values: Any) -> None:
    (checkpoint / "checkpoint.json").write_text(json.dumps(manifest(checkpoint) | values))


@pytest.mark.parametrize("name", DAMAGES)
def test_fault_damage_is_named_and_set_aside(stopped: Stopped, tmp_path: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    run = stopped.copy(tmp_path / "run")
    damage(last(run))
    before = {path.name: path.lstat().st_size for path in last(run).iterdir()}
    found = find_resumable(run)
    assert found.checkpoint == run.checkpoint_folder / "checkpoint-9"
    (note,) = found.notes
    assert re.search(rf"^checkpoint-12 is damaged \(.*{message}.*\); set aside as checkpoint-12\.damaged$", note)
    assert "\n" not in note
    aside = run.checkpoint_folder / "checkpoint-12.damaged"
    assert {path.name: path.lstat().st_size for path in aside.iterdir()} == before  # nothing of it is lost
    assert steps_of(run)[-1] == 9


def test_every_byte_counts(stopped: Stopped, tmp_path: Path) -> None:
    run = stopped.copy(tmp_path / "run")
    for name, entry in manifest(last(run))["files"].items():
        for at in {0, 1, entry["bytes"] // 3, entry["bytes"] - 1} & set(range(entry["bytes"])):
            flip(last(run) / name, at)
            assert condition_of(last(run)).fault == f"{name} has changed since it was written: another SHA-256"
            flip(last(run) / name, at)
    assert condition_of(last(run)).fault is None


def test_fault_the_run_ends_bit_equal_from_the_checkpoint_before(
    stopped: Stopped, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stopped.copy(tmp_path / "run")
    flip(last(run) / "optimizer.pt")
    stopped.same(resume(run.folder))
    said = "checkpoint-12 is damaged (optimizer.pt has changed since it was written: another SHA-256); set aside as"
    assert f"warning: {said} checkpoint-12.damaged" in capsys.readouterr().out
    (note,) = notes(run)
    assert note.startswith(said)
    assert said.split(" (")[0] in run.report_file.read_text()
    assert not run.checkpoint_folder.exists()  # a finished run needs none


def test_fault_no_checkpoint_is_whole(stopped: Stopped, tmp_path: Path) -> None:
    run = stopped.copy(tmp_path / "run")
    history = run.history
    for path in run.checkpoints():
        flip(path / "model.safetensors")
    told = r"no checkpoint in '.*' is whole, so the run cannot go on: checkpoint-12 is damaged \(.*--overwrite"
    with pytest.raises(RunError, match=told):
        resume(run.folder, progress=False)
    for _ in range(2):  # and never from the start as if there had been none
        with pytest.raises(RunError, match=r"checkpoint-12\.damaged, .* were set aside before\. Train it anew"):
            resume(run.folder, progress=False)
    assert run.history == history
    stopped.same(train(run.recipe_file, output=run.folder, overwrite=True, progress=False))


def test_two_damaged_with_the_same_step_both_stay(stopped: Stopped, tmp_path: Path) -> None:
    run = stopped.copy(tmp_path / "run")
    shutil.copytree(last(run), run.checkpoint_folder / "checkpoint-12.damaged")
    flip(last(run) / "optimizer.pt")
    (note,) = find_resumable(run).notes
    assert note.endswith("set aside as checkpoint-12.damaged-2")


def test_fault_the_best_weights_are_damaged(stopped: Stopped, tmp_path: Path) -> None:
    # Weights that get worse: an early evaluation is the best, and its checkpoint holds weights only when it is damaged.
    settings = [
        "training.learning_rate=0.3",
        "training.epochs=4",
        "training.warmup=0.5",
        "training.select=polarity.mse",
    ]
    run, damaged = Run(tmp_path / "run"), []

    class Damage(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == state.max_steps:
                with torch.no_grad():  # all scores at an end of the range: surely not the best evaluation
                    output_layer(kwargs["model"]).bias.add_(1e4)
                damaged.append([line["step"] for line in run.history if line.get("best")][-1])
                flip(run.checkpoint_folder / f"checkpoint-{damaged[0]}" / "model.safetensors")

    train(stopped.recipe, overrides=settings, output=run.folder, progress=False, callbacks=[Damage()])
    best = run.metrics["training"]["best_step"]
    assert best not in damaged
    (note,) = notes(run)
    assert note == (
        f"the weights of the best evaluation, step {damaged[0]}, are lost: model.safetensors has changed since it was "
        f"written: another SHA-256; kept: the best that is whole, step {best}"
    )
    (line,) = [line for line in run.history if line.get("step") == best and "metrics" in line]
    measured = run.metrics["splits"]["validation"]["polarity"]["mse"]
    assert measured == pytest.approx(line["metrics"]["polarity"]["mse"], rel=1e-4)


# Other versions ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_without_a_manifest_of_the_version_before_is_resumed(stopped: Stopped, tmp_path: Path) -> None:
    run = stopped.copy(tmp_path / "run")
    for path in run.checkpoints():
        as_before_manifests(path)
    stopped.resumes(run)
    assert notes(run) == []


OLD_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights cut off": (lambda c: os.truncate(c / "model.safetensors", 1000), r"model\.safetensors is damaged"),
    "the optimiser cut off": (lambda c: os.truncate(c / "optimizer.pt", 1000), r"optimizer\.pt is damaged"),
    "a bit turned in the optimiser": (lambda c: flip(c / "optimizer.pt"), r"optimizer\.pt is damaged"),
    "a bit turned in random states": (lambda c: flip(c / "rng_state.pth"), r"rng_state\.pth is damaged"),
    "the state cut off": (lambda c: os.truncate(c / "trainer_state.json", 50), r"trainer_state\.json is damaged"),
    "evaluations gone": (lambda c: (c / "evaluations.json").unlink(), r"evaluations\.json is missing"),
    "the balancer gone": (lambda c: (c / "balancer.safetensors").unlink(), r"balancer\.safetensors is missing"),
}


@pytest.mark.parametrize("name", OLD_DAMAGES)
def test_fault_damage_to_a_checkpoint_without_manifest(stopped: Stopped, tmp_path: Path, name: str) -> None:
    damage, message = OLD_DAMAGES[name]
    run = stopped.copy(tmp_path / "run")
    as_before_manifests(last(run))
    damage(last(run))
    found = find_resumable(run)
    assert found.checkpoint == run.checkpoint_folder / "checkpoint-9"
    assert re.search(message, found.notes[0])


def test_a_newer_checkpoint_is_refused_and_left_alone(stopped: Stopped, tmp_path: Path) -> None:
    run = stopped.copy(tmp_path / "run")
    change(last(run), format_version=2, equipoise="7.1")
    with pytest.raises(
        RunError, match=r"newer Equipoise \(7\.1\): checkpoint format 2, and this one .* reads 1\. Install"
    ):
        resume(run.folder, progress=False)
    assert steps_of(run)[-1] == 12


def test_a_newer_recipe_in_the_run_is_refused(stopped: Stopped, tmp_path: Path) -> None:
    run = stopped.copy(tmp_path / "run")
    text = run.recipe_file.read_text()
    assert "format_version: 1\n" in text
    run.recipe_file.write_text(text.replace("format_version: 1\n", "format_version: 2\nnovelty: 3\n"))
    with pytest.raises(RunError, match=r"format_version 2; this Equipoise reads 1\. Install a newer Equipoise"):
        resume(run.folder, progress=False)
    run.recipe_file.write_text(text.replace("format_version: 1\n", ""))  # of the version before
    stopped.resumes(run)


# Code in a checkpoint ------------------------------------------------------------------------------------------------


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_the_bomb_goes_off_where_pickles_are_trusted(tmp_path: Path) -> None:
    torch.save({"state": Bomb(tmp_path / "ran")}, tmp_path / "bomb.pt")
    torch.load(tmp_path / "bomb.pt", weights_only=False)
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize("old", [False, True], ids=["with manifest", "without"])
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_fault_a_planted_pickle_does_not_run(stopped: Stopped, tmp_path: Path, name: str, old: bool) -> None:
    run = stopped.copy(tmp_path / "run")
    checkpoint, sentinel = last(run), tmp_path / "ran"
    torch.save({"state": Bomb(sentinel), "python": Bomb(sentinel)}, checkpoint / name)
    if old:
        as_before_manifests(checkpoint)
    else:
        seal(checkpoint, step=12, resumable=True)  # who can plant a file can write a manifest
    with pytest.raises(
        RunError, match=rf"checkpoint-12/{name} holds more than tensors and numbers, which could run code"
    ):
        resume(run.folder, progress=False)
    assert not sentinel.exists()
    shutil.rmtree(checkpoint)  # as the error says
    assert latest_whole(run) == run.checkpoint_folder / "checkpoint-9"


@pytest.mark.parametrize("old", [False, True], ids=["with manifest", "without"])
@pytest.mark.parametrize("name", ["training_args.bin", "pytorch_model.bin", "adapter_model.bin", "more/x.pkl"])
def test_fault_a_file_that_nobody_here_wrote_is_refused(stopped: Stopped, tmp_path: Path, name: str, old: bool) -> None:
    run = stopped.copy(tmp_path / "run")
    if old:
        as_before_manifests(last(run))
    path = last(run) / name
    path.parent.mkdir(exist_ok=True)
    torch.save({"state": Bomb(tmp_path / "ran")}, path)
    with pytest.raises(RunError, match=rf"holds '{name}', which Equipoise did not write there; nothing was loaded"):
        resume(run.folder, progress=False)
    assert not (tmp_path / "ran").exists()
    assert steps_of(run)[-1] == 12
    path.unlink()
    assert latest_whole(run) == last(run)


def test_a_harmless_file_beside_does_not_matter(stopped: Stopped, tmp_path: Path) -> None:
    run = stopped.copy(tmp_path / "run")
    (last(run) / ".nfs0001").write_text("")
    (last(run) / "notes.txt").write_text("the good one")
    assert latest_whole(run) == last(run)


# History -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tail", [b'{"step": 13, "lo', b"\0" * 100, b"\0\n\xff\n", b'{"step": 13}\n\0\0\n{"step": 14}\n']
)
def test_a_history_that_a_lost_power_supply_damaged_behind_the_checkpoint(
    stopped: Stopped, tmp_path: Path, tail: bytes
) -> None:
    run = stopped.copy(tmp_path / "run")
    expected = [line for line in run.history if line["step"] <= 12]
    with run.history_file.open("ab") as file:
        file.write(tail)
    assert run.truncate_history(12) == len(expected)
    assert comparable(run.history) == comparable(expected)


def test_a_history_that_is_gone_is_said(stopped: Stopped, tmp_path: Path) -> None:
    run = stopped.copy(tmp_path / "run")
    run.history_file.unlink()
    resume(run.folder, progress=False)
    assert notes(run) == ["history.jsonl held no line up to this step: what came before it is lost"]
    assert [line["step"] for line in run.history if "tasks" in line] == [14, 16, 18]
