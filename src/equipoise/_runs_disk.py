"""Files and folders that are whole or absent under their names, whatever stops the writing."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["atomic_path", "recover_folder", "remove_folder", "replace_folder", "sync", "write_json", "write_text"]


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`; what is written there takes its place if nothing fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        if temporary.exists():
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Writes a whole JSON file or nothing. NaN is refused: it is no JSON, and would hide a failure."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def replace_folder(temporary: Path, final: Path) -> None:
    """Puts a finished folder in its place; the one that stood there goes.

    No system renames a folder over one that is not empty, so there is a moment in which the new one and the one before
    both have hidden names. A failure there puts the one before back; after a kill there, `recover_folder` does.
    """
    for path in temporary.rglob("*"):
        if not path.is_symlink():
            sync(path)
    sync(temporary)
    recover_folder(final)
    if final.exists():
        old = _hidden(final)
        shutil.rmtree(old, ignore_errors=True)
        os.replace(final, old)
        try:
            os.replace(temporary, final)
        except OSError:
            os.replace(old, final)
            raise
        sync(final.parent)  # on disk, before the one before goes
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(temporary, final)
    sync(final.parent)


def recover_folder(final: Path) -> bool:
    """Puts a folder back that a kill in `replace_folder` left under its hidden name; says whether there was one."""
    if final.exists() or not _hidden(final).is_dir():
        return False
    os.replace(_hidden(final), final)
    return True


def remove_folder(path: Path) -> None:
    """Takes a folder away: under its name it is whole or absent."""
    hidden = path.with_name(f".{path.name.lstrip('.')}.gone.tmp")
    shutil.rmtree(hidden, ignore_errors=True)
    os.replace(path, hidden)
    shutil.rmtree(hidden)


def sync(path: Path) -> None:
    """Has the disk keep what a file holds, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot do it for a folder, and keep names without.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(handle)


def _hidden(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")
