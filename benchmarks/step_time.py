"""A training step with DAO against the same step with fixed weights: our own loop, same model, same batch.

    python benchmarks/step_time.py [--rounds 30]

Both balancers take turns on one batch (A B A B ...), forward, balance, backward, clip and AdamW included; the ratio of
their medians is the figure, with the interquartile range of the ratio pair by pair.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from _common import write

from equipoise.balance import create
from equipoise.models import build, load_backbone, representation, slices
from equipoise.recipe import ModelSettings
from equipoise.tasks import kind
from equipoise.training import choose_precision


def tasks_of(count: int) -> dict[str, Any]:
    import pyarrow as pa

    made: dict[str, Any] = {}
    for i in range(count):
        type_, labels = ("regression", ["-1", "0.5", "1"]) if i % 2 == 0 else ("classification", ["a", "b", "c"])
        cls = kind(type_)
        settings = cls.Settings.model_validate({"type": type_} | ({"range": [-1, 1]} if i % 2 == 0 else {}))
        made[f"task{i}"] = cls.fit(f"task{i}", settings, pa.chunked_array([labels]))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tasks", nargs="+", type=int, default=[2, 4])
    options = parser.parse_args()
    figures: dict[str, Any] = {"rounds": options.rounds, "batch": [32, 24], "tasks": {}}
    precision, _ = choose_precision("auto", torch.device("cpu"))
    figures["precision"] = precision
    for count in options.tasks:
        tasks = tasks_of(count)
        columns = slices(tasks)
        model = build(ModelSettings(), load_backbone("minilm"), tasks)
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        names = list(tasks)
        arms = {
            "fixed": create("fixed", names, weights=dict.fromkeys(names, 1.0)),
            "dao": create("dao", names),
        }
        ids = torch.randint(1000, 20000, (32, 24))
        targets = {
            name: torch.rand(32) * 2 - 1 if task.kind == "regression" else torch.randint(0, 3, (32,)).float()
            for name, task in tasks.items()
        }

        def step(balancer: Any) -> float:
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            losses = {n: t.loss(logits[:, columns[n]].float(), targets[n]) for n, t in tasks.items()}
            shared = representation(model)
            labels = {n: t.balance_targets(targets[n]) for n, t in tasks.items()}
            balancer(losses, shared=shared, targets=labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            return time.perf_counter() - started

        for balancer in arms.values():
            step(balancer)
            step(balancer)
        rounds = []
        for number in range(options.rounds):  # each goes first in every other round
            taken = {name: step(arms[name]) for name in (("dao", "fixed") if number % 2 else ("fixed", "dao"))}
            rounds.append([taken["dao"], taken["fixed"]])
        times = np.array(rounds)
        dao, fixed = np.median(times, axis=0)
        low, high = np.quantile(times[:, 0] / times[:, 1], [0.25, 0.75])
        print(f"K = {count}: dao {dao * 1e3:.1f} ms, fixed {fixed * 1e3:.1f} ms, ratio {dao / fixed:.3f} "
              f"(pairs: {low:.3f} to {high:.3f})")  # fmt: skip
        figures["tasks"][count] = {"dao_s": dao, "fixed_s": fixed, "ratio": dao / fixed, "pairs_iqr": [low, high]}
    write("step_time", figures)


if __name__ == "__main__":
    main()
