"""Prediction with a trained run: in Python, from a table to a table, and judged against labels.

`load` gives a `Model` whose `predict` takes texts, pairs or a DataFrame; `predict_file` streams a table; `evaluate_file`
judges a labelled one. `explain` says which words pushed a prediction.
"""

from equipoise.inference._evaluate import evaluate_file
from equipoise.inference._explain import explain
from equipoise.inference._export import export_task, export_tasks
from equipoise.inference._export_onnx import export_onnx
from equipoise.inference._files import Counts, predict_file, predict_lines
from equipoise.inference._many import FileResult, Scored, predict_files
from equipoise.inference._memory import own_memory
from equipoise.inference._parity import Parity
from equipoise.inference._predictor import Model, load

__all__ = [
    "Counts",
    "FileResult",
    "Model",
    "Parity",
    "Scored",
    "evaluate_file",
    "explain",
    "export_onnx",
    "export_task",
    "export_tasks",
    "load",
    "own_memory",
    "predict_file",
    "predict_files",
    "predict_lines",
]
