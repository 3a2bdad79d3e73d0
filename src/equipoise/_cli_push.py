"""The door of `equipoise push`; see `cli.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["push"]


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="A repository; it is made if it is not there.")
    ],
    public: Annotated[bool, typer.Option("--public/--private", help="Who may see a repository that is made.")] = False,
    branch: Annotated[str | None, typer.Option(help="Commit to this branch; it is made if it is not there.")] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    with_report: Annotated[
        bool, typer.Option("--with-report", help="Send report.html too. It holds texts of your data.")
    ] = False,
) -> None:
    """Send a run's model and its card to the Hugging Face hub, and nothing else of it.

    Needs a token that may write: hf auth login, or HF_TOKEN.

    Example: equipoise push runs/reviews me/reviews
    """
    from equipoise import sharing

    done = sharing.push(run, repository, public=public, branch=branch, message=message, with_report=with_report)
    for note in done.notes:
        typer.echo(f"warning: {note}", err=True)
    if done.left_out:
        typer.echo(f"not sent, as no part of a model: {', '.join(done.left_out)}", err=True)
    if done.removed:
        typer.echo(f"removed, of an earlier push: {', '.join(done.removed)}", err=True)
    typer.echo(
        f"{len(done.files)} files, {done.bytes / 1e6:.1f} MB, {'private' if done.private else 'public'}: "
        f"{', '.join(done.files)}",
        err=True,
    )
    typer.echo(done.url)
