"""Which number format the arithmetic runs in, and why."""

from __future__ import annotations

import torch

from equipoise.errors import RecipeError

__all__ = ["choose_precision", "pick_device"]


def pick_device() -> torch.device:
    """The accelerator if there is one, else the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


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


def bf16_hardware(device: torch.device) -> str | None:
    """The name of the device's bf16 instructions, or None."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"compute capability {major}.{minor}" if major >= 8 else None
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return next((name for name in ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16") if capabilities.get(name)), None)
