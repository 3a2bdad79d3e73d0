"""Code that a backbone brings along (`auto_map` in its configuration). It runs only where the user asked for it.

What was trained with such code cannot be loaded without it, so the code is saved beside the weights. Only a model with a
configuration class of its own is taken: registering other classes for a stock configuration would change what that
configuration means for everyone in this process, also for those who never asked.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_class_from_dynamic_module, get_relative_import_files
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_MAPPING

__all__ = ["adopt_code", "code_of", "is_brought", "save_code"]

#: Name in `auto_map` -> where transformers looks for a configuration's model.
MAPPINGS = {
    "AutoModel": MODEL_MAPPING,
    "AutoModelForSequenceClassification": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
}


def is_brought(cls: type) -> bool:
    """Whether a class comes from a model's own code."""
    return cls.__module__.partition(".")[0] == "transformers_modules"


def adopt_code(config: Any, location: str, revision: str | None) -> None:
    """Imports the model classes that a configuration names, so that they are found as stock ones are.

    Args:
        config: what `AutoConfig` gave where its code was allowed to run.
        location: folder or hub id.
        revision: of a hub id.

    Raises:
        ValueError: the code is for a stock configuration.
    """
    named = {name: one for name, one in (getattr(config, "auto_map", None) or {}).items() if name in MAPPINGS}
    if named and not is_brought(type(config)):
        raise ValueError(
            f"its code is for the stock {type(config).__name__}, and only one with a class of its own is taken"
        )
    for name, reference in named.items():
        found = get_class_from_dynamic_module(reference, location, revision=revision)
        MAPPINGS[name].register(type(config), found, exist_ok=True)


def code_of(config: Any, tokenizer: Any) -> dict[str, str]:
    """The names of the files of code behind a model, with their SHA-256; empty for a stock one."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(_files(config, tokenizer))}


def save_code(config: Any, tokenizer: Any, folder: Path) -> None:
    """Puts a model's code beside its weights, under names that mean this folder. Stock models have none."""
    if not is_brought(type(config)):
        return
    for path in _files(config, tokenizer):
        shutil.copyfile(path, folder / path.name)
    file = folder / "config.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    # From a hub, a name says whose repository it is in: `org/name--module.Class`.
    data["auto_map"] = {name: one.rpartition("--")[2] for name, one in config.auto_map.items()}
    file.write_text(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _files(config: Any, tokenizer: Any) -> set[Path]:
    return set(_sources(config, tokenizer))


def _sources(config: Any, tokenizer: Any) -> Iterator[Path]:
    classes = [type(config), type(tokenizer)]
    if is_brought(type(config)):
        classes += [mapping[type(config)] for mapping in MAPPINGS.values() if type(config) in mapping]
    for cls in filter(is_brought, classes):
        file = sys.modules[cls.__module__].__file__
        assert file is not None  # it was imported from there
        yield Path(file)
        yield from map(Path, get_relative_import_files(file))
