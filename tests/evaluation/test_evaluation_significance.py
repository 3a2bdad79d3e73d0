import math

import numpy as np
import pytest
from scipy import stats

from equipoise.evaluation._significance import (
    _error,
    _power,
    holm,
    mean_interval,
    paired_difference,
    row_bootstrap,
    rows_needed,
    seeds_needed,
)

# Intervals ------------------------------------------------------------------------------------------------------------


def test_interval_by_hand():
    found = mean_interval([2.0, None, 4.0, float("nan"), 6.0])
    assert (found["mean"], found["sd"]) == (4.0, 2.0)
    assert found["high"] - 4.0 == pytest.approx(4.302653 * 2 / math.sqrt(3), rel=1e-6)
    assert found["low"] == pytest.approx(8.0 - found["high"])


def test_interval_of_one_and_of_none():
    assert mean_interval([3.0]) == {"mean": 3.0, "low": None, "high": None, "sd": None}
    assert set(mean_interval([None]).values()) == {None}
    assert mean_interval([0.1, 0.1, 0.1]) == {"mean": pytest.approx(0.1), "low": pytest.approx(0.1)} | {
        "high": pytest.approx(0.1),
        "sd": 0.0,
    }


def test_level_widens():
    narrow, wide = mean_interval([1.0, 2.0, 4.0], 0.8), mean_interval([1.0, 2.0, 4.0], 0.99)
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]


# Differences ----------------------------------------------------------------------------------------------------------


def test_seeds_alone_are_a_paired_t_test():
    ours, theirs = [0.81, 0.79, 0.85, 0.80], [0.78, 0.77, 0.80, 0.81]
    found, wanted = paired_difference(ours, theirs, better="max"), stats.ttest_rel(ours, theirs)
    low, high = wanted.confidence_interval(0.95)
    assert found["p"] == pytest.approx(wanted.pvalue)
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))
    assert found["relative"]["mean"] == pytest.approx(100 * found["mean"] / np.mean(theirs))


def test_seeds_and_rows_by_hand():
    found = paired_difference([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], better="min", rows_se=0.5, rows=101)
    variance = 1 / 3 + 0.25
    df = variance**2 / ((1 / 3) ** 2 / 2 + 0.25**2 / 100)
    assert found["mean"] == 1.0
    assert found["high"] == pytest.approx(1 + stats.t.ppf(0.975, df) * math.sqrt(variance))
    assert found["p"] == pytest.approx(2 * stats.t.sf(1 / math.sqrt(variance), df))
    # Less is better, so 1.0 more than a baseline of 1.0 is 100 % worse, and the ends change places.
    assert found["relative"]["mean"] == pytest.approx(-100.0)
    assert found["relative"]["low"] == pytest.approx(-100 * found["high"])
    assert found["relative"]["high"] == pytest.approx(-100 * found["low"])


def test_one_seed_leaves_the_rows():
    found = paired_difference([0.9], [0.8], better="max", rows_se=0.02, rows=200)
    assert found["seeds_sd"] is None
    assert found["seeds_needed"] is None
    assert found["high"] == pytest.approx(0.1 + stats.t.ppf(0.975, 199) * 0.02)
    nothing = paired_difference([0.9], [0.8], better="max")
    assert (nothing["p"], nothing["low"], nothing["relative"]["low"]) == (None, None, None)
    assert nothing["relative"]["mean"] == pytest.approx(12.5)


def test_no_variance():
    same = paired_difference([0.3, 0.3, 0.3], [0.3, 0.3, 0.3], better="min", rows_se=0.0, rows=50)
    assert (same["mean"], same["low"], same["high"], same["p"]) == (0.0, 0.0, 0.0, 1.0)
    assert same["seeds_needed"] is None
    assert same["rows_needed"] is None
    apart = paired_difference([0.4, 0.4], [0.3, 0.3], better="min")
    assert (apart["low"], apart["high"], apart["p"]) == (apart["mean"], apart["mean"], 0.0)
    assert paired_difference([1.0, 2.0], [0.0, 0.0], better="max")["relative"]["mean"] is None


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 2.0])])
def test_a_difference_needs_pairs(ours, theirs):
    with pytest.raises(ValueError, match=r"the same seeds on both sides"):
        paired_difference(ours, theirs, better="max")


# The bootstrap --------------------------------------------------------------------------------------------------------


def test_rows_error_of_a_mean_is_the_textbook_one():
    rng = np.random.default_rng(0)
    true, predicted = rng.normal(size=800), rng.normal(size=(2, 800))
    found = row_bootstrap("mse", true, predicted, resamples=2000)
    assert found.shape == (2, 2000)
    apart = (predicted[0] - true) ** 2 - (predicted[1] - true) ** 2
    assert np.std(found[0] - found[1], ddof=1) == pytest.approx(apart.std() / math.sqrt(800), rel=0.06)


def test_equal_predictions_differ_on_no_resample():
    rng = np.random.default_rng(1)
    true, predicted = rng.normal(size=100), rng.normal(size=100)
    for metric in ("mse", "pearson", "spearman", "ccc"):
        found = row_bootstrap(metric, true, np.stack([predicted, predicted]), resamples=50)
        assert np.array_equal(found[0], found[1])
        assert found[0].std() > 0


def test_draws_follow_the_seed_alone(monkeypatch):
    true, predicted = np.arange(30) % 3, (np.arange(30)[None] * 7 % 4) % 3
    first = row_bootstrap("macro_f1", true, predicted, classes=3, resamples=40, seed=5)
    monkeypatch.setattr("equipoise.evaluation._significance.BATCH_CELLS", 100)
    again = row_bootstrap("macro_f1", true, predicted, classes=3, resamples=40, seed=5)
    np.testing.assert_allclose(first, again, atol=1e-12)
    assert not np.array_equal(first, row_bootstrap("macro_f1", true, predicted, classes=3, resamples=40, seed=6))


def test_the_interval_covers_the_truth_where_seeds_alone_do_not():
    """A two-level experiment: squared errors with effects of the row, the seed and both, all differing by arm."""
    rng = np.random.default_rng(2)
    seeds, rows, trials, truth = 5, 150, 400, 0.3
    both = alone = 0
    for trial in range(trials):
        row = 1.0 * rng.normal(size=rows)
        apart = truth + row + 0.1 * rng.normal(size=(seeds, 1)) + 0.5 * rng.normal(size=(seeds, rows))
        # An mse against 0 whose difference is `apart`: ours has 30 + apart, theirs 30.
        ours, theirs = np.sqrt(30 + apart), np.full((seeds, rows), math.sqrt(30))
        values = row_bootstrap("mse", np.zeros(rows), np.concatenate([ours, theirs]), resamples=200, seed=trial)
        se = float(np.std((values[:seeds] - values[seeds:]).mean(axis=0), ddof=1))
        pair = ((ours**2).mean(axis=1), (theirs**2).mean(axis=1))
        with_rows = paired_difference(*pair, better="min", rows_se=se, rows=rows)
        seeds_only = paired_difference(*pair, better="min")
        both += with_rows["low"] <= truth <= with_rows["high"]
        alone += seeds_only["low"] <= truth <= seeds_only["high"]
    assert 0.93 <= both / trials <= 0.985
    assert alone / trials < 0.85


# Many tests -----------------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    assert holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([None, 0.04]) == [None, 0.04]
    assert holm([]) == []


def test_holm_keeps_false_alarms_down():
    p = np.random.default_rng(3).random((2000, 10))
    assert np.mean([min(holm(list(row))) < 0.05 for row in p]) == pytest.approx(0.05, abs=0.015)
    assert np.mean(p.min(axis=1) < 0.05) > 0.35  # what it would be without


# What it would take ---------------------------------------------------------------------------------------------------


def test_seeds_needed_is_the_textbook_number():
    # A paired t test of effect size 0.5 needs 34 pairs for power 0.8 (Cohen, 1988, and every power table since).
    assert seeds_needed(0.5, 1.0) == 34
    assert seeds_needed(-0.5, 1.0) == 34
    assert seeds_needed(10.0, 1e-6) == 2


def test_power_is_how_often_a_simulation_finds_it():
    rng = np.random.default_rng(4)
    found = stats.ttest_1samp(rng.normal(0.5, 1.0, (20_000, 20)), 0, axis=1).pvalue < 0.05
    assert _power(0.5, *_error(1.0, 20, None, 0), 0.95) == pytest.approx(found.mean(), abs=0.01)


def test_where_rows_leave_too_much_doubt_no_seeds_are_enough():
    assert seeds_needed(0.5, 1.0, rows_se=0.3, rows=200) is None
    needed = rows_needed(0.5, 0.3, 200)
    # (1.96 + 0.84)^2 * 200 * 0.3^2 / 0.5^2, and a little for the t distribution
    assert needed == pytest.approx(565, abs=5)
    assert rows_needed(0.5, 0.3 * math.sqrt(200 / needed), needed) is None
    assert rows_needed(0.0, 0.3, 200) is None
    assert rows_needed(0.5, None, 200) is None
    found = paired_difference([0.6, 0.3, 0.6], [0.0, 0.0, 0.0], better="max", rows_se=0.3, rows=200)
    assert found["seeds_needed"] is None
    assert found["rows_needed"] == needed


def test_rows_raise_the_number_of_seeds():
    assert seeds_needed(0.5, 1.0) < seeds_needed(0.5, 1.0, rows_se=0.1, rows=500) < 100
