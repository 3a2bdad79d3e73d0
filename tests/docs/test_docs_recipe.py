"""The reference of recipes is the one that the settings' classes describe."""

import subprocess
import sys
from pathlib import Path

import pytest

from equipoise import balance, recipe, tasks

ROOT = Path(__file__).parents[2]


def test_the_page_of_recipes_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "_generate_recipe.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def part(title: str) -> str:
    """The page from a heading to the next one."""
    page = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert page.count(f"\n{title}\n") == 1
    return page.split(f"\n{title}\n")[1].split("\n## ")[0].split("\n### ")[0]


@pytest.mark.parametrize(
    ("title", "model"),
    [
        ("## model", recipe.ModelSettings),
        ("## model.adapter", recipe.AdapterSettings),
        ("## data", recipe.DataSettings),
        ("## training", recipe.TrainingSettings),
        ("## balance", recipe.BalanceSettings),
        *[(f"### {name}", tasks.kind(name).Settings) for name in tasks.available()],
    ],
)
def test_every_key_has_a_line_with_its_meaning(title: str, model: type) -> None:
    found = part(title)
    for name, field in model.model_fields.items():
        key = field.alias or name
        if title.startswith("###") and key == "type":
            continue
        line = next(line for line in found.splitlines() if line.startswith(f"| `{key}` |"))
        assert line.rstrip(" |").split(" | ")[-1], f"{title} {key} says nothing"


def test_every_setting_of_every_method_has_a_line_with_its_meaning() -> None:
    for method in balance.describe():
        found = part(f"### method: {method['method']}")
        for name in method["settings"].split(", "):
            line = next(line for line in found.splitlines() if line.startswith(f"| `{name}` |"))
            assert len(line.strip("| ").split(" | ")) == 3, line
