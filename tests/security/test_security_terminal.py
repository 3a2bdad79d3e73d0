"""Text from data reaches a terminal as text: it colours nothing, moves nothing, clears nothing and links nowhere."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from attacks import TERMINALS
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text
from summaries import arm, summary
from typer.testing import CliRunner

from equipoise.cli import app
from equipoise.errors import DataError
from equipoise.report import comparison_lines, comparison_table, evaluation_table, predictions_table
from equipoise.terminal import UNSEEN, Console, json_text, visible

SOURCE = Path(__file__).parents[2] / "src" / "equipoise"


def printed(*renderables: Any, **options: Any) -> str:
    console = Console(file=StringIO(), width=300, color_system=None, **options)
    for one in renderables:
        console.print(one)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", TERMINALS)
def test_nothing_that_a_terminal_obeys_is_printed(name: str) -> None:
    evil = TERMINALS[name]
    table = Table(title=Text(evil))
    table.add_column(Text(evil))
    table.add_row(evil)
    metrics = {f"task {evil}": {"mse": 0.5, "n": 3}}
    shown = printed(
        evil,
        Text(evil),
        table,
        evaluation_table(metrics, evil),
        predictions_table([evil], {"label": [evil], f"label/{evil}": [0.5]}),
        comparison_table(summary(arm(evil))),
        *comparison_lines(summary(arm("equal"), verdict=[evil])),
    )
    assert not UNSEEN.search(shown)
    if not UNSEEN.search(evil):
        assert shown.count(evil) >= 6  # words in brackets are words
    elif "\x1b" in evil:
        assert "\\x1b" in shown  # seen, not obeyed
    assert visible(evil).isprintable()


def test_what_rich_itself_writes_goes_through() -> None:
    console = Console(file=StringIO(), force_terminal=True, color_system="standard", width=80)
    console.print(Text("red \x1b[2J", "red"))
    assert console.file.getvalue() == "\x1b[31mred \\x1b[2J\x1b[0m\n"  # type: ignore[attr-defined]
    with Progress(TextColumn("{task.description}"), console=console) as progress:
        progress.add_task("steps", total=3)
    assert "\x1b[" in console.file.getvalue().partition("\n")[2]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", TERMINALS)
def test_json_is_the_same_and_holds_nothing_unseen(name: str) -> None:
    evil = {TERMINALS[name]: [TERMINALS[name], "é漢🎉"]}
    text = json_text(evil, indent=2)
    assert not UNSEEN.search(text)
    assert json.loads(text) == evil
    assert "é漢🎉" in text


@pytest.mark.parametrize("name", TERMINALS)
def test_an_error_shows_it_too(name: str) -> None:
    assert not UNSEEN.search(str(DataError(f"label: value '{TERMINALS[name]}' is unknown")))


def test_every_console_is_ours() -> None:
    other = re.compile(r"rich\.console import|rich import print|rich\.markup")
    found = [path.name for path in SOURCE.rglob("*.py") if other.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_a_commands_lines_are_clean(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    labels = list(TERMINALS.values())
    with (tmp_path / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(
            [f"profit {number}", labels[number % len(labels)].replace("\x00", "")] for number in range(190)
        )
    recipe = {
        "model": {"backbone": str(tiny_backbone("bert")), "max_length": 16},
        "data": {"train": str(tmp_path / "table.csv")},
        "tasks": {"label": {"type": "classification"}},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    done = CliRunner().invoke(app, ["validate", str(tmp_path / "recipe.yaml")])
    assert done.exit_code == 0, done.output
    assert not UNSEEN.search(done.output)
    assert "[link=http://leak.invalid/]click[/link]" in done.output
