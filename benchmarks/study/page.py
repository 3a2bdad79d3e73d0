"""The study's tables and pictures, from `benchmarks/study/results/`.

    python benchmarks/study/page.py              # fills docs/study.md's tables, draws docs/images/study_*.png
    python benchmarks/study/page.py --check      # whether the tables are those of the results

`study.py` does that last, too. The page's words are written by hand; what stands between `<!-- NAME -->` and
`<!-- end NAME -->` is written here.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE, IMAGES = ROOT / "docs" / "study.md", ROOT / "docs" / "images"

TITLES = {
    "sst": "SST",
    "sst_further": "SST, six further methods",
    "emobank": "EmoBank",
    "fiqa_aspect": "FiQA: score and aspect",
    "fiqa_further": "FiQA, six further methods",
    "fiqa_folds": "FiQA, cross-validated",
    "fiqa_classes": "FiQA: score and derived classes",
    "phrasebank_fiqa": "PhraseBank + FiQA",
    "phrasebank_fiqa_further": "PhraseBank + FiQA, six further methods",
    "sst_full": "SST, all training rows",
    "emobank_full": "EmoBank, all training rows",
    "sst_again": "SST, five fresh seeds",
    "sst_options": "SST, what else might help",
    "sst_means": "SST, further means",
    "emobank_means": "EmoBank, further means",
    "emobank_again": "EmoBank, five fresh seeds",
    "phrasebank_fiqa_again": "PhraseBank + FiQA, five fresh seeds",
    "emobank_pairs": "EmoBank, pairs of tasks",
    "sst_rates": "SST, each arm's own rate",
    "emobank_rates": "EmoBank, each arm's own rate",
    "fiqa_rates": "FiQA, each arm's own rate",
    "phrasebank_fiqa_rates": "PhraseBank + FiQA, each arm's own rate",
    "emobank_native": "EmoBank in its own units (1 to 5)",
    "sst_hundreds": "SST, scores from 0 to 100",
}
#: How a comparison's test is told in a table.
MARKS = {"better": "**{}**", "worse": "*{}*"}
IN_POINTS = ("accuracy", "macro_f1")
Summary = Mapping[str, Any]


def results() -> dict[str, Any]:
    """Part -> summary, of the parts that have been run."""
    files = {name: HERE / "results" / f"{name}.json" for name in TITLES}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}


def number(value: float, metric: str) -> str:
    """A metric's value with the digits that its doubt leaves."""
    if metric in IN_POINTS:
        return f"{value:.3f}"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def cell(found: Mapping[str, Any] | None, metric: str) -> str:
    """Mean over seeds."""
    return "–" if not found or found["mean"] is None else number(found["mean"], metric)


def difference(found: Mapping[str, Any] | None, metric: str, *, interval: bool = True) -> str:
    """A paired difference: errors in per cent of the rival's, accuracies in points; positive is better.

    Bold: better; italic: worse, after Holm's correction.
    """
    if not found or found["mean"] is None:
        return "–"
    in_points = metric in IN_POINTS
    part = {key: 100 * found[key] for key in ("mean", "low", "high")} if in_points else found["relative"]
    if any(part[key] is None for key in ("mean", "low", "high")):
        return "–"
    part = {key: round(part[key], 1) + 0.0 for key in ("mean", "low", "high")}  # no -0.0
    text = f"{part['mean']:+.1f}"
    if interval:
        text += f" ({part['low']:+.1f} to {part['high']:+.1f})"
    return MARKS.get(found["verdict"], "{}").format(text)


def judged(summary: Summary) -> list[tuple[str, str]]:
    """What is judged: (task, metric)."""
    parts = [name.rpartition(".") for name in summary["judged"]]
    return [(task, metric) for task, _, metric in parts]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown."""
    lines = [" | ".join(head), " | ".join("---" if n == 0 else "--:" for n in range(len(head)))]
    return "\n".join(f"| {line} |" for line in [*lines, *(" | ".join(row) for row in rows)])


def shown(arm: str) -> str:
    """An arm's name on the page: `dao/lambda` is what DAO without data weights is called in its ablation."""
    return "dao" if arm == "dao/lambda" else arm


RATE = "training.learning_rate"


def part_table(summary: Summary) -> str:
    """Every arm's metrics, and its differences to equal weights; its learning rate where each has its own."""
    tuned = all(RATE in arm["settings"] for arm in summary["arms"])
    head = ["arm", *(["rate"] if tuned else [])]
    for task, metric in judged(summary):
        head += [f"{task} {metric}", f"vs equal, {'points' if metric in IN_POINTS else '%'}"]
        head += ["macro F1"] if metric == "accuracy" else []
    rows = []
    for arm in sorted(summary["arms"], key=lambda arm: (arm["group"] in ("single", "pair"), arm["mean_rank"] or 99)):
        twice = arm["arm"] == "dao" and arm_of(summary, "dao/lambda") is not arm  # it stands there as its ablation's
        if not arm["runs"] or twice:
            continue
        row = [f"`{shown(arm['arm'])}`", *([f"{arm['settings'][RATE]:.0e}".replace("e-0", "e-")] if tuned else [])]
        for task, metric in judged(summary):
            found = arm["metrics"].get(task, {}).get(metric)
            row += [cell(found, metric), difference(arm["differences"].get(f"{task}.{metric}"), metric, interval=False)]
            row += [cell(arm["metrics"].get(task, {}).get("macro_f1"), "macro_f1")] if metric == "accuracy" else []
        gain = arm["delta_m"]
        row.append("–" if not gain or gain["mean"] is None else f"{gain['mean']:+.1f}")
        rows.append(row)
    gains = any(row[-1] != "–" for row in rows)
    return table([*head, "Delta_m"], rows) if gains else table(head, [row[:-1] for row in rows])


LADDER = {
    "plain": "plain Trainer, equal weights, rate chosen on validation",
    "equal": "equal weights",
    "equal+consistency+ema": "equal weights, consistency, EMA",
    "equal+all": "the default with equal weights",
    "equal+standardized": "equal weights, standardized scores",
    "dao/lambda": "DAO",
    "dao/w": "equal weights, data weights",
    "dao/lambda+w": "DAO, data weights",
    "dao/lambda+w+thresholds": "DAO, data weights, balanced thresholds",
    "dao+label density": "DAO, label-density weights",
    "dao+layer decay": "DAO, layer-wise decay 0.8",
    "dao+mean pooling": "DAO, mean pooling",
    "dao+ema": "DAO, averaged weights (EMA)",
    "dao+calibrate": "DAO, calibration",
    "dao+consistency": "DAO, consistency (R-Drop)",
    "dao+consistency+ema": "DAO, consistency, EMA",
    "dao+standardized": "DAO, standardized scores",
    "dao+private block": "DAO, a last block of each task's own",
    "dao+all": "**the default**: DAO, consistency, EMA, calibration",
    "dao, polarity first": "DAO, polarity ten times as hard",
    "pcd, polarity first": "PCD, polarity the primary task",
    "all, polarity first": "the default, polarity ten times as hard",
    "all, rate 1e-4": "the default at half the rate: 1e-4, heads 1e-3",
    "all, all at 1e-4": "the default at the plain Trainer's rate: 1e-4, heads too",
    "all, consistency 3": "the default, consistency of weight 3",
    "all, half the rate, consistency 3": "the default at half the rate, consistency of weight 3",
    "all+label smoothing": "the default, label smoothing of .1",
    "all+ordinal": "the default, ordered classes (CORN)",
    "all+private block": "the default, a last block of each task's own",
    "all+private block, score first": "the default, a last block of each task's own, the score three times as hard",
    "all+2 private blocks": "the default, two last blocks of each task's own",
    "all+standardized": "the default, standardized scores",
}


LADDER_SETS = ("sst", "fiqa_aspect", "emobank")
FULL_SETS = ("sst_full", "emobank_full")


SCORE_FIRST = "score first"


def arm_of(summary: Summary, name: str) -> Mapping[str, Any] | None:
    """An arm that has runs. `dao` alone is DAO without data weights, which its ablation calls `dao/lambda`.

    `…, score first` is the arm that puts the set's score first, whatever it is called.
    """
    arms = {arm["arm"]: arm for arm in summary["arms"] if arm["runs"]}
    if name.endswith(SCORE_FIRST):
        name = name.removesuffix(SCORE_FIRST) + f"{judged(summary)[0][0]} first"
    return arms.get(name, arms.get("dao") if name == "dao/lambda" else None)


def ladder_table(parts: Mapping[str, Any]) -> str:
    """What each means adds, against the plain Trainer."""
    columns = {name: (judged(summary)[0], judged(summary)[-1]) for name, summary in parts.items()}
    head = ["arm"]
    for name, ((score, _), (label, _)) in columns.items():
        head += [f"{TITLES[name].split(': ')[0].split(',')[0]}: {score} MSE, %", f"{label} accuracy, points"]
    rows = []
    for arm, words in LADDER.items():
        if not any(arm_of(summary, arm) for summary in parts.values()):
            continue
        row = [words]
        for name, columns_of in columns.items():
            one = arm_of(parts[name], arm)
            for task, metric in columns_of:
                value = None if one is None else one["metrics"].get(task, {}).get(metric)
                if one is None or arm == "plain" or value is None:
                    row.append(cell(value, metric))
                else:
                    row.append(difference(versus(parts[name], one, "versus_plain").get(f"{task}.{metric}"), metric))
        rows.append(row)
    return table(head, rows)


def options_table(summary: Summary) -> str:
    """The ladder of one part, with what validation says of each arm, by which it would be chosen."""
    values = pd.read_parquet(HERE / "results" / "sst_options.parquet")
    chosen = values[values.split == "validation"].groupby(["arm", "task", "metric"]).value.mean()
    (score, error), (label, accuracy) = judged(summary)[0], judged(summary)[-1]
    shown = ((score, error), (label, accuracy), (label, "macro_f1"))
    head = ["arm", *(f"validation: {task} {metric}".replace("macro_f1", "macro F1") for task, metric in shown)]
    head += ["test: error, %", "accuracy, points", "macro F1, points"]
    rows = []
    for arm, words in LADDER.items():
        one = arm_of(summary, arm)
        if one is None:
            continue
        known = versus(summary, one, "versus_plain") | summary["macro_f1"]["plain"].get(one["arm"], {})
        row = [words, *(number(chosen[one["arm"], task, metric], metric) for task, metric in shown)]
        for task, metric in shown:
            found = one["metrics"][task].get(metric)
            row.append(cell(found, metric) if arm == "plain" else difference(known.get(f"{task}.{metric}"), metric))
        rows.append(row)
    return table(head, rows)


def single_table(found: Mapping[str, Any], arms: Sequence[str], rivals: str) -> str:
    """Each task in one model against a model of its own: `rivals` names the differences to it."""
    rows = []
    for name, summary in found.items():
        for task, metric in judged(summary):
            row = [TITLES[name], f"{task} {metric}"]
            for arm in arms:
                one = arm_of(summary, arm)
                known = {} if one is None else versus(summary, one, rivals)
                row.append(difference(known.get(f"{task}.{metric}"), metric))
            if set(row[2:]) != {"–"}:
                rows.append(row)
    return table(["set", "task", *(f"`{shown(arm)}`" for arm in arms)], rows)


def versus(summary: Summary, arm: Mapping[str, Any], rivals: str) -> Mapping[str, Any]:
    """An arm's differences: those that stand with the arm, or those that `study.py --collect` took beside them."""
    found: Mapping[str, Any] = arm[rivals] if rivals in arm else (summary.get(rivals) or {}).get(arm["arm"], {})
    return found


#: Where few questions were asked, of seeds, rows or folds that had no part in the first answers: the top of the page.
ANSWERED = ("sst_again", "sst_full", "fiqa_folds", "phrasebank_fiqa_again", "emobank_again", "emobank_full")
#: The first answers, of many arms.
FIRST = ("sst", "fiqa_aspect", "fiqa_classes", "phrasebank_fiqa", "emobank")


def answer_table(parts: Mapping[str, Any]) -> str:
    """What balancing does, and what the default options do: the first score and the last class of every set."""
    rows = []
    for name, summary in parts.items():
        ours, default = arm_of(summary, "dao/lambda"), arm_of(summary, "dao+all")
        set_name, _, more = TITLES[name].partition(",")
        about = f"{set_name},{more}" if more else f"{set_name}, {summary['train_rows']:,} training rows"
        (score, error), (label, accuracy) = judged(summary)[0], judged(summary)[-1]
        for task, metric in ((score, error), (label, accuracy)):
            key = f"{task}.{metric}"
            cells = [
                difference((ours or {}).get("differences", {}).get(key), metric),
                difference((ours or {}).get("versus_tuned", {}).get(key), metric),
                difference(versus(summary, default, "versus_plain").get(key) if default else None, metric),
            ]
            if set(cells) != {"–"}:
                unit = "points" if metric in IN_POINTS else "error, %"
                rows.append([about, f"{task} {metric if metric in IN_POINTS else ''}".strip() + f", {unit}", *cells])
        known, key = summary.get("macro_f1") or {}, f"{label}.macro_f1"
        of_arms = (("equal", ours), ("plain", default))
        of_equal, of_plain = (
            difference(known.get(rival, {}).get(arm["arm"], {}).get(key) if arm else None, "macro_f1")
            for rival, arm in of_arms
        )
        if {of_equal, of_plain} != {"–"}:
            rows.append([about, f"{label} macro F1, points", of_equal, "–", of_plain])
    head = [
        "set",
        "",
        "DAO against equal weights",
        "DAO against searched constants",
        "the default recipe against a plain Trainer",
    ]
    return table(head, rows)


def seeds_table(parts: Mapping[str, Any]) -> str:
    """How many seeds would show what was seen, four times in five."""
    asked = (
        ("DAO against equal weights", "dao/lambda", "differences"),
        ("DAO against searched constants", "dao/lambda", "versus_tuned"),
        ("the default recipe against a plain Trainer", "dao+all", "versus_plain"),
    )
    rows = []
    for name, summary in parts.items():
        (score, metric), *_ = judged(summary)
        for words, arm, rivals in asked:
            one = arm_of(summary, arm)
            known = versus(summary, one, rivals).get(f"{score}.{metric}") if one else None
            if not known or known["relative"]["mean"] is None:
                continue
            needed = f"{known['seeds_needed']}" if known["seeds_needed"] else "none is enough"
            if known["rows_needed"]:
                needed += f": {known['rows_needed']:,} test rows"
            gain = f"{known['relative']['mean']:+.1f}"
            rows.append([TITLES[name], f"{words}: {score}", gain, str(known["tests"]), str(known["n"]), needed])
    return table(["set", "", "seen, %", "tests", "seeds run", "seeds needed"], rows)


#: Arms beside constants that were searched.
SEARCHED = ("equal", "dao/lambda", "uncertainty", "famo", "upgrad", "dao+all", "all+private block")


#: Against single-task models with the same training options: without any, and with all of them.
COMPARED = (
    "equal", "tuned-fixed", "dao/lambda", "upgrad", "dao+private block", "dao, polarity first", "pcd, polarity first",
)  # fmt: skip
COMPARED_ALL = (
    "equal+all", "dao+all", "all+private block", "all+2 private blocks", "all, polarity first",
    "all+private block, score first",
)  # fmt: skip
#: Where each arm has its own rate.
RATED = ("dao+all", "all+private block", "all+2 private blocks", "all+private block, score first")
RATES = ("sst_rates", "emobank_rates", "fiqa_rates", "phrasebank_fiqa_rates")


def transfer_table(summary: Summary) -> str:
    """What a task gains or loses in a model with one other, and in the model of all, beside a model of its own."""
    transfer, every, rows = summary["transfer"], arm_of(summary, "dao/lambda"), []
    for task, metric in judged(summary):
        row, at = [f"{task} {metric}"], transfer["tasks"].index(task)
        for other in range(len(transfer["tasks"])):
            part = {"mean": transfer["gain"][at][other]} | {key: transfer[key][at][other] for key in ("low", "high")}
            found = {"mean": part["mean"], "relative": part, "verdict": transfer["verdict"][at][other] or "same"}
            row.append(difference(found, "relative"))
        row.append(difference({**(every or {})["versus_single"][f"{task}.{metric}"]}, "relative"))
        rows.append(row)
    return table(["%", *(f"with {task}" for task in transfer["tasks"]), "with all others"], rows)


#: What might help rare scores and classes, beside what does not try to.
IMBALANCE = ("equal", "dao/lambda", "dao/w", "dao/lambda+w", "dao+label density", "dao+all")


def region_table(found: Mapping[str, Any]) -> str:
    """The first score's error by region, and the F1 of the class that is met worst, where arms weigh the data."""
    rows = []
    for name, summary in found.items():
        if arm_of(summary, "dao/w") is None:
            continue
        (score, _), (label, _) = judged(summary)[0], judged(summary)[-1]
        for arm in IMBALANCE:
            one = arm_of(summary, arm)
            if one is None:
                continue
            regions, classes = one["regions"].get(score), one["regions"].get(label)
            row = [f"{TITLES[name]}, {score}", f"`{shown(arm)}`"]
            row += [cell(part["mse"], "mse") for part in regions["regions"]] if regions else ["–"] * 3
            least = min((part["f1"]["mean"] or 0.0 for part in classes["classes"]), default=None) if classes else None
            rows.append([*row, "–" if least is None else f"{least:.2f}"])
    return table(["set", "arm", "dense", "middle", "rare", "worst class, F1"], rows)


#: How EmoBank's scores were scaled -> part, and what stands behind an arm's name.
SCALES = {
    "none: 1 to 5": ("emobank_native", ""),
    "range: -1 to 1": ("emobank", ""),
    "standard: spread 1": ("emobank", "+standardized"),
}


def scales_table(found: Mapping[str, Any]) -> str:
    """What a method makes of three scalings of the same scores."""
    columns = judged(found["emobank"])
    rows = []
    for method in ("equal", "dao"):
        for words, (name, suffix) in SCALES.items():
            one = arm_of(found[name], method + suffix if suffix or method == "equal" else "dao/lambda") or {}
            of_arm = one.get("metrics", {})
            cells = [cell(of_arm.get(task, {}).get(metric), metric) for task, metric in columns]
            rows.append([f"`{method}`", words, *cells])
    return table(["weights", "scores", *(f"{task} {metric}" for task, metric in columns)], rows)


def some(found: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Those of the parts that have been run."""
    return {name: found[name] for name in names if name in found}


MEANS = ("sst_means", "emobank_means")
#: Equal weights in about the default's time, and the default in the study's epochs and in its own.
LONGER, DEFAULTS = "equal, 5 epochs", ("dao+all", "default, nothing said")


def alone_parts(found: Mapping[str, Any]) -> dict[str, Any]:
    """Parts with models alone that have the options too, at the rate of all arms."""
    return {name: one for name, one in found.items() if one.get("versus_alone") and name not in (*RATES, *MEANS)}


def time_table(parts: Mapping[str, Any]) -> str:
    """The default beside equal weights that were given about its time."""
    rows = []
    for name, summary in parts.items():
        shown_arms = [arm_of(summary, arm) for arm in ("equal", LONGER, *DEFAULTS)]
        times = ["–" if arm is None else f"{arm['cost']['seconds_ratio']:.1f}" for arm in shown_arms]
        rows.append([TITLES[name].split(",")[0], "training time, equal weights' = 1", *times, "–", "–"])
        for task, metric in judged(summary):
            found = [arm["metrics"][task][metric] if arm else None for arm in shown_arms]
            gains = [summary["versus_longer"].get(arm, {}).get(f"{task}.{metric}") for arm in DEFAULTS]
            cells = [cell(one, metric) for one in found] + [difference(one, metric) for one in gains]
            rows.append(["", f"{task} {metric}", *cells])
    heads = ("equal weights", "for longer", "the default", "with nothing said")
    return table(["set", "", *heads, "the default against longer", "nothing said against longer"], rows)


def tables() -> dict[str, str]:
    """Marker -> Markdown."""
    found = results()
    made = {name: part_table(summary) for name, summary in found.items() if name != "sst_options"}
    made |= {"answer": answer_table(some(found, *ANSWERED)), "first": answer_table(some(found, *FIRST))}
    made["tuned"] = single_table(found, SEARCHED, "versus_tuned")
    made |= {
        "ladder": ladder_table(some(found, *LADDER_SETS)),
        "single": single_table(some(found, *FIRST), COMPARED, "versus_single"),
    }
    made |= {"regions": region_table(found), "seeds": seeds_table(some(found, *ANSWERED, *FIRST))}
    if "sst_options" in found:
        made["sst_options"] = options_table(found["sst_options"])
    if some(found, *FULL_SETS):
        made["full"] = ladder_table(some(found, *FULL_SETS))
    if {"emobank", "emobank_native"} <= set(found):
        made["scales"] = scales_table(found)
    made["alone"] = single_table(alone_parts(found), COMPARED_ALL, "versus_alone")
    if some(found, *RATES):
        made["alone_rates"] = single_table(some(found, *RATES), RATED, "versus_alone")
    if some(found, *MEANS):
        made["time"] = time_table(some(found, *MEANS))
    if "emobank_means" in found:
        two = {"emobank_means": found["emobank_means"]}
        made["two_models"] = single_table(two, ("dao+all", "all, without genre"), "versus_alone")
    if "emobank_pairs" in found:
        made["transfer"] = transfer_table(found["emobank_pairs"])
    return made


def filled(page: str) -> str:
    """The page with its tables. A part without a place on it is an error: its result would go unseen."""
    for name, text in tables().items():
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        if begin not in page or end not in page:
            sys.exit(f"docs/study.md has no place for {name}: write {begin} and {end} where its table belongs")
        page = re.sub(f"{begin}.*?{end}", lambda _, t=f"{begin}\n{text}\n{end}": t, page, flags=re.DOTALL)
    return page


# Pictures ------------------------------------------------------------------------------------------------------------

INK, SOFT, PALE = "#24323F", "#5D6B78", "#D5DCE2"
COLOURS = {"better": "#0072B2", "same": "#7A8793", "worse": "#D55E00"}  # Okabe and Ito
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": PALE,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "figure.facecolor": "white",
    "xtick.color": SOFT,
    "ytick.color": PALE,
    "ytick.labelcolor": INK,
}


@dataclass(frozen=True)
class Forest:
    """A picture of gains: a row an arm, a panel a judged metric, a line of panels a set.

    Attributes:
        title: above it.
        below: under it.
        arms: arm -> how it is called in the picture.
        file: its name.
        rivals: which differences: `differences` (equal weights), `versus_plain`, `versus_alone`.
        ends: the first and the last judged metric only.
        targets: whether the study's targets are drawn.
        macro: the arm beside which the last task's macro F1 is shown too.
    """

    title: str
    below: str
    arms: Mapping[str, str]
    file: str
    rivals: str = "differences"
    ends: bool = False
    targets: bool = False
    macro: str | None = None

    def columns(self, summary: Summary) -> list[tuple[str, str]]:
        """What is judged in the picture."""
        every = judged(summary)
        shown = [every[0], every[-1]] if self.ends else every
        return [*shown, (every[-1][0], "macro_f1")] if self.macro else shown

    def differences(self, summary: Summary, arm: Mapping[str, Any]) -> dict[str, Any]:
        """Judged metric -> difference to the rival."""
        macro = summary["macro_f1"][self.macro].get(arm["arm"], {}) if self.macro else {}
        return {**versus(summary, arm, self.rivals), **macro}


def forest(parts: Mapping[str, Summary], picture: Forest) -> None:
    """Draws one."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.rcParams.update(STYLE)
    wide = max(len(picture.columns(summary)) for summary in parts.values())
    rows = [[arm for arm in picture.arms if arm_of(summary, arm)] for summary in parts.values()]
    figure, axes = plt.subplots(
        len(parts),
        wide,
        figsize=(3.1 * wide + 1.6, sum(0.29 * len(one) + 0.95 for one in rows) + 0.8),
        height_ratios=[len(one) + 2.2 for one in rows],
        squeeze=False,
        layout="constrained",
    )
    for line, (name, summary), names in zip(axes, parts.items(), rows, strict=True):
        for axis, column in zip(line, [*picture.columns(summary), *[None] * wide], strict=False):
            if column is None:
                axis.set_visible(False)
                continue
            _panel(axis, summary, names, picture, *column)
            if axis is not line[0]:
                axis.tick_params(labelleft=False)
        line[0].set_title(TITLES[name], loc="left", fontsize=11.5, weight="bold", pad=22)
    figure.suptitle(picture.title, x=0.01, ha="left", fontsize=13.5, weight="bold")
    wrapped = textwrap.fill(picture.below, width=int(14 * figure.get_figwidth()))
    figure.supxlabel(wrapped, x=0.01, ha="left", fontsize=9, color=SOFT)
    figure.savefig(IMAGES / picture.file, dpi=130)
    plt.close(figure)


def _panel(axis: Any, summary: Summary, names: Sequence[str], picture: Forest, task: str, metric: str) -> None:
    in_points = metric in IN_POINTS
    for row, name in enumerate(names):
        arm = arm_of(summary, name)
        found = picture.differences(summary, arm).get(f"{task}.{metric}") if arm else None
        if not found or found["mean"] is None:
            continue
        part = {k: 100 * found[k] for k in ("mean", "low", "high")} if in_points else found["relative"]
        colour = COLOURS[found["verdict"]]
        axis.plot([part["low"], part["high"]], [row, row], color=colour, lw=2, solid_capstyle="round", alpha=0.75)
        axis.plot(part["mean"], row, "o", color=colour, ms=5.5)
    axis.axvline(0, color=INK, lw=0.8)
    if picture.targets and metric in TARGETS:
        axis.axvline(TARGETS[metric], color=COLOURS["worse"], lw=1, ls=(0, (4, 3)))
    axis.set_yticks(range(len(names)), [picture.arms[name] for name in names])
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=PALE, lw=0.6)
    axis.set_axisbelow(True)
    axis.text(
        0,
        1.01,
        f"{task} {metric.replace('_f1', ' F1')}, {'points' if in_points else '%'}",
        transform=axis.transAxes,
        color=SOFT,
        va="bottom",
    )


#: Score errors in per cent, accuracies in points: DAO's paper.
TARGETS = {"mse": 15.58, "accuracy": 1.24}
#: Balancing alone. Without DB-MTL: it diverges, and its -55 points of accuracy would leave no room for all others.
DRAWN = (
    "tuned-fixed", "dao/lambda", "dao/w", "dao/lambda+w", "uncertainty", "famo", "upgrad",
    "dao, polarity first", "pcd, polarity first",
    "dwa(window=63)", "dwa(window=27)", "gradnorm", "imtl_g", "pcgrad", "nash_mtl",
)  # fmt: skip
BELOW = (
    "Difference to {} on the test split, positive is better; mean and 95 % interval (seeds and test rows). "
    "Blue, orange: told apart after Holm's correction."
)
STEPS = {
    "equal": "equal weights, our rates and schedule",
    "dao/lambda": "DAO",
    "equal+all": "equal weights, all options",
    "dao+all": "DAO, all options: the default",
    "all+private block": "the default, private last block",
}
ALONE = {
    "equal+all": "equal weights",
    "dao+all": "DAO",
    "all+private block": "DAO, one private block",
    "all+2 private blocks": "DAO, two private blocks",
    "all, polarity first": "DAO, polarity ten times as hard",
    "all+private block, score first": "DAO, one private block, the score three times as hard",
}


#: Arms of the trade-off and of the curves: name -> how it is called there, its colour (Okabe and Ito), its mark.
NAMED = {
    "plain": ("plain Trainer", "#000000", "X"),
    "equal": ("equal weights", "#5D6B78", "o"),
    "upgrad": ("UPGrad", "#D55E00", "^"),
    "uncertainty": ("uncertainty weighting", "#009E73", "D"),
    "famo": ("FAMO", "#CC79A7", "P"),
    "gradnorm": ("GradNorm", "#8C564B", "p"),
    "imtl_g": ("IMTL-G", "#E377C2", "<"),
    "nash_mtl": ("Nash-MTL", "#17A2A2", ">"),
    "tuned-fixed": ("searched constants", "#E69F00", "s"),
    "dao/lambda": ("DAO", "#0072B2", "o"),
    "equal+all": ("equal weights, all options", "#B0B8BF", "o"),
    "dao+all": ("DAO, all options: the default", "#66AEDC", "o"),
    "all+private block": ("the default, private last block", "#0072B2", "*"),
}


def trade(summary: Summary, title: str) -> None:
    """What the first score and the last class of a set have of each arm: seeds small, their mean large."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.rcParams.update(STYLE)
    (score, error), (label, accuracy) = judged(summary)[0], judged(summary)[-1]
    figure, axis = plt.subplots(figsize=(10.2, 5.2), layout="constrained")
    for name, (words, colour, mark) in NAMED.items():
        arm = arm_of(summary, name)
        if arm is None:
            continue
        x, y = arm["metrics"][score][error], arm["metrics"][label][accuracy]
        axis.plot(x["values"], y["values"], mark, color=colour, ms=4, alpha=0.5, mew=0)
        axis.plot(x["mean"], y["mean"], mark, color=colour, ms=15 if mark == "*" else 11, mec="white", label=words)
    for task, metric, line in ((score, error, axis.axvline), (label, accuracy, axis.axhline)):
        arm = arm_of(summary, f"alone+all:{task}")
        if arm is not None:
            line(arm["metrics"][task][metric]["mean"], color=INK, lw=1, ls=(0, (4, 3)))
    axis.invert_xaxis()
    axis.set_xlabel(f"{score} {error}, less is better →")
    axis.set_ylabel(f"{label} {accuracy} →")
    axis.grid(color=PALE, lw=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", labelcolor=SOFT)
    figure.legend(loc="outside right center", frameon=False, fontsize=9.5)
    figure.suptitle(f"{title}: one score against the class", x=0.01, ha="left", fontsize=13.5, weight="bold")
    below = (
        "Test split; small: a seed, large: the mean. Dashed: what a model of that task alone reaches with all options."
    )
    figure.supxlabel(below, x=0.01, ha="left", fontsize=9, color=SOFT)
    figure.savefig(IMAGES / "study_trade.png", dpi=130)
    plt.close(figure)


def over_time(summary: Summary, title: str, file: str) -> None:
    """Each task's gradient, its share of the weights, validation, and its conflict with the last, against the step."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.rcParams.update(STYLE)
    tasks = list(summary["tasks"])
    scores = [".".join(pair) for pair in judged(summary)]
    pairs = [f"{one}|{tasks[-1]}" for one in tasks[:-1]]
    every = summary["curves"]["equal"]["norms"][tasks[0]]["step"]
    steps = [every[0], every[-1]]
    kinds = {
        "norms": (tasks, "{}: length of its gradient", ("equal",)),
        "weights": (
            tasks,
            "{}: share of the weights",
            ("equal", "tuned-fixed", "uncertainty", "famo", "gradnorm", "dao/lambda"),
        ),
        "validation": (scores, "{}, validation", ("equal", "tuned-fixed", "dao/lambda", "dao+all")),
        "cosines": (pairs, "{}: cosine", ("equal", "dao/lambda")),
    }
    figure, axes = plt.subplots(
        len(kinds),
        len(tasks) + 1,  # the last for what the lines are
        figsize=(2.9 * len(tasks) + 2.5, 10.2),
        width_ratios=[*[1] * len(tasks), 0.72],
        layout="constrained",
    )
    for line, (kind, (names, words, arms)) in zip(axes, kinds.items(), strict=True):
        for axis, name in zip(line, [*names, *[None] * len(tasks)], strict=False):
            if name is None:
                axis.axis("off")
                continue
            for arm in arms:
                found = arm_of(summary, arm)
                curves = _constants(found, steps) if kind == "weights" else {}
                curves = curves or (summary["curves"].get(found["arm"], {}).get(kind, {}) if found else {})
                if name in curves:
                    _curve(axis, curves, name, arm, share=kind == "weights", band=kind == "cosines")
            axis.set_title(
                words.format(name.replace("|", " and ").replace(".", " ")), loc="left", fontsize=10, color=SOFT
            )
            axis.grid(axis="y", color=PALE, lw=0.6)
            axis.tick_params(axis="y", labelcolor=SOFT)
            if kind == "cosines":
                axis.axhline(0, color=INK, lw=0.8)
                axis.set_ylim(-0.25, 0.25)
        _scale_alike(kind, line[: len(names)])
        line[-1].legend(*line[0].get_legend_handles_labels(), fontsize=9, frameon=False, loc="center left")
    figure.suptitle(f"{title}: what happens while it trains", x=0.01, ha="left", fontsize=13.5, weight="bold")
    below = (
        "Against the step; means over seeds, cosines with their 95 % interval; gradients at the text's representation."
    )
    figure.supxlabel(below, x=0.01, ha="left", fontsize=9, color=SOFT)
    figure.savefig(IMAGES / file, dpi=130)
    plt.close(figure)


def _constants(arm: Mapping[str, Any] | None, steps: Sequence[int]) -> dict[str, Any]:
    """Constant weights as curves: equal ones and those that were searched."""
    weights = ((arm or {}).get("settings") or {}).get("balance.weights", {})
    if arm and arm["arm"] == "equal":
        weights = dict.fromkeys(arm["tasks"], 1.0)
    return {task: {"step": steps, "mean": [weight] * 2} for task, weight in weights.items()}


def _scale_alike(kind: str, axes: Sequence[Any]) -> None:
    """One scale for all tasks, of what is told in the same unit."""
    if kind in ("norms", "weights"):
        top = max(axis.get_ylim()[1] for axis in axes)
        for axis in axes:
            axis.set_ylim(0, top)


def _curve(axis: Any, curves: Mapping[str, Any], name: str, arm: str, *, share: bool, band: bool) -> None:
    """One arm's line. `share`: of all tasks' weights, since methods scale theirs as they like."""
    words, colour, _ = NAMED[arm]
    curve = curves[name]
    values = curve["mean"]
    if share:
        values = [value / sum(one["mean"][at] for one in curves.values()) for at, value in enumerate(values)]
    mark = "o" if 2 < len(curve["step"]) < 7 else None
    axis.plot(curve["step"], values, color=colour, lw=1.6, label=words, marker=mark, ms=4)
    if band:
        axis.fill_between(curve["step"], curve["low"], curve["high"], color=colour, alpha=0.15, lw=0)


def draw() -> None:
    """Every picture that the results allow."""
    found = results()
    equal, arms = BELOW.format("equal weights"), {name: shown(name) for name in DRAWN}
    pictures = [
        (
            some(found, "sst", "fiqa_aspect", "fiqa_classes", "phrasebank_fiqa"),
            Forest("Balancing alone: targets scaled alike", equal, arms, "study_alike.png"),
        ),
        (
            some(found, "sst_further", "fiqa_further", "phrasebank_fiqa_further"),
            Forest(
                "Balancing alone: six further methods",
                equal + " Not drawn: DB-MTL, which diverges.",
                arms,
                "study_further.png",
            ),
        ),
        (
            some(found, "emobank"),
            Forest(
                "Balancing alone: four tasks that compete",
                equal + " Not drawn: DB-MTL, which diverges.",
                arms,
                "study_apart.png",
            ),
        ),
        (
            some(found, "emobank_native", "sst_hundreds"),
            Forest("Balancing alone: targets in their own, unlike units", equal, arms, "study_native.png"),
        ),
        (
            some(found, *LADDER_SETS),
            Forest(
                "What each step adds to a plain Trainer: the first answers, of many arms",
                BELOW.format("a plain Trainer with equal weights, its rate chosen on validation,")
                + " Dashed: the study's targets.",
                STEPS,
                "study_steps.png",
                "versus_plain",
                ends=True,
                targets=True,
            ),
        ),
        (
            some(found, "sst_again", "fiqa_folds", "phrasebank_fiqa_again", "emobank_again"),
            Forest(
                "Beside a plain Trainer: fresh seeds, and FiQA cross-validated",
                BELOW.format("a plain Trainer with equal weights, its rate chosen on validation,")
                + " Dashed: the study's targets.",
                {"equal": STEPS["equal"], "tuned-fixed": "searched constants"} | STEPS,
                "study_again.png",
                "versus_plain",
                ends=True,
                targets=True,
                macro="plain",
            ),
        ),
        (
            some(found, *FULL_SETS),
            Forest(
                "Beside a plain Trainer, all training rows",
                BELOW.format("a plain Trainer with equal weights, its rate chosen on validation,")
                + " Dashed: the study's targets.",
                STEPS | {"all, half the rate, consistency 3": "the default, half the rate, consistency 3"},
                "study_full.png",
                "versus_plain",
                ends=True,
                targets=True,
                macro="plain",
            ),
        ),
        (
            alone_parts(found),
            Forest(
                "Does a task pay for another? All with consistency, EMA and calibration",
                BELOW.format("a model of its own with the same options"),
                ALONE,
                "study_alone.png",
                "versus_alone",
            ),
        ),
        (
            some(found, *RATES),
            Forest(
                "Does a task pay for another, if each model has the rate that suits it?",
                BELOW.format("a model of its own with the same options"),
                ALONE,
                "study_rates.png",
                "versus_alone",
            ),
        ),
    ]
    for parts, picture in pictures:
        if parts:
            forest(parts, picture)
    if "emobank" in found:
        trade(found["emobank"], TITLES["emobank"])
        over_time(found["emobank"], TITLES["emobank"], "study_time.png")
    if "fiqa_aspect" in found:
        over_time(found["fiqa_aspect"], TITLES["fiqa_aspect"], "study_time_fiqa.png")


def write() -> None:
    """Fills the page's tables and draws its pictures."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only; exit code 1 if the tables are out of date")
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    if check:
        if page == filled(page):
            return 0
        print("docs/study.md is out of date: run python benchmarks/study/page.py")
        return 1
    write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
