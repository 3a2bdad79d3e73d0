"""Balances the losses of several tasks: one scalar in place of `loss = sum(losses.values())`.

    balancer = DAO()
    ...
    hidden = backbone(batch)                                     # [n, d], what the tasks share
    losses = {"polarity": mse(head_a(hidden), scores),           # scalars, or one value per example
              "label": cross_entropy(head_b(hidden), classes)}
    loss = balancer(losses, shared=hidden)
    loss.backward()

A balancer returns one scalar whose backward is the balanced update; its weights are constants. So it works unchanged
under autocast, gradient scaling, accumulation, checkpointing, LoRA, DDP and FSDP. This package imports torch and our
errors, nothing else, and can be dropped into any training loop.

How it is built: `_base.py` checks what comes in and returns the scalar; `_gradients.py` measures how hard each task
pulls; `_state.py` keeps what is remembered, as tensors; `_data_weights.py` reads the labels; each method is one file
with one class, registered by name in `_registry.py`. To write a method, subclass `Balancer` and give it `weigh`:

    @register("random")
    class Random(Balancer):
        def weigh(self, losses, present, statistics):            # all [tasks]
            return torch.rand_like(losses).softmax(0)
"""

from equipoise.balance._base import Balancer
from equipoise.balance._dao import DAO
from equipoise.balance._data_weights import DataWeights
from equipoise.balance._equal import Equal
from equipoise.balance._fixed import Fixed
from equipoise.balance._gradients import GradientStatistics, measure
from equipoise.balance._registry import available, create, defaults_of, describe, register

__all__ = [
    "DAO",
    "Balancer",
    "DataWeights",
    "Equal",
    "Fixed",
    "GradientStatistics",
    "available",
    "create",
    "defaults_of",
    "describe",
    "measure",
    "register",
]
