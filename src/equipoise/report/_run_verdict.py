"""Whether a run beats its baselines: a rule, and what comes of it in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equipoise.report._numbers import decimals, number
from equipoise.report._run_arrays import DRAWS, interval_over_rows
from equipoise.report._run_facts import RunFacts, TaskFacts

__all__ = ["BASELINES", "RULE", "Standing", "headline", "named", "sentence", "standing"]

#: In the order of the page; the words for a table and for a sentence.
BASELINES = {"tfidf": ("TF-IDF + linear", "TF-IDF"), "constant": ("constant", "the constant")}
#: Metrics in words.
NAMES = {
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "r2": "R²",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "ccc": "concordance (CCC)",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "mcc": "Matthews correlation",
    "quadratic_kappa": "quadratic kappa",
    "average_precision": "average precision",
    "subset_accuracy": "all classes right",
}
RULE = (
    "Each task is judged by its main metric on the test split (validation where there is no test split). The constant always "
    "says the mean or the most frequent class of the training labels; TF-IDF is a linear model on words and pairs of words. "
    "A task beats a baseline, or is worse than it, where the baseline's value lies outside the run's own 95 % interval; else "
    f"the two are not told apart. The interval says what other rows would have brought: up to {DRAWS:,} bootstrap draws of "
    "the judged rows. It says nothing of other seeds: equipoise compare does. Where there is no interval, the plain "
    "values are compared."
)


@dataclass(frozen=True)
class Standing:
    """One task beside its baselines.

    Attributes:
        task: the task.
        value: its main metric on the judged split, None where it has no meaning.
        interval: 95 % over rows, or None.
        rows: judged rows.
        baselines: `tfidf`, `constant` -> value of the same metric; those without one are absent.
        against: the same keys -> `better`, `worse` or `same`.
    """

    task: TaskFacts
    value: float | None
    interval: tuple[float, float] | None
    rows: int
    baselines: Mapping[str, float]
    against: Mapping[str, str]

    @property
    def lower(self) -> bool:
        """Whether less of the metric is better."""
        return self.task.directions[self.task.main] == "min"

    @property
    def places(self) -> int:
        """Decimals that the interval supports."""
        spread = [] if self.interval is None else [(self.interval[1] - self.interval[0]) / 2]
        return decimals([self.value, *self.baselines.values()], spread)

    @property
    def ahead(self) -> bool:
        """Whether it beats every baseline that there is."""
        return bool(self.against) and set(self.against.values()) == {"better"}

    def skill(self, value: float | None) -> float | None:
        """The share of the way from the constant to a perfect model, `(value - constant) / (perfect - constant)`."""
        start, perfect = self.baselines.get("constant"), 0.0 if self.lower else 1.0
        if value is None or start is None or abs(perfect - start) < 1e-12:
            return None
        return (value - start) / (perfect - start)


def standing(facts: RunFacts, task: TaskFacts, split: str) -> Standing | None:
    """How a task stands on a split; None where it was not judged there."""
    values = facts.values(task.name, split)
    if not values:
        return None
    value, interval = _number(values.get(task.main)), interval_over_rows(task, facts.rows(task, split))
    found = {}
    for key in BASELINES:
        rival = _number((facts.baselines(task.name, split).get(key) or {}).get(task.main))
        if rival is not None:
            found[key] = rival
    lower = task.directions[task.main] == "min"
    against = {} if value is None else {key: _verdict(value, interval, one, lower) for key, one in found.items()}
    return Standing(task, value, interval, int(values.get("n") or 0), found, against)


def _verdict(value: float, interval: tuple[float, float] | None, rival: float, lower: bool) -> str:
    low, high = interval or (value, value)
    if low <= rival <= high:
        return "same"
    return "better" if (value < rival) == lower else "worse"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def named(metric: str, kind: str) -> str:
    """A metric of a task of some kind in words."""
    if (metric, kind) == ("mae", "ordinal"):
        return "mean error in ranks"
    return NAMES.get(metric, metric)


def headline(facts: RunFacts, standings: Sequence[Standing]) -> str:
    """One sentence: what was trained on what, and whether it beats its baselines."""
    train = ((facts.metrics.get("data") or {}).get("splits") or {}).get("train") or {}
    what = facts.backbone.rstrip("/").rpartition("/")[2] if facts.backbone.startswith((".", "/")) else facts.backbone
    on = f", trained on {train['rows']:,} rows," if isinstance(train.get("rows"), int) else ", trained,"
    compared = [one for one in standings if one.against]
    if not compared:
        return f"{what}{on} could be compared with no baseline."
    ahead = [one.task.name for one in compared if one.ahead]
    both = "both baselines" if any(len(one.against) > 1 for one in compared) else "the constant"
    if not ahead:
        said = _beaten(compared)
    elif len(compared) == 1:
        said = f"beats {both} on its task {ahead[0]}"
    elif len(ahead) == len(compared):
        said = f"beats {both} on " + (f"both tasks, {_listed(ahead)}" if len(ahead) == 2 else f"all {len(ahead)} tasks")
    else:
        named = f": {_listed(ahead)}" if len(ahead) <= 4 else ""
        said = f"beats {both} on {len(ahead)} of {len(compared)} tasks{named}"
    return f"{what}{on} {said}.{_caution(facts)}"


def _beaten(compared: Sequence[Standing]) -> str:
    """What is beaten where no task beats everything: each baseline for itself."""
    tasks = f"its task {compared[0].task.name}" if len(compared) == 1 else f"any of its {len(compared)} tasks"
    counts = {
        key: sum(one.against.get(key) == "better" for one in compared)
        for key in reversed(BASELINES)
        if any(key in one.against for one in compared)
    }
    won = [f"{BASELINES[key][1]} on {_share(count, len(compared))}" for key, count in counts.items() if count]
    lost = [BASELINES[key][1] for key, count in counts.items() if not count]
    if not won:
        return f"beats {'neither baseline' if len(lost) > 1 else 'no baseline'} on {tasks}"
    if len(compared) == 1:
        return f"beats {won[0].partition(' on ')[0]} on {tasks}" + (f", but not {lost[0]}" if lost else "")
    return f"beats {' and '.join(won)}" + (f", and {lost[0]} on none" if lost else "")


def _share(count: int, whole: int) -> str:
    return f"all {whole} tasks" if count == whole else f"{count} of {whole} tasks"


def _caution(facts: RunFacts) -> str:
    if facts.judged != "train":
        return ""
    return " Mind that there is no validation and no test split: it was judged on the very rows that it was trained on."


def sentence(one: Standing) -> str:
    """What the verdict says of one task."""
    if one.value is None:
        return f"{one.task.name}: {named(one.task.main, one.task.kind)} has no meaning on {one.rows:,} rows."
    places = one.places
    span = (
        f" (95 % interval {number(one.interval[0], places)} to {number(one.interval[1], places)})"
        if one.interval
        else ""
    )
    rivals = [f"{number(one.baselines[key], places)} for {BASELINES[key][1]}" for key in one.baselines]
    text = f"{one.task.name}: {named(one.task.main, one.task.kind)} {number(one.value, places)}{span}"
    text += f" against {' and '.join(rivals)}; {'lower' if one.lower else 'higher'} is better. " if rivals else ". "
    return text + _words(one)


def _words(one: Standing) -> str:
    if not one.against:
        return "There is no baseline to compare it with."
    names = {verdict: [BASELINES[key][1] for key, v in one.against.items() if v == verdict] for verdict in
             ("better", "same", "worse")}  # fmt: skip
    parts = []
    if names["better"]:
        parts.append("better than " + ("both" if len(names["better"]) > 1 else names["better"][0]))
    if names["same"]:
        parts.append("not told apart from " + ("either" if len(names["same"]) > 1 else names["same"][0]))
    if names["worse"]:
        parts.append("worse than " + ("both" if len(names["worse"]) > 1 else names["worse"][0]))
    said = ", ".join(parts)
    return said[0].upper() + said[1:] + "."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
