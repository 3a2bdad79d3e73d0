"""The reference study: does balancing help, on real sets, and what should be the default?

    python benchmarks/study/study.py                 # all parts, in order; goes on where it was stopped
    python benchmarks/study/study.py sst emobank     # some of them
    python benchmarks/study/study.py emobank --methods equal,plain,dao   # these first; the others may come later
    python benchmarks/study/study.py --collect       # results, tables and pictures from what has been trained

Every part is one `equipoise.compare`, so the tool that users have makes the study. Trainings go to `runs/study/` (ignored by
git: predictions hold labels of sets that may not be passed on); figures go to `benchmarks/study/results/`.
Two trainings at a time on Ray, one thread each: on two cores that is a fifth faster than one training on both.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DATA = Path(os.environ.get("EQUIPOISE_DATA", ROOT.parent / "shared" / "data"))
sys.path.insert(0, str(HERE.parent))

#: The arms that most parts have.
CORE = "single,equal,tuned-fixed,dao-ablation,uncertainty,famo,upgrad"


def further(epoch: int) -> str:
    """Six more of the family, where methods differ: from losses, from norms, and from angles.

    DWA's window is the paper's, an epoch, here in steps of 32 rows. Its default of 100 would never act in 189 steps.
    """
    return f"dwa(window={epoch}),gradnorm,imtl_g,db_mtl,pcgrad,nash_mtl"


FURTHER = further(63)  # of 2,000 rows
#: Training options beside the balancing, one by one and together; with equal weights, balancing's share shows.
CALIBRATED = {"training.calibrate": True}
TOGETHER = {"training.consistency": 1.0, "training.averaging": "ema", **CALIBRATED}
DAO, EQUAL = {"balance.method": "dao"}, {"balance.method": "equal"}
RECIPE = {"dao+calibrate": DAO | CALIBRATED, "dao+all": DAO | TOGETHER, "equal+all": EQUAL | TOGETHER}
OPTIONS = {
    "dao+consistency": DAO | {"training.consistency": 1.0},
    "dao+ema": DAO | {"training.averaging": "ema"},
    "dao+consistency+ema": DAO | {"training.consistency": 1.0, "training.averaging": "ema"},
    "equal+consistency+ema": EQUAL | {"training.consistency": 1.0, "training.averaging": "ema"},
    "dao+mean pooling": DAO | {"model.pooling": "mean"},
    "dao+layer decay": DAO | {"training.layer_decay": 0.8},
    "dao+label density": DAO | {"tasks.polarity.label_weights": "sqrt_inverse"},
}
#: What else might raise SST's class accuracy, where the target is missed: each beside `dao+all`, and validation chooses.
MORE = {
    name: DAO | TOGETHER | settings
    for name, settings in {
        "all, rate 1e-4": {"training.learning_rate": 1e-4},
        "all, all at 1e-4": {"training.learning_rate": 1e-4, "training.head_learning_rate": 1e-4},
        "all, consistency 3": {"training.consistency": 3.0},
        "all+label smoothing": {"tasks.band.label_smoothing": 0.1},
        "all+ordinal": {"tasks.band.type": "ordinal"},
    }.items()
}
#: The rate over time, which steps are averaged, and which checkpoint is kept.
SCHEDULES = {
    name: EQUAL | {f"training.{key}": value for key, value in settings.items()}
    for name, settings in {
        "equal+swa": {"averaging": "swa"},
        "equal, cosine": {"schedule": "cosine"},
        "equal, constant rate": {"schedule": "constant"},
        "equal, 5 epochs, stopped early": {"epochs": 5, "evaluate_every_steps": 16, "early_stopping": 4},
        "equal, kept by the score": {"evaluate_every_steps": 16, "select": "polarity.mse"},
    }.items()
}
#: What a recipe does that says nothing: its own number of epochs, too.
NOTHING_SAID = {"training.epochs": 4} | {
    f"training.{key}": "auto" for key in ("learning_rate", "consistency", "averaging", "calibrate")
}
#: Equal weights for so many epochs that they take about the default's time.
LONGER = "equal, 5 epochs"
#: The default in the study's epochs and in its own, beside them.
IN_TIME = {
    LONGER: EQUAL | {"training.epochs": 5},
    "dao+all": RECIPE["dao+all"],
    "default, nothing said": {"balance.method": "auto"} | NOTHING_SAID,
}
#: What else is offered where tasks fight and where scores are rare. Adapters learn at five times the rate, as is usual.
LORA = {"training.learning_rate": 1e-3, "training.head_learning_rate": 2e-3}
PARTED = {"model.private_layers": 1, "model.private_when": "conflict"}
OFFERED = {
    "dao+lora": DAO | LORA | {"model.adapter": {"type": "lora"}},
    "dao+mtl_lora": DAO | LORA | {"model.adapter": {"type": "mtl_lora"}},
    "dao+parted on conflict": DAO | PARTED,
    "dao+parted sooner": DAO | PARTED | {"model.private_below": 0.0, "model.private_patience": 30},
    "dao+label density": DAO
    | {f"tasks.{task}.label_weights": "sqrt_inverse" for task in ("valence", "arousal", "dominance")},
}
#: A last block of each task's own: for tasks that fight.
BLOCK = {"all+private block": DAO | TOGETHER | {"model.private_layers": 1}}
TWO_BLOCKS = {"all+2 private blocks": DAO | TOGETHER | {"model.private_layers": 2}}
PRIVATE = {"dao+private block": DAO | {"model.private_layers": 1}} | BLOCK
#: The two of `MORE` whose accuracy on validation was highest, put together.
CAREFUL = {
    "all, half the rate, consistency 3": DAO | TOGETHER | {"training.learning_rate": 1e-4, "training.consistency": 3.0}
}


def first(task: str) -> dict[str, dict[str, Any]]:
    """One task named as the one that matters: pushed ten times as hard as DAO would, or as the primary one of PCD."""
    harder = {"balance.method": "priority", "balance.of": "dao", "balance.priorities": {task: 10.0}}
    primary = {"balance.method": "pcd", "balance.primary": task}
    return {f"dao, {task} first": harder, f"pcd, {task} first": primary, f"all, {task} first": harder | TOGETHER}


def first_with_room(task: str) -> dict[str, dict[str, Any]]:
    """A block of each task's own takes a part of the fight, so the task that matters is pushed three times as hard."""
    milder = {"balance.method": "priority", "balance.of": "dao", "balance.priorities": {task: 3.0}}
    return {f"all+private block, {task} first": milder | TOGETHER | {"model.private_layers": 1}}


def standardized(*tasks: str) -> dict[str, dict[str, Any]]:
    """Scores less their mean, over their standard deviation, in place of their range: all of one spread."""
    scaled = {f"tasks.{task}.scaling": "standard" for task in tasks}
    return {
        "equal+standardized": EQUAL | scaled,
        "dao+standardized": DAO | scaled,
        "all+standardized": DAO | TOGETHER | scaled,
    }


def alone(*tasks: str) -> dict[str, dict[str, Any]]:
    """Each task in a model of its own, with the same training options."""
    return {f"alone+all:{task}": {"only": [task]} | TOGETHER for task in tasks}


def without_genre() -> dict[str, dict[str, Any]]:
    """EmoBank's scores together, in a model that the genre, by which two of them lose, has no part in."""
    return {"all, without genre": {"only": ["valence", "arousal", "dominance"]} | DAO | TOGETHER}


SUBSET = ["data.max_train_rows=2000"]
#: The best arms of the subsets, beside `equal`, `dao` and `plain`.
ALL = {name: RECIPE[name] for name in ("dao+all", "equal+all")}
BEST = ALL | BLOCK
FRESH = [3, 4, 5, 6, 7]
#: Each arm's own rate, of five around ours, which comes first; the heads' is ten times it.
RATES = {"training.learning_rate": (2e-4, 5e-5, 1e-4, 4e-4, 8e-4)}
SST = ["polarity.mse", "band.accuracy"]
EMOBANK = ["valence.mse", "arousal.mse", "dominance.mse", "genre.accuracy"]
FIQA = ["polarity.mse", "aspect.accuracy"]
PHRASEBANK_FIQA = ["polarity.mse", "label.accuracy"]


def tasks_of(metrics: list[str]) -> list[str]:
    """The tasks that are judged."""
    return [metric.rpartition(".")[0] for metric in metrics]


#: What the page draws over time, and of which arms.
CURVES = {
    "weights": ("dao", "dao/lambda", "uncertainty", "famo", "gradnorm"),
    "norms": ("equal",),
    "cosines": ("equal", "dao", "dao/lambda"),
    "validation": ("equal", "plain", "tuned-fixed", "dao", "dao/lambda", "famo", "equal+all", "dao+all"),
}


@dataclass(frozen=True)
class Part:
    """One comparison."""

    recipe: str
    methods: str
    seeds: int | list[int]
    metrics: list[str]
    overrides: list[str] = field(default_factory=list)
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    folds: int | None = None
    trials: int | None = 6  # of the search for constants; None: four a task
    tune: dict[str, tuple[float, ...]] | None = None  # what every arm chooses for itself, on validation
    search_seeds: int | None = None  # how many of the seeds choose; None: the first


PARTS = {
    # On 2,000 training rows (drawn with seed 0), three seeds.
    "sst": Part("sst", f"{CORE},plain", 3, SST, SUBSET, RECIPE | OPTIONS),
    "sst_further": Part("sst", f"equal,{FURTHER}", 3, SST, SUBSET),
    "emobank": Part(
        "emobank",
        f"{CORE},{FURTHER},plain",
        3,
        EMOBANK,
        SUBSET,
        RECIPE
        | PRIVATE
        | TWO_BLOCKS
        | first_with_room("valence")
        | standardized("valence", "arousal", "dominance")
        | alone("valence", "arousal", "dominance", "genre"),
    ),
    # All rows, five seeds: the set is small.
    "fiqa_aspect": Part(
        "fiqa_aspect",
        f"{CORE},plain",
        5,
        FIQA,
        arms=RECIPE | BLOCK | first("polarity") | first_with_room("polarity") | alone("polarity", "aspect"),
    ),
    # Its test split has 219 rows: with cross-validation every one of its 1,172 is tested on. Three seeds, five folds each.
    "fiqa_folds": Part(
        "fiqa_aspect",
        "plain,equal,dao",
        3,
        FIQA,
        arms=BEST | first_with_room("polarity") | alone("polarity", "aspect"),
        folds=5,
    ),
    "fiqa_classes": Part("fiqa_classes", CORE, 5, ["polarity.mse", "band.accuracy"]),
    "phrasebank_fiqa": Part("phrasebank_fiqa", CORE, 3, PHRASEBANK_FIQA, SUBSET),
    # All training rows (8,529 and 7,873), for the arms that were best on 2,000 of them.
    "sst_full": Part("sst", "plain,equal,dao", 3, SST, arms=ALL | CAREFUL),
    "emobank_full": Part("emobank", "plain,equal,dao", 3, EMOBANK, arms=BEST | CAREFUL),
    # What the three seeds of many arms suggest, asked again of five seeds that had no part in it: few arms, few tests.
    # Five is what the first answers' power calculation gives for EmoBank; SST would have needed ten (docs/study.md).
    "sst_again": Part("sst", "plain,equal,dao", FRESH, SST, SUBSET, {"dao+all": RECIPE["dao+all"]}),
    "emobank_again": Part(
        "emobank", "plain,equal,tuned-fixed,dao", FRESH, EMOBANK, SUBSET, {"dao+all": RECIPE["dao+all"]}, trials=None
    ),
    "phrasebank_fiqa_again": Part(
        "phrasebank_fiqa",
        "plain,equal,dao",
        FRESH,
        PHRASEBANK_FIQA,
        SUBSET,
        {"dao+all": RECIPE["dao+all"]},
    ),
    "sst_options": Part("sst", "plain,equal,dao", FRESH, SST, SUBSET, {"dao+all": RECIPE["dao+all"]} | MORE),
    # What was not tried above, and whether equal weights would do as well in the time that the default takes.
    "sst_means": Part("sst", "equal", FRESH[:3], SST, SUBSET, IN_TIME | SCHEDULES),
    "emobank_means": Part(
        "emobank",
        "equal",
        FRESH[:3],
        EMOBANK,
        SUBSET,
        IN_TIME | OFFERED | without_genre() | alone("valence", "arousal", "dominance"),
    ),
    # Six further methods where the tasks are as loud as each other, and where each has a table.
    "fiqa_further": Part("fiqa_aspect", f"equal,{further(27)}", 5, FIQA),
    "phrasebank_fiqa_further": Part("phrasebank_fiqa", f"equal,{FURTHER}", 3, PHRASEBANK_FIQA, SUBSET),
    # Who pays for whom: models of two tasks beside models of one.
    "emobank_pairs": Part("emobank", "equal,dao,single,pairs", 3, EMOBANK, SUBSET),
    # Does a task pay for another if each model, of one task or of all, has the rate that suits it?
    "emobank_rates": Part(
        "emobank",
        "equal",
        FRESH[:3],
        EMOBANK,
        SUBSET,
        {"dao+all": RECIPE["dao+all"]} | TWO_BLOCKS | first_with_room("valence") | alone(*tasks_of(EMOBANK)),
        tune=RATES,
    ),
    # Its validation split has 95 rows: one seed's choice is by chance, so three choose, and two more are judged.
    "fiqa_rates": Part(
        "fiqa_aspect",
        "equal",
        [8, 9, 10, 11, 12],
        FIQA,
        arms={"dao+all": RECIPE["dao+all"]} | BLOCK | first_with_room("polarity") | alone(*tasks_of(FIQA)),
        tune=RATES,
        search_seeds=3,
    ),
    "sst_rates": Part(
        "sst", "equal", FRESH[:3], SST, SUBSET, {"dao+all": RECIPE["dao+all"]} | alone(*tasks_of(SST)), tune=RATES
    ),
    "phrasebank_fiqa_rates": Part(
        "phrasebank_fiqa",
        "equal",
        FRESH[:3],
        PHRASEBANK_FIQA,
        SUBSET,
        {"dao+all": RECIPE["dao+all"]} | alone(*tasks_of(PHRASEBANK_FIQA)),
        tune=RATES,
    ),
    # Native, unlike units: constants that nobody tuned.
    "emobank_native": Part("emobank_native", "equal,tuned-fixed,dao,uncertainty,famo,upgrad", 3, EMOBANK, SUBSET),
    "sst_hundreds": Part("sst_hundreds", "equal,tuned-fixed,dao,uncertainty,famo", 3, SST, SUBSET),
}


def hundreds() -> None:
    """SST with its scores from 0 to 100: made here, from the set that lies beside the project."""
    folder = ROOT / "runs" / "study" / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        with (DATA / "sst" / f"{split}.csv").open(encoding="utf-8", newline="") as source:
            rows = [
                {"text": row["text"], "score": f"{100 * float(row['score']):.4f}"} for row in csv.DictReader(source)
            ]
        with (folder / f"sst_hundreds_{split}.csv").open("w", encoding="utf-8", newline="") as target:
            writer = csv.DictWriter(target, ["text", "score"])
            writer.writeheader()
            writer.writerows(rows)


def run(name: str, engine: str, workers: int, methods: str | None) -> None:
    """Trains what a part lacks, of `methods` alone where they are given. Arms of the part are always trained."""
    if name == "sst_hundreds":
        hundreds()
    started = time.perf_counter()
    found = compare(name, methods, engine=engine, workers=workers, threads=1 if engine == "ray" else None)
    line = {"part": name, "engine": engine, **found.summary["harness"]}
    line["wall_seconds"] = round(time.perf_counter() - started, 1)  # with the imports
    with (ROOT / "runs" / "study" / "seconds.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def compare(name: str, methods: str | None = None, metrics: list[str] | None = None, **settings: Any) -> Any:
    """The part's comparison, by its own metrics or by others; what stands in its folder is not trained again."""
    import equipoise as eq

    part = PARTS[name]
    return eq.compare(
        HERE / "recipes" / f"{part.recipe}.yaml",
        methods=split_methods(methods or part.methods),
        seeds=part.seeds,
        arms=part.arms,
        metrics=metrics or part.metrics,
        overrides=part.overrides,
        folds=part.folds,
        search_trials=part.trials,
        tune=part.tune,
        search_seeds=part.search_seeds,
        output=ROOT / "runs" / "study" / name,
        **settings,
    )


def split_methods(text: str) -> list[str]:
    from equipoise.comparison import split_methods as split

    return list(split(text))


def collect() -> None:
    """Copies figures and no predictions: each part's summary, and every metric of every run."""
    from _common import machine

    import equipoise as eq

    log = ROOT / "runs" / "study" / "seconds.jsonl"
    spent = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    (HERE / "results").mkdir(exist_ok=True)
    for name, part in PARTS.items():
        comparison = eq.Comparison(ROOT / "runs" / "study" / name)
        if not _finished(comparison, part):  # to compare it now would train what it lacks
            print(f"{name}: not finished")
            continue
        standing = {arm["arm"] for arm in comparison.summary["arms"]}

        def versus(rival: str, metrics: list[str] | None = None, part: str = name) -> dict[str, dict[str, Any]]:
            other = compare(part, "equal", metrics, baseline=rival, progress=False).summary
            return {arm["arm"]: arm["differences"] for arm in other["arms"]}

        plain = versus("plain") if "plain" in standing else None
        # Accuracy can be had by leaving classes out; the mean of all classes' F1 tells.
        macro = [metric.replace("accuracy", "macro_f1") for metric in part.metrics if metric.endswith("accuracy")]
        macro_f1 = {rival: versus(rival, macro) for rival in ("equal", "plain") if rival in standing}
        apart: dict[str, dict[str, Any]] = {}
        for rival in sorted(
            set(part.arms) & set(alone(*tasks_of(part.metrics)))
        ):  # each is a rival for its own task only
            for arm, found in versus(rival).items():
                apart.setdefault(arm, {}).update(found)
        summary = compare(name, "equal", baseline="equal", progress=False).summary
        summary |= {"versus_plain": plain, "versus_alone": apart or None, "macro_f1": macro_f1}
        summary["versus_longer"] = versus(LONGER) if LONGER in standing else None
        kept = {
            arm: {kind: found[kind] for kind, arms in CURVES.items() if arm in arms and found.get(kind)}
            for arm, found in summary["curves"].items()
        }
        summary["curves"] = {arm: found for arm, found in kept.items() if found}
        summary["machine"] = machine()
        summary["command"] = f"python benchmarks/study/study.py {name}"
        calls = [line for line in spent if line["part"] == name]
        summary["seconds_of_all_calls"] = round(sum(line["wall_seconds"] for line in calls), 1)
        # What the harness takes shows where trainings run in turn.
        summary["calls"] = [line for line in calls if line.get("engine") == "local"]
        text = json.dumps(summary, separators=(",", ":"))
        assert str(ROOT) not in text, "a path of this machine"
        (HERE / "results" / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        comparison.results.to_parquet(HERE / "results" / f"{name}.parquet", index=False)
        print(f"{name}: {'; '.join(summary['verdict'][:2])}")


def _finished(comparison: Any, part: Part) -> bool:
    """Whether every arm that the part has, or that was asked for, has come to an end with every seed."""
    if not comparison.summary_file.is_file():
        return False
    summary = comparison.summary
    asked = json.loads(comparison.settings_file.read_text(encoding="utf-8"))["arms"]
    ended = {
        arm["arm"]
        for arm in summary["arms"]
        if arm["runs"] + len({one["seed"] for one in arm["failed"]}) == len(summary["seeds"])
    }
    seeds = list(range(part.seeds)) if isinstance(part.seeds, int) else part.seeds
    return summary["seeds"] == seeds and {*part.arms, *asked, "equal"} <= ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; none = all")
    parser.add_argument("--methods", help="these of each part's methods alone")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--collect", action="store_true", help="no training: copy the figures")
    only.add_argument(
        "--no-collect", action="store_true", help="training alone; the figures of all parts are copied later"
    )
    parser.add_argument("--engine", choices=["ray", "local"], default="ray")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}")
    for name in [] if options.collect else options.parts or PARTS:
        print(f"== {name} ==", flush=True)
        run(name, options.engine, options.workers, options.methods)
    if not options.no_collect:
        from page import write

        collect()
        write()


if __name__ == "__main__":
    main()
