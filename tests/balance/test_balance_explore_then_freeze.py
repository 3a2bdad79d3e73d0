"""ExploreThenFreeze: equal weights while exploring, then fixed ones that make gradients alike in size."""

import pytest
import torch

from equipoise.balance import Balancer, Priority, RecomputeEvery, RunningAverage, measure
from equipoise.balance._explore_then_freeze import ExploreThenFreeze
from equipoise.balance._registry import describe
from equipoise.errors import BalanceError

Norms = dict[str, float]


def weights(balancer: Balancer, norms: Norms, *, shared: bool = True) -> Norms:
    hidden = torch.ones(1, len(norms), dtype=torch.float64, requires_grad=True)
    losses = {task: hidden[0, k] * norm for k, (task, norm) in enumerate(norms.items())}
    balancer(losses, shared=hidden if shared else None)
    return balancer.last["weights"]


def test_geometric_means_by_hand() -> None:
    balancer = ExploreThenFreeze(explore=2)
    assert weights(balancer, {"a": 1.0, "b": 2.0}) == {"a": 1.0, "b": 1.0}
    assert weights(balancer, {"a": 9.0, "b": 0.5}) == {"a": 1.0, "b": 1.0}
    # Geometric means 3 and 1.
    for norms in ({"a": 1.0, "b": 1.0}, {"a": 7.0, "b": 0.0}):
        assert weights(balancer, norms) == pytest.approx({"a": 0.5, "b": 1.5}, rel=1e-12)


def test_no_other_weights_make_the_magnitudes_more_similar() -> None:
    draw = torch.Generator().manual_seed(0)
    spread = 0.05 * torch.randn(50, 3, generator=draw, dtype=torch.float64)
    norms = (spread + torch.tensor([2.0, 0.0, -3.0])).exp()
    balancer = ExploreThenFreeze(explore=50)
    for row in norms.tolist():
        weights(balancer, dict(zip("abc", row, strict=True)))
    found = torch.tensor(list(weights(balancer, dict.fromkeys("abc", 1.0)).values()), dtype=torch.float64)

    def similarity(tried: torch.Tensor) -> float:
        forces = tried * norms
        pairs = [(forces[:, i], forces[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        return sum((2 * a * b / (a**2 + b**2)).mean().item() for a, b in pairs)

    best = similarity(found)
    assert best > similarity(torch.ones(3)) + 1
    for _ in range(200):
        tried = found * (0.05 * torch.randn(3, generator=draw, dtype=torch.float64)).exp()
        assert similarity(tried) <= best + 1e-4


def test_after_the_exploration_nothing_is_measured() -> None:
    balancer = ExploreThenFreeze(explore=1)
    weights(balancer, {"a": 3.0, "b": 1.0})
    before = {name: value.clone() for name, value in balancer.state_dict().items()}
    assert weights(balancer, {"a": 1.0, "b": 9.0}, shared=False) == pytest.approx({"a": 0.5, "b": 1.5})
    for name in ("mean_logs", "measured", "norms"):
        assert torch.equal(balancer.state_dict()[name], before[name])
    with pytest.raises(BalanceError, match="ExploreThenFreeze needs shared"):
        weights(ExploreThenFreeze(explore=1), {"a": 1.0}, shared=False)


def test_resuming_in_either_phase() -> None:
    whole = ExploreThenFreeze(explore=3)
    steps = [{"a": 1.0 + n, "b": 2.0} for n in range(6)]
    expected = [weights(whole, norms) for norms in steps]
    for cut in (2, 4):
        half, resumed = ExploreThenFreeze(explore=3), ExploreThenFreeze(explore=3)
        for norms in steps[:cut]:
            weights(half, norms)
        resumed.load_state_dict(half.state_dict())
        assert [weights(resumed, norms) for norms in steps[cut:]] == expected[cut:]


def test_zero_gradients_and_absent_tasks() -> None:
    balancer = ExploreThenFreeze(explore=3, tasks=["a", "b", "c"], scale="one")
    weights(balancer, {"a": 4.0, "b": 0.0})
    weights(balancer, {"b": 1.0})
    weights(balancer, {"a": 4.0, "b": 1.0})
    assert balancer.measured.tolist() == [2, 2, 0]
    # a 1/4, b 1: shares 0.2 and 0.8; c, never seen, as the median norm 2.5 would have: 0.8 / 2.5.
    assert weights(balancer, {"a": 1.0, "b": 1.0, "c": 1.0}) == pytest.approx({"a": 0.2, "b": 0.8, "c": 0.32}, rel=1e-6)


def test_nothing_measured_gives_equal_weights() -> None:
    balancer = ExploreThenFreeze(explore=1)
    weights(balancer, {"a": 0.0, "b": 0.0})
    assert weights(balancer, {"a": 1.0, "b": 2.0}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("settings", [{"explore": 0}, {"explore": 1.5}, {"explore": "all"}, {"scale": "sum"}])
def test_unusable_settings_are_refused(settings: dict) -> None:
    with pytest.raises(BalanceError, match=f"{next(iter(settings))} must"):
        ExploreThenFreeze(**settings)


WRAPPERS = {
    "priority": lambda of: Priority(of=of, priorities={}),
    "running_average": lambda of: RunningAverage(of=of, decay=0.0),
    "recompute_every": lambda of: RecomputeEvery(of=of, every=1),
    "two": lambda of: Priority(of=RunningAverage(of=of, decay=0.0), priorities={}),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_it_freezes_in_a_wrapper_too(name: str) -> None:
    inner = ExploreThenFreeze(explore=2)
    balancer = WRAPPERS[name](inner)
    for norms in ({"a": 1.0, "b": 2.0}, {"a": 9.0, "b": 0.5}):
        assert balancer.requires == {"shared"}
        assert weights(balancer, norms) == {"a": 1.0, "b": 1.0}
    assert balancer.requires == frozenset()
    before = {key: value.clone() for key, value in inner.state_dict().items() if key not in ("step", "weights")}
    for shared in (True, False):
        assert weights(balancer, {"a": 7.0, "b": 1.0}, shared=shared) == pytest.approx({"a": 0.5, "b": 1.5}, rel=1e-6)
    for key, value in before.items():
        assert torch.equal(inner.state_dict()[key], value), key


def test_what_others_measure_later_changes_nothing() -> None:
    balancer = ExploreThenFreeze(explore=1)
    weights(balancer, {"a": 3.0, "b": 1.0})
    hidden = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    found = measure([hidden[0, 0], hidden[0, 1] * 5], hidden)
    before = {key: value.clone() for key, value in balancer.state_dict().items()}
    balancer.observe(torch.ones(2), torch.ones(2, dtype=torch.bool), found)
    torch.testing.assert_close(dict(balancer.state_dict()), before, rtol=0, atol=0)


def test_what_is_required_follows_the_step_of_a_loaded_state_at_once() -> None:
    early, late = ExploreThenFreeze(explore=1, tasks=["a", "b"]).state_dict(), ExploreThenFreeze(explore=1)
    weights(late, {"a": 3.0, "b": 1.0})
    assert late.requires == frozenset()
    for balancer in (ExploreThenFreeze(explore=1), Priority(of=ExploreThenFreeze(explore=1), priorities={})):
        inner = getattr(balancer, "of", balancer)
        for state, required in ((late.state_dict(), frozenset()), (early, {"shared"})):
            inner.load_state_dict(state)
            assert balancer.requires == required


def test_the_class_tells_what_is_required_at_first() -> None:
    assert ExploreThenFreeze.requires == {"shared"}
    assert {row["method"]: row["needs"] for row in describe()}["explore_then_freeze"] == "shared"
