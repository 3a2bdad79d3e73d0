"""Balances two losses of one dataset in the stock sentence-transformers trainer: a loss module that holds the balancer.

Run it:  python examples/sentence_transformers_one_dataset.py        (needs: pip install "sentence-transformers[train]")

The trainer knows one label column and takes any other column for text, so several labels go into it as a list. What the
tasks share are the embeddings, one tensor for each text column. Like anything in a loss module, the balancer is not in the
trainer's checkpoints: save `loss.balancer.state_dict()` if you resume.
"""

import random
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch.nn import functional as F
from transformers import BertConfig, BertModel, BertTokenizer, set_seed

from equipoise.balance import DAO, Balancer

WORDS = [f"word{number}" for number in range(60)]


class SimilarityAndTopic(torch.nn.Module):
    """How alike two texts are (0 to 5), and which of two topics the first one has, by raters who err now and then."""

    def __init__(self, model: SentenceTransformer, balancer: Balancer) -> None:
        super().__init__()
        self.model, self.balancer = model, balancer
        self.topic = torch.nn.Linear(32, 2)
        self.history: list[dict[str, dict[str, float]]] = []

    def forward(self, features, labels):  # one entry a text column; [n, 2]
        """Returns the balanced loss of a batch."""
        first, second = (self.model(column)["sentence_embedding"] for column in features)
        losses = {
            "similarity": F.mse_loss(5 * torch.cosine_similarity(first, second), labels[:, 0]),
            "topic": F.cross_entropy(self.topic(first), labels[:, 1].long()),
        }
        loss = self.balancer(losses, shared=[first, second])
        self.history.append(self.balancer.last)
        return loss


def tiny_model(folder: Path) -> SentenceTransformer:
    """A random BERT of two layers and a tokenizer of sixty words, instead of a download."""
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=65, **size)).save_pretrained(folder)
    return SentenceTransformer(modules=[Transformer(str(folder)), Pooling(32)], device="cpu")


def make_set(rows: int) -> Dataset:
    draw = random.Random(0)
    topics, shares = draw.choices((0, 1), k=rows), draw.choices(range(6), k=rows)
    firsts = [draw.sample(WORDS[30 * topic :][:30], 5) for topic in topics]
    seconds = [words[:same] + draw.sample(WORDS, 5 - same) for words, same in zip(firsts, shares, strict=True)]
    labels = [[float(s), float(t if draw.random() < 0.9 else 1 - t)] for s, t in zip(shares, topics, strict=True)]
    return Dataset.from_dict({"a": [*map(" ".join, firsts)], "b": [*map(" ".join, seconds)], "label": labels})


def main(folder: str, epochs: int = 3) -> list[dict[str, dict[str, float]]]:
    set_seed(0)
    model = tiny_model(Path(folder))
    loss = SimilarityAndTopic(model, DAO(tasks=["similarity", "topic"], smoothing=0.9))
    args = SentenceTransformerTrainingArguments(
        folder, num_train_epochs=epochs, per_device_train_batch_size=16, learning_rate=2e-3, save_strategy="no",
        logging_steps=10, report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    SentenceTransformerTrainer(model, args, make_set(512), loss=loss).train()
    return loss.history


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(temporary)
