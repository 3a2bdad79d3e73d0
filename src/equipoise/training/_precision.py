"""Which number format the arithmetic runs in, and why."""

from __future__ import annotations

import torch

from equipoise.errors import RecipeError
from equipoise.models import bf16_hardware

__all__ = ["choose_precision"]


def choose_precision(wanted: str, device: torch.device) -> tuple[str, str]:
    """Decides on `fp32`, `bf16` or `fp16`.

    Args:
        wanted: the recipe's `training.precision`.
        device: what it will run on.

    Returns:
        The precision, and one line that says why.
    """
    hardware = bf16_hardware(device)
    if wanted == "fp16" and device.type != "cuda":
        raise RecipeError("training.precision: fp16 needs a GPU. Expected auto, fp32 or bf16 on a processor")
    if wanted != "auto":
        slow = wanted == "bf16" and hardware is None
        return wanted, "as the recipe says" + ("; no hardware support, so it is emulated and slow" if slow else "")
    if hardware is not None:
        return "bf16", f"{device.type} has it in hardware ({hardware})"
    return "fp32", f"this {device.type} has no bf16 in hardware"
