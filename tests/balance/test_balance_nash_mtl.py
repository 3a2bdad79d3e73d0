"""Nash-MTL: the bargain's own equation to 1e-8, TorchJD's aggregator within its tolerance, and gradients that cancel."""

import warnings

import pytest
import torch
from jacobians import combined, draw, named, step

from equipoise.balance._nash_mtl import NashMTL, bargain
from equipoise.errors import BalanceError


@pytest.mark.parametrize("seed", range(8))
def test_the_bargain_s_equation(seed: int) -> None:
    jacobian = draw(seed) * torch.tensor([[1e-3], [1.0], [30.0], [1e3]]).double()
    found = torch.tensor(list(step(NashMTL(max_norm=None), named(jacobian)).values()), dtype=torch.float64)
    assert (found > 0).all()
    torch.testing.assert_close(found * (jacobian @ jacobian.T @ found), torch.ones(4).double(), rtol=1e-8, atol=0)


def test_two_orthogonal_tasks_by_hand() -> None:
    # G = diag(16, 1), so a = (1/4, 1), and the update (1, 1) has the norm sqrt(2).
    rows = {"a": [4, 0], "b": [0, 1]}
    assert step(NashMTL(max_norm=None), rows) == pytest.approx({"a": 0.25, "b": 1}, rel=1e-10)
    assert step(NashMTL(), rows) == pytest.approx({"a": 2**-0.5 / 4, "b": 2**-0.5}, rel=1e-10)
    assert step(NashMTL(max_norm=100.0), rows) == pytest.approx({"a": 0.25, "b": 1}, rel=1e-10)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_torchjd_within_its_tolerance(seed: int, max_norm: float) -> None:
    pytest.importorskip("cvxpy")
    pytest.importorskip("ecos")
    aggregation = pytest.importorskip("torchjd.aggregation")
    jacobian = draw(seed)
    found = combined(step(NashMTL(max_norm=max_norm or None), named(jacobian)), jacobian)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cvxpy's, about ECOS
        expected = aggregation.NashMTL(n_tasks=4, max_norm=max_norm)(jacobian)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


def test_the_unit_of_a_task_cancels() -> None:
    jacobian = draw(1)
    scaled = jacobian * torch.tensor([[7.0], [1.0], [1.0], [1.0]]).double()
    one, other = step(NashMTL(), named(jacobian)), step(NashMTL(), named(scaled))
    torch.testing.assert_close(combined(one, jacobian), combined(other, scaled), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "rows", [{"a": [1, 0], "b": [-1, 0]}, {"a": [1, 0], "b": [-1, 1e-9]}, {"a": [1, 0], "b": [1, 0]}]
)
def test_dependent_gradients_give_finite_weights(rows: dict[str, list[float]]) -> None:
    assert all(0 < weight < 1e4 for weight in step(NashMTL(), rows).values())


def test_many_tasks() -> None:
    rows = torch.nn.functional.normalize(draw(0, tasks=64, size=100))
    cosines = rows @ rows.T
    found = bargain(cosines)
    torch.testing.assert_close(found * (cosines @ found), torch.ones(64).double(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("max_norm", [0, -1.0, "1"])
def test_max_norm(max_norm: object) -> None:
    with pytest.raises(BalanceError, match="max_norm must be a number above 0"):
        NashMTL(max_norm=max_norm)
