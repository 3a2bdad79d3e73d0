"""Norm equaliser: inverse running norms, and nothing else."""

import pytest
import torch

from equipoise.balance import DAO
from equipoise.balance._norm_equaliser import NormEqualiser
from equipoise.errors import BalanceError

Norms = dict[str, float]


def weights(balancer: NormEqualiser | DAO, norms: Norms) -> Norms:
    hidden = torch.ones(1, len(norms), dtype=torch.float64, requires_grad=True)
    balancer({task: hidden[0, k] * norm for k, (task, norm) in enumerate(norms.items())}, shared=hidden)
    return balancer.last["weights"]


def test_inverse_of_the_running_norm_by_hand() -> None:
    balancer = NormEqualiser(smoothing=0.75)
    assert weights(balancer, {"r": 1.0, "c": 1.0}) == pytest.approx({"r": 1.0, "c": 1.0}, rel=1e-14)
    # r: 0.75 * 1 + 0.25 * 9 = 3, c stays 1; sum of weights 2.
    assert weights(balancer, {"r": 9.0, "c": 1.0}) == pytest.approx({"r": 0.5, "c": 1.5}, rel=1e-14)


def test_it_is_dao_with_smoothing_and_without_floors() -> None:
    one, other = NormEqualiser(smoothing=0.9, scale="one"), DAO(smoothing=0.9, own_floor=None, scale="one")
    draw = torch.Generator().manual_seed(0)
    for _ in range(10):
        norms = dict(zip("rce", torch.rand(3, generator=draw).add(0.1).tolist(), strict=True))
        assert weights(one, norms) == weights(other, norms)


def test_an_absent_task_keeps_its_norm_in_the_sum() -> None:
    balancer = NormEqualiser(tasks=["r", "c"], scale="one")
    weights(balancer, {"r": 3.0, "c": 1.0})
    assert weights(balancer, {"r": 3.0}) == pytest.approx({"r": 0.25})


def test_a_task_without_gradient_does_not_stop_the_others() -> None:
    balancer = NormEqualiser(scale="one")
    weights(balancer, {"r": 2.0, "c": 2.0, "e": 1.0})
    for _ in range(5):
        found = weights(balancer, {"r": 2.0, "c": 2.0, "e": 0.0})
    assert found == pytest.approx({"r": 0.5, "c": 0.5, "e": 0.5})
    assert balancer.norms.tolist() == [2.0, 2.0, 1.0]


@pytest.mark.parametrize("settings", [{"smoothing": "0.9"}, {"smoothing": 1.0}, {"scale": "sum"}, {"epsilon": "0"}])
def test_unusable_settings_are_refused(settings: dict) -> None:
    with pytest.raises(BalanceError, match=f"{next(iter(settings))} must"):
        NormEqualiser(**settings)
