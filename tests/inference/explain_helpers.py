"""What the tests of explanations share: a model of every kind of task, one that adds up numbers, and fixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import nn

from equipoise.inference import Model
from equipoise.models import LoadedModel, Sidecar, build, load_backbone
from equipoise.recipe import ModelSettings
from equipoise.tasks import Task, kind

TEXT = "Strong profit, weak 🎉 oil: the bank says"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Bag(nn.Module):
    """Adds up one number a token, so that what each word contributes can be worked out by hand."""

    def __init__(self, numbers: list[float]) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.tensor(numbers, dtype=torch.float64)[:, None])

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        total = self.table(input_ids).sum(dim=1)  # [n, 1]
        return SimpleNamespace(logits=torch.cat([total, 2 * total, -total, 0 * total], dim=1))


def many_tasks() -> dict[str, Task]:
    def fitted(name: str, type_: str, cells: list[str], **settings: Any) -> Task:
        one = kind(type_)
        return one.fit(name, one.Settings(type=type_, **settings), pa.chunked_array([cells]))

    return {
        "stars": fitted("stars", "regression", ["1", "3", "5", "4"], range=(1, 5)),
        "growth": fitted("growth", "regression", ["-10", "30", "55"]),
        "label": fitted("label", "classification", ["negative", "neutral", "positive"]),
        "urgency": fitted("urgency", "ordinal", ["low", "high", "medium"], labels=["low", "medium", "high"]),
        "moods": fitted("moods", "multilabel", ["joy|fear", "awe", "joy"]),
    }


def many(folder: Path, max_length: int = 24) -> Model:
    tasks = many_tasks()
    settings = ModelSettings(backbone=str(folder), max_length=max_length)
    backbone = load_backbone(settings.backbone)
    torch.manual_seed(1)
    network = build(settings, backbone, tasks)
    sidecar = Sidecar(tasks, "native", max_length, ("text",), settings.backbone)
    return Model(LoadedModel(network.eval(), backbone.tokenizer, sidecar), device="cpu")


@pytest.fixture(scope="module")
def model(tiny_backbone: Callable[[str], Path]) -> Model:
    return many(tiny_backbone("bert"))


def spoken(found: dict[str, Any]) -> dict[str, float]:
    return {word["text"]: word["contribution"] for word in found["words"]}
