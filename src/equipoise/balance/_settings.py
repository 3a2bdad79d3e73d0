"""Checks of settings: recipes and notebooks bring what they like, so types are checked as well as ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from equipoise.balance._registry import did_you_mean
from equipoise.errors import BalanceError

Scale = Literal["tasks", "one"]  # what the weights sum to


def number(
    setting: str,
    value: object,
    *,
    low: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    high: float = math.inf,
) -> float:
    """Returns a setting's value if it is a finite number with low <= value <= high and above < value < below.

    Args:
        setting: its name, for the message.
        value: what the user gave.
        low: least valid value.
        above: every valid value is greater.
        below: every valid value is less.
        high: greatest valid value.

    Raises:
        BalanceError: it is no number, not finite or out of the range.

    Example:
        >>> number("temperature", 2, above=0)
        2.0
    """
    valid = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if valid and low <= value <= high and above < value < below:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    bounds = [("at least", low), ("above", above), ("at most", high), ("below", below)]
    words = " and ".join(f"{word} {bound:g}" for word, bound in bounds if math.isfinite(bound))
    raise BalanceError(f"{setting} must be a number{' ' * bool(words)}{words}, found {value!r}")


def whole(setting: str, value: object, *, low: int) -> int:
    """Returns a setting's value if it is a whole number, `low` or more.

    Raises:
        BalanceError: it is not.

    Example:
        >>> whole("window", 100, low=1)
        100
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise BalanceError(f"{setting} must be a whole number, {low} or more, found {value!r}")
    return value


def flag(setting: str, value: object) -> bool:
    """Returns a setting's value if it is True or False: the text "false" is true, so text is refused.

    Raises:
        BalanceError: it is neither.
    """
    if not isinstance(value, bool):
        raise BalanceError(f"{setting} must be True or False, found {value!r}")
    return value


def per_task(setting: str, value: object, *, low: float = -math.inf, above: float = -math.inf) -> dict[str, float]:
    """Returns a setting that maps tasks to numbers, each checked as `number` does.

    Raises:
        BalanceError: it is no mapping, or a number is out of the range.

    Example:
        >>> per_task("ideal", {"label": 0}, low=0)
        {'label': 0.0}
    """
    if not isinstance(value, Mapping):
        raise BalanceError(f"{setting} must map tasks' names to numbers, found {value!r}")
    return {str(task): number(f"{setting}.{task}", given, low=low, above=above) for task, given in value.items()}


def known_tasks(setting: str, named: Sequence[str], tasks: Sequence[str]) -> None:
    """Checks that a setting names no task which the run does not have; says nothing while the tasks have no names yet.

    Raises:
        BalanceError: it does, with the nearest name.
    """
    for task in named:
        if tasks and task not in tasks:
            raise BalanceError(f"{setting} name no task {task!r}.{did_you_mean(task, tasks)} Tasks: {', '.join(tasks)}")


def choice(setting: str, value: str, options: tuple[str, ...]) -> str:
    """Returns a setting's value, or raises with the valid ones if it is none of them."""
    if value not in options:
        hint = did_you_mean(value, options)
        raise BalanceError(f"{setting} must be one of {', '.join(map(repr, options))}, found {value!r}.{hint}")
    return value
