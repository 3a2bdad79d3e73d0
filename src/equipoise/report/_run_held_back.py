"""Which task was held back, which was pushed, who pulled against whom: a rule over the history, and its words."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["RULE", "Weighed", "balance_words", "conflict_words", "weighed"]

#: Weight over the mean weight of a step below which a task is held back, and above which it is pushed.
HELD, PUSHED = 0.8, 1.25
#: In more than this share of the logged steps.
MOSTLY = 0.5
#: A gradient so many times the others' explains a low weight; one below the inverse a high one.
LOUDER = 1.25
RULE = (
    "A task's share of a step is its weight over the mean weight of the tasks in that step: 1 is fair. It was held back "
    f"where that share is below {HELD} in more than half of the logged steps, and pushed where it is above {PUSHED} in more "
    "than half of them. The reason is read off the gradient norms: the median, over the same steps, of its norm over the "
    f"mean norm of the others. A norm at least {LOUDER} times theirs explains that it was held back, one at most "
    f"{1 / LOUDER:g} of theirs that it was pushed; between these the norms don't explain it. Two tasks pull against each "
    "other where the cosine of their gradients is below 0 in more than half of the logged steps and −0.05 or less on "
    "average. Weights and norms are those of the last batch of each logged step."
)


@dataclass(frozen=True)
class Weighed:
    """How one task fared.

    Attributes:
        task: its name.
        share: the median of its share of a step; 1 is fair.
        below: the share of the logged steps in which it was held back.
        above: in which it was pushed.
        norm_ratio: the median of its gradient norm over the mean norm of the others, in the steps that decide; None
            where norms are not logged.
        span: first and last logged step of the longest stretch in which it was held back, or pushed.
    """

    task: str
    share: float
    below: float
    above: float
    norm_ratio: float | None
    span: tuple[int, int] | None

    @property
    def held(self) -> bool:
        """Whether it was held back for most of the training."""
        return self.below > MOSTLY

    @property
    def pushed(self) -> bool:
        """Whether it was pushed for most of the training."""
        return self.above > MOSTLY


def weighed(steps: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> list[Weighed]:
    """What became of each task.

    Args:
        steps: the training lines of the history, in order.
        tasks: names.

    Returns:
        One for each task that ever had a weight beside another's.
    """
    shares: dict[str, list[tuple[int, float, float | None]]] = {name: [] for name in tasks}
    for line in steps:
        known = {
            name: values
            for name, values in line["tasks"].items()
            if isinstance(values, Mapping) and _positive(values.get("weight"), zero=True) is not None
        }
        mean = statistics.fmean(float(values["weight"]) for values in known.values()) if len(known) > 1 else 0.0
        if not mean > 0:
            continue
        norms = {name: norm for name, values in known.items() if (norm := _positive(values.get("norm"))) is not None}
        for name, values in known.items():
            if name not in shares:
                continue
            others = [norm for other, norm in norms.items() if other != name]
            ratio = norms[name] / statistics.fmean(others) if name in norms and others else None
            shares[name].append((int(line["step"]), float(values["weight"]) / mean, ratio))
    return [_weighed(name, found) for name, found in shares.items() if found]


def _weighed(task: str, found: Sequence[tuple[int, float, float | None]]) -> Weighed:
    low, high = ([share < HELD for _, share, _ in found], [share > PUSHED for _, share, _ in found])
    decisive = (
        low if sum(low) > MOSTLY * len(found) else high if sum(high) > MOSTLY * len(found) else [True] * len(found)
    )
    ratios = [ratio for (_, _, ratio), there in zip(found, decisive, strict=True) if there and ratio is not None]
    return Weighed(
        task,
        statistics.median(share for _, share, _ in found),
        sum(low) / len(found),
        sum(high) / len(found),
        statistics.median(ratios) if ratios else None,
        None if all(decisive) else _longest([step for step, _, _ in found], decisive),
    )


def _longest(steps: Sequence[int], there: Sequence[bool]) -> tuple[int, int] | None:
    best, start = (0, 0, 0), None
    for at, one in enumerate([*there, False]):
        if one and start is None:
            start = at
        if not one and start is not None:
            best = max(best, (at - start, -start, at - 1))
            start = None
    length, begin, end = best
    return (steps[-begin], steps[end]) if length > 1 else None


def balance_words(found: Sequence[Weighed], method: str) -> list[str]:
    """A sentence for each task that was held back or pushed, the farthest from its fair share first; one where none was."""
    told = sorted(
        (one for one in found if one.held or one.pushed), key=lambda one: -max(one.share, 1 / max(one.share, 1e-9))
    )
    loudest = next((one for one in told if one.pushed), None)
    said = []
    for one in told:
        verb, side, limit, share = (
            ("held back", "below", HELD, one.below) if one.held else ("pushed", "above", PUSHED, one.above)
        )
        said.append(
            f"{one.task} was {verb}: its weight was {side} {limit} of a fair share in {_percent(share)} of the logged steps "
            f"(median {one.share:.2f}){_when(one)}{_why(one, method, loudest)}"
        )
    if not said and len(found) > 1:
        said.append("No task was held back or pushed for most of the training.")
    return said


def _when(one: Weighed) -> str:
    return "" if one.span is None else f", longest from step {one.span[0]:,} to {one.span[1]:,}"


def _why(one: Weighed, method: str, pushed: Weighed | None) -> str:
    ratio = one.norm_ratio
    if ratio is None:
        return f". Why is not in the history: {method} measures no gradient norms."
    if one.held and ratio >= LOUDER:
        return f", because its gradient was {_times(ratio)} the others', and would have drowned them."
    if not one.held and ratio <= 1 / LOUDER:
        return f", because its gradient was only {_times(ratio)} the others', and would have been drowned by them."
    said = f". Its gradient was {_times(ratio)} the others', which doesn't explain it"
    if one.held and pushed is not None:
        return f"{said}; but shares are of one whole, and {pushed.task} was pushed."
    return f"{said}: {method} weighs by something else."


def conflict_words(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each pair of tasks that pulled against each other; one sentence where none did."""
    pairs: dict[str, list[float]] = {}
    for line in steps:
        for pair, value in (line.get("cosines") or {}).items():
            if isinstance(value, int | float):
                pairs.setdefault(pair, []).append(float(value))
    if not pairs:
        return []
    said = []
    for pair, values in pairs.items():
        share, mean = sum(value < 0 for value in values) / len(values), statistics.fmean(values)
        if share > MOSTLY and mean <= -0.05:
            both = " and ".join(pair.split("|"))
            words = f"{both} pulled against each other in {_percent(share)} of the logged steps (mean cosine {_signed(mean)})."
            said.append((mean, words))
    if said:
        return [sentence for _, sentence in sorted(said)]
    lowest = min(pairs, key=lambda pair: statistics.fmean(pairs[pair]))
    mean = statistics.fmean(pairs[lowest])
    return [
        f"No two tasks pulled against each other for most of the training; the lowest mean cosine is that of "
        f"{' and '.join(lowest.split('|'))}, {_signed(mean)}."
    ]


def _positive(value: Any, *, zero: bool = False) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if value > 0 or (zero and value == 0) else None


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio >= 1 else f"{ratio:.2f} times"


def _signed(value: float) -> str:
    text = f"{value:+.2f}".replace("-", "−")
    return "0.00" if text[1:] == "0.00" else text


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
