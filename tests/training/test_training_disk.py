"""What a disk, a second process or a clock can do to a training: one clear error, and nothing earlier lost."""

from __future__ import annotations

import contextlib
import errno
import inspect
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from refused_writes import refusing
from stopped_run_folders import Stopped, steps_of, stopped
from transformers import TrainerCallback

from equipoise.errors import RunError
from equipoise.runs import Run
from equipoise.training import resume, train
from equipoise.training._faults import disk_faults
from equipoise.training._lock import locked
from equipoise.training._manifest import condition_of

__all__ = ["stopped"]


def unharmed(run: Run) -> None:
    """Asserts that what stood before a fault stands, and that nothing half done has a final name."""
    assert steps_of(run)[-1] >= 12
    for path in run.checkpoints():
        assert condition_of(path).fault is None
    assert not (run.checkpoint_folder / ".partial").exists()
    if run.metrics_file.exists():
        json.loads(run.metrics_file.read_text())
    assert run.history  # every line of it whole
    data = run.history_file.read_bytes()
    assert data.endswith(b"\n")


# A full disk ---------------------------------------------------------------------------------------------------------


def resume_calls(stopped: Stopped, folder: Path) -> int:
    """How often a resumed run writes."""
    run = stopped.copy(folder)
    with refusing(run.folder) as seen:
        resume(run.folder, progress=False)
    assert len(seen) > 50
    return len(seen)


def refused(stopped: Stopped, folder: Path, first: int, *, more: bool, code: int) -> str | None:
    """Resumes with a disk that refuses, then with one that does not; gives the error, None where only a page was missed."""
    run = stopped.copy(folder)
    told = None
    with refusing(run.folder, first, more=more, code=code) as seen:
        try:
            resume(run.folder, progress=False)
        except RunError as error:
            told = str(error)
    what = f"call {first}, {seen[first]}"
    if told is None:
        assert run.metrics_file.exists(), what
        stopped.same(run)
        run.tidy()  # as the next process that wants to train here does: a read-only disk lets nothing be cleared away
    else:
        assert "\n" not in told
        assert (
            "the disk is full" in told or "cannot be" in told or "can be written" in told
        ) or code != errno.ENOSPC, what
        assert {9, 12} <= set(steps_of(run)) or 15 in steps_of(run), what
        for path in run.checkpoints():
            assert condition_of(path).fault is None, what
        stopped.resumes(run)
    hidden = [path.name for path in run.folder.rglob(".*")]
    assert not hidden, what
    shutil.rmtree(run.folder)
    return told


@pytest.mark.parametrize("share", [0.05, pytest.param(0.2, marks=pytest.mark.slow), 0.4])
def test_fault_the_disk_refuses_a_write(stopped: Stopped, tmp_path: Path, share: float) -> None:
    calls = resume_calls(stopped, tmp_path / "counted")
    told = refused(stopped, tmp_path / "run", int(share * calls), more=False, code=errno.ENOSPC)
    assert told is not None
    assert "equipoise train --resume" in told


@pytest.mark.slow
@pytest.mark.parametrize("more", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("part", range(10))
def test_fault_the_disk_refuses_any_write(
    stopped: Stopped, tmp_path: Path, part: int, more: bool, record_property: Callable[[str, object], None]
) -> None:
    calls = resume_calls(stopped, tmp_path / "counted")
    code = errno.EROFS if more else errno.ENOSPC
    places = range(part, calls, 20 if more else 10)
    record_property("faults", len(places))  # for benchmarks/trust_faults.py
    for first in places:
        refused(stopped, tmp_path / f"run-{first}", first, more=more, code=code)


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A disk in memory with so many bytes."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size + 4096 for path in folder.rglob("*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
@pytest.mark.parametrize(
    "room",
    [
        64,
        pytest.param(128, marks=pytest.mark.slow),
        256,
        *(pytest.param(n, marks=pytest.mark.slow) for n in (192, 320, 384)),
    ],
)
def test_fault_a_small_disk_is_full(stopped: Stopped, tmp_path: Path, room: int) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, size_of(stopped.stopped.folder) + room * 1024):
        run = stopped.copy(disk / "run")
        with pytest.raises(RunError, match=r"the disk is full .*make room|disk.*resume"):
            resume(run.folder, progress=False)
        unharmed(run)
        assert 12 in steps_of(run)
        subprocess.run(["mount", "-o", "remount,size=256m", disk], check=True)
        stopped.resumes(run)
        assert not [path.name for path in run.folder.rglob(".*")]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_fault_a_file_may_not_grow(stopped: Stopped, tmp_path: Path, name: str) -> None:
    # safetensors writes in Rust and torch in C++: neither tells it as Python does.
    run = stopped.copy(tmp_path / "run")
    size = (run.checkpoints()[-1] / name).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, hard))
    try:
        with pytest.raises(RunError, match=r"(larger than|could not be written).*Nothing up to checkpoint-12 is lost"):
            resume(run.folder, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    unharmed(run)
    stopped.resumes(run)


def test_fault_torch_fails_in_the_middle_of_a_file(
    stopped: Stopped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(state: Any, path: str, *args: Any, **kwargs: Any) -> None:
        Path(path).write_bytes(b"PK\x03\x04")
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    run = stopped.copy(tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", half)
        with pytest.raises(
            RunError, match=r"could not be written, and torch does not say why\. Nothing up to checkpoint-12"
        ):
            resume(run.folder, progress=False)
    unharmed(run)
    stopped.resumes(run)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_fault_the_disk_fails_when_it_is_flushed(
    stopped: Stopped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    run = stopped.copy(tmp_path / "run")
    flushed = os.fsync
    calls = []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 12:
            raise OSError(code, os.strerror(code))
        flushed(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(RunError, match=r"the disk (is full|reports an error of its own).*checkpoint-12 is lost"):
            resume(run.folder, progress=False)
    assert len(calls) >= 12
    unharmed(run)
    stopped.resumes(run)


# A folder that cannot be written, or goes away -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission is denied"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EMFILE, "too many files open"),
    ],
)
def test_fault_what_the_system_says_is_told(tmp_path: Path, code: int, words: str) -> None:
    run = Run.create(tmp_path / "run", recipe="tasks: {}\n")
    (run.checkpoint_folder / "checkpoint-40").mkdir(parents=True)
    told = rf"{words}.*Nothing up to checkpoint-40 is lost.*equipoise train --resume"
    with pytest.raises(RunError, match=told), disk_faults(run):
        raise OSError(code, os.strerror(code), str(run.history_file))


def test_what_is_no_fault_of_a_disk_passes(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    for error in (
        ValueError("odd"), BrokenPipeError(errno.EPIPE, "no reader"), FileNotFoundError(errno.ENOENT, "", "/elsewhere"),
        RuntimeError("shapes differ"), OSError("no number"),
    ):  # fmt: skip
        with pytest.raises(type(error)) as caught, disk_faults(run):
            raise error
        assert caught.value is error


AS_NOBODY = """
import importlib.util, os, sys
from pathlib import Path
from equipoise.errors import RunError
from equipoise.runs import Run

spec = importlib.util.spec_from_file_location("lock", sys.argv[2])
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)
os.setgid(65534)
os.setuid(65534)
run = Run(Path(sys.argv[1]))
try:
    with lock.locked(run):
        run.tidy()
        Run.create(run.folder, overwrite=True, recipe="tasks: {}")
except RunError as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming somebody else takes root")
@pytest.mark.parametrize(
    ("closed", "words"),
    [
        ("run", "the folder '.*' cannot be made: Permission"),
        ("above", "nothing can be written beside '.*': Perm"),
    ],
)
def test_fault_another_user_may_not_write(stopped: Stopped, closed: str, words: str) -> None:
    with tempfile.TemporaryDirectory(prefix="equipoise-") as place:
        run = stopped.copy(Path(place) / "run")
        Path(place).chmod(0o777 if closed == "run" else 0o755)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, run.folder, inspect.getfile(inspect.unwrap(locked))],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        assert re.search(words, done.stdout)
        assert done.stdout.count("\n") == 1
        assert {path.relative_to(run.folder) for path in run.folder.rglob("*")} == {
            path.relative_to(stopped.stopped.folder) for path in stopped.stopped.folder.rglob("*")
        }


class Remove(TrainerCallback):
    """Takes the run folder away while it trains."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.step = folder, step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            shutil.rmtree(self.folder)


@pytest.mark.parametrize(
    "step", [pytest.param(13, marks=pytest.mark.slow), 15]
)  # before a line of the history, before a checkpoint
def test_fault_the_folder_is_removed_while_it_trains(stopped: Stopped, tmp_path: Path, step: int) -> None:
    run = stopped.copy(tmp_path / "run")
    with pytest.raises(
        RunError, match=r"is gone: something removed the run folder while it was in use\. Train it anew"
    ):
        resume(run.folder, progress=False, callbacks=[Remove(run.folder, step)])
    assert not run.folder.exists()  # nothing is made in its place
    stopped.same(train(stopped.recipe, output=run.folder, progress=False))


# Two processes -------------------------------------------------------------------------------------------------------

HOLDER = """
import importlib.util, multiprocessing, os, sys, time
from pathlib import Path
from equipoise.runs import Run

# The lock alone: the room around it would load torch.
spec = importlib.util.spec_from_file_location("lock", sys.argv[2])
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)

def live():
    print(os.getpid(), flush=True)  # said by itself: it runs, so it has let go of what a fork inherits
    time.sleep(120)

with lock.locked(Run(Path(sys.argv[1]))):
    multiprocessing.get_context("fork").Process(target=live).start()
    time.sleep(120)
"""


def test_fault_two_processes_on_one_run_folder(stopped: Stopped, tmp_path: Path) -> None:
    run = stopped.copy(tmp_path / "run")
    before = sorted(str(path) for path in run.folder.rglob("*"))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, run.folder, inspect.getfile(inspect.unwrap(locked))],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        told = rf"another process \(pid {holder.pid} on .*\) trains in '.*'\. Wait for it or stop it, or choose another"
        with pytest.raises(RunError, match=told):
            resume(run.folder, progress=False)
        with pytest.raises(RunError, match=told):
            train(stopped.recipe, output=run.folder, overwrite=True, progress=False)
        (tmp_path / "link").symlink_to(run.folder)
        with pytest.raises(RunError, match=told):
            resume(tmp_path / "link", progress=False)
        assert sorted(str(path) for path in run.folder.rglob("*")) == before
        # Killed, it leaves no lock, though a process that it forked (a worker that loads data) lives on.
        holder.kill()
        holder.wait()
        assert run.lock_file.exists()
        os.kill(child, 0)
        stopped.resumes(run)
        assert not run.lock_file.exists()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_a_lock_is_free_again_and_its_file_goes(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    for _ in range(2):
        with locked(run):
            with pytest.raises(RunError, match=rf"another process \(pid {os.getpid()} on "), locked(run):
                pass
            assert run.lock_file.exists()
    assert list(tmp_path.iterdir()) == []


def test_who_finds_a_lock_that_is_just_given_back_does_not_hold_it_too(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with locked(run):
        first = run.lock_file.stat().st_ino
        early = os.open(run.lock_file, os.O_RDWR)  # who opened it now would wait for a file without a name
    with locked(run):
        assert os.fstat(early).st_nlink == 0
        assert run.lock_file.stat().st_ino != first
    os.close(early)


# A clock that goes back ----------------------------------------------------------------------------------------------


def test_fault_the_clock_goes_backwards(stopped: Stopped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stopped.copy(tmp_path / "run")
    real, calls = time.time, []

    def backwards() -> float:
        calls.append(1)
        return real() - 1000.0 * len(calls)

    monkeypatch.setattr(time, "time", backwards)
    resume(run.folder, progress=False)
    monkeypatch.undo()
    assert calls
    rates = [line["samples_per_second"] for line in run.history if "samples_per_second" in line]
    assert len(rates) == 10
    assert all(0 < rate < 1e6 for rate in rates)  # by the clock on the wall, the last ones would be 1e10
    seconds = [line["seconds"] for line in run.history if "seconds" in line]
    assert seconds == sorted(seconds)
    assert run.metrics["training"]["seconds"] > 0
    assert run.metrics["training"]["total_seconds"] > 0
    stopped.same(run)


# Overwriting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 2])
def test_fault_an_overwrite_that_fails_half_way_leaves_the_earlier_run(
    stopped: Stopped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    shutil.copytree(stopped.whole.folder, tmp_path / "run")
    run, moves, moved = Run(tmp_path / "run"), [], os.replace

    def replace(source: Any, target: Any) -> None:
        if Path(target).parent.name == ".replaced.old":
            moves.append(target)
            if len(moves) == at + 1:
                raise OSError(errno.EACCES, "Permission denied", str(source))
        moved(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        with pytest.raises(RunError, match=r"cannot be made: Permission denied"):
            train(stopped.recipe, output=run.folder, overwrite=True, progress=False)
    assert len(moves) == at + 1
    stopped.same(run)
    assert not [path.name for path in run.folder.iterdir() if path.name.startswith(".")]


def test_fault_an_overwrite_that_was_killed_half_way_is_put_back(stopped: Stopped, tmp_path: Path) -> None:
    shutil.copytree(stopped.whole.folder, tmp_path / "run")
    run = Run(tmp_path / "run")
    run.replaced_folder.mkdir()
    for name in ("model", "metrics.json", "history.jsonl"):
        (run.folder / name).rename(run.replaced_folder / name)
    with pytest.raises(RunError, match=r"an --overwrite of the run in '.*' was cut off.*equipoise train --resume"):
        Run.open(run.folder)
    with pytest.raises(RunError, match="is finished"):
        resume(run.folder, progress=False)
    stopped.same(Run.open(run.folder))


@pytest.mark.slow
def test_the_command_line_says_it_in_one_line(stopped: Stopped, tmp_path: Path) -> None:
    run = stopped.copy(tmp_path / "run")
    with locked(run):
        done = subprocess.run(
            [sys.executable, "-m", "equipoise.cli", "train", "--resume", run.folder],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: another process (pid ")
    assert done.stderr.count("\n") == 1
