"""A run and a comparison in which everything that a stranger may choose is an attack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attacks import PAGES
from fake_runs import FOUR, write_run
from summaries import arm, difference, page_of, spread, summary
from watched_pages import chunks, usable

ALL = list(PAGES.values())


def evil_run(folder: Path) -> Path:
    """Every attack is a class, a text, a file, a reason, a warning, a version; all of them together are names of tasks."""
    names = chunks(ALL, 4)
    classes = list(dict.fromkeys(one.strip() for one in ALL))
    several = [one for one in classes if "|" not in one and not one.startswith("[")]
    specs: dict[str, Any] = {
        f"score {names[0]}": FOUR["polarity"],
        f"label {names[1]}": ("classification", {"labels": classes}, classes),
        f"rank {names[2]}": ("ordinal", {"labels": classes[:30]}, classes[:30]),
        f"set {names[3]}": ("multilabel", {"separator": "|"}, several),
    }
    rows = {"train": 500, "validation": 150, "test": 300}
    run = write_run(folder, specs, rows=rows, file=f"data/{ALL[0]}.csv", texts=ALL)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["data"] |= {
        "files": [{"file": one, "split": "train", "rows": 3} for one in ALL],
        "rejected": {one: [{"reason": one, "count": 3, "example": one}] for one in ALL},
        "warnings": ALL,
        "stratified_by": ALL[5],
        "leaks": {f"{one}/x": {"rows": 2, "dropped": False} for one in ALL},
    }
    joined = " ".join(ALL)
    keys = ("method", "device", "precision", "precision_reason", "pooling", "select")
    metrics["training"] |= dict.fromkeys(keys, joined)
    metrics["training"] |= {"trust_remote_code": True, "remote_code": {one: one for one in ALL}}
    metrics["versions"] = {one: one for one in ALL}
    (run / "metrics.json").write_text(json.dumps(metrics))
    sidecar = json.loads((run / "model" / "multitask.json").read_text())
    (run / "model" / "multitask.json").write_text(json.dumps(sidecar | {"backbone": joined, "text": ALL}))
    (run / "recipe.yaml").write_text(joined)
    with (run / "history.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": 5, "note": one}) + "\n" for one in ALL)
    return run


def evil_comparison() -> str:
    """The page of a comparison of arms, tasks and failures that are attacks."""
    names = chunks(ALL, 6)
    task = " ".join(usable(without=".|"))
    metric = f"{task}.mse"
    band = {"step": [1, 2], "mean": [1.0, 2.0], "low": [0.5, 1.5], "high": [1.5, 2.5], "examples": [32, 64]}
    parts = [{"name": one, "n": 5, "mse": spread(0.08, 0.003)} for one in ALL[:20]]
    arms = [
        arm(
            name,
            tasks=[task],
            metrics={task: {"mse": spread(0.08, 0.003), "n": spread(100, 0)}},
            differences={metric: difference(1.0, 2.0, "same")} if at else {},
            settings={one: one for one in ALL},
            regions={task: {"kind": "score", "regions": parts}},
            failed=[{"seed": 1, "fold": None, "reason": one} for one in ALL],
        )
        for at, name in enumerate(names)
    ]
    found = summary(
        *arms,
        judged=[metric],
        tasks={task: {"kind": "regression", "metric": "mse", "better": "min", "classes": None}},
        rows={task: 100},
        verdict=ALL,
        rule=task,
        curves={
            name: {"validation": {metric: band}, "weights": {task: band}, "cosines": {f"{task}|{names[0]}": band}}
            for name in names
        },
        transfer={
            "tasks": names[:2],
            "source": "pairs",
            **{key: [[None, 1.0], [2.0, None]] for key in ("gain", "low", "high")},
            "verdict": [[None, "same"], ["same", None]],
        },
    )
    joined = " ".join(ALL)
    versions = {one: one for one in ALL}
    return page_of(found, title=joined, recipe_text=joined, command=joined, versions=versions)
