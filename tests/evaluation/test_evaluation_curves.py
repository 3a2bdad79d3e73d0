import numpy as np
import pytest
from comparison_records import records
from scipy import stats

from equipoise.evaluation._curves import MOST_POINTS, band, curves


def test_a_band_by_hand():
    found = band([{10: 1.0, 20: 2.0}, {10: 3.0, 20: 2.0}], [0, 1])
    assert found["step"] == [10, 20]
    assert found["mean"] == [2.0, 2.0]
    half = stats.t.ppf(0.975, 1) * np.sqrt(2) / np.sqrt(2)
    assert (found["low"], found["high"]) == (
        pytest.approx([2 - half, 2], rel=1e-5),
        pytest.approx([2 + half, 2], rel=1e-5),
    )


def test_a_run_that_stopped_early_ends_the_curve():
    found = band([{10: 1.0, 20: 2.0, 30: 9.0}, {10: 3.0, 20: 4.0}, {}], [0, 1, 2])
    assert found["step"] == [10, 20]
    assert found["mean"] == [2.0, 3.0]


def test_folds_of_a_seed_are_one():
    found = band([{1: 1.0}, {1: 3.0}, {1: 6.0}, {1: 8.0}], [0, 0, 1, 1])
    assert found["mean"] == [4.5]
    assert found["high"] == pytest.approx([4.5 + stats.t.ppf(0.975, 1) * 2.5], rel=1e-5)
    one = band([{1: 1.0}, {1: 3.0}], [0, 0])
    assert (one["mean"], one["low"]) == ([2.0], [None])


def test_folds_whose_epochs_end_elsewhere_are_aligned_by_order():
    found = band([{50: 1.0, 100: 2.0}, {52: 3.0, 104: 4.0}], [0, 1])
    assert found["step"] == [51, 102]
    assert found["mean"] == [2.0, 3.0]


def test_long_curves_are_thinned_evenly():
    points = {step: float(step) for step in range(5000)}
    found = band([points], [0], most=MOST_POINTS)
    assert len(found["step"]) == MOST_POINTS
    assert (found["step"][0], found["step"][-1]) == (0, 4999)
    assert found["step"] == found["mean"]
    assert len(band([points], [0])["step"]) == 5000


def test_curves_of_made_up_runs():
    runs = [run for run in records(seeds=3, singles=False)[0] if run["arm"] == "dao"]
    found = curves(runs, [("polarity", "mse"), ("label", "macro_f1")])
    mse = found["validation"]["polarity.mse"]
    assert mse["examples"] == [32 * step for step in mse["step"]]
    assert mse["mean"][-1] == pytest.approx(
        np.mean([run["metrics"]["validation"]["polarity"]["mse"] for run in runs]), rel=1e-5
    )
    assert mse["mean"][0] > mse["mean"][-1]
    assert all(low <= mean <= high for low, mean, high in zip(mse["low"], mse["mean"], mse["high"], strict=True))
    for kind in ("weights", "losses", "norms"):
        assert list(found[kind]) == ["polarity", "label"]
        assert len(found[kind]["label"]["step"]) == 40
    assert list(found["cosines"]) == ["polarity|label"]
    assert sum(found["weights"][task]["mean"][7] for task in ("polarity", "label")) == pytest.approx(2.0, rel=1e-4)


def test_what_was_not_logged_is_absent():
    run = {
        "seed": 0,
        "training": {"examples": 32, "steps": 1},
        "history": [{"step": 1, "tasks": {"a": {"loss": 1.0}, "b": {}}}],
    }
    found = curves([run], [("a", "mse")])
    assert found["validation"] == found["weights"] == found["cosines"] == {}
    assert list(found["losses"]) == ["a"]
    assert curves([], [("a", "mse")])["losses"] == {}
