"""Each target: where its inputs come from, what is done with one, and how many are tried."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import fuzz_checks as checks
import fuzz_inputs as inputs
import hypothesis
from fuzz_inputs import SOUND_CSV, SOUND_GZIP, SOUND_SIDECAR, sound_parquet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

__all__ = ["SLOW_TIMES", "TARGETS", "Target", "new_seed", "run_target"]

#: So many times the default number of inputs in a slow run.
SLOW_TIMES = 20


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes:
        examples: inputs of the default run.
        strategy: gives inputs.
        check: does everything with one in a folder, and fails where something is wrong.
        prepare: puts into the folder what the check needs, once.
    """

    examples: int
    strategy: Callable[[], st.SearchStrategy[Any]]
    check: Callable[[Any, Path], None]
    prepare: Callable[[Path], object] = lambda folder: None


def a_run(folder: Path) -> None:
    """A finished run, made without a training."""
    import fake_runs

    fake_runs.write_run(folder / "run", rows={"train": 20, "test": 5}, steps=6)
    (folder / "run" / "model" / "multitask.json").write_text(json.dumps(SOUND_SIDECAR))


RUN_FILES = ["metrics.json", "history.jsonl", "recipe.yaml", "predictions/worst.jsonl", "model/multitask.json"]


def damaged_run_files() -> st.SearchStrategy[Any]:
    """Which file, and how it is changed."""
    return st.tuples(st.sampled_from(RUN_FILES), st.data())


def check_run(value: tuple[str, Any], folder: Path) -> None:
    name, data = value
    path = folder / "run" / name
    before = path.read_bytes()
    if name == "metrics.json" and data.draw(st.booleans()):
        content = checks.as_json(data.draw(inputs.changed(json.loads(before))))
    elif name == "history.jsonl" and data.draw(st.booleans()):
        lines = [json.loads(line) for line in before.splitlines()]
        content = b"".join(checks.as_json(one) + b"\n" for one in data.draw(inputs.changed(lines)))
    else:
        content = data.draw(
            st.one_of(inputs.damaged(before, most=3), st.binary(max_size=40), inputs.json_values.map(checks.as_json))
        )
    checks.run_folder(name, content, folder / "run")


def strategy_of_tables() -> st.SearchStrategy[bytes]:
    return st.one_of(inputs.csv_tables(), inputs.damaged(SOUND_CSV))


TARGETS: dict[str, Target] = {
    "csv": Target(400, strategy_of_tables, lambda data, folder: checks.table("t.csv", data, folder)),
    "tsv": Target(150, lambda: inputs.csv_tables("\t"), lambda data, folder: checks.table("t.tsv", data, folder)),
    "json lines": Target(300, inputs.json_lines, lambda data, folder: checks.table("t.jsonl", data, folder)),
    "gzip": Target(
        800, lambda: inputs.damaged(SOUND_GZIP), lambda data, folder: checks.table("t.csv.gz", data, folder)
    ),
    "parquet tables": Target(250, inputs.parquet_tables, lambda data, folder: checks.table("t.parquet", data, folder)),
    "parquet bytes": Target(
        700,
        lambda: st.sampled_from(sound_parquet()).flatmap(inputs.damaged),
        lambda data, folder: checks.table("t.parquet", data, folder),
    ),
    "first recipes": Target(350, inputs.csv_tables, lambda data, folder: checks.init("t.csv", data, folder)),
    "recipes": Target(350, inputs.yaml_texts, checks.recipe_yaml),
    "recipes of Python": Target(250, inputs.mappings, checks.recipe_mapping),
    "sidecars": Target(600, inputs.sidecars, checks.sidecar),
    "run folders": Target(500, damaged_run_files, check_run, a_run),
}


def new_seed() -> int:
    """A seed that no run had before; whoever takes it prints it."""
    return random.SystemRandom().randrange(2**32)


def run_target(target: Target, folder: Path, examples: int, seed: int | None = None) -> int:
    """Tries inputs.

    Args:
        target: what is fuzzed.
        folder: an empty one.
        examples: how many inputs.
        seed: None gives the same inputs each time.

    Returns:
        How many were tried; the first that fails is made small and raised.
    """
    tried = 0
    target.prepare(folder)

    def one(value: Any) -> None:
        nonlocal tried
        tried += 1
        target.check(value, folder)

    options = settings(
        max_examples=examples,
        derandomize=seed is None,
        database=None,
        deadline=timedelta(seconds=60),  # no speed that is promised: what takes so long hangs
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    test = options(given(target.strategy())(one))
    if seed is not None:
        test = hypothesis.seed(seed)(test)
    test()
    return tried
