"""A whole comparison on a tiny model: its files, its fairness, and that it goes on where it was stopped."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import equipoise as eq
from equipoise import recipe as recipes
from equipoise.cli import app
from equipoise.comparison import _attempts, _work
from equipoise.comparison._arms import Arm
from equipoise.comparison._work import trial_folder
from equipoise.errors import RecipeError, RunError
from equipoise.training import hold_folder


@pytest.fixture
def recipe(tiny_recipe: dict[str, Any]) -> dict[str, Any]:
    tiny_recipe["tasks"] = {name: tiny_recipe["tasks"][name] for name in ("polarity", "label")}
    tiny_recipe["training"] |= {"epochs": 2}
    return tiny_recipe


def test_a_comparison_from_recipe_to_page(recipe: dict[str, Any], tmp_path: Path) -> None:
    found = eq.compare(
        recipe,
        methods=["equal", "dao", "single", "tuned-fixed", "gradnrom"],
        seeds=2,
        search_trials=3,
        prune=False,
        output=tmp_path / "c",
        progress=False,
    )
    frame = found.results
    arms = {"equal", "dao", "single:polarity", "single:label", "tuned-fixed"}
    assert set(frame["arm"]) - set(frame.query("group == 'search'")["arm"]) == arms
    assert set(frame.query("arm == 'dao' and split == 'test'")["task"]) == {"polarity", "label"}
    assert set(frame.query("arm == 'single:label'")["task"]) == {"label"}
    # The table says what the runs' own files say.
    metrics = json.loads((found.folder / "runs/dao/seed-1/metrics.json").read_text())
    row = frame.query("arm == 'dao' and seed == 1 and split == 'test' and task == 'polarity' and metric == 'mse'")
    assert row["value"].item() == metrics["splits"]["test"]["polarity"]["mse"]
    # The search's best trial is the arm's run with the first seed, and its cost is told.
    summary = found.summary
    tuned = next(arm for arm in summary["arms"] if arm["arm"] == "tuned-fixed")
    assert tuned["cost"]["search"]["trials"] == 3
    assert tuned["cost"]["search"]["examples"] == 3 * metrics["training"]["examples"]
    search = json.loads((found.folder / "runs/tuned-fixed/search/search.json").read_text())
    best = found.folder / "runs/tuned-fixed/search" / trial_folder(search["settings"], 0) / "metrics.json"
    assert best.read_text() == (found.folder / "runs/tuned-fixed/seed-0/metrics.json").read_text()
    # What could not be made is in the table with its reason, and the others finished.
    unknown = next(arm for arm in summary["arms"] if arm["arm"] == "gradnrom")
    assert "Did you mean 'gradnorm'?" in unknown["failed"][0]["reason"]
    assert summary["verdict"]
    page = found.page.read_text()
    assert "gradnrom" in page
    assert "tuned-fixed" in page
    assert not list(found.folder.glob(".*"))


def test_every_arm_sees_the_same_rows_in_the_same_order(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from equipoise.training import MultiTaskTrainer

    seen: dict[str, list[bytes]] = {}
    compute = MultiTaskTrainer.compute_loss

    def spied(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.setdefault(str(self.run.folder.relative_to(tmp_path)), []).append(inputs["input_ids"].numpy().tobytes())
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(MultiTaskTrainer, "compute_loss", spied)
    eq.compare(recipe, methods=["equal", "pcgrad"], seeds=[0, 3], output=tmp_path / "c", progress=False)
    for seed in (0, 3):
        assert seen[f"c/runs/equal/seed-{seed}"] == seen[f"c/runs/pcgrad/seed-{seed}"]
    assert seen["c/runs/equal/seed-0"] != seen["c/runs/equal/seed-3"]


def test_repeats_are_bit_equal_and_a_trial_is_what_train_gives(recipe: dict[str, Any], tmp_path: Path) -> None:
    frames = [
        eq.compare(recipe, methods=["dao"], seeds=[0], output=tmp_path / name, progress=False).results
        for name in ("a", "b")
    ]
    pd.testing.assert_frame_equal(frames[0], frames[1], check_exact=True)
    run = eq.train(recipe | {"balance": {"method": "dao"}}, progress=False)
    for _, row in frames[0].iterrows():
        value = run.metrics["splits"][row["split"]][row["task"]][row["metric"]]
        assert value == row["value"] or (value is None and np.isnan(row["value"]))


def test_a_comparison_that_was_stopped_goes_on(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"methods": ["equal", "dao", "tuned-fixed"], "seeds": 2, "search_trials": 3, "prune": False}
    whole = eq.compare(recipe, **asked, output=tmp_path / "whole", progress=False)
    trained: list[str] = []
    train_once = _work.run_trial

    def dies(plan: Any, folder: Path, **kwargs: Any) -> Any:
        if len(trained) == 4:
            raise KeyboardInterrupt
        trained.append(str(folder))
        return train_once(plan, folder, **kwargs)

    monkeypatch.setattr(_work, "run_trial", dies)
    with pytest.raises(KeyboardInterrupt):
        eq.compare(recipe, **asked, output=tmp_path / "stopped", progress=False)
    monkeypatch.setattr(
        _work, "run_trial", lambda *args, **kwargs: trained.append(str(args[1])) or train_once(*args, **kwargs)
    )
    resumed = eq.compare(recipe, **asked, output=tmp_path / "stopped", progress=False)
    assert len(trained) == len(set(trained)), "nothing is trained twice"
    order = ["arm", "seed", "split", "task", "metric"]
    left, right = (one.results.sort_values(order).reset_index(drop=True) for one in (whole, resumed))
    pd.testing.assert_frame_equal(left, right, check_exact=True)
    # Methods and seeds can be added to what stands.
    more = eq.compare(
        recipe, methods=["famo"], seeds=1, search_trials=3, prune=False, output=tmp_path / "stopped", progress=False
    )
    assert {"equal", "dao", "tuned-fixed", "famo"} <= set(more.results["arm"])
    assert len(trained) == len(set(trained))


def test_a_comparison_that_was_killed_goes_on(recipe: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({key: value for key, value in recipe.items() if key != "output"}))
    words = ["compare", str(path), "--methods", "equal,dao", "--seeds", "2", "--threads", "1", "-o"]
    script = Path(sys.executable).with_name("equipoise")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([str(script), *words, "killed"], cwd=tmp_path, stderr=log, stdout=log)
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("killed/runs/*/*/metrics.json"))) < 2 and process.poll() is None:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    before = {one: one.stat().st_mtime_ns for one in tmp_path.glob("killed/runs/*/*/metrics.json")}
    assert 2 <= len(before) < 4
    for name in ("killed", "whole"):
        done = CliRunner().invoke(app, [*words, str(tmp_path / name)])
        assert done.exit_code == 0, done.output
    assert {one: one.stat().st_mtime_ns for one in before} == before
    left, right = (eq.Comparison(tmp_path / name) for name in ("killed", "whole"))
    pd.testing.assert_frame_equal(left.results, right.results, check_exact=True)
    assert not list(left.folder.rglob(".*"))


def test_one_process_compares_in_a_folder(recipe: dict[str, Any], tmp_path: Path) -> None:
    comparison = eq.compare(recipe, methods=["equal"], seeds=1, output=tmp_path / "c", progress=False)
    before = {path: path.stat().st_mtime_ns for path in comparison.folder.rglob("*")}
    assert not comparison.lock_file.exists()
    with (
        hold_folder(comparison.folder, comparison.lock_file, "compares"),
        pytest.raises(RunError, match=r"another process \(pid \d+ on .*\) compares in '.*c'. Wait for it or stop it"),
    ):
        eq.compare(recipe, methods=["dao"], seeds=1, output=tmp_path / "c", progress=False)
    assert {path: path.stat().st_mtime_ns for path in comparison.folder.rglob("*")} == before


def test_what_is_unlike_does_not_go_into_one_folder(recipe: dict[str, Any], tmp_path: Path) -> None:
    eq.compare(recipe, methods=["equal"], seeds=1, output=tmp_path / "c", progress=False)
    with pytest.raises(RunError, match=r"was made with another recipe"):
        eq.compare(recipe, methods=["equal"], overrides=["training.epochs=1"], output=tmp_path / "c", progress=False)
    with pytest.raises(RunError, match=r"was made with another budget"):
        eq.compare(recipe, methods=["equal"], budget=50, output=tmp_path / "c", progress=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match=r"is not empty and is no comparison"):
        eq.compare(recipe, methods=["equal"], output=tmp_path / "mine", progress=False)


def test_other_metrics_judge_what_stands(recipe: dict[str, Any], tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "methods": ["equal", "tuned-fixed"],
        "seeds": 1,
        "output": tmp_path / "c",
        "progress": False,
    }
    found = eq.compare(recipe, search_trials=2, **asked)
    assert not any("Chosen by" in line for line in found.summary["verdict"])
    before = {one: one.stat().st_mtime_ns for one in found.folder.glob("runs/**/*") if one.is_file()}

    found = eq.compare(recipe, search_trials=2, metrics=["label.accuracy"], **asked)
    assert {one: one.stat().st_mtime_ns for one in found.folder.glob("runs/**/*") if one.is_file()} == before
    assert found.summary["judged"] == ["label.accuracy"]
    told = "Chosen by polarity.mse, label.macro_f1, not by what is judged here: the settings of tuned-fixed."
    assert told in found.summary["verdict"]
    with pytest.raises(RunError, match=r"was made with another search \(trials\)"):
        eq.compare(recipe, search_trials=3, **asked)


def test_a_training_that_fails_is_told_and_the_others_finish(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_once = _work.run_trial

    def out_of_memory(plan: Any, folder: Path, **kwargs: Any) -> Any:
        if plan.recipe.balance.method == "dao" and plan.recipe.training.seed == 1:
            raise MemoryError("no room")
        return train_once(plan, folder, **kwargs)

    monkeypatch.setattr(_work, "run_trial", out_of_memory)
    found = eq.compare(
        recipe,
        methods=["equal", "dao", "coba"],
        arms={"hot": {"training": {"learning_rate": 1e30, "max_grad_norm": None}}},
        seeds=2,
        output=tmp_path / "c",
        progress=False,
    )
    arms = {arm["arm"]: arm for arm in found.summary["arms"]}
    assert arms["dao"]["failed"] == [{"seed": 1, "fold": None, "reason": "MemoryError: no room"}]
    assert arms["dao"]["runs"] == 1
    assert len(arms["hot"]["failed"]) == 2
    assert "not finite" in arms["hot"]["failed"][0]["reason"]
    assert arms["equal"]["runs"] == arms["coba"]["runs"] == 2
    assert "Traceback" in json.loads((found.folder / "runs/dao/seed-1/failed.json").read_text())["traceback"]


def test_what_failed_is_trained_again_when_asked(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_once, trained = _work.run_trial, []

    def full_disk(plan: Any, folder: Path, **kwargs: Any) -> Any:
        trained.append(folder.parent.name)
        if plan.recipe.balance.method == "dao" and len(trained) <= 2:
            raise OSError(28, "No space left on device")
        return train_once(plan, folder, **kwargs)

    monkeypatch.setattr(_work, "run_trial", full_disk)
    asked: dict[str, Any] = {"methods": ["equal", "dao"], "seeds": 1, "output": tmp_path / "c", "progress": False}
    for more, runs in (({}, 0), ({}, 0), ({"retry_failed": True}, 1)):
        found = eq.compare(recipe, **asked, **more)
        assert next(arm["runs"] for arm in found.summary["arms"] if arm["arm"] == "dao") == runs
    assert trained == ["equal", "dao", "dao"]


def test_a_training_that_the_kernel_ends_for_want_of_memory_is_given_up(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = {"boot": "a", "kills": 7}
    monkeypatch.setattr(_attempts, "_kernel", lambda: dict(kernel))
    train_once = _work.run_trial

    class Killed(BaseException):
        """What no `except` and no `finally` sees, as far as the note is concerned."""

    def killed(plan: Any, folder: Path, **kwargs: Any) -> Any:
        if plan.recipe.balance.method == "dao":
            kept.append(folder.with_name(f".{folder.name}.attempt").read_text())
            raise Killed
        return train_once(plan, folder, **kwargs)

    def compared(end: dict[str, Any]) -> eq.Comparison:
        try:
            return eq.compare(recipe, methods=["dao", "equal"], seeds=1, output=tmp_path / "c", progress=False)
        except Killed:
            (tmp_path / "c/runs/dao/.seed-0.attempt").write_text(kept[-1])
            kernel.update(end)
            return eq.Comparison(tmp_path / "c")

    kept: list[str] = []
    monkeypatch.setattr(_work, "run_trial", killed)
    # Killed, a machine started anew, and two ends for want of memory.
    for end in ({}, {"boot": "b", "kills": 9}, {"kills": 10}, {"kills": 12}):
        assert not compared(end).page.exists()
    summary = compared({}).summary
    arms = {arm["arm"]: arm for arm in summary["arms"]}
    assert len(kept) == 4
    assert arms["dao"]["failed"][0]["reason"].startswith("out of memory: 2 times the kernel has ended the process")
    assert arms["equal"]["runs"] == 1
    assert not list((tmp_path / "c").rglob(".*"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_the_kernel_tells_how_often_it_had_no_memory() -> None:
    found = _attempts._kernel()
    assert set(found) == {"boot", "kills"}
    assert found["kills"] >= 0


def test_data_is_read_once_for_all_runs(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, read_data = [], _work.read_data

    def counted(*args: Any) -> Any:
        read.append(args)
        return read_data(*args)

    monkeypatch.setattr(_work, "read_data", counted)
    _work._read_once.cache_clear()
    arms = {"cool": {"training.learning_rate": 1e-5}}
    methods = ["equal", "dao", "single", "tuned-fixed"]
    eq.compare(recipe, methods=methods, arms=arms, seeds=2, search_trials=2, output=tmp_path / "c", progress=False)
    assert len(read) == 1


def test_a_budget_of_examples_and_of_time(recipe: dict[str, Any], tmp_path: Path) -> None:
    found = eq.compare(recipe, methods=["equal", "single"], budget=150, seeds=1, output=tmp_path / "e", progress=False)
    runs = {
        path.parent.parent.name: json.loads(path.read_text()) for path in found.folder.glob("runs/*/*/metrics.json")
    }
    assert abs(runs["equal"]["training"]["examples"] - 150) < 8  # to the batch
    # A row in seven has no score: the single-task model sees its own rows as often as the others do.
    assert runs[Arm("single:polarity", "single").folder]["training"]["examples"] < runs["equal"]["training"]["examples"]
    recipe["training"]["epochs"] = 1000
    short = eq.compare(recipe, methods=["equal"], budget="0.5s", seeds=1, output=tmp_path / "t", progress=False)
    training = json.loads((short.folder / "runs/equal/seed-0/metrics.json").read_text())["training"]
    assert 0 < training["steps"] < 1000 * 8
    for bad in ("5 parsecs", "-3", "1.5"):
        with pytest.raises(RecipeError, match=r"budget: expected examples \(20000\) or a time"):
            eq.compare(recipe, methods=["equal"], budget=bad, output=tmp_path / "x", progress=False)


def test_cross_validation_tests_every_row_once(recipe: dict[str, Any], tmp_path: Path) -> None:
    found = eq.compare(recipe, methods=["equal", "dao"], seeds=2, folds=3, output=tmp_path / "c", progress=False)
    import pyarrow.parquet as pq

    for seed in (0, 1):
        texts = 0
        for fold in range(3):
            texts += pq.read_table(found.folder / f"runs/dao/seed-{seed}-fold-{fold}/predictions/test.parquet").num_rows
        assert texts == 120
    summary = found.summary
    assert summary["folds"] == 3
    assert summary["rows"]["label"] == 120
    dao = next(arm for arm in summary["arms"] if arm["arm"] == "dao")
    assert dao["runs"] == 2, "all folds of a seed are one measurement"
    with pytest.raises(RecipeError, match=r"folds uses every row"):
        eq.compare(recipe, overrides=["data.max_train_rows=50"], folds=3, output=tmp_path / "d", progress=False)


def test_a_grid_is_searched_by_every_arm(recipe: dict[str, Any], tmp_path: Path) -> None:
    found = eq.compare(
        recipe,
        methods=["equal", "single"],
        tune={"training.learning_rate": [1e-6, 2e-3]},
        seeds=1,
        output=tmp_path / "c",
        progress=False,
    )
    for arm in found.summary["arms"]:
        assert arm["cost"]["search"]["trials"] == 2
        folder = found.folder / "runs" / Arm(arm["arm"], "single").folder
        trials = json.loads((folder / "search" / "search.json").read_text())["trials"]
        assert {trial["settings"]["training.learning_rate"] for trial in trials} == {1e-6, 2e-3}
        best = max(trials, key=lambda trial: trial["score"])["settings"]
        assert best == {"training.learning_rate": arm["settings"]["training.learning_rate"]}
        run = recipes.load(folder / "seed-0" / "recipe.yaml")
        assert run.training.learning_rate == best["training.learning_rate"]


def test_a_search_with_several_seeds_chooses_by_their_mean(recipe: dict[str, Any], tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "methods": ["equal"],
        "tune": {"training.learning_rate": [1e-3, 3e-3, 1e-6]},
        "output": tmp_path / "c",
    }
    found = eq.compare(recipe, **asked, seeds=[4, 7], search_seeds=2, progress=False)
    folder = found.folder / "runs/equal"
    search = json.loads((folder / "search/search.json").read_text())
    rates = [trial["settings"]["training.learning_rate"] for trial in search["trials"]]
    main = {task: about["metric"] for task, about in found.summary["tasks"].items()}
    sign = {task: 1 if about["better"] == "max" else -1 for task, about in found.summary["tasks"].items()}

    def validation(rate: float, seed: int) -> dict[str, float]:
        run = eq.Run(folder / "search" / trial_folder({"training.learning_rate": rate}, seed))
        assert run.metrics["training"]["seed"] == seed
        metrics = run.metrics["splits"]["validation"]
        return {task: metrics[task][metric] for task, metric in main.items()}

    for trial, rate in zip(search["trials"], rates, strict=True):
        # The mean over both seeds of the mean relative gain over the first trial with the same seed.
        gains = [
            100 * sign[task] * (validation(rate, seed)[task] - base) / abs(base)
            for seed in (4, 7)
            for task, base in validation(rates[0], seed).items()
        ]
        assert trial["score"] == pytest.approx(sum(gains) / 4)
    scores = [trial["score"] for trial in search["trials"]]
    best = rates[scores.index(max(scores))]
    assert search["settings"] == {"training.learning_rate": best}
    cost = found.summary["arms"][0]["cost"]
    assert (cost["search"]["trials"], cost["search"]["seeds"]) == (3, 2)
    assert cost["search"]["examples"] == 6 * cost["examples"]
    assert "3 trials of 2 seeds" in found.page.read_text()
    assert {trial["state"] for trial in search["trials"]} == {"complete"}, "one seed would decide what is stopped"
    for seed in (4, 7):  # the best trial's trainings are the arm's runs
        own = folder / "search" / trial_folder(search["settings"], seed) / "metrics.json"
        assert (folder / f"seed-{seed}/metrics.json").read_text() == own.read_text()
    # It goes on with as many, whatever seeds are asked for, and not with fewer.
    eq.compare(recipe, **asked, seeds=[5], progress=False)
    assert (folder / "seed-5/metrics.json").is_file()
    with pytest.raises(RunError, match=r"made with another search \(seeds\)"):
        eq.compare(recipe, **asked, seeds=[4, 7], search_seeds=1, progress=False)
    with pytest.raises(RecipeError, match=r"search_seeds: expected 1 to 3, as many as there are seeds, found 4"):
        eq.compare(recipe, **asked, seeds=[4, 7], search_seeds=4, progress=False)


def test_fixed_weights_that_were_searched_with_several_seeds_are_one_point_each(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"methods": ["tuned-fixed"], "search_trials": 2, "search_seeds": 2}
    found = eq.compare(recipe, **asked, seeds=2, output=tmp_path / "c", progress=False)
    points = found.summary["pareto"]["points"]
    assert len(points) == 2
    frame = found.results.query("group == 'search' and split == 'test'")
    task, _, metric = found.summary["pareto"]["x"].rpartition(".")
    means = frame[(frame.task == task) & (frame.metric == metric)].groupby("arm").value.agg(["mean", "count"])
    assert list(means["count"]) == [2, 2]
    assert {one["arm"]: one["x"] for one in points} == pytest.approx(means["mean"].to_dict())


def test_a_killed_search_with_several_seeds_trains_nothing_twice(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[float, int]] = []
    real = _work.run_trial

    def dying(*args: Any, **kwargs: Any) -> Any:
        training = args[0].recipe.training
        trained.append((training.learning_rate, training.seed))
        if len(trained) in (2, 6):
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    asked: dict[str, Any] = {"methods": ["equal"], "tune": {"training.learning_rate": [1e-3, 3e-3]}, "seeds": 3}
    asked |= {"search_seeds": 3, "progress": False}
    whole = eq.compare(recipe, **asked, output=tmp_path / "whole")
    monkeypatch.setattr(_work, "run_trial", dying)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            eq.compare(recipe, **asked, output=tmp_path / "killed")
    killed = eq.compare(recipe, **asked, output=tmp_path / "killed")
    assert trained == [(1e-3, 0), (1e-3, 1), (1e-3, 1), (1e-3, 2), (3e-3, 0), (3e-3, 1), (3e-3, 1), (3e-3, 2)]
    pd.testing.assert_frame_equal(killed.results, whole.results, check_exact=True)
    scores = [
        [trial["score"] for trial in json.loads((one.folder / "runs/equal/search/search.json").read_text())["trials"]]
        for one in (whole, killed)
    ]
    assert scores[0] == scores[1]


def test_a_trial_that_nothing_can_be_measured_by_is_no_reference(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _work.run_trial

    def constant(plan: Any, *args: Any, **kwargs: Any) -> Any:
        found = real(plan, *args, **kwargs)
        if plan.recipe.training.learning_rate == 1e-3 and plan.recipe.training.seed == 1:
            found["splits"]["validation"]["label"]["macro_f1"] = 0.0
        return found

    monkeypatch.setattr(_work, "run_trial", constant)
    asked: dict[str, Any] = {"methods": ["equal"], "tune": {"training.learning_rate": [1e-3, 3e-3]}, "seeds": 2}
    found = eq.compare(
        recipe, **asked, search_seeds=2, metrics=["label.macro_f1"], output=tmp_path / "c", progress=False
    )
    trials = json.loads((found.folder / "runs/equal/search/search.json").read_text())["trials"]
    assert [trial["state"] for trial in trials] == ["failed", "complete"]
    assert "label.macro_f1 of the reference is 0" in trials[0]["reason"]
    assert found.summary["arms"][0]["settings"]["training.learning_rate"] == 3e-3
    assert found.summary["arms"][0]["runs"] == 2


def test_a_comparison_of_another_version_is_not_gone_on_with(recipe: dict[str, Any], tmp_path: Path) -> None:
    found = eq.compare(recipe, methods=["equal"], seeds=1, output=tmp_path / "c", progress=False)
    settings = json.loads(found.settings_file.read_text())
    found.settings_file.write_text(json.dumps(settings | {"format_version": 1}))
    with pytest.raises(RunError, match=r"made by another version of equipoise"):
        eq.compare(recipe, methods=["equal"], seeds=1, output=tmp_path / "c", progress=False)


def test_a_search_without_a_validation_split_is_told(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["data"]["validation"] = None
    found = eq.compare(recipe, methods=["equal", "tuned-fixed"], seeds=1, output=tmp_path / "c", progress=False)
    arms = {arm["arm"]: arm for arm in found.summary["arms"]}
    assert "needs a validation split" in arms["tuned-fixed"]["failed"][0]["reason"]
    assert arms["equal"]["runs"] == 1


def test_from_the_command_line(recipe: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({key: value for key, value in recipe.items() if key != "output"}))
    arms = tmp_path / "arms.yaml"
    arms.write_text("slow: {training: {learning_rate: 0.0001}}\n")
    done = CliRunner().invoke(
        app,
        [
            "compare",
            str(path),
            *["--methods", "equal,dao(every=2)", "--seeds", "0,1", "--set", "training.epochs=1"],
            "--arms",
            str(arms),
            "-o",
            str(tmp_path / "c"),
            "--metrics",
            "polarity.mae,label.accuracy",
        ],
    )
    assert done.exit_code == 0, done.output
    assert "[6/6] slow seed 1" in done.output
    assert "dao(every=2)" in done.output
    assert (tmp_path / "c" / "comparison.html").is_file()
    again = CliRunner().invoke(app, ["compare", str(path), "-o", str(tmp_path / "c"), "--metrics", "polarity.maee"])
    assert again.exit_code == 1
    assert "Did you mean 'polarity.mae'?" in str(again.exception)


def test_the_display_counts_every_training(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    eq.compare(recipe, methods=["equal", "tuned-fixed"], seeds=2, search_trials=2, prune=False, output=tmp_path / "c")
    said = capsys.readouterr().out
    assert "[2/6] tuned-fixed search" in said
    assert "[6/6]" in said
    assert "[7/6]" not in said
    eq.compare(recipe, methods=["equal", "tuned-fixed"], seeds=2, search_trials=2, prune=False, output=tmp_path / "c")
    assert "/6]" not in capsys.readouterr().out, "nothing was left to train"


def test_a_seed_that_is_added_later_is_a_training_of_its_own(recipe: dict[str, Any], tmp_path: Path) -> None:
    asked: dict[str, Any] = {"methods": ["equal", "tuned-fixed"], "search_trials": 2, "prune": False, "progress": False}
    eq.compare(recipe, **asked, seeds=[5], output=tmp_path / "c")
    found = eq.compare(recipe, **asked, seeds=[0], output=tmp_path / "c")
    for path in found.folder.glob("runs/*/seed-*/metrics.json"):
        seed = json.loads(path.read_text())["training"]["seed"]
        assert path.parent.name == f"seed-{seed}"
    values = found.results.query("arm == 'tuned-fixed' and split == 'test' and metric == 'mse'")["value"]
    assert len(set(values)) == len(values) == 2


def test_other_data_does_not_stand_beside_the_old(recipe: dict[str, Any], tmp_path: Path) -> None:
    eq.compare(recipe, methods=["equal"], seeds=1, output=tmp_path / "c", progress=False)
    table = Path(recipe["data"]["train"])
    table.write_text(table.read_text().replace("positive", "neutral", 1))
    with pytest.raises(RunError, match=r"was made with another data"):
        eq.compare(recipe, methods=["dao"], seeds=1, output=tmp_path / "c", progress=False)


def test_what_is_wrong_before_the_first_training_bars_no_folder(recipe: dict[str, Any], tmp_path: Path) -> None:
    data = dict(recipe["data"])
    recipe["data"]["train"] = str(tmp_path / "absent.csv")
    with pytest.raises(eq.DataError, match=r"no such file"):
        eq.compare(recipe, methods=["equal"], seeds=1, output=tmp_path / "c", progress=False)
    found = eq.compare(recipe | {"data": data}, methods=["equal"], seeds=1, output=tmp_path / "c", progress=False)
    assert found.summary["arms"][0]["runs"] == 1


def test_a_search_that_failed_is_made_again(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"methods": ["equal", "tuned-fixed"], "search_trials": 2, "seeds": 1, "progress": False}

    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_work, "search", full)
        found = eq.compare(recipe, **asked, output=tmp_path / "c")
    arms = {arm["arm"]: arm for arm in found.summary["arms"]}
    assert "its search failed: OSError: no space left" in arms["tuned-fixed"]["failed"][0]["reason"]
    found = eq.compare(recipe, **asked, output=tmp_path / "c")
    assert {arm["arm"]: arm["runs"] for arm in found.summary["arms"]} == {"equal": 1, "tuned-fixed": 1}


def test_a_kill_while_the_best_trial_is_copied_costs_nothing(recipe: dict[str, Any], tmp_path: Path) -> None:
    asked: dict[str, Any] = {"methods": ["tuned-fixed"], "search_trials": 2, "seeds": 1, "progress": False}
    found = eq.compare(recipe, **asked, output=tmp_path / "c")
    before = found.results
    shutil.rmtree(found.folder / "runs/tuned-fixed/seed-0")
    (found.folder / "runs/tuned-fixed/seed-0").mkdir()
    pd.testing.assert_frame_equal(eq.compare(recipe, **asked, output=tmp_path / "c").results, before, check_exact=True)


def test_rows_that_a_method_holds_out_are_made_up_for(recipe: dict[str, Any], tmp_path: Path) -> None:
    methods = ["equal", "coba"]
    recipe["balance"] = {"method": "coba", "held_out": 0.3}
    found = eq.compare(recipe, methods=methods, seeds=1, output=tmp_path / "c", progress=False)
    facts = [
        json.loads((found.folder / f"runs/{name}/seed-0/metrics.json").read_text())["training"] for name in methods
    ]
    assert facts[0]["steps"] == facts[1]["steps"]
    # But for the last batch of an epoch, and held-out rows make more epochs.
    assert facts[0]["examples"] - facts[1]["examples"] < 3 * 8


def test_a_search_makes_up_for_held_out_rows_too(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["balance"] = {"method": "coba", "held_out": 0.3}
    tune = {"training.learning_rate": [1e-4, 1e-3]}
    found = eq.compare(recipe, methods=["coba"], tune=tune, seeds=2, output=tmp_path / "c", progress=False)
    paths = list(found.folder.glob("runs/coba/**/metrics.json"))
    assert len(paths) == 4, "two trials, the better one as the first seed's run, and the second seed's"
    assert len({json.loads(path.read_text())["training"]["steps"] for path in paths}) == 1


def test_a_search_over_batch_sizes_counts_steps_by_each(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["training"] |= {"max_steps": 12, "batch_size": 8}
    tune = {"training.batch_size": [4, 16]}
    found = eq.compare(recipe, methods=["equal", "single"], tune=tune, seeds=2, output=tmp_path / "c", progress=False)
    single = Arm("single:polarity", "single").folder
    folders = {arm: found.folder / "runs" / arm for arm in ("equal", single)}

    def examples(arm: str, place: str) -> int:
        return int(json.loads((folders[arm] / place / "metrics.json").read_text())["training"]["examples"])

    for size in (4, 16):
        trial = f"search/{trial_folder({'training.batch_size': size}, 0)}"
        share = examples(single, trial) / examples("equal", trial)
        assert share == pytest.approx(6 / 7, abs=0.1), "a row in seven has no score"
    for arm in folders:  # the first seed's run is the search's, the second's is not
        assert abs(examples(arm, "seed-0") - examples(arm, "seed-1")) <= 16


def test_classes_that_go_together_are_told_apart_one_by_one(recipe: dict[str, Any], tmp_path: Path) -> None:
    table = pd.read_csv(recipe["data"]["train"])
    table["tags"] = [f"{label}|loud" if place % 3 == 0 else label for place, label in enumerate(table["label"])]
    table.loc[::5, "tags"] = None
    recipe["data"]["train"] = str(tmp_path / "tags.csv")
    table.to_csv(tmp_path / "tags.csv", index=False)
    recipe["tasks"] = {"polarity": recipe["tasks"]["polarity"], "tags": {"type": "multilabel"}}
    for name, folds in (("c", None), ("f", 2)):
        found = eq.compare(recipe, methods=["equal"], seeds=1, folds=folds, output=tmp_path / name, progress=False)
        regions = found.summary["arms"][0]["regions"]["tags"]
        by_class = {one["name"]: one for one in regions["classes"]}
        labels = table["tags"].dropna().str.get_dummies()
        assert set(by_class) == set(labels.columns)
        if folds is None:
            run = eq.Run(found.folder / "runs/equal/seed-0")
            own = run.metrics["splits"]["test"]["tags"]["per_class"]
            for name_of, one in by_class.items():
                assert one["n"] == own[name_of]["n"] > 0
                assert one["f1"]["mean"] == pytest.approx(own[name_of]["f1"])
                assert one["train"] < labels[name_of].sum()
            assert "tags: f1" in found.page.read_text()
        else:  # every row is judged once
            assert {name_of: one["n"] for name_of, one in by_class.items()} == labels.sum().to_dict()


def test_an_average_over_the_last_steps_needs_to_know_them(recipe: dict[str, Any], tmp_path: Path) -> None:
    arms = {"swa": {"training": {"averaging": "swa"}}}
    found = eq.compare(
        recipe, methods=["equal"], arms=arms, budget="1s", seeds=1, output=tmp_path / "c", progress=False
    )
    swa = next(arm for arm in found.summary["arms"] if arm["arm"] == "swa")
    assert "swa begins after a share of the steps" in swa["failed"][0]["reason"]


def test_a_text_of_two_tables_is_in_one_fold(recipe: dict[str, Any], tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from equipoise.comparison._folds import fold_recipes

    table = recipe["data"]["train"]
    loaded = recipes.load(
        recipe
        | {
            "data": {
                "train": [{"path": table, "tasks": ["polarity"]}, {"path": table, "tasks": ["label"]}],
                "validation": 0.2,
            }
        }
    )
    seen = []
    for fold in fold_recipes(loaded, 4, tmp_path):
        sides: dict[str, set[str]] = {"path": set(), "test": set()}
        for part in fold.data.train:
            for side, texts in sides.items():
                texts |= set(pq.read_table(getattr(part, side)).column("text").to_pylist())
        assert not sides["path"] & sides["test"]
        seen += sorted(sides["test"])
    assert len(seen) == len(set(seen)) == len(pd.read_csv(table)["text"].unique())


def test_plain_the_ablation_and_private_blocks_are_trained(recipe: dict[str, Any], tmp_path: Path) -> None:
    arms = {"private block": {"model.private_layers": 1}}
    found = eq.compare(
        recipe, methods=["plain", "dao-ablation"], arms=arms, seeds=1, output=tmp_path / "c", progress=False
    )
    table = {arm["arm"]: arm for arm in found.summary["arms"]}
    assert set(table) == {"plain", "dao/lambda", "dao/w", "dao/lambda+w", "private block"}
    assert all(arm["runs"] == 1 for arm in table.values())
    metrics = {
        name: eq.Run(found.folder / "runs" / Arm(name, "method").folder / "seed-0").metrics["training"]
        for name in table
    }
    assert {name: one["private_layers"] for name, one in metrics.items()} == dict.fromkeys(table, 0) | {
        "private block": 1
    }
    assert metrics["plain"]["learning_rate"] in (2e-5, 5e-5, 1e-4)
    assert table["plain"]["cost"]["search"]["trials"] == 3
    # Where the weights come from is all that these differ in.
    values = {name: arm["metrics"]["polarity"]["mse"]["mean"] for name, arm in table.items()}
    assert len(set(values.values())) == len(values)
