"""Where a model runs, and in which number format it is fast there."""

from __future__ import annotations

import torch

__all__ = ["bf16_hardware", "pick_device"]


def pick_device() -> torch.device:
    """The accelerator if there is one, else the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def bf16_hardware(device: torch.device) -> str | None:
    """The name of the device's bf16 instructions, or None."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"compute capability {major}.{minor}" if major >= 8 else None
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return next((name for name in ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16") if capabilities.get(name)), None)
