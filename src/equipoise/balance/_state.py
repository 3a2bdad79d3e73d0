"""State that is kept per task: buffers whose first dimension is the task, and the names that give it its meaning.

Everything is a tensor, the names included (UTF-8 bytes of a JSON list), so that a `state_dict` fits into safetensors and
a state can be read without knowing who wrote it.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from equipoise.balance._registry import did_you_mean
from equipoise.errors import BalanceError


class TaskState(torch.nn.Module):
    """A module whose buffers are `[tasks, ...]`, in the order of named tasks.

    The names are given at construction or later, once, by `name_tasks`; until then every task buffer has length 0.
    Loading a state gives the names to a module that has none, and puts the rows into this module's own task order.

    Args:
        tasks: the tasks' names, or None to learn them later.

    Raises:
        BalanceError: no name, a name twice, or a loaded state of other tasks.
    """

    name_bytes: Tensor  # [bytes] uint8

    def __init__(self, tasks: Sequence[str] | None) -> None:
        super().__init__()
        self._tasks: tuple[str, ...] = ()
        self._task_buffers: dict[str, tuple[tuple[int, ...], float, torch.dtype]] = {}
        self._pair_buffers: set[str] = set()  # those of them that are [tasks, tasks]
        self._may_lack: set[str] = set()  # those that a saved state may not have
        self.register_buffer("name_bytes", torch.empty(0, dtype=torch.uint8))
        if tasks is not None:
            self.name_tasks(tasks)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks' names, in the order of the buffers; empty until they are known."""
        return self._tasks

    def name_tasks(self, tasks: Sequence[str]) -> None:
        """Fixes the tasks' names and gives every task buffer its length."""
        given: tuple[object, ...] = () if isinstance(tasks, str) else tuple(tasks)
        names = tuple(name for name in given if isinstance(name, str) and name)
        if not names or len(names) < len(given):
            raise BalanceError(f"tasks must be a list of one or more names, found {tasks!r}")
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise BalanceError(f"tasks must differ, but {', '.join(map(repr, twice))} is given more than once")
        self._tasks = names
        device = self.name_bytes.device
        self.name_bytes = torch.tensor(list(json.dumps(names).encode()), dtype=torch.uint8, device=device)
        for name in self._task_buffers:
            setattr(self, name, self._fresh(name))

    def add_task_buffer(
        self,
        name: str,
        *tail: int,
        fill: float = 0.0,
        dtype: torch.dtype = torch.float32,
        may_lack: bool = False,
    ) -> None:
        """Registers a buffer of shape `[tasks, *tail]` that starts as `fill`.

        `may_lack`: a state that was saved before there was such a buffer loads, and leaves it as it starts.
        """
        self._may_lack |= {name} if may_lack else set()
        self._task_buffers[name] = (tail, fill, dtype)
        self.register_buffer(name, self._fresh(name))

    def add_pair_buffer(
        self, name: str, *, fill: float = 0.0, dtype: torch.dtype = torch.float32, may_lack: bool = False
    ) -> None:
        """Registers a buffer of shape `[tasks, tasks]` that starts as `fill`; both dimensions follow the task order."""
        self._pair_buffers.add(name)
        self.add_task_buffer(name, fill=fill, dtype=dtype, may_lack=may_lack)

    def index(self, task: str) -> int:
        """Returns a task's row, or raises with the nearest name."""
        try:
            return self._tasks.index(task)
        except ValueError:
            raise BalanceError(
                f"no task {task!r}.{did_you_mean(task, self._tasks)} Tasks: {', '.join(self._tasks)}. "
                "Tasks that are not in the first batch must be named at construction: tasks=[...]"
            ) from None

    def fit(self, device: torch.device, dtype: torch.dtype) -> None:
        """Moves the state to the losses' device, and widens statistics that are narrower than `dtype`."""
        if self.name_bytes.device != device:
            self.to(device)
        for name in self._task_buffers:
            buffer = getattr(self, name)
            # A model cast to bfloat16 takes its modules' buffers along; averages need the bits back.
            if buffer.is_floating_point() and torch.promote_types(buffer.dtype, dtype) != buffer.dtype:
                setattr(self, name, buffer.to(torch.promote_types(buffer.dtype, dtype)))

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        """Takes names, shapes and widths from the saved state, then loads as usual."""
        saved = dict(state_dict)
        if f"{prefix}name_bytes" in saved:
            names = bytes(saved[f"{prefix}name_bytes"].tolist()).decode()
            self._adopt(saved, prefix, tuple(json.loads(names)) if names else ())
        super()._load_from_state_dict(saved, prefix, local_metadata, *rest)

    def _adopt(self, saved: dict[str, Any], prefix: str, names: tuple[str, ...]) -> None:
        if names and not self._tasks:
            self.name_tasks(names)
        if names and set(names) != set(self._tasks):
            raise BalanceError(f"the saved state is of tasks {', '.join(names)}, not of {', '.join(self._tasks)}")
        saved[f"{prefix}name_bytes"] = self.name_bytes
        for name in self._task_buffers:
            if (rows := saved.get(prefix + name)) is None:
                if name in self._may_lack:
                    setattr(self, name, self._fresh(name))
                    saved[prefix + name] = self._fresh(name)
                continue
            if names:
                order = torch.tensor([names.index(task) for task in self._tasks], device=rows.device)
                rows = rows.index_select(0, order)
                saved[prefix + name] = rows.index_select(1, order) if name in self._pair_buffers else rows
            else:  # saved before its first step: as good as new
                saved[prefix + name] = self._fresh(name)
            setattr(self, name, torch.empty_like(saved[prefix + name], device=self.name_bytes.device))

    def _fresh(self, name: str) -> Tensor:
        tail, fill, dtype = self._task_buffers[name]
        if name in self._pair_buffers:
            tail = (len(self._tasks),)
        return torch.full((len(self._tasks), *tail), fill, dtype=dtype, device=self.name_bytes.device)


def by_name(
    values: Tensor,  # [tasks] or [tasks, tasks]
    tasks: Sequence[str],
) -> dict[str, float]:
    """Returns plain numbers under their tasks' names, pairs of tasks as `"a|b"`. What is not finite is left out.

    Example:
        >>> by_name(torch.tensor([[1.0, 0.5], [0.5, 1.0]]), ["a", "b"])
        {'a|b': 0.5}
    """
    numbers: list[Any] = values.tolist()  # waits for the device
    if values.dim() == 1:
        named = dict(zip(tasks, numbers, strict=True))
    else:
        pairs = itertools.combinations(range(len(tasks)), 2)
        named = {f"{tasks[i]}|{tasks[j]}": numbers[i][j] for i, j in pairs}
    return {name: value for name, value in named.items() if math.isfinite(value)}
