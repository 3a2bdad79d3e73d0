"""The summary in plain words, by a rule that is written down and was not made for the result."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from equipoise.evaluation._measurements import PARTS

__all__ = ["RULE", "SMALL_SPLIT", "verdict"]

#: Fewer judged rows than this are called few: an accuracy near 0.8 has a standard error of about 2 points there.
SMALL_SPLIT = 500

RULE = (
    "Arms are compared with the baseline seed by seed, on the same test rows. Chance has two sources, and both count: the "
    "seed (how a run happens to go) and the test rows (which texts happened to be drawn, by a bootstrap over rows). Each "
    "alone would give a t interval; the interval of both is as wide as the root of the sum of their squared widths, so that "
    "it holds the true difference at least as often as it says, with two seeds too. p is 1 less the level at which it "
    "would just reach 0. A difference whose doubt is not known at all is not tested. Runs are compared only where they "
    "were judged on the same labels. Since many arms and tasks are tested at once, p is corrected by Holm's method over "
    "all methods, ablations, tuned weights and arms of one's own together; models of some of the tasks only, comparisons "
    "with single-task models and with tuned weights are families of their own. Arms with the same numbers in every run are "
    "one training under several names, and are tested once. "
    "An arm is called better or worse than another only where the corrected p is below 1 less the level of the "
    "intervals; all else is called the same, which means not told apart, not proved equal. An arm beats another where it "
    "is better on at least one judged metric and worse on none. How many seeds or rows would be needed is said for a "
    "difference of the size that was seen, among as many tests. The best arm is that of the best mean rank, and is called "
    "certain only where it beats the second; if neither is the baseline, p is then multiplied by the number of all pairs of"
    " arms and metrics, as it was seen in the results which two these are. Two tasks should be trained apart where one is "
    "worse together than alone; few models that part all of these are named, found greedily, though tasks that do not harm "
    "each other two by two may do so three by three. A task should be trained apart where every model of all tasks is worse"
    " than its own: the p of that is the largest of those models' p, corrected over the judged metrics. Where tasks should "
    "be trained apart, what one model of them could try is said too: a last block for each task, and more weight for those "
    "that lose. "
    "The rule is the same for every comparison."
)

#: The weight of a task that loses, in what the verdict proposes. With it no loss was left to be seen of FiQA's polarity
#: and EmoBank's valence, behind by 27 and 15 % before (docs/study.md).
PRIORITY = 3
Summary = Mapping[str, Any]
Arm = Mapping[str, Any]


def verdict(summary: Summary) -> list[str]:
    """The sentences for a summary, the most important first.

    Args:
        summary: as `summarise` makes it, all but `verdict` and `rule`.
    """
    baseline = _arm(summary, summary["baseline"])
    if baseline is None or not baseline["runs"]:
        sentences = [
            f"The baseline {summary['baseline']} has no finished run, so no arm can be compared with it. "
            "Mend it and run the comparison again."
        ]
    else:
        sentences = _against(summary, "differences", summary["baseline"])
    needed = _needed(summary, "differences", summary["baseline"])
    tuned = next((arm for arm in summary["arms"] if arm["group"] == "tuned" and arm["runs"]), None)
    if tuned is not None and tuned["arm"] != summary["baseline"]:
        sentences += _against(summary, "versus_tuned", tuned["arm"])
        needed += _needed(summary, "versus_tuned", tuned["arm"])
    return [
        *sentences,
        *_best(summary),
        *needed,
        *_apart(summary),
        *_failed(summary),
        *_warnings(summary),
    ]


def _against(summary: Summary, key: str, other: str) -> list[str]:
    """Which methods beat another arm, lose to it, or are mixed; one sentence each, or that none differs."""
    tested = [arm for arm in summary["arms"] if arm["group"] not in PARTS and arm.get(key)]
    if key == "versus_tuned":
        tested = [arm for arm in tested if arm["arm"] != summary["baseline"]]
        other = f"the tuned fixed weights ({other})"
    if not tested:
        return (
            []
            if key == "versus_tuned"
            else [f"Nothing else has a finished run on the same rows to compare with {other}."]
        )
    sentences = []
    for arm in tested:
        found = arm[key]
        up = [name for name in found if found[name]["verdict"] == "better"]
        down = [name for name in found if found[name]["verdict"] == "worse"]
        if up and not down:
            sentences.append(f"{arm['arm']} beats {other}: {_gains(found, up)}.")
        elif down and not up:
            sentences.append(f"{arm['arm']} is worse than {other}: {_gains(found, down)}.")
        elif up:
            sentences.append(
                f"{arm['arm']} trades against {other}: better on {_gains(found, up)}, but worse on {_gains(found, down)}."
            )
    if not sentences:
        return [f"No method differs from {other} beyond noise."]
    rest = len(tested) - len(sentences)
    if rest:
        sentences.append(f"{rest} other {_plural(rest, 'arm does', 'arms do')} not differ from {other} beyond noise.")
    return sentences


def _best(summary: Summary) -> list[str]:
    best = summary["best"]
    if best is None:
        return []
    name = f"The best mean rank has {best['arm']}"
    if best["certain"]:
        up = [key for key, one in best["differences"].items() if one["verdict"] == "better"]
        return [f"{name}, and it beats the second, {best['runner_up']}: {_gains(best['differences'], up)}."]
    return [f"{name}, but that it is the best is not certain: {best['runner_up']}, the second, is not beaten."]


def _needed(summary: Summary, key: str, other: str) -> list[str]:
    """What would tell the best-looking arm from another, if it is not told apart."""
    open_ = [
        (arm["mean_rank"], arm)
        for arm in summary["arms"]
        if arm["arm"] not in (other, summary["baseline"])
        and arm["mean_rank"] is not None
        and arm[key]
        and all(one["verdict"] == "same" for one in arm[key].values())
    ]
    if not open_:
        return []
    arm = min(open_, key=lambda pair: pair[0])[1]
    # Of several metrics that with the clearest difference: it would be told first.
    name, one = min(arm[key].items(), key=lambda pair: (pair[1]["p"] is None, pair[1]["p"]))
    if one["p"] is None or one["mean"] == 0:
        return []
    start = f"A difference like that of {arm['arm']} and {other} on {name} ({_percent(one)})"
    among = f", among {one['tests']} differences that are tested together" if one["tests"] > 1 else ""
    if one["seeds_needed"] is not None:
        return [
            f"{start} would be shown four times in five by {one['seeds_needed']} seeds{among}; there are {one['n']}."
        ]
    if one["rows_needed"] is not None:
        return [
            f"{start} cannot be shown by more seeds: with {one['rows']:,} judged rows the rows alone leave too much doubt. "
            f"About {one['rows_needed']:,} rows would be needed{among}."
        ]
    if one["n"] > 1:
        return [f"{start} is too small to be shown by 1,000 seeds."]
    return []


def _apart(summary: Summary) -> list[str]:
    """Which tasks pay for being trained with others, and what one model of them could try."""
    sentences = []
    losers: list[str] = []
    table = summary["transfer"]
    groups = [] if table is None else _groups(table)
    for name, found in summary["losing"].items():
        if found["verdict"] == "apart":
            task = name.rpartition(".")[0]
            least = "" if found["least_loss"] is None else f", by {found['least_loss']:.1f} % at least"
            losers.append(task)
            # Of whom else it must be apart the pairs know better.
            follows = "not all tasks in one model" if groups else f"train {task} apart from the others"
            sentences.append(f"Every shared model is worse on {name} than the model of {task} alone{least}: {follows}.")
    if table is not None:
        for i, first in enumerate(table["tasks"]):
            for j, second in enumerate(table["tasks"][:i]):
                losses = {
                    task: f"{task} loses {-table['gain'][a][b]:.1f} % by {other}"
                    for task, other, a, b in ((second, first, j, i), (first, second, i, j))
                    if table["verdict"][a][b] == "worse" and table["gain"][a][b] is not None
                }
                if losses:
                    losers += losses
                    sentences.append(f"Train {second} and {first} apart: {' and '.join(losses.values())}.")
        sentences += groups
    elif losers and len(summary["tasks"]) > 2:
        sentences.append("Beside which tasks shows with pairs among the methods: a model of every two tasks.")
    return [*sentences, *_room(summary, losers)]


def _groups(table: Mapping[str, Any]) -> list[str]:
    """Models that put no two tasks together of which one loses by the other, where fewer do than one a task.

    A task that fits into several goes where it and the tasks there gain most, or lose least.

    References:
        Which Tasks Should Be Learned Together in Multi-task Learning? (Standley et al., 2020), which searches over groups
        https://arxiv.org/abs/1905.07553
    """
    tasks, verdicts, gains = list(table["tasks"]), table["verdict"], table["gain"]
    places = range(len(tasks))
    apart = {a: {b for b in places if "worse" in (verdicts[a][b], verdicts[b][a])} for a in places}
    groups: list[list[int]] = []
    for task in sorted(places, key=lambda place: -len(apart[place])):  # the most quarrelsome first
        fitting = [group for group in groups if not apart[task] & set(group)]
        if fitting:
            max(fitting, key=lambda them: sum((gains[task][b] or 0) + (gains[b][task] or 0) for b in them)).append(task)
        else:
            groups.append([task])
    if not 1 < len(groups) < len(tasks):
        return []
    said = " and ".join(f"one of {', '.join(tasks[place] for place in sorted(group))}" for group in sorted(groups))
    return [f"{len(groups)} models would part them: {said}."]


def _room(summary: Summary, losers: Collection[str]) -> list[str]:
    """What one model could try in which these tasks lose."""
    if not losers:
        return []
    if set(losers) == set(summary["tasks"]):
        return ["Or give each task room in one model: try model.private_layers: 2."]
    priorities = ", ".join(f"{task}: {PRIORITY}" for task in dict.fromkeys(losers))
    return [
        "Or give one model room and a choice: try model.private_layers: 1 with balance: {method: priority, of: dao, "
        f"priorities: {{{priorities}}}}}."
    ]


def _failed(summary: Summary) -> list[str]:
    sentences = []
    for arm in summary["arms"]:
        if arm["failed"]:
            seeds = sorted({one["seed"] for one in arm["failed"]})
            total = arm["runs"] + len(seeds)
            sentences.append(
                f"{arm['arm']} failed with {len(seeds)} of {total} {_plural(total, 'seed', 'seeds')}: "
                f"{arm['failed'][0]['reason']}."
            )
    return sentences


def _warnings(summary: Summary) -> list[str]:
    sentences = []
    if len(summary["seeds"]) == 1:
        sentences.append(
            "There is one seed only, so that how runs vary is unknown: intervals count the test rows alone and are too "
            "narrow. Use three seeds at least, better five."
        )
    if summary["split"] == "validation":
        sentences.append(
            "There is no test split: arms are judged on the validation rows that also chose each run's best step, so "
            "every number flatters a little."
        )
    few = {task: rows for task, rows in summary["rows"].items() if 0 < rows < SMALL_SPLIT}
    if few and summary["folds"] is None:
        counts = ", ".join(f"{task} {rows}" for task, rows in few.items())
        sentences.append(f"Few rows are judged ({counts}). With --folds every row is judged once, which tells more.")
    if summary["unlike"]:
        said = "; ".join(f"{key}: {', '.join(values)}" for key, values in summary["unlike"].items())
        sentences.append(f"Runs were made under unlike conditions ({said}), so their times and memory don't compare.")
    if summary["unpaired"]:
        sentences.append(
            f"The judged rows of {', '.join(summary['unpaired'])} are not the same in all runs. Only runs on the same "
            "rows are compared there."
        )
    return sentences


def _arm(summary: Summary, name: str) -> Arm | None:
    return next((arm for arm in summary["arms"] if arm["arm"] == name), None)


def _gains(found: Mapping[str, Any], names: Iterable[str]) -> str:
    """`polarity.mse by 7.1 % (3.0 to 11.2, p = 0.004)`."""
    return ", ".join(f"{name} by {_percent(found[name])}{_doubt(found[name])}" for name in names)


def _percent(one: Mapping[str, Any]) -> str:
    gain = one["relative"]["mean"]
    return (
        f"{abs(one['mean']):.3g}" if gain is None else f"{abs(gain):.2g} %" if abs(gain) < 1 else f"{abs(gain):.1f} %"
    )


def _doubt(one: Mapping[str, Any]) -> str:
    low, high = one["relative"]["low"], one["relative"]["high"]
    p = one["p_holm"]
    chance = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
    if low is None:
        return f" ({chance})"
    ends = (low, high) if one["relative"]["mean"] > 0 else (-high, -low)
    return f" ({ends[0]:.1f} to {ends[1]:.1f}, {chance})"


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
