"""ExcessMTL: numbers by hand, TorchJD's weighting on the same Jacobians, and what absent tasks do."""

import math

import pytest
import torch

from equipoise.balance._excess_mtl import ExcessMTL
from equipoise.errors import BalanceError


def step(balancer: ExcessMTL, jacobian: dict[str, list[float]]) -> dict[str, float]:
    """One step with these gradients at two parameters of 1 and of the other elements."""
    elements = len(next(iter(jacobian.values())))
    layers = [torch.nn.Parameter(torch.ones(size, dtype=torch.float64)) for size in (1, elements - 1)]
    flat = torch.cat(layers)
    losses = {t: flat @ torch.tensor(row, dtype=torch.float64) + 10 for t, row in jacobian.items()}
    balancer(losses, shared=layers).backward()
    return balancer.last["weights"]


def test_two_steps_by_hand() -> None:
    balancer = ExcessMTL(step_size=2.0)
    # Risks 9 / 3 + 16 / 4 = 7 and 1; they are the baselines.
    assert step(balancer, {"a": [3.0, 4.0], "b": [1.0, 0.0]}) == pytest.approx({"a": 0.5, "b": 0.5}, rel=1e-12)
    # Risks 16 / (9 + 16)^0.5 + 9 / (16 + 9)^0.5 = 5 and 0.
    found = step(balancer, {"a": [4.0, 3.0], "b": [0.0, 0.0]})
    # A zero gradient does not count: b keeps its relative risk of 1.
    low, high = math.exp(2.0 * 1), math.exp(2.0 * 5 / 7)
    assert found == pytest.approx({"a": high / (high + low), "b": low / (high + low)}, rel=1e-6)


@pytest.mark.parametrize("warmup", [1, 3])
def test_against_torchjd(warmup: int) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    balancer = ExcessMTL(step_size=0.3, warmup=warmup)
    # With a warm-up of one step TorchJD does what the official code does: the first risks are the baseline, no update.
    weighting = aggregation.ExcessMTLWeighting(robust_step_size=0.3, n_warmup_steps=warmup)
    draw = torch.Generator().manual_seed(0)
    scale = torch.tensor([[0.1], [1.0], [10.0]], dtype=torch.float64)
    for _ in range(8):
        jacobian = torch.randn(3, 5, generator=draw, dtype=torch.float64) * scale
        found = step(balancer, dict(zip("abc", jacobian.tolist(), strict=True)))
        assert list(found.values()) == pytest.approx(weighting(jacobian).tolist(), rel=1e-10)


def test_an_absent_task_is_taken_to_be_where_it_was() -> None:
    balancer = ExcessMTL(step_size=1.0, tasks=["a", "b"])
    rows = {"a": [3.0, 4.0], "b": [1.0, 2.0]}
    step(balancer, rows)
    step(balancer, rows)
    before = balancer.log_shares.clone()
    risk = balancer.excess.tolist()
    squares = balancer.squares.clone()
    step(balancer, {"a": [3.0, 4.0]})
    grown = balancer.excess[0].item()
    gap = (balancer.log_shares - before).tolist()
    assert gap[0] - gap[1] == pytest.approx(grown - risk[1], rel=1e-9)
    assert balancer.excess[1].item() == risk[1]
    assert torch.equal(balancer.squares[1], squares[1])
    assert balancer.log_shares.exp().sum().item() == pytest.approx(1.0)


def test_scale_and_steps_between() -> None:
    balancer = ExcessMTL(scale="tasks", every=2)
    found = [step(balancer, {"a": [float(n), 1.0], "b": [1.0, 1.0]}) for n in (1, 2, 3, 4)]
    assert [sum(w.values()) for w in found] == pytest.approx([2.0] * 4, rel=1e-12)
    assert found[1] == found[0]
    assert found[3] == found[2] != found[0]


@pytest.mark.parametrize("order", [["a", "b"], ["b", "a"]])
def test_state_survives_and_follows_the_order_of_tasks(order: list[str]) -> None:
    half = ExcessMTL(tasks=["a", "b"], step_size=1.0)
    step(half, {"a": [3.0, 4.0], "b": [1.0, 2.0]})
    step(half, {"a": [1.0, 4.0], "b": [2.0, 2.0]})
    resumed = ExcessMTL(tasks=order, step_size=1.0)
    resumed.load_state_dict(half.state_dict())
    assert resumed.squares.shape == (2, 2)
    following = {"a": [1.0, 1.0], "b": [5.0, 2.0]}
    assert step(resumed, following) == pytest.approx(step(half, following), rel=1e-14)


def test_a_huge_excess_saturates() -> None:
    balancer = ExcessMTL(step_size=10.0)
    for size in (1e-3, 1e6, 1e6, 1e6):
        found = step(balancer, {"a": [size, size], "b": [1.0, 1.0]})
    assert found["a"] == 1.0
    assert found["b"] >= 0.0


def test_a_representation_and_other_parameters_are_refused() -> None:
    hidden = torch.ones(1, 2, requires_grad=True)
    with pytest.raises(BalanceError, match="ExcessMTL cannot be measured at the representation"):
        ExcessMTL()({"a": hidden.sum()}, shared=hidden)
    balancer = ExcessMTL()
    step(balancer, {"a": [1.0, 2.0]})
    with pytest.raises(BalanceError, match="squares holds 2 numbers a task, but shared now has 3"):
        step(balancer, {"a": [1.0, 2.0, 3.0]})


@pytest.mark.parametrize("settings", [{"step_size": 0}, {"step_size": "1"}, {"warmup": 0}, {"warmup": 1.5}])
def test_unusable_settings_are_refused(settings: dict) -> None:
    with pytest.raises(BalanceError, match=f"{next(iter(settings))} must"):
        ExcessMTL(**settings)
