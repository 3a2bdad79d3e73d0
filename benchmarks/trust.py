"""The table of what was tried against Equipoise, in RESULTS.md.

    python benchmarks/trust.py                    # from the results that are there
    python benchmarks/trust.py --run              # measures every part first, one after the other
    python benchmarks/trust.py --run fuzz xss     # some of them

A part is a script `trust_<part>.py` beside this one, or `soak.py`; it writes `results/trust_<part>.json`, whose `figures` say
of each kind of attack or fault how many were `tried` and how many `held`. What did not hold stands in the table as it is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from _common import RESULTS, ROOT

#: Part -> its script, in the order of the table.
PARTS = {
    "kills": "trust_kills.py",
    "faults": "trust_faults.py",
    "numbers": "trust_numbers.py",
    "fuzz": "trust_fuzz.py",
    "xss": "trust_xss.py",
    "service": "trust_service.py",
    "soak": "soak.py",
}
PAGE = ROOT / "benchmarks" / "RESULTS.md"
BEGIN, END = "<!-- trust -->", "<!-- end trust -->"


def measured(part: str) -> dict[str, Any] | None:
    """A part's result, or None where it was not measured."""
    path = RESULTS / f"trust_{part}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def table(results: dict[str, dict[str, Any] | None]) -> str:
    """Markdown: one row a figure, and below it what made each part; a part without a result is named as such."""
    rows = ["| part | what | held | tried |", "| --- | --- | --: | --: |"]
    made = []
    for part, result in results.items():
        if result is None:
            rows.append(f"| {part} | not measured | | |")
            continue
        for figure in result["figures"]:
            held, tried = figure["held"], figure["tried"]
            shown = f"{held:,}" if held == tried else f"**{held:,}**"
            rows.append(f"| {part} | {figure['name']} | {shown} | {tried:,} |")
        made.append(f"- {part}: `{result['command']}`, {result['machine']['date']}")
    return "\n".join([*rows, "", *made])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="*", choices=[*PARTS, []], metavar="PART", help=f"of {', '.join(PARTS)}")
    options = parser.parse_args()
    if options.run is not None:
        for part in options.run or PARTS:
            subprocess.run([sys.executable, str(Path(__file__).with_name(PARTS[part]))], check=True)
    made = table({part: measured(part) for part in PARTS})
    page = PAGE.read_text(encoding="utf-8")
    if BEGIN not in page or END not in page:
        sys.exit(f"{PAGE.name} has no place for the table: put {BEGIN} and {END} on lines of their own")
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    print(made)


if __name__ == "__main__":
    main()
