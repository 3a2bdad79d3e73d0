"""What people see of a run, and of a comparison of many: tables on the terminal, and one HTML page with pictures."""

from equipoise.report._comparison_page import comparison_page
from equipoise.report._comparison_terminal import comparison_lines, comparison_table
from equipoise.report._terminal import evaluation_table, metrics_table, plan_lines, predictions_table

__all__ = [
    "comparison_lines",
    "comparison_page",
    "comparison_table",
    "evaluation_table",
    "metrics_table",
    "plan_lines",
    "predictions_table",
]
