"""Backbone, pooling, heads and adapters: one `PreTrainedModel` that saves and loads the usual way.

`build` makes a model for a recipe's tasks, `save_model` and `load_model` are the way to disk and back, and `cut_task`
writes one task as a stock checkpoint of its own. `slices` says which columns of the logits are whose. The last layers
may exist once a task (`_private.py`): what is shared below them still runs once a batch. With task-specific adapters
(`_mtl_lora.py`) nothing does: the backbone runs once a task.
"""

from equipoise.models._adapter import modules_to_save, target_pattern
from equipoise.models._backbone import Backbone, load_backbone, locate
from equipoise.models._build import LoadedModel, build, cut_task, load_model, native_pooling, save_model, save_tokenizer
from equipoise.models._folder import find_danger
from equipoise.models._forward import forward_all, run_batches, token_batches
from equipoise.models._hardware import bf16_hardware, pick_device
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
from equipoise.models._private import Private, block_list, join, private_parameters, shared_blocks, split
from equipoise.models._private_files import fit_private, private_of, restore_private
from equipoise.models._sidecar import SIDECAR, Sidecar

__all__ = [
    "SIDECAR",
    "Backbone",
    "LoadedModel",
    "MultiTaskOutput",
    "Private",
    "Sidecar",
    "autocast_free",
    "bf16_hardware",
    "block_list",
    "build",
    "cut_task",
    "find_danger",
    "fit_private",
    "forward_all",
    "join",
    "load_backbone",
    "load_model",
    "locate",
    "model_class",
    "modules_to_save",
    "native_pooling",
    "output_layer",
    "pack_labels",
    "pick_device",
    "private_of",
    "private_parameters",
    "representation",
    "restore_private",
    "run_batches",
    "save_model",
    "save_tokenizer",
    "shared_blocks",
    "slices",
    "split",
    "target_pattern",
    "token_batches",
    "trainable_parameters",
]
