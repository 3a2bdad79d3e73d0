"""LoRA through peft and MTL-LoRA of our own, with every head saved.

peft's defaults for sequence classification save only layers named `classifier` or `score`. Where a head has more layers
(`pooler.dense` of DeBERTa-v2, `head` of ModernBERT), those come back with random weights after a reload; and the
target `all-linear` crashes on DistilBERT. So both lists are computed from the model.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from torch import nn

from equipoise.errors import EquipoiseError, RecipeError
from equipoise.models._mtl_lora import Shape, attach

if TYPE_CHECKING:
    from equipoise.recipe import AdapterSettings

__all__ = ["add_lora", "add_mtl_lora", "modules_to_save", "quantization_config", "quiet_peft", "target_pattern"]


def add_lora(model: Any, settings: AdapterSettings, missing: Iterable[str]) -> Any:
    """Wraps a multi-task model in a peft model.

    Args:
        model: a model of `model_class`.
        settings: the recipe's `model.adapter`.
        missing: names of weights that the backbone's checkpoint does not hold. They are new, so they must be saved.
    """
    from peft import LoraConfig, get_peft_model

    save = modules_to_save(model, missing)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=target_pattern(model, settings.targets, exclude=save),
        modules_to_save=save,
    )
    with quiet_peft():
        wrapped = get_peft_model(model, config)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # what trains needs its last digits, whatever the backbone is in
    return wrapped


def add_mtl_lora(
    model: Any, settings: AdapterSettings, missing: Iterable[str], outputs: Iterable[tuple[int, int]]
) -> None:
    """Puts task-specific adapters beside the linear layers of a multi-task model, and trains them and the heads alone.

    Args:
        model: a model of `model_class`.
        settings: the recipe's `model.adapter`.
        missing: names of weights that the backbone's checkpoint does not hold. They are new, so they must be saved.
        outputs: each task's columns of the logits, as (start, stop).

    Raises:
        RecipeError: there is nothing to adapt.
    """
    save = modules_to_save(model, missing)
    names = target_names(model, settings.targets, exclude=save)
    if not names:
        raise RecipeError(f"model.adapter: {type(model).__name__} has no linear layer to adapt. Set it to null")
    shape = Shape(
        modules=tuple(names),
        rank=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        up_projections=settings.up_projections,
        temperature=settings.temperature,
    )
    attach(model, shape, tuple(outputs))
    for name in save:
        model.get_submodule(name).float().requires_grad_(True)


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """peft 0.21 asks transformers for an attribute whose name is about to change; users can do nothing about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        yield


def modules_to_save(model: Any, missing: Iterable[str] = ()) -> list[str]:
    """Modules that are trained and saved whole: everything outside the backbone, and new layers inside it."""
    prefix = model.base_model_prefix
    outside = [
        name for name, child in model.named_children() if name != prefix and any(True for _ in child.parameters())
    ]
    inside = {name.rpartition(".")[0] for name in missing if name.startswith(f"{prefix}.")}
    return outside + sorted(name for name in inside if not f"{name}.".startswith(_unread(model)))


def _unread(model: Any) -> tuple[str, ...]:
    # With a pooling of ours the backbone's own pooler is there, but nothing reads it: it would wait for gradients.
    return () if model.pooling == "native" else (f"{model.base_model_prefix}.pooler.",)


def target_names(model: Any, targets: list[str] | None, exclude: Iterable[str] = ()) -> list[str]:
    """Full names of the backbone's linear layers that are to be adapted.

    Raises:
        RecipeError: a name in `targets` is no linear layer of the backbone.
    """
    prefix = model.base_model_prefix
    skipped = (*(f"{name}." for name in exclude), *_unread(model))
    linear = [
        name
        for name, module in model.named_modules()
        if name.startswith(f"{prefix}.") and isinstance(module, nn.Linear) and not f"{name}.".startswith(skipped)
    ]
    names = {_last_part(name) for name in linear}
    unknown = sorted(set(targets or ()) - names)
    if unknown:
        raise RecipeError(
            f"model.adapter.targets: no linear layer '{unknown[0]}' in the backbone. Available: {', '.join(sorted(names))}"
        )
    return [name for name in linear if targets is None or _last_part(name) in targets]


def _last_part(name: str) -> str:
    """`dense` of `bert.pooler.dense`, and of a task's copy of it, `bert.pooler.dense.copies.1`."""
    return re.sub(r"\.copies\.\d+$", "", name).rpartition(".")[2]


def target_pattern(model: Any, targets: list[str] | None, exclude: Iterable[str] = ()) -> str:
    """A regular expression over full module names: linear layers of the backbone alone.

    Raises:
        RecipeError: a name in `targets` is no linear layer of the backbone.
    """
    chosen = target_names(model, targets, exclude)
    # The names of one layer say where every layer's are; numbers stand for any layer, which keeps the pattern short.
    patterns = sorted({re.sub(r"\\?\.\d+\\?\.", r"\\.\\d+\\.", re.escape(name)) for name in chosen})
    return "|".join(patterns)


def quantization_config(skeleton: Any) -> Any:
    """4-bit loading (NF4, double quantisation, bf16 arithmetic) for `from_pretrained`.

    Args:
        skeleton: the model without weights: what stands outside its backbone is trained whole, so it is not quantised.
    """
    if find_spec("bitsandbytes") is None:
        raise EquipoiseError('model.adapter.quantization needs bitsandbytes: pip install "equipoise[quantization]"')
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=modules_to_save(skeleton),
    )
