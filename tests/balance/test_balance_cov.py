"""CoV: the coefficient of variation against plain lists, as the authors' code computes it, and absent tasks."""

import statistics

import pytest
import torch

from equipoise.balance._cov import CoV
from equipoise.errors import BalanceError


def weights(balancer: CoV, **losses: float) -> dict[str, float]:
    balancer({task: torch.tensor(loss, requires_grad=True, dtype=torch.float64) for task, loss in losses.items()})
    return balancer.last["weights"]


def variation(losses: list[float]) -> float:
    """sigma / mu of the loss ratios, from whole lists, two passes."""
    ratios = [1.0, *(loss / statistics.fmean(losses[:step]) for step, loss in enumerate(losses) if step)]
    return (statistics.pvariance(ratios) + 1e-8) ** 0.5 / statistics.fmean(ratios)


def test_by_hand() -> None:
    balancer = CoV()
    assert weights(balancer, a=1.0, b=1.0) == {"a": 0.5, "b": 0.5}
    assert weights(balancer, a=3.0, b=2.0) == {"a": 0.5, "b": 0.5}
    # Ratios 1, 3 and 1, 2: means 2 and 3/2, deviations 1 and 1/2, so c = 1/2 and 1/3.
    assert weights(balancer, a=1.0, b=1.0) == pytest.approx({"a": 0.6, "b": 0.4}, rel=1e-7)


def test_running_averages_are_those_of_the_whole_history() -> None:
    balancer = CoV()
    drawn = torch.rand(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5 + 0.1
    for step, row in enumerate(drawn.tolist()):
        found = weights(balancer, **dict(zip("abc", row, strict=True)))
        if step >= 2:
            parts = [variation(column) for column in drawn[:step].T.tolist()]
            assert list(found.values()) == pytest.approx([part / sum(parts) for part in parts], rel=1e-10)


def test_a_unit_changes_nothing() -> None:
    one, other = CoV(), CoV()
    for a, b in ((1.0, 2.0), (0.5, 3.0), (0.8, 1.0), (0.2, 1.0)):
        assert weights(other, a=1000 * a, b=b) == pytest.approx(weights(one, a=a, b=b), rel=1e-12)


def test_each_task_counts_its_own_steps() -> None:
    balancer = CoV(tasks=["a", "b"])
    series: dict[str, list[float]] = {"a": [1.0, 3.0, 2.0, 5.0], "b": [2.0, 1.0, 4.0]}
    for step in range(4):
        weights(balancer, a=series["a"][step], **({"b": series["b"][step - 1]} if step else {}))
    parts = {task: variation(losses) for task, losses in series.items()}
    assert weights(balancer, b=1.0) == {"b": pytest.approx(parts["b"] / sum(parts.values()))}


@pytest.mark.parametrize("once", [True, False])
def test_a_task_with_fewer_than_two_steps_counts_as_the_others_mean(once: bool) -> None:
    balancer = CoV(tasks=["a", "b", "c"])
    for a, b in ((1.0, 1.0), (3.0, 2.0)):
        weights(balancer, a=a, b=b, **({"c": 1.0} if once and a == 3 else {}))
    found = weights(balancer, a=1.0, b=1.0, c=1.0)
    assert found == pytest.approx({"a": 0.5 / 1.25, "b": (1 / 3) / 1.25, "c": (5 / 12) / 1.25}, rel=1e-7)


def test_constant_and_zero_losses_give_equal_weights() -> None:
    balancer = CoV()
    for _ in range(5):
        assert weights(balancer, a=0.0, b=7.0) == pytest.approx({"a": 0.5, "b": 0.5})


def test_scale() -> None:
    assert weights(CoV(scale="tasks"), a=1.0, b=2.0) == {"a": 1.0, "b": 1.0}
    with pytest.raises(BalanceError, match="scale"):
        CoV(scale="k")
