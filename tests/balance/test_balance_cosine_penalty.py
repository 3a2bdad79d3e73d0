"""Gradient-cosine penalty: value and gradient by hand and against PyTorch's own cosines, pairs left out."""

import pytest
import torch

from equipoise.balance._cosine_penalty import GradientCosinePenalty
from equipoise.errors import BalanceError


def network(tasks: str = "abc") -> tuple[list[torch.nn.Parameter], dict[str, torch.Tensor], torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    inputs = torch.randn(6, 4, generator=draw, dtype=torch.float64)
    layer = torch.nn.Parameter(torch.randn(4, 3, generator=draw, dtype=torch.float64))
    heads = torch.nn.Parameter(torch.randn(3, 3, generator=draw, dtype=torch.float64))
    hidden = (inputs @ layer).tanh()
    out = hidden @ heads
    losses = {t: 10.0**k * (out[:, k] - 1).square() for k, t in enumerate("abc") if t in tasks}
    return [layer, heads], losses, hidden


def test_value_and_gradient_by_hand() -> None:
    hidden = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    losses = {"a": hidden[0, 0] ** 2 / 2 + hidden[0, 1] ** 2 / 2, "b": hidden[0, 0] * 1}
    total = GradientCosinePenalty(strength=2.0)(losses, shared=hidden)
    # Gradients (x, y) and (1, 0): cosine x / (x^2 + y^2)^0.5 = 5^-0.5, its gradient (y^2, -x y) / 5^1.5.
    assert total.item() == pytest.approx(2.5 + 1 + 2 * (1 - 5**-0.5), rel=1e-12)
    total.backward()
    assert hidden.grad[0].tolist() == pytest.approx([1 + 1 - 2 * 4 / 5**1.5, 2 + 2 * 2 / 5**1.5], rel=1e-12)


@pytest.mark.parametrize("at", ["representation", "parameters"])
def test_against_pytorch(at: str) -> None:
    parameters, losses, hidden = network()
    point = hidden if at == "representation" else parameters[0]
    pulls = [torch.autograd.grad(x.mean(), point, create_graph=True)[0].flatten() for x in losses.values()]
    cosines = [torch.cosine_similarity(pulls[i], pulls[j], dim=0) for i, j in ((0, 1), (0, 2), (1, 2))]
    expected = sum(x.mean() for x in losses.values()) + 0.3 * sum(1 - cosine for cosine in cosines) / 3
    slopes = torch.autograd.grad(expected, parameters)

    parameters, losses, hidden = network()
    shared = hidden if at == "representation" else [parameters[0]]
    total = GradientCosinePenalty(strength=0.3)(losses, shared=shared)
    assert total.item() == pytest.approx(expected.item(), rel=1e-12)
    for found, slope in zip(torch.autograd.grad(total, parameters), slopes, strict=True):
        torch.testing.assert_close(found, slope, rtol=1e-10, atol=1e-13)


def test_descent_brings_the_gradients_together() -> None:
    angle = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    balancer = GradientCosinePenalty(strength=1.0)
    cosines = []
    for _ in range(200):
        hidden = torch.stack([angle.cos(), angle.sin()], dim=1)  # on the unit circle
        losses = {"a": hidden.square().sum() / 2, "b": hidden[0, 1] * 1}  # gradients: the point itself, and (0, 1)
        total = balancer(losses, shared=hidden) - losses["a"] - losses["b"]  # the penalty alone
        (slope,) = torch.autograd.grad(total, angle)
        angle = (angle - 0.1 * slope).detach().requires_grad_()
        cosines.append(balancer.last["cosines"]["a|b"])
    assert cosines[0] < 0.4
    assert cosines[-1] > 0.999


def test_pairs_without_a_meaningful_cosine_are_left_out() -> None:
    hidden = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    losses = {
        "a": hidden[0].square().sum() / 2,  # (1, 2) on row 0
        "b": hidden[0, 0] * 1,  # (1, 0) on row 0
        "c": hidden[1].square().sum() / 2,  # row 1 only
        "d": (hidden * 0).sum(),  # nothing
    }
    plain = sum(x.item() for x in losses.values())
    total = GradientCosinePenalty(strength=1.0)(losses, shared=hidden)
    assert total.item() == pytest.approx(plain + 1 - 5**-0.5, rel=1e-12)
    (slope,) = torch.autograd.grad(total, hidden)
    assert slope.isfinite().all()


@pytest.mark.parametrize("tasks", ["a", "ab"])
def test_disjoint_rows_single_tasks_and_solved_tasks_leave_the_plain_sum(tasks: str) -> None:
    hidden = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    losses = {t: hidden[k].square().sum() for k, t in enumerate(tasks)}
    assert GradientCosinePenalty()(losses, shared=hidden).item() == 2.0 * len(tasks)
    total = GradientCosinePenalty()({t: (hidden * 0).square().sum() for t in tasks}, shared=hidden)
    total.backward()
    assert total.item() == 0.0
    assert hidden.grad.isfinite().all()


def test_absent_tasks_and_steps_between() -> None:
    _, losses, hidden = network("ac")
    balancer = GradientCosinePenalty(tasks=["a", "b", "c"], strength=1.0, every=2)
    plain = sum(x.mean().item() for x in losses.values())
    total = balancer(losses, shared=hidden)
    assert total.item() == pytest.approx(plain + 1 - balancer.last["cosines"]["a|c"], rel=1e-12)
    _, losses, hidden = network("ac")
    assert balancer(losses, shared=hidden).item() == pytest.approx(plain, rel=1e-12)
    assert balancer.last["weights"] == {"a": 1.0, "c": 1.0}


def test_penalty_of_a_hand_made_gramian() -> None:
    balancer = GradientCosinePenalty(strength=1.0)
    nan = float("nan")
    gramian = torch.tensor([[1.0, -2.0, 0.0], [-2.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    cosines = torch.tensor([[1.0, -1.0, nan], [-1.0, 1.0, nan], [nan, nan, nan]])
    assert balancer.penalty(gramian, cosines).item() == pytest.approx(2.0), "one pair, opposed; the third has none"
    apart = torch.full((3, 3), nan)
    assert balancer.penalty(gramian, apart).item() == 0.0, "they meet nowhere"


@pytest.mark.parametrize("strength", [-1.0, "0.1", None])
def test_unusable_settings_are_refused(strength: object) -> None:
    with pytest.raises(BalanceError, match="strength must be a number"):
        GradientCosinePenalty(strength=strength)
