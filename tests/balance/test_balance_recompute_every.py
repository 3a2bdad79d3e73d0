"""Recomputing each N steps: the weights between, what is measured, and what the inner method sees."""

import pytest
import torch
from jacobians import TASKS, draw, named, step

from equipoise.balance import DAO, DBMTL, GradientCosinePenalty, MetaBalance
from equipoise.balance._recompute_every import RecomputeEvery
from equipoise.errors import BalanceError


def test_the_weights_stay_between() -> None:
    balancer, plain = RecomputeEvery(of="imtl_g", every=3), RecomputeEvery(of="imtl_g", every=1)
    found = [step(balancer, named(draw(number))) for number in range(7)]
    exact = [step(plain, named(draw(number))) for number in range(7)]
    assert found == [exact[0]] * 3 + [exact[3]] * 3 + [exact[6]]


def test_nothing_is_measured_between(monkeypatch: pytest.MonkeyPatch) -> None:
    walks = []
    walk = torch.autograd.grad
    monkeypatch.setattr("torch.autograd.grad", lambda *args, **rest: walks.append(1) or walk(*args, **rest))
    balancer = RecomputeEvery(of="dao", every=4)
    for number in range(8):
        step(balancer, named(draw(number)))
    assert len(walks) == 2 * 4


def test_a_method_from_losses_is_asked_each_n_steps_too() -> None:
    balancer = RecomputeEvery(of={"method": "log_sum"}, every=2)
    weights = []
    for value in (1.0, 2.0, 4.0):
        balancer({"a": torch.tensor(value, requires_grad=True)})
        weights.append(balancer.last["weights"]["a"])
    assert weights == [1.0, 1.0, 0.25]


def test_a_task_that_was_absent_keeps_the_weight_it_had() -> None:
    balancer = RecomputeEvery(of=DAO(tasks=["a", "b"], own_floor=None), every=2)
    first = step(balancer, {"a": [1, 0], "b": [0, 3]})
    step(balancer, {"a": [1, 0], "b": [0, 3]})
    step(balancer, {"a": [9, 0]})
    assert step(balancer, {"a": [9, 0], "b": [0, 3]})["b"] == first["b"]


def test_resuming_between_two_measurements() -> None:
    whole = RecomputeEvery(of="pcgrad", every=3, tasks=TASKS)
    for number in range(4):
        step(whole, named(draw(number)))
    resumed = RecomputeEvery(of="pcgrad", every=3, tasks=TASKS)
    resumed.load_state_dict(whole.state_dict())
    for number in range(4, 9):
        assert step(resumed, named(draw(number))) == step(whole, named(draw(number)))


def test_an_interval_set_twice() -> None:
    with pytest.raises(BalanceError, match="every is set twice, to 3 here and to 2 in the inner balancer"):
        RecomputeEvery(of={"method": "dao", "every": 2}, every=3)


@pytest.mark.parametrize("every", [0, "3", 1.5, True])
def test_every(every: object) -> None:
    with pytest.raises(BalanceError, match="every must be a whole number"):
        RecomputeEvery(of="dao", every=every)


@pytest.mark.parametrize("of", [DBMTL(), MetaBalance(target="a"), GradientCosinePenalty()])
def test_what_is_no_weighted_sum_is_refused(of: object) -> None:
    # Between, where nothing is measured, there would be no combination and no penalty.
    with pytest.raises(
        BalanceError, match=rf"RecomputeEvery changes weights, and the update of {type(of).__name__} is no"
    ):
        RecomputeEvery(of=of)
