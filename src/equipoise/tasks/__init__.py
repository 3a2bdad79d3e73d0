"""Task kinds: what labels mean, how they are learned, predicted and judged. One file a kind.

Every file of this folder is imported here, so a kind is added by adding its file. A kind that lives elsewhere is
available as soon as its module has been imported.
"""

from importlib import import_module as _import_module
from pkgutil import iter_modules as _iter_modules

from equipoise.tasks._base import Encoded, Task, TaskSettings, available, from_dict, kind, register

__all__ = ["Encoded", "Task", "TaskSettings", "available", "from_dict", "kind", "register"]


def _import_kinds() -> None:
    """Imports the files of this folder, each of which may register a kind."""
    for module in _iter_modules(__path__):
        _import_module(f"{__name__}.{module.name}")


_import_kinds()
