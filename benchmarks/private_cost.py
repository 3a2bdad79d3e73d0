"""Operations of a step with blocks or adapters of a task's own, against a model that shares everything.

    python benchmarks/private_cost.py

Counted with torch.utils.flop_counter on an untrained BERT of 6 blocks and 384 dimensions (the bundled encoder's), 16 texts
of 64 tokens, K score tasks: forward, and forward and backward. Private blocks stand beside the same model without them,
MTL-LoRA beside LoRA, both of rank 16.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from _common import write
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from equipoise.models import build, load_backbone
from equipoise.recipe import ModelSettings
from equipoise.tasks import kind

TEXTS, LENGTH, WORDS = 16, 64, 1000


def backbone(folder: Path) -> Any:
    config = BertConfig(
        vocab_size=WORDS, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    BertModel(config).save_pretrained(folder)
    words = {word: n for n, word in enumerate(["[PAD]", "[UNK]", *(f"word{n}" for n in range(WORDS - 2))])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_max_length=512
    ).save_pretrained(folder)
    return load_backbone(str(folder), None)


def count(found: Any, tasks: int, **settings: Any) -> tuple[int, int]:
    """Forward, and forward and backward."""
    data = {"kind": "regression", "range": None, "offset": 0.0, "scale": 1.0, "loss": "mse", "huber_delta": 1.0}
    scores = {f"t{n}": kind("regression").from_dict(data | {"name": f"t{n}", "column": f"t{n}"}) for n in range(tasks)}
    model = build(ModelSettings(backbone=found.name, max_length=LENGTH, **settings), found, scores).train()
    ids = torch.randint(5, WORDS, (TEXTS, LENGTH), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        forward = counter.get_total_flops()
        logits.sum().backward()
    return forward, counter.get_total_flops()


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        found = backbone(Path(folder))
        for tasks in (2, 4):
            shared, lora = count(found, tasks), count(found, tasks, adapter={"type": "lora", "rank": 16})
            for what, rival, settings in (
                ("1 private block", shared, {"private_layers": 1}),
                ("2 private blocks", shared, {"private_layers": 2}),
                ("mtl_lora against lora", lora, {"adapter": {"type": "mtl_lora", "rank": 16}}),
            ):
                own = count(found, tasks, **settings)
                ratios = [round(a / b, 3) for a, b in zip(own, rival, strict=True)]
                rows.append({"tasks": tasks, "what": what, "forward": ratios[0], "forward_and_backward": ratios[1]})
                print(f"K = {tasks}, {what}: forward {ratios[0]}, forward and backward {ratios[1]}")
    write("private_cost", {"rows": rows})


if __name__ == "__main__":
    main()
