"""What `auto` stands for in a recipe's `training`, settled once the backbone is known; docs/study.md tells why."""

from __future__ import annotations

from typing import Any

from equipoise.recipe import Recipe

__all__ = ["auto_learning_rate", "settled"]

#: Where the rate was measured: all-MiniLM-L6-v2. Of other widths the rule only meets what is customary: 5e-5 at 768
#: (BERT's paper), 3e-5 at 1024 (RoBERTa's).
MEASURED_WIDTH, MEASURED_RATE = 384, 2e-4
LEAST, MOST = 1e-5, 5e-4
ADAPTER_RATE = 2e-4  # customary for LoRA (QLoRA's paper, up to 13 billion parameters)


def settled(recipe: Recipe, config: Any) -> Recipe:
    """The recipe with a value in place of each `auto` of `training` that depends on the backbone.

    Args:
        recipe: a checked recipe.
        config: the backbone's configuration.
    """
    training = recipe.training
    if training.learning_rate != "auto":
        return recipe
    rate = auto_learning_rate(config, adapter=recipe.model.adapter is not None)
    return recipe.model_copy(update={"training": training.model_copy(update={"learning_rate": rate})})


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
