"""Checks of settings: what is let through, and what the message says."""

import pytest

from equipoise.balance._settings import flag, known_tasks, number, per_task, whole
from equipoise.errors import BalanceError


def test_valid_values_pass_at_the_bounds() -> None:
    assert number("x", 0, low=0) == 0.0
    assert number("x", 1, low=0, high=1) == 1.0
    assert number("x", -5) == -5.0
    assert whole("n", 2, low=2) == 2
    assert flag("f", False) is False
    assert per_task("p", {"a": 1, "b": 0.5}, above=0) == {"a": 1.0, "b": 0.5}


@pytest.mark.parametrize("value", ["1", None, True, [1.0], float("nan"), float("inf"), -0.1, 1.1])
def test_a_number_out_of_its_range_is_refused(value) -> None:
    with pytest.raises(BalanceError, match="share must be a number at least 0 and at most 1, found"):
        number("share", value, low=0, high=1)


def test_open_bounds_are_open() -> None:
    with pytest.raises(BalanceError, match="t must be a number above 0, found 0"):
        number("t", 0, above=0)
    with pytest.raises(BalanceError, match="t must be a number below 1, found 1"):
        number("t", 1, below=1)


@pytest.mark.parametrize("value", [0, 1.0, "3", True, None])
def test_a_whole_number_is_whole(value) -> None:
    with pytest.raises(BalanceError, match="window must be a whole number, 1 or more, found"):
        whole("window", value, low=1)


@pytest.mark.parametrize("value", ["false", 0, None])
def test_text_is_no_flag(value) -> None:
    with pytest.raises(BalanceError, match="exact must be True or False, found"):
        flag("exact", value)


def test_per_task_numbers_are_checked_one_by_one() -> None:
    with pytest.raises(BalanceError, match="ideal must map tasks' names to numbers, found 3"):
        per_task("ideal", 3)
    with pytest.raises(BalanceError, match=r"ideal\.b must be a number at least 0, found -1"):
        per_task("ideal", {"a": 0, "b": -1}, low=0)


def test_unknown_tasks_are_named_once_the_tasks_are() -> None:
    known_tasks("ideal", ["labels"], [])
    with pytest.raises(BalanceError, match=r"ideal name no task 'labels'. Did you mean 'label'\? Tasks: label, other"):
        known_tasks("ideal", ["labels"], ["label", "other"])
