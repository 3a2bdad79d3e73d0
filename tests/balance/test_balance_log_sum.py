"""The sum of logarithms: its gradient, and that units play no role."""

import pytest
import torch

from equipoise.balance._log_sum import LogSum
from equipoise.errors import BalanceError


def weights(balancer: LogSum, **losses: float) -> dict[str, float]:
    balancer({task: torch.tensor(loss, requires_grad=True, dtype=torch.float64) for task, loss in losses.items()})
    return balancer.last["weights"]


def test_by_hand() -> None:
    assert weights(LogSum(), a=0.5, b=4.0) == {"a": 2.0, "b": 0.25}


def test_gradient_is_that_of_the_sum_of_logs() -> None:
    found = torch.tensor([0.3, 2.0, 70.0], dtype=torch.float64, requires_grad=True)
    LogSum()(dict(zip("abc", found, strict=True))).backward()
    reference = found.detach().clone().requires_grad_()
    reference.log().sum().backward()
    torch.testing.assert_close(found.grad, reference.grad, rtol=1e-14, atol=0)


def test_a_unit_changes_nothing() -> None:
    one, other = weights(LogSum(), a=0.5, b=4.0), weights(LogSum(), a=0.5, b=4000.0)
    assert other["a"] == one["a"]
    assert other["b"] * 1000 == pytest.approx(one["b"])


@pytest.mark.parametrize("loss", [0.0, 1e-12])
def test_a_loss_below_epsilon_counts_as_epsilon(loss: float) -> None:
    assert weights(LogSum(epsilon=1e-4), a=loss, b=1.0) == {"a": pytest.approx(1e4), "b": 1.0}


def test_an_absent_task_s_weight_stands() -> None:
    balancer = LogSum(tasks=["a", "b"])
    weights(balancer, a=0.5, b=4.0)
    assert weights(balancer, a=0.1) == {"a": pytest.approx(10)}
    assert balancer.weights.tolist() == pytest.approx([10, 0.25])


@pytest.mark.parametrize("epsilon", [0, -1, "small"])
def test_settings_are_checked(epsilon) -> None:
    with pytest.raises(BalanceError, match="epsilon"):
        LogSum(epsilon=epsilon)
