"""Balances two tasks in a LightningModule.

Run it:  python examples/lightning_module.py        (needs: pip install lightning)

The balancer is an attribute of the module, so Lightning moves it, saves it with every checkpoint and restores it. Give it
the tasks' names at once: its state then has its final shape before a checkpoint is loaded. `training_step` returns
the balanced scalar and Lightning does the rest, accumulation and mixed precision included: no manual optimisation.
"""

import lightning
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from equipoise.balance import DAO


class TwoTasks(lightning.LightningModule):
    """One encoder, two heads, and the balancer between their losses and the update."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh())
        self.score_head, self.label_head = torch.nn.Linear(32, 1), torch.nn.Linear(32, 2)
        self.balancer = DAO(tasks=["score", "label"], smoothing=0.9)
        self.history: list[dict[str, dict[str, float]]] = []

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """Returns the balanced loss of a batch."""
        inputs, score, label = batch
        hidden = self.encoder(inputs)  # [n, d], what the tasks share
        losses = {
            "score": F.mse_loss(self.score_head(hidden).squeeze(-1), score),
            "label": F.cross_entropy(self.label_head(hidden), label),
        }
        loss = self.balancer(losses, shared=hidden)
        if index % 10 == 0:  # reading `last` waits for the device, so not each step
            last = self.balancer.last
            self.log_dict({f"{task}/{key}": last[key][task] for key in ("losses", "weights") for task in losses})
            self.history.append(last)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """A balancer has no parameters of its own: all of these are the model's."""
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def make_data(rows: int) -> TensorDataset:
    inputs = torch.randn(rows, 16, generator=torch.Generator().manual_seed(0))
    score = 10 * torch.tanh(inputs[:, 0] + 0.5 * inputs[:, 1])  # in [-10, 10]: its squared error is large
    return TensorDataset(inputs, score, (inputs[:, 2] > 0.8).long())


def main(epochs: int = 5) -> tuple[lightning.Trainer, TwoTasks]:
    torch.manual_seed(0)
    module = TwoTasks()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accumulate_grad_batches=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(make_data(1024), batch_size=32, shuffle=True))
    for last in (module.history[0], module.history[-1]):
        print({task: (round(last["losses"][task], 4), round(last["weights"][task], 4)) for task in last["losses"]})
    return trainer, module


if __name__ == "__main__":
    main()
