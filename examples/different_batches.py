"""Balances two tasks whose examples come from different sets: each has its own batch and its own forward pass.

Run it:  python examples/different_batches.py

A step takes one batch of either task, computes both losses and calls the balancer once. Where the tasks are measured:

    shared=list(backbone.parameters())     exact: the norms of the very gradients that meet in the shared weights
    shared=[hidden_a, hidden_b]            cheap: only the heads are walked back, each from its own batch

The cheap form compares gradients at different rows. Their norms shrink with the number of rows (about 1 / sqrt(n)), so
keep the batches the same size; and a cosine between the tasks has no meaning there, only at parameters.
"""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from equipoise.balance import DAO


def scored(rows: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    while True:
        inputs = torch.randn(rows, 16, generator=generator)
        yield inputs, 10 * torch.tanh(inputs[:, 0] + 0.5 * inputs[:, 1])  # in [-10, 10]: its squared error is large


def labelled(rows: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    while True:
        inputs = 0.5 + torch.randn(rows, 16, generator=generator)  # texts of another kind
        yield inputs, (inputs[:, 2] > 0.8).long()


def main(steps: int = 200, exact: bool = True) -> list[dict[str, dict[str, float]]]:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    batches = {"score": scored(64, generator), "label": labelled(64, generator)}
    backbone = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh())
    heads = torch.nn.ModuleDict({"score": torch.nn.Linear(32, 1), "label": torch.nn.Linear(32, 2)})
    optimizer = torch.optim.AdamW([*backbone.parameters(), *heads.parameters()], lr=1e-2)
    balancer = DAO(tasks=["score", "label"], smoothing=0.9)
    history = []

    for step in range(steps):
        hidden, losses = {}, {}
        for task, stream in batches.items():
            inputs, target = next(stream)
            hidden[task] = backbone(inputs)  # [n, d], of this task's batch
            output = heads[task](hidden[task])
            losses[task] = (
                F.mse_loss(output.squeeze(-1), target) if task == "score" else F.cross_entropy(output, target)
            )
        shared = list(backbone.parameters()) if exact else list(hidden.values())
        loss = balancer(losses, shared=shared)

        optimizer.zero_grad()
        loss.backward()  # once, through both forward passes
        optimizer.step()

        history.append(balancer.last)
        if step % 50 == 0 or step == steps - 1:
            last = balancer.last
            words = [f"{task}: loss {last['losses'][task]:8.4f}, weight {last['weights'][task]:.4f}" for task in losses]
            print(f"step {step:4d}   " + "   ".join(words))
    return history


if __name__ == "__main__":
    main()
