"""Blocks that every task has for itself: the last ones of the backbone, and whatever stands between them and the heads.

    tokens [n, L] -> embeddings -> shared blocks -> [n, L, d] -+-> task 1's blocks, pooler -> [n, d] --+
                                                               +-> task 2's blocks, pooler -> [n, d] --+-> [2n, d] -> heads

What is shared runs once a batch. At the fan every task's copy reads the same hidden states, and from there on the batch
is one chunk of n rows a task, so that the stock code behind the blocks (norms, poolers, the packed head) runs
unchanged on all rows. `gather` then takes each task's columns from its own chunk, and the logits are [n, outputs] again.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.models._mtl_lora import task_parameters

__all__ = [
    "Copies",
    "FirstRows",
    "Private",
    "block_list",
    "gather",
    "join",
    "private_parameters",
    "repeat_rows",
    "shared_blocks",
    "split",
]


@dataclass(frozen=True)
class Private:
    """Which modules exist once a task.

    Attributes:
        layers: how many blocks, counted from the last.
        modules: names of the modules that have copies: those blocks in their order, then what follows them.
        outputs: each task's columns of the logits, as (start, stop), in the order of the copies.
    """

    layers: int
    modules: tuple[str, ...]
    outputs: tuple[tuple[int, int], ...]


class Copies(nn.Module):
    """One copy of a module for each task; chunk k of the rows goes through copy k.

    Args:
        module: what is copied.
        tasks: how many copies.
        fans: the rows come in once, and every copy reads all of them.
    """

    def __init__(self, module: nn.Module, tasks: int, *, fans: bool) -> None:
        super().__init__()
        self.copies = nn.ModuleList([module, *(copy.deepcopy(module) for _ in range(tasks - 1))])
        self.fans = fans

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The copies' outputs, chunk behind chunk.

        Args:
            hidden_states: `[n, ...]` where it fans, else `[tasks * n, ...]`.
            args: the same for every copy: masks and positions are those of the n rows.
            kwargs: likewise.
        """
        count = len(self.copies)
        if kwargs.get("past_key_values") is not None:
            # All copies of a block have one place in the cache of a decoder: the second would attend to the first's keys.
            kwargs["past_key_values"] = None
        parts = [hidden_states] * count if self.fans else hidden_states.chunk(count)
        return _joined([one(part, *args, **kwargs) for one, part in zip(self.copies, parts, strict=True)])

    def extra_repr(self) -> str:
        """Whether the rows fan out here."""
        return f"fans={self.fans}"


class BlockCopies(Copies):
    """Copies of a block of the backbone."""

    def __getattr__(self, name: str) -> Any:
        # Backbones read facts of a block from outside, such as the kind of attention that it wants a mask for.
        try:
            return super().__getattr__(name)
        except AttributeError:
            modules = self.__dict__.get("_modules") or {}
            if "copies" not in modules:
                raise
            return getattr(modules["copies"][0], name)


def _joined(parts: Sequence[Any]) -> Any:
    # Some blocks give a tuple of hidden states and attention weights; what is absent is absent in all.
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, tuple):
        return tuple(_joined(items) for items in zip(*parts, strict=True))
    return first


class FirstRows:
    """A pre-hook of the backbone: of rows that are there once a task, the first task's alone go in.

    The stock head counts the rows of what it is given, so it is given `tasks * n`; up to the fan n are enough.
    """

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return tuple(self._cut(value) for value in args), {key: self._cut(value) for key, value in kwargs.items()}

    def _cut(self, value: Any) -> Any:
        return value[: len(value) // self.tasks] if _has_rows(value) else value


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def repeat_rows(value: Any, tasks: int) -> Any:
    """An input of the model `[n, ...]`, once a task: `[tasks * n, ...]`."""
    return value.repeat(tasks, *(1,) * (value.ndim - 1)) if _has_rows(value) else value


def gather(logits: Tensor, outputs: Sequence[tuple[int, int]]) -> Tensor:
    """From `[tasks * n, outputs]`, each task's columns of its own chunk: `[n, outputs]`.

    A task without a label in the batch passes zeros back to its copies, not nothing: no process waits for a gradient.
    """
    chunks = logits.chunk(len(outputs))
    return torch.cat([chunk[:, start:stop] for chunk, (start, stop) in zip(chunks, outputs, strict=True)], dim=1)


def block_list(model: Any) -> tuple[str, nn.ModuleList] | None:
    """The backbone's blocks and their name in the model: the longest list of modules, not counting what is in copies."""
    prefix = model.base_model_prefix
    found: tuple[str, nn.ModuleList] | None = None
    inside: tuple[str, ...] = ()
    for name, module in getattr(model, prefix).named_modules(prefix=prefix):
        if name.startswith(inside):
            continue
        if isinstance(module, Copies):
            inside = (*inside, f"{name}.")
        elif isinstance(module, nn.ModuleList) and (found is None or len(module) > len(found[1])):
            found = name, module
    return found


def shared_blocks(model: Any) -> list[nn.Module]:
    """The backbone's blocks that all tasks share, also where they will part only later; empty where it has no list.

    Args:
        model: of `model_class`.
    """
    found = block_list(model)
    blocks = [] if found is None else list(found[1])
    plan: Private | None = getattr(model, "private_plan", None)
    return blocks if plan is None else blocks[: len(blocks) - plan.layers]


def private_parameters(model: Any, *, blocks_only: bool = False) -> list[nn.Parameter]:
    """What the tasks do not share, or will not once they have parted: private layers, or what is theirs of an adapter.

    Args:
        model: of `model_class`.
        blocks_only: without the norms and poolers behind the blocks.
    """
    plan: Private | None = getattr(model, "private_plan", None)
    if plan is None:
        # One task alone shares everything with itself.
        several = getattr(model, "mtl_lora", None) is not None and len(model.mtl_lora.outputs) > 1
        return task_parameters(model) if several and not blocks_only else []
    names = plan.modules[: plan.layers] if blocks_only else plan.modules
    return [parameter for name in names for parameter in model.get_submodule(name).parameters()]


def split(model: Any, plan: Private) -> dict[nn.Parameter, list[nn.Parameter]]:
    """Gives every task its copy of the modules that the plan names. A model that is split stays as it is.

    Returns:
        parameter that was shared -> its copies in the tasks' order, of which the first is that parameter itself.

    Raises:
        ValueError: the plan is another model's.
    """
    parts: dict[nn.Parameter, list[nn.Parameter]] = {}
    if model.private is not None:
        return parts
    count = len(plan.outputs)
    for index, name in enumerate(plan.modules):
        try:
            module = model.get_submodule(name)
        except AttributeError:
            raise ValueError(f"the model has no module '{name}' to be copied") from None
        copies = (BlockCopies if index < plan.layers else Copies)(module, count, fans=index == 0)
        for each in zip(*(one.parameters() for one in copies.copies), strict=True):
            parts[each[0]] = list(each)
        model.set_submodule(name, copies)
    if model.pooling == "native":
        backbone = getattr(model, model.base_model_prefix)
        model.private_hook = backbone.register_forward_pre_hook(FirstRows(count), with_kwargs=True)
    model.private = plan
    return parts


def join(model: Any, task: int = 0) -> None:
    """Puts one task's copies in the place of all. A model that is not split stays as it is."""
    if model.private is None:
        return
    for name in model.private.modules:
        model.set_submodule(name, model.get_submodule(name).copies[task])
    if model.private_hook is not None:
        model.private_hook.remove()
    model.private = model.private_hook = None
