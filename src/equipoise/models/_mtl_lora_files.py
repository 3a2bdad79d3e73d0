"""Task-specific adapters on disk: what was trained, and what it is to be put beside. The backbone is not in the folder.

peft knows no such adapter, so its files have names of their own, and stock code finds neither a model nor an adapter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from equipoise.models._adapter import modules_to_save
from equipoise.models._mtl_lora import MTLLoRA, Shape, attach

__all__ = ["MTL_LORA_CONFIG", "load_mtl_lora", "mtl_lora_of", "put_mtl_lora", "save_mtl_lora"]

MTL_LORA_CONFIG = "mtl_lora.json"
WEIGHTS = "mtl_lora.safetensors"
FORMAT_VERSION = 1


def mtl_lora_of(model: Any) -> MTLLoRA | None:
    """A model's task-specific adapters, or None where it has none."""
    adapter: MTLLoRA | None = getattr(model, "mtl_lora", None)
    return adapter


def save_mtl_lora(model: Any, folder: Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
    """Writes what trains of a model with adapters: the adapters, and everything outside the backbone.

    Args:
        model: one that `attach` changed.
        folder: must exist.
        state_dict: the gathered weights of a sharded model; None takes the model's own.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    weights = model.state_dict() if state_dict is None else state_dict
    kept = {name: value.detach().cpu().contiguous() for name, value in weights.items() if name in trained}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
    data = {"format_version": FORMAT_VERSION, "type": "mtl_lora", **asdict(model.mtl_lora.shape)}
    (folder / MTL_LORA_CONFIG).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def load_mtl_lora(model: Any, folder: Path, outputs: tuple[tuple[int, int], ...]) -> None:
    """Puts saved adapters, and the heads that were trained with them, on their backbone.

    Args:
        model: of `model_class`, with the backbone's weights.
        folder: what `save_mtl_lora` wrote.
        outputs: each task's columns of the logits.

    Raises:
        ValueError: the files are damaged, or another model's.
    """
    attach(model, _read_shape(folder / MTL_LORA_CONFIG), outputs)
    put_mtl_lora(model, folder)


def put_mtl_lora(model: Any, folder: Path) -> None:
    """Puts saved weights into a model that has such adapters already; what is not in the file stays and does not train.

    Raises:
        ValueError: weights are missing, or the model has no place for them.
    """
    weights = load_file(folder / WEIGHTS)
    heads = tuple(f"{name}." for name in modules_to_save(model))
    own = dict(model.named_parameters())
    wanted = {name for name in own if name.startswith(heads) or ".lora_" in name}
    missing, unknown = sorted(wanted - set(weights)), sorted(set(weights) - set(own))
    if missing:
        raise ValueError(f"{WEIGHTS} is incomplete, {len(missing)} weights are missing, such as {missing[0]}")
    if unknown:
        raise ValueError(f"{WEIGHTS} is another model's: there is no place for {unknown[0]}")
    model.load_state_dict(weights, strict=False)
    for name, parameter in own.items():
        parameter.requires_grad_(name in weights)


def _read_shape(path: Path) -> Shape:
    data = json.loads(path.read_text(encoding="utf-8"))
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(f"{path.name} has format version {version!r}; this Equipoise reads {FORMAT_VERSION}")
    modules = data.get("modules")
    if not isinstance(modules, list) or not modules or not all(isinstance(name, str) for name in modules):
        raise ValueError(f"{path.name} is damaged: modules is {modules!r}")
    numbers = {key: data.get(key) for key in ("rank", "alpha", "dropout", "up_projections", "temperature")}
    for key, value in numbers.items():
        whole = key in ("rank", "up_projections")
        known = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not known or not (0 <= value < 1 if key == "dropout" else value > 0):
            raise ValueError(f"{path.name} is damaged: {key} is {value!r}")
    return Shape(tuple(modules), **numbers)
