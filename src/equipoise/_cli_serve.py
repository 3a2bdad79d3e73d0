"""The door of `equipoise serve`; see `cli.py`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from equipoise.errors import ServiceError

__all__ = ["serve"]


def serve(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run folders, or NAME=RUN; the first is the default.")
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 = a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(
            envvar="EQUIPOISE_TOKEN",
            help="What requests must carry. Others see it among the processes: better set the variable.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A file that holds the token, so that it stands in no environment either."),
    ] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Everyone may ask, even beyond this machine.")] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name that requests may call this host by.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; else a GPU if there is one.")] = None,
    precision: Annotated[str, typer.Option(help="fp32; bf16; auto = bf16 where the hardware has it.")] = "auto",
) -> None:
    """Serve trained runs over HTTP, with a page to try them.

    Example: equipoise serve runs/reviews

    Example: equipoise serve old=runs/march new=runs/april --port 9000
    """
    from equipoise import serving

    if token_file is not None:
        if token is not None:
            raise ServiceError(
                "--token-file and a token (--token or EQUIPOISE_TOKEN) contradict each other. Leave one out"
            )
        token = _token_of(token_file)
    if no_token and token is not None:
        raise ServiceError(
            "--no-token and a token (--token, --token-file or EQUIPOISE_TOKEN) contradict each other. Leave one out"
        )
    os.environ.pop("EQUIPOISE_TOKEN", None)  # no process that this one starts needs it
    serving.serve(
        _named(runs),
        host=host,
        port=port,
        token=token,
        open_to_all=no_token,
        hosts=allow_host or [],
        device=device,
        precision=precision,
    )


def _token_of(file: Path) -> str:
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            token = opened.read(4097).strip()
    except OSError as error:
        raise ServiceError(f"the token file {file} cannot be read ({error.strerror or error})") from None
    if not token or len(token) > 4096:  # what stands in it is never told
        raise ServiceError(
            f"the token file {file} holds {'no' if not token else 'more than a'} token. Write one line into it"
        )
    return token


def _named(runs: list[str]) -> dict[str, str | Path]:
    """`NAME=RUN` gives a name; a folder that is called so is a folder."""
    found: dict[str, str | Path] = {}
    for run in runs:
        match = re.fullmatch(r"([^/=]+)=(.+)", run)
        whole = Path(run).resolve().name
        name, folder = (match[1], match[2]) if match and not Path(run).exists() else (whole, run)
        if name in found:
            raise ServiceError(f"two runs are called '{name}'. Give one another name: NAME={folder}")
        found[name] = folder
    return found
