"""The figure of `scopes.py`: `docs/images/scopes.png`, from `results/scopes.json`.

    python benchmarks/plot_scopes.py

A row is a recipe with two of its tasks; faint lines are single batches, strong ones a running median.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from _common import RESULTS, ROOT
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image

# Okabe and Ito's colours: told apart with any kind of colour vision, and in grey.
PLACES = {
    "representation": ("representation", "#0072B2"),
    "last_layer": ("last layer", "#D55E00"),
    "all": ("all shared", "#1F2A33"),
}
ROWS = {"sst": ("SST", ("polarity", "band")), "emobank": ("EmoBank", ("genre", "valence"))}
INK, SOFT, PALE, LEVEL = "#24323F", "#5D6B78", "#D5DCE2", "#AEB9C3"
TITLE = "The last layer stands well for all shared parameters, the representation only roughly"
BELOW = "Gradients of the same batches at three places, while DAO trains at the representation. Strong lines: running medians."
WINDOW = 9  # measurements

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 11.5,
    "text.color": INK,
    "axes.edgecolor": PALE,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "white",
    "figure.facecolor": "white",
    "xtick.color": PALE,
    "ytick.color": PALE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
}


def running_median(values: np.ndarray) -> np.ndarray:
    """Over `WINDOW` neighbours; at the ends over as many as there are."""
    half = WINDOW // 2
    return np.array([np.median(values[max(0, n - half) : n + half + 1]) for n in range(len(values))])


def label_ends(axes: Any, ends: dict[str, float], *, gap: float) -> None:
    """Writes each line's name at its right end, moved apart where they would touch; `gap`: of the axes' height."""
    places = sorted(ends, key=lambda place: ends[place])
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [to_axes.transform((axes.get_xlim()[1], ends[place]))[1] for place in places]
    for _ in range(200):
        for n in range(len(heights) - 1):
            lack = gap - (heights[n + 1] - heights[n])
            if lack > 0:
                heights[n] -= lack / 2
                heights[n + 1] += lack / 2
    inside = min(0, 0.97 - heights[-1]) + max(0, 0.03 - heights[0])
    for place, height in zip(places, np.array(heights) + inside, strict=True):
        text, colour = PLACES[place]
        axes.text(1.02, height, text, color=colour, transform=axes.transAxes, va="center", fontsize=10, weight="bold")


def as_fraction(value: float, _: object) -> str:
    """Turns 4, 1, 0.25 into 4, 1, 1/4."""
    return f"{value:g}" if value >= 1 else f"1/{1 / value:g}"


def draw(row: Any, found: dict[str, Any], title: str, one: str, other: str) -> None:
    """Draws one recipe's three panels."""
    run = next(iter(found["runs"].values()))
    steps = np.array(run["steps"])
    pair, count = (f"{a}/{b}" for a, b in ((one, other), (other, one))), len(found["tasks"])
    pair = next(name for name in pair if name in run[next(iter(PLACES))]["cosines"])
    texts = (
        (f"{title}: how hard they pull", f"norm of {one} / norm of {other}"),
        (f"{title}: which way", f"cosine of {one} and {other}"),
        (f"{title}: what DAO makes of it", f"weight of {one} (equal: 1)"),
    )
    for axes, (heading, below), level in zip(row, texts, (1, 0, 1), strict=True):
        axes.set_title(heading, loc="left", fontsize=12.5, fontweight="bold", pad=24)
        axes.text(0, 1.045, below, transform=axes.transAxes, color=SOFT)
        axes.axhline(level, color=LEVEL, linewidth=1.2, zorder=0)
        axes.set_xlim(0, steps[-1])
        axes.set_xlabel("step", loc="right", labelpad=-1)
        axes.tick_params(length=3)
    for axes in (row[0], row[2]):
        axes.set_yscale("log", base=2)
    ends: list[dict[str, float]] = [{}, {}, {}]
    for place, (_, colour) in PLACES.items():
        here = run[place]
        curves = (
            np.array(here["norms"][one]) / np.array(here["norms"][other]),
            np.array(here["cosines"][pair]),
            np.array(here["dao"][one]) * count,
        )
        for axes, values, end in zip(row, curves, ends, strict=True):
            smooth = running_median(values)
            axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
            axes.plot(steps, smooth, color=colour, linewidth=2.3, solid_capstyle="round")
            end[place] = smooth[-1]
    for axes in (row[0], row[2]):
        axes.yaxis.set_major_locator(LogLocator(base=2, numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(as_fraction))
    row[1].set_ylim(-0.65, 1.02)  # the same for every recipe
    low, high = row[2].get_ylim()
    row[2].set_ylim(low, max(high, 2.1) if high > 1.2 else high)  # room for the names, and a second tick
    for axes, end in zip(row, ends, strict=True):
        axes.autoscale_view()
        label_ends(axes, end, gap=0.115)


def save(figure: Any, path: Path) -> None:
    """Writes a PNG of few colours: a third of the size, and none the worse."""
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    picture.quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"wrote {path.relative_to(ROOT)} ({path.stat().st_size / 1024:.0f} KiB)")


def main() -> None:
    recipes = json.loads((RESULTS / "scopes.json").read_text(encoding="utf-8"))["recipes"]
    with mpl.rc_context(STYLE):
        figure, grid = plt.subplots(2, 3, figsize=(12, 7), dpi=180)
        figure.subplots_adjust(left=0.048, right=0.894, top=0.8, bottom=0.07, wspace=0.74, hspace=0.52)
        for row, (name, (title, (one, other))) in zip(grid, ROWS.items(), strict=True):
            draw(row, recipes[name], title, one, other)
        figure.text(0.012, 0.953, TITLE, fontsize=16.5, fontweight="bold")
        figure.text(0.012, 0.915, BELOW, color=SOFT)
        save(figure, ROOT / "docs" / "images" / "scopes.png")


if __name__ == "__main__":
    main()
