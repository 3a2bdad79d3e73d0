import contextlib
import json
import math
import os
import resource
import shutil
import tempfile
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.errors import RunError
from equipoise.models import SIDECAR, Sidecar
from equipoise.runs import Run, atomic_path, remove_folder, replace_folder, write_json, write_text
from equipoise.tasks import kind


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_write_is_whole_or_not_at_all(tmp_path):
    file = tmp_path / "metrics.json"
    write_json(file, {"a": 1})
    with pytest.raises(TypeError), atomic_path(file) as temporary, temporary.open("w") as half:
        print("half a fi", file=half, end=3)
    assert json.loads(file.read_text()) == {"a": 1}
    assert names(tmp_path) == ["metrics.json"]


def test_writer_that_writes_nothing_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with pytest.raises(FileNotFoundError), atomic_path(file):
        pass
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_folders_are_made_on_the_way(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "ä\n")
    assert (tmp_path / "a" / "b" / "c.txt").read_text(encoding="utf-8") == "ä\n"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused_in_json(tmp_path, value):
    write_json(tmp_path / "m.json", {"mse": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "m.json", {"mse": value})
    with pytest.raises(ValueError, match="not JSON compliant"):
        Run(tmp_path).append_history({"step": 1, "loss": value})
    assert json.loads((tmp_path / "m.json").read_text()) == {"mse": 0.5}
    assert Run(tmp_path).history == []


def test_replace_folder(tmp_path):
    for name, text in (("model", "old"), (".model.tmp", "new")):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "file").write_text(text)
    (tmp_path / "model" / "only-old").write_text("")
    replace_folder(tmp_path / ".model.tmp", tmp_path / "model")
    assert (tmp_path / "model" / "inner" / "file").read_text() == "new"
    assert names(tmp_path / "model") == ["inner"]
    assert names(tmp_path) == ["model"]


def test_replace_folder_where_none_stood_and_a_stale_one_is_left(tmp_path):
    for name in (".a.tmp", ".a.old", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    replace_folder(tmp_path / ".a.tmp", tmp_path / "a")
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == [".a.tmp"]
    (tmp_path / "b.tmp").mkdir()
    replace_folder(tmp_path / "b.tmp", tmp_path / "b")
    assert names(tmp_path) == ["a", "b"]


# The folder itself


def finished(folder):
    run = Run.create(folder)
    run.recipe_file.write_text("tasks: {}\n")
    run.model_folder.mkdir()
    (run.folder / ".model.tmp").mkdir()
    run.append_history({"step": 1})
    return run


def test_create_makes_an_empty_folder(tmp_path):
    run = Run.create(tmp_path / "runs" / "a")
    assert names(run.folder) == []
    assert Run.create(tmp_path / "runs" / "a").folder == run.folder


def test_create_keeps_a_run_that_stands_there(tmp_path):
    finished(tmp_path / "a")
    with pytest.raises(RunError, match=r"there is a run in '.*' already\. .*--resume.*--overwrite.*-o"):
        Run.create(tmp_path / "a")
    Run.open(tmp_path / "a")
    run = Run.create(tmp_path / "a", overwrite=True)
    assert names(run.folder) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_create_never_empties_what_is_no_run(tmp_path, overwrite):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match=r"is not empty and is no run\. Choose another"):
        Run.create(tmp_path / "letters", overwrite=overwrite)
    # A project's own folder has a recipe too.
    for foreign in ("train.csv", ".git"):
        project = tmp_path / f"project{foreign}"
        project.mkdir()
        (project / "recipe.yaml").write_text("")
        (project / foreign).write_text("text,label\n")
        with pytest.raises(RunError, match=rf"holds '{foreign}', which is no part of a run\. Choose another"):
            Run.create(project, overwrite=overwrite)
        assert names(project) == sorted([foreign, "recipe.yaml"])
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        Run.create(tmp_path / "file", overwrite=overwrite)
    with pytest.raises(RunError, match="cannot be made"):
        Run.create(tmp_path / "file" / "below", overwrite=overwrite)
    assert names(tmp_path / "letters") == ["letter.txt"]


def test_overwrite_follows_no_link_out_of_the_run(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("!")
    run = finished(tmp_path / "a")
    (run.folder / "predictions").symlink_to(outside)
    Run.create(run.folder, overwrite=True)
    assert names(outside) == ["precious.txt"]
    (tmp_path / "link").symlink_to(outside)
    with pytest.raises(RunError, match="is no run"):
        Run.create(tmp_path / "link", overwrite=True)
    assert names(outside) == ["precious.txt"]


def test_overwrite_of_a_run_behind_a_link_keeps_the_link(tmp_path):
    finished(tmp_path / "disk")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    Run.create(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "disk") == []


def test_open(tmp_path):
    with pytest.raises(RunError, match="there is no run folder"):
        Run.open(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"holds no trained model\. Is it a run\?"):
        Run.open(tmp_path)
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(RunError, match=r"has not finished: equipoise train --resume "):
        Run.open(tmp_path)
    (tmp_path / "model").mkdir()
    assert Run.open(str(tmp_path)) == Run(tmp_path)


def test_metrics(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(RunError, match=r"metrics\.json is missing"):
        _ = run.metrics
    run.metrics_file.write_text("{")
    with pytest.raises(RunError, match=r"metrics\.json cannot be read"):
        _ = run.metrics
    run.metrics_file.write_text("[]")
    with pytest.raises(RunError, match=r"metrics\.json is damaged: it holds no mapping"):
        _ = run.metrics
    write_json(run.metrics_file, {"splits": {}})
    assert run.metrics == {"splits": {}}


def test_checkpoints_are_sorted_as_numbers(tmp_path):
    run = Run(tmp_path)
    assert run.checkpoints() == []
    for name in (
        "checkpoint-100",
        "checkpoint-9",
        "checkpoint-20",
        "checkpoint-x",
        "checkpoint-7.tmp",
        "tmp-checkpoint-1",
    ):
        (run.checkpoint_folder / name).mkdir(parents=True)
    (run.checkpoint_folder / "checkpoint-3").write_text("a file")
    assert [path.name for path in run.checkpoints()] == ["checkpoint-9", "checkpoint-20", "checkpoint-100"]


# History

LINES = [{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.25, "name": "line\u2028end\x85ä"}, {"step": 30}]


def test_history(tmp_path):
    run = Run(tmp_path)
    assert run.history == []
    for line in LINES:
        run.append_history(line)
    assert run.history == LINES
    run.truncate_history(20)
    assert run.history == LINES[:2]
    run.truncate_history(-1)
    assert run.history == []


def test_history_cut_off_anywhere_keeps_its_whole_lines(tmp_path):
    run = Run(tmp_path)
    for line in LINES:
        run.append_history(line)
    data = run.history_file.read_bytes()
    for end in range(len(data)):
        run.history_file.write_bytes(data[:end])
        assert run.history == LINES[: data[:end].count(b"\n")]
    run.truncate_history(100)
    run.append_history({"step": 40})
    assert run.history == [*LINES[:2], {"step": 40}]


@pytest.mark.parametrize("damage", [b"{", b"[1]", b"", b"\xff\xfe", b"3"])
def test_damaged_line_in_the_middle(tmp_path, damage):
    run = Run(tmp_path)
    run.history_file.write_bytes(b'{"step": 1}\n' + damage + b'\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"history\.jsonl:2 is damaged"):
        _ = run.history


def test_history_that_cannot_be_read(tmp_path):
    (tmp_path / "history.jsonl").mkdir()
    with pytest.raises(RunError, match=r"history\.jsonl cannot be read"):
        _ = Run(tmp_path).history


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)  # UTF-8 has no lone surrogates


@given(st.lists(st.dictionaries(TEXT, TEXT | st.integers() | st.floats(allow_nan=False, allow_infinity=False))))
def test_history_gives_back_what_was_written(lines):
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        for line in lines:
            run.append_history(line)
        assert run.history == lines


# Kills, at every place where one can come -----------------------------------------------------------------------------


class Cut(BaseException):
    """Stands for a kill: no handler of an error sees it, and nothing is done after it."""


class Kills:
    """Lets the n-th call that changes names on disk never happen, nor any after it."""

    def __init__(self, monkeypatch, at):
        self.calls, self.at = 0, at
        for module, name in ((os, "replace"), (os, "mkdir"), (os, "unlink"), (os, "rmdir"), (os, "truncate")):
            monkeypatch.setattr(module, name, partial(self, getattr(module, name)))

    def __call__(self, call, *args, **kwargs):
        self.calls += 1
        if self.at is not None and self.calls > self.at:
            raise Cut
        return call(*args, **kwargs)


def everything(folder):
    return {str(path.relative_to(folder)): path.is_file() and path.read_text() for path in folder.rglob("*")}


def test_replace_folder_killed_anywhere_loses_nothing(tmp_path, monkeypatch):
    outcomes = []
    for at in range(20):
        place = tmp_path / str(at)
        for name, text in (("model", "old"), (".model.tmp", "new")):
            (place / name).mkdir(parents=True)
            (place / name / "file").write_text(text)
        (place / "recipe.yaml").write_text("")
        with monkeypatch.context() as patched, contextlib.suppress(Cut):
            Kills(patched, at)
            replace_folder(place / ".model.tmp", place / "model")
            outcomes.append("whole")
        Run(place).tidy()
        assert names(place) == ["model", "recipe.yaml"]
        assert names(place / "model") == ["file"]
        outcomes.append((place / "model" / "file").read_text())
    assert outcomes[0] == "old"
    assert outcomes[-2:] == ["whole", "new"]
    assert len(set(outcomes)) == 3


def test_replace_folder_that_fails_keeps_the_one_before(tmp_path, monkeypatch):
    for name, text in (("model", "old"), (".model.tmp", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(text)
    move = os.replace

    def replace(source, target):
        if Path(source).name == ".model.tmp":
            raise OSError(28, "No space left on device")
        move(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="No space left"):
        replace_folder(tmp_path / ".model.tmp", tmp_path / "model")
    assert (tmp_path / "model" / "file").read_text() == "old"


def test_replace_folder_takes_up_what_a_kill_left(tmp_path):
    (tmp_path / ".model.old").mkdir()
    (tmp_path / ".model.tmp").mkdir()
    replace_folder(tmp_path / ".model.tmp", tmp_path / "model")
    assert names(tmp_path) == ["model"]


def test_remove_folder_killed_anywhere_leaves_it_whole_or_absent(tmp_path, monkeypatch):
    seen = set()
    for at in range(8):
        place = tmp_path / str(at)
        (place / "checkpoint-3" / "inner").mkdir(parents=True)
        (place / "checkpoint-3" / "inner" / "file").write_text("x")
        with monkeypatch.context() as patched, contextlib.suppress(Cut):
            Kills(patched, at)
            remove_folder(place / "checkpoint-3")
        if (place / "checkpoint-3").exists():
            assert (place / "checkpoint-3" / "inner" / "file").read_text() == "x"
        seen.add((place / "checkpoint-3").exists())
    assert seen == {True, False}


@pytest.mark.parametrize("linked", [False, True])
def test_overwrite_killed_anywhere_leaves_the_earlier_run_or_the_new_one(tmp_path, monkeypatch, linked):
    outcomes = []
    for at in range(60):
        run = finished(tmp_path / "runs" / str(at))
        (run.model_folder / "model.safetensors").write_text("weights")
        shutil.rmtree(run.folder / ".model.tmp")
        before, folder = everything(run.folder), run.folder
        if linked:
            folder = tmp_path / f"link-{at}"
            folder.symlink_to(run.folder)
        done = False
        with monkeypatch.context() as patched, contextlib.suppress(Cut):
            Kills(patched, at)
            Run.create(folder, overwrite=True, recipe="new: 1\n")
            done = True
        Run(folder).tidy()
        found = everything(run.folder)
        outcomes.append("earlier" if found == before else "new" if found == {"recipe.yaml": "new: 1\n"} else found)
        assert folder.is_symlink() == linked
        if done:
            break
    assert done
    assert outcomes[0] == "earlier"
    assert outcomes[-1] == "new"
    assert outcomes == sorted(outcomes)  # never anything between, and never back


def test_putting_back_killed_anywhere_is_put_back_the_next_time(tmp_path, monkeypatch):
    for at in range(12):
        run = finished(tmp_path / str(at))
        shutil.rmtree(run.folder / ".model.tmp")
        before = everything(run.folder)
        run._move_aside()
        with monkeypatch.context() as patched, contextlib.suppress(Cut):
            Kills(patched, at)
            run.tidy()
        run.tidy()
        assert everything(run.folder) == before


def test_tidy_leaves_alone_what_is_not_ours(tmp_path):
    own = (".git", ".x.tmp", ".notes.old", "checkpoints")
    for name in own:
        (tmp_path / name).mkdir()
    Run(tmp_path).tidy()
    (tmp_path / "recipe.yaml").write_text("")
    for name in (".model.tmp", ".adapter.gone.tmp", ".replaced.old.gone.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / ".metrics.json.123.tmp").write_text("{")
    (tmp_path / "checkpoints" / ".partial").mkdir()
    (tmp_path / "checkpoints" / ".checkpoint-40.old").mkdir()
    (tmp_path / "checkpoints" / "checkpoint-40.damaged").mkdir()
    Run(tmp_path).tidy()
    assert names(tmp_path) == sorted([*own, "recipe.yaml"])
    assert names(tmp_path / "checkpoints") == ["checkpoint-40", "checkpoint-40.damaged"]


def test_a_folder_with_nothing_but_what_a_kill_left_is_free(tmp_path):
    (tmp_path / ".recipe.yaml.123.tmp").write_text("tas")
    assert names(Run.create(tmp_path).folder) == []


def test_a_run_of_a_later_format_is_refused(tmp_path):
    run = finished(tmp_path / "a")
    write_json(run.metrics_file, {"format_version": 2, "versions": {"equipoise": "7.1"}})
    with pytest.raises(
        RunError, match=r"has format version 2; this Equipoise reads 1\. Install a newer Equipoise: 7\.1 wrote"
    ):
        Run.open(run.folder)
    for text in ("{", "[]", "{}", '{"format_version": "2"}', '{"format_version": 1}'):  # whoever needs it says so
        run.metrics_file.write_text(text)
        assert Run.open(run.folder) == run


def test_a_line_that_the_disk_refuses_leaves_nothing(tmp_path, monkeypatch):
    run = Run(tmp_path)
    run.append_history({"step": 1})
    before = run.history_file.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            run.append_history({"step": 2, "note": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run.history_file.read_bytes() == before
    run.append_history({"step": 2})
    assert [line["step"] for line in run.history] == [1, 2]


def test_damage_before_a_line_that_is_kept_is_told(tmp_path):
    run = Run(tmp_path)
    run.history_file.write_bytes(b'{"step": 1}\n\0\0\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"history\.jsonl:2 is damaged\. Take the line away"):
        run.truncate_history(3)
    assert run.truncate_history(2) == 1
    assert run.history == [{"step": 1}]


# The sidecar of the model


@pytest.fixture
def sidecar(tmp_path):
    score, label = kind("regression"), kind("classification")
    tasks = {
        "polarity": score.fit("polarity", score.Settings(range=(-1, 1)), pa.chunked_array([["-1", "1"]])),
        "label": label.fit("label", label.Settings(), pa.chunked_array([["down", "up"]])),
    }
    Sidecar(tasks, "native", 64, ("title", "text"), "minilm").write(tmp_path)
    return tmp_path / SIDECAR


def test_sidecar_comes_back(sidecar):
    found = Sidecar.read(sidecar.parent)
    assert (found.pooling, found.max_length, found.text, found.backbone) == ("native", 64, ("title", "text"), "minilm")
    assert found.revision is None
    assert {name: task.outputs for name, task in found.tasks.items()} == {
        "polarity": ["polarity"],
        "label": ["label/down", "label/up"],
    }


def test_sidecar_of_a_later_format(sidecar):
    data = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(data | {"format_version": 99}))
    with pytest.raises(RunError, match=r"has format version 99; this Equipoise reads 1\. Install a newer Equipoise"):
        Sidecar.read(sidecar.parent)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"format_version": "1"}', '{"format_version": 1}'])
def test_sidecar_that_is_damaged(sidecar, text):
    sidecar.write_text(text)
    with pytest.raises(RunError, match=r"multitask\.json (is damaged|cannot be read|has format version)"):
        Sidecar.read(sidecar.parent)


def test_sidecar_that_is_absent(tmp_path):
    with pytest.raises(RunError, match=r"holds no multitask\.json: it is not a model that Equipoise saved"):
        Sidecar.read(tmp_path)


@pytest.mark.parametrize("value", [None, 3, -1, "x", [], [1], {}, [None], [{}], True])
@pytest.mark.parametrize("key", ["pooling", "max_length", "text", "tasks", "backbone", "revision"])
def test_sidecar_with_an_odd_value_is_refused_or_read(sidecar, key, value):
    allowed = {"max_length": [3], "backbone": ["x"], "revision": [None, "x"], "text": []}.get(key, [])
    data = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(data | {key: value}))
    if value in allowed and not isinstance(value, bool):
        assert Sidecar.read(sidecar.parent)
    else:
        with pytest.raises(RunError, match=r"multitask\.json is damaged"):
            Sidecar.read(sidecar.parent)


def test_sidecar_whose_outputs_do_not_fit(sidecar):
    data = json.loads(sidecar.read_text())
    data["tasks"][1]["outputs"] = [1, 4]
    sidecar.write_text(json.dumps(data))
    with pytest.raises(RunError, match="do not match their labels"):
        Sidecar.read(sidecar.parent)


def test_sidecar_with_a_task_kind_that_we_do_not_have(sidecar):
    data = json.loads(sidecar.read_text())
    data["tasks"][1]["kind"] = "ranking"
    sidecar.write_text(json.dumps(data))
    with pytest.raises(RunError, match=r"multitask\.json: no task type 'ranking'"):
        Sidecar.read(sidecar.parent)


def test_a_folder_with_a_recipe_alone_is_somebody_s_unless_a_killed_run_left_it(tmp_path):
    run = Run(tmp_path / "run")
    write_text(run.recipe_file, "model: {}\n")
    with pytest.raises(RunError, match="holds a recipe of yours"):
        Run.vacant(run.folder, overwrite=True)
    (run.cache_folder / "0").mkdir(parents=True)
    assert Run.vacant(run.folder) == run
