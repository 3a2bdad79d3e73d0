"""Every nasty table has the outcome that is stated for it, at every door; none hangs, and none fills the memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from nasty import BIG, SMALL
from nasty.case import Case, through_init, through_predict, through_training

from equipoise.data import open_table

ROWS = {case.name: case.used + sum(case.rejected.values()) for case in SMALL if case.used is not None}
#: More than any of them needs beyond what the libraries themselves take, and less than any would take unbounded.
MOST_MB = 600
QUICK = ("a cell of 50 MB", "a bomb of lines", "20,001 columns", "four million cells in a row")
SLOW = [case.name for case in BIG if case.name.removeprefix("size: ") not in QUICK]


def test_there_are_enough_of_them_and_each_says_what_it_wants() -> None:
    assert len(SMALL) + len(BIG) >= 500
    names = [case.name for case in SMALL + BIG]
    assert len(set(names)) == len(names)
    assert not [case.name for case in SMALL + BIG if (case.used is None) == (case.error is None)]


@pytest.mark.parametrize("case", SMALL, ids=[case.name for case in SMALL])
def test_training_reads_it_as_stated(case: Case, tmp_path: Path) -> None:
    through_training(case, tmp_path)


@pytest.mark.parametrize("case", SMALL, ids=[case.name for case in SMALL])
def test_init_and_predict_read_it_or_say_why_not(case: Case, tmp_path: Path) -> None:
    path = case.write(tmp_path)
    through_init(path)
    # Parquet can hold what no text can: a year 300000, a time zone that there is none of.
    outputs = [tmp_path / f"scored.{kind}" for kind in ("parquet", "csv", "jsonl")]
    found = [through_predict(path, output, case.text, batch_rows=100) for output in outputs]
    assert len(set(found) - {None}) < 2, "one output has other rows than another"
    rows = found[0]
    if case.name in ROWS and not case.data:
        assert rows == ROWS[case.name], "prediction sees other rows than training"
    # What was written can be read again, with as many rows.
    for output, count in zip(outputs, found, strict=True):
        if count is not None:
            assert sum(len(batch.lines) for batch in open_table(output)) == rows, output


BOUNDED = """
import json, resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from nasty import BIG
from nasty.case import prepared_of, through_training
import torch
# What the process may write to, beyond what it has when its libraries are loaded. Files that are mapped don't count.
has = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (has * 1024 + int(sys.argv[3]) * (1 << 20),) * 2)
for case in BIG:
    if case.name in sys.argv[4:]:
        place = Path(sys.argv[2]) / case.name.replace(" ", "_").replace(":", "")
        place.mkdir()
        through_training(case, place)
        print(json.dumps(case.name), flush=True)
"""


def run_bounded(names: list[str], folder: Path) -> None:
    """Some of the big ones in a process of its own that may not take more than `MOST_MB`."""
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(Path(__file__).parent), str(folder), str(MOST_MB), *names],
        capture_output=True, text=True, timeout=550,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == names


def test_the_big_ones_take_bounded_memory(tmp_path: Path) -> None:
    run_bounded([case.name for case in BIG if case.name not in SLOW], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_the_biggest_take_bounded_memory(name: str, tmp_path: Path) -> None:
    run_bounded([name], tmp_path)
