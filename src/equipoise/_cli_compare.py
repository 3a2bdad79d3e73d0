"""The door of `equipoise compare`; see `cli.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["compare"]


def compare(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, YAML.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The comparison folder; what it has, is kept.")],
    methods: Annotated[
        str,
        typer.Option(
            help="Balancing methods, name or name(setting=value), and: single, pairs, tuned-fixed, plain, dao-ablation."
        ),
    ] = "equal,dao,tuned-fixed,single",
    seeds: Annotated[str, typer.Option(help="How many, or which: 5, or 0,1,7, or 7, for one.")] = "3",
    arms: Annotated[
        Path | None, typer.Option(help="YAML: further arms by name, each a mapping of recipe settings.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="The arm that the others are compared with; else that of the folder, equal, or the first."),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="What is judged, such as polarity.mse,label.accuracy; else each task's main one.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Of one training: examples (20000) or time (10min); else the recipe's epochs.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Cross-validation with so many folds, for a small test split.")
    ] = None,
    tune: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=A,B", help="Every arm chooses on validation: training.learning_rate=2e-5,1e-4."),
    ] = None,
    search_trials: Annotated[
        int | None, typer.Option(min=1, help="Trials of a search over fixed weights; else four a task.")
    ] = None,
    search_seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Each trial of a search is trained with so many of the seeds; else with the first."),
    ] = None,
    prune: Annotated[bool, typer.Option(help="Stop trials of a search with one seed early where others lead.")] = True,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Train again what failed before.")] = False,
    engine: Annotated[str, typer.Option(help="local: in turn; ray: on a Ray cluster.")] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="Trainings at once on Ray.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads of one training.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as training.epochs=2."),
    ] = None,
) -> None:
    """Train several methods on the same rows, seeds and order, and say which differences are real.

    A comparison that was stopped goes on with the same command; one that has finished takes more methods and seeds.

    Example: equipoise compare recipe.yaml --methods dao,equal,famo,tuned-fixed,single --seeds 5 -o comparisons/reviews
    """
    from equipoise import comparison
    from equipoise.recipe import mapping_of

    comparison.compare(
        recipe,
        methods=comparison.split_methods(methods),
        seeds=comparison.seeds_of(seeds),
        output=output,
        arms=None if arms is None else mapping_of(arms),
        baseline=baseline,
        metrics=None if metrics is None else metrics.split(","),
        budget=budget,
        folds=folds,
        tune=comparison.grid_of(tune or []),
        search_trials=search_trials,
        search_seeds=search_seeds,
        prune=prune,
        retry_failed=retry_failed,
        engine=engine,
        workers=workers,
        threads=threads,
        overrides=set_ or [],
    )
