"""The model: the backbone once per batch, and all heads on the representation that they share.

Every head is linear, so all heads together are one linear layer whose rows are the tasks' outputs ("packed heads").
With native pooling that layer **is** the output layer of the stock sequence-classification model: `MultiTask` adds two
things to the stock class (the tasks, and the representation in its output) and no weight, so the saved folder loads
with `AutoModelForSequenceClassification` and gives the same logits to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_MAPPING
from transformers.utils import ModelOutput

from equipoise.errors import RecipeError
from equipoise.models._mtl_lora import MTLLoRA
from equipoise.models._pooling import POOLINGS
from equipoise.models._private import Private, gather, repeat_rows, split
from equipoise.tasks import Task

__all__ = ["MultiTask", "MultiTaskOutput", "model_class", "output_layer", "pack_labels", "representation", "slices"]


@dataclass
class MultiTaskOutput(ModelOutput):
    """What a forward pass gives.

    Attributes:
        logits: `[n, outputs]`, every task's rows side by side; `slices` says which are whose.
        shared: the last thing that the tasks share. Without private layers it is what the heads read: `[n, hidden]`, or
            `[n, length, hidden]` for decoders, whose stock head reads every position before it picks the last one.
            With private layers it is what the last shared block gives: `[n, length, hidden]`. Where every task has a pass
            of its own (MTL-LoRA) they share no hidden state; then it is zeros that are added to what the heads read in
            each pass, so that a task's gradient there is the one at its own representation. None without gradients.
    """

    logits: Tensor | None = None
    shared: Tensor | None = None


class _Tap:
    """Keeps the input of the output layer of the latest forward pass, for `representation`.

    A hook that is an object, not a closure over the model: adapters deep-copy the output layer, and the copy has to
    report to the same place.
    """

    value: Tensor | None = None
    passes = False  # several, one a task

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not self.passes:
            self.value = args[0]
            return None
        if not torch.is_grad_enabled():
            return None
        if self.value is None:
            self.value = torch.zeros_like(args[0]).requires_grad_()
        return (args[0] + self.value,)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Tap:
        return self


class MultiTask:
    """Mixed into a stock `...ForSequenceClassification` class by `model_class`.

    Attributes:
        private: the modules that exist once a task, or None where all are shared.
        private_plan: those that will, where the tasks part in training; the same as `private` where they have parted.
        mtl_lora: task-specific adapters, or None.
    """

    mtl_lora: MTLLoRA | None = None
    private: Private | None = None
    private_plan: Private | None = None
    private_hook: Any = None

    def __init__(self, config: Any, *args: Any, private: Private | None = None, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        self._tap = _Tap()
        output_layer(self).register_forward_pre_hook(self._tap)
        if private is not None:
            split(self, private)
            self.private_plan = private

    def forward(self, *args: Any, **kwargs: Any) -> MultiTaskOutput:
        """Runs the stock forward pass. Losses are computed outside, so `labels` are not taken."""
        kwargs.pop("return_dict", None)
        if self.mtl_lora is not None:
            return _pass_by_pass(self, self.mtl_lora, partial(super().forward, *args, **kwargs))  # type: ignore[misc]
        if self.private is None:
            outputs = super().forward(*args, **kwargs)  # type: ignore[misc]
            return MultiTaskOutput(logits=outputs.logits, shared=self._tap.value)
        count = len(self.private.outputs)
        outputs = super().forward(  # type: ignore[misc]
            *(repeat_rows(value, count) for value in args),
            **{key: repeat_rows(value, count) for key, value in kwargs.items()},
        )
        logits = gather(outputs.logits, self.private.outputs)
        return MultiTaskOutput(logits=logits, shared=self._tap.value)


class _Pooled:
    """Mixed into a family's `...PreTrainedModel` by `model_class`: the bare backbone, our pooling, one linear layer."""

    mtl_lora: MTLLoRA | None = None
    private: Private | None = None
    private_plan: Private | None = None
    private_hook: Any = None

    def __init__(self, config: Any, *args: Any, private: Private | None = None, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        base_class = MODEL_MAPPING[type(config)]
        setattr(self, base_class.base_model_prefix, base_class(config))
        self._tap = _Tap()
        self.dropout = nn.Dropout(_head_dropout(config))
        self.heads = nn.Linear(config.hidden_size, config.num_labels)
        self.heads.register_forward_pre_hook(self._tap)
        self.post_init()  # type: ignore[attr-defined]
        if private is not None:
            split(self, private)
            self.private_plan = private

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any) -> MultiTaskOutput:
        """Backbone, pooling, heads."""
        kwargs.pop("return_dict", None)
        run = partial(self._run, input_ids, attention_mask, **kwargs)
        return run() if self.mtl_lora is None else _pass_by_pass(self, self.mtl_lora, run)

    def _run(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any) -> MultiTaskOutput:
        backbone = getattr(self, self.base_model_prefix)  # type: ignore[attr-defined]
        hidden = backbone(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        if self.private is not None:
            attention_mask = repeat_rows(attention_mask, len(self.private.outputs))
        pooled = POOLINGS[self.pooling](hidden, attention_mask)  # type: ignore[attr-defined]
        shared = self.dropout(pooled)
        logits = self.heads(shared)
        if self.private is None:
            return MultiTaskOutput(logits=logits, shared=shared)
        return MultiTaskOutput(logits=gather(logits, self.private.outputs), shared=self._tap.value)


def _pass_by_pass(model: Any, adapter: MTLLoRA, run: Callable[[], Any]) -> MultiTaskOutput:
    """Every task's columns of the logits, each from a pass of its own.

    A task without a label in the batch passes zeros back to what is its own, not nothing: no process waits for a gradient.
    """
    tap = model._tap
    tap.value, tap.passes = None, len(adapter.outputs) > 1
    parts = []
    try:
        for task, (start, stop) in enumerate(adapter.outputs):
            with adapter.turn.of(task):
                parts.append(run().logits[:, start:stop])
    finally:
        tap.passes = False
    return MultiTaskOutput(logits=torch.cat(parts, dim=1), shared=tap.value)


def model_class(config_class: Any, pooling: str) -> type[PreTrainedModel]:
    """The class of a multi-task model over a family of backbones.

    Args:
        config_class: the family's configuration class, such as `BertConfig`.
        pooling: `native` or a key of `POOLINGS`.

    The class bears the stock class's name, so that `architectures` in the saved configuration names a class that
    everyone has.
    """
    return _model_class(config_class, pooling)


@lru_cache(maxsize=64)  # one class per family and pooling, as for any class that is written down
def _model_class(config_class: Hashable, pooling: str) -> type[PreTrainedModel]:
    assert isinstance(config_class, type)
    mapping = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING if pooling == "native" else MODEL_MAPPING
    if config_class not in mapping:
        raise RecipeError(
            f"model.backbone: {config_class.__name__} has no stock sequence-classification model"
            if pooling == "native"
            else f"model.backbone: {config_class.__name__} has no stock base model"
        )
    stock = mapping[config_class]
    if isinstance(stock, tuple):
        stock = stock[0]
    if pooling == "native":
        return type(stock.__name__, (MultiTask, stock), {"__module__": __name__, "pooling": "native"})
    family = next(c for c in stock.__mro__[1:] if issubclass(c, PreTrainedModel))
    return type(stock.__name__, (_Pooled, family), {"__module__": __name__, "pooling": pooling})


def output_layer(model: Any) -> nn.Linear:
    """The linear layer that gives the logits.

    Its name depends on the architecture (`classifier`, `classifier.out_proj`, `score`), so it is found as the last
    linear layer outside the backbone with as many outputs as there are labels.
    """
    config = model.config
    prefix = f"{model.base_model_prefix}."
    found = None
    for name, module in model.named_modules():
        if not name.startswith(prefix) and isinstance(module, nn.Linear) and module.out_features == config.num_labels:
            found = module
    if found is None:
        raise RecipeError(f"model.backbone: {type(model).__name__} has no linear output layer, so tasks can't share it")
    return found


def freeze_unread(model: Any) -> None:
    """Freezes a pooler that our pooling passes by, so that it does not wait for gradients in vain.

    It is kept so that the folder stays a whole backbone. To be called after loading, which makes new parameters.
    """
    pooler = getattr(getattr(model, model.base_model_prefix), "pooler", None)
    if model.pooling != "native" and pooler is not None:
        pooler.requires_grad_(False)


def representation(model: Any) -> Tensor:
    """The very tensor that the heads read in the latest forward pass, and from here on forgotten.

    With private layers that is `[tasks * n, d]`, chunk k is task k's: a walk back to the last shared block instead would
    pass every task's blocks once for each task. With task-specific adapters it is what is added to all that heads read.

    `MultiTaskOutput.shared` is a copy of it where a wrapper converts outputs to float32 (as Accelerate does under
    autocast), and no loss depends on a copy.
    """
    tap = model._tap
    value: Tensor | None = tap.value
    tap.value = None
    if value is None:
        raise RuntimeError("no forward pass has been made since the representation was last taken")
    return value


def pack_labels(tasks: Mapping[str, Task]) -> dict[int, str]:
    """`id2label` of the packed heads: every output of every task, in the tasks' order."""
    names = [name for task in tasks.values() for name in task.outputs]
    return dict(enumerate(names))


def slices(tasks: Mapping[str, Task]) -> dict[str, slice]:
    """Which columns of the logits belong to which task."""
    result, start = {}, 0
    for name, task in tasks.items():
        result[name] = slice(start, start + task.size)
        start += task.size
    return result


DROPOUT_KEYS = (
    "classifier_dropout",
    "seq_classif_dropout",
    "cls_dropout",
    "summary_last_dropout",
    "classifier_dropout_prob",
)


def _head_dropout(config: Any) -> float:
    for key in (*DROPOUT_KEYS, "hidden_dropout_prob"):
        value = getattr(config, key, None)
        if value is not None:
            return float(value)
    return 0.0


def set_head_dropout(config: Any, dropout: float, pooling: str) -> None:
    """Sets the dropout before the heads, under whatever name the family has for it."""
    key = next((key for key in DROPOUT_KEYS if hasattr(config, key)), None)
    if key is None and config.model_type in ("deberta", "deberta-v2"):
        key = "cls_dropout"  # the model reads it, though its configuration does not declare it
    if key is None and pooling == "native":
        raise RecipeError(f"model.dropout: {type(config).__name__} has no dropout before its heads. Leave it null")
    setattr(config, key or "classifier_dropout", dropout)


def trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """How many parameters train, and how many there are."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trainable, sum(p.numel() for p in model.parameters())


def autocast_free(value: Tensor) -> Tensor:
    """Losses are computed in float32 whatever the backbone ran in."""
    return value if value.dtype == torch.float64 else value.float()
