"""All arms of one comparison, judged: what `summarise` writes down of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.evaluation._cost import cost, equal_time, reference_seconds
from equipoise.evaluation._differences import Differences, direction, judge
from equipoise.evaluation._measurements import PARTS, Arm, Run, classes_of
from equipoise.evaluation._regions import ScoreRegions, errors_by_class, errors_by_region, score_regions
from equipoise.evaluation._significance import holm, mean_interval
from equipoise.evaluation._summary import Pair, delta_m, mean_ranks, transfer
from equipoise.tasks import Task

__all__ = ["Judgement"]


class Judgement:
    """Arms with what their comparisons share: the baseline, the row draws, ranks, regions of the training scores.

    Args:
        arms: name -> arm, without trials of a search.
        tasks: name -> fitted task.
        judged: (task, metric) to test.
        baseline: the arm that others are compared with; it may be absent or have failed.
        level: of intervals.
        seed: of the row draws.
        train_targets: task -> encoded training targets.
    """

    def __init__(
        self,
        arms: dict[str, Arm],
        tasks: Mapping[str, Task],
        judged: list[Pair],
        baseline: str,
        level: float,
        seed: int,
        train_targets: Mapping[str, NDArray[np.float32]],
    ) -> None:
        self.by_name, self.tasks, self.judged, self.level = arms, tasks, judged, level
        self.seeds = sorted({s for arm in arms.values() for s in [*arm.measured, *(one["seed"] for one in arm.failed)]})
        self.baseline = arms[baseline] if baseline in arms and arms[baseline].measured else None
        self.tuned = next((arm for arm in arms.values() if arm.group == "tuned"), None)
        self.twins = _twins(arms.values())
        self.singles = {arm.tasks[0]: arm for arm in arms.values() if arm.group == "single" and arm.tasks}
        self.differences = Differences(arms.values(), tasks, level, seed)
        self.better = {(task, metric): direction(tasks[task], metric) for task, metric in judged}
        self.main = {
            task: next(pair for pair in judged if pair[0] == task) for task in dict.fromkeys(t for t, _ in judged)
        }
        self.complete = [
            arm for arm in arms.values() if arm.group not in PARTS and set(arm.tasks) == set(tasks) and arm.measured
        ]
        self.ranks = mean_ranks(
            {arm.name: {pair: arm.mean(*pair) for pair in judged} for arm in self.complete}, self.better
        )
        self.reference = reference_seconds(self.baseline)
        self.equal_time_seconds = float(np.mean(list(self.reference.values()))) if self.reference else None
        self.train_counts: dict[str, list[int]] = {}
        self.regions: dict[str, ScoreRegions] = {}
        for name, targets in train_targets.items():
            self._learn_regions(name, targets)

    def _learn_regions(self, name: str, targets: NDArray[np.float32]) -> None:
        classes = classes_of(self.tasks[name])
        if targets.ndim > 1:  # several classes a text
            self.train_counts[name] = np.sum(targets == 1, axis=0).tolist()
        elif classes is None:
            regions = score_regions(self.tasks[name].decode(targets))
            if regions is not None:
                self.regions[name] = regions
        else:
            held = targets[~np.isnan(targets)].astype(np.int64)
            self.train_counts[name] = np.bincount(held, minlength=len(classes)).tolist()

    def against(self, theirs: Any, families: Sequence[Sequence[Arm]]) -> dict[str, dict[str, Any]]:
        """Arm -> `task.metric` -> difference to the arm that `theirs(task)` names; each family is judged together."""
        found: dict[str, dict[str, Any]] = {}
        for family in families:
            tested = []
            for arm in family:
                if self.twins.get(arm.name) in found:  # the same training: one test
                    continue
                for pair in self.judged:
                    other = theirs(pair[0])
                    one = None if other is None or other is arm else self.differences(arm, other, *pair)
                    if one is not None:
                        found.setdefault(arm.name, {})[".".join(pair)] = one
                        tested.append((one, self.better[pair]))
            judge(tested, self.level)
            found |= {arm.name: found[twin] for arm in family if (twin := self.twins.get(arm.name, "")) in found}
        return found

    @cached_property
    def ranked(self) -> list[Arm]:
        """Methods, ablations, tuned weights and arms of one's own: a family."""
        return [arm for arm in self.by_name.values() if arm.group not in PARTS]

    @cached_property
    def parts(self) -> list[Arm]:
        """Models of some of the tasks: a family of their own, since their many tests must not cost the methods power."""
        return [arm for arm in self.by_name.values() if arm.group in PARTS]

    @cached_property
    def to_baseline(self) -> dict[str, dict[str, Any]]:
        """Arm -> `task.metric` -> difference to the baseline."""
        return self.against(lambda _: self.baseline, [self.ranked, self.parts])

    @cached_property
    def to_single(self) -> dict[str, dict[str, Any]]:
        """Arm -> `task.metric` -> difference to the task's model alone."""
        return self.against(self.singles.get, [self.ranked, [arm for arm in self.parts if arm.group != "single"]])

    def arms(self, search: Sequence[Run]) -> list[dict[str, Any]]:
        """What the summary says of each arm, given the trials of searches."""
        tuned = self.against(lambda _: self.tuned, [[arm for arm in self.ranked if arm.group != "tuned"]])
        return [
            {
                **self._facts(arm),
                "differences": self.to_baseline.get(arm.name, {}),
                "versus_single": self.to_single.get(arm.name, {}),
                "versus_tuned": tuned.get(arm.name, {}),
                "delta_m": self._delta_m(arm),
                "mean_rank": self.ranks.get(arm.name),
                "cost": cost(arm, self.baseline, self._trials(arm, search)),
                "equal_time": {
                    ".".join(pair): equal_time(arm, *pair, self.reference, self.level) for pair in self.judged
                },
                "regions": self._regions(arm),
            }
            for arm in self.by_name.values()
        ]

    def _facts(self, arm: Arm) -> dict[str, Any]:
        metrics: dict[str, Any] = {}
        for task in arm.tasks:
            names = dict.fromkeys(name for one in arm.measured.values() for name in one.metrics.get(task, {}))
            values = {name: arm.values(task, name) for name in names}
            metrics[task] = {
                name: {
                    **mean_interval(list(values[name].values()), self.level),
                    "values": [values[name].get(one) for one in self.seeds],
                }
                for name in names
            }
        return {
            "arm": arm.name,
            "method": arm.method,
            "group": arm.group,
            "tasks": arm.tasks,
            "settings": arm.settings,
            "runs": len(arm.measured),
            "failed": arm.failed,
            "metrics": metrics,
        }

    def _delta_m(self, arm: Arm) -> dict[str, float | None] | None:
        if set(arm.tasks) != set(self.tasks) or arm.group == "single" or not set(self.main) <= set(self.singles):
            return None
        values = {task: arm.values(*pair) for task, pair in self.main.items()}
        alone = {task: self.singles[task].values(*pair) for task, pair in self.main.items()}
        return delta_m(values, alone, {task: self.better[pair] for task, pair in self.main.items()}, self.level)

    def _trials(self, arm: Arm, search: Sequence[Run]) -> list[Run]:
        chosen_for = self.tuned.name if self.tuned is not None else None
        return [run for run in search if run.get("search_for", chosen_for) == arm.name]

    def _regions(self, arm: Arm) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for task in arm.tasks:
            rows = [held[task] for one in arm.measured.values() for held in (one.rows, one.sets) if task in held]
            classes = classes_of(self.tasks[task])
            if rows and classes is not None:
                by_class = errors_by_class(classes, rows, self.train_counts.get(task), self.level)
                found[task] = {"kind": "classes", "classes": by_class}
            elif rows and task in self.regions:
                found[task] = {"kind": "score", "regions": errors_by_region(self.regions[task], rows, self.level)}
        return found

    def best(self) -> dict[str, Any] | None:
        """The arm of the best mean rank, and whether it is told apart from the next."""
        arms = [arm for arm in self.complete if arm.name not in self.twins]
        order = sorted((rank, place) for place, arm in enumerate(arms) if (rank := self.ranks[arm.name]) is not None)
        if len(order) < 2:
            return None
        first, second = (arms[place] for _, place in order[:2])
        found = {
            ".".join(pair): one for pair in self.judged if (one := self.differences(first, second, *pair)) is not None
        }
        # Which two these are was seen in the same numbers: as if every two had been tested.
        tests = comb(len(order), 2) * len(self.judged)
        judge(
            [(one, self.better[pair]) for pair in self.judged if (one := found.get(".".join(pair)))], self.level, tests
        )
        if self.baseline in (first, second):  # these have been tested, with all others
            known = self.to_baseline[(second if first is self.baseline else first).name]
            for name, one in found.items():
                verdict = known[name]["verdict"]
                one |= {key: known[name][key] for key in ("p_holm", "tests", "seeds_needed", "rows_needed")}
                one["verdict"] = _turned(verdict) if first is self.baseline else verdict
        verdicts = [one["verdict"] for one in found.values()]
        return {
            "arm": first.name,
            "runner_up": second.name,
            "certain": "better" in verdicts and "worse" not in verdicts,
            "differences": found,
        }

    def losing(self) -> dict[str, dict[str, Any]]:
        """`task.metric` -> whether every model of all tasks is worse than the task's model alone.

        The claim is about all of them at once, so its p is the largest of theirs: no correction over arms. Holm's is over
        the judged metrics.

        References:
            Multiparameter Hypothesis Testing and Acceptance Sampling (Berger, 1982), Technometrics 24: intersection-union
        """
        found: dict[str, dict[str, Any]] = {}
        for pair in self.judged:
            name = ".".join(pair)
            ranked = [arm for arm in self.complete if self.ranks[arm.name] is not None]
            each = [self.to_single.get(arm.name, {}).get(name) for arm in ranked]
            known = [one for one in each if one is not None and one["p"] is not None]
            if not known or len(known) < len(each):
                continue
            worse = [(one["mean"] > 0) == (self.better[pair] == "min") and one["mean"] != 0 for one in known]
            losses = [-one["relative"]["mean"] for one in known if one["relative"]["mean"] is not None]
            found[name] = {
                "p": max(one["p"] for one in known) if all(worse) else 1.0,
                "least_loss": min(losses) if len(losses) == len(known) else None,
            }
        for one, p in zip(found.values(), holm([one["p"] for one in found.values()]), strict=True):
            one |= {"p_holm": p, "verdict": "apart" if p is not None and p < 1 - self.level else "same"}
        return found

    def transfer(self) -> dict[str, Any] | None:
        """Who helps whom, from arms of two tasks; of two tasks the baseline is that arm."""
        found = [arm for arm in self.by_name.values() if arm.group == "pair" and len(arm.tasks) == 2]
        source = "pairs" if found else "all tasks"
        if not found and len(self.tasks) == 2 and self.baseline is not None and len(self.baseline.tasks) == 2:
            found = [self.baseline]
        gains, tested = {}, []
        for arm in found:
            for task, other in (arm.tasks, arm.tasks[::-1]):
                pair = self.main.get(task)
                one = self.differences(arm, self.singles[task], *pair) if task in self.singles and pair else None
                if one is not None and pair is not None:
                    gains[task, other] = one
                    tested.append((one, self.better[pair]))
        judge(tested, self.level)
        return transfer(list(self.tasks), gains, source) if gains else None


def _twins(arms: Iterable[Arm]) -> dict[str, str]:
    """Arm -> an arm before it whose runs have the same numbers throughout: one training under two names."""
    found: dict[str, str] = {}
    first: dict[str, str] = {}
    for arm in arms:
        # With the tasks: a model of one task has nothing of the others to differ by.
        measured = {seed: one.metrics for seed, one in sorted(arm.measured.items())}
        key = repr((sorted(arm.tasks), measured))
        if measured and key in first:
            found[arm.name] = first[key]
        first.setdefault(key, arm.name)
    return found


def _turned(verdict: str) -> str:
    return {"better": "worse", "worse": "better"}.get(verdict, verdict)
