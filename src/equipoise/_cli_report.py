"""The door of `equipoise report`; see `cli.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report"]


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write; else report.html in the run folder.")
    ] = None,
) -> None:
    """Write the report of a run: one page with pictures that opens offline. It holds texts of the largest errors.

    Example: equipoise report runs/reviews
    """
    from equipoise.report import write_report

    typer.echo(f"wrote {write_report(run, output)}", err=True)
