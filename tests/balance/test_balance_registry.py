"""Names to classes, and the methods of other packages: little distributions, written as pip would install them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from equipoise.balance import Balancer, Equal, available, create, defaults_of, describe, register
from equipoise.balance import _registry as registry
from equipoise.errors import BalanceError

GOOD = """
from equipoise.balance import Equal


class Halved(Equal):
    \"\"\"Equal weights, by half.\"\"\"

    family = "losses"
    rule = "weight_i = 1/2 [really]"

    def __init__(self, *, tasks=None, name="x", task_names=2, **others):
        super().__init__(tasks=tasks, **others)
        self.name, self.task_names = name, task_names

    def weigh(self, losses, present, statistics):
        return super().weigh(losses, present, statistics) / 2
"""

Install = Callable[..., None]


def write(folder: Path, package: str, source: str, entries: Sequence[str]) -> None:
    module = package.replace("-", "_")
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[equipoise.balancers]\n" + "\n".join(entries) + "\n")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution on the path; afterwards nobody knows of it."""
    monkeypatch.setattr(registry, "_BALANCERS", dict(registry._BALANCERS))
    before = set(sys.modules)

    def add(package: str, source: str, *entries: str) -> None:
        folder = tmp_path / package
        folder.mkdir()
        write(folder, package, source, entries)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setattr(registry, "_PLUGINS", registry._Plugins())  # which has looked at no metadata yet

    yield add
    for name in set(sys.modules) - before:
        if name.startswith(("halves", "odd")):
            del sys.modules[name]


def row(method: str) -> dict[str, str]:
    (found,) = [each for each in describe(broken=True) if each["method"] == method]
    return found


# What works ----------------------------------------------------------------------------------------------------------


def test_a_method_of_another_package_is_one_of_the_family(install: Install) -> None:
    install("halves-of-it", GOOD, "halved = halves_of_it:Halved")
    assert "halved" in available()
    assert list(available()) == sorted(available())
    balancer = create("halved", ["a", "b"], scale="one")
    assert type(balancer).__name__ == "Halved"
    assert isinstance(balancer, Equal)
    found = row("halved")
    assert (found["package"], found["class"], found["family"], found["error"]) == (
        "halves-of-it",
        "Halved",
        "losses",
        "",
    )
    assert list(registry.by_family([found])) == ["Other packages"]


def test_it_is_imported_when_asked_for_and_not_before(install: Install) -> None:
    install("halves", GOOD, "halved = halves:Halved")
    create("equal", ["a"])
    assert "halves" not in sys.modules
    create("halved", ["a"])
    assert "halves" in sys.modules


def test_one_broken_package_does_not_keep_another_from_being_created(install: Install) -> None:
    install("odd", "import surely_not_there", "broken = odd:Halved")
    install("halves", GOOD, "halved = halves:Halved")
    create("halved", ["a"])
    assert "odd" not in registry._PLUGINS.broken  # not even looked at


def test_settings_may_be_called_name_and_task_names(install: Install) -> None:
    install("halves", GOOD, "halved = halves:Halved")
    balancer = create("halved", ["a"], name="y", task_names=3)
    assert (balancer.name, balancer.task_names, balancer.tasks) == ("y", 3, ("a",))
    assert defaults_of(type(balancer)) == {"name": "x", "task_names": 2}
    assert row("halved")["settings"] == "name, task_names"
    with pytest.raises(BalanceError, match="balancer 'halved' has no setting 'tasks'"):
        create("halved", ["a"], tasks=["b"])


def test_a_class_may_be_decorated_too(install: Install) -> None:
    source = GOOD.replace("class Halved", "@register('halved')\nclass Halved").replace(
        "Equal\n", "Equal, register\n", 1
    )
    install("halves", source, "halved = halves:Halved")
    assert row("halved")["package"] == "halves"
    assert not row("halved")["error"]


def test_a_class_that_was_imported_and_registered_before_is_the_same(install: Install) -> None:
    source = GOOD.replace("class Halved", "@register('halved')\nclass Halved").replace(
        "Equal\n", "Equal, register\n", 1
    )
    install("halves", source, "halved = halves:Halved")
    import halves

    assert create("halved", ["a"]).__class__ is halves.Halved
    assert row("halved")["package"] == "halves"


def test_a_module_may_look_up_names_while_it_is_imported(install: Install) -> None:
    install("halves", "from equipoise.balance import available\navailable()\n" + GOOD, "halved = halves:Halved")
    assert "halved" in available()
    assert not row("halved")["error"]


def test_a_method_registered_by_hand_names_its_module(install: Install) -> None:
    # `install` takes it off the list again.
    @register("by_hand")
    class ByHand(Equal):
        """Equal."""

    assert row("by_hand")["package"] == __name__
    assert row("equal")["package"] == "equipoise"


# What does not -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "entry", "words"),
    [
        ("import surely_not_there", "broken = odd:Halved", "ModuleNotFoundError: No module named 'surely_not_there'"),
        ("raise OSError('two\\nlines')", "broken = odd:Halved", "OSError: two lines"),
        ("", "broken = odd:Halved", "AttributeError: module 'odd' has no attribute 'Halved'"),
        ("Halved = dict", "broken = odd:Halved", "odd:Halved is no subclass of equipoise.balance.Balancer"),
        ("def Halved(): ...", "broken = odd:Halved", "odd:Halved is no subclass of equipoise.balance.Balancer"),
        (
            GOOD.replace('"weight_i = 1/2 [really]"', "None"),
            "broken = odd:Halved",
            "Halved.rule must be text, found None",
        ),
        (GOOD.replace("tasks=None, ", "").replace(", **others", ""), "broken = odd:Halved", "Halved takes no tasks"),
        (
            "from equipoise.balance import DAO, register\nregister('equal')(DAO)",
            "broken = odd:DAO",
            "balancer 'equal' is registered already, by Equal",
        ),
    ],
)
def test_a_broken_package_breaks_nothing_else(
    source: str, entry: str, words: str, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    ours = describe()
    install("odd", source, entry)
    assert describe() == ours
    assert "broken" not in available()
    assert describe(broken=True)[:-1] == ours
    found = row("broken")
    assert set(found) == set(ours[0])
    assert (found["package"], found["class"]) == ("odd", "")
    assert found["error"].startswith(words)
    for _ in range(2):
        with pytest.raises(BalanceError, match=r"balancer 'broken' of the package odd cannot be used") as caught:
            create("broken", ["a"])
        assert words in str(caught.value)
        assert isinstance(caught.value.__cause__, Exception)
    assert [record.getMessage() for record in caplog.records] == [
        f"balancer 'broken' of the package odd cannot be used: {found['error']}"
    ]


def test_a_name_of_ours_stays_ours(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    install("halves", GOOD, "equal = halves:Halved")
    assert available()["equal"] is Equal
    assert type(create("equal", ["a"])) is Equal
    assert [each["package"] for each in describe(broken=True) if each["method"] == "equal"] == ["equipoise", "halves"]
    assert "equipoise itself has a method of that name" in caplog.text


def test_two_packages_with_one_name_are_both_refused(install: Install) -> None:
    install("halves", GOOD, "halved = halves:Halved")
    install("odd", GOOD, "halved = odd:Halved")
    assert row("halved")["error"].startswith("halves and odd both have a method of that name")
    with pytest.raises(BalanceError, match="halves and odd both have"):
        create("halved", ["a"])


def test_what_a_broken_module_registered_is_taken_back(install: Install) -> None:
    source = GOOD.replace("class Halved", "@register('halved')\nclass Halved").replace(
        "Equal\n", "Equal, register\n", 1
    )
    install("odd", source + "\nraise RuntimeError('late')", "halved = odd:Halved")
    assert "halved" not in available()
    assert row("halved")["error"] == "RuntimeError: late"


def test_an_unknown_name_lists_other_packages_methods_too(install: Install) -> None:
    install("halves", GOOD, "halved = halves:Halved")
    with pytest.raises(BalanceError, match=r"^no balancer 'halvd'\. Did you mean 'halved'\? Available: .*halved"):
        create("halvd", ["a"])


def test_a_constructor_s_type_error_names_the_method(install: Install) -> None:
    install("halves", GOOD.replace("super().__init__(tasks=tasks", "len(task_names)\n        super().__init__(tasks=tasks"),
            "halved = halves:Halved")  # fmt: skip
    with pytest.raises(BalanceError, match=r"^balancer 'halved': object of type 'int' has no len\(\)"):
        create("halved", ["a"])
    with pytest.raises(BalanceError, match=r"^balancer 'halved': .*unexpected keyword argument 'sclae'"):
        create("halved", ["a"], task_names=[], sclae="one")


def test_letters_that_changed_places_are_the_nearest_name() -> None:
    assert registry.did_you_mean("doa", ["dwa", "dao", "cov"]) == " Did you mean 'dao'?"
    assert registry.did_you_mean("equl", ["equal", "cov"]) == " Did you mean 'equal'?"
    assert registry.did_you_mean("surely not", ["equal", "cov"]) == ""


# On the command line -------------------------------------------------------------------------------------------------


def command(folder: Path, *arguments: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "equipoise.cli", "balancers", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": str(columns), "NO_COLOR": "1"},
    )


def test_the_command_lists_other_packages(tmp_path: Path) -> None:
    write(tmp_path, "halves-of-it", GOOD, ["halved = halves_of_it:Halved"])
    write(tmp_path, "odd", "import surely_not_there", ["broken = odd:Halved"])

    table = command(tmp_path, columns=160)
    assert table.returncode == 0, table.stderr
    tail = table.stdout.split("Other packages")[1]
    assert "halved" in tail
    assert "[really]" in tail  # no markup of anybody's
    assert "halves-of-it" in " ".join(tail.split())
    assert "cannot be used:" in tail
    assert "surely_not_there" in tail
    assert table.stderr.count("surely_not_there") == 1

    done = command(tmp_path, "--json")
    rows = {each["method"]: each for each in json.loads(done.stdout)}
    assert rows["halved"]["package"] == "halves-of-it"
    assert rows["halved"]["defaults"] == {"name": "x", "task_names": 2}
    assert rows["broken"]["error"]
    assert rows["dao"]["error"] == ""

    whole = command(tmp_path, "broken")
    assert whole.returncode == 0
    assert "surely_not_there" in whole.stdout
    assert "recipe" not in whole.stdout


@pytest.mark.parametrize("columns", [80, 160])
def test_the_table_has_every_method_whole(columns: int, tmp_path: Path) -> None:
    done = command(tmp_path, columns=columns)
    assert "…" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= columns
    shown = [line.split()[0] for line in done.stdout.splitlines() if line[:1] == " " and line[1:2].strip()]
    places = [shown.index(each["method"]) for members in registry.by_family(describe()).values() for each in members]
    assert places == sorted(places)
    titles = [line.strip() for line in done.stdout.splitlines()]
    assert [title for title in registry.FAMILIES.values() if title in titles] == list(registry.by_family(describe()))


def test_one_method_is_told_whole(tmp_path: Path) -> None:
    done = command(tmp_path, "fixed", columns=160)
    words = done.stdout
    (row,) = [each for each in describe() if each["method"] == "fixed"]
    for key in ("method", "class", "package", "source", "url", "rule", "needs", "cost", "state", "ours"):
        assert row[key] in words
    assert "weights: required" in words
    assert "monitor_every: 1" in words
    assert "balance: {method: fixed, weights: {TASK: 1.0}}" in words


def test_an_unknown_method_is_one_line(tmp_path: Path) -> None:
    done = command(tmp_path, "fixd")
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: no balancer 'fixd'. Did you mean 'fixed'?" in done.stderr


# Ours ----------------------------------------------------------------------------------------------------------------


def test_every_method_of_ours_belongs_to_a_family() -> None:
    for each in describe():
        if each["package"] == "equipoise":
            assert each["family"] in set(registry.FAMILIES) - {"other"}, each["method"]


def test_no_method_of_ours_is_an_abstract_base() -> None:
    for name, cls in available().items():
        assert cls is not Balancer, name
