"""Finds which modules have to exist once a task, and shows on a few tokens that the model can be parted there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.errors import RecipeError
from equipoise.models._multitask import output_layer, slices
from equipoise.models._private import Private, block_list, join, split
from equipoise.tasks import Task

__all__ = ["plan_private"]

#: What the stock code of a backbone raises where it is handed other rows than it counted.
SHAPE_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError)


def plan_private(model: Any, layers: int, tasks: Mapping[str, Task]) -> Private:
    """The parting of a model that is not parted yet.

    Args:
        model: of `model_class`, with its weights, before adapters.
        layers: blocks that every task has for itself, counted from the last.
        tasks: in the order of their outputs.

    Raises:
        RecipeError: the backbone has fewer blocks, no list of them, or stock code that cannot be parted.
    """
    found = block_list(model)
    if found is None:
        raise RecipeError(
            f"model.private_layers: {type(model).__name__} has no list of blocks. Set it to 0, or take another backbone"
        )
    name, blocks = found
    if layers > len(blocks):
        raise RecipeError(f"model.private_layers: {layers}, but the backbone has {len(blocks)} blocks. Set it to fewer")
    training = model.training
    model.eval()
    tail: list[str] = []
    before = _probe(model, blocks[-1], f"{name}.", tail)
    own = [f"{name}.{index}" for index in range(len(blocks) - layers, len(blocks))]
    spans = tuple((where.start, where.stop) for where in slices(tasks).values())
    plan = Private(layers, (*own, *tail), spans)
    try:
        split(model, plan)
        after = _probe(model)
    except SHAPE_ERRORS as error:
        after, reason = None, f" ({type(error).__name__})"
    else:
        reason = ""
    finally:
        join(model)
        model.train(training)
    # The copies are equal still, so whatever the parting gets wrong shows in the logits.
    tolerance = 1e-4 if before.dtype == torch.float32 else 2e-2
    if after is None or not torch.allclose(after, before, rtol=tolerance, atol=tolerance):
        raise RecipeError(
            f"model.private_layers: the blocks of {type(model).__name__} cannot be parted by task{reason}. Set it to 0, or "
            "take another backbone"
        )
    return plan


@torch.no_grad()
def _probe(model: Any, last: nn.Module | None = None, blocks: str = "", tail: list[str] | None = None) -> Tensor:
    """The logits of two texts of four and six tokens, one of them padded.

    Args:
        model: in evaluation mode, so that no random number is drawn.
        last: the last block.
        blocks: how names within the list of blocks begin.
        tail: collects what has weights and runs behind the last block, but for the output layer, in its order.
    """
    text = model.config.get_text_config()
    device = next(model.parameters()).device
    tokens = torch.arange(12, device=device).reshape(2, 6) % (text.vocab_size - 5) + 5
    mask = torch.ones_like(tokens)
    tokens[1, 4:], mask[1, 4:] = text.pad_token_id, 0
    hooks = [] if tail is None or last is None else _watch(model, last, blocks, tail)
    try:
        logits: Tensor = model(input_ids=tokens, attention_mask=mask).logits
    finally:
        for hook in hooks:
            hook.remove()
    return logits.clone()


def _watch(model: Any, last: nn.Module, blocks: str, tail: list[str]) -> list[Any]:
    passed: list[bool] = []
    heads = output_layer(model)
    hooks = [last.register_forward_hook(lambda *_: passed.append(True))]

    def note(name: str) -> Any:
        def hook(*_: Any) -> None:
            if passed and name not in tail:
                tail.append(name)

        return hook

    for name, module in model.named_modules():
        # What is frozen here is a pooler that nothing reads; it has no use for copies.
        own = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        if own and module is not heads and not f"{name}.".startswith(blocks):
            hooks.append(module.register_forward_hook(note(name)))
    return hooks
