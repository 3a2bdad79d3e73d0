"""GradNorm in closed form: norms at GradNorm's target at once."""

import pytest
import torch

from equipoise.balance import DAO
from equipoise.balance._gradnorm import GradNorm
from equipoise.balance._gradnorm_closed import GradNormClosedForm
from equipoise.errors import BalanceError

Numbers = dict[str, float]


def step(balancer: GradNormClosedForm | GradNorm | DAO, losses: Numbers, norms: Numbers) -> Numbers:
    hidden = torch.zeros(1, len(norms), dtype=torch.float64, requires_grad=True)
    balancer({t: hidden[0, k] * norms[t] + losses[t] for k, t in enumerate(norms)}, shared=hidden)
    return balancer.last["weights"]


def test_by_hand() -> None:
    balancer = GradNormClosedForm(alpha=2.0)
    step(balancer, {"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 1.0})
    # Ratios 0.5 and 1.5, mean 1; targets 0.25 and 2.25; over the norms 2 and 3: 0.125 and 0.75; scaled to sum 2.
    found = step(balancer, {"a": 0.5, "b": 3.0}, {"a": 2.0, "b": 3.0})
    assert found == pytest.approx({"a": 0.25 / 0.875, "b": 1.5 / 0.875}, rel=1e-12)


def test_weighted_norms_are_in_proportion_to_the_targets() -> None:
    balancer = GradNormClosedForm(alpha=1.5)
    step(balancer, {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0})
    norms = {"a": 5.0, "b": 0.1, "c": 2.0}
    found = step(balancer, {"a": 0.2, "b": 0.9, "c": 0.4}, norms)
    forces = [found[t] * norms[t] / ratio**1.5 for t, ratio in (("a", 0.2), ("b", 0.9), ("c", 0.4))]
    assert forces == pytest.approx([forces[0]] * 3, rel=1e-12)
    assert sum(found.values()) == pytest.approx(3.0, rel=1e-12)


def test_alpha_zero_is_dao_without_floors() -> None:
    norms = {"a": 5.0, "b": 0.1}
    found = step(GradNormClosedForm(alpha=0.0), {"a": 1.0, "b": 2.0}, norms)
    assert found == step(DAO(own_floor=None), {"a": 1.0, "b": 2.0}, norms)


def test_gradnorm_learns_what_the_closed_form_tells() -> None:
    learned, closed = GradNorm(alpha=1.0, lr=0.002), GradNormClosedForm(alpha=1.0)
    for balancer in (learned, closed):
        step(balancer, {"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 2.0})
        for _ in range(1500):
            step(balancer, {"a": 0.8, "b": 1.0}, {"a": 1.0, "b": 2.0})
    assert learned.last["weights"] == pytest.approx(closed.last["weights"], rel=0.02)


def test_a_solved_task_and_absent_tasks() -> None:
    balancer = GradNormClosedForm(tasks=["a", "b"], alpha=1.0)
    step(balancer, {"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 1.0})
    assert step(balancer, {"a": 1.0}, {"a": 3.0}) == pytest.approx({"a": 0.5}), "b keeps norm and ratio"
    found = step(balancer, {"a": 0.0, "b": 1.0}, {"a": 3.0, "b": 1.0})
    assert 0 < found["a"] < 1e-9
    found = step(balancer, {"a": 0.0, "b": 0.0}, {"a": 3.0, "b": 1.0})
    assert found == pytest.approx({"a": 0.5, "b": 1.5}), "all solved: rates are equal"


@pytest.mark.parametrize("settings", [{"alpha": -1.0}, {"alpha": None}, {"smoothing": 1.0}])
def test_unusable_settings_are_refused(settings: dict) -> None:
    with pytest.raises(BalanceError, match=f"{next(iter(settings))} must"):
        GradNormClosedForm(**settings)
