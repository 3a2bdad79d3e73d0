"""MGDA: the closed form for two tasks, TorchJD's aggregator, and the official code's ways to normalise."""

import pytest
import torch
from jacobians import combined, draw, named, step

from equipoise.balance._mgda import MGDA
from equipoise.errors import BalanceError

aggregation = pytest.importorskip("torchjd.aggregation")


@pytest.mark.parametrize(
    ("first", "second", "weight"), [([3, 0], [0, 1], 0.1), ([1, 0], [-3, 0], 0.75), ([1, 0], [4, 1], 1)]
)
def test_two_tasks_by_hand(first: list[float], second: list[float], weight: float) -> None:
    # w_a = clip((g_b - g_a) . g_b / |g_a - g_b|^2, 0, 1)
    assert step(MGDA(), {"a": first, "b": second}) == pytest.approx({"a": weight, "b": 1 - weight}, abs=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e6])
@pytest.mark.parametrize("seed", range(4))
def test_torchjd(seed: int, scale: float) -> None:
    jacobian = draw(seed, scale=scale)
    found = combined(step(MGDA(), named(jacobian)), jacobian)
    torch.testing.assert_close(found, aggregation.MGDA()(jacobian), rtol=1e-9, atol=1e-9 * scale)


def test_scale_keeps_the_learning_rate_s_meaning() -> None:
    assert sum(step(MGDA(scale="tasks"), named(draw(0))).values()) == pytest.approx(4, rel=1e-12)
    assert MGDA(tasks=["a", "b"]).initial_weights().tolist() == [0.5, 0.5]


def test_normalised_by_norm_two_tasks_share_alike() -> None:
    assert step(MGDA(normalise="norm"), {"a": [5, 0], "b": [0, 1]}) == pytest.approx({"a": 0.5, "b": 0.5})


@pytest.mark.parametrize("normalise", ["loss", "loss_norm"])
def test_normalised_by_loss(normalise: str) -> None:
    rows = {"a": [4.0, 0.0], "b": [1.0, 1.0]}  # losses 4 and 2
    sizes = torch.tensor([4.0, 2.0]) * (torch.tensor([4.0, 2**0.5]) if normalise == "loss_norm" else 1)
    one, other = torch.tensor(rows["a"]) / sizes[0], torch.tensor(rows["b"]) / sizes[1]
    weight = ((other - one) @ other / (one - other).square().sum()).clamp(0, 1).item()
    assert step(MGDA(normalise=normalise), rows)["a"] == pytest.approx(weight, rel=1e-6)


def test_normalised_by_a_loss_below_zero_names_the_task() -> None:
    with pytest.raises(BalanceError, match="task 'b': normalise='loss' divides by the loss, which is -1"):
        step(MGDA(normalise="loss"), {"a": [1, 0], "b": [0, -1]})


@pytest.mark.parametrize(
    ("setting", "value"), [("tolerance", 0), ("max_steps", 0.5), ("scale", "two"), ("normalise", "l2"), ("every", "3")]
)
def test_settings(setting: str, value: object) -> None:
    with pytest.raises(BalanceError):
        MGDA(**{setting: value})
