"""GradNorm: one step by hand, every step against a double backward of PyTorch, and what absent tasks do."""

import pytest
import torch

from equipoise.balance._gradnorm import GradNorm
from equipoise.errors import BalanceError


class Network:
    """Three regressions on one hidden layer, in float64."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(5)
        self.inputs = torch.randn(8, 4, generator=draw, dtype=torch.float64)
        self.targets = torch.randn(8, 3, generator=draw, dtype=torch.float64) * torch.tensor([0.1, 1.0, 10.0])
        self.shared = torch.nn.Parameter(torch.randn(4, 3, generator=draw, dtype=torch.float64))
        self.heads = torch.nn.Parameter(torch.randn(3, 3, generator=draw, dtype=torch.float64))

    def losses(self) -> dict[str, torch.Tensor]:
        out = (self.inputs @ self.shared).tanh() @ self.heads
        return dict(zip("abc", (out - self.targets).square().mean(0), strict=True))


def step(balancer: GradNorm, losses: dict[str, float], norms: dict[str, float]) -> dict[str, float]:
    hidden = torch.zeros(1, len(norms), dtype=torch.float64, requires_grad=True)
    balancer({t: hidden[0, k] * norms[t] + losses[t] for k, t in enumerate(norms)}, shared=hidden)
    return balancer.last["weights"]


def test_one_step_by_hand() -> None:
    balancer = GradNorm(alpha=1.0, lr=0.1, optimizer="sgd")
    assert step(balancer, {"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 2.0}) == {"a": 1.0, "b": 1.0}
    # Rates 1, mean norm 2.5: a is above its target, b below: (1 - 0.1 * 3, 1 + 0.1 * 2) = (0.7, 1.2), scaled by 2 / 1.9.
    found = step(balancer, {"a": 1.0, "b": 3.0}, {"a": 3.0, "b": 1.0})
    assert found == pytest.approx({"a": 1.4 / 1.9, "b": 2.4 / 1.9}, rel=1e-12)
    # Loss ratios 1 and 3, rates 0.5 and 1.5; forces 4.2 / 1.9 and 2.4 / 1.9, mean 3.3 / 1.9; targets 1.65 / 1.9 and
    # 4.95 / 1.9: a down by 0.3, b up by 0.1; then scaled to sum 2 from 1.8.
    expected = [(1.4 / 1.9 - 0.3) / 0.9, (2.4 / 1.9 + 0.1) / 0.9]
    assert balancer.learned.tolist() == pytest.approx(expected, rel=1e-12)


def test_a_task_that_lags_behind_is_raised_although_it_is_the_stronger_one() -> None:
    balancer = GradNorm(alpha=1.0, lr=0.1, optimizer="sgd")
    step(balancer, {"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0})
    assert balancer.learned.tolist() == [1.0, 1.0], "on target: no slope"
    # Mean force 2.5, rates 1.5 and 0.5, targets 3.75 and 1.25: (1 + 0.3, 1 - 0.2), scaled by 2 / 2.1.
    step(balancer, {"a": 3.0, "b": 1.0}, {"a": 3.0, "b": 2.0})
    assert balancer.learned.tolist() == pytest.approx([2.6 / 2.1, 1.6 / 2.1], rel=1e-12)


def test_the_mean_force_decides_who_is_raised() -> None:
    balancer = GradNorm(alpha=0.0, lr=0.1, optimizer="sgd")
    # Mean 4: a is just above it.
    step(balancer, dict.fromkeys("abc", 1.0), {"a": 4.02, "b": 2.0, "c": 5.98})
    expected = [1 - 0.402, 1 + 0.2, 1 - 0.598]
    assert balancer.learned.tolist() == pytest.approx([3 * w / sum(expected) for w in expected], rel=1e-12)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_every_step_against_a_double_backward(optimizer: str) -> None:
    network = Network()
    balancer = GradNorm(alpha=0.5, lr=0.01, optimizer=optimizer)
    weights = torch.ones(3, dtype=torch.float64, requires_grad=True)
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
    learner = kind([weights], lr=0.01)
    descent = torch.optim.SGD([network.shared, network.heads], lr=0.01)
    first: torch.Tensor | None = None
    for _ in range(6):
        losses = network.losses()
        plain = torch.stack(list(losses.values()))
        first = plain.detach() if first is None else first
        pulls = [
            torch.autograd.grad(weights[k] * loss, network.shared, create_graph=True)[0] for k, loss in enumerate(plain)
        ]
        forces = torch.stack([pull.norm() for pull in pulls])
        ratios = plain.detach() / first
        target = (forces.mean() * (ratios / ratios.mean()) ** 0.5).detach()
        (slope,) = torch.autograd.grad((forces - target).abs().sum(), weights, retain_graph=True)

        descent.zero_grad()
        total = balancer(network.losses(), shared=[network.shared])
        torch.testing.assert_close(balancer.weights, weights.detach(), rtol=1e-10, atol=0)
        total.backward()
        descent.step()
        weights.grad = slope
        learner.step()
        with torch.no_grad():
            weights *= 3 / weights.sum()
    torch.testing.assert_close(balancer.learned, weights.detach(), rtol=1e-10, atol=0)


def test_norms_are_drawn_to_the_target() -> None:
    balancer = GradNorm(alpha=0.0, lr=0.01)
    for _ in range(400):
        found = step(balancer, {"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 3.0})
    assert found == pytest.approx({"a": 1.5, "b": 0.5}, rel=0.05)


def test_an_absent_task_is_not_learned_from_but_counts() -> None:
    balancer = GradNorm(tasks=["a", "b"], alpha=0.0, lr=0.1, optimizer="sgd")
    step(balancer, {"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 1.0})  # mean 2: (0.7, 1.1), scaled by 2 / 1.8
    before = balancer.learned.clone()
    step(balancer, {"a": 1.0}, {"a": 1.0})
    # Forces 0.7778 and, by the last norm of b, 1.2222; a is below their mean 1 and rises by 0.1.
    expected = torch.stack([before[0] + 0.1, before[1]]) * 2 / 2.1
    torch.testing.assert_close(balancer.learned, expected, rtol=1e-12, atol=0)
    assert balancer.norms.tolist() == [1.0, 1.0]


def test_weights_stay_positive_and_sum_to_the_number_of_tasks() -> None:
    balancer = GradNorm(lr=0.5)
    for _ in range(20):
        step(balancer, {"a": 1.0, "b": 1.0}, {"a": 1e4, "b": 1.0})
        assert (balancer.learned > 0).all()
        assert balancer.learned.sum().item() == pytest.approx(2.0, rel=1e-12)


def test_the_first_loss_above_zero_is_the_reference() -> None:
    balancer = GradNorm(tasks=["a", "b"])
    step(balancer, {"a": 0.0, "b": 4.0}, {"a": 1.0, "b": 1.0})
    assert balancer.first_losses.tolist() == [0.0, 4.0]
    step(balancer, {"a": 2.0, "b": 1.0}, {"a": 1.0, "b": 1.0})
    assert balancer.first_losses.tolist() == [2.0, 4.0]
    assert balancer.ratios.tolist() == [1.0, 0.25]


def test_between_measurements_nothing_is_learned_but_ratios_go_on() -> None:
    balancer = GradNorm(every=2)
    step(balancer, {"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 1.0})
    learned = balancer.learned.clone()
    step(balancer, {"a": 0.5, "b": 1.0}, {"a": 9.0, "b": 1.0})
    assert torch.equal(balancer.learned, learned)
    assert balancer.ratios.tolist() == [0.5, 1.0]


def test_a_negative_loss_is_refused() -> None:
    with pytest.raises(BalanceError, match=r"task 'a'.*zero or more"):
        step(GradNorm(), {"a": -1.0, "b": 1.0}, {"a": 1.0, "b": 1.0})


@pytest.mark.parametrize(
    "settings", [{"alpha": -1.0}, {"alpha": "1"}, {"lr": "fast"}, {"optimizer": "lion"}, {"epsilon": 1.0}]
)
def test_unusable_settings_are_refused(settings: dict) -> None:
    with pytest.raises(BalanceError, match=f"{next(iter(settings))} must"):
        GradNorm(**settings)
