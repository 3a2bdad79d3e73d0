import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.errors import DataError
from equipoise.tasks._thresholds import balanced_thresholds, class_of


def spread(values, thresholds):
    bins = len(thresholds) + 1
    counts = np.bincount(class_of(np.asarray(values, float), thresholds), minlength=bins)
    return np.sum((counts - len(values) / bins) ** 2), counts


def least_spread(values, bins):
    """Tries every set of cuts."""
    distinct = np.unique(values)
    return min(
        spread(values, distinct[list(cuts)])[0] for cuts in itertools.combinations(range(1, len(distinct)), bins - 1)
    )


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(st.integers(-5, 5), min_size=2, max_size=40), st.integers(2, 6))
def test_no_other_cut_is_better(values, bins):
    if len(set(values)) < bins:
        with pytest.raises(DataError, match="distinct values"):
            balanced_thresholds(values, bins)
        return
    thresholds = balanced_thresholds(values, bins)
    found, counts = spread(values, thresholds)
    assert found == pytest.approx(least_spread(values, bins))
    assert (counts > 0).all()
    assert thresholds == sorted(set(thresholds))


def test_thresholds_lie_midway_between_neighbours():
    assert balanced_thresholds([1, 2, 4, 8], 2) == [3.0]
    assert balanced_thresholds([0.0] * 10 + [1.0, 2.0], 3) == [0.5, 1.5]


def test_cutting_nearest_to_the_quantiles_is_not_best():
    # A third of 24 is 8. The cuts nearest to 8 and 16 are at 9 and 14, sizes 9, 5, 10: 1 + 9 + 4 = 14.
    values = np.repeat([0, 1, 2, 3, 4], [6, 3, 5, 6, 4])
    found, counts = spread(values, balanced_thresholds(values, 3))
    assert counts.tolist() == [6, 8, 10]
    assert found == 8


def test_neighbouring_floats_can_be_parted():
    below = 1.0
    above = np.nextafter(below, 2)
    assert class_of(np.array([below, above]), balanced_thresholds([below, above], 2)).tolist() == [0, 1]
    tiny = np.nextafter(0.0, 1)
    assert class_of(np.array([0.0, tiny]), balanced_thresholds([0.0, tiny], 2)).tolist() == [0, 1]


def test_a_value_on_a_threshold_goes_up():
    assert class_of(np.array([-1.0, 0.0, 1.0]), [0.0, 1.0]).tolist() == [0, 1, 2]


def test_a_hundred_thousand_distinct_values_take_a_second_or_two():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=100_000), np.zeros(50_000)])
    start = time.perf_counter()
    counts = spread(values, balanced_thresholds(values, 10))[1]
    assert time.perf_counter() - start < 10
    # One class is the tie of 50,000; the other nine share 100,000 as evenly as the two sides of zero allow.
    assert counts.max() == 50_000 or counts.max() == 50_001
    assert np.sort(counts)[-2] - counts.min() <= 3000
