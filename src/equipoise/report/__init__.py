"""What people see of a run, and of a comparison of many: tables on the terminal, and an HTML page with pictures for each."""

from equipoise.report._card import card_text, write_card
from equipoise.report._comparison_page import comparison_page
from equipoise.report._comparison_terminal import comparison_lines, comparison_table
from equipoise.report._run_page import worst_rows, write_report
from equipoise.report._terminal import evaluation_table, metrics_table, plan_lines, predictions_table

__all__ = [
    "card_text",
    "comparison_lines",
    "comparison_page",
    "comparison_table",
    "evaluation_table",
    "metrics_table",
    "plan_lines",
    "predictions_table",
    "worst_rows",
    "write_card",
    "write_report",
]
