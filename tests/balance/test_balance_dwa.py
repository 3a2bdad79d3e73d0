"""DWA: the ratio of two windows, TorchJD's weights epoch by epoch, and tasks that are absent."""

import math

import pytest
import torch

from equipoise.balance import RunningAverage
from equipoise.balance._dwa import DWA
from equipoise.errors import BalanceError


def weights(balancer: DWA, **losses: float) -> dict[str, float]:
    balancer({task: torch.tensor(loss, requires_grad=True, dtype=torch.float64) for task, loss in losses.items()})
    return balancer.last["weights"]


def expected(a: float, b: float, temperature: float = 2.0) -> dict[str, float]:
    one, other = math.exp(a / temperature), math.exp(b / temperature)
    return pytest.approx({"a": 2 * one / (one + other), "b": 2 * other / (one + other)})


def test_by_hand() -> None:
    balancer = DWA(window=2)
    for a, b in ((3.0, 1.0), (5.0, 1.0)):  # means 4 and 1
        assert weights(balancer, a=a, b=b) == {"a": 1.0, "b": 1.0}
    for a, b in ((1.0, 2.0), (1.0, 4.0)):  # means 1 and 3
        assert weights(balancer, a=a, b=b) == {"a": 1.0, "b": 1.0}
    for _ in range(2):
        assert weights(balancer, a=2.0, b=3.0) == expected(1 / 4, 3)
    assert weights(balancer, a=2.0, b=3.0) == expected(2, 1)


@pytest.mark.parametrize(("window", "epoch", "steps"), [(None, 3, 3), (None, None, 100), (2, 3, 2)])
def test_a_window_is_an_epoch_where_its_length_is_known(window: int | None, epoch: int | None, steps: int) -> None:
    wrapper = RunningAverage(of=DWA(window=window), decay=0.0)  # what a trainer says to a wrapper is for the one inside
    wrapper.epoch = epoch
    balancer = wrapper.of
    for loss in (4.0, 1.0):
        for _ in range(steps):
            assert weights(balancer, a=loss, b=1.0) == {"a": 1.0, "b": 1.0}
    assert weights(balancer, a=1.0, b=1.0) == expected(1 / 4, 1)


@pytest.mark.parametrize("temperature", [2.0, 0.3])
def test_is_torchjd_s_with_a_window_of_an_epoch(temperature: float) -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    other = scalarization.DWA(temperature=temperature)
    balancer = DWA(temperature=temperature, window=4)
    drawn = torch.rand(6, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    for epoch in drawn:
        for row in epoch:
            values = row.clone().requires_grad_()
            other(values).backward()
            found = weights(balancer, **dict(zip("abc", row.tolist(), strict=True)))
            assert list(found.values()) == pytest.approx(values.grad.tolist(), rel=1e-12)
        other.step()


def test_a_window_s_mean_is_over_the_steps_in_which_the_task_was_present() -> None:
    balancer = DWA(tasks=["a", "b"], window=2)
    weights(balancer, a=4.0, b=3.0)
    weights(balancer, a=4.0)
    weights(balancer, a=1.0, b=6.0)
    weights(balancer, a=1.0)
    assert weights(balancer, a=1.0, b=1.0) == expected(1 / 4, 2)


def test_a_window_without_a_task_leaves_its_ratio() -> None:
    balancer = DWA(tasks=["a", "b"], window=1)
    weights(balancer, a=1.0, b=4.0)
    weights(balancer, a=1.0, b=2.0)
    for _ in range(3):
        weights(balancer, a=1.0)
    assert weights(balancer, a=1.0, b=2.0) == expected(1, 0.5)


def test_a_task_with_one_mean_has_ratio_one() -> None:
    balancer = DWA(tasks=["a", "b"], window=1)
    weights(balancer, a=4.0)
    weights(balancer, a=1.0, b=2.0)
    assert weights(balancer, a=1.0, b=2.0) == expected(1 / 4, 1)


def test_an_earlier_mean_of_zero_or_near_it_stays_finite() -> None:
    balancer = DWA(window=1)
    weights(balancer, a=0.0, b=1e-300)
    weights(balancer, a=1.0, b=1e300)
    assert weights(balancer, a=1.0, b=1.0) == pytest.approx({"a": 0, "b": 2})


def test_a_window_resumes_in_its_middle() -> None:
    whole = DWA(window=3)
    for step in range(8):
        weights(whole, a=1.0 + step, b=2.0)
    resumed = DWA(window=3)
    resumed.load_state_dict(whole.state_dict())
    for step in range(5):
        assert weights(resumed, a=3.0 * step, b=1.0) == weights(whole, a=3.0 * step, b=1.0)


def test_scale() -> None:
    assert weights(DWA(scale="one"), a=1.0, b=2.0) == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"window": 0}, {"window": 1.5}, {"scale": "k"}])
def test_settings_are_checked(settings) -> None:
    with pytest.raises(BalanceError, match=next(iter(settings))):
        DWA(**settings)
