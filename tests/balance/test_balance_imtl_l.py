"""IMTL-L: the gradient of its scales, where they end, and TorchJD's."""

import math

import pytest
import torch

from equipoise.balance._imtl_l import IMTLL
from equipoise.errors import BalanceError

TASKS = ["r", "c", "e"]


def step(balancer: IMTLL, losses: dict[str, float]) -> dict[str, float]:
    balancer({task: torch.tensor(loss, requires_grad=True, dtype=torch.float64) for task, loss in losses.items()})
    return balancer.last["weights"]


def test_by_hand_the_first_two_steps() -> None:
    balancer = IMTLL(lr=0.1)
    # d/ds of exp(s) L - s at s = 0 is L - 1; Adam's first step is lr against its sign.
    assert step(balancer, {"r": 4.0, "c": 0.5}) == {"r": 1.0, "c": 1.0}
    assert step(balancer, {"r": 4.0, "c": 0.5}) == pytest.approx({"r": math.exp(-0.1), "c": math.exp(0.1)})


def test_is_torchjd_s() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    other = scalarization.IMTLL(3).double()
    optimizer = torch.optim.Adam(other.parameters(), lr=0.05)
    balancer = IMTLL(tasks=TASKS, lr=0.05)
    drawn = torch.rand(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    for row in drawn:
        values = row.clone().requires_grad_()
        optimizer.zero_grad()
        other(values).backward()
        found = step(balancer, dict(zip(TASKS, row.tolist(), strict=True)))
        assert list(found.values()) == pytest.approx(values.grad.tolist(), rel=1e-10)
        optimizer.step()


def test_ends_at_the_inverse_losses() -> None:
    balancer = IMTLL(lr=0.05)
    for _ in range(600):
        found = step(balancer, {"r": 4.0, "c": 0.1})
    assert found == pytest.approx({"r": 0.25, "c": 10.0}, rel=1e-3)


def test_an_absent_task_learns_nothing() -> None:
    balancer = IMTLL(tasks=["r", "c"])
    step(balancer, {"r": 4.0, "c": 4.0})
    kept = balancer.log_scale[1].item()
    for _ in range(5):
        step(balancer, {"r": 4.0})
    assert balancer.log_scale[1].item() == kept


def test_a_solved_task_s_weight_stays_finite() -> None:
    balancer = IMTLL(lr=10.0)
    for _ in range(20):
        found = step(balancer, {"r": 0.0})
    assert found["r"] == pytest.approx(math.exp(30))


def test_settings_are_checked() -> None:
    with pytest.raises(BalanceError, match=r"lr must be a number at least 0, found -0\.1"):
        IMTLL(lr=-0.1)
