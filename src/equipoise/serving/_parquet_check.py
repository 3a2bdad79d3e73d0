"""Parquet files that others send, read through once by a process of its own before ours opens them.

A few kilobytes of Parquet can unpack to gigabytes: one long text in a dictionary that every row points at, a page of zeros,
a list of half a billion nothings. And its reader is a large program in C++. So another process reads the file first, in the
same pieces as ours will, with bounded memory and time; what it cannot read so, ours never touches.

Run as a script it is that process: it must import nothing of ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import Any

__all__ = ["TooMuch", "rows_of"]

#: Rows of a piece, as `equipoise.data` reads them; the bytes, and the values in lists, that such a piece may unpack to.
PIECE_ROWS, PIECE_BYTES, PIECE_VALUES = 64, 64 << 20, 4 << 20
#: Of the process that reads, beyond what it starts with; processor seconds; seconds.
MEMORY, PROCESSOR_S, CLOCK_S = 768 << 20, 60, 120


class TooMuch(Exception):
    """The file takes more than it may, or cannot be read. What it says is for the client."""


def rows_of(path: os.PathLike[str] | str, most_rows: int) -> int:
    """The rows of a Parquet file that is whole and safe to read.

    Args:
        path: the file.
        most_rows: that it may have.

    Raises:
        TooMuch: it takes too much memory or time, has too many rows, is broken, or breaks its reader.
        OSError: the process cannot be started.
    """
    command = [sys.executable, "-P", __file__, os.fspath(path), str(most_rows)]
    environment = {name: value for name, value in os.environ.items() if name != "EQUIPOISE_TOKEN"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=CLOCK_S,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TooMuch(f"takes more than {CLOCK_S} seconds to unpack") from None
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:  # it ended without a word: killed for its memory or time, or broken by the file
        raise TooMuch("cannot be unpacked within bounds of memory and time") from None
    if "refused" in found:
        raise TooMuch(str(found["refused"]))
    rows: int = found["rows"]
    return rows


def _main(path: str, most_rows: int) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_memory_pool(pa.system_memory_pool())  # others reserve addresses by the gigabyte
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    _bound()
    read = None
    try:
        with pq.ParquetFile(path) as file:
            rows: int = file.metadata.num_rows
            if rows > most_rows:
                return {"refused": f"has {rows} rows; at most {most_rows} are taken. Split it"}
            read = 0
            for piece in file.iter_batches(batch_size=PIECE_ROWS, use_threads=False):
                arrays = [_plain(array) for array in piece.columns]
                size, values = sum(array.nbytes for array in arrays), sum(map(_values, arrays))
                if size > PIECE_BYTES or values > PIECE_VALUES:
                    where = f"rows {read + 1} to {read + piece.num_rows}"
                    return {"refused": f"unpacks to {size >> 20} MiB and {values} values in {where}: too much at once"}
                read += piece.num_rows
    except MemoryError:
        return {"refused": f"takes more than {MEMORY >> 20} MiB to unpack"}
    except Exception as error:  # also where bounded memory makes a library fail in another way: ours must not try again
        what = "is not a parquet file" if read is None else f"is broken after row {read}"
        said = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")
        return {"refused": f"{what} ({said[:300]})"}
    return {"rows": rows}


def _bound() -> None:
    """Bounds what this process may take from here on."""
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_S, PROCESSOR_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # where there is no /proc, pieces are measured all the same
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _plain(array: Any) -> Any:
    """A column as ours will have it: without dictionary."""
    import pyarrow as pa

    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _values(array: Any) -> int:
    """Values in an array, those inside its lists and structures too."""
    import pyarrow as pa

    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return _values(array.storage)
    if pa.types.is_map(kind):
        return len(array) + _values(array.keys) + _values(array.items)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return len(array) + _values(array.flatten())
    if pa.types.is_struct(kind):
        return len(array) + sum(_values(array.field(at)) for at in range(kind.num_fields))
    return len(array)


if __name__ == "__main__":
    print(json.dumps(_main(sys.argv[1], int(sys.argv[2]))))
