"""Aligned-MTL: by hand, the principal components' lengths, and TorchJD's aggregator."""

import pytest
import torch
from jacobians import combined, draw, named, step

from equipoise.balance._aligned_mtl import AlignedMTL
from equipoise.errors import BalanceError

aggregation = pytest.importorskip("torchjd.aggregation")


@pytest.mark.parametrize(("component", "length"), [("min", 1.0), ("rmse", 8.5**0.5)])
def test_orthogonal_gradients_by_hand(component: str, length: float) -> None:
    found = step(AlignedMTL(component=component), {"a": [4, 0], "b": [0, 1]})
    assert found == pytest.approx({"a": length / 4 / 2, "b": length / 2}, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("component", ["min", "median", "rmse"])
def test_torchjd(seed: int, component: str) -> None:
    jacobian = draw(seed)
    found = combined(step(AlignedMTL(component=component), named(jacobian)), jacobian)
    torch.testing.assert_close(found, aggregation.AlignedMTL(scale_mode=component)(jacobian), rtol=1e-9, atol=1e-11)


def test_preferences() -> None:
    jacobian, wishes = draw(0), torch.tensor([1.0, 2, 3, 4]).double()
    found = step(AlignedMTL(preferences=dict(zip("abcd", (10 * wishes).tolist(), strict=True))), named(jacobian))
    expected = aggregation.AlignedMTL(pref_vector=wishes / 10)(jacobian)
    torch.testing.assert_close(combined(found, jacobian), expected, rtol=1e-9, atol=1e-11)


def test_preferences_of_the_tasks_in_the_solve_only() -> None:
    balancer = AlignedMTL(preferences={"a": 3.0, "b": 1.0, "c": 1.0})
    assert step(balancer, {"a": [1, 0], "b": [0, 1], "c": [0, 0]}) == pytest.approx({"a": 0.75, "b": 0.25, "c": 0.5})


def test_settings() -> None:
    with pytest.raises(BalanceError, match="component must be one of"):
        AlignedMTL(component="max")
    with pytest.raises(BalanceError, match="preferences lack a number for b"):
        AlignedMTL(tasks=["a", "b"], preferences={"a": 1.0})
    with pytest.raises(BalanceError, match=r"preferences\.a must be a number above 0"):
        AlignedMTL(preferences={"a": 0})
