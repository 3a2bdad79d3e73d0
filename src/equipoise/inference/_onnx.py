"""ONNX Runtime as the engine: what `equipoise export --format onnx` wrote, on a processor, without torch's model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from equipoise.errors import EquipoiseError, RunError

__all__ = ["ONNX_FILE", "PARITY_FILE", "OnnxEngine", "onnxruntime"]

ONNX_FILE = "model.onnx"
#: How near the exported model is to the run's, and the precision that it was written in. Written last.
PARITY_FILE = "parity.json"
#: The first version that refuses weights outside the graph's folder (tried: 1.20 to 1.23 load them).
CONFINED = 1, 24


def onnxruntime() -> Any:
    """The package.

    Raises:
        EquipoiseError: it is not installed, or so old that a graph makes it read files outside its folder.
    """
    try:
        import onnxruntime
    except ImportError:
        raise EquipoiseError('ONNX needs onnxruntime: pip install "equipoise[onnx]"') from None
    found = str(onnxruntime.__version__)
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < CONFINED:
        least = ".".join(map(str, CONFINED))
        raise EquipoiseError(
            f"onnxruntime {found} reads weights from wherever a graph says, also outside its folder; {least} was the first "
            f'that does not: pip install -U "onnxruntime>={least}"'
        )
    return onnxruntime


class OnnxEngine:
    """A model in an ONNX file.

    Args:
        folder: holds `model.onnx` and `parity.json`.
        threads: processor threads; None is what torch has.

    Raises:
        RunError: the folder is damaged.
        EquipoiseError: ONNX Runtime is not installed.
    """

    device = torch.device("cpu")
    max_tokens = 2048  # as for torch: a batch that stays in the processor's caches

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        runtime = onnxruntime()
        try:
            self.precision = str(json.loads((folder / PARITY_FILE).read_text(encoding="utf-8"))["precision"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{folder / PARITY_FILE} cannot be read, so the export is not whole: {error}") from None
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; warnings tell of the graph, which users cannot change
        try:
            self._session = runtime.InferenceSession(
                str(folder / ONNX_FILE), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its own classes derive from Exception alone
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise RunError(f"{folder / ONNX_FILE} cannot be loaded: {str(error).splitlines()[0]}") from None
        self._inputs = [found.name for found in self._session.get_inputs()]

    def compute(self, batch: dict[str, torch.Tensor]) -> NDArray[np.float32]:
        """See `Engine`."""
        (found,) = self._session.run(None, {name: batch[name].numpy() for name in self._inputs})
        return np.asarray(found, dtype=np.float32)
