"""What a disk, a second process or a clock can do to a training: how many such faults are told, with nothing lost.

    python benchmarks/trust_faults.py            every fault (about six minutes)
    python benchmarks/trust_faults.py --quick    the default tests' share of them

Each fault is one case of a test whose name begins with `test_fault_` in `tests/training`: damage to a checkpoint, a pickle
planted in one, a disk that is full, read-only or broken, a folder that is removed, a second process, a clock that goes back,
an overwrite that is cut off. A fault counts as held when its test passes: one clear error (or a warning, where the run can go
on) names it, no code from a file ran, what stood before stands, and the run that is resumed afterwards ends bit-equal to one
that was never disturbed. The cases of `the_disk_refuses_any_write` refuse every call of a resumed
run that writes, one after another: each is a fault. Cases that need rights which are not there (mounting a disk of a megabyte)
are skipped and told apart. No seeds: every fault has its place.

Units: counts; `seconds` of the whole.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from _common import ROOT, write

TESTS = ["tests/training/test_training_checkpoints.py", "tests/training/test_training_disk.py"]
#: What a test's name says -> the kind of fault in the table.
KINDS = {
    "damage": "damage to a checkpoint",
    "checkpoint": "damage to a checkpoint",
    "best": "damage to a checkpoint",
    "pickle": "code planted in a checkpoint",
    "nobody_here_wrote": "code planted in a checkpoint",
    "refuses": "a disk that is full or read-only",
    "small_disk": "a disk that is full or read-only",
    "may_not": "a disk that is full or read-only",
    "torch": "a disk that is full or read-only",
    "flushed": "a disk that is full or read-only",
    "system": "a disk that is full or read-only",
    "removed": "a run folder that is removed",
    "two_processes": "a second process on the folder",
    "clock": "a clock that goes back",
    "overwrite": "an overwrite that is cut off",
}


@dataclass(frozen=True)
class Case:
    """One case of a test: `outcome` is passed, failed or skipped; `faults`: how many it injects, one after another."""

    name: str
    outcome: str
    faults: int


def run(quick: bool) -> list[Case]:
    """Every case."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-k", "test_fault_", f"--junitxml={report}", *TESTS]
        command += ["-o", "junit_family=xunit1"]  # which has room for what a test records
        if not quick:
            command += ["-m", "slow or not slow"]
        environment = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"} | os.environ
        subprocess.run(command, cwd=ROOT, env=environment, check=False)
        cases = ET.parse(report).getroot().iter("testcase")
        return [_case(case) for case in cases]


def _case(case: ET.Element) -> Case:
    children = {child.tag for child in case}
    outcome = "failed" if children & {"failure", "error"} else "skipped" if "skipped" in children else "passed"
    told = {each.attrib["name"]: each.attrib["value"] for each in case.iter("property")}
    return Case(case.attrib["name"].removeprefix("test_fault_"), outcome, int(told.get("faults", 1)))


def kind_of(name: str) -> str:
    return next(kind for word, kind in KINDS.items() if word in name.partition("[")[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without the slow ones")
    options = parser.parse_args()
    started = time.perf_counter()
    cases = run(options.quick)
    tried = [case for case in cases if case.outcome != "skipped"]
    kinds: dict[str, dict[str, int]] = {}
    for case in tried:
        counts = kinds.setdefault(kind_of(case.name), {"held": 0, "tried": 0})
        counts["tried"] += case.faults
        counts["held"] += case.faults if case.outcome == "passed" else 0
    total = {key: sum(counts[key] for counts in kinds.values()) for key in ("held", "tried")}
    write(
        "trust_faults",
        {
            "command": "python benchmarks/trust_faults.py" + (" --quick" if options.quick else ""),
            "figures": [{"name": "disk and checkpoint faults detected, nothing lost", **total}],
            "kinds": dict(sorted(kinds.items())),
            "failed": [case.name for case in tried if case.outcome == "failed"],
            "skipped": [case.name for case in cases if case.outcome == "skipped"],
            "faults": [case.name for case in tried],
            "seconds": round(time.perf_counter() - started, 1),
        },
    )
    for kind, counts in sorted(kinds.items()):
        print(f"{kind}: {counts['held']} of {counts['tried']}")
    print(f"in all: {total['held']} of {total['tried']}")


if __name__ == "__main__":
    main()
