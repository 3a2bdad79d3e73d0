"""Runs that end on the way, and what is compared of a run that goes on."""

from __future__ import annotations

from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from transformers import TrainerCallback

from equipoise.runs import Run


class StopAt(TrainerCallback):
    """Ends the training without warning, as a lost power supply would (but in this process)."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def weights(run: Run) -> dict[str, Tensor]:
    """What was saved, under whatever name."""
    (path,) = run.model_folder.glob("*.safetensors")
    return load_file(path)


def comparable(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history without what a clock says."""
    return [{k: v for k, v in line.items() if k not in {"samples_per_second", "seconds"}} for line in history]
