"""What the tests of predictions over many files share: a small run, inputs, and how results are compared."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import write_table

import equipoise as eq
from equipoise.inference import Model, predict_file


def trained(backbone: Path, folder: Path) -> eq.Run:
    """A run of two tasks, after two steps."""
    recipe = {
        "model": {"backbone": str(backbone), "max_length": 24},
        "data": {"train": str(write_table(folder / "table.csv")), "validation": None},
        "tasks": {
            "polarity": {"type": "regression", "column": "score", "range": [-1, 1]},
            "label": {"type": "classification"},
        },
        "training": {"max_steps": 2, "precision": "fp32"},
    }
    return eq.train(recipe, output=folder / "run", progress=False)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The manifest's whole lines, without the header."""
    path = folder / "_manifest.jsonl"
    whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in whole[1:]]


def assert_as_by_itself(model: Model, source: Path, output: Path, folder: Path, *, batch_rows: int = 4096) -> None:
    """An output is to the bit what `predict_file` makes of that file alone."""
    alone = folder / f"alone-{output.name}"
    predict_file(model, source, alone, batch_rows=batch_rows)
    assert _content(output) == _content(alone), output.name


def _content(path: Path) -> bytes:
    """Of a gzip file what is in it: its header tells the time."""
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """`equipoise predict` as a process of its own, in a folder."""
    script = Path(sys.executable).with_name("equipoise")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [str(script), "predict", *arguments],
        cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(what: Callable[[], Any], process: subprocess.Popen[bytes] | None = None, seconds: float = 300) -> Any:
    """What a function gives, as soon as it gives something."""
    until = time.monotonic() + seconds
    while not (found := what()):
        if process is not None and process.poll() is not None:
            raise AssertionError(f"it ended: {process.communicate()[1].decode()}")
        assert time.monotonic() < until, "it never came"
        time.sleep(0.005)
    return found
