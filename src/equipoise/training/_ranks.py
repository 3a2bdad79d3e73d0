"""What one process of several finds out or writes for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from equipoise.errors import EquipoiseError
from equipoise.models import pick_device

__all__ = ["on_main", "processes"]

T = TypeVar("T")


def processes() -> PartialState:
    """This process among its siblings: alone, or started by torchrun or `accelerate launch`."""
    return PartialState(cpu=pick_device().type == "cpu")


def on_main(work: Callable[[], T]) -> T:
    """What the main process finds, or the error that it meets, in every process: none waits for one that stopped."""
    found: list[Any] = [None, None]
    if processes().is_main_process:
        try:
            found[0] = work()
        except EquipoiseError as error:
            if processes().num_processes == 1:
                raise
            found[1] = error
    broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    result: T = found[0]
    return result
