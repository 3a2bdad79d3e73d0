"""What a disk can do to a training, as one clear error: full, read-only, forbidden, gone."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from equipoise.errors import EquipoiseError, RunError
from equipoise.runs import Run

__all__ = ["disk_faults", "gone"]

#: Of torch, where nothing is known but that a file could not be written.
UNTOLD = -1
#: Error number -> what it means here, what to do.
WORDS = {
    errno.ENOSPC: ("the disk is full", "make room"),
    errno.EDQUOT: ("the disk quota is used up", "make room"),
    errno.EFBIG: ("a file would be larger than this process or disk allows", "raise the limit"),
    errno.EROFS: ("the file system is read-only", "make it writable"),
    errno.EACCES: ("permission is denied", "change the permissions"),
    errno.EPERM: ("the operation is not permitted", "change the permissions"),
    errno.EIO: ("the disk reports an error of its own", "look after the disk"),
    errno.ESTALE: ("the network file system has lost the file", "see that it is there"),
    errno.ENODEV: ("the disk is gone", "see that it is there"),
    errno.ENXIO: ("the disk is gone", "see that it is there"),
    errno.EMFILE: ("this process has too many files open", "raise the limit"),
    errno.ENFILE: ("the system has too many files open", "close some"),
    UNTOLD: ("a file could not be written, and torch does not say why", "look at limits, quota and disk"),
}
ABSENT = (errno.ENOENT, errno.ENOTDIR)
#: How torch's C++ writer says that a file could not be opened or written; it keeps the system's reason to itself.
TORCH = re.compile(
    r"inline_container|iostream error|PytorchStreamWriter|Parent directory .* does not exist|cannot be opened"
)
#: A disk with less left than this (bytes) is full.
FULL = 64 * 1024


@contextlib.contextmanager
def disk_faults(run: Run) -> Iterator[None]:
    """Turns what the system says about files into one `RunError`: what happened, what is kept, what to do.

    Libraries say it in their own ways: OSError, the text of an error from Rust, torch's RuntimeError. What is no such
    fault passes as it is.
    """
    try:
        yield
    except EquipoiseError:
        raise
    except Exception as error:
        told = _told(error, run)
        if told is None:
            raise
        raise RunError(told) from error


def gone(run: Run) -> RunError:
    """The error of a run whose folder somebody took away while it was written."""
    return RunError(f"'{run.folder}' is gone: something removed the run folder while it was in use. Train it anew")


def _told(error: BaseException, run: Run) -> str | None:
    code, file = _reason(error, run)
    if code in ABSENT:
        if not run.folder.is_dir():
            return str(gone(run))
        inside = file is not None and any(
            place in Path(file).absolute().parents for place in (run.folder.absolute(), run.cache_folder)
        )
        return (
            f"{file} is gone: something removed it while the run was in use. {_what_now(run, None)}" if inside else None
        )
    if code not in WORDS:
        return None
    fault, remedy = WORDS[code]
    where = file or f"'{run.folder}'"
    free = f" ({_free(run):,} bytes free)" if code in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{where}: {fault}{free}. {_what_now(run, remedy)}"


def _reason(error: BaseException | None, run: Run) -> tuple[int | None, str | None]:
    """The system's error number and the file, as far as they are told."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno, None if error.filename is None else os.fsdecode(error.filename)
        if found := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors, tokenizers
            return int(found[1]), None
        if isinstance(error, RuntimeError) and TORCH.search(str(error)):
            if not run.folder.is_dir():
                return errno.ENOENT, None
            return (errno.ENOSPC if _free(run) < FULL else UNTOLD), None
        error = error.__cause__
    return None, None


def _free(run: Run) -> int:
    place = run.folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _what_now(run: Run, remedy: str | None) -> str:
    first = "" if remedy is None else f"{remedy[0].upper()}{remedy[1:]}, then: "
    command = f"equipoise train --resume {run.folder}"
    try:
        checkpoints = run.checkpoints()
        if not run.recipe_file.exists():
            return f"{first}train again"
    except OSError:  # the very fault that is told forbids to look
        return f"{first}{command}"
    if not checkpoints:
        return f"{first}{command} (from its start: there is no checkpoint yet)"
    return f"Nothing up to {checkpoints[-1].name} is lost. {first}{command}"
