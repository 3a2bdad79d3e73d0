"""What is drawn again and again on one page, in one colour: an arm of a comparison, a task of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["DASHES", "HUES", "SYMBOLS", "Series", "series_of", "shortened"]

#: How many colours the palettes of `page.css` have.
HUES = 7
DASHES = ("solid", "dot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")
LONGEST = 26


@dataclass(frozen=True)
class Series:
    """One thing and how it is drawn.

    Attributes:
        key: `a0`, `a1`, ...: what the page's script calls it.
        name: as the user wrote it.
        label: the name, shortened for axes.
        colour: a name of the page's palette, which is another in the dark than in the light.
        dash: of its lines; series of one colour differ in it.
        symbol: of its points.
        shown: whether pictures of many lines show it before the reader asks for it.
    """

    key: str
    name: str
    label: str
    colour: str
    dash: str
    symbol: str
    shown: bool


def shortened(name: str, longest: int = LONGEST) -> str:
    """A name that an axis has room for."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def series_of(names: Sequence[str], prefix: str = "a") -> list[Series]:
    """A colour for each name, and another dash and symbol where the colours begin again; all are shown."""
    found = []
    for position, name in enumerate(names):
        lap, hue = divmod(position, HUES)
        found.append(
            Series(
                key=f"{prefix}{position}",
                name=name,
                label=shortened(name),
                colour=f"$arm{hue}",
                dash=DASHES[lap % len(DASHES)],
                symbol=SYMBOLS[lap % len(SYMBOLS)],
                shown=True,
            )
        )
    return found
