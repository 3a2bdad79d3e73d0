"""IMTL-G: equal projections, and TorchJD's aggregator."""

import pytest
import torch
from jacobians import combined, draw, named, step

from equipoise.balance._imtl_g import IMTLG

aggregation = pytest.importorskip("torchjd.aggregation")


def test_orthogonal_gradients_by_hand() -> None:
    assert step(IMTLG(), {"a": [3, 0], "b": [0, 1]}) == pytest.approx({"a": 0.25, "b": 0.75}, rel=1e-12)


def test_a_weight_can_be_negative() -> None:
    # Equal projections of (x, y) on (1, 0) and (1, 1) / sqrt(2) need y = (sqrt(2) - 1) x: w_a + w_b : w_b.
    found = step(IMTLG(), {"a": [1, 0], "b": [4, 4]})
    assert found["a"] + found["b"] == pytest.approx(1, rel=1e-12)
    assert 4 * found["b"] / (found["a"] + 4 * found["b"]) == pytest.approx(2**0.5 - 1, rel=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_projections_are_equal_and_as_torchjd_s(seed: int) -> None:
    jacobian = draw(seed)
    weights = step(IMTLG(), named(jacobian))
    update = combined(weights, jacobian)
    projections = torch.nn.functional.normalize(jacobian) @ update
    torch.testing.assert_close(projections, projections.mean().expand(4), rtol=1e-9, atol=0)
    torch.testing.assert_close(update, aggregation.IMTLG()(jacobian), rtol=1e-9, atol=1e-12)


def test_scale() -> None:
    assert sum(step(IMTLG(scale="tasks"), named(draw(0))).values()) == pytest.approx(4, rel=1e-10)


def test_tiny_gradients_have_weights_too() -> None:
    assert step(IMTLG(), {"a": [3e-14, 0], "b": [0, 1e-14]}) == pytest.approx({"a": 0.25, "b": 0.75}, rel=1e-9)
