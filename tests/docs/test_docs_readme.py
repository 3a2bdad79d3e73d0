"""What README.md and docs/ show runs as shown: commands and Python, page by page, in the order of the page."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from equipoise import cli, comparison, training

ROOT = Path(__file__).parents[2]
# Pages whose code another test runs, because it is a file of the package and not a script.
ELSEWHERE = {"add-a-task-kind.md": ROOT / "tests" / "tasks" / "test_tasks_family.py"}
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name not in ELSEWHERE)]
# What a fragment of a loop stands in.
AROUND = {
    "balancers.md": "import torch\n"
    "hidden = torch.randn(8, 4, requires_grad=True)\n"
    "targets = {'polarity': torch.rand(8), 'label': torch.randint(3, (8,))}\n"
    "losses = {'polarity': (hidden[:, 0] - targets['polarity']) ** 2, 'label': hidden[:, 1] ** 2}\n"
}
SHORT = ["training.max_steps=2"]
ROWS = 200
NOT_RUN = ("make ", "pip ", "python3 -m venv", "equipoise demo")


def blocks(page: Path) -> Iterator[tuple[str, int, str]]:
    """Kind, line and text of each fenced block; `python notest` is a kind of its own."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w[\w ]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield match[1].strip(), text[: match.start()].count("\n") + 1, match[2]


def run_command(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if line.startswith("equipoise "):
        monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code in (0, None), line
    else:
        monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
        subprocess.run(["bash", "-ec", line], check=True, timeout=120)
        for table in Path().glob("*.csv"):  # a full one would take a minute to predict
            table.write_text("".join(table.read_text().splitlines(keepends=True)[:ROWS]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_the_page_shows_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = training.train

    @functools.wraps(plain)
    def short(recipe: Any, *, overrides: Sequence[str] = (), **others: Any) -> Any:
        return plain(recipe, overrides=[*overrides, *SHORT], progress=False, **others)

    compared = comparison.compare

    @functools.wraps(compared)
    def brief(recipe: Any, *, overrides: Sequence[str] = (), **others: Any) -> Any:
        few = ["data.max_train_rows=40", "data.validation=0.02", "data.test=0.02"]
        others |= {"seeds": 1, "search_trials": 2, "progress": False}
        return compared(recipe, overrides=[*overrides, *SHORT, *few], **others)

    # Both doors, the command line and Python, fetch `train` and `compare` from here.
    monkeypatch.setattr(training, "train", short)
    monkeypatch.setattr(comparison, "compare", brief)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": f"example_{page.stem.replace('-', '_')}"}
    exec(AROUND.get(page.name, ""), namespace)  # noqa: S102
    for kind, line, text in blocks(page):
        if kind == "python":
            exec(compile("\n" * line + text, str(page), "exec"), namespace)  # noqa: S102  our own pages
        elif kind == "sh":
            for command in text.splitlines():
                if command.strip() and not command.startswith(NOT_RUN):
                    run_command(command, monkeypatch)


def test_readme_shows_three_doors() -> None:
    found = [(kind, text) for kind, _, text in blocks(ROOT / "README.md") if "notest" not in kind]
    assert [kind for kind, _ in found] == ["sh", "sh", "sh", "python", "python"]
    assert "equipoise train" in found[2][1]
    assert "eq.train" in found[3][1]
    assert "balancer(losses" in found[4][1]


def test_pages_whose_code_runs_elsewhere_really_do() -> None:
    for name, test in ELSEWHERE.items():
        assert name in test.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / "docs" / name for name in ELSEWHERE)], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if target == ROOT / "benchmarks" / "RESULTS.md" and not target.exists():
            continue  # written when the benchmarks have run
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, link
