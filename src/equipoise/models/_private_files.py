"""Weights of a parted model on disk, under a name of their own, so that nobody takes them for a stock model's.

Stock code that finds `model.safetensors` with copies in it would load the shared blocks, make up the private ones at
random, and answer. With another variant's name it says that there is no such file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from equipoise.models._mtl_lora_files import mtl_lora_of, put_mtl_lora
from equipoise.models._private import Private, join, split

__all__ = ["VARIANT", "deny_stock", "fit_private", "private_of", "restore_private"]

VARIANT = "private"  # transformers' word for weights with another name: model.private.safetensors


def private_of(model: Any) -> Private | None:
    """The modules that exist once a task in a multi-task model or a peft model around one; None where it is not parted."""
    plain = model.get_base_model() if hasattr(model, "peft_config") else model
    private: Private | None = getattr(plain, "private", None)
    return private


def deny_stock(folder: Path) -> None:
    """Takes the stock class's name out of a folder's configuration."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["architectures"] = None
    path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def fit_private(model: Any, names: Iterable[str]) -> None:
    """Parts or joins a model, so that it has the weights that are named.

    Args:
        model: one that parts in training. Any other stays as it is, and so does a peft model: it never joins again.
        names: of the weights that are to be put into it.
    """
    plan: Private | None = getattr(model, "private_plan", None)
    if plan is None or hasattr(model, "peft_config"):
        return
    if any(name.startswith(f"{plan.modules[0]}.copies.") for name in names):
        split(model, plan)
    else:
        join(model)


def restore_private(model: Any, folder: Path) -> bool:
    """Puts a checkpoint's weights into a model that has private layers or may get some, or has task-specific adapters.

    Returns:
        Whether that is done. If not, the folder holds stock weights, and the model is such that they fit.
    """
    if mtl_lora_of(model) is not None:
        put_mtl_lora(model, folder)
        return True
    if getattr(model, "private_plan", None) is None or hasattr(model, "peft_config"):
        return False
    weights: dict[str, Tensor] = {}
    for path in sorted(folder.glob(f"model.{VARIANT}*.safetensors")):
        weights |= load_file(path)
    fit_private(model, weights)
    if weights:
        model.load_state_dict(weights)
    return bool(weights)
