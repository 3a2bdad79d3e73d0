"""The page on writing a balancer: its worked example runs, is found as another package's, and passes the contract."""

from __future__ import annotations

import doctest
import inspect
import os
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest
import torch

from equipoise.balance import Balancer, create
from equipoise.balance import _registry as registry
from equipoise.balance._state import TaskState
from equipoise.errors import BalanceError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "write-a-balancer.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    """The text of the page's only fenced block of a kind."""
    (found,) = re.findall(rf"^ *```{kind}\n(.*?)^ *```$", PAGE, re.DOTALL | re.MULTILINE)
    return found


def run(source: str, name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    exec(compile(source, f"{name}.py", "exec"), vars(module))  # noqa: S102  our own page
    return module


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The worked example, executed; afterwards nobody knows of it."""
    monkeypatch.setattr(registry, "_BALANCERS", dict(registry._BALANCERS))
    return run(block("python file"), "equipoise_group_dro")


def losses_of(**values: float) -> dict[str, torch.Tensor]:
    return {task: torch.tensor(value, dtype=torch.float64, requires_grad=True) for task, value in values.items()}


def test_the_method_follows_its_formula(example: types.ModuleType) -> None:
    balancer = create("group_dro", ["a", "b", "c"], step_size=0.5)
    weights = torch.full((3,), 1 / 3, dtype=torch.float64)
    for values in ((1.0, 2.0, 3.0), (4.0, 0.0, 1.0), (2.0, 5.0, 5.0)):
        balancer(losses_of(**dict(zip("abc", values, strict=True))))
        weights = weights * (0.5 * torch.tensor(values, dtype=torch.float64)).exp()
        weights = weights / weights.sum()
        assert list(balancer.last["weights"].values()) == pytest.approx(weights.tolist(), rel=1e-12)


def test_an_absent_task_keeps_its_weight_against_the_sum(example: types.ModuleType) -> None:
    balancer = create("group_dro", ["a", "b"], step_size=1.0)
    balancer(losses_of(a=torch.log(torch.tensor(3.0)).item()))  # 3 to 1
    assert balancer.last["weights"] == pytest.approx({"a": 0.75})
    balancer(losses_of(b=0.0))
    assert balancer.last["weights"] == pytest.approx({"b": 0.25})


@pytest.mark.parametrize("odd", ["much", True, -1, float("nan"), float("inf"), None])
def test_its_setting_is_checked(odd: object, example: types.ModuleType) -> None:
    with pytest.raises(BalanceError, match="step_size must be a number, 0 or more"):
        create("group_dro", ["a"], step_size=odd)


def test_its_own_example_runs(example: types.ModuleType) -> None:
    (case,) = [test for test in doctest.DocTestFinder().find(example.GroupDRO, "GroupDRO", example) if test.examples]
    assert doctest.DocTestRunner().run(case).failed == 0


def test_it_is_a_file_of_this_repository_with_the_other_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    public = "from equipoise.balance import Balancer, GradientStatistics, register\n"
    source = block("python file")
    assert source.count(public) == 1
    private = inspect.cleandoc("\n" + block("python imports")) + "\n"
    monkeypatch.setattr(registry, "_BALANCERS", dict(registry._BALANCERS))
    run(source.replace(public, private), "equipoise.balance._group_dro")
    assert "group_dro" in registry._BALANCERS


def test_as_another_package_it_is_listed_and_passes_the_contract(tmp_path: Path) -> None:
    project = tomllib.loads(block("toml"))["project"]
    (tmp_path / "equipoise_group_dro.py").write_text(block("python file"))
    info = tmp_path / "equipoise_group_dro-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    ((group, entries),) = project["entry-points"].items()
    (info / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in entries.items()))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "160"}

    def ours(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=300, env=environment, cwd=ROOT
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "equipoise-group-dro" in ours("equipoise.cli", "balancers", "group_dro")
    (command,) = re.findall(r"^    pytest (.*)$", PAGE, re.MULTILINE)
    found = ours("pytest", *command.split(), "-q", "-p", "no:cacheprovider")
    assert int(re.search(r"(\d+) passed", found)[1]) >= 20, found


# What the page says of the base class ----------------------------------------------------------------------------------


def test_the_page_names_every_hook_with_its_arguments() -> None:
    told = dict(re.findall(r"^\| `(\w+)\(([\w, ]*)\)` \|", PAGE, re.MULTILINE))
    own = {
        name
        for name, member in vars(Balancer).items()
        if inspect.isfunction(member) and not name.startswith("_") and name not in {"forward", "extra_repr"}
    }
    assert set(told) == own
    for name, arguments in told.items():
        assert arguments == ", ".join(list(inspect.signature(getattr(Balancer, name)).parameters)[1:]), name


def test_the_page_names_everything_that_a_class_declares() -> None:
    section = PAGE.split("### What the class declares")[1].split("\n### ")[0]
    told = {name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    buffers = {"weights", "step", "skip_counts", "last_norms", "last_cosines"}
    assert told == set(inspect.get_annotations(Balancer)) - buffers
    for name, default in re.findall(r"^\| `(\w+)` \| (False|True|\d+) \|", section, re.MULTILINE):
        assert str(getattr(Balancer, name)) == default, name


def test_the_helpers_that_the_page_names_are_there() -> None:
    for name in ("add_task_buffer", "add_pair_buffer", "register_buffer"):
        assert callable(getattr(TaskState, name))
        assert f"`{name}" in PAGE
    assert callable(Balancer._plain)
    for path in re.findall(r"`((?:src|tests|docs)/[\w/.]+\.py)`", PAGE):
        assert "group_dro" in path or (ROOT / path).exists(), path
