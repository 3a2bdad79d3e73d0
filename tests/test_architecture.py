"""The walls between the rooms, read off the source, and the imports that must stay cheap."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "equipoise"
FILES = sorted(SOURCE.rglob("*.py"))


@dataclass(frozen=True)
class Import:
    """One imported module: by whom, where, and whether at load time, inside a function, or for type checkers only."""

    room: str
    module: str
    where: str
    when: str  # "load" | "later" | "types"


def room_of(path: Path) -> str:
    """`balance/_dao.py` -> `balance`; `_recipe_yaml.py` belongs to `recipe.py` beside it, as do `_cli_*` and `_runs_*`."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return _beside(parts[0])


def _beside(name: str) -> str:
    return next((room for room in ("recipe", "cli", "runs") if name.startswith(f"_{room}")), name)


def imports(path: Path, tree: ast.AST, when: str = "load") -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        inner = when
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and when == "load":
            inner = "later"
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            inner = "types"
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            modules = [node.module or ""]
            if node.module == "equipoise":
                modules = [f"equipoise.{alias.name}" for alias in node.names]
        for module in modules:
            yield Import(room_of(path), module, f"{path.relative_to(ROOT)}:{node.lineno}", when)
        yield from imports(path, node, inner)


def all_imports() -> list[Import]:
    return [found for path in FILES for found in imports(path, ast.parse(path.read_text(encoding="utf-8")))]


def target(module: str) -> str:
    """`equipoise.data._csv` -> `data`."""
    name = module.split(".")[1]
    return _beside(name)


OURS = [found for found in all_imports() if found.module.startswith("equipoise.")]
OTHERS = [found for found in all_imports() if not found.module.startswith("equipoise")]


def table() -> dict[str, tuple[dict[str, str], str]]:
    """Room -> which of our rooms it may import and when, and which packages of others, as the page says."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = page.split("## The rooms")[1].split("\n## ")[0].splitlines()
    rooms = {}
    for row in rows:
        match = re.fullmatch(r"\| `(\w+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \|", row)
        if match:
            ours = {name: note or "" for name, note in re.findall(r"`(\w+)`(?: \(([^)]*)\))?", match[2])}
            rooms[match[1]] = (ours, match[3])
    if "cli" in rooms:
        rooms["cli"] = (dict.fromkeys(rooms, ""), rooms["cli"][1])
    return rooms


def test_the_page_knows_every_room() -> None:
    assert set(table()) == {room_of(path) for path in FILES} - {"__init__"}


def test_no_room_imports_what_the_page_does_not_allow() -> None:
    allowed = table()
    wrong = []
    for found in OURS:
        room, wanted = found.room, target(found.module)
        if room == wanted or room == "__init__" or (room == "cli" and wanted == "__version__"):
            continue
        note = allowed[room][0].get(wanted)
        if (
            note is None
            or (note == "types only" and found.when != "types")
            or ("when" in note and found.when == "load")
        ):
            wrong.append(f"{found.where}: {room} imports {found.module} ({found.when})")
    assert not wrong, "\n".join(wrong)


def test_the_walls_that_must_never_move() -> None:
    pairs = {(found.room, target(found.module)) for found in OURS}
    assert ("training", "balance") in pairs  # else this test sees nothing
    assert not {pair for pair in pairs if pair[1] == "cli"} - {("cli", "cli")}
    assert not {("inference", "training"), ("report", "training"), ("serving", "training")} & pairs
    assert not {("tasks", "balance"), ("balance", "tasks")} & pairs
    assert {wanted for room, wanted in pairs if room == "balance"} <= {"balance", "errors"}


def test_packages_of_others_stay_in_the_rooms_that_may_have_them() -> None:
    names = {
        "errors": set(),
        "hub_names": set(),
        "terminal": {"rich"},
        "runs": set(),
        "demo": set(),
        "balance": {"torch", "torchjd"},
        "report": {"rich", "plotly", "numpy", "pandas", "huggingface_hub"},
    }
    names |= {"recipe": {"pydantic", "yaml"}, "cli": {"typer", "rich"}}
    said = {room: set() if note == "nothing" else set(note.split(", ")) for room, (_, note) in table().items()}
    assert {room: said[room] for room in names} == names, "the page says something else than this test"
    wrong = [
        f"{found.where}: {found.room} imports {found.module}"
        for found in OTHERS
        if (package := found.module.split(".")[0]) not in sys.stdlib_module_names
        and found.room in names
        and package not in names[found.room]
    ]
    assert not wrong, "\n".join(wrong)
    assert not [found for found in OTHERS if found.room == "tasks" and found.module == "torch" and found.when == "load"]


def test_the_package_itself_imports_names_for_type_checkers_only() -> None:
    assert {found.when for found in OURS if found.room == "__init__"} == {"types"}


# What an import costs ------------------------------------------------------------------------------------------------


def test_light_imports_stay_light() -> None:
    code = (
        "import json, sys\n"
        "found = {}\n"
        "for name in ('equipoise', 'equipoise.cli', 'equipoise.recipe'):\n"
        "    __import__(name)\n"
        "    found[name] = sorted({'torch', 'transformers', 'datasets', 'sklearn', 'pandas', 'peft'} & set(sys.modules))\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"equipoise": [], "equipoise.cli": [], "equipoise.recipe": []}


def test_no_name_is_lost_in_the_lazy_package() -> None:
    import equipoise

    for name in equipoise.__all__:
        assert getattr(equipoise, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = equipoise.trian
