import pytest
from scipy import stats

from equipoise.evaluation import delta_m, mean_ranks, pareto_front
from equipoise.evaluation._summary import relative_gain, transfer

BETTER = {"polarity": "min", "label": "max"}
RANKED = {("polarity", "mse"): "min", ("label", "macro_f1"): "max"}


def test_delta_m_by_hand():
    values = {"polarity": {0: 0.08, 1: 0.10}, "label": {0: 0.66, 1: 0.60}}
    alone = {"polarity": {0: 0.10, 1: 0.10}, "label": {0: 0.60, 1: 0.60}}
    found = delta_m(values, alone, BETTER)
    # Seed 0: 20 % less error and 10 % more F1; seed 1: nothing.
    assert found["mean"] == pytest.approx(7.5)
    assert found["high"] == pytest.approx(7.5 + stats.t.ppf(0.975, 1) * 7.5)


def test_delta_m_of_seeds_that_both_have():
    values, alone = {"polarity": {0: 0.05, 1: 9.0}}, {"polarity": {0: 0.10, 2: 1.0}}
    assert delta_m(values, alone, BETTER) == {"mean": pytest.approx(50.0), "low": None, "high": None}
    assert delta_m(values, {"polarity": {5: 1.0}}, BETTER) is None
    assert delta_m(values, {}, BETTER) is None
    assert delta_m({"polarity": {0: 1.0}}, {"polarity": {0: 0.0}}, BETTER) is None


def test_a_gain_over_a_negative_reference_is_a_gain():
    assert relative_gain(-0.1, -0.2, "max") == pytest.approx(50.0)
    assert relative_gain(-0.3, -0.2, "max") == pytest.approx(-50.0)


def test_mean_ranks_by_hand():
    values = {
        "a": {("polarity", "mse"): 0.1, ("label", "macro_f1"): 0.9},  # ranks 1, 1.5
        "b": {("polarity", "mse"): 0.2, ("label", "macro_f1"): 0.9},  # 2, 1.5
        "c": {("polarity", "mse"): 0.3, ("label", "macro_f1"): 0.1},  # 3, 3
        "d": {("polarity", "mse"): 0.0, ("label", "macro_f1"): None},
    }
    assert mean_ranks(values, RANKED) == {"a": 1.25, "b": 1.75, "c": 3.0, "d": None}
    assert mean_ranks({"d": values["d"]}, RANKED) == {"d": None}


def test_ranks_take_no_notice_of_scale():
    values = {"a": {("polarity", "mse"): 0.1}, "b": {("polarity", "mse"): 0.3}, "c": {("polarity", "mse"): 0.2}}
    larger = {arm: {pair: 1e6 * value for pair, value in one.items()} for arm, one in values.items()}
    better = {("polarity", "mse"): "min"}
    assert mean_ranks(values, better) == mean_ranks(larger, better) == {"a": 1.0, "b": 3.0, "c": 2.0}


def test_the_front_by_hand():
    points = [[3.0, 9.0], [1.0, 5.0], [2.0, 5.0], [2.0, 7.0], [1.0, 5.0]]
    assert pareto_front(points, ["min", "max"]) == [1, 4, 3, 0]
    assert pareto_front(points, ["min", "min"]) == [1, 4]
    assert pareto_front([], ["min", "max"]) == []


def test_no_point_of_the_front_beats_another():
    import numpy as np

    points = np.random.default_rng(0).random((60, 3))
    front = pareto_front(points, ["min", "max", "min"])
    costs = points * [1, -1, 1]
    for place in range(60):
        beaten = any(np.all(costs[one] <= costs[place]) and np.any(costs[one] < costs[place]) for one in range(60))
        assert beaten == (place not in front)


def test_transfer_is_rows_helped_by_columns():
    def one(gain, verdict):
        return {"relative": {"mean": gain, "low": gain - 1, "high": gain + 1}, "verdict": verdict}

    gains = {("a", "b"): one(2.0, "same"), ("b", "a"): one(-5.0, "worse")}
    found = transfer(["a", "b", "c"], gains, "pairs")
    assert found["gain"] == [[None, 2.0, None], [-5.0, None, None], [None, None, None]]
    assert found["low"][1][0] == -6.0
    assert found["high"][0][1] == 3.0
    assert found["verdict"][1][0] == "worse"
