"""The HTTP service: trained runs behind JSON endpoints, and a page to try them.

`serve` starts it and stays until it is told to stop; `create_app` gives the ASGI application for a server of your own.
The order of a request: `_protocol.py` (the connection and its clocks), `_guard.py` (who may ask, what is logged and counted),
`_app.py` (the endpoints), `_bodies.py` (what was sent, read within limits and checked), `_service.py` and `_runs.py` (which
model), `_worker.py` (the one thread that uses it: requests of the same moment share its batches), and `_files.py` for whole
tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from equipoise.errors import ServiceError
from equipoise.serving._limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from equipoise.runs import Run

__all__ = ["Limits", "create_app", "serve"]


def create_app(
    runs: str | Path | Run | Sequence[str | Path | Run] | Mapping[str, str | Path | Run],
    *,
    token: str | None = None,
    hosts: Sequence[str] = (),
    device: str | None = None,
    precision: str = "auto",
    limits: Limits | None = None,
) -> FastAPI:
    """The service as an ASGI application, its runs loaded.

    Args:
        runs: a run or several; a mapping gives them names, else each has its folder's. The first is the default.
        token: what a request must carry as `Authorization: Bearer TOKEN`; None = everyone may ask.
        hosts: names beside `localhost` and the loopback addresses that a request may ask for in its `Host`.
        device: where the models run; None = a GPU if there is one.
        precision: as of `equipoise.load`.
        limits: what a request may cost.

    Raises:
        RunError: a run cannot be loaded.
        ServiceError: two runs have the same name, or the packages of `equipoise[serve]` are missing.
    """
    _needs_packages()
    from equipoise.serving._app import build

    return build(runs, token=token, hosts=hosts, device=device, precision=precision, limits=limits or Limits())


def serve(
    runs: str | Path | Run | Sequence[str | Path | Run] | Mapping[str, str | Path | Run],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    open_to_all: bool = False,
    hosts: Sequence[str] = (),
    device: str | None = None,
    precision: str = "auto",
    limits: Limits | None = None,
) -> None:
    """Serves runs over HTTP until SIGINT or SIGTERM comes; then finishes what it accepted, and returns.

    Args:
        runs: as `create_app`.
        host: the address to listen on.
        port: the port; 0 = a free one.
        token: as `create_app`.
        open_to_all: listen beyond this machine without a token all the same.
        hosts: as `create_app`.
        device: as `create_app`.
        precision: as `create_app`.
        limits: as `create_app`.

    Raises:
        RunError: a run cannot be loaded.
        ServiceError: the port is taken, or the address is open to others and there is no token.

    Example:
        eq.serve("runs/reviews", port=8000)
    """
    _needs_packages()
    from equipoise.serving._server import run_server

    run_server(
        runs,
        host=host,
        port=port,
        token=token,
        open_to_all=open_to_all,
        hosts=hosts,
        device=device,
        precision=precision,
        limits=limits or Limits(),
    )


def _needs_packages() -> None:
    try:
        import fastapi
        import prometheus_client
        import uvicorn
    except ImportError as error:
        raise ServiceError(
            f'the service needs the package {error.name}. Install it with: pip install "equipoise[serve]"'
        ) from None
    del fastapi, prometheus_client, uvicorn
