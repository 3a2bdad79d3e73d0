"""Building a model from a recipe, saving it, loading it, cutting one task out of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn

from equipoise.errors import RecipeError, RunError
from equipoise.models._adapter import add_lora, add_mtl_lora, quantization_config, quiet_peft
from equipoise.models._backbone import Backbone, first_line, load_backbone, load_tokenizer, quiet_loading
from equipoise.models._code import save_code
from equipoise.models._folder import find_danger
from equipoise.models._mtl_lora import fold
from equipoise.models._mtl_lora_files import MTL_LORA_CONFIG, load_mtl_lora, mtl_lora_of, save_mtl_lora
from equipoise.models._multitask import (
    freeze_unread,
    model_class,
    output_layer,
    pack_labels,
    set_head_dropout,
    slices,
)
from equipoise.models._private import Private, join, split
from equipoise.models._private_files import VARIANT, deny_stock, private_of
from equipoise.models._private_plan import plan_private
from equipoise.models._sidecar import Sidecar
from equipoise.tasks import Task

if TYPE_CHECKING:
    from equipoise.recipe import ModelSettings

__all__ = ["LoadedModel", "build", "cut_task", "load_model", "native_pooling", "save_model", "save_tokenizer"]

ADAPTER_CONFIG = "adapter_config.json"

#: How the caller of a run asks for its code to be run.
TRUST_IN_CALL = "load it with trust_remote_code=True, or --trust-remote-code"

#: What `from_pretrained` raises for weights that are absent, damaged, of another shape, or not safetensors.
LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, SafetensorError)


def native_pooling(settings: ModelSettings) -> str:
    """What `pooling: auto` means. Measured in benchmarks/pooling.py; see RESULTS.md."""
    return "native" if settings.pooling == "auto" else settings.pooling


def build(
    settings: ModelSettings, backbone: Backbone, tasks: Mapping[str, Task], *, dtype: torch.dtype = torch.float32
) -> Any:
    """A model ready to train: pretrained backbone, new heads, and the adapter if the recipe has one.

    Args:
        settings: the recipe's `model`.
        backbone: what `load_backbone` found.
        tasks: the fitted tasks; the order of their outputs in the logits is theirs.
        dtype: of the weights. Full fine-tuning wants float32 weights whatever precision the arithmetic has.

    Returns:
        A `PreTrainedModel`, or, with `lora`, a `PeftModel` around one.
    """
    limit = backbone.max_length
    if limit is not None and settings.max_length > limit:
        raise RecipeError(
            f"model.max_length: {settings.max_length} is more than the {limit} tokens that '{backbone.name}' reads"
        )
    pooling = native_pooling(settings)
    config = _configure(copy.deepcopy(backbone.config), tasks)
    if settings.dropout is not None:
        set_head_dropout(config, settings.dropout, pooling)
    cls = model_class(type(config), pooling)
    extra: dict[str, Any] = {}
    if settings.adapter is not None and settings.adapter.quantization is not None:
        with torch.device("meta"):
            extra["quantization_config"] = quantization_config(cls(config))
    try:
        with quiet_loading():
            model, info = cls.from_pretrained(
                backbone.location,
                config=config,
                revision=backbone.revision,
                dtype=dtype,
                ignore_mismatched_sizes=True,  # a checkpoint with a head of its own gives way to ours
                output_loading_info=True,
                use_safetensors=True,
                **extra,
            )
    except LOADING_ERRORS as error:
        raise RecipeError(
            f"model.backbone: the weights of '{backbone.name}' cannot be loaded: {first_line(error)} They must be "
            "safetensors"
        ) from error
    freeze_unread(model)
    if settings.private_layers and len(tasks) > 1:  # one task alone has every layer for itself
        model.private_plan = plan_private(model, settings.private_layers, tasks)
        if settings.private_when == "always":
            split(model, model.private_plan)
    if settings.adapter is not None:
        missing = {str(name) for name in info["missing_keys"]}
        if settings.adapter.type == "mtl_lora":
            add_mtl_lora(model, settings.adapter, missing, _spans(tasks))
        else:
            model = add_lora(model, settings.adapter, missing)
    if settings.gradient_checkpointing:
        _checkpoint_activations(model)
        if settings.adapter is not None:
            model.enable_input_require_grads()
    return model


def _spans(tasks: Mapping[str, Task]) -> tuple[tuple[int, int], ...]:
    return tuple((where.start, where.stop) for where in slices(tasks).values())


def _checkpoint_activations(model: Any) -> None:
    options: dict[str, Any] = {"use_reentrant": False}
    own = mtl_lora_of(model)
    if own is not None:
        options["context_fn"] = own.turn.contexts
    if hasattr(model, "activation_checkpointing_enable"):  # the name from transformers 5.23 on
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def _configure(config: Any, tasks: Mapping[str, Task]) -> Any:
    labels = pack_labels(tasks)
    config.id2label = labels
    config.label2id = {name: index for index, name in labels.items()}
    config.num_labels = len(labels)
    # Pipelines then return raw values; any other type would put a softmax over all tasks' outputs.
    config.problem_type = "regression"
    return config


def save_tokenizer(tokenizer: Any, folder: Path, max_length: int) -> None:
    """Saves a tokenizer that cuts where training cut, for consumers that know nothing of us."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(folder)


def save_model(
    model: Any, tokenizer: Any, sidecar: Sidecar, folder: Path, *, state_dict: dict[str, torch.Tensor] | None = None
) -> None:
    """Writes a model folder: safetensors, config, tokenizer, sidecar. Of a model with an adapter, the adapter is saved.

    Args:
        model: of `build`.
        tokenizer: its own.
        sidecar: its tasks.
        folder: is made if it is not there.
        state_dict: the gathered weights of a sharded model; None takes the model's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    extra: dict[str, Any] = {} if state_dict is None else {"state_dict": state_dict}
    private = private_of(model)
    if private is not None:
        sidecar = replace(sidecar, private_layers=private.layers, private_modules=private.modules)
        if not hasattr(model, "peft_config"):
            extra["variant"] = VARIANT
    if mtl_lora_of(model) is not None:
        save_mtl_lora(model, folder, state_dict)
    else:
        with quiet_loading():
            model.save_pretrained(folder, **extra)
    if (folder / ADAPTER_CONFIG).exists():
        (folder / "README.md").unlink(missing_ok=True)  # peft's card is an empty form
    elif private is not None:
        deny_stock(folder)
    save_tokenizer(tokenizer, folder, sidecar.max_length)
    if (folder / "config.json").is_file():
        save_code(model.config, tokenizer, folder)
    sidecar.write(folder)


@dataclass(frozen=True)
class LoadedModel:
    """A saved model in memory.

    Attributes:
        model: in evaluation mode.
        tokenizer: its fast tokenizer.
        sidecar: tasks, slices, text columns.
    """

    model: Any
    tokenizer: Any
    sidecar: Sidecar


def load_model(folder: Path, *, dtype: torch.dtype = torch.float32, trusted: bool = False) -> LoadedModel:
    """Loads what `save_model` wrote; an adapter is put on its backbone.

    Args:
        folder: a model's.
        dtype: of the weights.
        trusted: run the code that it, or an adapter's backbone, brings along; otherwise such a folder is refused.

    Raises:
        RunError: the folder is not such a model, is damaged, or holds what must not be in it.
    """
    danger = find_danger(folder, trusted=trusted, allow=TRUST_IN_CALL) if folder.is_dir() else None
    if danger is not None:
        raise RunError(danger)
    sidecar = Sidecar.read(folder)
    own = (folder / MTL_LORA_CONFIG).exists()
    adapter = own or (folder / ADAPTER_CONFIG).exists()
    try:
        found = load_backbone(
            str(folder.resolve()) if not adapter else sidecar.backbone,
            None if not adapter else sidecar.revision,
            trusted=trusted,
            allow=TRUST_IN_CALL,
        )
    except RecipeError as error:
        raise RunError(f"{folder}: {error}") from error
    config = _configure(copy.deepcopy(found.config), sidecar.tasks) if adapter else found.config
    cls = model_class(type(config), sidecar.pooling)
    private = sidecar.private
    parted = {} if private is None or adapter else {"private": private, "variant": VARIANT}
    try:
        with quiet_loading():
            model, info = cls.from_pretrained(
                found.location,
                config=config,
                revision=found.revision,
                dtype=dtype,
                ignore_mismatched_sizes=adapter,  # the backbone's own head; ours comes with the adapter
                output_loading_info=True,
                use_safetensors=True,
                **parted,
            )
    except LOADING_ERRORS as error:
        raise RunError(f"{folder}: the weights cannot be loaded: {first_line(error)}") from error
    if adapter:
        try:
            if own:
                load_mtl_lora(model, folder, _spans(sidecar.tasks))
            else:
                model = _load_lora(model, folder, private)
            tokenizer = load_tokenizer(str(folder), config, trusted=trusted)
        except LOADING_ERRORS as error:
            raise RunError(f"{folder}: the adapter cannot be loaded: {first_line(error)}") from error
    else:
        tokenizer = found.tokenizer
        missing = sorted(map(str, info["missing_keys"]))
        if missing:
            raise RunError(f"{folder}: the weights are incomplete, {len(missing)} are missing, such as {missing[0]}")
    model.eval()
    return LoadedModel(model=model, tokenizer=tokenizer, sidecar=sidecar)


def _load_lora(model: Any, folder: Path, private: Private | None) -> Any:
    from peft import PeftModel

    if private is not None:
        model.private_plan = private
        split(model, private)
    with quiet_peft():
        return PeftModel.from_pretrained(model, str(folder))


def cut_task(loaded: LoadedModel, task: str, folder: Path) -> None:
    """Writes one task as a stock checkpoint of its own: its rows of the output layer, and what it has for itself in place.

    That are its private layers, or an adapter's update, which is added to the weights. Whatever else it holds is the
    whole model's to the bit. Its logits are the task's columns of the whole model's up to the last digit, since a matrix
    product of another width may add up in another order.

    Raises:
        RunError: no such task, an adapter that is not merged, or a pooling that no stock head has.
    """
    sidecar = loaded.sidecar
    if task not in sidecar.tasks:
        raise RunError(f"no task '{task}' in this model. Tasks: {', '.join(sidecar.tasks)}")
    if sidecar.pooling != "native":
        raise RunError(f"pooling '{sidecar.pooling}' has no stock head; only models with native pooling can be cut")
    if hasattr(loaded.model, "peft_config"):
        raise RunError("the adapter is not merged; save the run with model.adapter.merge: true")
    model = copy.deepcopy(loaded.model)
    index = list(sidecar.tasks).index(task)
    join(model, index)
    fold(model, index)
    rows = slices(sidecar.tasks)[task]
    layer = output_layer(model)
    size = sidecar.tasks[task].size
    layer.weight = nn.Parameter(layer.weight.data[rows].clone())
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.data[rows].clone())
    layer.out_features = size
    names = [name.removeprefix(f"{task}/") for name in sidecar.tasks[task].outputs]
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    kinds = {"classification": "single_label_classification", "multilabel": "multi_label_classification"}
    model.config.problem_type = kinds.get(sidecar.tasks[task].kind, "regression")
    folder.mkdir(parents=True, exist_ok=True)
    with quiet_loading():
        model.save_pretrained(folder)
    save_tokenizer(loaded.tokenizer, folder, sidecar.max_length)
    save_code(model.config, loaded.tokenizer, folder)
