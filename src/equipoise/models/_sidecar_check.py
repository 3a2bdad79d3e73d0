"""Whether what `multitask.json` says of a task is what a task says of itself. Files of others are not taken at their word."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from equipoise.tasks import kind

__all__ = ["check_task"]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_number, value))


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _names(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(map(_text, value)) and len(set(value)) == len(value)


def _rising(value: Any) -> bool:
    return _numbers(value) and all(a < b for a, b in pairwise(value))


def _or_null(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _density(value: Any) -> bool:
    if not isinstance(value, dict) or not _number(value.get("low")) or not _number(value.get("per_unit")):
        return False
    return _numbers(value.get("weights")) and bool(value["weights"])


#: Key of any kind of task -> what its value must be. A kind that says more checks it itself.
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "kind": _text,
    "name": lambda value: _text(value) and bool(value),
    "column": _text,
    "outputs": lambda value: isinstance(value, list) and len(value) == 2 and all(type(one) is int for one in value),
    "range": _or_null(lambda value: _rising(value) and len(value) == 2),
    "offset": _number,
    "scale": lambda value: _number(value) and value > 0,
    "loss": lambda value: value in ("mse", "mae", "huber"),
    "huber_delta": lambda value: _number(value) and value > 0,
    "label_weights": _or_null(_density),
    "labels": _names,
    "casefold": lambda value: isinstance(value, bool),
    "weights": _or_null(_numbers),
    "label_smoothing": lambda value: _number(value) and 0 <= value < 1,
    "thresholds": _or_null(lambda value: _rising(value) and bool(value)),
    "separator": lambda value: _text(value) and bool(value),
    "empty": _or_null(_text),
    "threshold": lambda value: _number(value) and 0 < value < 1,
}


def check_task(item: Any, *, source: bool = False) -> None:
    """Checks one task's mapping as it was read.

    Args:
        item: of `tasks`, or the `source` of a derived task.
        source: it is one; then it has no outputs of its own, and only scores can be.

    Raises:
        RecipeError: there is no such kind of task.
        ValueError: a key is missing or has a value that no task writes.
    """
    if not isinstance(item, Mapping):
        raise ValueError(f"a task is {_short(item)}")
    for key in ("kind", "name", "column") if source else ("kind", "name", "column", "outputs"):
        if key not in item:
            raise ValueError(f"a task has no {key}")
    for key, value in item.items():
        if key in _CHECKS and not _CHECKS[key](value):
            raise ValueError(f"{key} of the task {_short(item['name'])} is {_short(value)}")
    kind(item["kind"])
    labels, weights, cuts = item.get("labels"), item.get("weights"), item.get("thresholds")
    if weights is not None and (labels is None or len(weights) != len(labels)):
        raise ValueError(f"the task {_short(item['name'])} has not one weight a class")
    if cuts is not None and (labels is None or len(cuts) != len(labels) - 1 or item.get("source") is None):
        raise ValueError(f"the thresholds of the task {_short(item['name'])} do not part its classes")
    if item.get("source") is not None:
        if source or not isinstance(item["source"], Mapping) or item["source"].get("kind") != "regression":
            raise ValueError(f"the task {_short(item['name'])} is derived from what is no score")
        check_task(item["source"], source=True)


def _short(value: Any) -> str:
    found = repr(value)
    return found if len(found) <= 100 else f"{found[:100]}..."
