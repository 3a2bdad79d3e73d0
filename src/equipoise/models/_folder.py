"""What a model's folder may hold. Whatever could run code or lead out of the folder is refused before anything is loaded.

Weights are safetensors and the rest is JSON and text, so nothing here would open a pickle or import a script. A folder that
brings one is refused all the same: other tools open it, and it is not what it says it is.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["CODE_IN_CONFIG", "find_danger"]

#: Suffix -> what it is.
_PICKLE = "a pickle, which can run code when it is opened"
_FOREIGN = "another framework's file, which can hold code"
_CODE = "code"
SUFFIXES = (
    dict.fromkeys(
        (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy", ".npz", ".mar"), _PICKLE
    )
    | dict.fromkeys((".h5", ".hdf5", ".keras", ".pb", ".msgpack", ".ot", ".nemo"), _FOREIGN)
    | dict.fromkeys((".py", ".pyc", ".pyo", ".pyw", ".pyd", ".so", ".dll", ".dylib", ".sh", ".bat", ".exe"), _CODE)
)
#: Keys of a configuration that name code to be run.
CODE_IN_CONFIG = ("auto_map", "custom_pipelines")
#: Keys that choose how attention and experts are computed; a name with a slash is compiled code from a hub.
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
#: Settings of adapters with which peft imports a module or opens a pickle that the file names.
_OF_ADAPTERS = ("megatron_config", "corda_config", "eva_config", "lora_ga_config")
_CONFIGS = (
    "config.json",
    "tokenizer_config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "adapter_config.json",
)
#: Many old folders have the place of their maker's cache here; nobody reads it.
_RELIC = "special_tokens_map_file"
_MOST_FILES = 10_000
_REFERENCE = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*", re.ASCII)


def find_danger(folder: Path, *, trusted: bool = False, deep: bool = True, allow: str = "") -> str | None:
    """The first thing in a model's folder that must not be there, in one line with what to do, or None.

    Args:
        folder: a run's `model/`, an adapter, an ONNX export, or a backbone.
        trusted: whether the user asked for the folder's own code to be run.
        deep: whether folders in it are looked into, as in those that are ours; a backbone's may hold much else.
        allow: how to ask for the folder's own code, for the line.

    A link may lead to any place in the folder. In a hub's cache, where every file is a link, it may also lead to the blobs
    of the same repository.
    """
    for path in _entries(folder, deep):
        problem = _of_entry(path, folder, trusted, allow)
        if problem is not None:
            return problem
    for name in _CONFIGS:
        for problem in _of_config(folder / name, trusted, allow):
            return problem
    for path in sorted(folder.glob("*.index.json")):
        for problem in _of_index(path):
            return problem
    return None


def _entries(folder: Path, deep: bool) -> Iterator[Path]:
    if not deep:
        yield from sorted(folder.iterdir())
        return
    for found, (root, folders, files) in enumerate(os.walk(folder)):
        yield from (Path(root, name) for name in sorted([*folders, *files]))
        if found + len(files) > _MOST_FILES:
            return  # whatever is read lies at the top, which has been seen


def _of_entry(path: Path, folder: Path, trusted: bool, allow: str) -> str | None:
    if path.is_symlink() and _leads_out(path, folder):
        return f"{path} is a link that leads out of the folder. Put the file itself there, or delete the link"
    if path.is_dir():
        return None
    if not path.is_file():
        return f"{path} is no file. Delete it" if not path.is_symlink() else f"{path} is a link to nothing. Delete it"
    what = SUFFIXES.get(path.suffix.lower())
    if what is None or (what == _CODE and trusted):
        return None
    if what == _CODE:
        return f"{path} is code, and none of it has run. {_trust(allow)}"
    if path.name.startswith("pytorch_model") and not any(folder.glob("*.safetensors")):
        return (
            f"{path} holds the weights as a pickle, which can run code when it is opened. If you trust it, write it anew as "
            f"safetensors: AutoModel.from_pretrained('{folder}').save_pretrained(...) of transformers, beside its tokenizer"
        )
    return f"{path} is {what}. Nothing here needs it: delete it"


def _trust(allow: str) -> str:
    return f"Read it; to run it, {allow}" if allow else "Delete it"


def _leads_out(path: Path, folder: Path) -> bool:
    try:
        target, home = path.resolve(), folder.resolve()
    except (OSError, RuntimeError):  # links in a circle
        return True
    if target.is_relative_to(home):
        return False
    repository = home.parent.parent  # models--OWNER--NAME/snapshots/COMMIT
    cached = home.parent.name == "snapshots" and repository.name.startswith("models--")
    return not (cached and target.is_relative_to(repository / "blobs"))


def _read(path: Path) -> Any:
    """A JSON file's content; None where it is absent or broken, which its reader tells better."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _of_config(path: Path, trusted: bool, allow: str) -> Iterator[str]:
    try:
        data = _read(path)
    except RecursionError:
        yield f"{path} is nested too deeply"
        return
    for key, value in _pairs(data):
        if key in CODE_IN_CONFIG and value:
            if not trusted:
                yield f"{path} names code to be run ({key}), and none of it has run. {_trust(allow)}, or delete {key} there"
            elif key == "auto_map":
                yield from _of_references(path, value)
        elif key in _KERNELS and isinstance(value, str) and "/" in value:
            yield f"{path}: {key} names compiled code of a hub, '{value}'. Delete it there"
        elif (key.endswith(("_file", "_files")) and key != _RELIC) or key == "transformers_weights":
            for name in value if isinstance(value, list) else [value]:
                if isinstance(name, str) and not _is_plain(name):
                    yield f"{path}: {key} names a file outside the folder, {name!a}. Delete it there"
        elif key == "chat_template" and isinstance(value, list):
            for one in value:
                name = one.get("name") if isinstance(one, dict) else None
                if isinstance(name, str) and not _is_plain(name):  # becomes a file's name when the tokenizer is saved
                    yield f"{path}: a chat template is called {name!a}, which leads out of the folder. Delete it there"
        elif path.name == "adapter_config.json" and key in _OF_ADAPTERS and value:
            yield f"{path}: {key} makes peft open or import what the file names. Delete it there"
    if path.name == "adapter_config.json" and isinstance(data, dict) and data.get("peft_type") != "LORA":
        yield f"{path}: peft_type is {data.get('peft_type')!r}, and only LORA is read"


def _of_references(path: Path, value: Any) -> Iterator[str]:
    """Code that is to be run must lie in the folder itself, where it was read."""
    found = list(value.values()) if isinstance(value, dict) else [value]
    for one in found:
        for reference in one if isinstance(one, list) else [one]:
            if reference is None:
                continue
            if not isinstance(reference, str) or not _REFERENCE.fullmatch(reference):
                yield f"{path}: auto_map names code that lies elsewhere, {reference!a}. Put it into the folder: module.Class"
            elif not (path.parent / f"{reference.partition('.')[0]}.py").is_file():
                yield f"{path}: auto_map names {reference!a}, and the folder holds no such file"


def _of_index(path: Path) -> Iterator[str]:
    try:
        data = _read(path)
    except RecursionError:
        yield f"{path} is nested too deeply"
        return
    names = data.get("weight_map") if isinstance(data, dict) else None
    for name in dict.fromkeys(map(str, names.values())) if isinstance(names, dict) else ():
        if not _is_plain(name):
            yield f"{path} names a file outside the folder, {name!a}. Don't use it"


def _is_plain(name: str) -> bool:
    """Whether a name stays in its folder: no separator of any system, no way up, no drive."""
    return not set(name) & set("/\\:\0") and name not in ("", ".", "..")


def _pairs(data: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at every depth."""
    waiting = [data]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one.items()
            # Labels are data: a class may be called like a setting.
            waiting += [value for key, value in one.items() if key not in ("id2label", "label2id")]
        elif isinstance(one, list):
            waiting += one
