"""What the losses' autograd graphs lead to, and whether the tasks' gradients can be the update itself.

Measuring K gradients at all shared parameters walks the whole network K times. A backward of the weighted sum would walk
it once more to compute what is known already: the same gradients, weighted. `plan` tells when to leave that walk out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Plan:
    """How the tasks' gradients become the update.

    Attributes:
        others: parameters that a loss depends on beside the measured ones, such as the heads'.
        combine: whether to walk every task back to `others` too and combine the gradients, which costs no more than a
            backward of the weighted sum after the measurement.
        overlap: whether two losses share a part of their graphs, which then has to outlive the first walk.
    """

    others: list[Tensor] = field(default_factory=list)
    combine: bool = False
    overlap: bool = True


def plan(losses: Sequence[Tensor], points: Sequence[Tensor]) -> Plan:
    """Compares the two ways to the update by the number of graph nodes that they visit.

    Args:
        losses: scalars with a graph, of the tasks that are present.
        points: the parameters at which gradients are measured.

    Example:
        >>> shared, head = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
        >>> found = plan([shared.sum(), (shared * head).sum()], [shared])
        >>> found.combine, found.others[0] is head
        (True, True)
    """
    order = _sorted([loss.grad_fn for loss in losses if loss.grad_fn is not None])
    measured = {id(point) for point in points}
    tasks: dict[Any, int] = dict.fromkeys(order, 0)  # node -> bit set of the tasks whose graphs it belongs to
    for bit, loss in enumerate(losses):
        if loss.grad_fn is not None:
            tasks[loss.grad_fn] |= 1 << bit
    reaches: dict[Any, bool] = {}
    others: list[Tensor] = []
    for node in order:  # from the parameters to the losses
        leaf = _leaf(node)
        if leaf is not None and id(leaf) not in measured:
            others.append(leaf)
        reaches[node] = (leaf is not None and id(leaf) in measured) or any(reaches[child] for child in _children(node))
    for node in reversed(order):
        for child in _children(node):
            tasks[child] |= tasks[node]
    everything = sum(found.bit_count() for found in tasks.values())
    measuring = sum(found.bit_count() for node, found in tasks.items() if reaches[node])
    overlap = any(found.bit_count() > 1 and _leaf(node) is None for node, found in tasks.items())
    return Plan(others, everything <= measuring + len(order), overlap)


def _sorted(roots: Sequence[Any]) -> list[Any]:
    """All nodes below the roots, children first."""
    order: list[Any] = []
    seen: set[Any] = set()
    stack: list[tuple[Any, bool]] = [(root, False) for root in roots]
    while stack:
        node, left = stack.pop()
        if left:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(child, False) for child in _children(node) if child not in seen]
    return order


def _children(node: Any) -> list[Any]:
    return [child for child, _ in node.next_functions if child is not None]


def _leaf(node: Any) -> Tensor | None:
    leaf: Tensor | None = node.variable if type(node).__name__ == "AccumulateGrad" else None
    return leaf


class _Surrogate(torch.autograd.Function):
    """A number whose backward hands known gradients to the parameters."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(gradient * pull.to(gradient) for gradient in ctx.gradients)


def surrogate(value: Tensor, leaves: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Returns a scalar that is `value`, and whose backward adds `gradients` to those of `leaves`.

    The caller's backward may scale it, as gradient scalers and accumulation do, and runs every hook of the leaves.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> (0.5 * surrogate(torch.tensor(3.0), [weight], [torch.tensor([2.0, 4.0])])).backward()
        >>> weight.grad
        tensor([1., 2.])
    """
    made: Tensor = _Surrogate.apply(  # type: ignore[no-untyped-call]
        value.detach(), [gradient.to(leaf.dtype) for gradient, leaf in zip(gradients, leaves, strict=True)], *leaves
    )
    return made
