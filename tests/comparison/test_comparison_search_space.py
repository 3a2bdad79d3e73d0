"""What a search chooses from, and the score that it goes by."""

from __future__ import annotations

import math
from typing import Any

import pytest

from equipoise.comparison._search import TrialFailed, relative_gain
from equipoise.comparison._search_space import Space
from equipoise.errors import RecipeError

WEIGHTS, RATE = "balance.weights", "training.learning_rate"
THREE = Space(tasks=["a", "b", "c"])


def test_weights_sum_to_the_number_of_tasks_and_keep_their_ratios() -> None:
    weights = THREE.settings({"ratio:b": 4.0, "ratio:c": 0.5})[WEIGHTS]
    assert weights == pytest.approx({"a": 6 / 11, "b": 24 / 11, "c": 3 / 11})
    assert THREE.settings(THREE.parameters())[WEIGHTS] == {"a": 1.0, "b": 1.0, "c": 1.0}


@pytest.mark.parametrize("weights", [{"a": 2.0, "b": 1.0, "c": 4.0}, {"a": 30.0, "b": 1.0, "c": 1.0}])
def test_settings_and_parameters_are_inverse_up_to_scale(weights: dict[str, float]) -> None:
    found = THREE.settings(THREE.parameters({WEIGHTS: weights}))[WEIGHTS]
    assert found == pytest.approx({task: 3 * value / sum(weights.values()) for task, value in weights.items()})


def test_both_together_are_one_space() -> None:
    space = Space(tasks=["a", "b"], grid={RATE: [2e-5, 5e-5]})
    assert space.parameters() == {"ratio:b": 1.0, RATE: 2e-5}
    assert space.settings({"ratio:b": 1.0, RATE: 5e-5}) == {WEIGHTS: {"a": 1.0, "b": 1.0}, RATE: 5e-5}


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({}, "a search needs weights, or a grid"),
        ({"tasks": ["a"]}, "two tasks or more, each named once; found a"),
        ({"tasks": ["a", "a"]}, "each named once; found a, a"),
        ({"grid": {RATE: []}}, r"training\.learning_rate: a grid needs a list of values, found \[\]"),
        ({"grid": {RATE: "2e-5"}}, "a grid needs a list of values, found '2e-5'"),
        ({"grid": {RATE: [2e-5, 2e-5]}}, "a value stands twice"),
        ({"grid": {RATE: [math.nan]}}, "nan is no value for a grid"),
        ({"grid": {RATE: [[1]]}}, r"\[1\] is no value for a grid"),
        ({"tasks": ["a", "b"], "grid": {WEIGHTS: [1]}}, r"balance\.weights is searched twice"),
    ],
)
def test_what_cannot_be_searched_is_named(made: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        Space(**made)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ({}, "no more and no less: balance.weights, training.learning_rate; found nothing"),
        ({WEIGHTS: {"a": 1, "b": 1}}, "no more and no less"),
        ({WEIGHTS: {"a": 1}, RATE: 2e-5}, r"must give every task a number \(a, b\)"),
        ({WEIGHTS: {"a": 1, "b": 0}, RATE: 2e-5}, "must be numbers above zero"),
        ({WEIGHTS: {"a": 1, "b": 31}, RATE: 2e-5}, "b over a is 31, outside 1/30 to 30"),
        ({WEIGHTS: {"a": 1, "b": 1}, RATE: 1.0}, r"first trial's 1\.0 is not in the grid \[2e-05\]"),
    ],
)
def test_a_first_trial_that_is_not_of_the_space_is_refused(first: dict[str, Any], words: str) -> None:
    space = Space(tasks=["a", "b"], grid={RATE: [2e-5]})
    with pytest.raises(RecipeError, match=words):
        space.parameters(first)


# The score -----------------------------------------------------------------------------------------------------------

JUDGED = {"polarity.mse": "min", "label.accuracy": "max"}
REFERENCE = {"polarity": {"mse": 0.2}, "label": {"accuracy": 0.5}}


@pytest.mark.parametrize(
    ("mse", "accuracy", "gain"), [(0.2, 0.5, 0.0), (0.1, 0.5, 25.0), (0.2, 0.6, 10.0), (0.3, 0.4, -35.0)]
)
def test_the_gain_is_the_mean_over_what_is_judged(mse: float, accuracy: float, gain: float) -> None:
    found = relative_gain({"polarity": {"mse": mse, "r": 9.0}, "label": {"accuracy": accuracy}}, REFERENCE, JUDGED)
    assert found == pytest.approx(gain)


def test_a_reference_below_zero_turns_no_sign() -> None:
    judged = {"polarity.r2": "max"}
    assert relative_gain({"polarity": {"r2": 0.1}}, {"polarity": {"r2": -0.1}}, judged) == pytest.approx(200)


@pytest.mark.parametrize(
    ("metrics", "reference", "words"),
    [
        ({"polarity": {"mse": None}}, REFERENCE, r"polarity\.mse is None"),
        ({"polarity": {"mse": math.nan}}, REFERENCE, r"polarity\.mse is nan"),
        ({"polarity": {"mse": 0.1}}, REFERENCE, r"label\.accuracy is None"),
        (REFERENCE, {"polarity": {"mse": 0.0}}, r"polarity\.mse of the reference is 0"),
        (REFERENCE, {}, r"polarity\.mse of the reference is None"),
    ],
)
def test_without_a_number_there_is_no_score(metrics: Any, reference: Any, words: str) -> None:
    with pytest.raises(TrialFailed, match=words):
        relative_gain(metrics, reference, JUDGED)
