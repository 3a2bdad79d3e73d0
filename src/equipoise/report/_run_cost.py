"""What a run cost, and how to do it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from equipoise.report._html import Html, copied, details, paragraph, section, table
from equipoise.report._numbers import MISSING, number, seconds
from equipoise.report._run_facts import RunFacts

__all__ = ["cost_section", "repeat_section"]


def cost_section(facts: RunFacts) -> Html:
    """Time, memory, machine and size."""
    known: Mapping[str, Any] = facts.metrics.get("training") or {}
    title, name = "What did it cost?", "cost"
    if not known:
        return section(name, title, "", paragraph("The run keeps no record of its training."))
    trained, total = known.get("trainable_parameters"), known.get("parameters")
    share = f"{trained:,} of {total:,}" if isinstance(trained, int) and isinstance(total, int) else MISSING
    device = _device(known)
    rows = [
        ["training", seconds(known.get("seconds"))],
        ["all of it, with evaluation", seconds(known.get("total_seconds"))],
        ["speed", f"{number(known.get('samples_per_second'), 1)} texts a second"],
        ["steps", f"{number(known.get('steps'), 0)} ({number(known.get('epochs'), 2)} epochs)"],
        ["memory at its peak", _megabytes(known.get("peak_memory_mb"))],
    ]
    if known.get("peak_device_memory_mb") is not None:
        rows.append(["memory of the device", _megabytes(known["peak_device_memory_mb"])])
    rows += [
        ["ran on", device],
        ["precision", _precision(known)],
        ["parameters that trained", share],
        ["backward passes beside the usual one, a step", number(known.get("extra_backwards_per_step"), 2)],
    ]
    return section(
        name, title, "", table(["what", "how much"], rows, "Measured by the run itself", words=2, wrapped=True)
    )


def _device(known: Mapping[str, Any]) -> str:
    threads = known.get("threads")
    said = str(known.get("device", MISSING))
    return f"{said}, {threads} thread{'' if threads == 1 else 's'}" if isinstance(threads, int) else said


def _precision(known: Mapping[str, Any]) -> str:
    said = str(known.get("precision", MISSING))
    return f"{said}: {known['precision_reason']}" if known.get("precision_reason") else said


def _megabytes(value: Any) -> str:
    if not isinstance(value, int | float):
        return MISSING
    return f"{value / 1024:,.1f} GiB" if value >= 1024 else f"{value:,.0f} MiB"


def repeat_section(facts: RunFacts) -> Html:
    """The command, the recipe, the seed and the versions."""
    known: Mapping[str, Any] = facts.metrics.get("training") or {}
    folder = str(facts.run.folder)
    recipe, again = shlex.quote(str(facts.run.recipe_file)), shlex.quote(f"{folder.rstrip('/')}-again")
    parts: list[Html] = []
    if facts.recipe_text is not None:
        parts.append(copied("command", f"equipoise train {recipe} -o {again}"))
    if "seed" in known:
        parts.append(
            paragraph(
                f"Seed {known['seed']}: it draws the splits, the heads' first weights and the order of the rows. On the same "
                "machine with the same versions the figures come out the same; on another one, nearly."
            )
        )
    if known.get("trust_remote_code"):
        parts.append(paragraph(_code(known.get("remote_code"))))
    versions = facts.metrics.get("versions") or {}
    if versions:
        rows = [[str(package), str(one)] for package, one in versions.items()]
        parts.append(table(["package", "version"], rows, "Versions", words=2))
    if facts.recipe_text is None:
        parts.append(paragraph("The run folder has no recipe.yaml any more, so it can't be repeated from here."))
    else:
        parts.append(details("The recipe, with every default", copied("recipe", facts.recipe_text)))
    return section("repeat", "How to do it again", "", *parts)


def _code(files: Any) -> str:
    """That code from outside ran, and which."""
    if not isinstance(files, Mapping) or not files:
        return (
            "model.trust_remote_code was on, and the backbone brought no code along: nothing but Equipoise's own ran."
        )
    named = ", ".join(f"{name} (SHA-256 {str(digest)[:16]}…)" for name, digest in files.items())
    return (
        "model.trust_remote_code was on: code that the backbone brought along ran in this training, and runs wherever the "
        f"model is loaded: {named}."
    )
