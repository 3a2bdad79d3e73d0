"""The door of `equipoise export`; see `cli.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equipoise._cli_trust import TrustOption
from equipoise.errors import RunError

__all__ = ["export"]

FORMATS = ("transformers", "onnx")


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")],
    format: Annotated[
        str, typer.Option(help="transformers: stock checkpoints, one a task; onnx: one graph of all tasks.")
    ] = "transformers",
    task: Annotated[
        str | None, typer.Option(help="transformers: this task alone, into OUTPUT itself; else each into OUTPUT/TASK.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="onnx: with eight-bit weights.")] = False,
    data: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="onnx: a labelled table to compare on; else the run's own test rows."),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="onnx: how much worse a task's main metric may be; else 0.005.")
    ] = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Write a run for tools that know nothing of Equipoise: stock checkpoints, or an ONNX graph.

    An ONNX export is compared with the run before it is called good; `equipoise predict` and `serve` take its folder for a
    run's.

    Example: equipoise export runs/reviews -o label-model --task label

    Example: equipoise export runs/reviews -o reviews-int8 --format onnx --int8
    """
    if format not in FORMATS:
        raise RunError(f"--format: expected {' or '.join(FORMATS)}, found '{format}'")
    of_onnx: dict[str, Any] = {"--int8": int8 or None, "--data": data, "--tolerance": tolerance}
    if format == "onnx":
        if task is not None:
            raise RunError("--task goes with --format transformers: an ONNX graph holds all tasks")
        from equipoise.inference import export_onnx

        given = {} if tolerance is None else {"tolerance": tolerance}
        if trust_remote_code:
            raise RunError("--trust-remote-code goes with --format transformers: such code is not exported to ONNX")
        _tell_parity(export_onnx(run, output, int8=int8, data=data, **given), output)
        return
    wrong = [name for name, value in of_onnx.items() if value is not None]
    if wrong:
        raise RunError(f"{wrong[0]} goes with --format onnx")
    from equipoise.inference import export_task, export_tasks

    if task is not None:
        export_task(run, task, output, trust_remote_code=trust_remote_code)
    else:
        for folder in export_tasks(run, output, trust_remote_code=trust_remote_code):
            typer.echo(f"wrote {folder}", err=True)
        return
    typer.echo(f"wrote {output}", err=True)


def _tell_parity(parity: Any, output: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from equipoise.terminal import Console

    title = f"{parity.precision} export beside the run, on {parity.rows} rows of {parity.source}"
    table = Table(title=Text(title, "table.title"))
    for heading in ("task", "metric", "run", "export", "worse by"):
        table.add_column(heading, justify="left" if heading in ("task", "metric") else "right")
    for task, metrics in parity.metrics.items():
        for metric, found in metrics.items():
            worse = "" if found["worse"] is None else f"{found['worse']:+.2%}"
            table.add_row(task, metric, f"{found['run']:.5g}", f"{found['export']:.5g}", worse)
    console = Console()
    console.print(table)
    largest = max(parity.largest_difference.values())
    left = f" ({parity.left_out} further rows were left out)" if parity.left_out else ""
    console.print(
        f"largest difference of an output {largest:.2g}; main metrics at most {parity.tolerance:.2%} worse, as allowed{left}"
    )
    typer.echo(f"wrote {output}", err=True)
