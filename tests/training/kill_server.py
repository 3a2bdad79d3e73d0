"""A process of its own that trains when it is told to, in children that die by SIGKILL at a chosen moment.

Torch, transformers and what a first training imports are loaded once; each training is a fork of that, so it costs about
a second. Run as a script: one JSON line a job on the standard input, one a result on the standard output.

A job: `recipe` (its file), `output` (the run folder), `fault` (below, or None), `quick` (leave out baselines and pages),
`threads`, `noise` (draw random numbers before), `folder` (the working directory), `overwrite`, `log` (a file for what is
printed), `trace` (a file that gets the changes of files, or None), `processes` (that train it together, over gloo). The
child resumes the run that is there, or else trains.

A fault is a mapping with a `kind`:

    step      dies in the callback `when` (such as on_step_end) at the update `n`
    evaluate  dies in the n-th evaluation while training, when its outputs are computed
    history   dies when `bytes` bytes of the n-th line of the history are written
    file      dies at the n-th change of a file under the run folder, or of its cache, whose words match `match`; with
              `tear` (a seed), a rename leaves what is renamed as a kill on the way would have: files written up to some
              byte of one of them, and no later ones
    time      is killed from outside after `seconds`
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import random
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")


def die() -> None:
    """No handler runs, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


class Watch:
    """Sees every change of files below a folder that Python makes or asks for, through an audit hook.

    What Rust and C++ write below Python is seen when it is renamed or removed.
    """

    def __init__(self, run: Path) -> None:
        self.run, self.pid = run, os.getpid()
        self.roots = (f"{run}{os.sep}", str(run.with_name(f".{run.name}.cache")))
        self.words: list[str] = []
        self.each: Callable[[str, str], None] | None = None
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        # A worker that prepares batches inherits the hook, and is not what is to be killed.
        if event not in CHANGES or os.getpid() != self.pid or (event == "open" and not _writes(args)):
            return
        places = [_place(path, args[1:]) for path in (args[:2] if event == "os.rename" else args[:1])]
        if not places[-1].startswith(self.roots):
            return
        word = " ".join([event, *(os.path.relpath(place, self.run) for place in places)])
        self.words.append(word)
        if self.each is not None:
            self.each(word, places[0])


def _writes(args: tuple[Any, ...]) -> bool:
    path, _, flags = args
    return isinstance(path, str | bytes | os.PathLike) and bool(
        flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    )


def _place(path: Any, rest: tuple[Any, ...]) -> str:
    path = os.fsdecode(path)
    handles = [each for each in rest if isinstance(each, int) and each >= 0]
    if not os.path.isabs(path) and handles:  # how `rmtree` removes: a name, and the folder's handle
        path = os.path.join(os.readlink(f"/proc/self/fd/{handles[-1]}"), path)
    return os.path.abspath(path)


def tear(place: Path, seed: int) -> None:
    """Leaves what was written into a temporary file or folder as a kill at some byte of it would have."""
    draw = random.Random(seed)
    found = [path for path in place.rglob("*") if path.is_file()] if place.is_dir() else [place]
    files = sorted(found, key=lambda path: path.stat().st_mtime_ns)
    last = draw.randrange(len(files))
    os.truncate(files[last], draw.randrange(files[last].stat().st_size + 1))
    for path in files[last + 1 :]:
        path.unlink()


def arm(fault: dict[str, Any], watch: Watch) -> list[Any]:
    """Puts a fault in its place; gives the callbacks that it needs."""
    from transformers import TrainerCallback

    count = 0
    kind, n = fault["kind"], fault.get("n", 1)
    if kind == "step":

        class Die(TrainerCallback):
            pass

        def moment(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == n:
                die()

        setattr(Die, fault["when"], moment)
        return [Die()]
    if kind == "file":

        def each(word: str, place: str) -> None:
            nonlocal count
            count += bool(re.search(fault["match"], word))
            if count < n:
                return
            watch.each = None
            if fault.get("tear") is not None and word.startswith("os.rename"):
                tear(Path(place), fault["tear"])
            die()

        watch.each = each
    elif kind == "evaluate":
        from equipoise.training import MultiTaskTrainer

        judge = MultiTaskTrainer.metrics_of

        def metrics_of(self: Any, *args: Any) -> Any:
            nonlocal count
            count += 1
            if count == n and self.is_in_train:
                die()
            return judge(self, *args)

        MultiTaskTrainer.metrics_of = metrics_of  # type: ignore[method-assign]
    elif kind == "history":
        from equipoise.runs import Run

        append = Run.append_history

        def append_history(self: Run, line: dict[str, Any]) -> None:
            nonlocal count
            count += 1
            before = self.history_file.stat().st_size if self.history_file.exists() else 0
            append(self, line)
            if count == n:
                os.truncate(self.history_file, min(before + fault["bytes"], self.history_file.stat().st_size))
                die()

        Run.append_history = append_history  # type: ignore[method-assign]
    return []


def work(job: dict[str, Any]) -> None:
    """Resumes the run that is there, or else trains."""
    os.chdir(job["folder"])
    import numpy as np
    import torch

    from equipoise.runs import Run
    from equipoise.training import _judge, _pages, resume, train

    if job["threads"] is not None:
        torch.set_num_threads(job["threads"])
    if job["noise"]:
        random.random(), np.random.rand(), torch.rand(3)
    if job["quick"]:
        _judge.fit_baselines = lambda plan: {}
        _pages.write_pages = lambda plan, run: []
    run = Run(Path(job["output"]).resolve())
    watch = Watch(run.folder)
    callbacks = arm(job["fault"], watch) if job["fault"] and job["fault"]["kind"] != "time" else []
    if run.recipe_file.is_file() and not job["overwrite"]:
        resume(run.folder, progress=False, callbacks=callbacks)
    else:
        train(job["recipe"], output=run.folder, overwrite=job["overwrite"], progress=False, callbacks=callbacks)
    if job["trace"] is not None:
        Path(job["trace"]).write_text(json.dumps(watch.words))
    if job.get("modules") is not None:
        Path(job["modules"]).write_text(json.dumps(sorted(sys.modules)))


def ranks(processes: int) -> list[dict[str, str]]:
    """What each process finds in its environment, as torchrun sets it; one process alone finds nothing."""
    if processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    size, place = str(processes), {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sizes = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank), **sizes, **place} for rank in range(processes)]


def child(job: dict[str, Any], environment: dict[str, str]) -> int:
    """A fork that does a job; returns its process id to the parent, and never to itself."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ |= environment
        os.setpgid(0, 0)
        os.fsync = lambda handle: None  # what is written outlives a killed process in any case, and the wait is long
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        work(job)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, seconds: float | None) -> int:
    """The exit status, minus the signal's number where one ended it. Killed after so many seconds."""
    until = None if seconds is None else time.monotonic() + seconds
    while until is not None and time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    if until is not None:
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def load() -> None:
    """Imports what a training needs; starts no thread and computes nothing, so that a fork is safe."""
    import torch

    torch.set_num_threads(1)
    importlib.import_module("equipoise.training")


def load_more(names: list[str]) -> None:
    """Imports what a first training imported on the way."""
    for name in names:
        if name not in sys.modules and not name.startswith(("_", "torch.utils.data._utils")):
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def serve() -> None:
    """Answers jobs until the standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    load()
    children: list[int] = []
    for line in sys.stdin:
        job = json.loads(line)
        gc.freeze()  # else each child's first collection would copy all that was loaded
        started = time.monotonic()
        pids = [child(job, environment) for environment in ranks(job["processes"])]
        children += pids
        fault = job["fault"] or {}
        seconds = fault["seconds"] if fault.get("kind") == "time" else None
        status = next(filter(None, [wait(pid, seconds) for pid in pids]), 0)
        if job.get("modules") is not None and status == 0:
            load_more(json.loads(Path(job["modules"]).read_text()))
        answers.write(json.dumps({"status": status, "seconds": time.monotonic() - started}) + "\n")
        answers.flush()
    for pid in children:  # a killed training's workers look for their parent every few seconds only
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve()
