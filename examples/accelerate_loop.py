"""Balances two tasks in an Accelerate loop, with gradient accumulation, mixed precision and checkpoints.

Run it:  python examples/accelerate_loop.py        (or, on several GPUs:  accelerate launch examples/accelerate_loop.py)

Three lines differ from a loop without a balancer: one makes it, one calls it, one registers it for checkpoints. Backbone
and heads are prepared as two modules, because what a prepared module returns may be a copy (float32, under mixed
precision), and `shared` must be the very tensor that the heads were fed with.
"""

import torch
from accelerate import Accelerator
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from equipoise.balance import DAO


class Heads(torch.nn.Module):
    """What only one task uses: a linear layer each."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.label = torch.nn.Linear(32, 1), torch.nn.Linear(32, 2)

    def forward(self, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns each task's output."""
        return {"score": self.score(hidden).squeeze(-1), "label": self.label(hidden)}


def make_data(rows: int) -> TensorDataset:
    inputs = torch.randn(rows, 16, generator=torch.Generator().manual_seed(0))
    score = 10 * torch.tanh(inputs[:, 0] + 0.5 * inputs[:, 1])  # in [-10, 10]: its squared error is large
    return TensorDataset(inputs, score, (inputs[:, 2] > 0.8).long())


def main(epochs: int = 5, mixed_precision: str = "no", folder: str | None = None) -> list[dict[str, dict[str, float]]]:
    torch.manual_seed(0)
    accelerator = Accelerator(mixed_precision=mixed_precision, gradient_accumulation_steps=2)
    backbone, heads = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh()), Heads()
    optimizer = torch.optim.AdamW([*backbone.parameters(), *heads.parameters()], lr=1e-2)
    loader = DataLoader(make_data(1024), batch_size=32, shuffle=True)
    backbone, heads, optimizer, loader = accelerator.prepare(backbone, heads, optimizer, loader)

    balancer = DAO(tasks=["score", "label"], smoothing=0.9)  # moves to the losses' device by itself
    accelerator.register_for_checkpointing(balancer)  # its norms are saved and loaded with everything else

    history = []
    for epoch in range(epochs):
        for inputs, score, label in loader:
            with accelerator.accumulate(backbone, heads):
                hidden = backbone(inputs)  # [n, d], what the tasks share
                outputs = heads(hidden)
                losses = {
                    "score": F.mse_loss(outputs["score"].float(), score),
                    "label": F.cross_entropy(outputs["label"].float(), label),
                }
                loss = balancer(losses, shared=hidden)  # each micro-batch; Accelerate divides by their number
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            history.append(balancer.last)
        last = balancer.last
        words = [f"{task}: loss {last['losses'][task]:8.4f}, weight {last['weights'][task]:.4f}" for task in losses]
        accelerator.print(f"epoch {epoch}   " + "   ".join(words))

    if folder is not None:
        accelerator.save_state(folder)
        accelerator.load_state(
            folder
        )  # all continue where they were; Accelerate unpickles, so read your own files only
    return history


if __name__ == "__main__":
    main()
