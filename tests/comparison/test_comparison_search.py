"""A search finds the best settings, stops early what is behind, survives failures, and goes on where it was killed."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from equipoise.comparison._search import TrialFailed, search
from equipoise.comparison._search_space import Space
from equipoise.errors import DataError, RecipeError, RunError

pytest.importorskip("optuna")

WEIGHTS, RATE = "balance.weights", "training.learning_rate"
THREE = Space(tasks=["a", "b", "c"])
RATES = Space(grid={RATE: [2e-5, 5e-5, 1e-4], "training.epochs": [2, 4]})


def hill(settings: dict[str, Any], report: Callable[[float, float], bool]) -> float:
    """Highest, at 0, where b weighs four times a, and c half of it."""
    weights = settings[WEIGHTS]
    a, b, c = (math.log(weights[task]) for task in "abc")
    return -((b - a - math.log(4)) ** 2) - (c - a + math.log(2)) ** 2


# The search ----------------------------------------------------------------------------------------------------------


def test_equal_weights_come_first_and_the_best_trial_is_found() -> None:
    found = search(hill, THREE, trials=40, seed=0)
    assert [trial["number"] for trial in found.trials] == list(range(40))
    assert found.trials[0]["settings"] == {WEIGHTS: {"a": 1.0, "b": 1.0, "c": 1.0}}
    scores = [trial["score"] for trial in found.trials]
    assert found.score == max(score for score in scores if score is not None)
    assert found.settings == found.trials[scores.index(found.score)]["settings"]
    assert found.score > -0.2 > -2.4 > (scores[0] or 0)
    for trial in found.trials:
        weights = trial["settings"][WEIGHTS]
        assert sum(weights.values()) == pytest.approx(3)
        assert all(1 / 30.001 <= weights[task] / weights["a"] <= 30.001 for task in weights)
    json.dumps(found.trials)


def test_what_is_drawn_follows_from_the_seed() -> None:
    found = [search(hill, THREE, trials=12, seed=seed).trials for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0][0] == found[2][0]
    assert all(one["settings"] != other["settings"] for one, other in zip(found[0][1:], found[2][1:], strict=True))


def test_a_grid_is_tried_once_each_and_ends() -> None:
    def run(settings: dict[str, Any], report: object) -> float:
        return -abs(settings[RATE] - 5e-5) - 1e-9 * settings["training.epochs"]

    found = search(run, RATES, trials=100, seed=3)
    tried = [tuple(trial["settings"].values()) for trial in found.trials]
    assert sorted(tried) == [(rate, epochs) for rate in (2e-5, 5e-5, 1e-4) for epochs in (2, 4)]
    assert tried[0] == (2e-5, 2)
    assert found.settings == {RATE: 5e-5, "training.epochs": 2}
    assert [tuple(trial["settings"].values()) for trial in search(run, RATES, trials=3, seed=3).trials] == tried[:3]
    first = {RATE: 1e-4, "training.epochs": 4}
    assert search(run, RATES, trials=1, seed=3, first=first).settings == first


def test_weights_and_a_grid_are_searched_together() -> None:
    space = Space(tasks=["a", "b"], grid={RATE: [2e-5, 5e-5]})
    found = search(lambda settings, report: settings[RATE], space, trials=12, seed=0)
    assert found.settings[RATE] == 5e-5
    assert {trial["settings"][RATE] for trial in found.trials} == {2e-5, 5e-5}


def test_of_equal_trials_the_first_wins() -> None:
    assert search(lambda settings, report: 0.0, THREE, trials=4, seed=0).settings == THREE.settings(THREE.parameters())


# Stopping early ------------------------------------------------------------------------------------------------------


def climbing(settings: dict[str, Any], report: Callable[[float, float], bool]) -> float:
    """A training that is evaluated nine times, and is as good from the first one on as at its end."""
    for evaluation in range(1, 10):
        if report(evaluation / 9, hill(settings, report)):
            return math.nan  # not looked at
    return hill(settings, report)


def test_what_is_behind_is_stopped_and_the_best_never() -> None:
    reached: list[float] = []

    def run(settings: dict[str, Any], report: Callable[[float, float], bool]) -> float:
        reached.append(0)

        def watched(share: float, score: float) -> bool:
            reached[-1] = share
            return report(share, score)

        return climbing(settings, watched)

    found = search(run, THREE, trials=30, seed=0)
    states = [trial["state"] for trial in found.trials]
    assert states[0] == "complete"
    assert states.count("pruned") > 10
    for trial, share in zip(found.trials, reached, strict=True):
        assert share in ((1.0,) if trial["state"] == "complete" else (1 / 9, 3 / 9))
        assert trial["score"] == hill(trial["settings"], lambda *_: False)
    assert found.score == max(trial["score"] or 0 for trial in found.trials)
    # A third goes on, or whoever leads: Li et al.'s rule, by hand, at the first rung.
    seen: list[float] = []
    for trial, share in zip(found.trials, reached, strict=True):
        score = trial["score"]
        assert score is not None
        seen.append(score)
        best = sorted(seen, reverse=True)[: max(len(seen) // 3, 1)]
        assert (share > 1 / 9) == (score in best)


def test_nothing_is_stopped_where_that_was_not_wanted() -> None:
    found = search(climbing, THREE, trials=12, seed=0, prune=False)
    assert {trial["state"] for trial in found.trials} == {"complete"}


def test_the_last_evaluation_stops_nothing() -> None:
    answers: list[bool] = []

    def run(settings: dict[str, Any], report: Callable[[float, float], bool]) -> float:
        answers.append(report(1.0, hill(settings, report)))
        return hill(settings, report)

    search(run, THREE, trials=8, seed=0)
    assert answers == [False] * 8


def test_two_evaluations_at_one_place_are_one() -> None:
    def run(settings: dict[str, Any], report: Callable[[float, float], bool]) -> float:
        report(0.05, 1.0)
        return 0.0 if report(0.05, -1.0) else 1.0

    assert search(run, THREE, trials=2, seed=0).score == 1.0


@pytest.mark.parametrize("share", [0, 1.5, math.nan])
def test_a_share_that_is_none_is_a_bug(share: float) -> None:
    with pytest.raises(ValueError, match="share must be in"):
        search(lambda settings, report: float(report(share, 1.0)), THREE, trials=1, seed=0)


# Failures ------------------------------------------------------------------------------------------------------------


def test_a_failed_trial_is_noted_and_the_search_goes_on() -> None:
    def run(settings: dict[str, Any], report: Callable[[float, float], bool]) -> float:
        if settings[RATE] == 2e-5:
            raise TrialFailed("the loss is not finite")
        if settings["training.epochs"] == 4:
            raise DataError("no rows")
        return math.nan if settings[RATE] == 1e-4 else 1.0

    found = search(run, RATES, trials=6, seed=0)
    assert found.settings == {RATE: 5e-5, "training.epochs": 2}
    told = {tuple(trial["settings"].values()): (trial["state"], trial["reason"]) for trial in found.trials}
    assert told[(2e-5, 2)] == ("failed", "the loss is not finite")
    assert told[(5e-5, 4)] == ("failed", "no rows")
    assert told[(1e-4, 2)] == ("failed", "its score is nan")
    assert told[(5e-5, 2)] == ("complete", None)


def test_where_all_fail_every_reason_is_told_once() -> None:
    def run(settings: dict[str, Any], report: object) -> float:
        raise TrialFailed(f"{settings['training.epochs']} epochs are too many")

    with pytest.raises(RunError, match=r"not one of 6 trials came to its end: . epochs are too many; . epochs"):
        search(run, RATES, trials=6, seed=0)


def test_a_score_that_is_not_finite_on_the_way_fails_the_trial() -> None:
    def run(settings: dict[str, Any], report: Callable[[float, float], bool]) -> float:
        report(0.5, math.inf)
        return 1.0

    with pytest.raises(RunError, match="the score at 50% of the training is inf"):
        search(run, THREE, trials=1, seed=0)


def test_a_bug_in_a_trial_is_no_failed_trial() -> None:
    with pytest.raises(ZeroDivisionError):
        search(lambda settings, report: 1 / 0, THREE, trials=2, seed=0)


@pytest.mark.parametrize(("trials", "seed"), [(0, 0), (1, -1)])
def test_numbers_out_of_range_are_refused(trials: int, seed: int) -> None:
    with pytest.raises(RecipeError, match=f"found {trials} and {seed}"):
        search(hill, THREE, trials=trials, seed=seed)


def test_a_missing_optuna_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RecipeError, match=r'pip install "equipoise\[compare\]"'):
        search(hill, THREE, trials=1, seed=0)


def test_optuna_says_nothing_and_keeps_its_own_level(capfd: pytest.CaptureFixture[str]) -> None:
    import optuna

    optuna.logging.set_verbosity(logging.INFO)
    search(climbing, THREE, trials=3, seed=0)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == logging.INFO


# The journal ---------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a search as a kill would: nothing may catch it."""


def killed_at(number: int, inner: Any = climbing) -> Any:
    calls = iter(range(10**6))

    def run(settings: dict[str, Any], report: Callable[[float, float], bool]) -> float:
        if next(calls) == number:
            report(0.05, 0.0)
            raise Killed
        score: float = inner(settings, report)
        return score

    return run


def sometimes(settings: dict[str, Any], report: Callable[[float, float], bool]) -> float:
    """Fails for a part of the space."""
    if settings[WEIGHTS]["c"] > 1.4:
        raise TrialFailed("too much of c")
    return climbing(settings, report)


def test_a_killed_search_goes_on_and_ends_as_if_it_never_was(tmp_path: Path) -> None:
    whole = search(sometimes, THREE, trials=20, seed=5)
    assert {trial["state"] for trial in whole.trials} == {"complete", "pruned", "failed"}
    journal = tmp_path / "search" / "journal.jsonl"
    for number in (0, 7, 4):  # 0, 7 and 11 trials are over then
        with pytest.raises(Killed):
            search(killed_at(number, sometimes), THREE, trials=20, seed=5, journal=journal)
    ran: list[dict[str, Any]] = []

    def run(settings: dict[str, Any], report: Callable[[float, float], bool]) -> float:
        ran.append(settings)
        return sometimes(settings, report)

    found = search(run, THREE, trials=20, seed=5, journal=journal)
    assert found == whole
    assert ran == [trial["settings"] for trial in whole.trials[11:]]
    assert search(killed_at(0), THREE, trials=20, seed=5, journal=journal) == whole  # nothing is left to run


def test_a_search_can_be_given_more_trials(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    search(climbing, THREE, trials=6, seed=0, journal=journal)
    assert search(climbing, THREE, trials=9, seed=0, journal=journal) == search(climbing, THREE, trials=9, seed=0)


def test_a_grid_goes_on_too(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"

    def run(settings: dict[str, Any], report: object) -> float:
        return float(settings[RATE])

    with pytest.raises(Killed):
        search(killed_at(4, run), RATES, trials=6, seed=2, journal=journal)
    assert search(run, RATES, trials=6, seed=2, journal=journal) == search(run, RATES, trials=6, seed=2)


def test_a_line_that_was_cut_off_is_run_again(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    whole = search(climbing, THREE, trials=6, seed=0, journal=journal)
    content = journal.read_bytes()
    journal.write_bytes(content[:-20])
    assert search(climbing, THREE, trials=6, seed=0, journal=journal) == whole
    assert journal.read_bytes() == content
    journal.write_bytes(content[:10])  # of the heading
    assert search(climbing, THREE, trials=6, seed=0, journal=journal) == whole


def test_a_journal_is_plain_json(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    search(climbing, THREE, trials=2, seed=0, journal=journal)
    heading, first, _ = (json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines())
    assert heading["format_version"] == 1
    assert heading["space"]["tasks"] == ["a", "b", "c"]
    assert first["settings"] == {WEIGHTS: {"a": 1.0, "b": 1.0, "c": 1.0}}
    assert first["state"] == "complete"


@pytest.mark.parametrize("changed", [{"seed": 1}, {"space": Space(tasks=["a", "c", "b"])}, {"prune": False}])
def test_the_journal_of_another_search_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    journal = tmp_path / "journal.jsonl"
    settings: dict[str, Any] = {"space": THREE, "seed": 0, "prune": True}
    search(hill, trials=2, journal=journal, **settings)
    with pytest.raises(RunError, match=r"journal\.jsonl is the journal of another search"):
        search(hill, trials=2, journal=journal, **(settings | changed))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"number": 1', '"number": 7', "missing or out of order"),
        ('{"number": 1', "{number 1", r"journal\.jsonl:3: no line of a search's journal"),
        ('"complete"', '"gone"', "trial 0 cannot be read"),
        ('"ratio:c"', '"ratio:d"', "trial 0 cannot be read"),
    ],
)
def test_a_damaged_journal_is_told(tmp_path: Path, old: str, new: str, words: str) -> None:
    journal = tmp_path / "journal.jsonl"
    search(hill, THREE, trials=3, seed=0, journal=journal)
    heading, _, trials = journal.read_text(encoding="utf-8").partition("\n")
    assert old in trials
    journal.write_text(f"{heading}\n{trials.replace(old, new)}", encoding="utf-8")
    with pytest.raises(RunError, match=words):
        search(hill, THREE, trials=4, seed=0, journal=journal)
