"""CAGrad: by hand, and TorchJD's aggregator."""

import pytest
import torch
from jacobians import combined, draw, named, step

from equipoise.balance._cagrad import CAGrad
from equipoise.errors import BalanceError

aggregation = pytest.importorskip("torchjd.aggregation")


def test_orthogonal_gradients_of_one_length_by_hand() -> None:
    # g_v is the mean gradient by symmetry, so d = (1 + c) g_0.
    assert step(CAGrad(c=0.5), {"a": [3, 0], "b": [0, 3]}) == pytest.approx({"a": 0.75, "b": 0.75}, rel=1e-4)


def test_the_worst_off_task_by_hand() -> None:
    # g_0 = (2, 0.5); the solver puts all on b where c is small: d = g_0 + c |g_0| (0, 1).
    found = step(CAGrad(c=0.1), {"a": [4, 0], "b": [0, 1]})
    assert found["a"] == pytest.approx(0.5, abs=1e-3)
    assert found["b"] == pytest.approx(0.5 + 0.1 * (4 + 0.25) ** 0.5, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("c", [0.0, 0.4, 1.5])
def test_torchjd(seed: int, c: float) -> None:
    jacobian = draw(seed)
    found = combined(step(CAGrad(c=c), named(jacobian)), jacobian)
    torch.testing.assert_close(found, aggregation.CAGrad(c=c)(jacobian), rtol=1e-6, atol=1e-6)


def test_small_gradients_do_not_pass_for_a_stationary_point() -> None:
    # TorchJD stops at a trace below 1e-4; here only the ratio of norms counts.
    small = step(CAGrad(), named(draw(0, scale=1e-5)))
    assert small == pytest.approx(step(CAGrad(), named(draw(0))), rel=1e-4)
    assert not aggregation.CAGrad(c=0.4)(draw(0, scale=1e-5)).any()


def test_at_a_stationary_point_the_weights_are_zero() -> None:
    assert step(CAGrad(), {"a": [1, 0], "b": [-1, 0]}) == {"a": 0.0, "b": 0.0}


def test_scale() -> None:
    one, tasks = step(CAGrad(), named(draw(1))), step(CAGrad(scale="tasks"), named(draw(1)))
    assert tasks == pytest.approx({task: 4 * weight for task, weight in one.items()}, rel=1e-12)


@pytest.mark.parametrize("c", [-0.1, "0.4", None])
def test_c(c: object) -> None:
    with pytest.raises(BalanceError, match="c must be a number at least 0"):
        CAGrad(c=c)
