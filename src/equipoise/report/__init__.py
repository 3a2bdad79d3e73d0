"""What people see of a run. Now: tables on the terminal. Pictures and the HTML report get files of their own here."""

from equipoise.report._terminal import evaluation_table, metrics_table, plan_lines, predictions_table

__all__ = ["evaluation_table", "metrics_table", "plan_lines", "predictions_table"]
