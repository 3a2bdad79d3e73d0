"""Balances the losses that your own model computes, in a stock `transformers.Trainer`.

Run it:  python examples/stock_trainer.py

Two things change: `Trainer` becomes `BalancedTrainer`, and two arguments are added, `balancer=` and `shared=`. The model
returns its losses by task instead of their sum. Logs get every task's weight, loss and norm, checkpoints the balancer's
state. A subclass of Trainer that you already have takes the same: `class Mine(BalancedLossMixin, MyTrainer)`.
"""

import tempfile

import torch
from torch.nn import functional as F
from transformers import TrainingArguments

from equipoise.balance import DAO
from equipoise.integrations import BalancedTrainer


class TwoTasks(torch.nn.Module):
    """A model of your own: one encoder, two heads, and the losses of both."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh())
        self.score_head, self.label_head = torch.nn.Linear(32, 1), torch.nn.Linear(32, 2)

    def forward(self, features: torch.Tensor, score: torch.Tensor, labels: torch.Tensor) -> dict[str, object]:
        """Returns the losses by task, not their sum, beside what you return anyway."""
        hidden = self.encoder(features)
        scores, logits = self.score_head(hidden).squeeze(-1), self.label_head(hidden)
        losses = {"score": F.mse_loss(scores, score), "label": F.cross_entropy(logits, labels)}
        return {"losses": losses, "scores": scores, "logits": logits}


def make_rows(count: int) -> list[dict[str, object]]:
    inputs = torch.randn(count, 16, generator=torch.Generator().manual_seed(0))
    scores = 10 * torch.tanh(inputs[:, 0] + 0.5 * inputs[:, 1])  # in [-10, 10]: its squared error is large
    labels = (inputs[:, 2] > 0.8).long()
    return [
        {"features": x, "score": float(s), "labels": int(c)} for x, s, c in zip(inputs, scores, labels, strict=True)
    ]


def main(folder: str, steps: int = 150) -> list[dict[str, float]]:
    torch.manual_seed(0)
    args = TrainingArguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=32,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        logging_steps=10,
        report_to="none",
        disable_tqdm=True,
        label_names=["score", "labels"],  # all of them, or evaluation sees a single task's
        use_cpu=True,
    )
    trainer = BalancedTrainer(
        model=TwoTasks(),
        args=args,
        train_dataset=make_rows(1024),
        balancer=DAO(tasks=["score", "label"], smoothing=0.9),
        shared="encoder",  # the submodule whose output the heads are fed with
    )
    trainer.train()
    return [line for line in trainer.state.log_history if "score/weight" in line]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(temporary)
