"""FairGrad: its equation, special cases, and TorchJD's aggregator."""

import pytest
import torch
from jacobians import combined, draw, named, step

from equipoise.balance._fairgrad import FairGrad
from equipoise.balance._nash_mtl import NashMTL
from equipoise.errors import BalanceError

aggregation = pytest.importorskip("torchjd.aggregation")


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
def test_one_task_by_hand(alpha: float) -> None:
    # n^2 w = w^(-1 / alpha)
    expected = 3.0 ** (-2 * alpha / (1 + alpha))
    assert step(FairGrad(alpha=alpha), {"a": [3, 0]})["a"] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("units", [(1, 1, 1, 1), (1e-3, 1, 30, 1e3)])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_the_equation(alpha: float, units: tuple[float, ...]) -> None:
    jacobian = draw(2) * torch.tensor(units).double()[:, None]
    found = torch.tensor(list(step(FairGrad(alpha=alpha), named(jacobian)).values()), dtype=torch.float64)
    torch.testing.assert_close(
        jacobian @ jacobian.T @ found * found ** (1 / alpha), torch.ones(4).double(), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_torchjd_where_norms_are_alike(seed: int, alpha: float) -> None:
    jacobian = torch.nn.functional.normalize(draw(seed))
    found = combined(step(FairGrad(alpha=alpha), named(jacobian)), jacobian)
    torch.testing.assert_close(found, aggregation.FairGrad(alpha=alpha)(jacobian), rtol=1e-6, atol=1e-8)


def test_alpha_one_is_the_nash_bargain() -> None:
    jacobian = draw(3)
    fair, nash = step(FairGrad(alpha=1.0), named(jacobian)), step(NashMTL(max_norm=None), named(jacobian))
    ratios = [fair[task] / nash[task] for task in fair]
    assert ratios == pytest.approx([ratios[0]] * 4, rel=1e-4)


def test_alpha_zero_is_the_mean() -> None:
    assert step(FairGrad(alpha=0.0), named(draw(0))) == pytest.approx(dict.fromkeys("abcd", 0.25))


@pytest.mark.parametrize(("setting", "value"), [("alpha", -1), ("alpha", "2"), ("max_steps", 0)])
def test_settings(setting: str, value: object) -> None:
    with pytest.raises(BalanceError, match=setting):
        FairGrad(**{setting: value})
