"""Small models with task-specific adapters whose tasks differ."""

import torch
from conftest import ARCHITECTURES
from model_helpers import make, train_step

from equipoise.models._mtl_lora import AdaptedLinear

OWN = {"type": "mtl_lora", "rank": 4, "dropout": 0.0}
COLUMNS = {"polarity": slice(0, 1), "label": slice(1, 4)}
SOME = [*((name, "native") for name in ARCHITECTURES), ("bert", "mean"), ("llama", "last")]


def trained(folder, **settings):
    """A model whose tasks have gone far on different ways."""
    made = make(folder, **{"adapter": OWN, **settings})
    generator = torch.Generator().manual_seed(1)
    for layer in layers_of(made.model):
        layer.lora_B.data.normal_(generator=generator).mul_(0.3)
        layer.lora_transform.data += torch.randn(layer.lora_transform.shape, generator=generator)
    train_step(made)
    return made


def layers_of(model):
    return [module for module in model.modules() if isinstance(module, AdaptedLinear)]
