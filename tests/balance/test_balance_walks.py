"""How many backward walks a step takes, beside what autograd itself tells of the way back through two marked places."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equipoise.balance import DAO, Balancer, create
from equipoise.balance._readings import count_walks

TASKS = ["a", "b", "c"]


class _Mark(torch.autograd.Function):
    """Passes on what it is given, and counts how often a gradient comes back through it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, passed: Counter[str], place: str) -> Tensor:
        ctx.passed, ctx.place = passed, place
        return values.clone()

    @staticmethod
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor, None, None]:
        ctx.passed[ctx.place] += 1
        return pull, None, None


class Network(nn.Module):
    """A backbone with a mark behind its first layer, and a head a task with a mark of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)
        self.heads = nn.ModuleDict({task: nn.Linear(4, 1) for task in TASKS})
        self.passed: Counter[str] = Counter()

    def step(self, balancer: Balancer, scope: str, tasks: list[str] = TASKS) -> None:
        """One training step, the caller's own backward and all."""
        hidden = self.second(_Mark.apply(self.first(torch.ones(6, 3)).tanh(), self.passed, "backbone"))
        losses = {
            task: _Mark.apply((self.heads[task](hidden).squeeze(-1) - k) ** 2, self.passed, "heads")
            for k, task in enumerate(tasks, start=1)
        }
        shared: Any = {"representation": hidden, "last_layer": list(self.second.parameters())}.get(scope)
        if scope == "all":
            shared = [*self.first.parameters(), *self.second.parameters()]
        balancer(losses, shared=shared).backward()


@pytest.mark.parametrize(
    ("method", "scope", "settings", "expected"),
    [
        ("equal", "representation", {}, (0, 0, 0)),
        ("equal", "representation", {"monitor": True}, (3, 0, 0)),
        ("dao", "representation", {}, (3, 0, 0)),
        ("dao", "representation", {"double_batch": True}, (6, 0, 0)),
        ("dao", "all", {}, (0, 3, 1)),
        ("dao", "all", {"double_batch": True}, (0, 6, 1)),
        ("mgda", "all", {}, (0, 3, 1)),
        ("pcgrad", "all", {}, (0, 3, 1)),
        ("db_mtl", "all", {}, (0, 3, 1)),  # its own combination of the gradients
        # Only what lies above the last layer was walked, so the caller's own backward does the rest.
        ("mgda", "last_layer", {}, (0, 3, 0)),
        ("cosine_penalty", "representation", {}, (3, 0, 0)),
    ],
)
def test_the_counts_are_what_passes_through_the_network(
    method: str, scope: str, settings: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    network, balancer = Network(), create(method, TASKS, **settings)
    network.step(balancer, scope)
    assert tuple(balancer.walks.values()) == expected
    assert [*balancer.walks] == ["representation", "parameters", "saved"]
    if method == "cosine_penalty":  # its penalty sends the caller's own backward through the measurement too
        return
    walks = balancer.walks
    own = 1 - walks["saved"]
    assert network.passed["heads"] == len(TASKS) * own + walks["representation"] + walks["parameters"]
    assert network.passed["backbone"] == own + (walks["parameters"] if scope == "all" else 0)


def test_a_loss_that_other_parameters_are_cheaper_to_walk_back_again_saves_nothing() -> None:
    network, balancer = Network(), DAO(tasks=TASKS)
    network.step(balancer, "last_layer")
    assert balancer.walks["saved"] == 0
    assert network.passed["backbone"] == 1


def test_steps_that_do_not_measure_add_nothing() -> None:
    network, balancer = Network(), DAO(tasks=TASKS, every=10)
    found = []
    for _ in range(21):
        network.step(balancer, "representation")
        found.append(balancer.walks["representation"])
    assert found == [3] * 10 + [6] * 10 + [9]
    assert network.passed == {"heads": 21 * 3 + 9, "backbone": 21}


def test_an_absent_task_is_not_walked() -> None:
    network, balancer = Network(), DAO(tasks=TASKS)
    network.step(balancer, "all", ["a", "b"])
    assert balancer.walks == {"representation": 0, "parameters": 2, "saved": 1}
    assert network.passed == {"heads": 2, "backbone": 2}


def test_a_wrapper_counts_its_own_and_the_balancer_in_it_counts_nothing() -> None:
    network, balancer = Network(), create("recompute_every", TASKS, of="dao", every=2)
    for _ in range(3):
        network.step(balancer, "representation")
    assert balancer.walks["representation"] == 6
    assert not any(balancer.of.walks.values())


def test_an_evaluation_walks_nothing_and_the_state_knows_nothing_of_walks() -> None:
    network, balancer = Network(), DAO(tasks=TASKS)
    network.step(balancer, "representation")
    with torch.no_grad():
        balancer({task: torch.ones(2) for task in TASKS})
    assert balancer.walks["representation"] == 3
    fresh = DAO(tasks=TASKS)
    fresh.load_state_dict(balancer.state_dict())
    assert not any(fresh.walks.values())


def test_nothing_is_saved_where_an_empty_task_keeps_its_way_back() -> None:
    # As in a process that has no example of a task: its zero is added to the total, and walked with it.
    network, balancer = Network(), DAO(tasks=TASKS)
    seen = []
    measure = balancer._measure

    def keep(*args: Any) -> Any:
        seen[:] = measure(*args)
        return seen

    balancer._measure = keep  # type: ignore[method-assign]
    network.step(balancer, "all")
    walks = {"representation": 0, "parameters": 0, "saved": 0}
    count_walks(walks, seen, [None, torch.zeros(()), None])
    assert walks == {"representation": 0, "parameters": 3, "saved": 0}
