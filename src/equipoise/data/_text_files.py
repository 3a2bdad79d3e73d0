"""Text files of others: regular ones only, UTF-8 only, read in lines of bounded length."""

from __future__ import annotations

import gzip
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from equipoise.errors import DataError

__all__ = ["LINE_CHARACTERS", "Lines", "LongLine", "check_file", "open_text"]

#: A longer line is no row of a table, and may be a gzip file's way to fill the memory.
LINE_CHARACTERS = 1 << 24

#: How a file begins -> what it is, and what to do.
_SIGNATURES = [
    (b"\xff\xfe\x00\x00", "is UTF-32, not UTF-8. Save it as UTF-8."),
    (b"\x00\x00\xfe\xff", "is UTF-32, not UTF-8. Save it as UTF-8."),
    (b"\xff\xfe", "is UTF-16, not UTF-8. Save it as UTF-8."),
    (b"\xfe\xff", "is UTF-16, not UTF-8. Save it as UTF-8."),
    (b"\x1f\x8b", "is compressed with gzip. Let its name end with .gz, or unpack it."),
    (b"\xfd7zXZ\x00", "is compressed with xz. Unpack it."),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd. Unpack it."),
    (b"PK\x03\x04", "is a zip archive or a workbook. Unpack it, or save the sheet as CSV in UTF-8."),
    (b"\xd0\xcf\x11\xe0", "is a workbook of old. Save the sheet as CSV in UTF-8."),
    (b"PAR1\x15", "is a parquet file. Let its name end with .parquet."),
]

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class LongLine(Exception):
    """A line that is longer than `LINE_CHARACTERS`; it has been passed over."""


class Lines:
    """The lines of a text file. One that is too long raises `LongLine` in its turn, and the next one follows.

    Args:
        file: opened by `open_text`.
        ends: the characters that end a line there.

    Attributes:
        number: how many lines have been read.
    """

    def __init__(self, file: TextIO, ends: str) -> None:
        self._file, self._ends = file, ends
        self.number = 0

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(LINE_CHARACTERS + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > LINE_CHARACTERS:
            while line and line[-1] not in self._ends:
                line = self._file.readline(LINE_CHARACTERS)
            raise LongLine
        return line


def check_file(path: Path, name: str) -> bool:
    """Whether there is such a file. What is no file is refused: a pipe would wait for ever, and is read once only.

    Raises:
        DataError: it is a folder, a pipe, a socket or a device, or the system does not say what it is.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}).") from error
    except ValueError as error:  # a NUL in it, or half a character
        raise DataError(f"{name!r} is no name of a file ({error}).") from error
    if stat.S_ISDIR(mode):
        raise DataError(f"{name} is a folder. Name a file in it.")
    if not stat.S_ISREG(mode):
        what = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise DataError(f"{name} is no file but {what}, and a table is read more than once. Save it as a file first.")
    return True


@contextmanager
def open_text(path: Path, name: str, *, newline: str) -> Iterator[TextIO]:
    """Opens a file, gzipped or not, as UTF-8 with or without a byte order mark. Stray bytes become lone surrogates.

    Raises:
        DataError: its first bytes are those of UTF-16, UTF-32, an archive or a parquet file.
    """
    with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as raw:
        head = raw.peek(16)[:16]
        for signature, told in _SIGNATURES:
            if head.startswith(signature):
                raise DataError(f"{name} {told}")
        with io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline=newline) as text:
            yield text
