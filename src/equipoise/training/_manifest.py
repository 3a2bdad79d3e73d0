"""`checkpoint.json`: every file of a checkpoint with its size and SHA-256, so that damage is known before it is loaded."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from equipoise.errors import RunError
from equipoise.runs import write_json

__all__ = ["MANIFEST", "STATE_FILE", "Condition", "condition_of", "keep_weights_only", "seal"]

MANIFEST = "checkpoint.json"
FORMAT_VERSION = 1

#: Ours in every checkpoint. Since there are manifests it says so: without one, such a checkpoint has lost it.
STATE_FILE = "evaluations.json"
#: What every checkpoint holds.
NEEDED = (STATE_FILE, "trainer_state.json", "balancer.safetensors")
#: How the names begin that only a training that goes on needs.
RESUMABLE = ("optimizer", "scheduler", "rng_state", "scaler")
#: What loaders look for by its name, and would read although nobody here wrote it.
LOADED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".safetensors")
#: The same, where no manifest says what belongs there.
NEVER_OURS = ("training_args.bin", "pytorch_model.bin", "adapter_model.bin")
THREADS = 4
#: What reading something that is no manifest raises.
NO_MANIFEST = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Condition:
    """What was found out about a checkpoint without loading it.

    Attributes:
        fault: what is damaged, in a few words, or None where it is whole.
        resumable: whether a training can go on from it; else it holds weights to choose from.
    """

    fault: str | None
    resumable: bool


def seal(folder: Path, *, step: int, resumable: bool) -> None:
    """Flushes every file to disk and writes the manifest, last.

    The bytes have just been written and are still in memory, and hashing leaves Python's lock alone, so the files are
    hashed and flushed side by side.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(_flushed, files))
    names = [path.relative_to(folder).as_posix() for path in files]
    listed = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in zip(names, found, strict=True)}
    _write(folder, step, resumable, listed)


def keep_weights_only(folder: Path) -> None:
    """Takes away what only a training that goes on needs. The manifest goes first, so it is true at every moment."""
    if (folder / MANIFEST).is_file():
        try:
            data = _read(folder)
        except NO_MANIFEST:
            return  # damaged, and left for whoever wants to look at it
        left = {name: entry for name, entry in data["files"].items() if not name.startswith(RESUMABLE)}
        if data["resumable"] or len(left) < len(data["files"]):
            _write(folder, data["step"], False, left)
    for path in folder.iterdir():
        if path.name.startswith(RESUMABLE):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def condition_of(folder: Path) -> Condition:
    """Compares a checkpoint with its manifest, every byte of it. One without, of an earlier version, as far as possible.

    Raises:
        RunError: it cannot be read for want of permission, a newer version wrote it, or it holds a file that a loader
            would take for its own and Equipoise did not write.
    """
    try:
        if not (folder / MANIFEST).exists():
            return _without_manifest(folder)
        try:
            data = _read(folder)
        except NO_MANIFEST as error:
            return Condition(f"{MANIFEST} is no manifest: {type(error).__name__}: {error}", False)
        _refuse_foreign(folder, data["files"], data["resumable"])
        return Condition(_fault(folder, data["files"]), data["resumable"])
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE):  # of this process, not of the disk
            raise RunError(f"{error.filename or folder} cannot be read: {error.strerror}") from None
        return Condition(f"{Path(error.filename or folder).name} cannot be read: {error.strerror or error}", False)


def _write(folder: Path, step: int, resumable: bool, listed: Mapping[str, Any]) -> None:
    data = {
        "format_version": FORMAT_VERSION,
        "equipoise": version("equipoise"),
        "step": step,
        "resumable": resumable,
        "files": listed,
    }
    write_json(folder / MANIFEST, data)


def _read(folder: Path) -> dict[str, Any]:
    """The manifest, checked; an error of `NO_MANIFEST` where it is none."""
    data: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    found = data["format_version"]
    if type(found) is int and found > FORMAT_VERSION:
        raise RunError(
            f"{folder} was written by a newer Equipoise ({data.get('equipoise')}): checkpoint format {found}, and this one "
            f"({version('equipoise')}) reads {FORMAT_VERSION}. Install the newer one"
        )
    if type(found) is not int or found != FORMAT_VERSION or type(data["step"]) is not int:
        raise ValueError("an odd value")
    if not isinstance(data["resumable"], bool):
        raise ValueError("an odd value")
    for name, entry in data["files"].items():
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or name.startswith("/") or "\\" in name:
            raise ValueError(f"a name that leads out of the folder: {name!r}")
        if not isinstance(entry["bytes"], int) or not isinstance(entry["sha256"], str):
            raise ValueError("an odd value")
    missing = [name for name in NEEDED if name not in data["files"]]
    if missing:
        raise ValueError(f"it lists no {missing[0]}")
    return data


def _refuse_foreign(folder: Path, listed: Iterable[str], resumable: bool) -> None:
    known = set(listed)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        left_over = not resumable and name.startswith(RESUMABLE)  # a kill came between the manifest and their removal
        if name not in known and not left_over and name.endswith(LOADED):
            raise _foreign(folder, name)


def _foreign(folder: Path, name: str) -> RunError:
    return RunError(
        f"{folder} holds '{name}', which Equipoise did not write there; nothing was loaded. Find out who did, take it "
        "away, and resume again"
    )


def _fault(folder: Path, listed: Mapping[str, Mapping[str, Any]]) -> str | None:
    for name, entry in listed.items():
        try:
            status = (folder / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
        if not stat.S_ISREG(status.st_mode):
            return f"{name} is no plain file"
        if status.st_size != entry["bytes"]:
            return f"{name} has {status.st_size:,} bytes, and had {entry['bytes']:,} when it was written"
    with ThreadPoolExecutor(THREADS) as pool:
        digests = list(pool.map(_digest, [folder / name for name in listed]))
    for (name, entry), digest in zip(listed.items(), digests, strict=True):
        if digest != entry["sha256"]:
            return f"{name} has changed since it was written: another SHA-256"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flushed(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return file.tell(), digest


def _without_manifest(folder: Path) -> Condition:
    """What can be said of a checkpoint of the time before manifests: JSON parses, containers have their length."""
    resumable = any(path.name.startswith("optimizer") for path in folder.iterdir())
    for name in NEEDED:
        if not (folder / name).is_file():
            return Condition(f"{name} is missing", resumable)
    weights = False
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.name in NEVER_OURS or path.suffix in (".pkl", ".pickle"):
            raise _foreign(folder, name)
        if fault := _unreadable(path):
            return Condition(f"{name} {fault}", resumable)
        weights |= path.suffix in (".safetensors", ".distcp") and path.name not in NEEDED
        if name == STATE_FILE and "format_version" in json.loads(path.read_bytes()):
            return Condition(f"{MANIFEST} is missing", resumable)
    return Condition(None if weights or resumable else "there are no weights in it", resumable)


def _unreadable(path: Path) -> str | None:
    try:
        if path.suffix == ".json":
            if not isinstance(json.loads(path.read_bytes()), dict | list):
                return "is damaged"
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                pass
        elif path.suffix in (".pt", ".pth"):
            with zipfile.ZipFile(path) as container:
                if container.testzip() is not None:
                    return "is damaged: another checksum"
    except (ValueError, SafetensorError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        return f"is damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return None
