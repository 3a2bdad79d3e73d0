"""The geometric mean: its value and gradient, absent tasks, and where a product of zeros would fail."""

import pytest
import torch

from equipoise.balance._geometric_mean import GeometricMean
from equipoise.errors import BalanceError


def weights(balancer: GeometricMean, **losses: float) -> dict[str, float]:
    balancer({task: torch.tensor(loss, requires_grad=True, dtype=torch.float64) for task, loss in losses.items()})
    return balancer.last["weights"]


def test_by_hand() -> None:
    # G = (1 * 4 * 16)^(1/3) = 4; w = G / (3 L).
    assert weights(GeometricMean(), a=1.0, b=4.0, c=16.0) == pytest.approx({"a": 4 / 3, "b": 1 / 3, "c": 1 / 12})


def test_value_and_gradient_are_torchjd_s() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    found = torch.tensor([0.3, 2.0, 70.0], dtype=torch.float64, requires_grad=True)
    total = GeometricMean()(dict(zip("abc", found, strict=True)))
    total.backward()
    reference = found.detach().clone().requires_grad_()
    other = scalarization.GeometricMean()(reference)
    other.backward()
    # Euler: G is homogeneous of degree 1, so sum_i w_i L_i is G itself.
    torch.testing.assert_close(total, other, rtol=1e-14, atol=0)
    torch.testing.assert_close(found.grad, reference.grad, rtol=1e-13, atol=0)


def test_a_zero_stays_finite_where_the_product_s_gradient_does_not() -> None:
    found = weights(GeometricMean(), a=0.0, b=1.0)
    assert found == pytest.approx({"a": 0.5 * (1e-8) ** 0.5 / 1e-8, "b": 0.5 * (1e-8) ** 0.5})


def test_an_absent_task_counts_with_its_last_loss() -> None:
    balancer = GeometricMean(tasks=["a", "b"])
    weights(balancer, a=1.0, b=4.0)
    assert weights(balancer, a=9.0) == pytest.approx({"a": 6 / (2 * 9)})
    # b / a is still known, so when b returns nothing has been forgotten.
    assert weights(balancer, a=9.0, b=4.0) == pytest.approx({"a": 6 / 18, "b": 6 / 8})


def test_initial_weights_are_those_of_equal_losses() -> None:
    balancer = GeometricMean(tasks=["a", "b"])
    assert balancer.initial_weights().tolist() == list(weights(balancer, a=3.0, b=3.0).values())


def test_a_task_that_was_never_seen_leaves_the_mean_as_the_others_make_it() -> None:
    assert weights(GeometricMean(tasks=["a", "b", "c"]), a=1.0, b=4.0) == pytest.approx({"a": 2 / 3, "b": 2 / 12})


@pytest.mark.parametrize("epsilon", [0, -1, "small"])
def test_settings_are_checked(epsilon) -> None:
    with pytest.raises(BalanceError, match="epsilon"):
        GeometricMean(epsilon=epsilon)
