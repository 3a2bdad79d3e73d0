import math

import numpy as np
import pytest
from scipy import stats

from equipoise.evaluation._differences import judge
from equipoise.evaluation._significance import (
    _half,
    _power,
    _sources,
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
    # s = 1 over 3 seeds, and v = 0.25 of 101 rows: quantiles of a table with 2 and with 100 degrees of freedom.
    assert found["mean"] == 1.0
    assert found["high"] == pytest.approx(1 + math.sqrt(4.302653**2 / 3 + 1.983972**2 * 0.25), rel=1e-6)
    # Less is better, so 1.0 more than a baseline of 1.0 is 100 % worse, and the ends change places.
    assert found["relative"]["mean"] == pytest.approx(-100.0)
    assert found["relative"]["low"] == pytest.approx(-100 * found["high"])
    assert found["relative"]["high"] == pytest.approx(-100 * found["low"])


@pytest.mark.parametrize(
    ("apart", "rows_se"), [([0.9, 1.0, 1.1], 0.2), ([0.1, 2.0], 0.3), ([1.0, 1.001], 0.01), ([5.0, -4.0, 0.2], 0.001)]
)
def test_the_interval_of_level_1_less_p_ends_at_0(apart, rows_se):
    options = {"better": "max", "rows_se": rows_se, "rows": 200}
    found = paired_difference(apart, [0.0] * len(apart), **options)
    again = paired_difference(apart, [0.0] * len(apart), level=1 - found["p"], **options)
    assert again["low"] == pytest.approx(0.0, abs=1e-6 * found["mean"])
    # Between what it would be if all the variance were of one source.
    z = found["mean"] / math.hypot(found["seeds_sd"] / math.sqrt(len(apart)), rows_se)
    assert 2 * stats.t.sf(z, 199) < found["p"] < 2 * stats.t.sf(z, len(apart) - 1)


def test_p_of_differences_far_beyond_doubt():
    many = 1.0 + 1e-6 * np.arange(40)
    for rows_se in (1e-6, 1e-3, None):
        assert 0 <= paired_difference(many, 0 * many, better="max", rows_se=rows_se, rows=500)["p"] < 1e-90
    # Two seeds bound p, however alike they are: t with one degree of freedom has heavy tails.
    one = paired_difference([1.0, 1.0 + 2e-9], [0.0, 0.0], better="max", rows_se=1e-3, rows=500)
    assert one["p"] == pytest.approx(2 * stats.t.sf(1e9, 1), rel=1e-2)
    two = paired_difference([1.0, 1.1], [0.0, 0.0], better="max", rows_se=1e-9, rows=500)
    assert two["p"] == pytest.approx(2 * stats.t.sf(1.05 / 0.05, 1), rel=1e-6)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("seeds_sd", "rows_se"), [(1.0, 0.05), (1.0, 0.2), (1.0, 0.5), (1.0, 1.0), (0.3, 1.0)])
def test_intervals_hold_with_few_seeds(seeds, seeds_sd, rows_se):
    """True difference 0: as Satterthwaite's degrees of freedom do not, these miss it no more often than they say."""
    rng, trials, rows = np.random.default_rng(5), 40_000, 200
    mean = rng.normal(0, math.hypot(seeds_sd / math.sqrt(seeds), rows_se), trials)
    from_seeds = seeds_sd**2 / seeds * rng.chisquare(seeds - 1, trials) / (seeds - 1)
    from_rows = rows_se**2 * rng.chisquare(rows - 1, trials) / (rows - 1)
    sources = [(from_seeds, seeds - 1), (from_rows, rows - 1)]
    for alpha in (0.05, 0.005):  # a tenth of it is what the first of ten tests must pass
        missed = np.abs(mean) > _half(sources, alpha)
        assert missed.mean() <= alpha + 3 * math.sqrt(alpha / trials)
    # With a single source they are exact, not merely on the safe side.
    if rows_se <= 0.05 * seeds_sd:
        assert np.mean(np.abs(mean) > _half(sources, 0.05)) > 0.045


@pytest.mark.parametrize("seeds", [2, 3])
def test_p_is_below_its_level_no_more_often_than_it_says(seeds):
    """The same of the whole function, by fewer trials."""
    rng, trials = np.random.default_rng(6), 3000
    apart = rng.normal(0, 0.3, (trials, 1)) + rng.normal(0, 1.0, (trials, seeds))
    found = [paired_difference(one, [0.0] * seeds, better="max", rows_se=0.3, rows=500) for one in apart]
    alarms = np.mean([one["p"] < 0.05 for one in found])
    assert alarms <= 0.05 + 3 * math.sqrt(0.05 / trials)
    assert alarms == np.mean([not one["low"] <= 0 <= one["high"] for one in found])


def test_one_seed_leaves_the_rows():
    found = paired_difference([0.9], [0.8], better="max", rows_se=0.02, rows=200)
    assert found["seeds_sd"] is None
    assert found["high"] == pytest.approx(0.1 + stats.t.ppf(0.975, 199) * 0.02)
    nothing = paired_difference([0.9], [0.8], better="max")
    assert (nothing["p"], nothing["low"], nothing["relative"]["low"]) == (None, None, None)
    assert nothing["relative"]["mean"] == pytest.approx(12.5)


def test_no_variance():
    same = paired_difference([0.3, 0.3, 0.3], [0.3, 0.3, 0.3], better="min", rows_se=0.0, rows=50)
    assert (same["mean"], same["low"], same["high"], same["p"]) == (0.0, 0.0, 0.0, 1.0)
    assert paired_difference([1.0, 2.0], [0.0, 0.0], better="max")["relative"]["mean"] is None


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([0.8, 0.8], [0.7, 0.7]),
        # 0.75 - 0.7 and 0.85 - 0.8 are 1e-16 apart, and so are these three.
        ([0.75, 0.85], [0.70, 0.80]),
        ([0.8, 0.9, 0.7], [0.75, 0.85, 0.65]),
    ],
)
@pytest.mark.parametrize("rows_se", [None, 0.0, 1e-17])
def test_a_difference_without_any_known_doubt_is_not_tested(ours, theirs, rows_se):
    found = paired_difference(ours, theirs, better="max", rows_se=rows_se, rows=100)
    assert found["mean"] == pytest.approx(ours[0] - theirs[0])
    assert found["seeds_sd"] == 0.0
    assert [found[key] for key in ("p", "low", "high")] == [None] * 3
    assert found["relative"] == {
        "mean": pytest.approx(100 * found["mean"] / np.mean(theirs)),
        "low": None,
        "high": None,
    }


def test_rounding_is_no_spread_beside_what_rows_bring():
    found = paired_difference([0.75, 0.85], [0.70, 0.80], better="max", rows_se=0.02, rows=200)
    assert found["seeds_sd"] == 0.0
    assert found["p"] == pytest.approx(2 * stats.t.sf(0.05 / 0.02, 199))
    tiny = paired_difference([3e-9, 1e-9], [0.0, 0.0], better="max")  # small numbers are no rounding
    assert tiny["seeds_sd"] == pytest.approx(math.sqrt(2) * 1e-9)
    assert mean_interval([0.1 + 0.2, 0.3])["sd"] == 0.0


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
    assert seeds_needed(10.0, 0.0) is None


def test_power_of_one_source_is_that_of_a_t_test():
    for n, mean in ((2, 10.0), (3, 3.0), (20, 0.5), (1000, 0.05)):
        wanted = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, mean * math.sqrt(n))
        assert _power(mean, _sources(1.0, n, None, 0), 0.95) == pytest.approx(wanted, abs=1e-3)
        assert _power(mean, _sources(None, 0, 1 / math.sqrt(n), n), 0.95) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(("n", "mean"), [(2, 6.0), (3, 2.5), (8, 1.5)])
def test_power_is_how_often_a_simulation_finds_it(n, mean):
    rng, rows, rows_se, trials = np.random.default_rng(4), 50, 0.4, 40_000
    apart = rng.normal(mean, rows_se, (trials, 1)) + rng.normal(0, 1.0, (trials, n))
    from_rows = rows_se**2 * rng.chisquare(rows - 1, trials) / (rows - 1)
    half = _half([(apart.var(axis=1, ddof=1) / n, n - 1), (from_rows, rows - 1)], 0.05)
    found = np.mean(apart.mean(axis=1) > half)
    assert 0.2 < found < 0.98
    assert _power(mean, _sources(1.0, n, rows_se, rows), 0.95) == pytest.approx(found, abs=0.01)


def test_where_rows_leave_too_much_doubt_no_seeds_are_enough():
    assert seeds_needed(0.5, 1.0, rows_se=0.3, rows=200) is None
    needed = rows_needed(0.5, 0.3, 200)
    # (1.96 + 0.84)^2 * 200 * 0.3^2 / 0.5^2, and a little for the t distribution
    assert needed == pytest.approx(565, abs=5)
    assert rows_needed(0.5, 0.3 * math.sqrt(200 / needed), needed) is None
    assert rows_needed(0.0, 0.3, 200) is None
    assert rows_needed(0.5, None, 200) is None
    found = paired_difference([0.6, 0.3, 0.6], [0.0, 0.0, 0.0], better="max", rows_se=0.3, rows=200)
    judge([(found, "max")])
    assert found["seeds_needed"] is None
    assert found["rows_needed"] == needed


def test_what_is_needed_is_at_the_level_of_so_many_tests():
    def needed(count):
        family = [(paired_difference([0.6, 0.3, 0.5], [0.0] * 3, better="max"), "max") for _ in range(count)]
        judge(family)
        return family[0][0]["tests"], family[0][0]["seeds_needed"]

    alone, among = needed(1), needed(40)
    assert alone == (1, seeds_needed(*apart()))
    assert among == (40, seeds_needed(*apart(), level=1 - 0.05 / 40))
    assert among[1] > alone[1]


def apart():
    values = np.array([0.6, 0.3, 0.5])
    return values.mean(), values.std(ddof=1)


def test_differences_that_were_chosen_by_their_looks_are_multiplied_by_all():
    found = paired_difference([0.60, 0.58, 0.61], [0.0] * 3, better="max")
    judge([(found, "max")], tests=12)
    assert found["p_holm"] == pytest.approx(12 * found["p"])
    assert (found["tests"], found["verdict"]) == (12, "better")
    judge([(found, "max")], tests=1000)
    assert found["verdict"] == "same"


def test_rows_raise_the_number_of_seeds():
    assert seeds_needed(0.5, 1.0) < seeds_needed(0.5, 1.0, rows_se=0.1, rows=500) < 100
