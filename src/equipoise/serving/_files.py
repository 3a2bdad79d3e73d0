"""Whole tables: taken, scored in the background between the requests, kept for a while, and given back.

They lie in a private temporary folder under names of ours; their ids cannot be guessed. How many, how big and for how
long is bounded.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import secrets
import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from equipoise.errors import DataError, EquipoiseError, ServiceError
from equipoise.serving._guard import short_of_memory
from equipoise.serving._limits import Limits
from equipoise.serving._measures import Measures
from equipoise.serving._parquet_check import TooMuch, rows_of
from equipoise.serving._refusal import Refusal
from equipoise.serving._runs import Served
from equipoise.serving._stand_ins import Cancelled, FirstRows, Lane, Opened
from equipoise.serving._traces import trace_of
from equipoise.serving._worker import Closed, WorkerFailure

if TYPE_CHECKING:
    from equipoise.inference import Counts, Model

__all__ = ["KINDS", "File", "Files", "disk_refusal"]

log = logging.getLogger("equipoise.serving")

KINDS = {
    "csv": "text/csv; charset=utf-8",
    "tsv": "text/tab-separated-values; charset=utf-8",
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
}
#: Rows that are read, scored and written together.
BATCH_ROWS = 1024


@dataclass(eq=False)
class File:
    """One table on its way.

    Attributes:
        name: as the client called it, for messages and the result's name only.
        state: `receiving`, `waiting`, `running`, `done` or `failed`.
        rows_total: None = not known; of text files the number of lines, which is at least that of the rows.
    """

    id: str
    name: str
    kind: str
    source: Path
    result: Path
    run: str = ""
    state: str = "receiving"
    rows_done: int = 0
    rows_total: int | None = None
    bad: int = 0
    error: str | None = None
    changed: float = 0.0  # when its state last changed, monotonic
    fetched: bool = False
    cancelled: bool = False
    lines: int = 0

    def told(self) -> dict[str, Any]:
        """What a client may know."""
        told: dict[str, Any] = {"state": self.state, "rows_done": self.rows_done, "bad": self.bad, "run": self.run}
        if self.rows_total is not None:
            told["rows_total"] = self.rows_total
        if self.error is not None:
            told["error"] = self.error
        return told


class Files:
    """The tables of a service.

    Args:
        limits: of the service.
        measures: its counters.
    """

    def __init__(self, limits: Limits, measures: Measures) -> None:
        self._limits, self._measures = limits, measures
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="equipoise-serve-"))  # for this user only
        except OSError as error:
            raise ServiceError(
                f"there is no place for tables ({error.strerror or error}). Set TMPDIR to a folder with room"
            ) from None
        self._lock = threading.Lock()
        self._files: dict[str, File] = {}
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="equipoise-file")
        #: For `check`, which may start another process: few at once, and in nobody else's way.
        self.checking = ThreadPoolExecutor(max_workers=2, thread_name_prefix="equipoise-check")

    def reserve(self, name: str) -> File:
        """A place for a table that is about to be sent.

        Raises:
            Refusal: 415 its kind is unknown; 429 there is no room.
        """
        suffix = name.rpartition(".")[2].lower() if "." in name else ""
        kind = "jsonl" if suffix == "ndjson" else suffix
        if kind not in KINDS:
            raise Refusal(
                415,
                "the file is of no kind that can be read",
                f"Send one of .{', .'.join(KINDS)}, and its name as ?name=table.csv.",
                where="query name",
            )
        self.sweep()
        with self._lock:
            if len(self._files) >= self._limits.files or self._bytes() >= self._limits.files_bytes:
                fetched = [file for file in self._files.values() if file.fetched]
                if not fetched:
                    raise self._no_room()
                self._remove(min(fetched, key=lambda file: file.changed))
            id_ = secrets.token_urlsafe(18)
            shown = re.sub(r"[^\w.-]+|\.{2,}", "_", name.rsplit("/")[-1])[-80:].lstrip(".-") or kind
            source, result = (self._folder / f"{id_}.{part}.{kind}" for part in ("in", "out"))
            file = File(id_, shown, kind, source, result, changed=time.monotonic())
            self._files[id_] = file
        return file

    def check(self, file: File, served: Served) -> None:
        """Opens a table and reads its first rows, so that what cannot work is told at once.

        Raises:
            Refusal: 422 it is empty or no table, or has not the text columns.
        """
        try:
            if file.source.stat().st_size == 0:
                raise DataError(f"{file.name} is empty. Send a table with a header and rows")
            if file.kind == "parquet":
                file.rows_total = _parquet_rows(file, self._limits.file_rows)
            else:
                file.rows_total = max(0, file.lines - (file.kind != "jsonl"))
            self._predict(file, FirstRows(served.model))
        except Opened:
            pass
        except EquipoiseError as error:
            raise Refusal(
                422,
                self._shown(file, error),
                f"Send a table with the columns {', '.join(served.model.text)}.",
                where="body",
            ) from None

    def start(self, file: File, served: Served) -> None:
        """Puts a table in line.

        Raises:
            Closed: its run has been loaded anew meanwhile.
        """
        served.worker.hold()
        with self._lock:
            file.run, file.state, file.changed = served.name, "waiting", time.monotonic()
        try:
            self._threads.submit(self._score, file, served)
        except RuntimeError:  # the service has stopped
            served.worker.release()
            raise Closed from None

    def get(self, id_: str) -> File:
        """A table by its id.

        Raises:
            Refusal: 404 there is none (any more).
        """
        self.sweep()
        with self._lock:
            file = self._files.get(id_)
        if file is None:
            kept = f"they are kept for {self._limits.file_age_s / 60:.0f} minutes"
            raise Refusal(404, "there is no such file", f"Send it again; {kept}.", where="path")
        return file

    def remove(self, file: File) -> None:
        """Forgets a table; if it is being scored, that ends."""
        with self._lock:
            self._remove(file)

    def sweep(self) -> None:
        """Forgets tables whose time is up."""
        oldest = time.monotonic() - self._limits.file_age_s
        with self._lock:
            for file in list(self._files.values()):
                if file.state in {"done", "failed"} and file.changed < oldest:
                    self._remove(file)

    def room(self) -> None:
        """Checks while a table arrives that there is room for it.

        Raises:
            Refusal: 429 there is none.
        """
        if self._bytes() > self._limits.files_bytes:
            raise self._no_room()

    def unsettled(self) -> set[str]:
        """Tables that were accepted and whose result nobody has seen yet."""
        with self._lock:
            return {
                file.id
                for file in self._files.values()
                if file.state in {"waiting", "running"} or (file.state == "done" and not file.fetched)
            }

    def unfinished(self) -> set[str]:
        """Tables that wait or are being scored."""
        with self._lock:
            return {file.id for file in self._files.values() if file.state in {"waiting", "running"}}

    def close(self) -> None:
        """Ends what runs and removes the folder."""
        with self._lock:
            for file in self._files.values():
                file.cancelled = True
        self.checking.shutdown(wait=False, cancel_futures=True)
        self._threads.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    # Inside ---------------------------------------------------------------------------------------------------------

    def _score(self, file: File, served: Served) -> None:
        try:
            if file.cancelled:
                return
            self._set(file, "running")
            counts = self._predict(file, Lane(served, lambda: file.cancelled))
            file.rows_done, file.bad, file.rows_total = counts.rows, counts.bad, counts.rows
            self._set(file, "done")
        except Cancelled:
            pass
        except EquipoiseError as error:
            self._set(file, "failed", self._shown(file, error))
        except WorkerFailure as error:
            self._set(file, "failed", str(error))
        except OSError as error:
            self._set(file, "failed", f"its result could not be written: {_trouble(error)}")
        except MemoryError:
            self._set(file, "failed", "the service is short of memory. Split it, or try again later")
        except Exception as error:
            log.error("a table failed\n%s", trace_of(error))
            self._set(file, "failed", f"the service failed ({type(error).__name__})")
        finally:
            served.worker.release()
            file.source.unlink(missing_ok=True)
            if file.cancelled or file.state == "failed":
                file.result.unlink(missing_ok=True)

    def _predict(self, file: File, model: FirstRows | Lane) -> Counts:
        from equipoise.inference import predict_file

        def progress(counts: Counts) -> None:
            self._measures.rows.labels(file.run).inc(counts.rows - file.rows_done)
            file.rows_done, file.bad = counts.rows, counts.bad
            if file.cancelled:
                raise Cancelled
            if counts.rows > self._limits.file_rows:
                raise DataError(f"{file.name} has more than {self._limits.file_rows} rows. Split it")
            if self._bytes() > self._limits.files_bytes:
                raise DataError(f"{file.name}: there is no room for its result. Split it, or try again later")

        # Both have what predict_file uses of a model: text, tasks, read and outputs.
        return predict_file(
            cast("Model", model),
            file.source,
            file.result,
            batch_rows=BATCH_ROWS,
            progress=progress,
            most_characters=self._limits.characters_per_text,
        )

    def _set(self, file: File, state: str, error: str | None = None) -> None:
        with self._lock:
            file.state, file.error, file.changed = state, error, time.monotonic()

    def _shown(self, file: File, error: Exception) -> str:
        """An error's words without the place of the file on this machine."""
        message = str(error).replace(str(file.source), file.name).replace(str(self._folder), "")
        printable = "".join(c if c.isprintable() else "\ufffd" for c in message)
        return printable if len(printable) <= 500 else printable[:500] + " ..."

    def _remove(self, file: File) -> None:
        file.cancelled = True
        self._files.pop(file.id, None)
        file.source.unlink(missing_ok=True)
        file.result.unlink(missing_ok=True)

    def _bytes(self) -> int:
        total = 0
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # gone since
                total += path.stat().st_size
        return total

    def _no_room(self) -> Refusal:
        return Refusal(
            429,
            "the service keeps as many files as it may",
            "Fetch and delete results, or try again later.",
            headers={"retry-after": "60"},
        )


def disk_refusal(error: OSError) -> Refusal:
    """What a request is told when its table cannot be kept."""
    if error.errno == errno.ENOMEM:  # no other process could be started
        return short_of_memory()
    how = "Try again later, or tell whoever runs the service."
    return Refusal(507, f"the file cannot be kept: {_trouble(error)}", how, headers={"retry-after": "60"})


def _trouble(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return "the disk of the service is full" if full else f"its folder fails ({error.strerror or type(error).__name__})"


def _parquet_rows(file: File, most: int) -> int:
    try:
        return rows_of(file.source, most)
    except TooMuch as error:
        raise DataError(f"{file.name} {error}") from None
