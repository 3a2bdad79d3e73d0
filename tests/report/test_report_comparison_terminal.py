"""The comparison on the terminal: every number in its place, and all of it in 100 columns."""

from __future__ import annotations

from io import StringIO
from typing import Any, get_args

import pytest
from rich.console import Console
from summaries import arm, difference, judged, page_of, spread, summary

from equipoise.comparison._arms import Group
from equipoise.evaluation._measurements import PARTS as JUDGED_APART
from equipoise.report import comparison_lines, comparison_table
from equipoise.report._arms import GROUPS, PARTS


def shown(found: dict[str, Any], width: int = 100) -> str:
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(comparison_table(found))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_values_differences_and_marks() -> None:
    dao = arm("dao", differences={"score.mse": difference(3.2, 1.1, "better")}, delta_m=spread(2.0, 0.5), mean_rank=1.5)
    lost = arm("lost", differences={"score.mse": difference(-4.0, 0.5, "worse")})
    text = shown(summary(arm("equal"), dao, lost))
    assert "0.0800 ± 0.0030" in text
    assert "▲ +3.2 [+2.1, +4.3]" in text
    assert "▼ −4.0 [−4.5, −3.5]" in text
    assert "+2.00 ± 0.50" in text
    assert "1.50" in text


def test_four_metrics_and_sixteen_arms_fit_into_a_hundred_columns() -> None:
    metrics = {name: spread(0.08, 0.003) for name in ("mse", "mae", "r2", "pearson")}
    names = [f"score.{name}" for name in metrics]
    differences = {name: difference(-123.4, 111.1, "same") for name in names}
    arms = [arm("equal", metrics={"score": metrics})]
    arms += [arm(f"a-rather-long-name-{at}", metrics={"score": metrics}, differences=differences) for at in range(15)]
    text = shown(summary(*arms, judged=names))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    assert "…" not in text
    for name in ("score mse", "score mae", "score r2", "score pearson", *(one["arm"] for one in arms)):
        assert name in text


def test_what_a_search_cost_and_what_was_reached_in_equal_time() -> None:
    quick = arm("equal", equal_time={"score.mse": spread(0.081, 0.002)})
    slow = arm("slow", equal_time={"score.mse": spread(0.093, 0.004)})
    slow["cost"] |= {"search": {"trials": 24, "seconds": 1320.0, "examples": 9, "settings": {}}}
    late = arm("late", equal_time={"score.mse": None})
    text = shown(summary(quick, slow, late, equal_time_seconds=61.2))
    assert "24 in 22.0 min" in text
    _, _, last = text.partition("at equal wall time: validation after 61.2 s of training")
    rows = {line.split()[0]: line.split()[1:] for line in last.splitlines()[1:] if "±" in line}
    assert rows == {"equal": ["0.0810", "±", "0.0020"], "slow": ["0.0930", "±", "0.0040"]}
    assert "search" not in shown(summary(quick))
    assert "wall time" not in shown(summary(arm("equal")))


@pytest.mark.parametrize("group", get_args(Group))
def test_arms_of_every_kind_are_listed(group: Group) -> None:
    assert set(GROUPS) == set(get_args(Group))
    assert set(PARTS) == JUDGED_APART
    one = arm("odd one out", group)
    assert "odd one out" in shown(summary(arm("equal"), one))
    assert "odd one out" in page_of(summary(arm("equal"), one))


def test_names_are_text_and_no_markup() -> None:
    assert "[red]x[/red]" in shown(summary(arm("equal"), arm("[red]x[/red]")))


def test_nothing_finished() -> None:
    failed = arm("equal", runs=0, metrics={"score": {}}, failed=[{"seed": 0, "fold": 2, "reason": "no memory"}])
    failed["cost"] = dict.fromkeys(failed["cost"])
    found = summary(failed, verdict=["Nothing was finished."])
    assert "equal" in shown(found)
    assert comparison_lines(found) == ["Nothing was finished.", "failed: equal, seed 0, fold 2: no memory"]


def test_a_reason_that_the_verdict_gives_is_not_said_twice() -> None:
    found = summary(
        arm("dao", failed=[{"seed": 0, "fold": None, "reason": "too big"}]), verdict=["dao failed: too big."]
    )
    assert comparison_lines(found) == ["dao failed: too big."]


def test_a_real_comparison() -> None:
    summed = judged()
    text = shown(summed)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    for one in summed["arms"]:
        assert one["arm"] in text
    value = next(one for one in summed["arms"] if one["arm"] == "dao")["metrics"]["polarity"]["mse"]
    assert f"{value['mean']:.4f} ± {(value['high'] - value['low']) / 2:.4f}" in text
    assert any("uncertainty" in line and "step 57" in line for line in comparison_lines(summed))
