"""Trackers say what history.jsonl says, by name, once each; nothing is written or sent unless asked for."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from stopped_runs import StopAt

from equipoise import recipe as recipes
from equipoise.errors import RecipeError
from equipoise.runs import Run
from equipoise.training import _trackers, make_plan, resume, run_trial, train
from equipoise.training._trackers import Tracker, names_of_run, trackers, values_of

Points = dict[str, list[tuple[int, float]]]  # name -> (step, value), in the order of their steps


def told(run: Run) -> Points:
    """What the history holds, by the names that trackers have for it."""
    found: Points = {}
    for line in run.history:
        for name, value in values_of(line).items():
            found.setdefault(name, []).append((line["step"], value))
    return found


def short(tiny_recipe: dict[str, Any], *names: str) -> dict[str, Any]:
    training = {"epochs": 2, "batch_size": 8, "precision": "fp32", "log_every_steps": 3, "evaluate_every_steps": 8}
    return tiny_recipe | {"training": training | {"trackers": list(names)}}


# Names ---------------------------------------------------------------------------------------------------------------


def test_every_value_of_the_history_has_the_name_that_the_page_gives(tiny_recipe: dict[str, Any]) -> None:
    run = train(short(tiny_recipe), progress=False)
    names = set(told(run))
    assert {
        "train/loss", "train/grad_norm", "train/learning_rate", "train/samples_per_second", "train/epoch",
        "polarity/loss", "polarity/weight", "polarity/norm", "label/loss", "topic/norm",
        "cosine/polarity|label", "cosine/label|topic",
        "validation/polarity/mse", "validation/label/macro_f1",
    } <= names  # fmt: skip
    assert {name.split("/")[0] for name in names} == {"train", "polarity", "label", "topic", "cosine", "validation"}
    assert not [name for name in names if name.endswith(("/n", "/step"))]
    assert not run.tensorboard_folder.exists()  # off by default


def test_what_is_unknown_or_no_number_is_left_out() -> None:
    line = {"step": 4, "loss": None, "tasks": {"a": {"loss": float(2), "norm": None}, "b": {}}, "cosines": {"a|b": 0.5}}
    assert values_of(line) == {"a/loss": 2.0, "cosine/a|b": 0.5}
    metrics = {"a": {"accuracy": 1, "mcc": None, "confusion_matrix": [[1]], "per_class": {"x": {}}, "n": 3}}
    evaluation = {"step": 4, "epoch": 1.0, "split": "validation", "metrics": metrics, "best": True, "replaces": None}
    assert values_of(evaluation) == {"validation/a/accuracy": 1}
    assert values_of({"step": 4, "note": "blocks part", "private_layers": 2}) == {"train/private_layers": 2}


def test_project_and_run_are_named_by_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert names_of_run(Path("runs/reviews")) == (tmp_path.name, "reviews")
    assert names_of_run(Path("/runs/x")) == ("equipoise", "x")
    assert names_of_run(Path("/a b&c/x")) == ("a-b-c", "x")
    assert names_of_run(Path("/x")) == ("equipoise", "x")


# Refused before training ---------------------------------------------------------------------------------------------


def test_an_unknown_name_is_told_with_the_nearest(tiny_recipe: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"training\.trackers\.0: .*'mlflow' or 'wandb'.*Did you mean 'tensorboard'"):
        recipes.load(short(tiny_recipe, "tensorbord"))


@pytest.mark.parametrize("name", ["trackio", "tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_told_before_anything_is_done(
    tiny_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(_trackers, "find_spec", lambda wanted: None)
    with pytest.raises(RecipeError, match=rf"training\.trackers: {name} is not installed.*pip install {name}"):
        train(short(tiny_recipe, name), progress=False)
    assert not Path(tiny_recipe["output"]).exists()


def test_a_task_may_not_have_a_name_that_trackers_need(
    tiny_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_trackers, "find_spec", lambda wanted: True)
    tasks = {"train": tiny_recipe["tasks"]["label"] | {"column": "label"}}
    with pytest.raises(RecipeError, match=r"tasks\.train: trackers keep other values under 'train/'"):
        train(short(tiny_recipe | {"tasks": tasks}, "tensorboard"), progress=False)


# TensorBoard, for real -----------------------------------------------------------------------------------------------


def event_files(folder: Path) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def assert_same(found: Points, expected: Points) -> None:
    assert set(found) == set(expected)
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        # Event files hold 32 bits.
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in points], rel=1e-6), name


def test_event_files_hold_what_the_history_holds(tiny_recipe: dict[str, Any]) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    run = train(short(tiny_recipe, "tensorboard"), progress=False)
    expected = told(run)
    assert len(expected["polarity/loss"]) > 4
    assert len(expected["validation/polarity/mse"]) == 3
    assert_same(event_files(run.tensorboard_folder), expected)
    # The folder is a run's, so another training may replace it.
    again = train(short(tiny_recipe, "tensorboard"), overwrite=True, progress=False)
    assert len(list(again.tensorboard_folder.iterdir())) == 1


@pytest.mark.parametrize("stop", [3, 13])  # before the first checkpoint, and five steps after it
def test_a_resumed_run_goes_on_in_the_same_curves(tiny_recipe: dict[str, Any], stop: int) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    settings = short(tiny_recipe, "tensorboard")
    settings["training"]["log_every_steps"] = 1
    with pytest.raises(KeyboardInterrupt):
        train(settings, progress=False, callbacks=[StopAt(stop)])
    folder = Path(tiny_recipe["output"])
    before = event_files(Run(folder).tensorboard_folder)["train/loss"]
    assert [step for step, _ in before] == list(range(1, stop))  # points that the resumed run writes once more
    run = resume(folder, progress=False)
    assert len(list(run.tensorboard_folder.iterdir())) == 2
    assert [step for step, _ in told(run)["train/loss"]] == list(range(1, 19))
    assert_same(event_files(run.tensorboard_folder), told(run))


def test_a_training_among_many_is_tracked_in_its_own_folder(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    plan = make_plan(recipes.load(short(tiny_recipe, "tensorboard")), tmp_path)
    run_trial(plan, tmp_path / "runs" / "dao" / "seed-0")
    run = Run(tmp_path / "runs" / "dao" / "seed-0")
    assert_same(event_files(run.tensorboard_folder), told(run))


def test_the_stock_way_stays_open_for_other_trackers(tiny_recipe: dict[str, Any]) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    settings = short(tiny_recipe)
    settings["training"] |= {"keep_checkpoints": True, "arguments": {"report_to": ["tensorboard"]}}
    run = train(settings, progress=False)
    (folder,) = {path.parent for path in run.folder.rglob("events.out.tfevents*")}
    assert {"train/polarity/loss", "eval/polarity_mse"} <= set(event_files(folder))


def test_a_place_of_the_users_own(tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "boards"))
    run = train(short(tiny_recipe, "tensorboard"), progress=False)
    assert not run.tensorboard_folder.exists()
    assert_same(event_files(tmp_path / "boards" / run.folder.name), told(run))


# Trackio, for real where it is installed -----------------------------------------------------------------------------


def test_trackio_holds_what_the_history_holds_and_nothing_goes_out(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("trackio is not installed")
    assert "trackio" not in sys.modules, "its folder is read when it is loaded"
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.delenv("TRACKIO_SPACE_ID", raising=False)
    asked = watch_connections(monkeypatch)
    settings = short(tiny_recipe, "trackio")
    settings["training"]["log_every_steps"] = 1
    run = train(settings, progress=False)

    from trackio.sqlite_storage import SQLiteStorage

    def stored(run_name: str) -> Points:
        found: Points = {}
        for entry in SQLiteStorage.get_logs(project, run_name):
            for key, value in entry.items():
                if key not in {"step", "timestamp"}:
                    found.setdefault(key, []).append((entry["step"], value))
        return found

    project, name = names_of_run(run.folder)
    assert stored(name) == told(run)
    assert SQLiteStorage.get_run_config(project, name)["training.log_every_steps"] == 1
    # A run that is stopped and goes on: a new run there, with all of the history and nothing twice.
    with pytest.raises(KeyboardInterrupt):
        train(settings, progress=False, callbacks=[StopAt(13)], output=tmp_path / "broken")
    continued = resume(tmp_path / "broken", progress=False)
    assert [step for step, _ in stored("broken")["train/loss"]] == list(range(1, 13))
    assert stored("broken-from-8") == told(continued)
    assert not asked


def watch_connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every address beyond this machine that is asked for."""
    asked: list[Any] = []
    connect = socket.socket.connect

    def watched(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in {"127.0.0.1", "::1", "localhost"}:
            asked.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    return asked


# MLflow, Weights & Biases (and Trackio) by stand-ins -----------------------------------------------------------------


class Calls:
    """What a stand-in was called with, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def of(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(args, options) for called, args, options in self.calls if called == name]

    def record(self, name: str, result: Any = None) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            self.calls.append((name, args, options))
            return result() if callable(result) else result

        return call


def stand_in(name: str, monkeypatch: pytest.MonkeyPatch, **members: Any) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    for key, value in members.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def forget(monkeypatch: pytest.MonkeyPatch, *variables: str) -> None:
    """Unsets variables until the test ends, also where the test sets them."""
    for variable in variables:
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)


class Settings(dict[str, Any]):
    """The `config` of a run: a mapping with an `update` that takes an option."""

    def update(self, *args: Any, allow_val_change: bool = False, **more: Any) -> None:
        super().update(*args, **more)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    module = stand_in("wandb", monkeypatch, run=None, config=Settings(), define_metric=calls.record("define_metric"))

    def init(**options: Any) -> None:
        calls.record("init")(**options)
        module.run = SimpleNamespace(id="1", name=options["name"], summary={}, _label=calls.record("_label"))

    def finish() -> None:
        calls.record("finish")()
        module.run = None

    module.init, module.finish, module.log = init, finish, calls.record("log")
    for part in ("wandb.sdk", "wandb.sdk.lib"):
        stand_in(part, monkeypatch)
    stand_in("wandb.sdk.lib.config_util", monkeypatch, ConfigError=ValueError)
    forget(monkeypatch, "WANDB_MODE", "WANDB_PROJECT", "WANDB_ERROR_REPORTING")
    return calls


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls, active = Calls(), []
    validation = SimpleNamespace(MAX_PARAM_VAL_LENGTH=250, MAX_PARAMS_TAGS_PER_BATCH=100)
    module = stand_in(
        "mlflow",
        monkeypatch,
        __version__="3.6.0",
        utils=SimpleNamespace(validation=validation),
        is_tracking_uri_set=lambda: False,
        set_tracking_uri=calls.record("set_tracking_uri"),
        active_run=lambda: active[0] if active else None,
    )
    for name in ("set_experiment", "log_params", "log_metrics"):
        setattr(module, name, calls.record(name))

    def start_run(**options: Any) -> None:
        calls.record("start_run")(**options)
        active.append(SimpleNamespace(info=SimpleNamespace(run_id="1")))

    def end_run() -> None:
        calls.record("end_run")()
        active.clear()

    module.start_run, module.end_run = start_run, end_run
    forget(monkeypatch, "MLFLOW_DISABLE_TELEMETRY", *(name for name in os.environ if name.startswith("MLFLOW_")))
    return calls


def test_wandb_is_offline_and_has_a_run_a_training(
    tiny_recipe: dict[str, Any], wandb: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(short(tiny_recipe, "wandb"), progress=False)
    ((_, options),) = wandb.of("init")
    project, name = names_of_run(run.folder)
    assert options == {"project": project, "name": name, "mode": "offline"}
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    assert sys.modules["wandb"].config["balance.method"] == "dao"
    logged = [args[0] for args, _ in wandb.of("log")]
    assert logged == [values_of(line) | {"train/global_step": line["step"]} for line in run.history]
    assert len(wandb.of("finish")) == 1

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    train(short(tiny_recipe, "wandb"), output=tmp_path / "second", progress=False)
    assert wandb.of("init")[1][1] == {"project": "mine", "name": "second", "mode": "online"}


def test_a_wandb_run_of_the_callers_is_used_and_left_open(tiny_recipe: dict[str, Any], wandb: Calls) -> None:
    sys.modules["wandb"].init(name="sweep")
    train(short(tiny_recipe, "wandb"), progress=False)
    assert len(wandb.of("init")) == 1
    assert not wandb.of("finish")


def test_mlflow_has_an_experiment_a_run_and_its_own_names(tiny_recipe: dict[str, Any], mlflow: Calls) -> None:
    run = train(short(tiny_recipe, "mlflow"), progress=False)
    project, name = names_of_run(run.folder)
    assert mlflow.of("set_experiment") == [((project,), {})]
    assert mlflow.of("start_run") == [((), {"run_name": name, "nested": False})]
    assert not mlflow.of("set_tracking_uri")  # where it writes is MLflow's own default, which is this machine
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert {"training.epochs": 2.0}.items() <= {
        k: v for args, _ in mlflow.of("log_params") for k, v in args[0].items()
    }.items()
    logged = [(options["step"], options["metrics"]) for _, options in mlflow.of("log_metrics")]
    assert [step for step, _ in logged] == [line["step"] for line in run.history]
    assert "cosine/polarity_label" in logged[0][1]
    assert {name.replace("|", "_") for name in told(run)} == {name for _, values in logged for name in values}
    assert len(mlflow.of("end_run")) == 1


def test_a_resumed_run_is_a_new_one_with_the_whole_history(tiny_recipe: dict[str, Any], mlflow: Calls) -> None:
    settings = short(tiny_recipe, "mlflow")
    settings["training"]["log_every_steps"] = 1
    with pytest.raises(KeyboardInterrupt):
        train(settings, progress=False, callbacks=[StopAt(13)])
    assert len(mlflow.of("end_run")) == 1  # also when training fails
    mlflow.calls.clear()
    run = resume(tiny_recipe["output"], progress=False)
    assert mlflow.of("start_run")[0][1]["run_name"] == "run-from-8"
    logged = [(options["step"], options["metrics"]["train/loss"]) for _, options in mlflow.of("log_metrics")
              if "train/loss" in options["metrics"]]  # fmt: skip
    assert logged == told(run)["train/loss"]


def test_trackio_is_local_unless_a_space_is_named(tiny_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    context = SimpleNamespace(current_space_id=SimpleNamespace(get=lambda: None))
    stand_in("trackio", monkeypatch, context_vars=context)
    for name in ("init", "log", "finish"):
        setattr(sys.modules["trackio"], name, calls.record(name))
    run = train(short(tiny_recipe, "trackio"), progress=False)
    ((_, options),) = calls.of("init")
    project, name = names_of_run(run.folder)
    assert (options["project"], options["name"], options["space_id"]) == (project, name, None)
    assert options["resume"] == "never"  # else another training of the same name would go on in this one's curves
    assert options["config"]["balance.method"] == "dao"
    assert [(args[0], more["step"]) for args, more in calls.of("log")] == [
        (values_of(line), line["step"]) for line in run.history
    ]
    assert len(calls.of("finish")) == 1


def test_every_name_of_the_recipe_has_a_tracker_and_a_name_twice_has_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[str] = []
    for name, kind in _trackers.KINDS.items():
        assert issubclass(kind, Tracker)
        monkeypatch.setitem(_trackers.KINDS, name, lambda run, name=name: made.append(name))  # type: ignore[misc]
    trackers(["wandb", "trackio", "wandb", "mlflow", "tensorboard"], Run(tmp_path))
    assert made == ["wandb", "trackio", "mlflow", "tensorboard"]
