"""The door of `equipoise explain`; see `cli.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equipoise._cli_trust import TrustOption

__all__ = ["explain"]

STRONGEST = 5  # words told with their numbers


def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    text: Annotated[list[str], typer.Argument(metavar="TEXT", help="The text, or the two of a pair.")],
    task: Annotated[list[str] | None, typer.Option("--task", help="A task; may be repeated. All by default.")] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="The class to be explained; the predicted one by default.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Points of the integral: more are closer, and slower.")] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every word's contribution.")] = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Show which words of a text pushed a prediction, and which way.

    Example: equipoise explain runs/reviews "Profit rose, but the outlook is weak" --task label
    """
    from equipoise import inference
    from equipoise.errors import DataError
    from equipoise.terminal import Console, json_text

    if target is not None and (task is None or len(task) != 1):
        raise DataError("--target goes with one --task")
    model = inference.load(run, trust_remote_code=trust_remote_code)
    asked = text[0] if len(text) == 1 else text
    found = [inference.explain(model, asked, name, target=target, steps=steps) for name in task or model.tasks]
    if as_json:
        typer.echo(json_text(found, indent=2))
        return
    console = Console(highlight=False)
    for one in found:
        _print(console, one, dict(zip(model.text, text, strict=True)))


def _print(console: Any, found: dict[str, Any], texts: dict[str, str]) -> None:
    """The text with its words coloured, and the strongest words with their numbers."""
    from rich.text import Text

    title = f"{found['task']} {found['target']}" if found["target"] else found["task"]
    unit = "" if found["unit"] == "score" else " (log-odds)"
    head = Text(title, "bold")
    head.append(f"  {found['value']:+.3g}{unit}, {found['baseline']:+.3g} with every word hidden", "not bold dim")
    console.print(head)
    most = max((abs(word["contribution"] or 0.0) for word in found["words"]), default=0.0)
    for field, text in texts.items():
        line = Text(text)
        for word in found["words"]:
            if word["field"] == field:
                line.stylize(_style(word["contribution"], most), word["start"], word["end"])
        console.print(line, soft_wrap=True)
    read = [word for word in found["words"] if word["contribution"] is not None]
    strongest = sorted(read, key=lambda word: -abs(word["contribution"]))[:STRONGEST]
    console.print(Text("  ".join(f"{word['contribution']:+.3g} {word['text']}" for word in strongest), "dim"))
    if len(read) < len(found["words"]):
        console.print(Text(f"{len(found['words']) - len(read)} words were cut off: the text is too long", "dim"))
    console.print()


def _style(contribution: float | None, most: float) -> str:
    """Green and underlined for, red and slanted against, so that the sign is seen without colours too."""
    if contribution is None:
        return "dim strike"
    strength = abs(contribution) / most if most else 0.0
    if strength < 0.1:
        return ""  # a tenth of the strongest says little
    style = "green underline" if contribution > 0 else "red italic"
    return f"bold {style}" if strength > 0.5 else style
