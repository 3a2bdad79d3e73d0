"""Summaries of comparisons: a real one, and small ones written out by hand for what real runs hardly ever give."""

from __future__ import annotations

from functools import cache
from typing import Any

from evaluation.comparison_records import records, train_targets

from equipoise.evaluation import summarise
from equipoise.report import comparison_page

RECIPE = "data: news.csv\n# <b>a & b</b>\n"


def spread(mean: float, half: float | None) -> dict[str, Any]:
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return {"mean": mean, "low": low, "high": high, "sd": half, "values": [mean]}


def difference(percent: float, half: float, verdict: str) -> dict[str, Any]:
    return {
        **spread(-percent / 1000, half / 1000),
        "relative": spread(percent, half),
        "p": 0.01,
        "p_holm": 0.04,
        "seeds_sd": 0.001,
        "rows_se": 0.002,
        "n": 3,
        "rows": 100,
        "tests": 4,
        "seeds_needed": 7,
        "rows_needed": None,
        "verdict": verdict,
    }


def arm(name: str, group: str = "method", **more: Any) -> dict[str, Any]:
    """One arm of one task `score`."""
    return {
        "arm": name,
        "method": name,
        "group": group,
        "tasks": ["score"],
        "settings": {},
        "runs": 3,
        "failed": [],
        "metrics": {"score": {"mse": spread(0.08, 0.003), "n": spread(100, 0)}},
        "differences": {},
        "versus_single": {},
        "delta_m": None,
        "mean_rank": None,
        "cost": {
            "seconds": 60.0,
            "seconds_ratio": 1.0,
            "peak_memory_mb": 900.0,
            "memory_ratio": 1.0,
            "extra_backwards_per_step": 0.0,
            "examples": 1000,
            "search": None,
        },
        "equal_time": {},
        "regions": {},
        **more,
    }


def summary(*arms: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A comparison of these arms; the first is the baseline."""
    return {
        "format_version": 1,
        "baseline": arms[0]["arm"],
        "seeds": [0, 1, 2],
        "folds": None,
        "level": 0.95,
        "split": "test",
        "rows": {"score": 100},
        "train_rows": 500,
        "tasks": {"score": {"kind": "regression", "metric": "mse", "better": "min", "classes": None}},
        "judged": ["score.mse"],
        "arms": list(arms),
        "equal_time_seconds": None,
        "pareto": None,
        "transfer": None,
        "curves": {},
        "verdict": ["One method is better."],
        "rule": "A rule.",
        **more,
    }


def page_of(found: dict[str, Any], **more: Any) -> str:
    """The page of a summary."""
    given = {
        "title": "News",
        "recipe_text": RECIPE,
        "command": "equipoise compare news.yaml",
        "versions": {"torch": "2"},
    }
    return comparison_page(found, **{**given, **more})


@cache
def judged() -> dict[str, Any]:
    """Two tasks, four arms and the models of one task; one run failed, fixed weights were searched. Don't change it."""
    runs, tasks = records(tuned=True, search=8, failed=[("uncertainty", 1)])
    return summarise(runs, tasks=tasks, baseline="equal", train_targets=train_targets(list(tasks)))


@cache
def judged_page() -> str:
    """The page of `judged`."""
    return page_of(judged())
