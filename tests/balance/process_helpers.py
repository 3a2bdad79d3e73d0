"""A small model and the same batch for one process or a share of it for each of two. Imported by the spawned workers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from equipoise.balance import Balancer

TASKS = ("polarity", "label", "emotion")
ROWS = 12
STEPS = 4


class Model(nn.Module):
    """A backbone of two layers and a linear head a task, in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).double()
        self.heads = nn.ModuleDict({task: nn.Linear(5, 1).double() for task in TASKS})

    def forward(self, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        hidden = self.backbone(rows)
        return hidden, {task: head(hidden).squeeze(-1) for task, head in self.heads.items()}


def labelled(step: int) -> dict[str, Tensor]:
    """Which rows carry which label. Rank 1 (the last six rows) misses one task in step 1, and most of one in step 2."""
    rows = {task: torch.ones(ROWS, dtype=torch.bool) for task in TASKS}
    if step == 1:
        rows["label"][6:] = False
    if step == 2:
        rows["emotion"][8:] = False
    return rows


def losses_of(model: nn.Module, step: int, mine: slice) -> tuple[dict[str, Tensor], Tensor]:
    """Per-example losses of a share of the batch; the rows differ much, so that ranks disagree."""
    generator = torch.Generator().manual_seed(100 + step)
    rows = torch.randn(ROWS, 4, generator=generator, dtype=torch.float64)
    targets = torch.randn(ROWS, generator=generator, dtype=torch.float64)
    rows[6:] *= 3
    hidden, outputs = model(rows[mine])
    found = {}
    for k, task in enumerate(TASKS):
        own = labelled(step)[task][mine]
        found[task] = 10.0**k * (outputs[task][own] - (1 + k) * targets[mine][own]) ** 2
    return found, hidden


def shared_of(model: Any, hidden: Tensor, where: str) -> Any:
    plain = getattr(model, "module", model)
    if where == "representation":
        return hidden
    return list((plain.backbone[-1] if where == "last_layer" else plain.backbone).parameters())


def train(balancer: Balancer, model: Any, where: str, mine: slice) -> dict[str, Tensor]:
    """A few steps of plain gradient descent; returns the weights of each step and the final parameters."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    weights, values = [], []
    for step in range(STEPS):
        if "validation" in balancer.requires:
            with torch.no_grad():
                balancer.observe_validation(losses_of(model, 50 + step, mine)[0])
        losses, hidden = losses_of(model, step, mine)
        total = balancer(losses, shared=shared_of(model, hidden, where))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if "after" in balancer.requires:
            with torch.no_grad():
                balancer.observe_after(losses_of(model, step, mine)[0])
        weights.append(balancer.weights.clone())
        values.append(total.detach())
    parameters = {
        name: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()
        for name, p in getattr(model, "module", model).named_parameters()
    }
    return {"weights": torch.stack(weights), "values": torch.stack(values)} | parameters


def start(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "WORLD_SIZE": "2"}
    store = distributed.FileStore(str(Path(folder) / "store"), 2)
    distributed.init_process_group("gloo", rank=rank, world_size=2, store=store)


def share(rank: int) -> slice:
    return slice(6 * rank, 6 * rank + 6)
