"""PCGrad: the projection by hand, TorchJD's aggregator, and orders that depend on nothing but seed, step and names."""

import pytest
import torch
from jacobians import combined, draw, named, step

from equipoise.balance._pcgrad import PCGrad
from equipoise.balance._streams import stream
from equipoise.errors import BalanceError

aggregation = pytest.importorskip("torchjd.aggregation")


def test_two_tasks_in_conflict_by_hand() -> None:
    # g_a = (1, 0), g_b = (-1, 1): g_a drops -1/2 g_b, g_b drops -1 g_a.
    assert step(PCGrad(), {"a": [1, 0], "b": [-1, 1]}) == pytest.approx({"a": 2, "b": 1.5}, rel=1e-12)


def test_without_conflict_it_is_the_sum() -> None:
    assert step(PCGrad(), {"a": [1, 0], "b": [1, 1]}) == {"a": 1, "b": 1}


@pytest.mark.parametrize("scale", [1.0, 1e-9])
@pytest.mark.parametrize("seed", range(4))
def test_torchjd(seed: int, scale: float) -> None:
    jacobian = draw(seed, size=3, scale=scale)
    found = combined(step(PCGrad(seed=seed), named(jacobian)), jacobian)
    with torch.random.fork_rng():
        torch.manual_seed(stream(seed, 0))
        expected = aggregation.PCGrad()(jacobian)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12 * scale)


def test_the_global_generator_is_neither_used_nor_moved() -> None:
    jacobian = draw(0, size=2)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = step(PCGrad(), named(jacobian))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert step(PCGrad(), named(jacobian)) == first


def test_orders_change_with_the_step_and_the_seed() -> None:
    jacobian = draw(3, size=2)
    balancer = PCGrad()
    steps = [tuple(step(balancer, named(jacobian)).values()) for _ in range(12)]
    assert len(set(steps)) > 1
    assert len({tuple(step(PCGrad(seed=seed), named(jacobian)).values()) for seed in range(12)}) > 1


@pytest.mark.parametrize("seed", [-1, "0", 0.5])
def test_seed(seed: object) -> None:
    with pytest.raises(BalanceError, match="seed must be a whole number"):
        PCGrad(seed=seed)
