"""Everything up to the first step: data, tokens, model. `train` goes on from here; `validate` prints it and stops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import TrainingArguments, set_seed

from equipoise.balance import create
from equipoise.data import Prepared, TableSpec, TokenSplit, TokenSubset, hold_out, prepare, tokenise
from equipoise.errors import RecipeError
from equipoise.models import (
    Backbone,
    Sidecar,
    build,
    load_backbone,
    native_pooling,
    output_layer,
    pick_device,
    slices,
    trainable_parameters,
)
from equipoise.recipe import Recipe
from equipoise.tasks import Task
from equipoise.tasks._base import did_you_mean
from equipoise.training._auto import settled
from equipoise.training._averaging import Averaging
from equipoise.training._parameters import plain_model
from equipoise.training._precision import choose_precision
from equipoise.training._trackers import check_trackers

__all__ = ["Plan", "RunData", "count_steps", "make_plan", "read_data"]


@dataclass(frozen=True)
class RunData:
    """What every training on the same rows starts from: read, checked and tokenised once.

    Attributes:
        backbone: the backbone that was found; its tokenizer made the tokens.
        prepared: checked splits and fitted tasks.
        tokens: split -> tokenised rows; of some tasks only, the rows that carry one of their labels.
        rejected_file: the rows that cannot be used.
    """

    backbone: Backbone
    prepared: Prepared
    tokens: dict[str, TokenSplit | TokenSubset]
    rejected_file: Path

    def only(self, tasks: Sequence[str]) -> RunData:
        """The same data for some of the tasks: their labels, and the rows that carry one of them."""
        kept = {name: task for name, task in self.prepared.tasks.items() if name in tasks}
        tokens: dict[str, TokenSplit | TokenSubset] = {}
        for name, split in self.tokens.items():
            labels = [split.split.targets[task] for task in kept]
            carries = np.any([~np.isnan(label.reshape(len(label), -1)[:, 0]) for label in labels], axis=0)
            tokens[name] = TokenSubset(split, np.flatnonzero(carries))
        return replace(self, prepared=replace(self.prepared, tasks=kept), tokens=tokens)


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        recipe: the recipe, with values for what it left to be chosen (`auto`) of `training`.
        backbone: the backbone that was found.
        prepared: checked splits and fitted tasks.
        tokens: split -> tokenised rows.
        model: the model, on the processor.
        precision: `fp32`, `bf16` or `fp16`, and why.
        steps: updates in all.
        rejected_file: the rows that cannot be used.
        training_rows: what the steps draw from: the training split, less what is held out.
        held_out: tokenised training rows for a balancer that asks for validation losses, or None.
    """

    recipe: Recipe
    backbone: Backbone
    prepared: Prepared
    tokens: dict[str, TokenSplit | TokenSubset]
    model: Any
    precision: tuple[str, str]
    steps: int
    rejected_file: Path
    training_rows: TokenSplit | TokenSubset
    held_out: TokenSubset | None = None

    @property
    def learning_rate(self) -> float:
        """AdamW's rate at its highest."""
        rate = self.recipe.training.learning_rate
        assert rate != "auto", "`make_plan` has settled it"
        return rate

    @property
    def consistency(self) -> float | None:
        """The coefficient of the divergence between two passes, or None for one pass."""
        coefficient = self.recipe.training.consistency
        assert coefficient != "auto", "`make_plan` has settled it"
        return coefficient

    @property
    def averaging(self) -> Averaging | None:
        """The average of the weights that is judged and saved, or None for the weights themselves."""
        averaging = self.recipe.training.averaging
        assert averaging != "auto", "`make_plan` has settled it"
        return averaging

    @property
    def sidecar(self) -> Sidecar:
        """What is saved beside the model."""
        text = table_specs(self.recipe)[0].text  # of several tables, the first one's names are the model's
        return Sidecar(
            tasks=self.prepared.tasks,
            pooling=native_pooling(self.recipe.model),
            max_length=self.recipe.model.max_length,
            text=(text,) if isinstance(text, str) else text,
            backbone=self.recipe.model.backbone,
            revision=self.recipe.model.revision,
        )

    def describe(self) -> dict[str, Any]:
        """The plan as plain data: rows, labels, tokens, parameters, steps."""
        trainable, total = trainable_parameters(self.model)
        tokens = {}
        for name, split in self.tokens.items():
            quantiles = np.quantile(split.lengths, [0.5, 0.95, 1.0]).tolist() if len(split) else [0, 0, 0]
            tokens[name] = {
                "median": int(quantiles[0]),
                "p95": int(quantiles[1]),
                "longest": int(quantiles[2]),
                "cut": split.truncated,
            }
        return {
            "data": self.prepared.report,
            "tokens": tokens,
            "parameters": total,
            "trainable_parameters": trainable,
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "consistency": self.consistency,
            "precision": self.precision[0],
            "precision_reason": self.precision[1],
            "device": str(pick_device()),
            "pooling": native_pooling(self.recipe.model),
        }


def read_data(recipe: Recipe, folder: Path) -> RunData:
    """Reads, checks and tokenises a recipe's data.

    Args:
        recipe: a checked recipe; `training.seed` draws the splits that are shares.
        folder: for Arrow files and `rejected.jsonl`; it must exist.
    """
    model = recipe.model
    backbone = load_backbone(model.backbone, model.revision, trusted=model.trust_remote_code)
    prepared = prepare(
        table_specs(recipe),
        recipe.tasks,
        validation=recipe.data.validation,
        test=recipe.data.test,
        seed=recipe.training.seed,
        drop_leaks=recipe.data.drop_leaks,
        max_rejected=recipe.data.max_rejected,
        max_train_rows=recipe.data.max_train_rows,
        folder=folder,
    )
    tokens: dict[str, TokenSplit | TokenSubset] = {
        name: tokenise(split, backbone.tokenizer, max_length=recipe.model.max_length, folder=folder, name=name)
        for name, split in prepared.splits.items()
    }
    return RunData(backbone, prepared, tokens, folder / "rejected.jsonl")


def make_plan(recipe: Recipe, folder: Path, data: RunData | None = None) -> Plan:
    """Prepares data, tokens and model.

    Args:
        recipe: a checked recipe.
        folder: for Arrow files and `rejected.jsonl`; it must exist.
        data: what `read_data` gave for a recipe with the same data, tasks and backbone; None reads it.
    """
    check_trackers(recipe)
    device = pick_device()
    precision = choose_precision(recipe.training.precision, device)
    if recipe.model.adapter is not None and recipe.model.adapter.quantization and device.type != "cuda":
        raise RecipeError("model.adapter.quantization: 4bit needs a GPU, and this machine has none. Set it to null")
    known = [field.name for field in fields(TrainingArguments)]
    for name in recipe.training.arguments:
        if name not in known:
            raise RecipeError(
                f"training.arguments.{name}: transformers.TrainingArguments has no such field.{did_you_mean(name, known)}"
            )
    data = data or read_data(recipe, folder)
    prepared, tokens = data.prepared, data.tokens
    if recipe.training.early_stopping and "validation" not in tokens:
        raise RecipeError("training.early_stopping: needs a validation split, and there is none")
    set_seed(recipe.training.seed)  # the heads' first weights
    # Frozen weights lose nothing in half precision; weights that train need their last digits for small updates.
    half = recipe.model.adapter is not None and device.type == "cuda" and precision[0] == "bf16"
    model = build(recipe.model, data.backbone, prepared.tasks, dtype=torch.bfloat16 if half else torch.float32)
    _start_outputs(model, prepared.tasks, tokens["train"].split.targets)
    recipe = settled(recipe, model)
    training_rows, held_out = _hold_out(recipe, tokens["train"], list(prepared.tasks))
    return Plan(
        recipe,
        data.backbone,
        prepared,
        tokens,
        model,
        precision,
        count_steps(recipe, len(training_rows)),
        data.rejected_file,
        training_rows,
        held_out,
    )


@torch.no_grad()
def _start_outputs(model: nn.Module, tasks: Mapping[str, Task], targets: Mapping[str, NDArray[np.float32]]) -> None:
    """Puts the bias of the output layer where tasks want their outputs to start."""
    layer, columns = output_layer(plain_model(model)), slices(tasks)
    for name, task in tasks.items():
        first = task.first_outputs(targets[name])
        if first is not None and layer.bias is not None:
            layer.bias[columns[name]] = torch.from_numpy(first).to(layer.bias)


def _hold_out(
    recipe: Recipe, tokens: TokenSplit | TokenSubset, tasks: list[str]
) -> tuple[TokenSplit | TokenSubset, TokenSubset | None]:
    """What is trained on and, where the balancer asks for validation losses, what is kept from it for them.

    They are training rows: the validation split chooses the best checkpoint, and must not also steer the training.
    """
    if "validation" not in create(recipe.balance.method, tasks, **recipe.balance.options).requires:
        return tokens, None
    if len(tokens) < 2:
        raise RecipeError(
            f"balance.method: {recipe.balance.method} needs two training rows or more, found {len(tokens)}"
        )
    return hold_out(tokens, recipe.balance.held_out, recipe.training.seed)


def table_specs(recipe: Recipe) -> list[TableSpec]:
    """The recipe's tables as the data room takes them."""
    data = recipe.data
    if isinstance(data.train, str):
        return [TableSpec(path=data.train, text=data.text)]
    return [
        TableSpec(
            path=table.path,
            text=table.text or data.text,
            tasks=None if table.tasks is None else tuple(table.tasks),
            validation=table.validation,
            test=table.test,
        )
        for table in data.train
    ]


def count_steps(recipe: Recipe, rows: int) -> int:
    """The updates that a recipe makes of so many training rows."""
    training = recipe.training
    if training.max_steps is not None:
        return training.max_steps
    batches = math.ceil(rows / training.batch_size)
    return math.ceil(training.epochs * math.ceil(batches / training.accumulation))
