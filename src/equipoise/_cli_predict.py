"""The door of `equipoise predict`; see `cli.py`."""

from __future__ import annotations

import glob
import io
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equipoise._cli_trust import TrustOption
from equipoise.errors import DataError, RunError

if TYPE_CHECKING:
    from equipoise.inference import FileResult, Scored

__all__ = ["predict"]


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="A table, several, a quoted pattern, or - for one text a line on standard input."
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", help="csv, tsv, jsonl or parquet; of many inputs a folder; - is jsonl on standard output."
        ),
    ] = "-",
    format: Annotated[
        str | None, typer.Option("--format", help="Of the outputs in a folder; else each as its input.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="Into a folder: local, one file after the other, or ray, on a Ray cluster.")
    ] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="Files at a time on Ray.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads of one worker.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16, or auto: bf16 where the hardware has it.")] = "auto",
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda; else a GPU if there is one.")] = None,
    raw_cells: Annotated[
        bool,
        typer.Option(
            "--raw-cells",
            help="csv, tsv: leave texts that begin like a formula as they are; a spreadsheet may run them.",
        ),
    ] = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Predict every row of a table: its order and columns are kept, prediction columns added.

    Of many tables, each gives one of the same name in the folder OUTPUT. The same command goes on where it was stopped.

    Example: equipoise predict runs/reviews new.csv -o scored.csv

    Example: head -5 texts.txt | equipoise predict runs/reviews -

    Example: equipoise predict runs/reviews 'in/*.parquet' -o out/ --engine ray --workers 8
    """
    if _into_folder(sources, output):
        if trust_remote_code:
            raise RunError("--trust-remote-code goes with one table: a run with code of its own is not scored in bulk")
        from equipoise.inference import predict_files

        scored = predict_files(
            run, sources, output, format=format, engine=engine, workers=workers, threads=threads, device=device,
            precision=precision, raw_cells=raw_cells, progress=_Lines(),
        )  # fmt: skip
        _tell(scored, output)
        return
    for name, value in (("format", format), ("engine", None if engine == "local" else engine), ("workers", workers)):
        if value is not None:
            raise DataError(f"--{name} {value} goes with a folder of outputs. Name one: -o out/")
    _one(
        run,
        sources[0],
        output,
        raw_cells,
        device=device,
        precision=precision,
        threads=threads,
        trust_remote_code=trust_remote_code,
    )


def _into_folder(sources: list[str], output: str) -> bool:
    """Whether outputs go to a folder; what only a folder can take must not be given something else."""
    several = len(sources) > 1 or (glob.has_magic(sources[0]) and not os.path.exists(sources[0]))
    folder = output.endswith(("/", os.sep)) or os.path.isdir(output)
    if "-" in sources and (several or folder):
        raise DataError("standard input (-) goes alone, into one file: -o FILE")
    if several and not folder and (output == "-" or Path(output).suffix):
        raise DataError(f"{' '.join(sources[:2])}{' ...' * (len(sources) > 2)}: many inputs need a folder: -o out/")
    return several or folder


def _one(run: Path, source: str, output: str, raw_cells: bool, **options: Any) -> None:
    from equipoise.inference import load, predict_file, predict_lines

    model = load(run, **options)
    lines = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="surrogateescape") if source == "-" else None
    if lines is not None:
        counts = predict_lines(model, lines, output, raw_cells=raw_cells)
    else:
        counts = predict_file(model, source, output, raw_cells=raw_cells)
    _say(_rows(counts.rows, counts.bad) + ("" if output == "-" else f" -> {output}"))


class _Lines:
    """Tells of files as they are done: what went wrong at once, the rest now and then."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def __call__(self, result: FileResult, number: int, total: int) -> None:
        if result.redone is not None:
            _say(f"scored again, {result.redone}: {result.input}")
        if result.status == "failed":
            _say(f"failed: {result.reason}")
        if time.monotonic() - self._told > 10:
            self._told = time.monotonic()
            _say(f"{number} of {total} files")


def _tell(scored: Scored, output: str) -> None:
    counts = {status: len(scored.having(status)) for status in ("scored", "kept", "failed")}
    words = {"scored": "scored", "kept": "kept of an earlier run", "failed": "failed"}
    told = ", ".join(f"{count} {words[status]}" for status, count in counts.items() if count)
    _say(
        f"{len(scored.files)} file{'s' * (len(scored.files) != 1)} ({told}), {_rows(scored.rows, scored.bad)} -> {output}"
    )
    if counts["failed"]:
        raise DataError(
            f"{counts['failed']} of {len(scored.files)} files could not be scored; the reasons are above and in "
            f"{Path(output) / '_manifest.jsonl'}. Mend them and run the same command again: the others are kept"
        )


def _rows(rows: int, bad: int) -> str:
    told = f", {bad} of them not predicted (see the column 'error')" if bad else ""
    return f"{rows} row{'s' * (rows != 1)}{told}"


def _say(line: str) -> None:
    from equipoise.terminal import visible

    typer.echo(visible(line), err=True)
