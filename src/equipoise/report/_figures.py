"""What all pictures of the page share: plain plotly dictionaries, whose colours are names.

A colour is a name such as `$ink` or `$arm3`, and `$arm3~` is a pale one for bands. The page's script (`page.js`) puts in the
light or the dark palette, so that a picture follows the reader's choice. Only values of keys that end in `color`,
`colors` or `colorscale` are looked up: a label can't be mistaken for a colour.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equipoise.report._series import Series

__all__ = ["Figure", "View", "axis", "layout", "line", "points", "readable", "rounded", "vertical"]


@dataclass(frozen=True)
class Figure:
    """One picture.

    Attributes:
        title: a few words above it.
        words: what it shows, in a sentence or two: the caption, and what a screen reader says.
        data: plotly's traces; `meta` is the key of the series (an arm, a task) that a trace belongs to, and `band` ours
            (see `line`).
        layout: plotly's layout.
        widest: in pixels; None takes the whole column.
    """

    title: str
    words: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    widest: int | None = None


@dataclass(frozen=True)
class View:
    """Pictures that are seen together; the reader chooses among views by their label."""

    label: str
    figures: Sequence[Figure]


def readable(text: str) -> str:
    """Text for plotly, which reads tags, entities and `%{...}` in every label."""
    return html.escape(text).replace("%{", "%&#123;")


def rounded(values: Iterable[float | None], digits: int = 5) -> list[float | None]:
    """Five significant digits are more than a picture shows, and make a smaller page."""
    return [None if value is None else float(f"{value:.{digits}g}") for value in values]


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with thin lines and a title that makes room for itself."""
    return {
        "title": {"text": title, "font": {"size": 12, "color": "$quiet"}, "standoff": 8},
        "automargin": True,
        "gridcolor": "$grid",
        "zeroline": False,
        "tickfont": {"size": 11.5, "color": "$quiet"},
        "ticks": "",
        **more,
    }


def layout(height: int, x: Mapping[str, Any], y: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A layout without background, legend or dragging: a finger that scrolls the page must not zoom a picture."""
    return {
        "height": height,
        "autosize": True,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 12.5, "color": "$ink"},
        "hoverlabel": {"bgcolor": "$card", "bordercolor": "$grid", "font": {"color": "$ink", "size": 12.5}},
        "showlegend": False,
        "dragmode": False,
        "hovermode": "closest",
        "xaxis": dict(x),
        "yaxis": dict(y),
        **more,
    }


def vertical(at: float) -> dict[str, Any]:
    """A line from top to bottom."""
    return {
        "type": "line",
        "x0": at,
        "x1": at,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "layer": "below",
        "line": {"color": "$quiet", "width": 1.4},
    }


def line(arm: Series, x: Sequence[float], found: Mapping[str, Sequence[float | None]], places: int) -> dict[str, Any]:
    """An arm's mean over `x`, with the ends of its intervals, which the page's script draws as a band.

    Args:
        arm: whose line it is, an arm's or a task's.
        x: steps or examples, [points].
        found: `mean`, `low` and `high`, each [points].
        places: decimals of the value under the pointer.
    """
    trace: dict[str, Any] = {
        "type": "scatter",
        "meta": arm.key,
        "mode": "lines" if len(x) > 12 else "lines+markers",
        "x": list(x),
        "y": rounded(found["mean"], 4),
        "line": {"color": arm.colour, "width": 2.2, "dash": arm.dash},
        "marker": {"color": arm.colour, "size": 5, "symbol": arm.symbol},
        "hovertemplate": f"<b>{readable(arm.label)}</b><br>%{{x:,}}: %{{y:.{places}f}}<extra></extra>",
    }
    if any(low is not None and low != high for low, high in zip(found["low"], found["high"], strict=True)):
        ends = {key: rounded(found[key], 4) for key in ("low", "high")}
        trace["band"] = {**ends, "color": f"{arm.colour}~"}
    return trace


def points(arm: Series, x: Sequence[float], y: Sequence[float], hover: Sequence[str], **marker: Any) -> dict[str, Any]:
    """An arm's or a task's points in its colour and shape."""
    return {
        "type": "scatter",
        "meta": arm.key,
        "mode": "markers",
        "x": rounded(x),
        "y": rounded(y),
        "marker": {"color": arm.colour, "symbol": arm.symbol, **marker},
        "hovertext": list(hover),
        "hoverinfo": "text",
    }
