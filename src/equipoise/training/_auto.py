"""What `auto` stands for in a recipe's `training`, settled once the model is known; docs/study.md tells why."""

from __future__ import annotations

from typing import Any

from accelerate.utils import parse_flag_from_env
from torch import nn

from equipoise.recipe import Recipe, TrainingSettings
from equipoise.tasks import Task, kind

__all__ = ["auto_learning_rate", "has_dropout", "settled"]

#: Where the rate was measured: all-MiniLM-L6-v2. Of other widths the rule only meets what is customary: 5e-5 at 768
#: (BERT's paper), 3e-5 at 1024 (RoBERTa's).
MEASURED_WIDTH, MEASURED_RATE = 384, 2e-4
LEAST, MOST = 1e-5, 5e-4
#: Measured, like averages, where every weight of an encoder trains; with an adapter neither was.
CONSISTENCY = 1.0
ADAPTER_RATE = 2e-4  # customary for LoRA (QLoRA's paper, up to 13 billion parameters)


def settled(recipe: Recipe, model: nn.Module) -> Recipe:
    """The recipe with a value in place of each `auto` of `training` that depends on the model.

    Args:
        recipe: a checked recipe.
        model: as it will be trained.
    """
    training, update = recipe.training, dict[str, Any]()
    adapter = recipe.model.adapter is not None
    if training.learning_rate == "auto":
        update["learning_rate"] = auto_learning_rate(model.config, adapter=adapter)
    if training.consistency == "auto":
        kinds = [kind(task.type) for task in recipe.tasks.values()]
        can = has_dropout(model) and all(one.divergence is not Task.divergence for one in kinds)
        update["consistency"] = CONSISTENCY if can and not adapter else None
    parts = _sharded(training)
    if training.averaging == "auto":
        changes = recipe.model.private_when == "conflict"  # the model's form, on the way
        update["averaging"] = None if adapter or parts or changes else "ema"
    if training.calibrate == "auto":
        update["calibrate"] = not parts
    return recipe.model_copy(update={"training": training.model_copy(update=update)}) if update else recipe


def _sharded(training: TrainingSettings) -> bool:
    """Whether each process will have a part of the model only: by the recipe, or by what accelerate's launcher set."""
    launched = any(parse_flag_from_env(f"ACCELERATE_USE_{name}") for name in ("FSDP", "DEEPSPEED"))
    return training.sharding is not None or launched


def has_dropout(model: nn.Module) -> bool:
    """Whether two passes of one batch differ while the model trains."""
    modules = (p for module in model.modules() if isinstance(module, nn.Dropout) for p in [module.p])
    # Attention's own is a number and no module where the kernel draws it.
    return any(p > 0 for p in modules) or (getattr(model.config, "attention_dropout", None) or 0) > 0


def auto_learning_rate(config: Any, *, adapter: bool) -> float:
    """AdamW's highest rate, by the backbone's width; two significant digits.

        >>> from types import SimpleNamespace
        >>> [auto_learning_rate(SimpleNamespace(hidden_size=width), adapter=False) for width in (384, 768, 1024, 4096)]
        [0.0002, 5e-05, 2.8e-05, 1e-05]

    Args:
        config: has `hidden_size`.
        adapter: low-rank matrices are trained, and not the backbone's own weights.
    """
    if adapter:
        return ADAPTER_RATE
    width = (
        getattr(config, "hidden_size", None) or 2 * MEASURED_WIDTH
    )  # one that does not say is taken for a base model
    return float(f"{min(max(MEASURED_RATE * (MEASURED_WIDTH / width) ** 2, LEAST), MOST):.1e}")
