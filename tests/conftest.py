"""Small models and tables made on the spot: no test needs the network."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORDS = (  # noqa: SIM905
    "the a of profit loss shares rise fall rises falls strong weak quarter results beat miss market bank oil good bad great "
    "terrible fine news deal court product manager says may not very slightly sharply . , ! ?"
).split()

#: A training without what is on by default and takes time: rows pass once, and the weights are the last step's.
ONCE: dict[str, Any] = {"consistency": None, "averaging": None, "calibrate": False}

ARCHITECTURES = ["bert", "roberta", "distilbert", "deberta-v2", "modernbert", "llama", "qwen3"]

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
}


def tiny_config(architecture: str, vocabulary: int) -> Any:
    """A configuration of two layers and 32 dimensions."""
    from transformers import AutoConfig

    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    extra: dict[str, Any] = dict(SMALL)
    if architecture == "distilbert":
        extra = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 66}
    elif architecture == "modernbert":
        extra |= {"cls_token_id": 2, "sep_token_id": 3, "global_attn_every_n_layers": 2, "local_attention": 16}
    elif architecture == "deberta-v2":
        extra |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
    elif architecture in {"llama", "qwen3"}:
        extra |= {"num_key_value_heads": 2, "head_dim": 8}
    return AutoConfig.for_model(architecture, vocab_size=vocabulary, **special, **extra)


def tiny_tokenizer(decoder: bool = False) -> Any:
    """A word-level fast tokenizer; a decoder's has no padding token, as in the wild."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if decoder:
        return PreTrainedTokenizerFast(
            tokenizer_object=backend, unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]", model_max_length=64
        )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        model_max_length=64,
    )


@pytest.fixture(autouse=True, scope="module")
def _imports_are_no_garbage() -> None:
    """A trainer collects garbage when it starts, and going through all that is imported takes as long as a tiny training."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from an architecture's name to the folder of a tiny random pretrained backbone (no heads in it)."""
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            import torch
            from transformers import AutoModel

            folder = tmp_path_factory.mktemp(f"tiny-{architecture}")
            tokenizer = tiny_tokenizer(decoder=architecture in {"llama", "qwen3"})
            torch.manual_seed(0)
            AutoModel.from_config(tiny_config(architecture, len(tokenizer))).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[architecture] = folder
        return made[architecture]

    return make


def shared_data() -> Path | None:
    """The folder of real labelled sets, or None where this machine has none."""
    folder = Path(os.environ.get("EQUIPOISE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    return folder if folder.is_dir() else None


def write_table(path: Path, rows: int = 120, seed: int = 0) -> Path:
    """A table whose score and class can be learned from single words, with some labels missing."""
    import csv
    import random

    rng = random.Random(seed)
    good, bad = ["profit", "rise", "strong", "beat", "great"], ["loss", "fall", "weak", "miss", "terrible"]
    topics = {"money": ["bank", "market", "oil"], "work": ["deal", "court", "manager"]}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "score", "label", "topic"])
        for number in range(rows):
            plus, minus = rng.randint(0, 3), rng.randint(0, 3)
            topic = rng.choice(sorted(topics))
            words = (
                rng.choices(good, k=plus) + rng.choices(bad, k=minus) + rng.choices(topics[topic], k=rng.randint(1, 9))
            )
            rng.shuffle(words)
            score = (plus - minus) / 3
            label = "positive" if score > 0.2 else "negative" if score < -0.2 else "neutral"
            writer.writerow(
                [number, " ".join(words), f"{score:.3f}" if number % 7 else "", label, topic if number % 5 else ""]
            )
    return path


@pytest.fixture
def tiny_recipe(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> dict[str, Any]:
    """A recipe for three tasks on a tiny backbone that trains in seconds."""
    return {
        "model": {"backbone": str(tiny_backbone("bert")), "max_length": 24},
        "data": {"train": str(write_table(tmp_path / "table.csv")), "validation": 0.2, "test": 0.2},
        "tasks": {
            "polarity": {"type": "regression", "column": "score", "range": [-1, 1]},
            "label": {"type": "classification"},
            "topic": {"type": "classification"},
        },
        "training": {
            "epochs": 3,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "precision": "fp32",
            "log_every_steps": 3,
            **ONCE,
        },
        "output": str(tmp_path / "run"),
    }
