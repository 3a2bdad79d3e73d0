"""Random weights: their distribution, and draws that resume, agree and leave the program's own alone."""

import pytest
import torch

from equipoise.balance._random import RandomWeighting
from equipoise.errors import BalanceError

TASKS = ["r", "c", "e"]


def weights(balancer: RandomWeighting, tasks: list[str] = TASKS) -> dict[str, float]:
    balancer({task: torch.tensor(1.0, requires_grad=True, dtype=torch.float64) for task in tasks})
    return balancer.last["weights"]


def test_weights_are_the_softmax_of_normal_numbers_and_sum_to_one() -> None:
    balancer = RandomWeighting(tasks=["a", "b"])
    drawn = torch.tensor([list(weights(balancer, ["a", "b"]).values()) for _ in range(4000)], dtype=torch.float64)
    torch.testing.assert_close(drawn.sum(1), torch.ones(4000, dtype=torch.float64))
    # For two tasks log(w_a / w_b) = z_a - z_b, normal with variance 2.
    gap = drawn.log() @ torch.tensor([1.0, -1.0], dtype=torch.float64)
    assert gap.mean().item() == pytest.approx(0, abs=0.1)
    assert gap.var().item() == pytest.approx(2, rel=0.1)
    assert (gap.abs() < 2**0.5).double().mean().item() == pytest.approx(0.6827, abs=0.03)


def test_the_distribution_is_torchjd_s() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    # Its weights: sum_i w_i v_i of v = (1, 0). Same law; it draws from the global generator, so only the law agrees.
    torch.manual_seed(0)
    other = torch.tensor([scalarization.Random()(torch.tensor([1.0, 0.0])).item() for _ in range(4000)])
    balancer = RandomWeighting(tasks=["a", "b"])
    ours = torch.tensor([weights(balancer, ["a", "b"])["a"] for _ in range(4000)])
    levels = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    torch.testing.assert_close(ours.quantile(levels), other.quantile(levels), atol=0.03, rtol=0)


def test_every_step_draws_anew_and_the_seed_decides() -> None:
    one, same, other = RandomWeighting(), RandomWeighting(), RandomWeighting(seed=1)
    first, second = weights(one), weights(one)
    assert first != second
    assert [weights(same), weights(same)] == [first, second]
    drawn = [weights(other), weights(other)]
    assert first not in drawn
    assert second not in drawn


def test_order_and_absence_change_no_draw() -> None:
    whole, partly = RandomWeighting(tasks=TASKS), RandomWeighting(tasks=["e", "c", "r"])
    for present in (TASKS, ["c"], TASKS):
        found = weights(partly, present)
        assert found == {task: weight for task, weight in weights(whole).items() if task in present}


def test_resumes_exactly_and_leaves_the_global_generator_alone() -> None:
    whole = RandomWeighting()
    weights(whole)
    resumed = RandomWeighting()
    resumed.load_state_dict(whole.state_dict())
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    assert weights(resumed) == weights(whole)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_scale_and_initial_weights() -> None:
    assert sum(weights(RandomWeighting(scale="tasks")).values()) == pytest.approx(3)
    assert RandomWeighting(tasks=TASKS).initial_weights().tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("settings", [{"seed": -1}, {"seed": "1"}, {"seed": 1.5}, {"scale": "two"}])
def test_settings_are_checked(settings) -> None:
    with pytest.raises(BalanceError, match=next(iter(settings))):
        RandomWeighting(**settings)
