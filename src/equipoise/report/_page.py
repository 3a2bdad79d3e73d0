"""The shell of a page: one file with plotly's script, our style and ours alone; nothing is loaded from anywhere.

The Content-Security-Policy names the two scripts by their SHA-256. A script that got into the page in any other way, such as
through a label, would not run even if the escaping failed.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from equipoise.errors import RunError
from equipoise.report._html import Html, script_json

__all__ = ["page"]


def page(
    title: str,
    about: str,
    parts: Sequence[Html],
    pictures: Mapping[str, Any],
    *,
    file: str = "comparison.html",
) -> str:
    """The whole document.

    Args:
        title: plain text.
        about: one line under it, plain text.
        parts: sections; each has an `id` and an `<h2>`.
        pictures: id of the place -> plotly's data and layout.
        file: what the page is called, for the error.

    Raises:
        RunError: plotly isn't installed.
    """
    scripts = [_plotly(file), _own("page.js")]
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    # Plotly writes style attributes, hence inline styles; its icons and ours are data: images.
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    policy += "form-action 'none'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="equipoise">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_own("page.css")}</style>
</head>
<body>
<a class="skip" href="#verdict">Skip to the verdict</a>
<header>
<div><h1>{html.escape(title)}</h1><p class="about">{html.escape(about)}</p></div>
<button type="button" id="theme" aria-pressed="false">Dark</button>
</header>
<nav aria-label="Contents">{_contents(parts)}</nav>
<noscript><p class="lead">The pictures need JavaScript. Every number that they show stands in the tables.</p></noscript>
<main>{"".join(parts)}</main>
<footer>Made by equipoise. This file loads nothing: it can be kept, sent and opened without a network.</footer>
{script_json("pictures", pictures)}
<script>{scripts[0]}</script>
<script>{scripts[1]}</script>
</body>
</html>
"""


def _contents(parts: Sequence[Html]) -> str:
    """Links to the sections, named by their headings, which are HTML already."""
    links = []
    for part in parts:
        identifier = part.split('id="', 1)[1].split('"', 1)[0]
        heading = part.split("<h2>", 1)[1].split("</h2>", 1)[0]
        links.append(f'<a href="#{identifier}">{heading}</a>')
    return "".join(links)


def _plotly(file: str) -> str:
    try:
        # Here because it takes a while, and nothing but a page needs it.
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise RunError(f"{file} is drawn with plotly. Install it: pip install plotly") from error
    script = str(get_plotlyjs())
    if "</script" in script.lower():
        raise RunError("this version of plotly has a script that can't be put into a page: it contains </script")
    # A browser reads \r\n as \n, and would find another digest than ours.
    return script.replace("\r\n", "\n").replace("\r", "\n")


def _own(name: str) -> str:
    return files("equipoise.report").joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
