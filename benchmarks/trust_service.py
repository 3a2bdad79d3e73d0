"""Attacks on the service and faults inside it: injected, and handled.

    python benchmarks/trust_service.py [--quick]

Runs the tests that make them, as they stand in tests/serving, and counts: an attack or a fault is handled where its test
passes. `--quick` leaves out the slow ones (schemathesis at length, a Parquet page of a gigabyte). Under "answers" stands how
many answers schemathesis checked against the OpenAPI document, by status. Nothing is random: schemathesis runs derandomised.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as tree
from collections import Counter
from pathlib import Path
from typing import Any

from _common import ROOT, write

GROUPS = {
    "attacks on connections and requests": ["test_serving_attacks.py", "test_serving_guard.py"],
    "bombs and names": ["test_serving_bombs.py"],
    "secrets kept": ["test_serving_secrets.py"],
    "faults in the service": ["test_serving_faults.py", "test_serving_reload.py", "test_serving_worker.py"],
    "operations explored by schemathesis": ["test_serving_schema.py"],
}


def run(files: list[str], marks: str) -> tuple[int, int, int, Counter[str]]:
    """Passed, run, skipped, and the answers that schemathesis checked."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable, "-m", "pytest", "-q", "-m", marks, f"--junitxml={report}", "-o", "junit_logging=system-out",
            *(str(Path("tests") / "serving" / name) for name in files),
        ]  # fmt: skip
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if not report.is_file():
            raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
        cases = list(tree.parse(report).iter("testcase"))
    skipped = [case for case in cases if case.find("skipped") is not None]
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    for case in failed:
        print(f"FAILED {case.get('classname')}::{case.get('name')}")
    answers: Counter[str] = Counter()
    for case in cases:
        for line in re.findall(
            r"^schemathesis .*: \d+ answers, (\{.*\})$", case.findtext("system-out") or "", re.MULTILINE
        ):
            answers.update({str(status): count for status, count in ast.literal_eval(line).items()})
    tried = len(cases) - len(skipped)
    return tried - len(failed), tried, len(skipped), answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without the slow tests")
    parser.add_argument("--dry", action="store_true", help="write no results")
    options = parser.parse_args()
    marks = "not gpu and not network" + (" and not slow" if options.quick else "")
    figures: list[dict[str, Any]] = []
    answers: Counter[str] = Counter()
    for name, files in GROUPS.items():
        held, tried, skipped, found = run(files, marks)
        answers.update(found)
        figures.append({"name": f"service: {name}", "held": held, "tried": tried, "skipped": skipped})
        print(f"{name}: {held} of {tried} ({skipped} skipped)", flush=True)
    command = "python benchmarks/trust_service.py" + (" --quick" if options.quick else "")
    if not options.dry:
        write("trust_service", {"command": command, "figures": figures, "answers": dict(sorted(answers.items()))})
    raise SystemExit(0 if all(one["held"] == one["tried"] for one in figures) else 1)


if __name__ == "__main__":
    main()
