"""What a line of `history.jsonl` may hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["plain_numbers"]


def plain_numbers(line: Any) -> Any:
    """Tensors as numbers, six digits of each; JSON has no NaN, so what is not finite becomes null."""
    if isinstance(line, Mapping):
        return {key: plain_numbers(value) for key, value in line.items()}
    if isinstance(line, Tensor):
        line = line.item()
    if isinstance(line, float):
        return float(f"{line:.6g}") if math.isfinite(line) else None
    return line
