"""What of a run goes to a repository, under which name, and what stays."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipoise.errors import RunError
from equipoise.hub_names import HUB, plain_name
from equipoise.report import write_card
from equipoise.report._card import MINILM_HUB_ID
from equipoise.runs import Run

__all__ = ["Parcel", "is_ours", "pack"]

#: What a model is made of here. Pickles and scripts are neither written nor sent.
SUFFIXES = {".safetensors", ".json", ".txt", ".model", ".jinja"}
#: The word that the card has for the repository while nobody knows it.
PLACEHOLDER = "OWNER/NAME"


@dataclass(frozen=True)
class Parcel:
    """The files of one push.

    Attributes:
        files: name in the repository -> a file, or the bytes themselves.
        left_out: names in the model's folder that are not sent.
    """

    files: dict[str, Path | bytes]
    left_out: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(len(one) if isinstance(one, bytes) else one.stat().st_size for one in self.files.values())


def pack(run: Run, repository: str, *, with_report: bool) -> Parcel:
    """The model's files at the root, the card beside them, and the report where it is asked for.

    Raises:
        RunError: there is no report, a file cannot be read, or others could not use the model.
    """
    files: dict[str, Path | bytes] = {}
    left_out = []
    code = _code(run)
    _own(run.model_folder)
    for path in sorted(run.model_folder.iterdir()):
        _own(path)
        if path.is_file() and (path.suffix in SUFFIXES or path.name in code) and not path.name.startswith("."):
            files[path.name] = path
        else:
            left_out.append(path.name + ("/" if path.is_dir() else ""))
    files |= _without_places(run, files)
    if not run.card_file.exists():
        write_card(run)
    _own(run.card_file)
    try:
        card = run.card_file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RunError(f"{run.card_file} cannot be read: {error}") from None
    files["README.md"] = card.replace(PLACEHOLDER, repository).encode()
    if with_report:
        if not run.report_file.is_file():
            raise RunError(f"{run.report_file} is missing. Make it with: equipoise report {run.folder}")
        _own(run.report_file)
        files["report.html"] = run.report_file
    return Parcel(files, tuple(left_out))


def _own(path: Path) -> None:
    """A link would send a file that lies elsewhere, under a name that says nothing of it."""
    if path.is_symlink():
        raise RunError(f"push: {path} is a link, and what it leads to is not sent. Put the file itself there")


def _code(run: Run) -> set[str]:
    """The files of code that the model cannot be loaded without; the run says which ran in its training."""
    found = (run.metrics.get("training") or {}).get("remote_code")
    return {name for name in found if name.endswith(".py")} if isinstance(found, dict) else set()


def _without_places(run: Run, files: dict[str, Path | bytes]) -> dict[str, bytes]:
    """The two files that say where the backbone lies on this machine, with its name in place of its folder.

    A model that is whole needs its backbone no more; an adapter does, and then others must be able to get it.
    """
    changed = {}
    sidecar = _json(run.tasks_file)
    backbone = str(sidecar.get("backbone", ""))
    named = backbone.startswith(HUB)
    local = not named and (backbone.startswith((".", "/", "~")) or os.path.isdir(backbone))
    if local and files.keys() & {"adapter_config.json", "mtl_lora.json"}:
        raise RunError(
            f"the model is an adapter on '{backbone}', a folder that others don't have. Train with model.adapter.merge: true "
            "(lora), or on a model of the hub"
        )
    if local:
        changed[run.tasks_file.name] = _bytes(sidecar | {"backbone": Path(backbone).name})
    if "adapter_config.json" in files:
        adapter = _json(run.model_folder / "adapter_config.json")
        base = MINILM_HUB_ID if backbone == "minilm" else plain_name(backbone)
        changed["adapter_config.json"] = _bytes(adapter | {"base_model_name_or_path": base})
    return changed


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise RunError(f"{path} is damaged: it holds no mapping")
    return data


def _bytes(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


def is_ours(name: str) -> bool:
    """Whether a file at a repository's root can only come from an earlier push, and would mislead if it stayed.

    Example:
        >>> [is_ours(name) for name in ("model.private.safetensors", "report.html", "LICENSE", "notes.txt", "onnx/x.json")]
        [True, True, False, False, False]
    """
    names = {"report.html", "mtl_lora.json", "adapter_config.json", "model.safetensors.index.json", "multitask.json"}
    return name in names or re.fullmatch(r"[^/]+\.safetensors", name) is not None
