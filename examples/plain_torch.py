"""Balances two tasks in a plain PyTorch loop of one's own: nothing of Equipoise but the balancer.

Run it:  python examples/plain_torch.py

One text-like input gives a score (regression) and a class (classification). The score's loss is a hundred times larger
than the class's, so a plain sum would train the score alone; DAO makes both push the shared layer with the same force.
"""

import torch
from torch.nn import functional as F

from equipoise.balance import DAO


def make_data(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    inputs = torch.randn(rows, 16, generator=generator)
    score = 10 * torch.tanh(inputs[:, 0] + 0.5 * inputs[:, 1])  # in [-10, 10]: its squared error is large
    label = (inputs[:, 2] > 0.8).long()  # about one in five is positive
    return inputs, score, label


def main(steps: int = 200) -> dict[str, float]:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    backbone = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh())
    score_head, label_head = torch.nn.Linear(32, 1), torch.nn.Linear(32, 2)
    model = torch.nn.ModuleList([backbone, score_head, label_head])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    balancer = DAO(tasks=["score", "label"], smoothing=0.9, data_weights="inverse_frequency")

    for step in range(steps):
        inputs, score, label = make_data(64, generator)
        hidden = backbone(inputs)  # [n, d], what the tasks share
        losses = {  # one value per example, so that rare labels can be raised inside the loss
            "score": F.mse_loss(score_head(hidden).squeeze(-1), score, reduction="none"),
            "label": F.cross_entropy(label_head(hidden), label, reduction="none"),
        }
        loss = balancer(losses, shared=hidden, targets={"score": score, "label": label})

        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        if step % 50 == 0 or step == steps - 1:
            last = balancer.last
            words = [f"{task}: loss {last['losses'][task]:8.4f}, weight {last['weights'][task]:.4f}" for task in losses]
            print(f"step {step:4d}   " + "   ".join(words))
    return balancer.last["weights"]


if __name__ == "__main__":
    main()
