"""Uncertainty weighting: both forms, the factor of regressions, and what is learned, against autograd and TorchJD."""

import math

import pytest
import torch

from equipoise.balance._uncertainty import UncertaintyWeighting
from equipoise.errors import BalanceError

TASKS = ["r", "c", "e"]


def step(balancer: UncertaintyWeighting, losses: dict[str, float]) -> dict[str, float]:
    balancer({task: torch.tensor(loss, requires_grad=True, dtype=torch.float64) for task, loss in losses.items()})
    return balancer.last["weights"]


def batches(steps: int) -> list[dict[str, float]]:
    drawn = torch.rand(steps, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    return [dict(zip(TASKS, row, strict=True)) for row in drawn.tolist()]


def test_by_hand_the_first_two_steps() -> None:
    balancer = UncertaintyWeighting(regressions=["r"], lr=0.1)
    # d/ds of f exp(-s) L + s / 2 at s = 0 is 1/2 - f L: r: 1/2 - 2 < 0, c: 1/2 - 0.1 > 0. Adam's first step is lr.
    assert step(balancer, {"r": 4.0, "c": 0.1}) == {"r": 0.5, "c": 1.0}
    assert balancer.log_variance.tolist() == pytest.approx([0.1, -0.1])
    assert step(balancer, {"r": 4.0, "c": 0.1}) == pytest.approx({"r": 0.5 * math.exp(-0.1), "c": math.exp(0.1)})


@pytest.mark.parametrize("form", ["original", "positive"])
@pytest.mark.parametrize("regressions", [None, [], ["c"]])
def test_learns_as_autograd_and_pytorch_s_adam(form, regressions) -> None:
    balancer = UncertaintyWeighting(tasks=TASKS, form=form, regressions=regressions, lr=0.05)
    s = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    factors = torch.tensor([0.5 if regressions is None or task in regressions else 1.0 for task in TASKS])
    optimizer = torch.optim.Adam([s], lr=0.05)
    for losses in batches(40):
        found = step(balancer, losses)
        assert list(found.values()) == pytest.approx((factors * (-s).exp()).tolist(), rel=1e-10)
        values = torch.tensor(list(losses.values()), dtype=torch.float64)
        penalty = s / 2 if form == "original" else (1 + s.exp()).log()
        optimizer.zero_grad()
        (factors * (-s).exp() * values + penalty).sum().backward()
        optimizer.step()


def test_is_torchjd_s_uw_when_all_are_regressions() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    other = scalarization.UW(3).double()
    optimizer = torch.optim.Adam(other.parameters(), lr=0.05)
    balancer = UncertaintyWeighting(tasks=TASKS, lr=0.05)
    for losses in batches(40):
        values = torch.tensor(list(losses.values()), dtype=torch.float64, requires_grad=True)
        optimizer.zero_grad()
        other(values).backward()
        assert list(step(balancer, losses).values()) == pytest.approx(values.grad.tolist(), rel=1e-10)
        optimizer.step()


@pytest.mark.parametrize(("form", "end"), [("original", 1 / 6), ("positive", 0.5 / 2.0)])
def test_where_learning_ends(form: str, end: float) -> None:
    # original: exp(s) = L, so w = 1 / (2 L); positive: sigmoid(s) = exp(-s) L / 2: for L = 3, v = exp(s) solves
    # v^2 / (1 + v) = 3 / 2, v = (1.5 + sqrt(1.5^2 + 6)) / 2.
    balancer = UncertaintyWeighting(form=form, lr=0.05)
    for _ in range(600):
        found = step(balancer, {"r": 3.0})
    if form == "positive":
        end = 0.5 / ((1.5 + (1.5**2 + 6) ** 0.5) / 2)
    assert found["r"] == pytest.approx(end, rel=1e-3)


def test_an_absent_task_learns_nothing() -> None:
    balancer = UncertaintyWeighting(tasks=["r", "c"])
    step(balancer, {"r": 4.0, "c": 4.0})
    kept = balancer.log_variance[1].item()
    for _ in range(5):
        step(balancer, {"r": 4.0})
    assert balancer.log_variance[1].item() == kept
    assert step(balancer, {"c": 4.0})["c"] == pytest.approx(0.5 * math.exp(-kept))


def test_a_solved_task_s_weight_stays_finite() -> None:
    balancer = UncertaintyWeighting(lr=10.0)
    for _ in range(20):
        found = step(balancer, {"r": 0.0})
    assert found["r"] == pytest.approx(0.5 * math.exp(30))


def test_needs_no_place_in_the_user_s_optimiser() -> None:
    assert not list(UncertaintyWeighting(tasks=TASKS).parameters())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"form": "both"}, "form must be one of"),
        ({"regressions": "r"}, "regressions must be a list of tasks' names or None, found 'r'"),
        ({"regressions": 3}, "regressions must be a list"),
        ({"regressions": ["x"], "tasks": TASKS}, "regressions name no task 'x'. Tasks: r, c, e"),
        ({"lr": "fast"}, "lr must be a number"),
    ],
)
def test_settings_are_checked(settings, words) -> None:
    with pytest.raises(BalanceError, match=words):
        UncertaintyWeighting(**settings)


def test_names_in_settings_are_checked_when_the_tasks_come_late() -> None:
    with pytest.raises(BalanceError, match="regressions name no task 'x'"):
        step(UncertaintyWeighting(regressions=["x"]), {"r": 1.0})
