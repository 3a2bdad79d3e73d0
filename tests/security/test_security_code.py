"""Code that a model brings along runs where the recipe's author says so, is told everywhere, and never because a folder asks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import write_table
from custom_backbone import write_backbone
from huggingface_hub import ModelCard
from typer.testing import CliRunner

import equipoise as eq
from equipoise.cli import app
from equipoise.errors import RecipeError, RunError
from equipoise.sharing._files import pack
from equipoise.training._run import opening_lines

FILES = ["configuration_tiny.py", "layers_tiny.py", "modeling_tiny.py"]


@pytest.fixture(scope="module", autouse=True)
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the backbone's code writes that it has run; what transformers copies goes to a folder of the test's."""
    place = tmp_path_factory.mktemp("ran")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQUIPOISE_TEST_RAN", str(place / "ran.txt"))
        for module in ("transformers.dynamic_module_utils", "transformers.utils.hub"):
            patch.setattr(f"{module}.HF_MODULES_CACHE", str(place / "modules"))
        patch.syspath_prepend(str(place / "modules"))
        yield place / "ran.txt"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("own") / "backbone")


def recipe(backbone: Path, folder: Path, **model: Any) -> dict[str, Any]:
    return {
        "model": {"backbone": str(backbone), "max_length": 24, **model},
        "data": {"train": str(write_table(folder / "table.csv")), "validation": 0.2},
        "tasks": {
            "polarity": {"type": "regression", "column": "score", "range": [-1, 1]},
            "label": {"type": "classification"},
        },
        "training": {"max_steps": 3, "precision": "fp32", "learning_rate": 1e-3},
    }


@pytest.fixture(scope="module")
def trained(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> eq.Run:
    folder = tmp_path_factory.mktemp("trusted")
    given = recipe(backbone, folder, trust_remote_code=True)
    return eq.train(given, output=folder / "run", progress=False)


@contextlib.contextmanager
def nothing_runs(ran: Path) -> Iterator[None]:
    before = ran.read_text() if ran.exists() else ""
    yield
    assert (ran.read_text() if ran.exists() else "") == before, "the folder's code has run"


def test_without_the_flag_it_is_refused_and_nothing_runs(backbone: Path, ran: Path, tmp_path: Path) -> None:
    with nothing_runs(ran), pytest.raises(RecipeError) as error:
        eq.train(recipe(backbone, tmp_path), output=tmp_path / "run", progress=False)
    said = str(error.value)
    assert "configuration_tiny.py is code, and none of it has run" in said
    assert "set model.trust_remote_code: true in the recipe" in said
    assert "\n" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", ["yes", 1, "true"])
def test_the_flag_is_true_or_false_and_nothing_like_it(backbone: Path, tmp_path: Path, value: object) -> None:
    with pytest.raises(RecipeError, match=r"model\.trust_remote_code"):
        eq.train(recipe(backbone, tmp_path, trust_remote_code=value), output=tmp_path / "run", progress=False)


def test_with_the_flag_it_trains_and_is_told_everywhere(trained: eq.Run, backbone: Path, ran: Path) -> None:
    assert "modeling_tiny" in ran.read_text()
    training = trained.metrics["training"]
    wanted = {name: hashlib.sha256((backbone / name).read_bytes()).hexdigest() for name in FILES}
    assert training["trust_remote_code"] is True
    assert training["remote_code"] == wanted
    assert "trust_remote_code: true" in trained.recipe_file.read_text()
    page = trained.report_file.read_text()
    assert "model.trust_remote_code was on" in page
    assert f"modeling_tiny.py (SHA-256 {wanted['modeling_tiny.py'][:16]}" in page
    card = trained.card_file.read_text()
    assert "**It runs code of its own**" in card
    assert "trust_remote_code=True" in card
    assert "--trust-remote-code" in card
    assert "custom_code" in ModelCard(card).data.tags
    assert "pipeline(" not in card  # transformers alone does not load it as the card would say


def test_the_first_lines_say_it(backbone: Path, tmp_path: Path) -> None:
    from equipoise.recipe import load
    from equipoise.training import make_plan

    plan = make_plan(load(recipe(backbone, tmp_path, trust_remote_code=True)), tmp_path)
    lines = "\n".join(opening_lines(plan))
    assert f"the backbone's own code runs here: {', '.join(FILES)}" in lines
    assert f"(folder {backbone})" in lines


def test_a_stock_backbone_with_the_flag_runs_nothing(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    from equipoise.recipe import load
    from equipoise.training import make_plan

    tiny_recipe["model"]["trust_remote_code"] = True
    plan = make_plan(load(tiny_recipe), tmp_path)
    assert plan.backbone.code == {}
    assert "the backbone brings no code along" in "\n".join(opening_lines(plan))


def test_the_code_is_saved_and_what_is_loaded_says_the_same(trained: eq.Run, ran: Path) -> None:
    names = {path.name for path in trained.model_folder.iterdir()}
    assert set(FILES) <= names
    assert (
        json.loads((trained.model_folder / "config.json").read_text())["auto_map"]["AutoModel"]
        == "modeling_tiny.TinyModel"
    )
    model = eq.load(trained, trust_remote_code=True, device="cpu")
    first = model.predict(["strong profit", "weak loss ."])
    again = eq.load(trained.model_folder, trust_remote_code=True, device="cpu").predict(
        ["strong profit", "weak loss ."]
    )
    assert first.equals(again)


def test_a_run_that_asks_for_it_is_not_enough(trained: eq.Run, ran: Path, tmp_path: Path) -> None:
    run = eq.Run(Path(shutil.copytree(trained.folder, tmp_path / "run")))
    table = write_table(tmp_path / "new.csv", rows=20)
    with nothing_runs(ran):
        with pytest.raises(
            RunError, match=r"is code, and none of it has run\. .*trust_remote_code=True, or --trust-remote-code"
        ):
            eq.load(run)
        for command in (
            ["predict", str(run.folder), str(table), "-o", str(tmp_path / "out.csv")],
            ["evaluate", str(run.folder), "--data", str(table)],
            ["explain", str(run.folder), "profit"],
            ["export", str(run.folder), "-o", str(tmp_path / "out")],
        ):
            done = CliRunner().invoke(app, command)
            assert isinstance(done.exception, RunError), (command, done.output)
            assert "none of it has run" in str(done.exception)
        for path in run.model_folder.glob("*.py"):
            path.unlink()  # then the configuration still names it
        with pytest.raises(RunError, match=r"config\.json names code to be run"):
            eq.load(run)


def test_the_commands_take_the_flag(trained: eq.Run, tmp_path: Path) -> None:
    table = write_table(tmp_path / "new.csv", rows=20)
    for command in (
        ["predict", str(trained.folder), str(table), "-o", str(tmp_path / "out.csv")],
        ["evaluate", str(trained.folder), "--data", str(table), "--json"],
        ["export", str(trained.folder), "-o", str(tmp_path / "label"), "--task", "label"],
    ):
        done = CliRunner().invoke(app, [*command, "--trust-remote-code"])
        assert done.exit_code == 0, (command, done.output, done.exception)
    assert (tmp_path / "label" / "modeling_tiny.py").is_file()


def test_a_service_never_runs_it(trained: eq.Run, ran: Path) -> None:
    from starlette.testclient import TestClient

    from equipoise.serving import create_app

    with (
        nothing_runs(ran),
        pytest.raises(eq.EquipoiseError, match="none of it has run"),
        TestClient(create_app({"run": trained.folder})),
    ):
        pass


def test_resuming_somebody_elses_run_asks_again(backbone: Path, ran: Path, tmp_path: Path) -> None:
    run = eq.Run(tmp_path / "run")
    run.folder.mkdir()
    settings = recipe(backbone, tmp_path, trust_remote_code=True) | {"output": str(run.folder)}
    run.recipe_file.write_text(json.dumps(settings))
    with nothing_runs(ran), pytest.raises(RunError, match="resume with trust_remote_code=True, or --trust-remote-code"):
        eq.resume(run.folder, progress=False)
    assert eq.resume(run.folder, progress=False, trust_remote_code=True).metrics["training"]["steps"] == 3


def test_code_that_lies_elsewhere_does_not_run_even_with_the_flag(backbone: Path, ran: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(backbone, tmp_path / "backbone"))
    config = json.loads((folder / "config.json").read_text())
    for auto_map, said in (
        ({"AutoConfig": "evil/repo--configuration_tiny.TinyConfig"}, "names code that lies elsewhere"),
        ({"AutoConfig": "../outside.TinyConfig"}, "names code that lies elsewhere"),
        ({"AutoConfig": "absent.TinyConfig"}, "the folder holds no such file"),
    ):
        (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto_map}))
        with nothing_runs(ran), pytest.raises(RecipeError, match=said):
            eq.train(recipe(folder, tmp_path, trust_remote_code=True), output=tmp_path / "run", progress=False)


def test_pickles_and_links_are_refused_with_the_flag_too(backbone: Path, ran: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(backbone, tmp_path / "backbone"))
    (folder / "extra.pkl").write_bytes(b"")
    with nothing_runs(ran), pytest.raises(RecipeError, match=r"extra\.pkl is a pickle"):
        eq.train(recipe(folder, tmp_path, trust_remote_code=True), output=tmp_path / "run", progress=False)
    (folder / "extra.pkl").unlink()
    (tmp_path / "outside.py").write_text("")
    (folder / "layers_tiny.py").unlink()
    (folder / "layers_tiny.py").symlink_to(tmp_path / "outside.py")
    with nothing_runs(ran), pytest.raises(RecipeError, match=r"layers_tiny\.py is a link that leads out"):
        eq.train(recipe(folder, tmp_path, trust_remote_code=True), output=tmp_path / "run", progress=False)


def test_code_that_fails_is_one_line(backbone: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(backbone, tmp_path / "backbone"))
    (folder / "modeling_tiny.py").write_text("raise RuntimeError('odd')\n")
    with pytest.raises(RecipeError, match=r"the code of '.*' failed: RuntimeError: odd"):
        eq.train(recipe(folder, tmp_path, trust_remote_code=True), output=tmp_path / "run", progress=False)


def test_a_push_sends_the_code_that_the_run_names(trained: eq.Run, tmp_path: Path) -> None:
    run = eq.Run(Path(shutil.copytree(trained.folder, tmp_path / "run")))
    (run.model_folder / "other.py").write_text("")
    parcel = pack(run, "me/reviews", with_report=False)
    assert set(FILES) <= set(parcel.files)
    assert "other.py" in parcel.left_out
    assert os.environ["EQUIPOISE_TEST_RAN"]
