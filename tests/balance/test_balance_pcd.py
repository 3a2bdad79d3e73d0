"""PCD: by hand, TorchJD's aggregator over many steps, the leader by name, and averages of each task's own."""

import pytest
import torch
from jacobians import combined, draw, named, step

from equipoise.balance._pcd import PCD
from equipoise.errors import BalanceError

aggregation = pytest.importorskip("torchjd.aggregation")


def test_a_floor_that_binds_by_hand() -> None:
    # Normalised: h_a = (1, 0), h_b = (0, 1). d = (1, 0.5), made as long as g_a: w_a = 1 / |d|, w_b = 0.5 * 2 / 5 / |d|.
    found = step(PCD(primary="a", floor=0.5, epsilon=0.0), {"a": [2, 0], "b": [0, 5]})
    assert found == pytest.approx({"a": 1.25**-0.5, "b": 0.2 * 1.25**-0.5}, rel=1e-10)


def test_a_floor_that_holds_leaves_the_primary_gradient() -> None:
    assert step(PCD(primary="a"), {"a": [2, 0], "b": [1, 1]}) == pytest.approx({"a": 1, "b": 0}, abs=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_torchjd_over_ten_steps(decay: float) -> None:
    balancer, reference = PCD(primary="a", floor=0.3, decay=decay), aggregation.PCD(tau=0.3, beta=decay)
    for number in range(10):
        jacobian = draw(number)
        found = combined(step(balancer, named(jacobian)), jacobian)
        torch.testing.assert_close(found, reference(jacobian), rtol=1e-8, atol=1e-10)


def test_the_leader_is_a_name_not_a_place() -> None:
    jacobian = draw(0)
    first = step(PCD(primary="c", floor={"a": 0.1, "b": 0.2, "d": 0.3}), named(jacobian))
    order = [2, 0, 1, 3]
    expected = aggregation.PCD(tau=torch.tensor([0.1, 0.2, 0.3]).double())(jacobian[order])
    torch.testing.assert_close(combined(first, jacobian), expected, rtol=1e-8, atol=1e-10)


def test_the_average_of_an_absent_task_stays() -> None:
    balancer, rows = PCD(primary="a", decay=0.5), draw(1, tasks=3)
    step(balancer, named(rows))
    before = balancer.squares.clone()
    step(balancer, {"a": rows[0], "c": 2 * rows[2]})
    assert balancer.squares[1] == before[1]
    assert balancer.counts.tolist() == [2, 1, 2]
    # Both of a's squares are alike and b had one, so each debiased average is the square itself: as if all came twice.
    found = step(balancer, named(rows))
    weights = torch.tensor(list(found.values()))
    assert weights.isfinite().all()


def test_averages_of_unequal_counts_are_debiased_each_by_its_own() -> None:
    balancer, rows = PCD(primary="a", floor=1.0, decay=0.9, epsilon=0.0), torch.eye(2).double()
    for _ in range(5):
        step(balancer, {"a": rows[0]}) if "b" in balancer.tasks else step(balancer, named(rows))
    # Every norm was 1 throughout, so every normalised gradient is the gradient, whatever the counts.
    assert balancer.counts.tolist() == [5, 1]
    assert step(balancer, named(rows)) == pytest.approx({"a": 2**-0.5, "b": 2**-0.5}, rel=1e-6)


def test_without_a_primary_gradient_the_others_train() -> None:
    assert step(PCD(primary="a"), {"a": [0, 0], "b": [1, 0], "c": [0, 2]}) == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"primary": "x"}, "primary name no task 'x'"),
        ({"primary": 0}, "primary must be a task's name"),
        ({"primary": "a", "floor": 1.5}, "floor must be a number"),
        ({"primary": "a", "floor": {"b": 2}}, r"floor\.b must be a number"),
        ({"primary": "a", "floor": {"b": 0.1}}, "floor lacks a number for c"),
        ({"primary": "a", "decay": 1}, "decay must be a number"),
        ({"primary": "a", "epsilon": "0"}, "epsilon must be a number"),
    ],
)
def test_settings(settings: dict[str, object], words: str) -> None:
    with pytest.raises(BalanceError, match=words):
        PCD(tasks=["a", "b", "c"], **settings)
