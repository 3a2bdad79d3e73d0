import json

import numpy as np
import pytest
from comparison_records import records, train_targets
from scipy import stats

from equipoise.errors import RunError
from equipoise.evaluation import row_bootstrap, summarise


def summary_of(*, change=None, baseline="equal", judged=None, targets=False, **options):
    runs, tasks = records(**options)
    if change is not None:
        runs = change(runs)
    return summarise(
        runs, tasks=tasks, baseline=baseline, judged=judged, train_targets=train_targets(tasks) if targets else None
    )


def arm_of(summary, name):
    return next(arm for arm in summary["arms"] if arm["arm"] == name)


@pytest.fixture(scope="module")
def full():
    return summary_of(
        tasks=["polarity", "label", "intensity"],
        tuned=True,
        pairs=True,
        search=6,
        targets=True,
        failed=[("uncertainty", 1)],
    )


def test_it_is_json_without_nan_and_the_same_each_time(full):
    assert json.loads(json.dumps(full, allow_nan=False)) == full
    again = summary_of(
        tasks=["polarity", "label", "intensity"],
        tuned=True,
        pairs=True,
        search=6,
        targets=True,
        failed=[("uncertainty", 1)],
    )
    assert again == full


def test_what_the_contract_names_is_there(full):
    assert full["format_version"] == 1
    assert full["seeds"] == [0, 1, 2]
    assert (full["folds"], full["split"], full["train_rows"]) == (None, "test", 1500)
    assert full["rows"] == {"polarity": 300, "label": 300, "intensity": 300}
    assert full["judged"] == ["polarity.mse", "label.macro_f1", "intensity.mae"]
    assert full["tasks"]["label"]["classes"] == ["negative", "neutral", "positive"]
    assert (full["tasks"]["polarity"]["better"], full["tasks"]["label"]["directions"]["mcc"]) == ("min", "max")
    keys = {"arm", "method", "group", "tasks", "settings", "runs", "failed", "metrics", "differences", "versus_single"}
    keys |= {"versus_tuned", "delta_m", "mean_rank", "cost", "equal_time", "regions"}
    assert all(set(arm) == keys for arm in full["arms"])
    assert {arm["group"] for arm in full["arms"]} == {"method", "tuned", "single", "pair"}
    assert set(full["curves"]) == {arm["arm"] for arm in full["arms"]}


def test_means_are_those_of_the_runs(full):
    runs, _ = records(tasks=["polarity", "label", "intensity"], tuned=True, pairs=True, search=6)
    values = [run["metrics"]["test"]["polarity"]["mse"] for run in runs if run["arm"] == "dao"]
    found = arm_of(full, "dao")["metrics"]["polarity"]["mse"]
    assert found["values"] == values
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["high"] - found["mean"] == pytest.approx(stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / np.sqrt(3))
    assert "per_class" not in arm_of(full, "dao")["metrics"]["label"]


def test_a_difference_is_paired_over_seeds_and_rows(full):
    runs, _ = records(tasks=["polarity", "label", "intensity"], tuned=True, pairs=True, search=6)
    mine, other = ([run for run in runs if run["arm"] == arm] for arm in ("dao", "equal"))
    apart = [
        a["metrics"]["test"]["polarity"]["mse"] - b["metrics"]["test"]["polarity"]["mse"]
        for a, b in zip(mine, other, strict=True)
    ]
    found = arm_of(full, "dao")["differences"]["polarity.mse"]
    assert found["mean"] == pytest.approx(np.mean(apart))
    assert found["seeds_sd"] == pytest.approx(np.std(apart, ddof=1))
    # The rows' error of a difference of mean squares is that of the mean of a difference of squares.
    true = mine[0]["predictions"]["polarity"]["true"]
    rows = np.mean(
        [
            (a["predictions"]["polarity"]["predicted"] - true) ** 2
            - (b["predictions"]["polarity"]["predicted"] - true) ** 2
            for a, b in zip(mine, other, strict=True)
        ],
        axis=0,
    )
    assert found["rows_se"] == pytest.approx(rows.std() / np.sqrt(300), rel=0.08)
    assert found["relative"]["mean"] > 0 > found["mean"]
    assert found["p"] <= found["p_holm"] <= 1


def test_families_are_corrected_apart(full):
    ranked = [
        arm["differences"][name]
        for arm in full["arms"]
        if arm["group"] in {"method", "tuned"} and arm["differences"]
        for name in full["judged"]
    ]
    assert len(ranked) == 9  # three arms beside the baseline, three metrics
    smallest = min(ranked, key=lambda one: one["p"])
    assert smallest["p_holm"] == pytest.approx(min(1, 9 * smallest["p"]))


def twice(runs):
    """The runs of dao a second time, under another name, as `--methods dao,dao-ablation` makes them."""
    return runs + [run | {"arm": "dao/lambda", "group": "ablation"} for run in runs if run["arm"] == "dao"]


def test_one_training_under_two_names_is_tested_once(full):
    options = {"tasks": ["polarity", "label", "intensity"], "tuned": True, "failed": [("uncertainty", 1)]}
    once, again = summary_of(**options), summary_of(**options, change=twice)
    for name in ("dao", "uncertainty"):
        assert arm_of(again, name)["differences"] == arm_of(once, name)["differences"]
    for key in ("differences", "versus_single", "versus_tuned"):
        assert arm_of(again, "dao/lambda")[key] == arm_of(again, "dao")[key] != {}
    assert again["best"] == once["best"]


def test_the_best_two_were_chosen_by_their_looks():
    quality = {"equal": {"polarity": 1.3, "label": 1.3}, "dao": {"polarity": 0.7, "label": 0.7}}
    found = summary_of(quality=quality)["best"]
    assert (found["arm"], found["runner_up"], found["certain"]) == ("dao", "uncertainty", True)
    # Three arms are three pairs, of two metrics each.
    assert all(one["p_holm"] == pytest.approx(min(1, 6 * one["p"])) for one in found["differences"].values())
    assert {one["tests"] for one in found["differences"].values()} == {6}


@pytest.mark.parametrize("first", ["dao", "equal"])
def test_beside_the_baseline_the_best_is_as_sure_as_the_table_says(first):
    second = "equal" if first == "dao" else "dao"
    quality = {first: {"polarity": 0.7, "label": 0.7}, second: {"polarity": 1.0, "label": 1.0}}
    summary = summary_of(quality=quality | {"uncertainty": {"polarity": 1.3, "label": 1.3}})
    found, table = summary["best"], arm_of(summary, "dao")["differences"]
    assert (found["arm"], found["runner_up"]) == (first, second)
    assert [one["p_holm"] for one in found["differences"].values()] == [one["p_holm"] for one in table.values()]
    turned = {one["verdict"] for one in table.values()}
    assert turned == ({"better"} if first == "dao" else {"worse"})
    assert {one["verdict"] for one in found["differences"].values()} == {"better"}
    assert found["certain"]


def test_a_task_that_all_shared_models_make_worse():
    quality = {"single:polarity": {"polarity": 0.6}, "single:label": {"label": 1.0}}
    summary = summary_of(quality=quality)
    found = summary["losing"]["polarity.mse"]
    shared = [arm_of(summary, name)["versus_single"]["polarity.mse"] for name in ("equal", "dao", "uncertainty")]
    assert found["p"] == max(one["p"] for one in shared)
    assert found["least_loss"] == pytest.approx(min(-one["relative"]["mean"] for one in shared))
    assert found["verdict"] == "apart"
    assert summary["losing"]["label.macro_f1"]["verdict"] == "same"
    assert any("Every shared model is worse on polarity.mse" in sentence for sentence in summary["verdict"])
    # One shared model that is better is enough.
    quality["dao"] = {"polarity": 0.3}
    assert summary_of(quality=quality)["losing"]["polarity.mse"]["p"] == 1.0
    assert summary_of(singles=False)["losing"] == {}


def test_memory_is_the_devices_where_there_is_one():
    def change(runs):
        return [
            run | {"training": run["training"] | {"peak_device_memory_mb": 100.0 if run["arm"] == "equal" else 250.0}}
            for run in runs
        ]

    assert arm_of(summary_of(singles=False), "dao")["cost"]["peak_memory_mb"] == 980
    cost = arm_of(summary_of(singles=False, change=change), "dao")["cost"]
    assert (cost["peak_memory_mb"], cost["memory_ratio"]) == (250.0, 2.5)


def test_runs_under_unlike_conditions_are_told():
    def change(runs):
        return [
            run | {"training": run["training"] | {"threads": 1 if run["seed"] else 2, "device": "x86_64"}}
            for run in runs
        ]

    assert summary_of(singles=False)["unlike"] == {}
    summary = summary_of(singles=False, change=change)
    assert summary["unlike"] == {"threads": ["1", "2"]}
    said = "Runs were made under unlike conditions (threads: 1, 2), so their times and memory don't compare."
    assert said in summary["verdict"]


def test_arms_without_a_task_have_no_difference_there(full):
    single, pair = arm_of(full, "single:label"), arm_of(full, "pair:polarity+label")
    assert list(single["differences"]) == ["label.macro_f1"]
    assert single["versus_single"] == {}
    assert list(pair["versus_single"]) == ["polarity.mse", "label.macro_f1"]
    assert pair["delta_m"] is pair["mean_rank"] is single["delta_m"] is None
    assert arm_of(full, "equal")["differences"] == {}
    assert set(arm_of(full, "equal")["versus_tuned"]) == set(full["judged"])
    assert arm_of(full, "tuned-fixed")["versus_tuned"] == {}


def test_a_failed_seed_is_left_out_and_named(full):
    arm = arm_of(full, "uncertainty")
    assert arm["runs"] == 2
    assert arm["failed"] == [{"seed": 1, "fold": None, "reason": "step 57: the loss of polarity is not finite"}]
    assert arm["metrics"]["polarity"]["mse"]["values"][1] is None
    assert arm["differences"]["polarity.mse"]["n"] == 2
    assert any("uncertainty failed with 1 of 3 seeds: step 57" in sentence for sentence in full["verdict"])


def test_ranks_cost_and_equal_time(full):
    ranks = {arm["arm"]: arm["mean_rank"] for arm in full["arms"]}
    assert sum(ranks[name] for name in ("equal", "dao", "uncertainty", "tuned-fixed")) == pytest.approx(10)
    cost = arm_of(full, "dao")["cost"]
    assert cost["seconds_ratio"] == pytest.approx(1.12, rel=0.03)
    assert cost["extra_backwards_per_step"] == 2.0
    assert cost["memory_ratio"] == pytest.approx(980 / 900)
    assert cost["search"] is None
    search = arm_of(full, "tuned-fixed")["cost"]["search"]
    assert (search["trials"], search["examples"]) == (6, 6 * 12800)
    # The baseline's own time is its last evaluation; an arm 12 % slower is between its last two by then.
    validation = {name: full["curves"][name]["validation"]["polarity.mse"]["mean"] for name in ("equal", "dao")}
    reached = {name: arm_of(full, name)["equal_time"]["polarity.mse"] for name in ("equal", "dao")}
    assert reached["equal"]["mean"] == pytest.approx(validation["equal"][-1], rel=1e-5)
    assert validation["dao"][-1] < reached["dao"]["mean"] < validation["dao"][-2]
    assert reached["dao"]["low"] < reached["dao"]["mean"] < reached["dao"]["high"]
    assert full["equal_time_seconds"] == pytest.approx(arm_of(full, "equal")["cost"]["seconds"])


def test_the_front_is_of_the_search(full):
    pareto = full["pareto"]
    assert (pareto["x"], pareto["y"], pareto["split"]) == ("polarity.mse", "label.macro_f1", "test")
    assert len(pareto["points"]) == 6
    assert [point["x"] for point in pareto["front"]] == sorted(point["x"] for point in pareto["front"])
    assert set(pareto["front"][0]["settings"]["balance.weights"]) == {"polarity", "label", "intensity"}
    assert [(one["x"], one["y"]) for one in pareto["others"]] == [
        ("polarity.mse", "intensity.mae"),
        ("label.macro_f1", "intensity.mae"),
    ]
    assert not [arm for arm in full["arms"] if arm["group"] == "search"]


def test_transfer_from_pairs(full):
    table = full["transfer"]
    assert table["source"] == "pairs"
    wanted = arm_of(full, "pair:polarity+label")["versus_single"]["polarity.mse"]["relative"]["mean"]
    assert table["gain"][0][1] == wanted
    assert [table["gain"][k][k] for k in range(3)] == [None, None, None]


def test_regions(full):
    assert set(full["regions"]) == {"polarity"}
    found = arm_of(full, "dao")["regions"]
    assert [one["name"] for one in found["polarity"]["regions"]] == ["dense", "middle", "rare"]
    assert sum(one["n"] for one in found["polarity"]["regions"]) == 300
    whole = sum(one["n"] * one["mse"]["mean"] for one in found["polarity"]["regions"]) / 300
    assert whole == pytest.approx(arm_of(full, "dao")["metrics"]["polarity"]["mse"]["mean"])
    assert [one["name"] for one in found["label"]["classes"]] == ["negative", "neutral", "positive"]
    assert sum(one["train"] for one in found["label"]["classes"]) == 1500
    assert arm_of(summary_of(seeds=2), "dao")["regions"].keys() == {"label"}  # no training scores, no density


def test_two_tasks_are_a_pair_of_their_own():
    summary = summary_of()
    assert summary["transfer"]["source"] == "all tasks"
    wanted = arm_of(summary, "equal")["versus_single"]["label.macro_f1"]["relative"]["mean"]
    assert summary["transfer"]["gain"][1][0] == wanted


# Folds ----------------------------------------------------------------------------------------------------------------


def test_folds_are_joined_to_one_measurement():
    runs, tasks = records(seeds=2, folds=3, rows=100, tasks=["polarity", "flags"], singles=False)
    summary = summarise(runs, tasks=tasks, baseline="equal")
    assert (summary["folds"], summary["rows"]) == (3, {"polarity": 300, "flags": 300})
    mine = [run for run in runs if run["arm"] == "dao" and run["seed"] == 1]
    true, predicted = (
        np.concatenate([run["predictions"]["polarity"][side] for run in mine]) for side in ("true", "predicted")
    )
    found = arm_of(summary, "dao")["metrics"]
    assert found["polarity"]["pearson"]["values"][1] == pytest.approx(np.corrcoef(true, predicted)[0, 1])
    # Without predictions there is no other way than the mean over folds.
    flags = [run["metrics"]["test"]["flags"]["macro_f1"] for run in mine]
    assert found["flags"]["macro_f1"]["values"][1] == pytest.approx(np.mean(flags))
    assert arm_of(summary, "dao")["differences"]["flags.macro_f1"]["rows_se"] is None
    assert arm_of(summary, "dao")["runs"] == 2


def with_grades(fold_scales=True):
    """Runs of three folds that are judged on five grades, each decoded with the scaling of its fold's training scores."""
    runs, tasks = records(arms=["equal", "dao"], seeds=2, folds=3, rows=200, tasks=["polarity"], singles=False)
    rng = np.random.default_rng(0)
    grades = [rng.integers(1, 6, 200) for _ in range(3)]
    for run in runs:
        scale, offset = (1.31 + 0.03 * run["fold"], 3.02 - 0.07 * run["fold"]) if fold_scales else (1.0, 0.0)
        true = ((grades[run["fold"]] - offset) / scale).astype(np.float32).astype(np.float64) * scale + offset
        own = np.random.default_rng([run["seed"], run["fold"], run["arm"] == "dao"]).normal(0, 1, 200)
        run["predictions"] = {"polarity": {"true": true, "predicted": grades[run["fold"]] + own}}
    return runs, tasks


def test_folds_with_a_scaling_each_are_judged_on_the_same_scores():
    targets = {"polarity": np.repeat(np.arange(1, 6), [40, 50, 30, 20, 2]).astype(np.float32)}
    found = [
        summarise(*with_grades(scales)[:1], tasks=with_grades(scales)[1], baseline="equal", train_targets=targets)
        for scales in (True, False)
    ]
    for arm in ("equal", "dao"):
        scaled, plain = (arm_of(one, arm) for one in found)
        # Equal grades of two folds are ties, which only equal numbers are.
        for metric in ("spearman", "mse"):
            wanted = plain["metrics"]["polarity"][metric]["values"]
            assert scaled["metrics"]["polarity"][metric]["values"] == pytest.approx(wanted, rel=1e-9), metric
        counts = [[one["n"] for one in each["regions"]["polarity"]["regions"]] for each in (scaled, plain)]
        assert counts[0] == counts[1]
        assert sum(counts[0]) == 600


def test_a_failed_or_missing_fold_fails_its_seed():
    def change(runs):
        runs = [run for run in runs if not (run["arm"] == "dao" and run["seed"] == 1 and run["fold"] == 2)]
        bad = next(run for run in runs if run["arm"] == "uncertainty" and run["fold"] == 0)
        bad |= {
            "status": "failed",
            "reason": "out of memory",
            "metrics": {},
            "training": {},
            "history": [],
            "predictions": {},
        }
        return runs

    summary = summary_of(seeds=2, folds=3, rows=60, singles=False, change=change)
    assert arm_of(summary, "dao")["failed"] == [{"seed": 1, "fold": 2, "reason": "this fold was not run"}]
    assert arm_of(summary, "uncertainty")["failed"] == [{"seed": 0, "fold": 0, "reason": "out of memory"}]
    assert [arm["runs"] for arm in summary["arms"]] == [2, 1, 1]


# What goes wrong ------------------------------------------------------------------------------------------------------


def test_one_seed_counts_the_rows_alone():
    summary = summary_of(seeds=1)
    found = arm_of(summary, "dao")["differences"]["polarity.mse"]
    assert found["n"] == 1
    assert found["seeds_sd"] is None
    assert found["low"] < found["mean"] < found["high"]
    assert arm_of(summary, "dao")["metrics"]["polarity"]["mse"]["low"] is None
    assert any("one seed only" in sentence for sentence in summary["verdict"])


def test_identical_arms_are_the_same():
    def change(runs):
        return [
            run | {"predictions": twin["predictions"], "metrics": twin["metrics"]}
            for run in runs
            for twin in runs
            if (twin["arm"], twin["seed"]) == ("equal", run["seed"])
        ]

    found = arm_of(summary_of(singles=False, change=change), "dao")["differences"]["polarity.mse"]
    assert (found["mean"], found["low"], found["high"], found["p"], found["verdict"]) == (0.0, 0.0, 0.0, 1.0, "same")
    assert found["seeds_needed"] is found["rows_needed"] is None


def test_without_a_baseline_nothing_is_compared_with_it():
    summary = summary_of(failed=[("equal", seed) for seed in range(3)])
    assert all(arm["differences"] == {} for arm in summary["arms"])
    assert arm_of(summary, "equal")["runs"] == 0
    assert arm_of(summary, "dao")["cost"]["seconds_ratio"] is None
    assert summary["equal_time_seconds"] is None
    assert "The baseline equal has no finished run" in summary["verdict"][0]
    assert arm_of(summary, "dao")["versus_single"] != {}
    assert "The baseline equal has no finished run" in summary_of(arms=["dao"])["verdict"][0]


def test_everything_failed():
    summary = summary_of(
        singles=False, failed=[(arm, seed) for arm in ("equal", "dao", "uncertainty") for seed in range(3)]
    )
    assert [arm["runs"] for arm in summary["arms"]] == [0, 0, 0]
    assert summary["best"] is summary["pareto"] is summary["transfer"] is None
    assert summary["rows"] == {"polarity": 0, "label": 0}
    json.dumps(summary, allow_nan=False)


def test_an_arm_that_could_not_be_made():
    unusable = {
        "arm": "pcd",
        "method": "pcd",
        "group": "method",
        "tasks": [],
        "seed": 0,
        "fold": None,
        "status": "failed",
    }
    unusable |= {
        "reason": "balance.primary: is missing",
        "metrics": {},
        "training": {},
        "history": [],
        "predictions": {},
    }
    arm = arm_of(summary_of(seeds=1, folds=2, rows=60, change=lambda runs: [*runs, unusable]), "pcd")
    assert [one["reason"] for one in arm["failed"]] == ["balance.primary: is missing"]
    assert arm["metrics"] == arm["regions"] == arm["differences"] == {}


def test_a_metric_without_meaning_takes_no_part():
    def change(runs):
        for run in runs:
            if run["arm"] == "dao" and run["seed"] == 2:
                run["metrics"]["test"]["polarity"]["pearson"] = None
        return runs

    summary = summary_of(singles=False, judged=["polarity.pearson", "label.accuracy"], change=change)
    assert summary["judged"] == ["polarity.pearson", "label.accuracy"]
    assert summary["tasks"]["label"]["metric"] == "accuracy"
    dao = arm_of(summary, "dao")
    assert dao["metrics"]["polarity"]["pearson"]["values"][2] is None
    assert dao["differences"]["polarity.pearson"]["n"] == 2
    assert dao["differences"]["label.accuracy"]["n"] == 3


def test_without_a_test_split_validation_is_judged():
    summary = summary_of(test=False, singles=False)
    assert summary["split"] == "validation"
    assert any("no test split" in sentence for sentence in summary["verdict"])


def test_an_arm_with_another_scaling_is_judged_on_the_same_rows():
    def change(runs):
        for run in runs:
            if run["arm"] == "dao":
                true = run["predictions"]["polarity"]["true"]
                run["predictions"]["polarity"]["true"] = ((true - 0.2) / 0.7).astype(np.float32).astype(
                    float
                ) * 0.7 + 0.2
        return runs

    summary, usual = summary_of(singles=False, change=change), summary_of(singles=False)
    assert summary["unpaired"] == []
    for arm in ("dao", "uncertainty"):
        found, wanted = (arm_of(one, arm)["differences"]["polarity.mse"] for one in (summary, usual))
        assert found["rows_se"] == pytest.approx(wanted["rows_se"], rel=1e-4)
    assert arm_of(summary, "dao")["differences"]["polarity.mse"]["rows_se"] > 0


def test_an_arm_on_other_labels_loses_its_own_differences_only():
    def change(runs):
        for run in runs:
            if run["arm"] == "dao":
                found = run["predictions"]["polarity"]
                found["true"] = np.where(np.arange(len(found["true"])) == 7, found["true"] + 0.01, found["true"])
        return runs

    summary, usual = summary_of(change=change), summary_of()
    assert summary["unpaired"] == ["polarity"]
    assert (
        list(arm_of(summary, "dao")["differences"])
        == list(arm_of(summary, "dao")["versus_single"])
        == ["label.macro_f1"]
    )
    found, wanted = (arm_of(one, "uncertainty")["differences"]["polarity.mse"] for one in (summary, usual))
    for key in ("mean", "low", "high", "p", "rows_se", "n"):
        assert found[key] == wanted[key], key
    assert arm_of(summary, "equal")["versus_single"]["polarity.mse"]["rows_se"] > 0


def test_arms_on_other_labels_can_be_compared_with_each_other():
    def change(runs):
        for run in runs:
            if run["arm"] != "equal":
                run["predictions"]["polarity"] = {side: one[5:] for side, one in run["predictions"]["polarity"].items()}
        return runs

    runs, tasks = records(singles=False)
    summary = summarise(change(runs), tasks=tasks, baseline="dao", judged=["polarity.mse"])
    assert arm_of(summary, "uncertainty")["differences"]["polarity.mse"]["rows_se"] > 0
    assert arm_of(summary, "equal")["differences"] == {}
    # Nothing at all stands beside the baseline.
    other = summarise(runs, tasks=tasks, baseline="equal", judged=["polarity.mse"])
    assert "Nothing else has a finished run on the same rows to compare with equal" in other["verdict"][0]


def test_a_difference_that_is_not_tested_is_the_same():
    """Several classes a text: no rows to draw again; and a metric that no seed moves."""

    def change(runs):
        for run in runs:
            run["metrics"]["test"]["flags"]["macro_f1"] = {"equal": 0.7, "dao": 0.8, "uncertainty": 0.7}[run["arm"]]
        return runs

    summary = summary_of(tasks=["polarity", "flags"], singles=False, change=change)
    found = arm_of(summary, "dao")["differences"]["flags.macro_f1"]
    assert (found["p"], found["p_holm"], found["low"], found["verdict"]) == (None, None, None, "same")
    assert found["mean"] == pytest.approx(0.1)
    same = arm_of(summary, "uncertainty")["differences"]["flags.macro_f1"]
    assert (same["mean"], same["low"], same["high"], same["p"], same["verdict"]) == (0.0, 0.0, 0.0, 1.0, "same")


def test_rows_that_differ_between_runs_are_told():
    def change(runs):
        found = next(run for run in runs if run["arm"] == "dao")["predictions"]["polarity"]
        found["true"] = found["true"][:-1]
        found["predicted"] = found["predicted"][:-1]
        return runs

    summary = summary_of(singles=False, change=change)
    assert summary["unpaired"] == ["polarity"]
    # That run is left out, its seed with it; the others stand as they are.
    found = arm_of(summary, "dao")["differences"]
    assert (found["polarity.mse"]["n"], found["label.macro_f1"]["n"]) == (2, 3)
    assert found["polarity.mse"]["rows_se"] > 0
    assert arm_of(summary, "uncertainty")["differences"]["polarity.mse"]["n"] == 3
    assert any("judged rows of polarity are not the same" in sentence for sentence in summary["verdict"])


@pytest.mark.parametrize("judged", [["polarity.f1"], ["tone.mse"], ["mse"]])
def test_what_cannot_be_judged(judged):
    with pytest.raises(RunError, match=r"cannot be judged. What can be, as task.metric: polarity.mse, "):
        summary_of(judged=judged, seeds=1)


def test_runs_that_contradict_each_other():
    with pytest.raises(RunError, match=r"arm 'equal': seed 0 is there twice"):
        summary_of(seeds=1, change=lambda runs: [*runs, runs[0]])
    with pytest.raises(RunError, match=r"arm 'equal': method is equal in one run and dao in another"):
        summary_of(change=lambda runs: [run | {"method": "dao"} if run["seed"] == 2 else run for run in runs])
    with pytest.raises(RunError, match=r"trains 'tone', which is none of the tasks polarity, label"):
        summary_of(change=lambda runs: [run | {"tasks": ["tone"]} for run in runs])

    def change(runs):
        runs[0]["predictions"]["label"]["predicted"][0] = "mixed"
        return runs

    with pytest.raises(RunError, match=r"label: a prediction says 'mixed', which is none of the classes negative"):
        summary_of(change=change)


# Whether the whole of it is honest ------------------------------------------------------------------------------------


def test_no_arm_is_often_better_where_none_is():
    """Sixty comparisons of five arms of equal quality: at most about 5 % should find anything."""
    rng = np.random.default_rng(7)
    runs, tasks = records(arms=["equal", "a", "b", "c", "d"], seeds=3, tasks=["polarity"], singles=False, rows=200)
    alarms = 0
    for _ in range(60):
        true = rng.normal(0, 0.4, 200)
        row = 0.2 * rng.normal(size=200)
        made = []
        own = {arm: 0.1 * rng.normal(size=200) for arm in ("equal", "a", "b", "c", "d")}
        for run in runs:
            luck = 1 + 0.02 * rng.normal()
            predicted = true + luck * (row + own[run["arm"]] + 0.15 * rng.normal(size=200))
            metrics = {"test": {"polarity": {"mse": float(np.mean((predicted - true) ** 2)), "n": 200}}}
            made.append(
                run
                | {
                    "metrics": metrics,
                    "predictions": {"polarity": {"true": true, "predicted": predicted}},
                    "history": [],
                }
            )
        summary = summarise(made, tasks=tasks, baseline="equal")
        alarms += any(one["verdict"] != "same" for arm in summary["arms"] for one in arm["differences"].values())
    assert alarms <= 7  # 3 expected; 8 or more come by chance once in a hundred times


def test_row_bootstrap_is_exported_for_use_alone():
    found = row_bootstrap("accuracy", np.array([0, 1, 1, 0]), np.array([[0, 1, 0, 0]]), classes=2, resamples=20)
    assert found.shape == (1, 20)
    assert set(np.round(found[0] * 4)) <= {0, 1, 2, 3, 4}
