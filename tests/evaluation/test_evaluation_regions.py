import numpy as np
import pytest
from comparison_records import train_targets

from equipoise.evaluation._measurements import Rows
from equipoise.evaluation._regions import errors_by_class, errors_by_region, score_regions


def test_the_middle_of_a_bell_is_dense_and_its_tails_are_rare():
    scores = np.random.default_rng(0).normal(0, 1, 20_000)
    regions = score_regions(scores)
    # Half of a normal lies within 0.674 of its mean, nine tenths within 1.645.
    assert regions.of(np.array([0.0, 0.6, -0.6])).tolist() == [0, 0, 0]
    assert regions.of(np.array([0.85, -1.5])).tolist() == [1, 1]
    assert regions.of(np.array([1.8, -1.8, 99.0, -99.0])).tolist() == [2, 2, 2, 2]
    assert regions.train_share == pytest.approx((0.5, 0.4, 0.1), abs=0.05)


def test_shares_are_those_of_the_training_rows():
    scores = train_targets(["polarity"])["polarity"].astype(float)
    regions = score_regions(scores)
    share = np.bincount(regions.of(scores), minlength=3) / len(scores)
    assert share == pytest.approx(regions.train_share)
    assert sum(regions.train_share) == pytest.approx(1.0)


def test_density_not_place_decides():
    """Scores that pile up at both ends, as stars do: the ends are dense, the middle rare."""
    scores = np.repeat([1.0, 2.0, 3.0, 4.0, 5.0], [300, 50, 10, 60, 580])
    regions = score_regions(scores)
    assert regions.of(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])).tolist() == [1, 2, 2, 1, 0, 2]
    assert regions.train_share == pytest.approx((0.58, 0.36, 0.06))
    intervals = regions.to_dict()["intervals"]
    assert intervals == {"dense": [[4.5, 5.0]], "middle": [[1.0, 1.5], [3.5, 4.5]], "rare": [[1.5, 3.5]]}


def test_the_ends_of_an_even_score_are_no_rarer_than_its_middle():
    regions = score_regions(np.linspace(0, 1, 10_000))
    assert regions.of(np.array([0.0, 0.01, 0.5, 1.0])).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("grid", [np.arange(1.0, 6.0), np.arange(-20, 21) / 20.0])
def test_how_a_run_scaled_its_scores_changes_no_region(grid):
    """Five stars, and a score in steps that lie on edges of bins, from training runs with a mean and deviation each."""
    rng = np.random.default_rng(0)
    scores = rng.choice(grid, 600, p=np.arange(len(grid), 0, -1) / np.arange(1, len(grid) + 1).sum())
    scores[: len(grid)] = grid

    def read(offset, scale):  # what a run with this scaling says the scores are
        return ((scores - offset) / scale).astype(np.float32).astype(np.float64) * scale + offset

    whole = score_regions(read(scores.mean(), scores.std()))
    wanted = whole.of(read(scores.mean(), scores.std()))
    assert np.bincount(wanted, minlength=3) / 600 == pytest.approx(whole.train_share)
    assert wanted.max() > 0  # else there is nothing to confuse
    for fold in range(20):
        part = rng.choice(scores, 400)
        assert np.array_equal(whole.of(read(part.mean(), part.std())), wanted), fold
    # Beyond the training scores is still beyond them.
    assert whole.of(np.array([grid[0] - 1e-3, grid[-1] + 1e-3])).tolist() == [2, 2]


def test_constant_and_missing_scores():
    regions = score_regions(np.array([0.5, np.nan, 0.5]))
    assert regions.of(np.array([0.5, 9.0])).tolist() == [0, 2]
    assert score_regions(np.array([np.nan])) is None


def test_errors_by_region_by_hand():
    regions = score_regions(np.random.default_rng(0).normal(0, 1, 5000))
    true = np.array([0.0, 0.1, 9.0])
    measured = [Rows(true, np.array([1.0, 3.1, 7.0])), Rows(true, np.array([0.0, 0.1, 13.0]))]
    dense, middle, rare = errors_by_region(regions, measured)
    assert (dense["name"], dense["n"]) == ("dense", 2)
    assert (dense["mse"]["mean"], dense["mae"]["mean"]) == (pytest.approx(2.5), pytest.approx(1.0))
    assert (middle["n"], middle["mse"]["mean"]) == (0, None)
    assert (rare["n"], rare["mse"]["mean"], rare["mae"]["mean"]) == (1, 10.0, 3.0)
    assert rare["mae"]["high"] == pytest.approx(3 + 12.7062 * np.sqrt(2) / np.sqrt(2), rel=1e-4)


def test_errors_by_class_by_hand():
    true = np.array([0, 0, 0, 1])
    found = errors_by_class(["a", "b", "c"], [Rows(true, np.array([0, 0, 1, 1]))], [30, 10, 0])
    assert [one["name"] for one in found] == ["a", "b", "c"]
    a, b, c = ({key: one[key]["mean"] for key in ("precision", "recall", "f1")} for one in found)
    assert a == {"precision": 1.0, "recall": pytest.approx(2 / 3), "f1": pytest.approx(0.8)}
    assert b == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3)}
    assert set(c.values()) == {0.0}
    assert [(one["n"], one["train"]) for one in found] == [(3, 30), (1, 10), (0, 0)]
    assert errors_by_class(["a"], [Rows(true, true)])[0]["train"] is None


def test_errors_by_class_where_several_go_together():
    true = np.array([[1, 0], [1, 1], [0, 0]], dtype=bool)
    predicted = np.array([[1, 1], [0, 1], [0, 0]], dtype=bool)
    a, b = errors_by_class(["a", "b"], [Rows(true, predicted)], [20, 10])
    assert (a["n"], a["train"], a["precision"]["mean"], a["recall"]["mean"]) == (2, 20, 1.0, 0.5)
    assert (b["n"], b["train"], b["precision"]["mean"], b["recall"]["mean"]) == (1, 10, 0.5, 1.0)
    assert a["f1"]["mean"] == b["f1"]["mean"] == pytest.approx(2 / 3)
