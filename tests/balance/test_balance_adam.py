"""What balancers learn with: PyTorch's Adam and SGD to rounding, and tasks that are absent."""

import copy
import io

import pytest
import torch

from equipoise.balance._adam import TaskOptimizer
from equipoise.balance._state import TaskState
from equipoise.errors import BalanceError

TASKS = ["a", "b", "c"]
ALL = torch.ones(3, dtype=torch.bool)


def owner(tasks: list[str] = TASKS) -> TaskState:
    made = TaskState(tasks)
    made.add_task_buffer("xi", dtype=torch.float64)
    return made


def gradients(steps: int) -> torch.Tensor:
    return torch.randn(steps, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("kind", "settings", "reference"),
    [
        ("adam", {"lr": 0.025, "weight_decay": 0.001}, lambda p: torch.optim.Adam(p, lr=0.025, weight_decay=0.001)),
        ("adam", {"lr": 0.1, "betas": (0.0, 0.5)}, lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.0, 0.5))),
        ("sgd", {"lr": 0.3, "weight_decay": 0.1}, lambda p: torch.optim.SGD(p, lr=0.3, weight_decay=0.1)),
    ],
)
def test_equals_pytorch_s_optimiser(kind, settings, reference) -> None:
    held = owner()
    held.to(torch.float64)
    optimizer = TaskOptimizer(held, "xi", kind=kind, **settings)
    held.to(torch.float64)  # the moments too
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    other = reference([parameter])
    for gradient in gradients(50):
        optimizer.step(gradient, ALL)
        parameter.grad = gradient.clone()
        other.step()
        torch.testing.assert_close(held.xi, parameter.data, rtol=1e-11, atol=1e-14)


def test_first_step_of_adam_is_the_learning_rate_against_the_sign() -> None:
    held = owner()
    TaskOptimizer(held, "xi", lr=0.1).step(torch.tensor([5.0, -0.01, 0.0]), ALL)
    assert held.xi.tolist() == pytest.approx([-0.1, 0.1, 0.0], rel=1e-5)


def test_an_absent_task_keeps_number_and_moments_and_others_do_not_notice() -> None:
    whole, partly = owner(), owner()
    first, second = TaskOptimizer(whole, "xi", lr=0.1), TaskOptimizer(partly, "xi", lr=0.1, weight_decay=0.0)
    without = torch.tensor([True, False, True])
    for step, gradient in enumerate(gradients(10)):
        first.step(gradient, ALL)
        second.step(gradient, ALL if step < 3 else without)
        if step == 2:
            kept = {name: tensor.clone() for name, tensor in partly.state_dict().items()}
    assert partly.xi[1] == kept["xi"][1]
    assert partly.xi_mean[1] == kept["xi_mean"][1]
    assert partly.xi_updates.tolist() == [10, 3, 10]
    assert partly.xi[[0, 2]].tolist() == whole.xi[[0, 2]].tolist()


def test_preview_shows_the_step_and_changes_nothing() -> None:
    held = owner()
    optimizer = TaskOptimizer(held, "xi", lr=0.1)
    optimizer.step(gradients(1)[0], ALL)
    before = {name: tensor.clone() for name, tensor in held.state_dict().items()}
    seen = optimizer.preview(gradients(2)[1], ALL)
    torch.testing.assert_close(dict(held.state_dict()), before, rtol=0, atol=0)
    optimizer.step(gradients(2)[1], ALL)
    assert seen.tolist() == held.xi.tolist()


def test_limit_bounds_the_number_on_both_sides() -> None:
    held = owner()
    optimizer = TaskOptimizer(held, "xi", lr=1.0, kind="sgd", limit=2.5)
    for _ in range(9):
        optimizer.step(torch.tensor([1.0, -1.0, 0.0]), ALL)
    assert held.xi.tolist() == [-2.5, 2.5, 0.0]


def test_late_corrections_are_exact_in_float32() -> None:
    # 1 - 0.999 ** n by subtraction is off by 3e-5 at n = 1 in float32, and the step by half of that.
    held = TaskState(["a"])
    TaskOptimizer(held, "xi", lr=1.0).step(torch.tensor([1.0]), torch.tensor([True]))
    assert held.xi.dtype == torch.float32
    assert held.xi.item() == pytest.approx(-1, rel=5e-7)


def test_state_follows_the_order_of_tasks() -> None:
    held = owner()
    optimizer = TaskOptimizer(held, "xi", lr=0.1)
    for gradient in gradients(4)[:3]:
        optimizer.step(gradient, ALL)
    stored = io.BytesIO()
    torch.save(held.state_dict(), stored)
    stored.seek(0)
    resumed = owner(["c", "a", "b"])
    again = TaskOptimizer(resumed, "xi", lr=0.1)
    resumed.load_state_dict(torch.load(stored, weights_only=True))
    optimizer.step(gradients(4)[3], ALL)
    again.step(gradients(4)[3][[2, 0, 1]], ALL)
    assert resumed.xi.tolist() == held.xi[[2, 0, 1]].tolist()


def test_a_copy_of_the_owner_learns_on_its_own() -> None:
    held = owner()
    held.optimizer = TaskOptimizer(held, "xi", lr=0.1)
    twin = copy.deepcopy(held)
    twin.optimizer.step(torch.ones(3), ALL)
    assert not held.xi.any()
    assert twin.xi.all()
    assert not list(held.parameters())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": -1}, "lr must be a number at least 0, found -1"),
        ({"lr": "0.1"}, "lr must be a number at least 0, found '0.1'"),
        ({"lr": True}, "lr must be"),
        ({"lr": float("nan")}, "lr must be"),
        ({"lr": 0.1, "weight_decay": -1}, "weight_decay must be"),
        ({"lr": 0.1, "betas": (0.9, 1.0)}, "betas must be a number at least 0 and below 1, found 1.0"),
        ({"lr": 0.1, "kind": "lion"}, "kind must be one of 'adam', 'sgd', found 'lion'"),
    ],
)
def test_settings_are_checked(settings, words) -> None:
    with pytest.raises(BalanceError, match=words):
        TaskOptimizer(owner(), "xi", **settings)
