"""Balances several losses of the sentence-transformers trainer, each on its own dataset.

Run it:  python examples/sentence_transformers_losses.py        (needs: pip install "sentence-transformers[train]")

That trainer draws batches of one dataset at a time. A balancer that is told all tasks keeps the absent one's norm, so the
weights are right although the losses never meet. Round robin with as many accumulated batches as there are datasets
puts every task into every update. Measured at the parameters: batches of different kinds share nothing else.
One dataset with several labels: see sentence_transformers_one_dataset.py.
"""

import random
import tempfile
from pathlib import Path

from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss, MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizer, set_seed

from equipoise.balance import DAO
from equipoise.integrations import BalancedLossMixin

WORDS = [f"word{number}" for number in range(60)]


class BalancedSentenceTrainer(BalancedLossMixin, SentenceTransformerTrainer):
    """The sentence-transformers trainer, balanced: a batch carries the one loss of its dataset."""

    def task_losses(self, model, inputs):
        """Returns the losses by task, and no outputs, which that trainer does not keep."""
        task = inputs["dataset_name"]  # of this batch
        return {task: SentenceTransformerTrainer.compute_loss(self, model, inputs)}, {}


def tiny_model(folder: Path) -> SentenceTransformer:
    """A random BERT of two layers and a tokenizer of sixty words, instead of a download."""
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=65, **size)).save_pretrained(folder)
    return SentenceTransformer(modules=[Transformer(str(folder)), Pooling(32)], device="cpu")


def make_sets(rows: int) -> dict[str, Dataset]:
    """Pairs that share two words of six, and pairs with a score: the share of words that they have in common."""
    draw = random.Random(0)

    def pairs(counts: list[int]) -> tuple[list[str], list[str]]:
        texts = [draw.sample(WORDS, 6) for _ in counts]
        others = [text[:same] + draw.sample(WORDS, 6 - same) for text, same in zip(texts, counts, strict=True)]
        return [*map(" ".join, texts)], [*map(" ".join, others)]

    counts = draw.choices(range(7), k=rows)
    retrieval = dict(zip(("anchor", "positive"), pairs([2] * rows), strict=True))
    alike = dict(zip(("first", "second"), pairs(counts), strict=True)) | {"score": [same / 6 for same in counts]}
    return {"retrieval": Dataset.from_dict(retrieval), "alike": Dataset.from_dict(alike)}


def main(folder: str, epochs: int = 3) -> list[dict[str, float]]:
    set_seed(0)
    model, sets = tiny_model(Path(folder)), make_sets(512)
    args = SentenceTransformerTrainingArguments(
        folder, num_train_epochs=epochs, per_device_train_batch_size=16, gradient_accumulation_steps=2,
        multi_dataset_batch_sampler="round_robin", learning_rate=2e-3, logging_steps=4, save_strategy="no",
        report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    losses = {"retrieval": MultipleNegativesRankingLoss(model), "alike": CosineSimilarityLoss(model)}
    balancer = DAO(tasks=list(losses), smoothing=0.9)
    trainer = BalancedSentenceTrainer(
        model, args, sets, loss=losses, balancer=balancer, shared=lambda model: model.parameters()
    )
    trainer.train()
    return [line for line in trainer.state.log_history if "alike/weight" in line]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(temporary)
