"""What is planted in a folder is refused by name, in one line that says what to do, and nothing of it runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import write_table
from evil_folders import IN_ADAPTERS, PLANTED, change, pickled_safetensors
from model_helpers import make, train_step
from typer.testing import CliRunner

import equipoise as eq
from equipoise.cli import app
from equipoise.errors import EquipoiseError, RecipeError, RunError
from equipoise.models import find_danger, load_backbone, load_model, save_model
from equipoise.recipe import AdapterSettings


@pytest.fixture(scope="module")
def whole(tiny_backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's model."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    made = make(tiny_backbone("bert"))
    save_model(made.model, made.tokenizer, made.sidecar, folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tiny_backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that was saved alone."""
    folder = tmp_path_factory.mktemp("adapter") / "model"
    made = make(tiny_backbone("bert"), adapter=AdapterSettings(rank=2, merge=False))
    save_model(made.model, made.tokenizer, made.sidecar, folder)
    return folder


@pytest.fixture(scope="module")
def trained(tiny_backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> eq.Run:
    folder = tmp_path_factory.mktemp("trained")
    recipe = {
        "model": {"backbone": str(tiny_backbone("bert")), "max_length": 24},
        "data": {"train": str(write_table(folder / "table.csv")), "validation": 0.2},
        "tasks": {"label": {"type": "classification"}},
        "training": {"max_steps": 1, "precision": "fp32"},
    }
    return eq.train(recipe, output=folder / "run", progress=False)


def refused(door: Callable[[], Any], expected: str, marker: Path) -> str:
    """Opens a door and gives what was said."""
    with pytest.raises(EquipoiseError, match=expected) as error:
        door()
    said = str(error.value)
    assert "\n" not in said
    assert not marker.exists(), "planted code has run"
    return said


def test_the_folders_are_sound_before_anything_is_planted(whole: Path, adapter: Path, tmp_path: Path) -> None:
    for source in (whole, adapter):
        folder = Path(shutil.copytree(source, tmp_path / source.parent.name))
        assert find_danger(folder) is None
        assert len(eq.load(folder, device="cpu").predict(["profit"])) == 1


def test_a_planted_pickle_would_run_if_anything_opened_it(tmp_path: Path) -> None:
    import pickle

    marker = tmp_path / "ran"
    tmp_path.joinpath("model").mkdir()
    pickled_safetensors(tmp_path / "model", marker)
    pickle.loads((tmp_path / "model" / "model.safetensors").read_bytes())  # noqa: S301  it is ours
    assert marker.exists()


@pytest.mark.parametrize("name", PLANTED)
def test_a_run_with_it_is_refused(whole: Path, tmp_path: Path, name: str) -> None:
    plant, expected = PLANTED[name]
    folder, marker = Path(shutil.copytree(whole, tmp_path / "run" / "model")), tmp_path / "ran"
    plant(folder, marker)
    said = refused(lambda: eq.load(folder.parent, device="cpu"), expected, marker)
    assert str(folder) in said
    assert refused(lambda: eq.load(folder, device="cpu"), expected, marker) == said


@pytest.mark.parametrize("name", PLANTED)
def test_a_backbone_with_it_is_refused(tiny_backbone: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    plant, expected = PLANTED[name]
    folder, marker = Path(shutil.copytree(tiny_backbone("bert"), tmp_path / "backbone")), tmp_path / "ran"
    plant(folder, marker)
    said = refused(lambda: make(folder), expected, marker)
    assert said.startswith("model.backbone: ")


# An adapter has no weights of this name, so nobody reads them.
@pytest.mark.parametrize("name", sorted({*PLANTED, *IN_ADAPTERS} - {"safetensors that are a pickle"}))
def test_an_adapter_with_it_is_refused(adapter: Path, tmp_path: Path, name: str) -> None:
    plant, expected = (PLANTED | IN_ADAPTERS)[name]
    folder, marker = Path(shutil.copytree(adapter, tmp_path / "run" / "model")), tmp_path / "ran"
    plant(folder, marker)
    refused(lambda: eq.load(folder, device="cpu"), expected, marker)


def test_an_adapters_backbone_is_looked_at_too(
    tiny_backbone: Callable[[str], Path], adapter: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "model"))
    backbone = Path(shutil.copytree(tiny_backbone("bert"), tmp_path / "backbone"))
    change("multitask.json", backbone=str(backbone))(folder, tmp_path)
    PLANTED["auto_map with its code"][0](backbone, tmp_path / "ran")
    said = refused(lambda: eq.load(folder, device="cpu"), "is code, and none of it has run", tmp_path / "ran")
    assert "trust_remote_code=True" in said


def test_a_pickle_below_a_models_folder_is_refused(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    (folder / "more" / "still").mkdir(parents=True)
    (folder / "more" / "still" / "x.pkl").write_bytes(b"")
    refused(lambda: eq.load(folder), r"more/still/x\.pkl is a pickle", tmp_path / "ran")


def test_labels_that_are_called_like_settings_are_labels(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    names = ["auto_map", "vocab_file", "custom_pipelines", "transformers_weights"]
    labels = {"id2label": {str(at): name for at, name in enumerate(names)}, "label2id": dict.fromkeys(names, 1)}
    (folder / "config.json").write_text(json.dumps(config | labels))
    assert find_danger(folder) is None


# The hub's cache -----------------------------------------------------------------------------------------------------


def cached(source: Path, cache: Path) -> Path:
    """A folder as the hub's cache has it: a snapshot of links to blobs."""
    repository = cache / "models--org--name"
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(source.iterdir())):
        shutil.copyfile(path, repository / "blobs" / f"{number:040x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:040x}")
    return snapshot


def test_links_of_the_hubs_cache_are_followed_to_its_blobs(
    tiny_backbone: Callable[[str], Path], whole: Path, tmp_path: Path
) -> None:
    assert make(cached(tiny_backbone("bert"), tmp_path / "cache")).model is not None
    snapshot = cached(whole, tmp_path / "runs")
    assert len(eq.load(snapshot, device="cpu").predict(["profit"])) == 1


def test_links_of_the_hubs_cache_lead_nowhere_else(whole: Path, tmp_path: Path) -> None:
    snapshot = cached(whole, tmp_path / "cache")
    other = tmp_path / "cache" / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    (other / "1").write_text("{}")
    (snapshot / "notes.json").symlink_to("../../../models--org--other/blobs/1")
    refused(lambda: eq.load(snapshot), r"notes\.json is a link that leads out", tmp_path / "ran")
    (snapshot / "notes.json").unlink()
    blob = snapshot / ".." / ".." / "blobs" / "2"
    blob.symlink_to(other / "1")  # a blob that is a link itself
    (snapshot / "notes.json").symlink_to("../../blobs/2")
    refused(lambda: eq.load(snapshot), r"notes\.json is a link that leads out", tmp_path / "ran")


# A run's other files -------------------------------------------------------------------------------------------------


def copied(run: eq.Run, folder: Path) -> eq.Run:
    return eq.Run(Path(shutil.copytree(run.folder, folder)))


@pytest.mark.parametrize(
    "name", ["metrics.json", "recipe.yaml", "README.md", "history.jsonl", "model", "predictions/worst.jsonl"]
)
def test_a_link_out_of_a_run_is_refused(trained: eq.Run, tmp_path: Path, name: str) -> None:
    run = copied(trained, tmp_path / "run")
    (tmp_path / "outside").mkdir()
    moved = (run.folder / name).rename(tmp_path / "outside" / Path(name).name)
    (run.folder / name).symlink_to(moved)
    for door in (eq.load, eq.write_report, eq.write_card):
        refused(
            lambda door=door: door(run.folder),
            rf"{Path(name).name} is a link that leads out of the run",
            tmp_path / "ran",
        )  # type: ignore[misc]
    (tmp_path / "elsewhere").symlink_to(trained.folder)
    assert eq.load(tmp_path / "elsewhere", device="cpu").tasks  # a link to a whole run is somebody's own


@pytest.mark.parametrize("split", ["../../outside", "/etc/hostname", "..", "a\\b"])
def test_a_splits_name_leads_nowhere(trained: eq.Run, tmp_path: Path, split: str) -> None:
    run = copied(trained, tmp_path / "run")
    metrics = json.loads(run.metrics_file.read_text())
    metrics["splits"] = {split: metrics["splits"]["validation"]}
    run.metrics_file.write_text(json.dumps(metrics))
    refused(lambda: eq.write_report(run.folder), r"is no name of a split", tmp_path / "ran")


@pytest.mark.parametrize("task", ["../../../evil", "a/b", "..", "a\\b"])
def test_a_tasks_name_makes_no_folder_elsewhere(whole: Path, tmp_path: Path, task: str) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run" / "model"))
    sidecar = json.loads((folder / "multitask.json").read_text())
    sidecar["tasks"][0]["name"] = task
    (folder / "multitask.json").write_text(json.dumps(sidecar))
    before = set(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, ["export", str(folder.parent), "-o", str(tmp_path / "deep" / "out")])
    assert isinstance(done.exception, RunError)
    assert set(tmp_path.rglob("*")) - {tmp_path / "deep"} == before


def test_a_chat_template_is_carried_and_never_run(whole: Path, tmp_path: Path) -> None:
    folder, marker = Path(shutil.copytree(whole, tmp_path / "model")), tmp_path / "ran"
    evil = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    evil += f"{{{{ cycler.__init__.__globals__.os.mkdir('{marker}') }}}}"
    (folder / "chat_template.jinja").write_text(evil)
    model = eq.load(folder, device="cpu")
    model.predict(["profit"])
    save_model(model.exact().model, model.exact().tokenizer, model.exact().sidecar, tmp_path / "again")
    assert (tmp_path / "again" / "chat_template.jinja").read_text() == evil
    assert not marker.exists()


def test_a_folder_that_holds_ours_may_hold_papers(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    for name in ("README.md", "LICENSE", ".gitattributes", "report.html", "notes.txt", "vocab.model"):
        (folder / name).write_text("x")
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    assert load_model(folder).model is not None


# An ONNX export ------------------------------------------------------------------------------------------------------


def test_an_onnx_export_with_something_planted_is_refused(trained: eq.Run, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="ONNX needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="ONNX needs the extra onnx")
    from equipoise.inference import export_onnx

    export_onnx(trained, tmp_path / "sound", tolerance=1.0)
    assert len(eq.load(tmp_path / "sound").predict(["profit"])) == 1
    for number, name in enumerate(
        ("a .pkl file", "a script", "a link out", "auto_map alone", "a vocabulary elsewhere")
    ):
        folder = Path(shutil.copytree(tmp_path / "sound", tmp_path / f"planted{number}" / "model"))
        plant, expected = PLANTED[name]
        plant(folder, tmp_path / "ran")
        refused(lambda folder=folder: eq.load(folder), expected, tmp_path / "ran")  # type: ignore[misc]
    # Weights beside the graph: the file that it names must lie in the folder.
    folder = Path(shutil.copytree(tmp_path / "sound", tmp_path / "elsewhere" / "model"))
    graph = onnx.load(folder / "model.onnx")
    weight = max(graph.graph.initializer, key=lambda one: len(one.raw_data))
    (tmp_path / "elsewhere" / "secret").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret")
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    refused(lambda: eq.load(folder), r"model\.onnx cannot be loaded", tmp_path / "ran")


@pytest.mark.parametrize(("version", "refused"), [("1.23.2", True), ("0.99", True), ("1.24.0", False), ("2.0", False)])
def test_an_onnxruntime_that_reads_outside_the_folder_is_not_used(
    version: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = pytest.importorskip("onnxruntime", reason="ONNX needs the extra onnx")
    from equipoise.inference._onnx import onnxruntime

    monkeypatch.setattr(package, "__version__", version)
    if refused:
        with pytest.raises(EquipoiseError, match=rf"onnxruntime {version} reads weights from wherever.*1\.24"):
            onnxruntime()
    else:
        assert onnxruntime() is package


# Checks of the checks ------------------------------------------------------------------------------------------------


def test_weights_that_exist_as_a_pickle_only_say_how_to_convert_them(
    tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModel

    folder = Path(shutil.copytree(tiny_backbone("bert"), tmp_path / "backbone"))
    weights = AutoModel.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    said = refused(lambda: make(folder), "write it anew as safetensors", tmp_path / "ran")
    # What the line says to do is done, and helps.
    assert f"AutoModel.from_pretrained('{folder}').save_pretrained(...)" in said
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "new")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(folder / name, tmp_path / "new" / name)
    train_step(make(tmp_path / "new"))


def test_a_terminal_is_never_asked_whether_code_may_run(
    tiny_backbone: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # transformers asks "Do you wish to run the custom code? [y/N]" where it is told neither yes nor no.
    questions = []
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or "n")
    monkeypatch.setattr("equipoise.models._backbone.find_danger", lambda *a, **k: None)
    folder, marker = Path(shutil.copytree(tiny_backbone("bert"), tmp_path / "backbone")), tmp_path / "ran"
    PLANTED["auto_map of an unknown type"][0](folder, marker)
    with pytest.raises(RecipeError, match="brings code of its own, and none of it has run"):
        load_backbone(str(folder))
    PLANTED["auto_map with its code"][0](folder, marker)
    change("config.json", model_type="bert")(folder, marker)
    found = load_backbone(str(folder))  # a stock class is there for it, and takes its place
    assert not marker.exists()
    assert not hasattr(found.config, "auto_map")
    assert questions == []
    assert os.environ["DISABLE_SAFETENSORS_CONVERSION"] == "1"
