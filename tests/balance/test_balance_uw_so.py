"""UW-SO: the softmax of inverse losses, its temperature, and absent tasks."""

import math

import pytest
import torch

from equipoise.balance._uw_so import UWSO
from equipoise.errors import BalanceError


def weights(balancer: UWSO, **losses: float) -> dict[str, float]:
    balancer({task: torch.tensor(loss, requires_grad=True, dtype=torch.float64) for task, loss in losses.items()})
    return balancer.last["weights"]


def test_by_hand() -> None:
    a, b = math.exp(1 / 0.5 / 2), math.exp(1 / 4 / 2)
    assert weights(UWSO(temperature=2), a=0.5, b=4.0) == pytest.approx({"a": a / (a + b), "b": b / (a + b)})


def test_follows_the_optimum_of_uncertainty_weighting() -> None:
    # The exponent is the inverse loss: the weight at which exp(-s) L + s, uncertainty's objective times 2, is least.
    losses = torch.tensor([0.5, 4.0], dtype=torch.float64)
    s = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    for _ in range(50):  # Newton, by autograd
        objective = ((-s).exp() * losses + s).sum()
        (slope,) = torch.autograd.grad(objective, s, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), s)
        s = (s - slope / curvature).detach().requires_grad_()
    expected = ((-s.detach()).exp() / 1.5).softmax(0).tolist()
    assert list(weights(UWSO(temperature=1.5), a=0.5, b=4.0).values()) == pytest.approx(expected, rel=1e-12)


def test_temperature_goes_from_the_easiest_task_alone_to_equal_weights() -> None:
    assert weights(UWSO(temperature=1e-4), a=0.5, b=0.6) == pytest.approx({"a": 1.0, "b": 0.0})
    assert weights(UWSO(temperature=1e6), a=0.5, b=0.6) == pytest.approx({"a": 0.5, "b": 0.5}, abs=1e-5)


def test_zero_losses_stay_finite() -> None:
    assert weights(UWSO(), a=0.0, b=1.0) == {"a": 1.0, "b": 0.0}
    assert weights(UWSO(), a=0.0, b=0.0) == {"a": 0.5, "b": 0.5}


def test_an_absent_task_counts_with_its_last_loss() -> None:
    balancer = UWSO(tasks=["a", "b"])
    both = weights(balancer, a=0.5, b=4.0)
    assert weights(balancer, a=0.5) == {"a": pytest.approx(both["a"])}


def test_a_task_that_was_never_seen_counts_as_the_others_mean() -> None:
    found = weights(UWSO(tasks=["a", "b", "c"]), a=0.5, b=1.0)
    a, b, c = math.exp(2), math.exp(1), math.exp(1.5)
    assert found == pytest.approx({"a": a / (a + b + c), "b": b / (a + b + c)})


def test_scale() -> None:
    assert sum(weights(UWSO(), a=0.5, b=4.0).values()) == pytest.approx(1)
    assert sum(weights(UWSO(scale="tasks"), a=0.5, b=4.0).values()) == pytest.approx(2)


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": "1"}, {"epsilon": -1}, {"scale": "k"}])
def test_settings_are_checked(settings) -> None:
    with pytest.raises(BalanceError, match=next(iter(settings))):
        UWSO(**settings)
