"""`multitask.json`: what a stock model folder cannot say. It is our own truth about a saved model.

Transformers' configurations are strict and have dropped keys that they don't know, so the tasks, their slices of the
logits, label order, scaling and thresholds stand in a file of ours beside `config.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipoise.errors import EquipoiseError, RunError
from equipoise.models._multitask import slices
from equipoise.models._pooling import POOLINGS
from equipoise.models._private import Private
from equipoise.models._sidecar_check import check_task
from equipoise.tasks import Task, from_dict

__all__ = ["SIDECAR", "Sidecar"]

SIDECAR = "multitask.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Sidecar:
    """What a saved model means.

    Attributes:
        tasks: name -> fitted task, in the order of their rows in the logits.
        pooling: `native`, `mean`, `cls` or `last`.
        max_length: tokens a text was cut to in training.
        text: the text column, or the two of a pair.
        backbone: the backbone as the recipe named it; an unmerged adapter needs it again.
        revision: of a hub id.
        private_layers: blocks that every task has for itself, counted from the last.
        private_modules: the names of all modules that exist once a task.
    """

    tasks: Mapping[str, Task]
    pooling: str
    max_length: int
    text: tuple[str, ...]
    backbone: str
    revision: str | None = None
    private_layers: int = 0
    private_modules: tuple[str, ...] = ()

    @property
    def private(self) -> Private | None:
        """What exists once a task, or None where everything is shared."""
        if not self.private_layers:
            return None
        spans = tuple((where.start, where.stop) for where in slices(self.tasks).values())
        return Private(self.private_layers, self.private_modules, spans)

    def write(self, folder: Path) -> None:
        """Writes `multitask.json`."""
        where = slices(self.tasks)
        data: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "backbone": self.backbone,
            "revision": self.revision,
            "pooling": self.pooling,
            "max_length": self.max_length,
            "text": list(self.text),
            "private_layers": self.private_layers,
            "private_modules": list(self.private_modules),
            "tasks": [
                {"outputs": [where[name].start, where[name].stop], **task.to_dict()}
                for name, task in self.tasks.items()
            ],
        }
        (folder / SIDECAR).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Sidecar:
        """Reads `multitask.json`.

        Raises:
            RunError: the folder is no saved multi-task model, is damaged, or is of a later format.
        """
        path = folder / SIDECAR
        if path.exists() and not path.is_file():
            raise RunError(f"{path} is no file")  # a pipe would wait for ever
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{folder} holds no {SIDECAR}: it is not a model that Equipoise saved") from None
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path} cannot be read: {error}") from None
        version = data.get("format_version") if isinstance(data, dict) else None
        if version != FORMAT_VERSION:
            raise RunError(
                f"{path} has format version {version!r}; this Equipoise reads {FORMAT_VERSION}. "
                f"{'Install a newer Equipoise' if isinstance(version, int) and version > FORMAT_VERSION else 'It is damaged'}"
            )
        try:
            json.dumps(data, ensure_ascii=False).encode()  # an escape may stand for half a character
            _check(data)
            tasks = {item["name"]: from_dict(item) for item in data["tasks"]}
            spans = [tuple(item["outputs"]) for item in data["tasks"]]
            sidecar = cls(
                tasks=tasks,
                pooling=data["pooling"],
                max_length=data["max_length"],
                text=tuple(data["text"]),
                backbone=data["backbone"],
                revision=data["revision"],
                private_layers=data.get("private_layers", 0),
                private_modules=tuple(data.get("private_modules", ())),
            )
        except EquipoiseError as error:
            raise RunError(f"{path}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise RunError(f"{path} is damaged: {type(error).__name__}: {error}") from None
        if spans != [(s.start, s.stop) for s in slices(tasks).values()]:
            raise RunError(f"{path} is damaged: the tasks' outputs {spans} do not match their labels")
        return sidecar


def _check(data: Mapping[str, Any]) -> None:
    text, length = data["text"], data["max_length"]
    if not isinstance(text, list) or len(text) not in (1, 2) or not all(isinstance(name, str) for name in text):
        raise ValueError(f"text is {text!r}")
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ValueError(f"max_length is {length!r}")
    if data["pooling"] not in ("native", *POOLINGS):
        raise ValueError(f"pooling is {data['pooling']!r}")
    if not isinstance(data["backbone"], str) or not isinstance(data["revision"], str | None):
        raise ValueError(f"backbone is {data['backbone']!r}, revision {data['revision']!r}")
    layers, modules = data.get("private_layers", 0), data.get("private_modules", [])  # early folders have neither
    if isinstance(layers, bool) or not isinstance(layers, int) or layers < 0:
        raise ValueError(f"private_layers is {layers!r}")
    if not isinstance(modules, list) or not all(isinstance(name, str) for name in modules) or len(modules) < layers:
        raise ValueError(f"private_modules is {modules!r}")
    if not isinstance(data["tasks"], list):
        raise ValueError("its tasks are no list")
    for item in data["tasks"]:
        check_task(item)
    if not data["tasks"] or len({item["name"] for item in data["tasks"]}) < len(data["tasks"]):
        raise ValueError("it names no task, or one twice")
