"""The tasks' gradients side by side: pieces of parameters in rows, so that sums over them are one product of matrices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

Pull = Sequence[Tensor | None]  # one task's gradients, [points]

_BUCKET = 2**24  # elements of all tasks that are copied side by side at a time
_CACHED = 2**19  # the same on a processor


def is_parameter(point: Tensor) -> bool:
    """Whether a point is a parameter; if not, it is a representation, whose rows are examples."""
    return isinstance(point, torch.nn.Parameter) or point.dim() == 0


def stack(point: Tensor, found: Pull, dtype: torch.dtype) -> Tensor:
    zero = torch.zeros((), dtype=dtype, device=point.device).expand(point.shape)
    return torch.stack([zero if gradient is None else gradient.detach().to(dtype) for gradient in found])


def squared_norm(pull: Pull | None, points: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """The squared norm of a task's gradient at the parameters, read once and copied nowhere."""
    found = (
        []
        if pull is None
        else [g for g, point in zip(pull, points, strict=False) if g is not None and is_parameter(point)]
    )
    if not found:
        return torch.zeros((), dtype=dtype, device=points[0].device)
    norms = [torch.linalg.vector_norm(g.detach(), dtype=dtype).to(points[0].device) for g in found]
    return torch.stack(norms).square().sum()


Segment = tuple[int, int, int]  # a parameter's number, and the first and one past the last of its elements


def buckets(
    points: Sequence[Tensor], pulls: list[list[Tensor | None] | None], *, every: bool, whole: bool
) -> Iterator[list[Segment]]:
    """Divides the parameters into pieces that are summed up side by side.

    On a processor a piece fits into its cache, so that the gradients are read from memory only once.
    """
    bucket: list[Segment] = []
    size = 0
    for number, point in enumerate(points):
        if not is_parameter(point):
            continue
        if not every and all(pull is None or pull[number] is None for pull in pulls):
            continue  # of this process's graph no part; other ranks may have one
        limit = max((_CACHED if point.device.type == "cpu" and not every else _BUCKET) // len(pulls), 1)
        start = 0
        while start < point.numel():
            if bucket and (size >= limit or points[bucket[0][0]].device != point.device):
                yield bucket
                bucket, size = [], 0
            stop = point.numel() if whole else min(point.numel(), start + limit - size)
            bucket.append((number, start, stop))
            size += stop - start
            start = stop
    if bucket:
        yield bucket


def side_by_side(
    points: Sequence[Tensor], pulls: list[list[Tensor | None] | None], bucket: Sequence[Segment], dtype: torch.dtype
) -> Tensor:
    """Copies pieces of the tasks' gradients into rows, `[tasks, elements]`."""
    width = sum(stop - start for _, start, stop in bucket)
    rows = torch.empty(len(pulls), width, dtype=dtype, device=points[bucket[0][0]].device)
    for k, pull in enumerate(pulls):
        offset = 0
        for number, start, stop in bucket:
            place = rows[k, offset : offset + stop - start]
            gradient = None if pull is None else pull[number]
            if gradient is None:
                place.zero_()
            else:
                place.copy_(gradient.detach().reshape(-1)[start:stop])
            offset += stop - start
    return rows
