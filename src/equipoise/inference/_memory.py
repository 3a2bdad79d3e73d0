"""A model that does not hang on its files."""

from __future__ import annotations

from itertools import chain

from equipoise.inference._predictor import Model

__all__ = ["own_memory"]


def own_memory(model: Model) -> None:
    """Copies the weights out of the file that they are mapped from.

    A file of weights is mapped into memory rather than read: whoever writes into it in place changes the model, and
    whoever cuts it off ends the process (SIGBUS). What runs for long must not hang on that.
    """
    network = model._loaded.model
    if network is None:  # an ONNX session has read its file
        return
    for tensor in chain(network.parameters(), network.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
