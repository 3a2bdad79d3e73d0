"""Weights of scores by the density of their labels: by hand, against the paper's order of steps, and in the loss."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from equipoise.tasks import from_dict, kind
from equipoise.tasks._density import DensityWeights

Regression = kind("regression")


def fit(labels, **settings):
    settings = Regression.Settings(**settings)
    return Regression.fit("score", settings, pa.chunked_array([pa.array(labels, pa.string())]))


def loss_weights(task, labels):
    """What an output that is 1 off costs."""
    targets = torch.from_numpy(task.encode(pa.array(labels)).targets)
    return task.loss((targets + 1)[:, None], targets)


def test_inverse_square_root_by_hand():
    # Two bins of 9 and 1: 1/3 and 1, whose mean over the ten is (9/3 + 1) / 10 = 0.4.
    task = fit(["0"] * 9 + ["1"], label_weights="sqrt_inverse", label_bins=2, label_kernel=0)
    assert loss_weights(task, ["0", "1"]).tolist() == pytest.approx([1 / 3 / 0.4, 1 / 0.4], rel=1e-5)


def test_inverse_by_hand_with_the_counts_bounded():
    # 20 and 2, of which the 2 count as 5: 1/20 and 1/5, whose mean over the 22 is (1 + 2/5) / 22.
    task = fit(["0"] * 20 + ["1"] * 2, label_weights="inverse", label_bins=2, label_kernel=0)
    mean = 1.4 / 22
    assert loss_weights(task, ["0", "1"]).tolist() == pytest.approx([1 / 20 / mean, 1 / 5 / mean], rel=1e-5)
    # 4000 count as 1000.
    task = fit(["0"] * 4000 + ["1"] * 500, label_weights="inverse", label_bins=2, label_kernel=0)
    first, second = loss_weights(task, ["0", "1"]).tolist()
    assert second / first == pytest.approx(2, rel=1e-5)


def reflected_window() -> list[float]:
    """A Gaussian of sigma 2 on five bins whose mass beyond the ends is reflected there, highest value 1."""
    bell = [math.exp(-(d**2) / 8) for d in range(-8, 9)]  # four sigmas, as the library cuts it off
    bell = [value / sum(bell) for value in bell]
    window = [0.0] * 5
    for d, value in zip(range(-8, 9), bell, strict=True):
        place = (2 + d) % 10  # the mirrors at both ends repeat every ten bins
        window[place if place < 5 else 9 - place] += value
    return [value / max(window) for value in window]


@pytest.mark.parametrize("rule", ["inverse", "sqrt_inverse"])
def test_smoothing_as_in_the_paper_s_code(rule):
    rng = np.random.default_rng(0)
    ages = np.clip(rng.normal(20, 6, 800), 0, 39.99).astype(int)
    counts = np.bincount(ages, minlength=40)
    level = np.sqrt(counts) if rule == "sqrt_inverse" else np.clip(counts, 5, 1000)
    window = reflected_window()
    padded = [0.0, 0.0, *level, 0.0, 0.0]
    smoothed = np.array([sum(window[j] * padded[k + j] for j in range(5)) for k in range(40)])
    expected = 1 / smoothed[ages]
    expected *= len(ages) / expected.sum()
    labels = [str(age) for age in ages]
    task = fit(labels, label_weights=rule, label_bins=40, range=(0, 40))
    assert loss_weights(task, labels).numpy() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("settings", [{}, {"range": (-1, 1)}, {"label_kernel": 5}, {"label_bins": 7}])
@pytest.mark.parametrize("rule", ["inverse", "sqrt_inverse"])
def test_the_mean_over_the_training_examples_is_one_and_rare_scores_weigh_more(rule, settings):
    rng = np.random.default_rng(1)
    labels = [f"{value:.2f}" for value in np.clip(rng.normal(0, 0.2, 3000), -1, 1)]
    found = loss_weights(fit(labels, label_weights=rule, **settings), labels)
    assert found.mean().item() == pytest.approx(1, rel=1e-4)
    values = np.abs([float(label) for label in labels])
    assert found[values > 0.45].min() > found[values < 0.05].max()


def test_scores_on_the_edges_of_bins_fall_into_bins_of_their_own():
    # Steps of 0.02 over [-1, 1] in 100 bins: with rounding left to chance, some bins would hold two and others none.
    steps = [f"{-1 + 0.02 * k:.2f}" for k in range(100)]
    labels = [step for k, step in enumerate(steps) for _ in range(1 + k % 2 * 8)]
    task = fit(labels, range=(-1, 1), label_weights="sqrt_inverse", label_kernel=0)
    found = loss_weights(task, steps)
    assert found[::2].numpy() == pytest.approx(found[0].item())
    assert (found[::2] / found[1::2]).numpy() == pytest.approx(3, rel=1e-5)


def test_scores_where_no_training_score_is_weigh_the_most():
    labels = ["0"] * 90 + ["0.1"] * 10
    task = fit(labels, range=(0, 1), label_weights="sqrt_inverse")
    found = loss_weights(task, ["0", "0.1", "0.6", "1"]).tolist()
    assert found[2] == found[3] >= found[1] > found[0]


def test_one_score_only_is_not_weighed():
    task = fit(["3", "3"], scaling="none", label_weights="inverse")
    assert loss_weights(task, ["3", "5"]).tolist() == [1.0, 1.0]


def test_the_weights_are_of_the_loss_alone_and_go_with_the_model():
    labels = ["0"] * 9 + ["1"]
    plain, task = fit(labels), fit(labels, label_weights="sqrt_inverse")
    targets = task.encode(pa.array(labels)).targets
    outputs = np.linspace(-1, 1, 10, dtype=np.float32)[:, None]
    assert task.metrics(outputs, targets) == plain.metrics(outputs, targets)
    again = from_dict(task.to_dict())
    assert again == task
    given = torch.from_numpy(outputs), torch.from_numpy(targets)
    assert torch.equal(again.loss(*given), task.loss(*given))
    assert not torch.allclose(plain.loss(*given), task.loss(*given))
    assert torch.equal(task.divergence(given[0], given[0] + 1), torch.ones(10))


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_every_loss_is_weighed(loss):
    labels = ["0"] * 9 + ["1"]
    plain, task = fit(labels, loss=loss), fit(labels, loss=loss, label_weights="inverse", label_bins=2, label_kernel=0)
    assert loss_weights(task, ["0", "1"]) / loss_weights(plain, ["0", "1"]) == pytest.approx(
        [1 / 9 * 10 / (1 + 1 / 5), 1 / 5 * 10 / (1 + 1 / 5)]
    )


def test_missing_and_rejected_labels_do_not_count():
    task = fit(["0", None, "x", "1", "0"], label_weights="sqrt_inverse", label_bins=2, label_kernel=0)
    # 1/sqrt(2) twice and 1 once
    mean = (2 / math.sqrt(2) + 1) / 3
    assert loss_weights(task, ["0", "1"]).tolist() == pytest.approx([1 / math.sqrt(2) / mean, 1 / mean], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_bins": 10}, "label_bins has no effect without label_weights"),
        ({"label_kernel": 0}, "label_kernel has no effect without label_weights"),
        ({"label_weights": "sqrt"}, "'inverse' or 'sqrt_inverse'"),
        ({"label_weights": "inverse", "label_bins": 1}, "greater than or equal to 2"),
        ({"label_weights": "inverse", "label_kernel": -1}, "greater than or equal to 0"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValidationError, match=message):
        Regression.Settings(**settings)


def test_a_bin_at_the_foot_of_the_window_weighs_no_more_than_the_rarest_training_score():
    found = DensityWeights.fit(
        np.array([0.05, 0.05, 0.95], np.float32), low=0, high=1, rule="sqrt_inverse", bins=10, sigma=0.5
    )
    assert found.weights[0] < found.weights[9] == found.weights[8] == found.weights[5]
