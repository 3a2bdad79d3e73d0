"""GradVac: the vaccine by hand, TorchJD's aggregator over many steps, and the memory of pairs."""

import math

import pytest
import torch
from jacobians import combined, draw, named, step

from equipoise.balance._gradvac import GradVac
from equipoise.balance._streams import stream
from equipoise.errors import BalanceError

aggregation = pytest.importorskip("torchjd.aggregation")


def test_the_first_step_is_pcgrad_s() -> None:
    balancer = GradVac(beta=0.5)
    assert step(balancer, {"a": [1, 0], "b": [-1, 1]}) == pytest.approx({"a": 2, "b": 1.5}, rel=1e-10)
    cosine = -(2**-0.5)
    torch.testing.assert_close(balancer.goals, torch.tensor([[0, cosine], [cosine, 0]]).double() / 2)


def test_the_second_step_by_hand() -> None:
    balancer = GradVac(beta=0.5)
    step(balancer, {"a": [1, 0], "b": [1, 1]})  # cosine 0.7071, so the goals are half of that
    goal, found = 2**-0.5 / 2, step(balancer, {"a": [1, 0], "b": [0, 2]})  # now the cosine is 0
    turn = goal / math.sqrt(1 - goal**2)
    assert found == pytest.approx({"a": 1 + turn * 2, "b": 1 + turn / 2}, rel=1e-10)
    assert balancer.goals[0, 1].item() == pytest.approx(goal / 2, rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_torchjd_over_ten_steps(seed: int) -> None:
    balancer, reference = GradVac(beta=0.3, seed=seed), aggregation.GradVac(beta=0.3, eps=1e-20)
    default = aggregation.GradVac(beta=0.3)
    for number in range(10):
        jacobian = draw(10 * seed + number, size=4)
        found = combined(step(balancer, named(jacobian)), jacobian)
        for other, tolerance in ((reference, 1e-9), (default, 1e-5)):
            with torch.random.fork_rng():
                torch.manual_seed(stream(seed, number))
                torch.testing.assert_close(found, other(jacobian), rtol=tolerance, atol=tolerance)


def test_goals_of_an_absent_task_stay() -> None:
    balancer = GradVac()
    step(balancer, named(draw(0, tasks=3)))
    before = balancer.goals.clone()
    rows = draw(1, tasks=3)
    step(balancer, {"a": rows[0], "c": rows[2]})
    assert torch.equal(balancer.goals[1], before[1])
    assert torch.equal(balancer.goals[:, 1], before[:, 1])
    assert not torch.equal(balancer.goals[0, 2], before[0, 2])


def test_a_goal_of_one_leaves_the_weights_finite() -> None:
    balancer = GradVac(beta=1.0)
    step(balancer, {"a": [1, 1], "b": [1, 1]})
    assert max(step(balancer, {"a": [1, 0], "b": [0, 1]}).values()) < 1e3


def test_state_of_a_stateful_solver_goes_on_to_the_bit() -> None:
    whole, half = GradVac(), GradVac()
    for number in range(3):
        step(whole, named(draw(number)))
        step(half, named(draw(number)))
    resumed = GradVac()
    resumed.load_state_dict(half.state_dict())
    for number in range(3, 8):
        assert step(resumed, named(draw(number))) == step(whole, named(draw(number)))


@pytest.mark.parametrize("beta", [-0.1, 1.1, "0.5"])
def test_beta(beta: object) -> None:
    with pytest.raises(BalanceError, match="beta must be a number"):
        GradVac(beta=beta)
