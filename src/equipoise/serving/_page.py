"""The page at `/`: files of the package, by a fixed list. No request decides a path."""

from __future__ import annotations

from pathlib import Path

from fastapi.responses import Response

from equipoise.serving._refusal import Refusal

__all__ = ["page_file"]

FOLDER = Path(__file__).parent / "page"
SCRIPTS = ("page", "api", "cards", "files", "nodes", "panel", "pictures", "tables", "text", "words")
FILES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    **{f"{name}.js": "text/javascript; charset=utf-8" for name in SCRIPTS},
}
#: Only what the service itself sends may run or be shown; images may stand in the page itself.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page_file(name: str) -> Response:
    """One file of the page.

    Raises:
        Refusal: 404 there is no such.
    """
    if name not in FILES or not (FOLDER / name).is_file():
        raise Refusal(404, "there is no such file of the page", "Open the page at /.", where="path")
    # Small files: read anew each time, so that nothing stale is shown after an update.
    return Response(
        (FOLDER / name).read_bytes(),
        media_type=FILES[name],
        headers={"content-security-policy": POLICY, "cache-control": "no-cache"},
    )
