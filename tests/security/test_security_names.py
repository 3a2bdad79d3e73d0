"""A name on a hub and a folder are never taken for one another without a word."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from equipoise.data import open_table
from equipoise.errors import DataError, EquipoiseError, RecipeError, RunError
from equipoise.hub_names import name_problem, revision_problem
from equipoise.models import load_backbone, locate
from equipoise.recipe import load
from equipoise.sharing._push import _check_name
from equipoise.training import make_plan
from equipoise.training._run import opening_lines

#: No name on any hub: paths, what looks alike, what a terminal or a log would show as something else.
BAD = [
    "",
    "..",
    "../x",
    "org/..",
    "org/../x",
    "org/na..me",
    "/org/name",
    "~/name",
    "~nobody-here/name",
    "./name",
    "org/name/",
    "org//name",
    "org/name/more",
    "org\\name",
    "..\\..\\x",
    "C:\\x",
    "C:/x",
    "org/na me",
    "org/name\n",
    "org/name\x00",
    "org/\x1b[2Jname",
    "org/na\u200bme",
    "org/\u202ename",
    "\u043erg/name",  # a Cyrillic o
    "org/n\u00e4me",
    "org/name.git",
    "org/na--me",
    "-org/name",
    "org/name?x=1",
    "org/name#x",
    "org/name%2e%2e",
    "https://hub.invalid/org/name",
    "org/name@main",
    "org:name",
    "x" * 97,
    "org/" + "x" * 5000,
]
GOOD = ["bert-base-uncased", "org/name", "Org_1/some-model.v2", "sentence-transformers/all-MiniLM-L6-v2", "_a/b_"]


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_what_is_no_name_is_told_as_one_wherever_it_stands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert name_problem(name)
    doors: list[tuple[type[EquipoiseError], Callable[[], Any]]] = [
        (RecipeError, lambda: locate(f"hub:{name}")),
        (RunError, lambda: _check_name(name, None)),
    ]
    if not os.path.isdir(name):  # `..` is a folder, and may be meant
        doors.append((RecipeError, lambda: locate(name)))
    if not {":", "@"} & set(name):  # in data they begin the configuration and the split
        doors.append((DataError, lambda: open_table(f"hub:{name}")))
    for error, door in doors:
        with pytest.raises(error) as found:
            door()
        assert "\n" not in str(found.value)
        assert str(found.value).isprintable()


@pytest.mark.parametrize("name", GOOD)
def test_a_name_is_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert name_problem(name) is None
    assert locate(name) == name
    assert locate(f"hub:{name}") == name


@pytest.mark.parametrize(
    "revision", ["../../x", "a/../b", "/x", "", "a b", "x\n", "-x", "\u043c", "x" * 300, "refs\\x"]
)
def test_a_revision_is_no_path(revision: str) -> None:
    assert revision_problem(revision)
    with pytest.raises(RecipeError, match=r"model\.revision"):
        load_backbone("org/name", revision)
    with pytest.raises(RunError, match="is no branch"):
        _check_name("org/name", revision)
    for good in (None, "main", "v1.0", "refs/pr/3", "0123abcd", "feature/x-1"):
        assert revision_problem(good) is None


def test_a_folder_and_a_name_on_the_hub(
    tiny_backbone: Callable[[str], Path], tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_backbone("bert"), tmp_path / "org" / "name")
    tiny_recipe["model"]["backbone"] = "org/name"
    # The folder beside the recipe is taken, and the first lines say so.
    recipe = load(tiny_recipe)
    assert recipe.model.backbone == str(tmp_path / "org" / "name")
    assert f"(folder {tmp_path / 'org' / 'name'})" in "\n".join(opening_lines(make_plan(recipe, tmp_path)))
    # `hub:` means the hub; transformers would read the folder in its place, so that is refused here.
    tiny_recipe["model"]["backbone"] = "hub:org/name"
    assert load(tiny_recipe).model.backbone == "hub:org/name"
    with pytest.raises(RecipeError, match="'hub:org/name' is on a hub, and a folder 'org/name' lies here"):
        locate("hub:org/name")
    # A folder that was misspelt is not fetched from whoever has that name.
    with pytest.raises(
        RecipeError, match=r"there is a folder 'org', and no folder 'org/nmae' in it.*write hub:org/nmae"
    ):
        locate("org/nmae")
    assert locate("hub:org/nmae") == "org/nmae"
    # The default has a name that a folder may bear, too.
    (tmp_path / "minilm").mkdir()
    assert Path(locate("minilm")) != tmp_path / "minilm"
    (tmp_path / "sentence-transformers" / "all-MiniLM-L6-v2").mkdir(parents=True)
    monkeypatch.setattr("equipoise.models._backbone.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="a folder 'sentence-transformers/all-MiniLM-L6-v2' lies here"):
        locate("minilm")


def test_a_data_set_and_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "org" / "name" / "train.csv").write_text("text\nread in place of the hub's\n")
    with pytest.raises(DataError, match="a folder 'org/name' lies here, which would be read in place of the hub's"):
        open_table("hub:org/name")


@pytest.mark.parametrize("name", ["~nobody-here/x", "x" * 5000, "a\x00b"])
def test_a_recipe_with_an_odd_backbone_is_told_so(tiny_recipe: dict[str, Any], tmp_path: Path, name: str) -> None:
    tiny_recipe["model"]["backbone"] = name
    with pytest.raises(RecipeError, match=r"model\.backbone"):
        make_plan(load(tiny_recipe), tmp_path)


@pytest.mark.parametrize(
    "name", ["a/b", "../a", "a\\b", "a\nb", "a.b", "/", "", ".", "a\x00", "<img>", "a:b", "a\u202e"]
)
def test_a_tasks_name_is_no_path(tiny_recipe: dict[str, Any], name: str) -> None:
    tiny_recipe["tasks"] = {name: {"type": "classification", "column": "label"}}
    with pytest.raises(RecipeError, match="a task's name is text made of letters"):
        load(tiny_recipe)
