"""The study's page says what its results say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]


def test_the_tables_are_those_of_the_results() -> None:
    script = ROOT / "benchmarks" / "study" / "page.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_text_of_a_set_is_among_the_results() -> None:
    results = [path for path in (ROOT / "benchmarks" / "study" / "results").iterdir() if path.name != ".gitkeep"]
    assert results
    assert {path.suffix for path in results} <= {".json", ".parquet"}
    for path in results:
        if path.suffix == ".parquet":
            columns = pq.read_schema(path).names
            assert {"text", "row", "prediction"}.isdisjoint(columns), path.name
