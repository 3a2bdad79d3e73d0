"""Several processes: sums over ranks, so that every rank weighs the tasks by what all of them saw.

Under DDP and FSDP each rank holds a part of the batch, and the gradients are averaged over ranks. Sums and counts are
exchanged, never local means or local Gramians: a norm of one rank's gradient carries that rank's noise, and the mean of
such norms is not the norm of the mean gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed

__all__ = ["Ranks", "send"]


class Ranks:
    """The processes that train together: one, unless a process group was started.

    Args:
        group: `"world"` for the default group wherever one was started, a process group, or None for this process alone.
    """

    def __init__(self, group: Any = "world") -> None:
        started = distributed.is_available() and distributed.is_initialized()
        self.group = None if group == "world" else group
        self.count: int = 1
        if started and group is not None:
            self.count = distributed.get_world_size(self.group)

    def __bool__(self) -> bool:
        """Whether there is more than one."""
        return self.count > 1

    def before(self, counts: list[int]) -> list[int]:
        """How many examples of each task the ranks before this one have. Waits for the device."""
        if not self:
            return [0] * len(counts)
        device = torch.device("cuda") if distributed.get_backend(self.group) == "nccl" else torch.device("cpu")
        own = torch.tensor(counts, device=device)
        found = [torch.zeros_like(own) for _ in range(self.count)]
        distributed.all_gather(found, own, group=self.group)
        rank = distributed.get_rank(self.group)
        earlier: list[int] = torch.stack([torch.zeros_like(own), *found[:rank]]).sum(0).tolist()
        return earlier

    def sum_(self, tensor: Tensor) -> Tensor:
        """Adds up a tensor over the ranks, in place where it can be."""
        if self:
            tensor = tensor.contiguous()
            distributed.all_reduce(tensor, group=self.group)
        return tensor

    def max_(self, tensor: Tensor) -> Tensor:
        """Takes the largest of each number over the ranks, in place where it can be."""
        if self:
            tensor = tensor.contiguous()
            distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX, group=self.group)
        return tensor


def send(values: Sequence[float] | Sequence[bool], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Moves a few numbers to a device without waiting for it."""
    tensor = torch.tensor(values, dtype=dtype)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
