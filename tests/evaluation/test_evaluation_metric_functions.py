import math

import numpy as np
import pytest
from comparison_records import fitted_tasks, records

from equipoise.evaluation._metric_functions import METRICS, metric_values

SCORES = ["mse", "mae", "r2", "pearson", "spearman", "ccc"]
LABELS = ["accuracy", "macro_f1", "mcc"]


def index_of(values, task):
    labels = task.to_dict().get("labels")
    return values if labels is None else np.array([labels.index(value) for value in values])


def as_task(name):
    """What the task kind itself gives for runs of several arms, and the arrays that it was given."""
    runs, tasks = records(seeds=2, tasks=[name], singles=False)
    labels = tasks[name].to_dict().get("labels") or []
    true = index_of(runs[0]["predictions"][name]["true"], tasks[name])
    predicted = np.stack([index_of(run["predictions"][name]["predicted"], tasks[name]) for run in runs])
    return [run["metrics"]["test"][name] for run in runs], true, predicted, len(labels)


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("polarity", SCORES),
        ("label", LABELS),
        ("intensity", [*LABELS[:2], "mae", "quadratic_kappa"]),
        ("topic", LABELS),
    ],
)
def test_values_are_those_of_the_task_itself(task, names):
    wanted, true, predicted, classes = as_task(task)
    for name in names:
        assert metric_values(name, true, predicted, classes) == pytest.approx([run[name] for run in wanted], abs=1e-9)


@pytest.mark.parametrize("task", ["polarity", "label", "intensity"])
def test_a_weight_counts_as_that_many_rows(task):
    _, true, predicted, classes = as_task(task)
    true, predicted = true[:60], predicted[:3, :60]
    drawn = np.random.default_rng(0).integers(0, 60, (4, 60))
    weights = np.stack([np.bincount(rows, minlength=60) for rows in drawn]).astype(float)
    for name in SCORES if task == "polarity" else [*LABELS, "mae", "quadratic_kappa"]:
        found = METRICS[name](true, predicted, weights, classes)
        wanted = [metric_values(name, true[rows], predicted[:, rows], classes) for rows in drawn]
        assert found.shape == (3, 4)
        np.testing.assert_allclose(found, np.stack(wanted, axis=1), atol=1e-10, err_msg=name)


def test_by_hand():
    true, predicted = np.array([0.0, 1.0, 2.0]), np.array([[0.0, 1.0, 5.0]])
    assert metric_values("mse", true, predicted)[0] == pytest.approx(3.0)
    assert metric_values("mae", true, predicted)[0] == pytest.approx(1.0)
    assert metric_values("r2", true, predicted)[0] == pytest.approx(1 - 9 / 2)
    assert metric_values("spearman", true, predicted)[0] == pytest.approx(1.0)
    assert metric_values("quadratic_kappa", np.array([0, 1, 2]), np.array([[0, 1, 1]]), 3)[0] == pytest.approx(
        1 - (1 / 3) / (5 / 3 + 2 / 3 - 2 * 1 * 2 / 3)
    )
    assert metric_values("macro_f1", np.array([0, 0, 1]), np.array([[0, 1, 1]]), 3)[0] == pytest.approx(4 / 9)


def test_what_has_no_meaning_is_nan_as_the_task_gives_none():
    tasks = fitted_tasks(["polarity"])
    constant, varied = np.full(5, 0.3), np.linspace(-1, 1, 5)
    for true, predicted in [(constant, varied), (varied, constant), (constant, constant)]:
        wanted = tasks["polarity"].metrics(predicted[:, None].astype(np.float32), true.astype(np.float32))
        for name in SCORES:
            found = metric_values(name, true.astype(np.float32).astype(float), predicted.astype(np.float32)[None] * 1.0)
            if wanted[name] is None:
                assert math.isnan(found[0]), name
            else:
                assert found[0] == pytest.approx(wanted[name], abs=1e-6), name
    assert math.isnan(metric_values("quadratic_kappa", np.zeros(4, int), np.zeros((1, 4), int), 3)[0])
    assert metric_values("mcc", np.zeros(4, int), np.zeros((1, 4), int), 3)[0] == 0.0
    assert math.isnan(metric_values("mse", np.zeros(0), np.zeros((2, 0)))[0])
