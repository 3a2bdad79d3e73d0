"""Which of a model's parameters are the heads', and which are behind a recipe's `balance.shared`."""

from __future__ import annotations

from typing import Any

from torch import nn

from equipoise.errors import RunError
from equipoise.models import block_list, output_layer, private_parameters, shared_blocks

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
    model: nn.Module,
    *,
    decays: set[str],
    learning_rate: float,
    head_learning_rate: float,
    weight_decay: float,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """An optimiser's groups of what trains: heads and backbone, each with and without weight decay.

    With `layer_decay`, block l of L, counted from the top from 0, learns at learning_rate * layer_decay ** l, and the
    embeddings at learning_rate * layer_decay ** L.

    References:
        Universal Language Model Fine-tuning for Text Classification (Howard, Ruder, 2018), which divides by 2.6 a layer
        https://arxiv.org/abs/1801.06146
        ELECTRA (Clark et al., 2020), which has the embeddings below the lowest block
        https://arxiv.org/abs/2003.10555

    Args:
        model: a multi-task model or a peft model around one.
        decays: the names of the parameters that decay.
        learning_rate: of the backbone, or, with `layer_decay`, of its highest block.
        head_learning_rate: of `head_parameters`.
        weight_decay: of those that decay; the others have none.
        layer_decay: share of the rate that is left one block further down, in (0, 1]; None = the same rate everywhere.

    Raises:
        RunError: `layer_decay` is given and the backbone has no list of blocks.
    """
    heads = {id(p) for p in head_parameters(model)}
    depths = {} if layer_decay is None else _depths(plain_model(model))
    groups: dict[tuple[int, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_head = id(parameter) in heads
            depth = 0 if is_head else depths.get(id(parameter), 0)
            groups.setdefault((depth, is_head, name in decays), []).append(parameter)
    return [
        {
            "params": groups[key],
            "lr": head_learning_rate if is_head else learning_rate * (layer_decay or 1.0) ** depth,
            "weight_decay": weight_decay if decay else 0.0,
        }
        # The first group's rate is the one that is logged, so the highest block comes first.
        for key in sorted(groups, key=lambda key: key[0])
        for depth, is_head, decay in [key]
    ]


def _depths(model: Any) -> dict[int, int]:
    """Parameter's id -> how many blocks down from the top it lies; embeddings lie below all blocks.

    Outside the blocks, what a backbone registers after them belongs to its end (a last norm), unless its name says that
    it embeds (relative positions, which every block reads).
    """
    blocks = _layers(model, "training.layer_decay", "Set it to null")
    found = {id(p): len(blocks) - 1 - place for place, block in enumerate(blocks) for p in block.parameters()}
    inside, passed = set(found), False
    for name, parameter in getattr(model, model.base_model_prefix).named_parameters():
        passed = passed or id(parameter) in inside
        last = "final" in name or (passed and "embed" not in name and "relative" not in name)
        found.setdefault(id(parameter), 0 if last else len(blocks))
    return found


def shared_parameters(model: nn.Module, measured_at: str) -> list[nn.Parameter]:
    """The parameters behind a recipe's `balance.shared`.

    Args:
        model: a multi-task model or a peft model around one.
        measured_at: `last_layer` (the backbone's last block that all tasks share), `adapter` (the trained parameters of
            the adapter) or `all` (every trained parameter but the output layer's). What is, or may become, a task's own
            counts in none of them: no other task has a gradient there.
    """
    plain = plain_model(model)
    heads = {id(p) for p in (*output_layer(plain).parameters(), *private_parameters(plain))}
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad and id(p) not in heads]
    trained = [(n, p) for n, p in trained if "modules_to_save" not in n]
    if measured_at == "adapter":
        trained = [(n, p) for n, p in trained if "lora_" in n]
    elif measured_at == "last_layer":
        _layers(plain, "balance.shared: last_layer", "Use representation or all")
        last = {id(p) for block in shared_blocks(plain)[-1:] for p in block.parameters()}
        trained = [(n, p) for n, p in trained if id(p) in last]
    if not trained:
        raise RunError(f"balance.shared: '{measured_at}' names no trained parameter of this model")
    return [p for _, p in trained]


def _layers(model: Any, setting: str, instead: str) -> nn.ModuleList:
    """The backbone's blocks; one that exists once a task counts once."""
    found = block_list(model)
    if found is None:
        raise RunError(f"{setting}: this backbone has no list of layers. {instead}")
    return found[1]


def plain_model(model: Any) -> Any:
    """The multi-task model inside a peft model."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
