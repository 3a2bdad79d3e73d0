"""FAMO: the exact method against TorchJD's over a training run, the variant without a second forward, absent tasks."""

import math

import pytest
import torch

from equipoise.balance._famo import FAMO
from equipoise.errors import BalanceError

TASKS = ["a", "b", "c"]


def losses(**values: float) -> dict[str, torch.Tensor]:
    return {task: torch.tensor(value, requires_grad=True, dtype=torch.float64) for task, value in values.items()}


def weights(balancer: FAMO, **values: float) -> dict[str, float]:
    balancer(losses(**values))
    return balancer.last["weights"]


class Regression:
    """Three regressions of unlike units on one linear layer."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.x = torch.randn(32, 5, generator=draw, dtype=torch.float64)
        self.y = torch.randn(32, 3, generator=draw, dtype=torch.float64) * torch.tensor([0.1, 1.0, 10.0])
        self.weight = torch.nn.Parameter(torch.randn(5, 3, generator=draw, dtype=torch.float64))
        self.optimizer = torch.optim.SGD([self.weight], lr=0.05)

    def losses(self) -> torch.Tensor:
        return (self.x @ self.weight - self.y).square().mean(0)

    def step(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


@pytest.mark.parametrize("minimum", [None, [0.0, 0.5, 3.0]])
def test_exact_is_torchjd_s_over_a_run(minimum) -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    least = None if minimum is None else torch.tensor(minimum, dtype=torch.float64)
    other = scalarization.FAMO(3, min_losses=least).double()
    ours, theirs = Regression(), Regression()
    balancer = FAMO(exact=True, min_losses=minimum and dict(zip(TASKS, minimum, strict=True)))
    for _ in range(60):
        ours.step(balancer(dict(zip(TASKS, ours.losses(), strict=True))))
        with torch.no_grad():
            balancer.observe_after(dict(zip(TASKS, ours.losses(), strict=True)))
        theirs.step(other(theirs.losses()))
        other.update(theirs.losses().detach())
    assert balancer.xi.tolist() == pytest.approx(other._w.tolist(), rel=1e-8)
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-9, atol=0)
    assert balancer.xi.std() > 0.05, "the logits must have moved for this to say anything"


def test_weights_by_hand() -> None:
    # z = 1/3 each; w_i ~ 1 / L_i = 4, 2, 1, over 7.
    found = weights(FAMO(), a=0.25, b=0.5, c=1.0)
    assert found == pytest.approx({"a": 4 / 7, "b": 2 / 7, "c": 1 / 7}, rel=1e-7)
    assert sum(weights(FAMO(scale="tasks"), a=0.25, b=0.5, c=1.0).values()) == pytest.approx(3)


def test_step_by_hand() -> None:
    # a falls by a factor e, b stands: delta = 1, 0; d = 1/2 (1 - 1/2), 1/2 (0 - 1/2) = 1/4, -1/4; Adam's step is lr.
    balancer = FAMO(exact=True, lr=0.1, gamma=0.0)
    weights(balancer, a=math.e, b=1.0)
    balancer.observe_after(losses(a=1.0, b=1.0))
    assert balancer.xi.tolist() == pytest.approx([-0.1, 0.1], rel=1e-6)
    z = 1 / (1 + math.exp(0.2))
    assert weights(balancer, a=1.0, b=1.0) == pytest.approx({"a": z, "b": 1 - z}, rel=1e-6)


def test_without_a_second_forward_the_next_losses_stand_for_those_after_the_update() -> None:
    exact, other = FAMO(exact=True), FAMO(exact=False)
    draw = torch.Generator().manual_seed(0)
    rows = torch.rand(20, 3, generator=draw, dtype=torch.float64) + 0.1
    for number, row in enumerate(rows.tolist()):
        if number:
            exact.observe_after(losses(**dict(zip(TASKS, row, strict=True))))
        found = weights(other, **dict(zip(TASKS, row, strict=True)))
        assert found == pytest.approx(weights(exact, **dict(zip(TASKS, row, strict=True))), rel=1e-12)
        assert other.xi.tolist() == pytest.approx(exact.xi.tolist(), rel=1e-12)
    assert other.xi.any()


def test_the_exact_form_says_once_that_nobody_tells_it_the_losses_after_an_update(caplog) -> None:
    balancer = FAMO(tasks=TASKS)
    for _ in range(102):
        weights(balancer, a=1.0, b=1.0, c=1.0)
    assert caplog.text.count("observe_after") == 1
    assert balancer.xi.tolist() == [0.0, 0.0, 0.0]


def test_what_each_form_needs() -> None:
    assert FAMO(exact=True).requires == {"after"}
    assert FAMO().requires == {"after"}
    assert FAMO(exact=False).requires == frozenset()
    balancer = FAMO(exact=False)
    weights(balancer, a=1.0)
    before = {name: tensor.clone() for name, tensor in balancer.state_dict().items()}
    balancer.observe_after(losses(a=0.5))
    torch.testing.assert_close(dict(balancer.state_dict()), before, rtol=0, atol=0)


def test_a_fall_is_counted_once() -> None:
    balancer = FAMO(exact=True)
    weights(balancer, a=math.e, b=1.0)
    balancer.observe_after(losses(a=1.0, b=1.0))
    xi = balancer.xi.tolist()
    balancer.observe_after(losses(a=1.0, b=1.0))
    assert balancer.xi.tolist() == xi


@pytest.mark.parametrize("exact", [True, False])
def test_a_task_that_is_missing_before_or_after_takes_no_step(exact: bool) -> None:
    whole = FAMO(tasks=["a", "b"], exact=exact, gamma=0.0)
    partly = FAMO(tasks=["a", "b", "c"], exact=exact, gamma=0.0)
    for _ in range(3):
        for a, b in ((2.0, 1.0), (1.0, 1.0), (0.5, 2.0)):
            weights(whole, a=a, b=b)
            weights(partly, a=a, b=b)
            if exact:
                whole.observe_after(losses(a=a / 2, b=b))
                partly.observe_after(losses(a=a / 2, b=b, c=1.0))
    assert partly.xi[2] == 0
    # c went with the others' mean, so a and b move as if they were alone, by the signs of their deviations.
    assert partly.xi[:2].tolist() == pytest.approx(whole.xi.tolist(), rel=1e-2)


def test_an_absent_task_stands_in_c_with_its_last_loss() -> None:
    balancer = FAMO(tasks=TASKS, lr=0.0)
    weights(balancer, a=0.25, b=0.5, c=1.0)
    assert weights(balancer, a=0.25) == pytest.approx({"a": 4 / 7}, rel=1e-7)
    # Never seen: c_j z_j / D_j of c is as if its loss were the others' harmonic mean, so it takes its z, 1/3.
    fresh = FAMO(tasks=TASKS)
    assert weights(fresh, a=0.25, b=0.5) == pytest.approx({"a": 2 / 3 * 4 / 6, "b": 2 / 3 * 2 / 6}, rel=1e-7)


def test_losses_at_and_below_the_least_stay_finite() -> None:
    balancer = FAMO(min_losses={"a": 1.0})
    for a in (1.0, 0.5, 2.0):
        found = weights(balancer, a=a, b=1.0)
        assert all(math.isfinite(weight) for weight in found.values())
        assert sum(found.values()) == pytest.approx(1)
    assert balancer.xi.isfinite().all()


def test_state_is_whole_between_the_batch_and_its_losses_after() -> None:
    whole = FAMO(tasks=["a", "b"], exact=True)
    weights(whole, a=2.0, b=1.0)
    resumed = FAMO(tasks=["b", "a"], exact=True)
    resumed.load_state_dict(whole.state_dict())
    for balancer in (whole, resumed):
        balancer.observe_after(losses(a=1.0, b=1.0))
    assert resumed.xi.tolist() == whole.xi.flip(0).tolist()
    assert weights(resumed, a=1.0, b=3.0) == pytest.approx(weights(whole, a=1.0, b=3.0), rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"exact": "yes"}, "exact must be True or False, found 'yes'"),
        ({"lr": -1}, "lr must be"),
        ({"gamma": "0.1"}, "weight_decay must be"),
        ({"min_losses": {"x": 1.0}}, "min_losses name no task 'x'"),
        ({"min_losses": {"a": "0"}}, r"min_losses\.a must be a number"),
        ({"scale": "k"}, "scale"),
    ],
)
def test_settings_are_checked(settings, words) -> None:
    with pytest.raises(BalanceError, match=words):
        weights(FAMO(**settings), a=1.0)
