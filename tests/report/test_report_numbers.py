"""Digits, signs and intervals."""

from __future__ import annotations

from typing import Any

import pytest

from equipoise.report import _numbers as numbers


@pytest.mark.parametrize(
    ("values", "spreads", "places"),
    [
        ([0.0812], [0.0031], 4),  # two significant digits of the interval
        ([81.2], [3.1], 1),
        ([812.0], [31.0], 0),
        ([0.5], [None, 0.0], 4),  # no interval: four digits of the value
        ([12345.0], [], 0),
        ([1e-12], [1e-12], 6),
        ([], [], 2),
        ([0.0], [], 2),
    ],
)
def test_a_column_shows_as_many_digits_as_its_intervals_support(
    values: list[float], spreads: list[Any], places: int
) -> None:
    assert numbers.decimals(values, spreads) == places


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.25, "+1.2"), (-0.36, "−0.4"), (-0.04, "0.0"), (0.04, "0.0"), (None, "–"), (1234.5, "+1,234.5")],
)
def test_signs(value: float | None, text: str) -> None:
    assert numbers.signed(value, 1) == text


def test_mean_and_interval() -> None:
    found = {"mean": 0.5, "low": 0.4, "high": 0.6}
    assert numbers.plus_minus(found, 2) == "0.50 ± 0.10"
    assert numbers.interval(found, 1) == "[+0.4, +0.6]"
    alone = {"mean": 0.5, "low": None, "high": None}
    assert numbers.plus_minus(alone, 2) == "0.50"
    assert numbers.interval(alone, 1) == ""
    assert numbers.plus_minus(None, 2) == numbers.plus_minus({"mean": None}, 2) == "–"


def test_seconds_and_ratios() -> None:
    assert [numbers.seconds(value) for value in (None, 1.0, 119.96, 180, 7200)] == [
        "–",
        "1.0 s",
        "120.0 s",
        "3.0 min",
        "2.00 h",
    ]
    assert numbers.ratio(1.125) == "1.12×"
    assert numbers.ratio(None) == "–"
