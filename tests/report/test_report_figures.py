"""Pictures: valid for plotly, oriented so that better is up and right, and the same arm in the same colour."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import plotly.graph_objects as go
import pytest
from summaries import arm, difference, judged, judged_page, page_of, spread, summary

from equipoise.report._arms import HUES, arms_of
from equipoise.report._comparison_curves import BUDGET, FEWEST, learning_views, weight_views
from equipoise.report._comparison_forest import difference_views
from equipoise.report._comparison_trade import trade_views
from equipoise.report._comparison_transfer import transfer_figure


def pictures(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="pictures">(.*?)</script>', page, re.S)
    assert found
    return dict(json.loads(found[1]))


def painted(value: Any) -> Any:
    """Names of colours replaced by a colour, as page.js does."""
    if isinstance(value, dict):
        return {
            key: "#123456" if key.endswith("color") and str(one).startswith("$") else painted(one)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return ["#123456" if isinstance(one, str) and one.startswith("$heat") else painted(one) for one in value]
    return value


def test_plotly_knows_every_property() -> None:
    drawn = pictures(judged_page())
    assert len(drawn) > 15
    for picture in painted(drawn).values():
        for trace in picture["data"]:
            trace.pop("band", None)
        go.Figure(picture)  # raises on an unknown property or a value that it can't have


def test_every_colour_is_one_of_the_style_sheet() -> None:
    page = judged_page()
    used = set(re.findall(r'"\$([\w+-]+)~?"', json.dumps(pictures(page))))
    defined = set(re.findall(r"--(\w+): #[0-9a-f]{6};", page))
    assert {"good", "base", "arm0"} <= used | defined
    assert {name for name in used if not name.startswith("heat")} <= defined
    assert {f"arm{hue}" for hue in range(HUES)} <= defined


def test_arms_differ_in_colour_or_line_and_the_shown_ones_in_colour() -> None:
    many = [arm("equal"), arm("dao"), arm("tuned-fixed", "tuned", method="fixed")]
    many += [arm(f"m{at}", mean_rank=float(20 - at)) for at in range(13)]
    arms = arms_of(summary(*many))
    assert len({(one.colour, one.dash) for one in arms}) == len(arms)
    shown = [one for one in arms if one.shown]
    assert [one.name for one in shown] == ["equal", "dao", "m10", "m11", "m12", "tuned-fixed"]
    assert len({one.colour for one in shown}) == len(shown)
    assert (arms[0].colour, arms[0].dash) == ("$base", "dash")
    assert next(one for one in arms if one.name == "dao").colour == "$arm0"
    assert all(one.shown for one in arms_of(judged()) if one.group == "method")  # few arms: all are seen


def test_the_forest_shows_the_interval_and_colours_the_verdict() -> None:
    found = summary(
        arm("equal"),
        arm("dao", differences={"score.mse": difference(3.0, 1.0, "better")}),
        arm("mgda", differences={"score.mse": difference(-2.0, 0.5, "worse")}),
    )
    (view,) = difference_views(found, arms_of(found))
    better, worse = view.figures[0].data
    assert (better["x"], better["y"], better["error_x"]["array"]) == ([3.0], [0], [1.0])
    assert (worse["x"], worse["y"], worse["error_x"]["arrayminus"]) == ([-2.0], [1], [0.5])
    assert [better["marker"]["color"], worse["marker"]["color"]] == ["$good", "$bad"]
    assert "Better: dao; worse: mgda." in view.figures[0].words


def test_an_interval_that_ends_at_zero_keeps_its_length() -> None:
    cut = difference(-2.0, 2.0, "same")
    assert cut["relative"]["high"] == 0.0
    found = summary(arm("equal"), arm("dao", differences={"score.mse": cut}))
    trace = difference_views(found, arms_of(found))[0].figures[0].data[0]
    assert trace["error_x"]["array"] == [2.0]


def test_better_is_up_and_right() -> None:
    summed = judged()
    (view,) = trade_views(summed, arms_of(summed))
    layout = view.figures[0].layout
    assert layout["xaxis"]["autorange"] == "reversed"  # polarity mse: lower is better
    assert "autorange" not in layout["yaxis"]  # label macro_f1
    assert "lower is better →" in layout["xaxis"]["title"]["text"]
    assert "higher is better ↑" in layout["yaxis"]["title"]["text"]
    assert "Pareto" in view.figures[0].words


def test_trials_of_another_split_are_said_to_be() -> None:
    other = copy.deepcopy(judged())
    other["pareto"]["split"] = "validation"
    assert "judged on the validation split" in trade_views(other, arms_of(other))[0].figures[0].words
    other["pareto"]["split"] = other["split"]
    assert "validation split" not in trade_views(other, arms_of(other))[0].figures[0].words


def test_curves_have_bands_and_long_ones_say_that_they_are_thinned() -> None:
    summed = judged()
    arms = arms_of(summed)
    figure = learning_views(summed, arms)[0].figures[0]
    dao = next(one for one in arms if one.name == "dao")
    trace = next(one for one in figure.data if one["meta"] == dao.key)
    curve = summed["curves"]["dao"]["validation"]["polarity.mse"]
    assert trace["x"] == curve["examples"]
    assert trace["y"] == pytest.approx(curve["mean"], rel=1e-3)
    assert trace["band"]["high"] == pytest.approx(curve["high"], rel=1e-3)
    assert "evenly spaced" not in figure.words

    long = {"step": list(range(5000)), "mean": [1.0] * 5000, "low": [None] * 5000, "high": [None] * 5000}
    found = summary(arm("equal"), curves={"equal": {"weights": {"score": long}}})
    figure = weight_views(found, arms_of(found))[0].figures[0]
    assert FEWEST <= len(figure.data[0]["x"]) == 200 <= BUDGET
    assert figure.data[0]["x"][0] == 0
    assert figure.data[0]["x"][-1] == 4999
    assert "200 evenly spaced ones of up to 5,000 logged steps" in figure.words
    assert "Constant: equal." in figure.words
    assert "band" not in figure.data[0]


def test_the_transfer_matrix_is_centred_at_zero_and_bold_where_it_is_sure() -> None:
    matrix = {
        "tasks": ["a", "b"],
        "source": "pairs",
        "gain": [[None, 4.0], [-8.0, None]],
        "low": [[None, 1.0], [-20.0, None]],
        "high": [[None, 7.0], [4.0, None]],
        "verdict": [[None, "better"], ["same", None]],
    }
    figure = transfer_figure(summary(arm("equal"), transfer=matrix))
    assert figure is not None
    trace = figure.data[0]
    assert (trace["zmin"], trace["zmax"]) == (-8.0, 8.0)
    assert trace["text"] == [["", "<b>+4.0 %</b>"], ["−8.0 %", ""]]
    assert "Lowest: b with a, −8.0 %; highest: a with b, +4.0 %." in figure.words
    assert transfer_figure(summary(arm("equal"))) is None


def test_one_seed_has_no_interval_and_still_a_page() -> None:
    alone = arm("dao", metrics={"score": {"mse": spread(0.08, None)}}, delta_m=spread(1.0, None), mean_rank=1.0)
    page = page_of(summary(arm("equal"), alone, seeds=[0]))
    assert "0.0800 ± 0.0030" in page
    assert "1 seed ·" in page
