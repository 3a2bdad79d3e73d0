"""Loading a checkpoint's files: what is no plain tensors and numbers is refused, and the error names the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers.trainer_pt_utils import safe_globals

from equipoise.errors import EquipoiseError, RunError

__all__ = ["reading"]


@contextlib.contextmanager
def reading(checkpoint: str | Path | None) -> Iterator[None]:
    """Gives an error while a checkpoint is loaded the name of the file it comes from.

    transformers reads optimiser, schedule, scaler and random states with `weights_only`, which runs no code; what torch
    then says does not tell which file it was.
    """
    try:
        yield
    except EquipoiseError:
        raise
    except Exception as error:
        if checkpoint is None:
            raise
        folder = Path(checkpoint)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if reason := _unreadable(path):
                raise RunError(
                    f"{path} {reason}. Take {folder.name} away, and resume again from the one before"
                ) from error
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise RunError(f"{folder} cannot be loaded ({type(error).__name__}): {reason}") from error


def _unreadable(path: Path) -> str | None:
    try:
        if path.suffix in (".pt", ".pth", ".bin"):
            with safe_globals():
                torch.load(path, map_location="cpu", weights_only=True)
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                pass
    except (SafetensorError, EOFError) as error:
        return f"is damaged: {error}"
    # torch raises pickle's own error, whose module no code of ours imports, and several others.
    except Exception as error:
        text = str(error)
        if "eights only load failed" in text or "Unsupported" in text:
            return "holds more than tensors and numbers, which could run code; it was not loaded"
        return f"cannot be loaded: {text.partition(chr(10))[0]}"
    return None
