"""What a training cost and what it ran on."""

from __future__ import annotations

import contextlib
import platform
import re
import resource
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from equipoise.models import pick_device, private_of
from equipoise.training._checkpoints import unwrapped
from equipoise.training._plan import Plan
from equipoise.training._trainer import MultiTaskTrainer

__all__ = ["forget_peak_memory", "peak_memory_mb", "quiet_transformers", "training_facts", "versions"]

PACKAGES = (
    "equipoise",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "tokenizers",
    "scikit-learn",
    "numpy",
)


def training_facts(trainer: MultiTaskTrainer, plan: Plan, seconds: float, best: int | None) -> dict[str, Any]:
    """The `training` part of `metrics.json`. `seconds`: of the loop; `best`: the step whose weights were kept."""
    about = plan.describe()
    steps = trainer.state.global_step
    device = pick_device()
    facts: dict[str, Any] = {
        "method": plan.recipe.balance.method,
        "seed": plan.recipe.training.seed,
        "steps": steps,
        "epochs": round(float(trainer.state.epoch or 0), 4),
        "best_step": best,
        "select": plan.recipe.training.select,
        "trust_remote_code": plan.recipe.model.trust_remote_code,
        "remote_code": dict(plan.backbone.code),
        "private_layers": private.layers if (private := private_of(unwrapped(trainer))) is not None else 0,
        "seconds": round(seconds, 2),
        "samples_per_second": round(trainer.rows_trained / seconds, 2),
        **_extra_work(trainer),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        facts["peak_device_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    keys = (
        "learning_rate",
        "consistency",
        "precision",
        "precision_reason",
        "parameters",
        "trainable_parameters",
        "pooling",
    )
    return facts | {key: about[key] for key in keys}


def _extra_work(trainer: MultiTaskTrainer) -> dict[str, float]:
    """What the balancer asked for beside the usual backward, a step."""
    walks, steps = trainer.balancer.walks, max(trainer.state.global_step - trainer.feeds.first_step, 1)
    return {
        # A measured gradient that becomes the update saves the usual walk.
        "extra_backwards_per_step": round((walks["parameters"] - walks["saved"]) / steps, 3),
        "head_backwards_per_step": round(walks["representation"] / steps, 3),
        "extra_forward_rows": trainer.feeds.rows_forwarded,
    }


def versions() -> dict[str, str]:
    """The packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def forget_peak_memory() -> None:
    """Starts `peak_memory_mb` anew, where the system can: one process trains many runs, and each has its own peak."""
    with contextlib.suppress(OSError):  # Linux only
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb() -> float:
    """The most memory of this process (mebibytes), since `forget_peak_memory` where the system can tell."""
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    kilobytes = int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / 1024


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """We print what matters ourselves; transformers' own notes go to the log at their level."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()
