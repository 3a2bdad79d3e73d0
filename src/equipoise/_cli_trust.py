"""The option of every command that loads a run by itself: whether the code that a model brings along may run."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["TrustOption"]

TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the code that the model brings along. Read it before; else such a run is refused.",
    ),
]
