"""Expected calibration error: values computed by hand, the edges of the bins, and what can't be judged."""

from __future__ import annotations

import math

import numpy as np
import pytest

from equipoise.evaluation import expected_calibration_error, reliability


def test_two_bins_by_hand() -> None:
    # Bin (0, 0.5]: 0.3 and 0.5, one of two right: |0.5 - 0.4| = 0.1. Bin (0.5, 1]: 0.9, 0.8, 0.7, two of three right:
    # |2/3 - 0.8| = 2/15. Weighted: 2/5 * 0.1 + 3/5 * 2/15 = 0.12.
    confidence = np.array([0.3, 0.9, 0.5, 0.8, 0.7])
    correct = np.array([True, True, False, False, True])
    found = reliability(confidence, correct, bins=2)
    assert found["ece"] == pytest.approx(0.12)
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(0.12)
    low, high = found["bins"]
    assert (low["low"], low["high"], low["n"], low["confidence"], low["accuracy"]) == pytest.approx(
        (0, 0.5, 2, 0.4, 0.5)
    )
    assert (high["n"], high["confidence"], high["accuracy"]) == pytest.approx((3, 0.8, 2 / 3))
    # sqrt(2/pi) * (sqrt(.21 + .25) + sqrt(.09 + .16 + .21)) / 5
    assert found["expected"] == pytest.approx(math.sqrt(2 / math.pi) * 2 * math.sqrt(0.46) / 5)


def test_fifteen_bins_are_the_default_and_include_their_upper_end() -> None:
    edges = np.arange(0, 16) / 15
    found = reliability(edges, np.ones(16, dtype=bool))
    # 0 falls into the first bin beside 1/15; every other end is alone in the bin below it.
    assert [one["n"] for one in found["bins"]] == [2, *[1] * 14]
    assert found["bins"][-1]["high"] == 1


def test_against_a_loop_over_the_definition() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(500)
    hit = rng.random(500) < p**2
    total = 0.0
    for m in range(1, 16):
        held = (p > (m - 1) / 15) & (p <= m / 15)
        if held.any():
            total += held.sum() / 500 * abs(hit[held].mean() - p[held].mean())
    assert expected_calibration_error(p, hit) == pytest.approx(total)


def test_probabilities_that_are_right_leave_about_what_is_expected() -> None:
    rng = np.random.default_rng(1)
    p = rng.uniform(0.3, 1, 400)
    left = [reliability(p, rng.random(400) < p) for _ in range(200)]
    assert np.mean([one["ece"] for one in left]) == pytest.approx(left[0]["expected"], rel=0.05)


def test_wilson_interval_by_hand() -> None:
    one = reliability(np.full(10, 0.9), np.array([True] * 8 + [False] * 2))["bins"][0]
    assert (one["accuracy_low"], one["accuracy_high"]) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_rounding_above_one_is_let_through_and_nothing_gives_nothing() -> None:
    assert reliability(np.array([1 + 1e-7]), np.array([True]))["ece"] == pytest.approx(1e-7)
    assert reliability(np.array([]), np.array([], dtype=bool)) == {"n": 0, "ece": None, "expected": None, "bins": []}


@pytest.mark.parametrize(
    ("confidence", "correct", "bins"),
    [
        ([1.1], [True], 15),
        ([-0.1], [True], 15),
        ([float("nan")], [True], 15),
        ([0.5], [True, False], 15),
        ([0.5], [True], 0),
    ],
)
def test_what_is_no_probability_is_refused(confidence: list[float], correct: list[bool], bins: int) -> None:
    with pytest.raises(ValueError, match=r"confidence|bins"):
        reliability(np.array(confidence), np.array(correct), bins)
