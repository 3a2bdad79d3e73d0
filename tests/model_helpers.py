"""Two fitted tasks, tiny models of them, and one step of training: what every test of the model room needs."""

from types import SimpleNamespace

import pyarrow as pa
import torch

from equipoise.models import Sidecar, build, load_backbone, native_pooling, slices
from equipoise.recipe import ModelSettings
from equipoise.tasks import kind

TEXTS = ["profit rise strong", "loss falls very weak .", "the bank says", "oil deal"]
PAIRS = ["good", "bad news for the market", "court may rise", "great great great !"]
OUTPUTS = ["polarity", "label/negative", "label/neutral", "label/positive"]
DECODERS = {"llama", "qwen3"}


def make_tasks():
    score, label = kind("regression"), kind("classification")
    return {
        "polarity": score.fit(
            "polarity", score.Settings(type="regression", range=(-1, 1)), pa.chunked_array([["-1", "0", "1"]])
        ),
        "label": label.fit(
            "label", label.Settings(type="classification"), pa.chunked_array([["negative", "neutral", "positive"]])
        ),
    }


def make(folder, seed=0, **settings):
    """A fresh model on the backbone in `folder`, with its tokenizer, tasks and sidecar."""
    chosen = ModelSettings(backbone=str(folder), max_length=32, **settings)
    backbone = load_backbone(chosen.backbone)
    tasks = make_tasks()
    torch.manual_seed(seed)
    model = build(chosen, backbone, tasks)
    sidecar = Sidecar(tasks, native_pooling(chosen), chosen.max_length, ("text",), chosen.backbone)
    return SimpleNamespace(model=model, tokenizer=backbone.tokenizer, tasks=tasks, sidecar=sidecar, backbone=backbone)


def encode(tokenizer, pairs=True, side=None):
    return tokenizer(
        TEXTS, PAIRS if pairs else None, return_tensors="pt", padding=True, **({"padding_side": side} if side else {})
    )


def total_loss(logits, tasks):
    """The sum of both tasks' mean losses on made-up labels."""
    columns = slices(tasks)
    labels = {"polarity": torch.tensor([1.0, -1.0, 0.0, 0.5]), "label": torch.tensor([2.0, 0.0, 1.0, 2.0])}
    return sum(tasks[name].loss(logits[:, columns[name]], labels[name]).mean() for name in tasks)


def train_step(made, rate=0.05):
    """One step of plain gradient descent; the gradients stay."""
    made.model.train()
    total_loss(made.model(**encode(made.tokenizer)).logits, made.tasks).backward()
    with torch.no_grad():
        for parameter in made.model.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
    made.model.eval()


@torch.no_grad()
def logits_of(model, tokenizer, side=None):
    model.eval()
    return model(**encode(tokenizer, side=side)).logits
