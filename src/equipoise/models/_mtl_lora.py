"""MTL-LoRA: beside every adapted layer, low-rank matrices that all tasks share, and a transform and a mixture for each.

    x -> A -+-> transform of task 1 -> its mixture of B_1 .. B_n
            +-> transform of task 2 -> its mixture of B_1 .. B_n

The layers of a pass are one task's, from the first block on, so the tasks share no hidden state and the backbone runs
once a task. The passes run one after another: in each the model is a stock one with other weights, whatever its layers
make of the rows in between. Whose pass it is says a `Turn` that all layers of a model look at.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["AdaptedLinear", "MTLLoRA", "Shape", "Turn", "attach", "fold", "task_parameters"]


class Turn:
    """Whose pass through the backbone is running; None between passes."""

    def __init__(self) -> None:
        self.task: int | None = None

    def of(self, task: int | None) -> AbstractContextManager[None]:
        """While it is entered, the pass is that task's; it may be entered again and again."""
        return _During(self, task)

    def contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """For `torch.utils.checkpoint`: what is computed again in a backward is computed for the same task."""
        return nullcontext(), self.of(self.task)


class _During(AbstractContextManager[None]):
    def __init__(self, turn: Turn, task: int | None) -> None:
        self.turn, self.task, self.before = turn, task, turn.task

    def __enter__(self) -> None:
        self.before, self.turn.task = self.turn.task, self.task

    def __exit__(self, *_: object) -> None:
        self.turn.task = self.before


@dataclass(frozen=True)
class Shape:
    """What a saved adapter is, beside its weights.

    Attributes:
        modules: names of the linear layers that are adapted.
        rank: r, of the added matrices.
        alpha: their scale: the update counts alpha / rank times.
        dropout: on the adapter's input.
        up_projections: n, how many B there are.
        temperature: of the mixtures' softmax.
    """

    modules: tuple[str, ...]
    rank: int
    alpha: float
    dropout: float
    up_projections: int
    temperature: float


@dataclass(frozen=True)
class MTLLoRA:
    """The adapters of a model.

    Attributes:
        shape: which layers are adapted, and how.
        outputs: each task's columns of the logits, as (start, stop), in the order of their passes.
        turn: whose pass is running.
    """

    shape: Shape
    outputs: tuple[tuple[int, int], ...]
    turn: Turn = field(default_factory=Turn)


class AdaptedLinear(nn.Module):
    """A linear layer whose weight is another one in each task's pass.

    W_t = W + alpha / r  sum_i softmax(w_t / tau)_i B_i Lambda_t A

    W is the frozen weight `[out, in]`; A `[r, in]` and B_1 .. B_n, `[out, r]` each, are shared; Lambda_t `[r, r]` and
    w_t `[n]` are task t's own; tau is the temperature. All B begin at zero and Lambda_t at the identity, so that training
    begins at W; w_t begins at random, since equal B with equal weights would stay equal for ever.

    References:
        MTL-LoRA: Low-Rank Adaptation for Multi-Task Learning (Yang et al., 2024)
        https://arxiv.org/abs/2410.09437

    Args:
        base: the layer with W; its own parameters are not changed.
        turn: whose pass is running.
        tasks: how many there are.
        shape: rank, alpha, dropout, up_projections and temperature.

    Example:
        >>> turn = Turn()
        >>> layer = AdaptedLinear(nn.Linear(4, 3), turn, 2, Shape((), 2, 4.0, 0.0, 3, 0.1))
        >>> with turn.of(1):
        ...     layer(torch.ones(5, 4)).shape
        torch.Size([5, 3])
    """

    def __init__(self, base: nn.Linear, turn: Turn, tasks: int, shape: Shape) -> None:
        super().__init__()
        rank, count = shape.rank, shape.up_projections
        self.base, self.turn = base, turn
        self.dropout = nn.Dropout(shape.dropout)
        self.scale, self.temperature = shape.alpha / rank, shape.temperature
        # What trains needs its last digits, whatever the backbone is in.
        new: dict[str, Any] = {"device": base.weight.device, "dtype": torch.float32}
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features, **new))
        self.lora_B = nn.Parameter(torch.zeros(count, base.out_features, rank, **new))
        self.lora_transform = nn.Parameter(torch.eye(rank, **new).repeat(tasks, 1, 1))
        self.lora_mixture = nn.Parameter(torch.empty(tasks, count, **new))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.uniform_(self.lora_mixture, -1 / math.sqrt(count), 1 / math.sqrt(count))

    # Stock code reads these off a linear layer: a type to convert to, a size.
    @property
    def weight(self) -> Tensor:
        """The frozen weight, `[out, in]`."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias, `[out]`."""
        return self.base.bias

    @property
    def in_features(self) -> int:
        """Size of the input."""
        return self.base.in_features

    @property
    def out_features(self) -> int:
        """Size of the output."""
        return self.base.out_features

    def forward(self, x: Tensor) -> Tensor:
        """The layer of the task whose pass is running.

        Args:
            x: `[..., in]`.

        Raises:
            RuntimeError: no task's pass is running.
        """
        task = self.turn.task
        if task is None:
            raise RuntimeError(
                "an adapted layer runs outside the model's forward pass, and for no task. If activations are computed again "
                "for a backward, set model.gradient_checkpointing, which knows whose they are"
            )
        result: Tensor = self.base(x)
        low = functional.linear(self.dropout(x.to(self.lora_A.dtype)), self.lora_A)
        low = functional.linear(low, self.lora_transform[task])
        return result + (functional.linear(low, self._up(task)) * self.scale).to(result.dtype)

    def _up(self, task: int) -> Tensor:
        """The task's mixture of the up-projections, `[out, r]`."""
        weights = torch.softmax(self.lora_mixture[task] / self.temperature, dim=0)
        return torch.einsum("i,ior->or", weights, self.lora_B)

    @torch.no_grad()
    def update(self, task: int) -> Tensor:
        """W_t - W, `[out, in]`, in float64."""
        up = self._up(task).double()
        return up @ self.lora_transform[task].double() @ self.lora_A.double() * self.scale

    def extra_repr(self) -> str:
        """Sizes."""
        tasks, count = self.lora_mixture.shape
        return f"tasks={tasks}, rank={len(self.lora_A)}, up_projections={count}, temperature={self.temperature}"


def attach(model: Any, shape: Shape, outputs: tuple[tuple[int, int], ...]) -> None:
    """Freezes a model and puts new adapters beside its layers.

    Args:
        model: of `model_class`.
        shape: what is adapted, and how.
        outputs: each task's columns of the logits.

    Raises:
        ValueError: the shape is another model's.
    """
    model.requires_grad_(False)
    adapter = MTLLoRA(shape, outputs)
    for name in shape.modules:
        try:
            base = model.get_submodule(name)
        except AttributeError:
            raise ValueError(f"the model has no module '{name}' to be adapted") from None
        if not isinstance(base, nn.Linear):
            raise ValueError(f"the module '{name}' is no linear layer, so it cannot be adapted")
        model.set_submodule(name, AdaptedLinear(base, adapter.turn, len(outputs), shape))
    model.mtl_lora = adapter


def fold(model: Any, task: int = 0) -> None:
    """Adds one task's update to the weights and takes all adapters away. A model without adapters stays as it is."""
    if model.mtl_lora is None:
        return
    for name in model.mtl_lora.shape.modules:
        layer = model.get_submodule(name)
        weight = layer.base.weight
        weight.data = (weight.data.double() + layer.update(task)).to(weight.dtype)
        model.set_submodule(name, layer.base)
    model.mtl_lora = None


def task_parameters(model: Any) -> list[nn.Parameter]:
    """The transforms and mixtures of a model with adapters: no task's loss has a gradient at another's."""
    if getattr(model, "mtl_lora", None) is None:
        return []
    layers = [model.get_submodule(name) for name in model.mtl_lora.shape.modules]
    return [parameter for layer in layers for parameter in (layer.lora_transform, layer.lora_mixture)]
