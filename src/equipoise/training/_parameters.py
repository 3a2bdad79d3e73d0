"""Which of a model's parameters are the heads', and which are behind a recipe's `balance.shared`."""

from __future__ import annotations

from typing import Any

from torch import nn

from equipoise.errors import RunError
from equipoise.models import output_layer

__all__ = ["head_parameters", "parameter_groups", "plain_model", "shared_parameters"]


def head_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Everything between the backbone's tokens and the logits: the output layer, what stands before it, the pooler.

    These are new, or (a pooler that was trained for another purpose) as good as new, and learn at a rate of their own.
    """
    plain = plain_model(model)
    backbone = getattr(plain, plain.base_model_prefix)
    pooler = getattr(backbone, "pooler", None)
    inside = {id(p) for p in backbone.parameters()}
    own = {id(p) for p in pooler.parameters()} if pooler is not None else set()
    return [p for p in plain.parameters() if id(p) not in inside or id(p) in own]


def parameter_groups(
    model: nn.Module, *, decays: set[str], learning_rate: float, head_learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """An optimiser's groups of what trains: heads and backbone, each with and without weight decay.

    Args:
        model: a multi-task model or a peft model around one.
        decays: the names of the parameters that decay.
        learning_rate: of the backbone.
        head_learning_rate: of `head_parameters`.
        weight_decay: of those that decay; the others have none.
    """
    heads = {id(p) for p in head_parameters(model)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in heads, name in decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": head_learning_rate if is_head else learning_rate,
            "weight_decay": weight_decay if decay else 0.0,
        }
        for (is_head, decay), parameters in groups.items()
    ]


def shared_parameters(model: nn.Module, measured_at: str) -> list[nn.Parameter]:
    """The parameters behind a recipe's `balance.shared`.

    Args:
        model: a multi-task model or a peft model around one.
        measured_at: `last_layer` (the backbone's last block), `adapter` (the trained parameters of the adapter) or
            `all` (every trained parameter but the output layer's).
    """
    plain = plain_model(model)
    heads = {id(p) for p in output_layer(plain).parameters()}
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad and id(p) not in heads]
    trained = [(n, p) for n, p in trained if "modules_to_save" not in n]
    if measured_at == "adapter":
        trained = [(n, p) for n, p in trained if "lora_" in n]
    elif measured_at == "last_layer":
        layers = _layers(plain)
        last = {id(p) for p in layers[-1].parameters()}
        trained = [(n, p) for n, p in trained if id(p) in last]
    if not trained:
        raise RunError(f"balance.shared: '{measured_at}' names no trained parameter of this model")
    return [p for _, p in trained]


def _layers(model: Any) -> nn.ModuleList:
    """The backbone's blocks: the longest list of modules in it."""
    lists = [m for m in getattr(model, model.base_model_prefix).modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise RunError("balance.shared: last_layer: this backbone has no list of layers. Use representation or all")
    return max(lists, key=len)


def plain_model(model: Any) -> Any:
    """The multi-task model inside a peft model."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
