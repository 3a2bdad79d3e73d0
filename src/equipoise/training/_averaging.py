"""A running average of the weights, which is what is judged, chosen and saved."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback

from equipoise.errors import RunError

__all__ = ["AVERAGED_FILE", "Averaging", "WeightAverage"]

Averaging = Literal["ema", "swa"]

AVERAGED_FILE = "averaged.safetensors"
COUNT = "updates averaged"  # beside the parameters' names, none of which holds a space


class WeightAverage(TrainerCallback):
    """Averages the trained weights w_t after every update t; what is frozen has no copy.

        ema:  a_t = d_t a_(t-1) + (1 - d_t) w_t,   d_t = min(decay, (1 + t) / (10 + t)),   a_0 = w_0
        swa:  a_t = mean of w_s, s = start .. t

    with t counted from the first average (0). Without the growing d_t a short run's average would be made of its first
    weights.

    References:
        Averaging Weights Leads to Wider Optima and Better Generalization (Izmailov et al., 2018)
        https://arxiv.org/abs/1803.05407

    Args:
        kind: `ema` or `swa`.
        decay: share of the old average that `ema` keeps, in [0, 1).
        start: share of the updates after which `swa` begins, in [0, 1).

    Note:
        The paper averages once an epoch, under a rate that goes up and down or stays; here every update counts, and the
        recipe's schedule stays as it is.
    """

    def __init__(self, kind: Averaging, *, decay: float, start: float) -> None:
        self.kind, self.decay, self.start = kind, decay, start
        self._average: AveragedModel | None = None

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """After the update, if it was made: one more in the average."""
        if optimizer is not None and optimizer.step_was_skipped:
            return
        if self.kind == "swa" and state.global_step <= math.floor(self.start * state.max_steps):
            return
        own = nn.ParameterList(_trained(model).values())
        if self._average is None:
            self._average = self._begin(own)
        if len(own) != len(list(self._average.module.parameters())):
            # The library pairs them by position and would stop at the shorter list without a word.
            raise RunError(
                f"training.averaging: the model trains {len(own)} tensors, and trained "
                f"{len(list(self._average.module.parameters()))} before. Set it to null where a model changes its form"
            )
        self._average.update_parameters(own)

    @contextlib.contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """The average in the model's place for as long as this lasts; the very same weights come back after it."""
        if self._average is None:
            yield
            return
        raw = {name: p.detach().clone() for name, p in _trained(model).items()}
        self.put(model)
        try:
            yield
        finally:
            _copy(raw, model)

    def put(self, model: nn.Module) -> None:
        """Copies the average into the model for good; before the first average, its own weights stay."""
        if self._average is not None:
            _copy(self._named(model), model)

    def save(self, folder: Path, model: nn.Module) -> None:
        """Writes the average into a checkpoint that holds the weights themselves; before the first, nothing."""
        if self._average is None:
            return
        tensors = {name: value.detach().cpu().contiguous() for name, value in self._named(model).items()}
        save_file(tensors | {COUNT: self._average.n_averaged.cpu()}, folder / AVERAGED_FILE)

    def load(self, folder: Path, model: nn.Module) -> None:
        """Goes on from a checkpoint."""
        self._average = None
        if not (folder / AVERAGED_FILE).is_file():
            return
        saved = load_file(folder / AVERAGED_FILE)
        self._average = self._begin(nn.ParameterList(_trained(model).values()))
        self._average.n_averaged.copy_(saved.pop(COUNT))
        with torch.no_grad():
            for name, value in self._named(model).items():
                value.copy_(saved[name])

    def _begin(self, own: nn.ParameterList) -> AveragedModel:
        average = AveragedModel(own, multi_avg_fn=self._ema if self.kind == "ema" else None)
        average.requires_grad_(False)
        return average

    def _named(self, model: nn.Module) -> dict[str, Tensor]:
        assert self._average is not None
        return dict(zip(_trained(model), self._average.module.parameters(), strict=True))

    def _ema(self, averages: Sequence[Tensor], weights: Sequence[Tensor], count: Tensor | int) -> None:
        t = int(count)
        kept = min(self.decay, (1 + t) / (10 + t))
        torch._foreach_lerp_(list(averages), list(weights), 1 - kept)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def _copy(weights: Mapping[str, Tensor], model: nn.Module) -> None:
    own = _trained(model)
    for name, value in weights.items():
        own[name].copy_(value)
