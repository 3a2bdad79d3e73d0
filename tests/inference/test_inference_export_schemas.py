"""Stock folders hold what servers of others read of them, by the names and types that their sources ask for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import write_table
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

import equipoise as eq
from equipoise.inference import export_tasks

#: How vLLM turns `problem_type` into what it applies to the logits.
VLLM_ACTIVATIONS = {
    "regression": "identity",
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
}


class TextEmbeddingsInference(BaseModel):
    """`ModelConfig` of text-embeddings-inference's router (serde: further keys are let pass)."""

    model_config = ConfigDict(strict=True, extra="ignore")

    architectures: list[str]
    model_type: str
    max_position_embeddings: int = Field(validation_alias=AliasChoices("max_position_embeddings", "n_positions"), ge=0)
    pad_token_id: int = Field(default=0, ge=0)
    id2label: dict[str, str] | None = None
    label2id: dict[str, int] | None = None


@pytest.fixture(scope="module", params=["bert", "roberta", "qwen3"])
def folders(
    request: pytest.FixtureRequest, tiny_backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("schemas")
    recipe: dict[str, Any] = {
        "model": {"backbone": str(tiny_backbone(request.param)), "max_length": 24},
        "data": {"train": str(write_table(folder / "table.csv"))},
        "tasks": {
            "polarity": {"type": "regression", "column": "score", "range": [-1, 1]},
            "label": {"type": "classification"},
        },
        "training": {"max_steps": 1, "precision": "fp32"},
    }
    run = eq.train(recipe, output=folder / "run", progress=False)
    return {path.name: path for path in export_tasks(run, folder / "stock")}


def test_text_embeddings_inference_reads_them(folders: dict[str, Path]) -> None:
    outputs = {"polarity": 1, "label": 3}
    for name, folder in folders.items():
        config = TextEmbeddingsInference.model_validate_json((folder / "config.json").read_bytes())
        assert config.architectures
        assert all(architecture.endswith("Classification") for architecture in config.architectures)
        assert config.id2label is not None
        assert config.label2id is not None
        assert len(config.id2label) == outputs[name]
        assert {label: int(index) for index, label in config.id2label.items()} == config.label2id
        assert config.max_position_embeddings >= 24
        assert json.loads((folder / "tokenizer.json").read_bytes())["model"]  # only fast tokenizers are read
        assert (folder / "model.safetensors").is_file()


def test_vllm_applies_to_the_logits_what_the_task_means(folders: dict[str, Path]) -> None:
    found = {
        name: VLLM_ACTIVATIONS[json.loads((folder / "config.json").read_bytes())["problem_type"]]
        for name, folder in folders.items()
    }
    assert found == {"polarity": "identity", "label": "softmax"}
