"""From a recipe and some methods to a comparison folder."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equipoise import recipe as recipes
from equipoise.comparison._arms import Arm, expand
from equipoise.comparison._folder import Comparison
from equipoise.errors import RecipeError
from equipoise.recipe import Recipe
from equipoise.tasks import kind
from equipoise.tasks._base import did_you_mean
from equipoise.terminal import Console

__all__ = ["compare"]

FORMAT_VERSION = 2
DEFAULT_METHODS = ("equal", "dao", "tuned-fixed", "single")
#: K tasks have K - 1 free weights, each over three orders of magnitude.
TRIALS_A_TASK = 4
UNITS = {"s": 1, "min": 60, "h": 3600}
#: More are a mistake: a seed where a number of seeds is expected.
MOST_SEEDS = 10_000


def compare(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    seeds: int | Sequence[int] = 3,
    output: str | Path,
    arms: Mapping[str, Mapping[str, Any]] | None = None,
    baseline: str | None = None,
    metrics: Sequence[str] | None = None,
    budget: int | str | None = None,
    folds: int | None = None,
    tune: Mapping[str, Sequence[Any]] | None = None,
    search_trials: int | None = None,
    search_seeds: int | None = None,
    prune: bool = True,
    retry_failed: bool = False,
    engine: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    overrides: Sequence[str] = (),
    progress: bool = True,
) -> Comparison:
    """Trains several methods on the same rows, seeds and order, and says which differences are real.

    Runs that stand in `output` are kept: a comparison that was stopped goes on, and one that has finished can be given
    more methods or seeds.

    Args:
        recipe: a YAML file, the same as a mapping, or a loaded recipe.
        methods: names of balancing methods, `name(setting=value)`, and `single`, `pairs`, `tuned-fixed`, `plain`,
            `dao-ablation`; see docs/compare.md.
        seeds: how many (0, 1, ...; 10,000 at most), or a list of which, each from 0 to 2**32 - 1.
        output: the comparison folder.
        arms: further arms by name: recipe overrides, `{"ema": {"training.averaging": "ema"}}`.
        baseline: the arm that the others are compared with, of this call or of those in `output`; None takes that of
            the comparison in `output` or, where it is new, `equal`, or the first.
        metrics: what is judged, `task.metric`; None takes each task's main metric.
        budget: of one training: examples (20000), or time (`10min`, `90s`, `1h`); None takes the recipe's epochs.
        folds: cross-validation with so many folds, for small test splits; None uses the recipe's own splits.
        tune: recipe key -> values; every arm chooses its own on validation.
        search_trials: trials of a search over fixed weights, the first with equal weights; None takes those of the
            comparison in `output` or, where it is new, four a task.
        search_seeds: with so many of the seeds, the first ones, each trial of a search is trained, and the mean decides;
            None takes as many as the comparison in `output` or, where it is new, one. Where the validation split is
            small, one seed's best is the best by chance.
        prune: stop trials of a search early where others lead (successive halving); with several seeds none is stopped.
        retry_failed: train again what failed in an earlier call, as after a full disk.
        engine: `local` trains in turn, `ray` on a Ray cluster.
        workers: trainings at once on Ray; None takes what the cluster has room for.
        threads: processor threads of one training; None leaves it to torch (local), or takes one a worker (ray).
        overrides: `a.b=c` settings that win over the recipe.
        progress: print what happens.

    Returns:
        The comparison; `.summary`, `.results`, `.page`.

    Raises:
        EquipoiseError: the recipe, the data or the folder cannot be used, or no arm can be trained. A training that
            fails is no error: the comparison tells its reason, and the others go on.
    """
    from equipoise.comparison._runner import Runner  # loads torch, which a worker on Ray may not need yet
    from equipoise.report import comparison_lines, comparison_table
    from equipoise.training import hold_folder

    given = recipe if isinstance(recipe, Recipe) else recipes.load(recipe, overrides)
    if isinstance(recipe, Recipe) and overrides:
        raise RecipeError(
            "overrides go with a recipe's file or mapping. Load it with them: recipe.load(file, overrides)"
        )
    wanted = _seeds(seeds)
    if folds is not None and folds < 2:
        raise RecipeError(f"compare: folds: expected 2 or more, found {folds}")
    if engine not in ("local", "ray"):
        raise RecipeError(
            f"compare: no engine '{engine}'.{did_you_mean(engine, ['local', 'ray'])} Available: local, ray"
        )
    examples, seconds = _budget(budget)
    judged = _judged(metrics, given)
    standing = _standing(output)
    if search_trials is None:
        search_trials = standing.get("searched", {}).get("trials") or TRIALS_A_TASK * len(given.tasks)
    search_with = _search_seeds(search_seeds, wanted, standing)
    made, unusable = expand(methods, given, arms, tune=tune, taken=standing.get("arms", ()))
    settings = {
        "format_version": FORMAT_VERSION,
        "recipe": given.model_dump(mode="json", by_alias=True),
        "folds": folds,
        "budget": {"examples": examples} if examples else {"seconds": seconds} if seconds else None,
        "searched": {"trials": search_trials, "seeds": search_with, "prune": prune, "judged": judged},
        "seeds": wanted,
        "arms": {arm.name: arm.to_dict() for arm in made},
        "baseline": _baseline(baseline, made, standing),
        "judged": judged,
        "command": _command(
            recipe,
            methods=",".join(methods),
            seeds=",".join(map(str, wanted)) + ("," if len(wanted) == 1 else ""),
            arms="arms.yaml" if arms else None,
            baseline=baseline,
            metrics=",".join(metrics or ()),
            budget=budget,
            folds=folds,
            tune=[f"{key}={','.join(map(str, values))}" for key, values in (tune or {}).items()],
            search_trials=search_trials,
            search_seeds=len(search_with) if len(search_with) > 1 else None,
            prune=prune,
            overrides=overrides,
            output=output,
        ),
    }
    comparison = Comparison.open(output)
    console = Console(quiet=not progress, soft_wrap=True)
    runner = Runner(
        comparison,
        given,
        settings,
        unusable,
        seconds=seconds,
        examples=examples,
        retry_failed=retry_failed,
        console=console,
    )
    with hold_folder(comparison.folder, comparison.lock_file, "compares"):
        summary = runner.run(engine, workers=workers, threads=threads)
    console.print(comparison_table(summary))
    for line in comparison_lines(summary):
        console.print(line, highlight=False, markup=False)
    console.print(
        f"comparison folder: {comparison.folder} (open {comparison.page.name})", highlight=False, markup=False
    )
    return comparison


def _command(recipe: Any, *, output: str | Path, overrides: Sequence[str], **options: Any) -> str:
    """The command line that does the same."""
    words = ["equipoise", "compare", str(recipe) if isinstance(recipe, str | Path) else "recipe.yaml"]
    if not options.pop("prune"):
        words.append("--no-prune")
    for name, value in [*options.items(), ("set", list(overrides))]:
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}", str(one)] if one not in (None, "") else []
    return shlex.join([*words, "-o", str(output)])


def _budget(given: int | str | None) -> tuple[int | None, float | None]:
    """Examples, or seconds, of one training."""
    if given is None:
        return None, None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|)\s*", str(given))
    if match is None or float(match[1]) <= 0 or (not match[2] and "." in match[1]):
        raise RecipeError(f"compare: budget: expected examples (20000) or a time (90s, 10min, 1h), found '{given}'")
    return (None, float(match[1]) * UNITS[match[2]]) if match[2] else (int(match[1]), None)


def _judged(metrics: Sequence[str] | None, recipe: Recipe) -> list[str]:
    kinds = {name: kind(task.type) for name, task in recipe.tasks.items()}
    if not metrics:
        return [f"{name}.{cls.main_metric[0]}" for name, cls in kinds.items()]
    for name in metrics:
        task, _, metric = name.rpartition(".")
        if task not in kinds or metric not in kinds[task].selectable():
            valid = [f"{t}.{m}" for t, cls in kinds.items() for m in cls.selectable()]
            raise RecipeError(
                f"compare: metrics: there is no '{name}'.{did_you_mean(name, valid)} Available: {', '.join(valid)}"
            )
    return list(metrics)


def _baseline(wanted: str | None, arms: Sequence[Arm], standing: Mapping[str, Any]) -> str:
    made = [arm.name for arm in arms]
    names = list(dict.fromkeys([*standing.get("arms", ()), *made]))
    if wanted is None:
        whole = [arm.name for arm in arms if arm.tasks is None] or made
        return standing.get("baseline") or ("equal" if "equal" in made else whole[0])
    if wanted not in names:
        raise RecipeError(
            f"compare: baseline: no arm '{wanted}'.{did_you_mean(wanted, names)} Arms: {', '.join(names)}"
        )
    return wanted


def _standing(output: str | Path) -> dict[str, Any]:
    """What `comparison.json` holds; nothing where there is none. What is wrong with the folder is told when it is opened."""
    try:
        found = json.loads(Comparison(Path(output)).settings_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _search_seeds(count: int | None, wanted: Sequence[int], standing: Mapping[str, Any]) -> list[int]:
    """The first `count` seeds; those that the searches of the comparison had, where they are as many."""
    before: list[int] = standing.get("searched", {}).get("seeds", [])
    if before and count in (None, len(before)):
        return before
    seeds, count = sorted({*standing.get("seeds", ()), *wanted}), 1 if count is None else count
    if not 1 <= count <= len(seeds):
        raise RecipeError(
            f"compare: search_seeds: expected 1 to {len(seeds)}, as many as there are seeds, found {count}"
        )
    return seeds[:count]


def _seeds(given: int | Sequence[int]) -> list[int]:
    if isinstance(given, int):
        if not 1 <= given <= MOST_SEEDS:
            raise RecipeError(
                f"compare: seeds: expected how many, 1 to {MOST_SEEDS}, found {given}. For one seed write [7], or --seeds 7,"
            )
        return list(range(given))
    listed: object = given
    if isinstance(listed, str) or not isinstance(listed, Sequence) or not listed:
        raise RecipeError(f"compare: seeds: expected how many, or a list such as [0, 1, 7], found {given!r}")
    for seed in listed:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise RecipeError(f"compare: seeds: a seed is a whole number from 0 to {2**32 - 1}, found {seed!r}")
    return sorted(set(listed))
