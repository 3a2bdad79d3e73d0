"""Smooth Tchebycheff: the objective's gradient, TorchJD's, and absent tasks."""

import math

import pytest
import torch

from equipoise.balance._stch import STCH
from equipoise.errors import BalanceError

LOSSES = torch.tensor([0.3, 2.0, 1.7], dtype=torch.float64)


def weights(balancer: STCH, **losses: float) -> dict[str, float]:
    balancer({task: torch.tensor(loss, requires_grad=True, dtype=torch.float64) for task, loss in losses.items()})
    return balancer.last["weights"]


def test_by_hand() -> None:
    # p = 1/2, mu = 1/2: exponents L_i, so softmax(0, ln 3) = 1/4, 3/4, times 1/2.
    found = weights(STCH(mu=0.5), a=1.0, b=1 + math.log(3))
    assert found == pytest.approx({"a": 1 / 8, "b": 3 / 8})


@pytest.mark.parametrize("mu", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("preferences", [None, [0.2, 0.5, 0.3]])
@pytest.mark.parametrize("ideal", [None, [0.1, 1.0, -2.0]])
def test_gradient_is_torchjd_s(mu, preferences, ideal) -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")

    def tensor(values):
        return None if values is None else torch.tensor(values, dtype=torch.float64)

    reference = LOSSES.clone().requires_grad_()
    scalarization.STCH(mu=mu, weights=tensor(preferences), reference=tensor(ideal))(reference).backward()
    found = LOSSES.clone().requires_grad_()
    balancer = STCH(
        mu=mu,
        preferences=preferences and dict(zip("abc", preferences, strict=True)),
        ideal=ideal and dict(zip("abc", ideal, strict=True)),
    )
    balancer(dict(zip("abc", found, strict=True))).backward()
    torch.testing.assert_close(found.grad, reference.grad, rtol=1e-12, atol=1e-300)


def test_mu_goes_from_the_worst_task_alone_to_all_alike() -> None:
    assert weights(STCH(mu=1e-6), a=1.0, b=1.1) == pytest.approx({"a": 0.0, "b": 0.5})
    assert weights(STCH(mu=1e6), a=1.0, b=1.1) == pytest.approx({"a": 0.25, "b": 0.25}, rel=1e-5)


def test_large_losses_and_a_small_mu_stay_finite_in_float32() -> None:
    balancer = STCH(mu=1e-12)
    balancer({"a": torch.tensor(1e30, requires_grad=True), "b": torch.tensor(1e29, requires_grad=True)})
    assert balancer.last["weights"] == {"a": 0.5, "b": 0.0}


def test_an_absent_task_counts_with_its_last_loss() -> None:
    balancer = STCH(tasks=["a", "b"])
    both = weights(balancer, a=1.0, b=1.1)
    assert weights(balancer, a=1.0) == {"a": pytest.approx(both["a"])}


def test_a_task_that_was_never_seen_counts_as_the_others_mean() -> None:
    found = weights(STCH(tasks=["a", "b", "c"], mu=1 / 3), a=1.0, b=3.0)
    a, b, c = math.exp(1), math.exp(3), math.exp(2)
    assert found == pytest.approx({"a": a / (a + b + c) / 3, "b": b / (a + b + c) / 3})


@pytest.mark.parametrize(("scale", "total"), [("one", 1), ("tasks", 2)])
def test_scale(scale, total) -> None:
    balancer = STCH(scale=scale)
    assert sum(weights(balancer, a=1.0, b=1.1).values()) == pytest.approx(total)
    assert balancer.initial_weights().sum().item() == pytest.approx(total)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mu": 0}, "mu must be"),
        ({"preferences": [1, 2]}, "preferences must map tasks' names to numbers"),
        ({"preferences": {"a": 0, "b": 1}}, r"preferences\.a must be a number above 0"),
        ({"preferences": {"a": 1}}, "preferences lack a number for b"),
        ({"preferences": {"a": 1, "b": 1, "x": 1}}, "preferences name no task 'x'"),
        ({"ideal": {"x": 1}}, "ideal name no task 'x'"),
        ({"scale": "k"}, "scale"),
    ],
)
@pytest.mark.parametrize("early", [True, False])
def test_settings_are_checked(settings, words, early) -> None:
    with pytest.raises(BalanceError, match=words):
        weights(STCH(tasks=["a", "b"] if early else None, **settings), a=1.0, b=1.0)
