"""EnCodec's balancer: shares of a fixed total norm, against numbers by hand and the sums of the paper's average."""

import pytest
import torch

from equipoise.balance._encodec import EnCodecBalancer
from equipoise.errors import BalanceError

Norms = dict[str, float]


def step(balancer: EnCodecBalancer, norms: Norms) -> torch.Tensor:
    hidden = torch.ones(1, len(norms), dtype=torch.float64, requires_grad=True)
    losses = {task: hidden[0, k] * norm for k, (task, norm) in enumerate(norms.items())}
    return torch.autograd.grad(balancer(losses, shared=hidden), hidden)[0][0]


def test_shares_of_the_total_norm_by_hand() -> None:
    balancer = EnCodecBalancer(shares={"a": 1, "b": 4}, total_norm=2.0)
    pulls = step(balancer, {"a": 30.0, "b": 0.1})
    torch.testing.assert_close(pulls, torch.tensor([0.4, 1.6], dtype=torch.float64), rtol=1e-12, atol=0)
    assert balancer.last["weights"] == pytest.approx({"a": 0.4 / 30, "b": 16.0}, rel=1e-12)


def test_opposed_equal_shares_cancel() -> None:
    hidden = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    losses = {"a": (hidden - 1).abs().sum(), "b": 100 * (hidden + 1).abs().sum()}
    EnCodecBalancer()(losses, shared=hidden).backward()
    assert hidden.grad.item() == pytest.approx(0.0, abs=1e-15)


def test_running_average_against_the_quotient_of_sums() -> None:
    balancer = EnCodecBalancer(smoothing=0.9)
    total = dict.fromkeys("ab", 0.0)
    mass = 0.0
    draw = torch.Generator().manual_seed(1)
    for _ in range(20):
        norms = dict(zip("ab", torch.rand(2, generator=draw, dtype=torch.float64).tolist(), strict=True))
        step(balancer, norms)
        mass = 0.9 * mass + 1
        total = {task: 0.9 * total[task] + norms[task] for task in total}
        expected = {task: 0.5 * mass / total[task] for task in total}
        assert balancer.last["weights"] == pytest.approx(expected, rel=1e-12)


def test_shares_sum_over_all_tasks_and_absent_ones_keep_their_norm() -> None:
    balancer = EnCodecBalancer(tasks=["a", "b"])
    step(balancer, {"a": 2.0})
    assert balancer.last["weights"] == {"a": 0.25}, "half of the norm, although alone"
    assert balancer.weights.tolist() == [0.25, 0.25], "a task never seen counts as if it had the median norm"
    step(balancer, {"b": 4.0})
    assert balancer.norms.tolist() == [2.0, 4.0]
    assert balancer.measured.tolist() == [1, 1]


def test_a_zero_gradient_does_not_enter_the_average() -> None:
    balancer = EnCodecBalancer()
    step(balancer, {"a": 2.0, "b": 1.0})
    step(balancer, {"a": 0.0, "b": 1.0})
    assert balancer.norms.tolist() == pytest.approx([2.0, 1.0], rel=1e-12)
    fresh = EnCodecBalancer()
    step(fresh, {"a": 0.0, "b": 0.0})
    assert fresh.last["weights"] == {"a": 0.5, "b": 0.5}


def test_state_round_trip() -> None:
    whole, half = EnCodecBalancer(smoothing=0.9), EnCodecBalancer(smoothing=0.9)
    for norms in ({"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 2.0}):
        step(whole, norms)
        step(half, norms)
    resumed = EnCodecBalancer(smoothing=0.9)
    resumed.load_state_dict(half.state_dict())
    step(whole, {"a": 1.0, "b": 7.0})
    step(resumed, {"a": 1.0, "b": 7.0})
    assert resumed.last["weights"] == whole.last["weights"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shares": {"a": -1.0}}, "shares.a must be a number at least 0"),
        ({"shares": {"a": 0.0}}, "shares must have a number above 0"),
        ({"shares": [1, 2]}, "shares must map"),
        ({"shares": {"a": 1.0}, "tasks": ["a", "b"]}, "shares lack a number for b"),
        ({"shares": {"a": 1.0, "x": 1.0}, "tasks": ["a", "b"]}, "no task 'x'"),
        ({"total_norm": 0.0}, "total_norm must be"),
        ({"smoothing": None}, "smoothing must be"),
    ],
)
def test_unusable_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(BalanceError, match=message):
        EnCodecBalancer(**settings)
