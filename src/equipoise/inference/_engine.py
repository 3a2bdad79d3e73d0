"""What computes: a batch of tokens in, raw outputs of all heads out. One file an engine; this one is torch's."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from equipoise.errors import RunError
from equipoise.models import bf16_hardware, output_layer

__all__ = ["PRECISIONS", "Engine", "TorchEngine"]

PRECISIONS = ("auto", "fp32", "bf16")


class Engine(Protocol):
    """Computes a model's outputs.

    Attributes:
        device: where it runs.
        precision: `fp32`, `bf16` or `int8`: what the backbone's products are taken in. Outputs are float32 always.
        max_tokens: of one batch, padding included, at which it is fast.
    """

    device: torch.device
    precision: str
    max_tokens: int

    def compute(self, batch: dict[str, torch.Tensor]) -> NDArray[np.float32]:
        """`input_ids`, `attention_mask` and, where the model reads them, `token_type_ids`: int64 `[b, length]`, on the
        processor -> `[b, outputs]`.
        """
        ...


class TorchEngine:
    """The model itself. In bf16 its weights are halved in place, but for the output layer.

    Whole weights in bf16 save the casts of autocast, which for a single text take longer than the products. The output
    layer stays float32: a bf16 logit has 8 bits, and scores would come in steps.

    Args:
        model: in evaluation mode; it belongs to the engine from here on.
        device: where it runs.
        precision: `auto` is bf16 where the hardware multiplies it, else fp32.

    Raises:
        RunError: no such precision.
    """

    def __init__(self, model: Any, device: torch.device, precision: str) -> None:
        if precision not in PRECISIONS:
            raise RunError(f"precision: expected {', '.join(PRECISIONS)}, found '{precision}'")
        if precision == "auto":
            precision = "fp32" if bf16_hardware(device) is None else "bf16"
        self.device, self.precision = device, precision
        # On a processor a batch should stay in its caches; an accelerator wants to be filled.
        self.max_tokens = 2048 if device.type == "cpu" else 16384
        self._model = model.to(device)
        if precision == "bf16":
            last = output_layer(_inner(model))
            model.to(torch.bfloat16)
            last.float()
            last.register_forward_pre_hook(lambda module, args: (args[0].float(), *args[1:]))

    @torch.inference_mode()
    def compute(self, batch: dict[str, torch.Tensor]) -> NDArray[np.float32]:
        """See `Engine`."""
        logits = self._model(**{name: tensor.to(self.device) for name, tensor in batch.items()}).logits
        found: NDArray[np.float32] = logits.float().cpu().numpy()
        return found


def _inner(model: Any) -> Any:
    """The model that an adapter stands around."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
