"""Prediction with a trained run: in Python, from a table to a table, and judged against labels.

`load` gives a `Model` whose `predict` takes texts, pairs or a DataFrame; `predict_file` streams a table; `evaluate_file`
judges a labelled one.
"""

from equipoise.inference._evaluate import evaluate_file
from equipoise.inference._export import export_task
from equipoise.inference._files import Counts, predict_file, predict_lines
from equipoise.inference._predictor import Model, load

__all__ = ["Counts", "Model", "evaluate_file", "export_task", "load", "predict_file", "predict_lines"]
