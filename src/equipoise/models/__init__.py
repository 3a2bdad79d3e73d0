"""Backbone, pooling, heads and adapters: one `PreTrainedModel` that saves and loads the usual way.

`build` makes a model for a recipe's tasks, `save_model` and `load_model` are the way to disk and back, and `cut_task`
writes one task as a stock checkpoint of its own. `slices` says which columns of the logits are whose.
"""

from equipoise.models._adapter import modules_to_save, target_pattern
from equipoise.models._backbone import Backbone, load_backbone, locate
from equipoise.models._build import LoadedModel, build, cut_task, load_model, native_pooling, save_model, save_tokenizer
from equipoise.models._forward import forward_all, token_batches
from equipoise.models._multitask import (
    MultiTaskOutput,
    autocast_free,
    model_class,
    output_layer,
    pack_labels,
    representation,
    slices,
    trainable_parameters,
)
from equipoise.models._sidecar import SIDECAR, Sidecar

__all__ = [
    "SIDECAR",
    "Backbone",
    "LoadedModel",
    "MultiTaskOutput",
    "Sidecar",
    "autocast_free",
    "build",
    "cut_task",
    "forward_all",
    "load_backbone",
    "load_model",
    "locate",
    "model_class",
    "modules_to_save",
    "native_pooling",
    "output_layer",
    "pack_labels",
    "representation",
    "save_model",
    "save_tokenizer",
    "slices",
    "target_pattern",
    "token_batches",
    "trainable_parameters",
]
