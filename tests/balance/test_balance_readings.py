"""Gradients that become the update: exact in float64, freed and kept as promised, and at the price that is promised."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from equipoise.balance import DAO, Balancer, create
from equipoise.balance._graph import plan
from equipoise.errors import BalanceError

TASKS = ("a", "b", "c")


class Network(nn.Module):
    """Three layers and a head a task, float64."""

    def __init__(self, tasks: tuple[str, ...] = TASKS, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(4, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width)
        )
        self.heads = nn.ModuleDict({task: nn.Linear(width, 1) for task in tasks})
        self.double()

    def losses(self, rows: dict[str, Tensor], hidden: Tensor) -> dict[str, Tensor]:
        return {t: (10.0**k * self.heads[t](hidden[rows[t]]).squeeze(-1) - 1) ** 2 for k, t in enumerate(rows)}


def inputs(size: int = 9) -> Tensor:
    return torch.randn(size, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


ROWS = {
    "shared rows": {task: torch.arange(9) for task in TASKS},
    "disjoint rows": {task: torch.arange(3 * k, 3 * k + 3) for k, task in enumerate(TASKS)},
    "a missing task": {"a": torch.arange(9), "c": torch.arange(4, 9)},
    "one task": {"b": torch.arange(9)},
}


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", ROWS)
@pytest.mark.parametrize("scope", ["layers", "last", "first"])
@pytest.mark.parametrize("double", [False, True])
def test_the_update_is_the_weighted_sum_of_plain_gradients(case: str, scope: str, double: bool) -> None:
    network = Network()
    reference = copy.deepcopy(network)
    balancer = DAO(tasks=TASKS, double_batch=double)
    shared = {"layers": network.layers, "last": network.layers[-1], "first": network.layers[0]}[scope]
    total = balancer(network.losses(ROWS[case], network.layers(inputs())), shared=shared.parameters())
    total.backward()

    expected: list[Tensor] = []
    halves = []
    losses = reference.losses(ROWS[case], reference.layers(inputs()))
    points = list(
        {"layers": reference.layers, "last": reference.layers[-1], "first": reference.layers[0]}[scope].parameters()
    )
    for part in (slice(0, None, 2), slice(1, None, 2)) if double else (slice(None),):
        norms = {}
        for task, loss in losses.items():
            pull = torch.autograd.grad(loss[part].mean(), points, retain_graph=True)
            norms[task] = torch.cat([g.flatten() for g in pull]).norm()
        inverse = {task: 1 / norm for task, norm in norms.items()}
        halves.append({task: len(inverse) * value / sum(inverse.values()) for task, value in inverse.items()})
    halves.reverse()  # each half is weighed by the other
    for part, weights in enumerate(halves):
        for task, loss in losses.items():
            own = loss[part::2] if double else loss
            expected.append(weights[task].detach() * own.sum() / len(loss))
    objective = torch.stack(expected).sum()
    objective.backward()

    assert total.item() == pytest.approx(objective.item(), rel=1e-10)
    found, wanted = gradients(network), gradients(reference)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        # Relative to the largest element: single ones may be the difference of much larger numbers.
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10 * value.abs().max().item(), msg=name)


def test_a_solved_task_and_one_that_is_not_finite_do_not_reach_the_update() -> None:
    network = Network()
    losses = network.losses(ROWS["shared rows"], network.layers(inputs()))
    losses["a"] = losses["a"] * 0
    losses["b"] = (losses["b"] * 0).sqrt()  # 0, with a slope that is not finite
    balancer = DAO(tasks=TASKS, on_nonfinite="skip")
    balancer(losses, shared=network.layers.parameters()).backward()
    assert balancer.skipped == {"a": 0, "b": 1, "c": 0}
    reference = Network()
    loss = reference.losses(ROWS["shared rows"], reference.layers(inputs()))["c"].mean()
    (balancer.last["weights"]["c"] * loss).backward()
    for name, value in gradients(reference).items():
        torch.testing.assert_close(gradients(network)[name], value, rtol=1e-10, atol=1e-14)


def test_tasks_on_different_batches_are_one_update() -> None:
    network, reference = Network(), Network()
    batches = {task: inputs(4) + k for k, task in enumerate(TASKS)}

    def losses(net: Network) -> dict[str, Tensor]:
        return {t: (net.heads[t](net.layers(rows)).squeeze(-1) - 1) ** 2 for t, rows in batches.items()}

    balancer = create("mgda", list(TASKS))
    balancer(losses(network), shared=network.layers.parameters()).backward()
    weights = balancer.last["weights"]
    sum(weights[task] * loss.mean() for task, loss in losses(reference).items()).backward()
    for name, value in gradients(reference).items():
        torch.testing.assert_close(gradients(network)[name], value, rtol=1e-10, atol=1e-14)


def test_the_graph_is_freed_unless_it_is_asked_for() -> None:
    network = Network()
    for keep in (True, False):
        hidden = network.layers(inputs())
        balancer = DAO(tasks=TASKS)
        balancer.retain_graph = keep
        total = balancer(network.losses(ROWS["shared rows"], hidden), shared=network.layers.parameters())
        if keep:
            (total + hidden.square().mean()).backward()
        else:
            with pytest.raises(RuntimeError, match="second time"):
                (total + hidden.square().mean()).backward()


def test_a_used_graph_is_named() -> None:
    network = Network()
    losses = network.losses(ROWS["shared rows"], network.layers(inputs()))
    sum(loss.mean() for loss in losses.values()).backward()
    with pytest.raises(BalanceError, match="graph was freed by an earlier backward"):
        DAO(tasks=TASKS)(losses, shared=network.layers.parameters())


@pytest.mark.parametrize("where", ["parameters", "representation"])
def test_reentrant_checkpointing_works_at_the_representation_only(where: str) -> None:
    network = Network()
    rows = inputs().requires_grad_()
    hidden = checkpoint(network.layers, rows, use_reentrant=True)
    losses = network.losses(ROWS["shared rows"], hidden)
    if where == "parameters":
        with pytest.raises(BalanceError, match="reentrant gradient checkpointing"):
            DAO(tasks=TASKS)(losses, shared=network.layers[-1].parameters())
    else:
        DAO(tasks=TASKS)(losses, shared=hidden).backward()
        assert network.layers[0].weight.grad.abs().sum() > 0


def test_reentrant_checkpointing_of_other_layers_is_no_matter() -> None:
    found = []
    for recompute in (False, True):
        network = Network()
        rows = inputs().requires_grad_()
        below = network.layers[:4]
        hidden = network.layers[4](checkpoint(below, rows, use_reentrant=True) if recompute else below(rows))
        DAO(tasks=TASKS)(network.losses(ROWS["shared rows"], hidden), shared=network.layers[4].parameters()).backward()
        found.append(gradients(network))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-10, atol=1e-12)


def test_gradients_that_float16_would_lose_are_measured() -> None:
    hidden = torch.full((4, 8), 0.5, dtype=torch.float16, requires_grad=True)
    small = hidden.float().sum() * 2e-8  # below float16's smallest number
    balancer = DAO(tasks=["small", "large"], own_floor=None)
    balancer({"small": small, "large": (hidden.float() * 2e-6).sum()}, shared=hidden)
    norms = balancer.last["norms"]
    assert norms["small"] == pytest.approx(2e-8 * 32**0.5, rel=0.1)
    assert norms["large"] == pytest.approx(2e-6 * 32**0.5, rel=0.1)


def flops(tasks: int, scope: str | None, batches: bool = False, every: int = 1, steps: int = 1) -> float:
    """Floating-point operations of a forward, balance and backward, averaged over steps."""
    names = tuple(f"t{k}" for k in range(tasks))
    torch.manual_seed(0)
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(6)))
    heads = nn.ModuleDict({name: nn.Linear(64, 1) for name in names})
    rows = torch.randn(64, 16, 64)  # [examples, tokens, width]
    balancer: Balancer
    balancer = create("equal", list(names)) if scope is None else create("dao", list(names), every=every)
    with FlopCounterMode(display=False) as counter:
        for _ in range(steps):
            if batches:
                parts = dict(zip(names, rows.chunk(tasks), strict=True))
                hidden = {name: layers(part).mean(1) for name, part in parts.items()}
            else:
                hidden = dict.fromkeys(names, layers(rows).mean(1))
            losses = {name: heads[name](hidden[name]).squeeze(-1).square() for name in names}
            points = {
                "representation": hidden[names[0]],
                "last": list(layers[-1].parameters()),
                "all": list(layers.parameters()),
            }
            balancer(losses, shared=points.get(scope or "")).backward()
    return counter.get_total_flops() / steps


@pytest.mark.parametrize(
    ("tasks", "scope", "batches", "every", "limit"),
    [
        (2, "representation", False, 1, 1.01),
        (8, "representation", False, 1, 1.01),
        (2, "last", False, 1, 1.25),
        (8, "last", False, 1, 1.85),
        (2, "all", False, 1, 1.70),
        (8, "all", False, 1, 5.8),
        (2, "all", False, 10, 1.10),
        (4, "all", True, 1, 1.05),
    ],
)
def test_operations_beside_equal_weights(tasks: int, scope: str, batches: bool, every: int, limit: float) -> None:
    # A count of operations, not a time: the same on every machine.
    found = flops(tasks, scope, batches, every, steps=every)
    assert 1.0 <= found / flops(tasks, None, batches) <= limit


def test_the_plan_counts_what_would_be_walked_twice() -> None:
    network = Network()
    losses = list(network.losses(ROWS["shared rows"], network.layers(inputs())).values())
    means = [loss.mean() for loss in losses]
    everything = plan(means, list(network.layers.parameters()))
    assert everything.combine
    assert everything.overlap
    assert {id(p) for p in everything.others} == {id(p) for p in network.heads.parameters()}
    top = plan(means, list(network.layers[-1].parameters()))
    assert not top.combine, "one backward of the sum is cheaper than three to the bottom"
    apart = plan(
        [network.heads[t](network.layers(inputs())).mean() for t in TASKS], list(network.layers[-1].parameters())
    )
    assert apart.combine, "graphs that share nothing are walked once in any case"
    assert not apart.overlap


def test_a_hook_on_a_parameter_runs_once() -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.register_hook(lambda gradient: gradient * 0.1)
    create("mgda", ["a"])({"a": weight.sum()}, shared=[weight]).backward()
    assert weight.grad.tolist() == pytest.approx([0.1] * 3)
    with pytest.raises(BalanceError, match=r"combines the gradients .* a hook on its gradient"):
        create("db_mtl", ["a"])({"a": weight.sum()}, shared=[weight])


def test_a_tied_parameter_counts_once() -> None:
    weight = nn.Parameter(torch.ones(4))
    balancer = create("dao", ["a"])
    balancer({"a": weight.sum()}, shared=[weight, weight]).backward()
    assert weight.grad.tolist() == [1.0] * 4
    assert balancer.last["norms"] == {"a": 2.0}


def test_float16_leaves_the_update_to_the_scaled_backward() -> None:
    torch.manual_seed(0)
    layer, head = nn.Linear(4, 4), nn.Linear(4, 1)
    grads = []
    for method in ("dao", "equal"):
        layer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = (head(layer(torch.ones(2, 4))).float() * 1e-8).sum()
        total = create(method, ["a"])({"a": loss}, shared=list(layer.parameters()))
        (total * 65536).backward()
        grads.append(layer.weight.grad.clone())
    assert grads[0].abs().sum() > 0
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=0)


def test_a_large_gradient_through_float16_is_no_overflow() -> None:
    hidden = torch.ones(2, 2, dtype=torch.float16, requires_grad=True)
    balancer = create("dao", ["a"])
    balancer({"a": (hidden * 300).float().sum()}, shared=hidden)
    assert balancer.last["norms"]["a"] == pytest.approx(600.0)


def test_sparse_gradients_are_named() -> None:
    words = nn.Embedding(5, 3, sparse=True)
    with pytest.raises(BalanceError, match="sparse gradients"):
        create("dao", ["a"])({"a": words(torch.tensor([1, 2])).sum()}, shared=words.parameters())


def test_an_evaluation_before_the_first_step_names_no_task_and_widens_nothing() -> None:
    balancer = DAO()
    with torch.no_grad():
        assert balancer({"a": torch.ones(2, dtype=torch.float64)}).item() == 1.0
    assert balancer.tasks == ()
    named = DAO(tasks=["a", "b"])
    with torch.no_grad():
        named({"a": torch.ones(2, dtype=torch.float64)})
    assert named.weights.dtype == torch.float32
