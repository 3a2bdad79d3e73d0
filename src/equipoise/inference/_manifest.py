"""The record in a folder of predictions: what each file was made of, so that a run that was killed goes on.

`_manifest.jsonl` holds a header and one line a file, in the order they are finished, each flushed to disk at once; the
last line of a name counts. A line that a kill cut off is no line: its file is scored once more.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from equipoise.errors import RunError
from equipoise.runs import write_text

__all__ = ["MANIFEST", "Manifest", "open_manifest"]

MANIFEST = "_manifest.jsonl"  # readers of whole folders (Spark, Arrow) pass over names with an underscore before them

_HEADER = {"equipoise": "predictions", "format_version": 1}


class Manifest:
    """The records of one folder, while they are being added to; made by `open_manifest`.

    Attributes:
        records: output name -> its latest record, plain data.
    """

    def __init__(self, path: Path, records: dict[str, dict[str, Any]]) -> None:
        self._path = path
        self.records = records
        self.rewrite()

    def add(self, record: Mapping[str, Any]) -> None:
        """Adds a record, on disk when this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())
        self.records[record["output"]] = dict(record)

    def rewrite(self) -> None:
        """Leaves one line a file, by name."""
        lines = [_line(self.records[name]) for name in sorted(self.records)]
        write_text(self._path, "".join([_line(_HEADER), *lines]))


@contextlib.contextmanager
def open_manifest(folder: Path) -> Iterator[Manifest]:
    """Makes the folder if need be, reads its record and keeps others from writing there.

    Raises:
        RunError: the folder cannot be made, another prediction is writing to it, or the record is none of ours or of a
            newer version.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise RunError(f"output: the folder '{folder}' cannot be used: {error.strerror}") from None
    try:
        _lock(handle, folder)
        manifest = Manifest(folder / MANIFEST, _read(folder / MANIFEST))
        try:
            yield manifest
        finally:
            manifest.rewrite()
    finally:
        os.close(handle)  # which unlocks it, as the end of the process would


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(f"another prediction is writing to {folder}. Wait for it, or choose another folder") from None
    except OSError:
        # A file system without locks: two predictions into one folder do double work, but no file is ever mixed.
        return


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    header = _parsed(lines[0])
    if header.get("equipoise") != _HEADER["equipoise"]:
        raise RunError(f"{path} is no record of equipoise predict. Choose another folder")
    if header.get("format_version") != _HEADER["format_version"]:
        raise RunError(
            f"{path} was written by another version of equipoise (format {header.get('format_version')}, this one reads "
            f"{_HEADER['format_version']}). Choose another folder"
        )
    return {record["output"]: record for line in lines[1:] if isinstance((record := _parsed(line)).get("output"), str)}


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, allow_nan=False) + "\n"  # in ASCII: a file's name may be no valid Unicode
