"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

__all__ = ["evaluation_table", "metrics_table", "plan_lines", "predictions_table"]

SHOWN = (
    "mse",
    "mae",
    "r2",
    "pearson",
    "spearman",
    "ccc",
    "accuracy",
    "macro_f1",
    "micro_f1",
    "mcc",
    "quadratic_kappa",
    "average_precision",
)


def metrics_table(metrics: Mapping[str, Any], split: str) -> Table:
    """A run's metrics on one split beside both baselines.

    Args:
        metrics: what `metrics.json` holds.
        split: `validation` or `test`.
    """
    found, base = metrics["splits"][split], metrics.get("baselines", {}).get(split, {})
    table = Table(title=Text(f"{split} split, {_rows(found)} rows", "table.title"), title_justify="left")
    table.add_column("task")
    table.add_column("metric")
    table.add_column("this model", justify="right", style="bold")
    table.add_column("TF-IDF + linear", justify="right")
    table.add_column("mean / majority", justify="right")
    for task, values in found.items():
        rivals = base.get(task, {})
        for position, name in enumerate(_scalars(values)):
            table.add_row(
                Text(task if position == 0 else ""),
                name,
                _number(values[name]),
                *(_number((rivals.get(key) or {}).get(name)) for key in ("tfidf", "constant")),
            )
        table.add_section()
    return table


def evaluation_table(tasks: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """Metrics of several tasks without baselines."""
    table = Table(title=Text(title, "table.title"), title_justify="left")
    table.add_column("task")
    table.add_column("metric")
    table.add_column("value", justify="right", style="bold")
    for task, values in tasks.items():
        for position, name in enumerate(_scalars(values)):
            table.add_row(Text(task if position == 0 else ""), name, _number(values[name]))
        table.add_section()
    return table


def predictions_table(texts: Sequence[str], predictions: Mapping[str, Sequence[Any]]) -> Table:
    """Texts beside their predictions; probabilities stand behind the class that was chosen."""
    table = Table(show_lines=False)
    table.add_column("text", max_width=60)
    tasks = [name for name in predictions if "/" not in name]
    for name in tasks:
        table.add_column(Text(name), justify="right")
    for row, text in enumerate(texts):
        cells = []
        for name in tasks:
            value = predictions[name][row]
            probability = predictions.get(f"{name}/{value}")
            shown = f"{value:+.2f}" if isinstance(value, float) else str(value)
            cells.append(Text(shown if probability is None else f"{shown} ({probability[row]:.0%})"))
        table.add_row(Text(text), *cells)
    return table


def plan_lines(about: Mapping[str, Any]) -> list[str]:
    """What `equipoise validate` prints: rows, labels, tokens, parameters, steps."""
    data = about["data"]
    lines = [f"rows read: {data['rows_read']}, rejected: {data['rows_rejected']}"]
    for split, reasons in data["rejected"].items():
        lines += [f"  {split}: {r['count']} x {r['reason']} (as at {r['example']})" for r in reasons]
    for split, summary in data["splits"].items():
        lines.append(f"{split}: {summary['rows']} rows")
        for task, values in summary["tasks"].items():
            lines.append(f"  {task}: {_summary(values)}")
        tokens = about["tokens"][split]
        cut = f", {tokens['cut']} texts cut" if tokens["cut"] else ""
        lines.append(f"  tokens: median {tokens['median']}, 95 % {tokens['p95']}, longest {tokens['longest']}{cut}")
    lines += [f"warning: {warning}" for warning in data["warnings"]]
    lines.append(f"model: {about['trainable_parameters']:,} of {about['parameters']:,} parameters train")
    lines.append(f"precision: {about['precision']}, because {about['precision_reason']}")
    lines.append(f"steps: {about['steps']}")
    return lines


def _summary(values: Any) -> str:
    if isinstance(values, Mapping):
        return ", ".join(f"{key} {_summary(value)}" for key, value in values.items())
    if isinstance(values, list):
        return "[" + ", ".join(_summary(value) for value in values) + "]"
    return f"{values:.4g}" if isinstance(values, float) else str(values)


def _scalars(values: Mapping[str, Any]) -> list[str]:
    return [name for name in SHOWN if name in values]


def _rows(found: Mapping[str, Any]) -> int:
    return max((values.get("n", 0) for values in found.values()), default=0)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}"
