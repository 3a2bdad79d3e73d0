"""Fine-tune one language model on several text tasks at once, and keep the tasks in balance while it trains.

    import equipoise as eq

    run = eq.train("recipe.yaml")          # a recipe -> a run folder
    model = eq.load(run)                   # a run -> a model
    model.predict(["Profit beats hopes"])  # texts -> a DataFrame

The plug-in for a training loop of your own is `equipoise.balance`. Importing this package loads neither torch nor
transformers: each name is fetched when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equipoise.comparison import Comparison, compare
    from equipoise.errors import BalanceError, DataError, EquipoiseError, RecipeError, RunError, ServiceError
    from equipoise.inference import Model, evaluate_file, load, predict_file, predict_files
    from equipoise.recipe import Recipe
    from equipoise.report import write_card, write_report
    from equipoise.runs import Run
    from equipoise.serving import serve
    from equipoise.sharing import push
    from equipoise.training import resume, train

__version__ = "0.1.0"

_HOMES = {
    "BalanceError": "equipoise.errors",
    "Comparison": "equipoise.comparison",
    "DataError": "equipoise.errors",
    "EquipoiseError": "equipoise.errors",
    "Model": "equipoise.inference",
    "Recipe": "equipoise.recipe",
    "RecipeError": "equipoise.errors",
    "Run": "equipoise.runs",
    "RunError": "equipoise.errors",
    "ServiceError": "equipoise.errors",
    "compare": "equipoise.comparison",
    "evaluate_file": "equipoise.inference",
    "load": "equipoise.inference",
    "predict_file": "equipoise.inference",
    "predict_files": "equipoise.inference",
    "push": "equipoise.sharing",
    "resume": "equipoise.training",
    "serve": "equipoise.serving",
    "train": "equipoise.training",
    "write_card": "equipoise.report",
    "write_report": "equipoise.report",
}

__all__ = [
    "BalanceError",
    "Comparison",
    "DataError",
    "EquipoiseError",
    "Model",
    "Recipe",
    "RecipeError",
    "Run",
    "RunError",
    "ServiceError",
    "__version__",
    "compare",
    "evaluate_file",
    "load",
    "predict_file",
    "predict_files",
    "push",
    "resume",
    "serve",
    "train",
    "write_card",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'equipoise' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
