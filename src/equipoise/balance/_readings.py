"""One step's gradients: measured at a step's start, and made into the update where that saves the walk back.

A reading is what was measured on one part of the batch: all of it, or one of two halves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._batch import Batch, Examples, mean_of
from equipoise.balance._gradients import GradientStatistics, cross_products, points_of, summarise, walk_back
from equipoise.balance._graph import Plan, plan, surrogate
from equipoise.balance._pieces import is_parameter
from equipoise.balance._ranks import Ranks, send
from equipoise.errors import BalanceError


@dataclass(frozen=True)
class Reading:
    """What was measured on one part of the batch.

    Attributes:
        statistics: of all ranks.
        pulls: `[tasks][points + the plan's others]`, the gradients of this rank's means.
        points: where.
        plan: how they become the update.
    """

    statistics: GradientStatistics
    pulls: list[list[Tensor | None] | None]
    points: list[Tensor]
    plan: Plan


def points_at(shared: Tensor | Iterable[Tensor] | None, scopes: frozenset[str], method: str) -> list[Tensor]:
    """Where a method measures: the tensors behind `shared`, if it is defined there."""
    if shared is None:
        raise BalanceError(
            f"{method} needs shared: the representation that the heads were fed with, or the shared parameters. "
            "Call balancer(losses, shared=hidden)"
        )
    points = points_of(shared)
    at = "parameters" if all(map(is_parameter, points)) else "representation"
    if at not in scopes:
        raise BalanceError(
            f"{method} cannot be measured at {'the ' * (at == 'representation')}{at}, only at "
            f"{' or '.join(sorted(scopes))}. Pass shared=list(layer.parameters()), or set balance.shared to "
            "last_layer, adapter or all"
        )
    return points


def take_readings(
    parts: Sequence[Examples],
    empty: Examples,
    points: list[Tensor],
    batch: Batch,
    ranks: Ranks,
    *,
    reuse: Literal["if cheaper", "always", "never"] = "if cheaper",
    differentiable: bool = False,
    keep: bool = False,
    angles: bool = True,
    cross: bool = False,
    retain_graph: bool = False,
) -> list[Reading]:
    """Measures each part of the batch.

    Args:
        parts: `[parts][tasks]` losses.
        empty: `[tasks]`, zeros that hang on the graphs of tasks without an example in this process.
        points: where the gradients are measured.
        batch: the joined batch, which knows each rank's share.
        ranks: the processes that train together.
        reuse: whether the gradients become the update themselves (at parameters).
        differentiable: make the gradients differentiable.
        keep: keep the gradients in the statistics.
        angles: measure inner products at parameters.
        cross: measure those between the two halves of the batch, at parameters.
        retain_graph: keep the losses' graph, although the update no longer needs it.
    """
    if not ranks and all(loss is None for loss in parts[-1]):  # one example a task cannot be divided: it weighs itself
        parts = [parts[0]] * len(parts)
    at_parameters = all(map(is_parameter, points))
    losses = [
        [zero if loss is None else mean_of(loss) for loss, zero in zip(part, empty, strict=True)] for part in parts
    ]
    route = Plan()
    if at_parameters:
        route = plan([loss for part in losses for loss in part if loss is not None], points)
        if reuse == "always" and route.obstacle is not None:
            raise BalanceError(
                f"this method combines the gradients of all parameters, but {route.obstacle}, or measure at the representation"
            )
        wanted = {"always": True, "never": False, "if cheaper": route.combine}[reuse]
        route = replace(route, combine=wanted and not differentiable)
    crossed = cross and len(parts) == 2 and at_parameters
    readings = []
    for number, part in enumerate(losses):
        pulls = walk_back(
            part,
            points,
            # Walking back through an absent task's head, in the end, needs a graph that is whole.
            retain=retain_graph or number < len(losses) - 1 or any(zero is not None for zero in empty),
            create_graph=differentiable,
            plan=route,
            alone=not ranks,
        )
        present = send([loss is not None for loss in parts[number]], points[0].device, torch.bool)
        if batch.totals is not None:
            present = batch.totals[number] > 0
        statistics = summarise(
            points,
            pulls,
            present=present,
            ranks=ranks,
            shares=batch.shares(number),
            keep=keep or crossed or (differentiable and bool(ranks)),
            angles=angles,
        )
        readings.append(Reading(statistics.to(batch.means.device), pulls, points, route))
    if crossed:
        even, odd = (reading.statistics for reading in readings)
        products = cross_products(even.gradients or (), odd.gradients or ()).to(batch.means.device)
        readings = [
            replace(
                r, statistics=replace(r.statistics, cross=products, gradients=r.statistics.gradients if keep else None)
            )
            for r in readings
        ]
    return readings


def count_walks(walks: dict[str, int], readings: Sequence[Reading], empty: Examples) -> None:
    """Adds one step's backward walks to `walks`, which costs nothing: what was walked is known without the device.

    A walk is one task's loss, of one part of the batch, followed back: at a `representation` through the heads only, at
    `parameters` down to the lowest that is measured. `saved` counts the caller's own backwards that find every gradient
    done (`update`), so a step costs `parameters - saved` walks more than one of fixed weights, beside those through
    heads. An empty task of another process keeps its way back, so nothing is saved then. What a differentiable
    measurement adds to the caller's own backward is not counted: it is no walk of its own.

    Args:
        walks: `representation`, `parameters` and `saved`, changed in place.
        readings: one for each part of the batch, none in a step without measurement.
        empty: `[tasks]`, zeros that hang on the graphs of tasks without an example in this process.
    """
    for reading in readings:
        through = "parameters" if any(map(is_parameter, reading.points)) else "representation"
        walks[through] += sum(pull is not None for pull in reading.pulls)
    if readings and readings[0].plan.combine:
        walks["saved"] += all(zero is None for zero in empty)


def differentiable_gramian(
    reading: Reading,
    batch: Batch,
    kept: Sequence[bool],
    present: Tensor,  # `kept` on the device
) -> Tensor:
    """Inner products `[tasks, tasks]` that gradients flow through, of the tasks that are kept.

    With several ranks the value is that of all of them, and the gradient is this rank's part times their number, because
    the ranks' gradients will be averaged: rows of a representation add to the Gramian rank by rank, and a gradient at
    parameters is the sum of the ranks' gradients.
    """
    shares = batch.shares(0)
    joined = reading.statistics.gradients  # of all ranks, where there are several
    total = torch.zeros_like(reading.statistics.gramian)
    for number, point in enumerate(reading.points):
        own = []
        for k, pull in enumerate(reading.pulls):
            gradient = pull[number] if pull is not None and kept[k] else None
            gradient = total.new_zeros(point.shape) if gradient is None else gradient.to(total)
            own.append(gradient if shares is None else gradient * shares[k].to(total))
        rows = torch.stack(own).flatten(1)
        if shares is None or not is_parameter(point):
            total = total + rows @ rows.T
        else:
            assert joined is not None
            product = rows @ joined[number].flatten(1).to(rows).T
            total = total + product + product.T
    if shares is None:
        return total
    known = reading.statistics.only(present).gramian
    return known + batch.ranks * (total - total.detach())


def update(
    value: Tensor,
    readings: Sequence[Reading],
    weights: Sequence[Tensor],  # [parts] of [tasks]
    batch: Batch,
    kept: Sequence[int],
    chosen: Sequence[Tensor] | None,  # [points], a method's own combination
) -> Tensor:
    """Returns a scalar that is `value` and whose backward is the weighted sum of the gradients that were measured."""
    first = readings[0]
    leaves = [*first.points, *first.plan.others]
    terms = [
        # Of this rank alone, as in any backward: the ranks' gradients will be averaged, and not every rank may have come
        # to the conclusion that this way is the cheaper one.
        (pull, weights[part][k] * batch.own_share(part, k))
        for part, reading in enumerate(readings)
        for k in kept
        if (pull := reading.pulls[k]) is not None
    ]
    reached, sums = [], []
    with torch.no_grad():
        for n, leaf in enumerate(leaves):
            total = chosen[n] if chosen is not None and n < len(first.points) else _weighted(n, terms)
            if total is not None:
                reached.append(leaf)
                sums.append(total)
            for pull, _ in terms:
                pull[n] = None  # freed one by one: all tasks' gradients and the sum need not be there at once
    return surrogate(value, reached, sums)


def _weighted(n: int, terms: Sequence[tuple[list[Tensor | None], Tensor]]) -> Tensor | None:
    total: Tensor | None = None
    for pull, weight in terms:
        gradient = pull[n]
        if gradient is not None:
            here = weight.to(gradient.device)
            # The first is copied: autograd may hand out one tensor as two parameters' gradient.
            total = gradient * here if total is None else total.addcmul_(gradient, here)
    return total
