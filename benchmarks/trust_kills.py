"""Kills survived and resumes that end bit-equal, counted over balancers, features and moments.

    python benchmarks/trust_kills.py [--seed 0] [--only "balancer or feature"]

Runs `tests/training/test_training_kills.py`, the slow tests too. There a training dies by signal 9 in a process of its own: at
a drawn update, in the middle of a checkpoint, of a line of the history, of an evaluation, at any change of a file, and from
outside at any time; it is resumed, dies again, and in the end is compared with the run of the same recipe that nobody stopped:
weights, predictions and `rejected.jsonl` byte by byte, metrics and history but for times and rates, no file missing or left
over. The model is a random encoder of 2 layers and 32 dimensions on 120 made rows; the moments follow from the seed, but for
the kills by time. A kill counts as survived, and its resume as bit-equal, if that comparison finds nothing.

Writes `results/trust_kills.json`: the counts by what was tried (`cases`) and by kind of moment (`kinds`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from _common import ROOT, write


def tried(seed: int, only: str | None) -> tuple[list[dict[str, Any]], str, float]:
    """What the tests counted, pytest's last line, and the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts.jsonl"
        counts.touch()
        own = {"EQUIPOISE_KILL_SEED": str(seed), "EQUIPOISE_KILL_COUNTS": str(counts), "OMP_NUM_THREADS": "1"}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "slow or not slow",
            "tests/training/test_training_kills.py",
        ]
        started = time.perf_counter()
        done = subprocess.run(
            command + (["-k", only] if only else []),
            cwd=ROOT,
            env=os.environ | own,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        print(done.stdout)
        lines = [json.loads(line) for line in counts.read_text().splitlines()]
        return lines, done.stdout.strip().splitlines()[-1], time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="of pytest's -k: a part of the tests")
    options = parser.parse_args()
    trials, outcome, seconds = tried(options.seed, options.only)
    cases: dict[str, dict[str, int]] = {}
    kinds: Counter[str] = Counter()
    for trial in filter(lambda trial: trial["kills"], trials):  # one that nothing hit shows nothing
        case = cases.setdefault(trial["case"], {"kills": 0, "survived": 0, "runs": 0, "equal": 0})
        case["kills"] += trial["kills"]
        case["survived"] += trial["kills"] if trial["equal"] else 0
        case["runs"] += 1
        case["equal"] += trial["equal"]
        kinds.update(trial["kinds"])
    total = {key: sum(case[key] for case in cases.values()) for key in ("kills", "survived", "runs", "equal")}
    balancers = {name: case for name, case in cases.items() if name.startswith("balancer ")}
    figures = [
        {"name": "kills survived", "held": total["survived"], "tried": total["kills"]},
        {"name": "killed runs that end bit-equal", "held": total["equal"], "tried": total["runs"]},
        {
            "name": "balancers resumed bit-equal",
            "held": sum(case["equal"] == case["runs"] for case in balancers.values()),
            "tried": len(balancers),
        },
    ]
    for figure in figures:
        print(f"{figure['name']}: {figure['held']} of {figure['tried']}")
    command = f"python benchmarks/trust_kills.py --seed {options.seed}"
    command += f' --only "{options.only}"' if options.only else ""
    write(
        "trust_kills",
        {
            "command": command,
            "seconds": round(seconds),
            "pytest": outcome,
            "figures": figures,
            "kinds": dict(sorted(kinds.items())),
            "cases": dict(sorted(cases.items())),
        },
    )
    raise SystemExit(" failed" in outcome or " error" in outcome)


if __name__ == "__main__":
    main()
