"""The Trainer that joins data, tasks, model and balancer; checkpoints; resume; the way from recipe to run folder.

`train` runs a recipe, `resume` continues a stopped run, `make_plan` does everything up to the first step.
"""

from equipoise.training._facts import versions
from equipoise.training._lock import hold_folder
from equipoise.training._plan import Plan, RunData, count_steps, make_plan, read_data
from equipoise.training._precision import choose_precision
from equipoise.training._run import resume, train
from equipoise.training._selection import Selection
from equipoise.training._trainer import MultiTaskTrainer
from equipoise.training._trial import run_trial

__all__ = [
    "MultiTaskTrainer",
    "Plan",
    "RunData",
    "Selection",
    "choose_precision",
    "count_steps",
    "hold_folder",
    "make_plan",
    "read_data",
    "resume",
    "run_trial",
    "train",
    "versions",
]
