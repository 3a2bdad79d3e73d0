"""Pieces of HTML. Whatever comes from data is escaped here, and nowhere else is HTML put together from it."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

from equipoise.report._arms import GROUPS, Arm
from equipoise.report._figures import Figure, View
from equipoise.report._series import Series

__all__ = [
    "Gallery",
    "Html",
    "arm_cell",
    "choices",
    "copied",
    "details",
    "in_threes",
    "listing",
    "paragraph",
    "script_json",
    "section",
    "table",
    "text",
]


class Html(str):
    """Text that is HTML already. Any other text is escaped."""

    __slots__ = ()


def text(value: str) -> Html:
    """Plain text as HTML."""
    return value if isinstance(value, Html) else Html(html.escape(value))


def paragraph(words: str, kind: str = "") -> Html:
    """A paragraph."""
    return Html(f"<p{_class(kind)}>{text(words)}</p>")


def listing(items: Iterable[str]) -> Html:
    """A list of sentences."""
    return Html(f'<ul class="said">{"".join(f"<li>{text(one)}</li>" for one in items)}</ul>')


def copied(identifier: str, words: str) -> Html:
    """Text as it is, with a button that copies it."""
    return Html(
        f'<div class="copy"><pre id="{identifier}">{text(words)}</pre>'
        f'<button type="button" data-copy="{identifier}">Copy</button></div>'
    )


def details(summary: str, *inside: Html, opened: bool = False) -> Html:
    """Something to unfold."""
    return Html(f"<details{' open' if opened else ''}><summary>{text(summary)}</summary>{''.join(inside)}</details>")


def section(identifier: str, title: str, lead: str, *inside: Html) -> Html:
    """A part of the page with its heading and a sentence that says how to read it."""
    said = paragraph(lead, "lead") if lead else ""
    return Html(f'<section id="{identifier}"><h2>{text(title)}</h2>{said}{"".join(inside)}</section>')


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], caption: str, *, words: int = 1, wrapped: bool = False
) -> Html:
    """A table that scrolls inside its own box.

    Args:
        head: names of the columns.
        rows: cells; the first is the row's heading.
        caption: what the table shows; also the name of its box for screen readers.
        words: so many columns from the left hold words and stand left; the others hold numbers and stand right.
        wrapped: cells hold sentences, which are broken into lines.
    """
    kinds = ["" if at < words else "number" for at in range(len(head))]
    top = "".join(f'<th scope="col"{_class(kind)}>{text(name)}</th>' for name, kind in zip(head, kinds, strict=True))
    body = []
    for row in rows:
        first, *others = (text(cell) for cell in row)
        cells = "".join(f"<td{_class(kind)}>{cell}</td>" for cell, kind in zip(others, kinds[1:], strict=True))
        body.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    label, kind = html.escape(caption), "scroll wrapped" if wrapped else "scroll"
    return Html(
        f'<div class="{kind}" role="region" tabindex="0" aria-label="{label}"><table><caption>{label}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def arm_cell(arm: Arm, *, kind: bool = False) -> Html:
    """An arm's name behind its colour, with a note where it is the baseline, or on request where it isn't a method."""
    said = "baseline" if arm.baseline else GROUPS[arm.group] if kind and arm.group != "method" else ""
    note = f' <span class="note">{said}</span>' if said else ""
    return Html(f"{_swatch(arm)}{text(arm.name)}{note}")


def choices(arms: Sequence[Series], label: str = "Arms to show", kind: str = "chips") -> Html:
    """Buttons that show and hide series in all pictures: the legend of every one of them."""
    buttons = "".join(
        f'<button type="button" class="chip" data-arm="{arm.key}" aria-pressed="{str(arm.shown).lower()}">'
        f"{_swatch(arm)}{text(arm.name)}</button>"
        for arm in arms
    )
    return Html(f'<div class="{kind}" role="group" aria-label="{html.escape(label)}">{buttons}</div>')


def in_threes(figures: int) -> bool:
    """Whether so many pictures look better three in a row than two."""
    return figures == 3 or figures > 4


class Gallery:
    """The page's pictures: puts their places into the page and keeps what is to be drawn there."""

    def __init__(self) -> None:
        self.drawn: dict[str, dict[str, Any]] = {}
        self._views = 0

    def views(self, views: Sequence[View], chips: Sequence[Arm] = (), *, narrow: bool = False) -> Html:
        """Views of pictures, with a choice among them where there are several, and buttons for arms where given.

        Args:
            views: what there is to see.
            chips: arms that the reader shows and hides.
            narrow: three pictures stand side by side where there is room, else two.
        """
        kind = "panels narrow" if narrow else "panels"
        self._views += 1
        name = f"v{self._views}"
        picker = ""
        if len(views) > 1:
            options = "".join(
                f'<option value="{name}-{at}">{text(view.label)}</option>' for at, view in enumerate(views)
            )
            picker = f'<label class="picker">Show <select data-views="{name}">{options}</select></label>'
        bodies = "".join(
            f'<div class="view" id="{name}-{at}"{" hidden" if at else ""}><div class="{kind}">'
            f"{''.join(self.figure(figure) for figure in view.figures)}</div></div>"
            for at, view in enumerate(views)
        )
        return Html(f"{picker}{choices(chips) if chips else ''}{bodies}")

    def figure(self, figure: Figure) -> Html:
        """The place of one picture."""
        name = f"f{len(self.drawn)}"
        self.drawn[name] = {"data": figure.data, "layout": figure.layout}
        wide = f' style="max-width:{figure.widest}px"' if figure.widest else ""
        words = html.escape(figure.words)
        return Html(
            f'<figure{wide}><div class="top"><h3>{text(figure.title)}</h3><button type="button" class="save" '
            f'data-save="{name}" aria-label="Save the picture {text(figure.title)} as SVG">SVG</button></div>'
            f'<div class="plot" id="{name}" role="img" aria-label="{words}" style="height:{figure.layout["height"]}px"></div>'
            f"<figcaption>{words}</figcaption></figure>"
        )


def script_json(identifier: str, value: Any) -> Html:
    """Data for the page's script. No `<` is left in it, so nothing in it can end the element."""
    body = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for sign, code in (
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        body = body.replace(sign, code)
    return Html(f'<script type="application/json" id="{identifier}">{body}</script>')


def _swatch(arm: Series) -> str:
    """A short piece of the arm's line, drawn as a border in its colour and dash."""
    colour = arm.colour.removeprefix("$")
    return f'<span class="swatch {colour} {arm.dash}" aria-hidden="true"></span>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
