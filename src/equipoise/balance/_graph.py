"""What the losses' autograd graphs lead to, and whether the tasks' gradients can be the update itself.

Measuring K gradients at all shared parameters walks the whole network K times. A backward of the weighted sum would walk
it once more to compute what is known already: the same gradients, weighted. `plan` tells when to leave that walk out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from equipoise.errors import BalanceError


@dataclass(frozen=True)
class Plan:
    """How the tasks' gradients become the update.

    Attributes:
        others: parameters that a loss depends on beside the measured ones, such as the heads'.
        combine: whether to walk every task back to `others` too and combine the gradients, which costs no more than a
            backward of the weighted sum after the measurement.
        obstacle: why the gradients cannot be the update, if so.
        half: whether float16 takes part, which needs scaled losses.
        overlap: whether two losses share a part of their graphs, which then has to outlive the first walk.
    """

    others: list[Tensor] = field(default_factory=list)
    combine: bool = False
    obstacle: str | None = None
    half: bool = False
    overlap: bool = True


def plan(losses: Sequence[Tensor], points: Sequence[Tensor]) -> Plan:
    """Compares the two ways to the update by the elements of all gradients that they compute, node by node.

    Args:
        losses: scalars with a graph, of the tasks that are present.
        points: the parameters at which gradients are measured.

    Raises:
        BalanceError: the parameters lie behind reentrant gradient checkpointing.

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
    half = any(given.dtype == torch.float16 for node in order for given in node._input_metadata)
    if any(type(node).__name__ == "CheckpointFunctionBackward" for node in order):
        # Reentrant checkpointing hides its part of the network, and lets nobody walk through it to chosen parameters.
        if points and not any(reaches.values()):
            raise BalanceError(
                "the backbone uses reentrant gradient checkpointing, which allows no gradients at chosen parameters. "
                "Set use_reentrant=False, or measure at the representation"
            )
        return Plan(obstacle="reentrant gradient checkpointing hides parameters. Set use_reentrant=False", half=half)
    for node in reversed(order):
        for child in _children(node):
            tasks[child] |= tasks[node]
    sizes = {node: _size(node) for node in order}
    everything = sum(sizes[node] * found.bit_count() for node, found in tasks.items())
    measuring = sum(sizes[node] * found.bit_count() for node, found in tasks.items() if reaches[node])
    overlap = any(found.bit_count() > 1 and _leaf(node) is None for node, found in tasks.items())
    obstacle = None
    if any(leaf._backward_hooks for leaf in (*points, *others)):
        obstacle = "a parameter has a hook on its gradient (register_hook), which would run twice. Remove the hook"
    if half:
        obstacle = "float16 takes part, and a gradient scaler would come too late. Use bfloat16"
    cheaper = everything <= measuring + sum(sizes.values())
    return Plan(others, cheaper and obstacle is None, obstacle, half, overlap)


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


def _size(node: Any) -> int:
    """Elements of the gradients that come into a node; none for a parameter, where they only arrive."""
    if _leaf(node) is not None:
        return 0
    return sum(math.prod(given.shape) for given in node._input_metadata)


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


def nothing(losses: Sequence[Tensor]) -> Tensor:
    """Returns a zero whose backward gives every parameter that the losses depend on a gradient of zero.

    For tasks that are left out of a step although other processes walk back through their heads. A product of the loss
    and zero would not do: what is not finite stays so.
    """
    leaves = plan(losses, ()).others
    return surrogate(losses[0].new_zeros(()), leaves, [torch.zeros_like(leaf) for leaf in leaves])
