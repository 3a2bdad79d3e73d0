"""LBTW: the share of the first loss, restarts, and absent tasks."""

import pytest
import torch

from equipoise.balance._lbtw import LBTW
from equipoise.errors import BalanceError


def weights(balancer: LBTW, **losses: float) -> dict[str, float]:
    balancer({task: torch.tensor(loss, requires_grad=True, dtype=torch.float64) for task, loss in losses.items()})
    return balancer.last["weights"]


def test_by_hand() -> None:
    balancer = LBTW(alpha=0.5)
    assert weights(balancer, a=4.0, b=0.1) == {"a": 1.0, "b": 1.0}
    assert weights(balancer, a=1.0, b=0.4) == pytest.approx({"a": 0.5, "b": 2.0})
    assert weights(balancer, a=4.0, b=0.1) == pytest.approx({"a": 1.0, "b": 1.0})


def test_alpha_zero_is_equal_weights() -> None:
    balancer = LBTW(alpha=0)
    weights(balancer, a=4.0, b=0.1)
    assert weights(balancer, a=1.0, b=0.0) == {"a": 1.0, "b": 1.0}


def test_as_the_authors_code_normalised_and_anew_in_each_epoch() -> None:
    balancer = LBTW(alpha=0.5, restart=3, scale="tasks")
    drawn = torch.rand(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    for epoch in drawn:
        for row in epoch:
            powers = (row / epoch[0]) ** 0.5
            found = weights(balancer, **dict(zip("abcd", row.tolist(), strict=True)))
            assert list(found.values()) == pytest.approx((4 * powers / powers.sum()).tolist(), rel=1e-12)


def test_a_task_that_missed_the_restart_starts_anew_when_it_comes_back() -> None:
    balancer = LBTW(tasks=["a", "b"], alpha=1, restart=2)
    weights(balancer, a=4.0, b=4.0)
    weights(balancer, a=4.0, b=4.0)
    weights(balancer, a=2.0)
    assert weights(balancer, a=1.0, b=1.0) == {"a": 0.5, "b": 1.0}


def test_an_absent_task_keeps_its_ratio_under_normalising() -> None:
    balancer = LBTW(tasks=["a", "b"], alpha=1, scale="tasks")
    weights(balancer, a=1.0, b=1.0)
    weights(balancer, a=1.0, b=3.0)
    assert weights(balancer, a=1.0) == pytest.approx({"a": 0.5})


def test_the_first_loss_is_the_first_above_zero() -> None:
    balancer = LBTW(alpha=1)
    assert weights(balancer, a=0.0, b=0.0) == {"a": 1.0, "b": 1.0}
    assert weights(balancer, a=2.0, b=4.0) == {"a": 1.0, "b": 1.0}
    assert weights(balancer, a=1.0, b=0.0) == {"a": 0.5, "b": 0.0}


def test_losses_of_zero_stay_finite_under_normalising() -> None:
    balancer = LBTW(alpha=1, scale="one")
    weights(balancer, a=1.0, b=1.0)
    assert weights(balancer, a=0.0, b=0.0) == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize("settings", [{"alpha": -1}, {"alpha": "1"}, {"restart": 0}, {"scale": "k"}])
def test_settings_are_checked(settings) -> None:
    with pytest.raises(BalanceError, match=next(iter(settings))):
        LBTW(**settings)
