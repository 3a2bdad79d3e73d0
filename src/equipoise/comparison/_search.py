"""The search for settings: trials one after the other, the unpromising ones stopped early. Knows nothing of training."""

from __future__ import annotations

import importlib
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from equipoise.comparison._search_journal import Journal
from equipoise.comparison._search_space import WIDEST, Space
from equipoise.errors import EquipoiseError, RecipeError, RunError

__all__ = ["Found", "Space", "Trial", "TrialFailed", "relative_gain", "require_optuna", "search"]

Report = Callable[[float, float], bool]
Run = Callable[[dict[str, Any], Report], float]
State = Literal["complete", "pruned", "failed"]

# Successive halving compares at 1/9 and at 1/3 of a trial: the best third of those that came so far goes on.
_FULL, _FIRST_RUNG, _REDUCTION = 9000, 1000, 3
_RUNG = "completed_rung_"  # where Optuna's pruner remembers a trial's score at a rung
_AT_RANDOM = 5  # trials before the sampler begins to learn from them


class TrialFailed(RunError):
    """A trial has no score. The search goes on."""


class Trial(TypedDict):
    """One trial that is over, as plain data.

    Attributes:
        number: from 0.
        settings: override -> value.
        score: higher is better; of a pruned trial the last one that it reported, of a failed one None.
        state: `complete`, `pruned` (stopped early) or `failed`.
        reason: why it failed.
    """

    number: int
    settings: dict[str, Any]
    score: float | None
    state: State
    reason: str | None


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        settings: of the best complete trial; of equal ones, of the first.
        score: its score.
        trials: all of them, in order.
    """

    settings: dict[str, Any]
    score: float
    trials: list[Trial]


def search(
    run: Run,
    space: Space,
    *,
    trials: int,
    seed: int,
    first: Mapping[str, Any] | None = None,
    prune: bool = True,
    journal: Path | None = None,
) -> Found:
    """Tries settings, and returns the best.

    Weights are drawn by Optuna's tree-structured Parzen estimator, a grid's points in an order shuffled by the seed. What
    is drawn depends on the seed and the trials before alone, so a search that was interrupted ends as it would have.

    References:
        Algorithms for Hyper-Parameter Optimization (Bergstra et al., 2011)
        https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization
        A System for Massively Parallel Hyperparameter Tuning (Li et al., 2020), for successive halving
        https://arxiv.org/abs/1810.05934

    Args:
        run: trains one trial: `run(settings, report) -> score`, higher is better. It calls `report(share, score)` at each
            evaluation, where `share` in (0, 1] is how much of the training is done, and stops when that returns True; what
            it then returns is not looked at. It may raise `TrialFailed` or another `EquipoiseError`.
        space: the settings to choose from.
        trials: how many to run, those of the journal included. A grid without weights ends when all its points were tried.
        seed: of the search, 0 or more.
        first: the settings of trial 0; None: equal weights, and the first value of every override.
        prune: stop trials that are behind.
        journal: a file that keeps the trials, so that the same call goes on where it was killed; None keeps nothing.

    Raises:
        RecipeError: Optuna is not installed; there is nothing to search, or a setting is out of its range.
        RunError: no trial came to its end, or the journal is of another search.
    """
    optuna = require_optuna()
    if trials < 1 or seed < 0:
        raise RecipeError(f"a search needs one trial or more and a seed of zero or more, found {trials} and {seed}")
    start = space.parameters(first)
    book = Journal(journal, {"space": space.described(), "seed": seed, "first": start, "prune": prune})
    points = space.points(start, seed) or [start]
    budget = trials if space.tasks else min(trials, len(points))
    with _quiet(optuna):
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=_FIRST_RUNG, reduction_factor=_REDUCTION)
        study = optuna.create_study(direction="maximize", pruner=pruner)
        distributions = _distributions(optuna, space)
        for line in book.trials:
            study.add_trial(_restored(optuna, line, distributions, book))
        over = [_told(line, space) for line in book.trials]
        while len(over) < budget:
            number = len(over)
            # A sampler of its own for each trial, so that none depends on how many were drawn since the process started.
            study.sampler = optuna.samplers.TPESampler(
                seed=zlib.crc32(f"{seed} {number}".encode()), n_startup_trials=_AT_RANDOM
            )
            if number < len(points):
                study.enqueue_trial(points[number])
            asked = study.ask(distributions)
            line = _run_trial(run, study, asked, space.settings(asked.params), prune=prune)
            book.append(line)
            over.append(_told(line, space))
    scores = [-math.inf if trial["state"] != "complete" else trial["score"] or 0.0 for trial in over]
    if max(scores) == -math.inf:
        reasons = dict.fromkeys(trial["reason"] for trial in over if trial["reason"])
        raise RunError(f"not one of {len(over)} trials came to its end: {'; '.join(map(str, reasons))}")
    best = scores.index(max(scores))
    return Found(over[best]["settings"], scores[best], over)


def relative_gain(
    metrics: Mapping[str, Mapping[str, Any]],
    reference: Mapping[str, Mapping[str, Any]],
    judged: Mapping[str, str],
) -> float:
    """By how many per cent a trial is better than the reference trial, in the mean of what is judged.

    100 / K sum_i s_i (M_i - R_i) / |R_i|,   s_i = -1 where lower is better, else 1

    M_i and R_i are a judged validation metric of the trial and of the reference (the trial of equal weights). It is
    Delta_m of Maninis et al. (2019), with that trial in place of single-task models.

    Args:
        metrics: task -> metric -> value.
        reference: the same, of the reference.
        judged: `task.metric` -> which is better, `"min"` or `"max"`.

    Raises:
        TrialFailed: a value is missing or not finite, or the reference's is zero.

    Example:
        >>> reference = {"polarity": {"mse": 0.2}, "label": {"accuracy": 0.5}}
        >>> trial = {"polarity": {"mse": 0.1}, "label": {"accuracy": 0.4}}
        >>> round(relative_gain(trial, reference, {"polarity.mse": "min", "label.accuracy": "max"}), 6)
        15.0
    """
    gains = []
    for name, better in judged.items():
        task, _, metric = name.rpartition(".")
        value = _finite(metrics.get(task, {}).get(metric), name)
        base = _finite(reference.get(task, {}).get(metric), f"{name} of the reference")
        if base == 0:
            raise TrialFailed(f"{name} of the reference is 0, so there is no gain relative to it")
        gains.append((-1 if better == "min" else 1) * (value - base) / abs(base))
    return 100 * sum(gains) / len(gains)


def _run_trial(run: Run, study: Any, asked: Any, settings: dict[str, Any], *, prune: bool) -> dict[str, Any]:
    """Runs one trial, tells the study of it, and returns its line of the journal."""
    reports: dict[int, float] = {}
    stopped = False

    def report(share: float, score: float) -> bool:
        nonlocal stopped
        if not 0 < share <= 1:
            raise ValueError(f"share must be in (0, 1], found {share!r}")
        step = math.floor(share * _FULL + 1e-6)
        value = _finite(score, f"the score at {share:.0%} of the training")
        if step in reports:  # Optuna takes the first one only
            return stopped
        reports[step] = value
        asked.report(value, step)
        # What is at its end has nothing left to save.
        stopped = stopped or (prune and step < _FULL and asked.should_prune())
        return stopped

    state: State = "complete"
    score = reason = None
    try:
        returned = run(settings, report)
        score = [*reports.values()][-1] if stopped else _finite(returned, "its score")
        state = "pruned" if stopped else "complete"
    except EquipoiseError as error:
        state, reason = "failed", str(error)
    states = importlib.import_module("optuna.trial").TrialState
    if state == "complete":
        study.tell(asked, score)
    else:
        study.tell(asked, state=states.PRUNED if state == "pruned" else states.FAIL)
    remembered = study.get_trials(deepcopy=False)[asked.number].system_attrs
    return {
        "number": asked.number,
        "settings": settings,
        "state": state,
        "score": score,
        "reason": reason,
        "parameters": asked.params,
        "reports": [[step, value] for step, value in reports.items()],
        "rungs": {key: value for key, value in remembered.items() if key.startswith(_RUNG)},
    }


def _told(line: Mapping[str, Any], space: Space) -> Trial:
    return {
        "number": line["number"],
        "settings": space.settings(line["parameters"]),
        "score": line["score"],
        "state": line["state"],
        "reason": line["reason"],
    }


def _restored(optuna: Any, line: Mapping[str, Any], distributions: dict[str, Any], book: Journal) -> Any:
    """A trial of the journal, as the study would have it."""
    try:
        states = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
        return optuna.trial.create_trial(
            state=optuna.trial.TrialState[states[line["state"]]],
            value=line["score"],
            params=line["parameters"],
            distributions=distributions,
            intermediate_values={int(step): value for step, value in line["reports"]},
            system_attrs=line["rungs"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{book.path}: trial {line['number']} cannot be read ({error}). Delete the file") from error


def _distributions(optuna: Any, space: Space) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in space.ratios:
        found[name] = optuna.distributions.FloatDistribution(1 / WIDEST, WIDEST, log=True)
    for key, values in space.grid.items():
        found[key] = optuna.distributions.CategoricalDistribution(values)
    return found


def _finite(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TrialFailed(f"{what} is {value}")
    return float(value)


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Leaves Optuna's messages out: it would announce every study and every trial."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def require_optuna() -> Any:
    """Optuna, or an error that says how to install it."""
    try:
        return importlib.import_module("optuna")
    except ImportError as error:
        raise RecipeError(
            f'a search needs Optuna. Install it with: pip install "equipoise[compare]" ({error})'
        ) from error
