"""Nothing let in: attacks on pages neutralised, and things planted in model folders refused, of all that were tried.

    python benchmarks/trust_xss.py [--slow]

Runs `tests/security` as pytest does and counts. A page's figure is the number of cross-site-scripting strings that it holds
(in texts, classes, columns, names of tasks, runs and files, reasons, warnings, versions) and that neither ran nor asked any
address for anything, in Chromium, without the page's content security policy, when the escaping stands alone, and with --slow
also with it; a page where one of them did something counts none. A planted folder is refused where loading it ends in one
line that names what was found, and no planted code has run. Unit of every figure: attacks. There is no seed: nothing is drawn.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

from _common import ROOT, write

#: Figure -> tests whose cases are counted one by one.
CASES = {
    "planted in a run's model, refused": r"test_security_folders.*test_a_run_with_it_is_refused",
    "planted in a backbone, refused": r"test_security_folders.*test_a_backbone_with_it_is_refused",
    "planted in an adapter, refused": r"test_security_folders.*test_an_adapter_with_it_is_refused",
    "links out of a run, refused": r"test_security_folders.*test_a_link_out_of_a_run_is_refused",
    "code of a model that nobody allowed, refused": r"test_security_code.*(refused|enough|never_runs|asks_again|does_not_run)",
    "what the policy alone stops": r"test_security_pages.*test_the_policy_would_stop",
    "names that are no hub's, told": r"test_security_names.*(test_what_is_no_name|test_a_revision|test_a_tasks_name)",
    "terminal sequences written out": r"test_security_terminal.*test_nothing_that_a_terminal_obeys",
    "banned calls found by lint": r"test_security_bans.*test_what_is_banned_is_found",
}
#: Figure -> test that says how many strings its page held and how many of them did nothing.
PAGES = {
    "report.html": r"test_security_pages.*test_none_runs\[report-",
    "comparison.html": r"test_security_pages.*test_none_runs\[comparison-",
    "README.md (model card)": r"test_security_pages.*test_none_runs\[card-",
    "the service's page": r"test_security_service_page.*test_none_runs",
}


def main() -> None:
    """Runs the tests and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slow", action="store_true", help="the slow tests too")
    options = parser.parse_args()
    marks = ["-m", "not gpu and not network"] if options.slow else []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1"]
        command += [f"--junitxml={report}", *marks]
        subprocess.run([*command, "tests/security"], cwd=ROOT, check=False)
        cases = list(ET.parse(report).getroot().iter("testcase"))
    figures = [_by_case(name, pattern, cases) for name, pattern in CASES.items()]
    figures += [_by_page(name, pattern, cases) for name, pattern in PAGES.items()]
    failed = [f"{one.get('classname')}::{one.get('name')}" for one in cases if not _passed(one) and not _skipped(one)]
    command_line = "python benchmarks/trust_xss.py" + (" --slow" if options.slow else "")
    write("trust_xss", {"command": command_line, "figures": figures, "failed": failed, "tests": len(cases)})
    for figure in figures:
        print(f"{figure['name']}: {figure['held']} of {figure['tried']}")


def _matching(pattern: str, cases: list[ET.Element]) -> list[ET.Element]:
    return [
        one for one in cases if re.search(pattern, f"{one.get('classname')}.{one.get('name')}") and not _skipped(one)
    ]


def _by_case(name: str, pattern: str, cases: list[ET.Element]) -> dict[str, object]:
    found = _matching(pattern, cases)
    return {"name": name, "held": sum(map(_passed, found)), "tried": len(found), "unit": "attacks"}


def _by_page(name: str, pattern: str, cases: list[ET.Element]) -> dict[str, object]:
    """The strings of the page, once: it is opened with its policy and without, and each must hold all of them."""
    found = _matching(pattern, cases)
    counts: dict[str, list[int]] = defaultdict(list)
    for case in found:
        for one in case.iter("property"):
            counts[str(one.get("name"))].append(int(str(one.get("value"))))
    tried = max(counts["strings"], default=0)
    held = min(counts["neutralised"], default=0) if found and all(map(_passed, found)) else 0
    return {"name": f"strings in {name}", "held": held, "tried": tried, "unit": "attacks", "openings": len(found)}


def _passed(case: ET.Element) -> bool:
    return not any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))


def _skipped(case: ET.Element) -> bool:
    return case.find("skipped") is not None


if __name__ == "__main__":
    main()
