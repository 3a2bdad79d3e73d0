"""A backbone with code of its own: an embedding and one layer. Each of its modules leaves a line in a file when imported."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from conftest import tiny_tokenizer

NOTE = 'import os\n\nwith open(os.environ["EQUIPOISE_TEST_RAN"], "a") as _file:\n    _file.write(__name__ + "\\n")\n'

CONFIGURATION = """
from transformers import PreTrainedConfig


class TinyConfig(PreTrainedConfig):
    model_type = "tiny-own"

    def __init__(self, vocab_size=64, hidden_size=16, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
"""

LAYERS = """
from torch import nn


class Mix(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.dense = nn.Linear(size, size)

    def forward(self, hidden):
        return hidden + nn.functional.gelu(self.dense(hidden))
"""

MODELING = """
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from .configuration_tiny import TinyConfig
from .layers_tiny import Mix


class TinyBase(PreTrainedModel):
    config_class = TinyConfig
    base_model_prefix = "body"


class TinyModel(TinyBase):
    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.mix = Mix(config.hidden_size)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, **kwargs):
        return BaseModelOutput(last_hidden_state=self.mix(self.embed(input_ids)))


class TinyForSequenceClassification(TinyBase):
    def __init__(self, config):
        super().__init__(config)
        self.body = TinyModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask, **kwargs):
        hidden = self.body(input_ids).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return SequenceClassifierOutput(logits=self.classifier((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)))
"""

AUTO_MAP = {
    "AutoConfig": "configuration_tiny.TinyConfig",
    "AutoModel": "modeling_tiny.TinyModel",
    "AutoModelForSequenceClassification": "modeling_tiny.TinyForSequenceClassification",
}


def write_backbone(folder: Path) -> Path:
    """Writes it without running any of it."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    for name, text in (("configuration_tiny", CONFIGURATION), ("layers_tiny", LAYERS), ("modeling_tiny", MODELING)):
        (folder / f"{name}.py").write_text(NOTE + text)
    tokenizer = tiny_tokenizer()
    size = 16
    config = {"model_type": "tiny-own", "vocab_size": len(tokenizer), "hidden_size": size, "auto_map": AUTO_MAP}
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": 0}))
    generator = torch.Generator().manual_seed(0)
    weights = {
        "embed.weight": torch.randn(len(tokenizer), size, generator=generator),
        "mix.dense.weight": torch.randn(size, size, generator=generator) / 4,
        "mix.dense.bias": torch.zeros(size),
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    return folder
