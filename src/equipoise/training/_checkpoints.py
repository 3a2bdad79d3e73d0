"""What of a run outlives a step: resumable checkpoints, and the weights that selection may still want.

Both are on disk, or, for short runs that nobody resumes, the weights alone in memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerControl, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from equipoise.balance import Balancer
from equipoise.models import Sidecar, fit_private, restore_private, save_model
from equipoise.runs import Run, remove_folder, replace_folder, write_json
from equipoise.training._averaging import WeightAverage
from equipoise.training._clock import Clock
from equipoise.training._faults import disk_faults, gone
from equipoise.training._feeds import Feeds
from equipoise.training._manifest import STATE_FILE, condition_of, keep_weights_only, seal
from equipoise.training._reading import reading
from equipoise.training._selection import Selection

__all__ = ["CheckpointedTrainer", "changing_weights", "unwrapped"]

BALANCER_FILE = "balancer.safetensors"
STATE_VERSION = 1


class CheckpointedTrainer(Trainer):
    """The part of `MultiTaskTrainer` that saves, prunes, restores, and puts the best weights back.

    `MultiTaskTrainer` sets the attributes before the stock constructor runs.
    """

    control: TrainerControl
    model: Any
    run: Run
    balancer: Balancer
    sidecar: Sidecar
    selection: Selection
    patience: int | None
    in_memory: bool
    average: WeightAverage | None
    feeds: Feeds
    checkpoints_kept: int = 2  # so many of the latest can be resumed from; there is always one before a damaged one

    evaluations: list[dict[str, Any]]  # {"step", "metrics": {task: {...}}}
    best_step: int | None
    clock: Clock
    _kept: dict[int, dict[str, Tensor]]  # step -> what can change of the weights, with `in_memory`
    load_warnings: list[str]  # what `load_best` could not have, in words
    _writing_to: str | None
    _window: dict[str, Any] | None  # what a checkpoint had summed up since the last logged step

    def _get_output_dir(self, trial: Any) -> str:
        return self._writing_to or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint beside its place and renames it: it is whole or absent."""
        partial = self.run.checkpoint_folder / ".partial"
        try:
            with self.clock.paused(), disk_faults(self.run):
                self._write_checkpoint(model, trial, partial)
        finally:
            self._writing_to = None
            if self.is_world_process_zero():
                shutil.rmtree(partial, ignore_errors=True)

    def _write_checkpoint(self, model: nn.Module, trial: Any, partial: Path) -> None:
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.is_world_process_zero():
            if not self.run.folder.is_dir():
                raise gone(self.run)  # else it would be made anew, around a checkpoint that belongs to nothing
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._writing_to = str(partial)
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            state = {key: value.detach().cpu().contiguous() for key, value in self.balancer.state_dict().items()}
            save_file(state, partial / name / BALANCER_FILE)
            write_json(partial / name / STATE_FILE, self._own_state())
            if self.average is not None:
                self.average.save(partial / name, unwrapped(self))
            seal(partial / name, step=self.state.global_step, resumable=not self.args.save_only_model)
            self.run.sync_history()
            replace_folder(partial / name, self.run.checkpoint_folder / name)
            self._prune()
        self.accelerator.wait_for_everyone()

    def _own_state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside what the stock Trainer does."""
        return {
            "format_version": STATE_VERSION,
            "evaluations": self.evaluations,
            "best_step": self.best_step,
            "window": {"loss": self._tr_loss.item(), "since": self._globalstep_last_logged},
            "seconds": self.clock.seconds,
            "work": {"walks": self.balancer.walks, "rows_forwarded": self.feeds.rows_forwarded},
        }

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # At the last step of an epoch, or of the run, the stock Trainer comes here twice, to save and then to evaluate. A
        # run killed between the two would resume behind the evaluation and never make it, so that checkpoint waits for it.
        last_step = float(self.state.epoch or 0).is_integer() or self.control.should_training_stop
        waits = last_step and self.args.eval_strategy == "epoch" and not self.control.should_evaluate
        if self.in_memory or waits:
            self.control.should_save = False
        super()._maybe_log_save_evaluate(*args, **kwargs)

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the model only."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def gathered_weights(self) -> dict[str, Tensor] | None:
        """The whole model's weights where it is sharded over processes (all must call it), else None."""
        if self.sharded:
            weights: dict[str, Tensor] = self.accelerator.get_state_dict(self.model_wrapped)
            return weights
        return None

    def _wanted(self) -> set[int]:
        """The evaluations, by step, that may still turn out best."""
        metrics = [e["metrics"] for e in self.evaluations]
        return {self.evaluations[i]["step"] for i in self.selection.candidates(metrics)} if metrics else set()

    def _prune(self) -> None:
        """Keeps the latest checkpoints whole, and of the others the weights that selection may still want."""
        wanted = self._wanted()
        for path in self.run.checkpoints()[: -self.checkpoints_kept]:
            if int(path.name.rpartition("-")[2]) in wanted:
                keep_weights_only(path)
            else:
                remove_folder(path)

    def _keep(self, weights: dict[str, Tensor]) -> None:
        """Keeps an evaluation's weights in memory, and of the earlier ones those that selection may still want."""
        self._kept[self.state.global_step] = weights
        wanted = self._wanted()
        self._kept = {step: kept for step, kept in self._kept.items() if step in wanted}

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        # Without the stock method's training_args.bin, which is a pickle.
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            save_model(unwrapped(self), self.processing_class, self.sidecar, folder, state_dict=state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # Parted models are saved under another name than the stock Trainer looks for, and the model may have parted
        # since the checkpoint, or not yet.
        with reading(resume_from_checkpoint):
            if self.sharded or not restore_private(unwrapped(self), Path(resume_from_checkpoint)):
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_scaler(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
            if checkpoint is None:
                return
            folder = Path(checkpoint)
            self.balancer.load_state_dict(load_file(folder / BALANCER_FILE))
            self.balancer.to(self.args.device)
            saved = self._restore_state(folder)
            self._window = saved["window"]

    def _restore_state(self, checkpoint: Path) -> dict[str, Any]:
        saved = _read_state(checkpoint)
        if self.average is not None:
            self.average.load(checkpoint, unwrapped(self))
        self.evaluations, self.best_step = saved["evaluations"], saved["best_step"]
        self.clock.start(earlier=saved.get("seconds", 0.0))
        self.clock.stop()
        work = saved.get("work")  # a checkpoint from before it was kept: counted from here
        self.feeds.first_step = 0 if work else int(checkpoint.name.rpartition("-")[2])
        if work:
            self.balancer.walks, self.feeds.rows_forwarded = work["walks"], work["rows_forwarded"]
        return saved

    def nothing_left(self, checkpoint: Path) -> bool:
        """Whether a checkpoint is the end of the run, by its steps or by `patience`."""
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        return state.global_step >= state.max_steps or self.stopped_early(_read_state(checkpoint))

    def stopped_early(self, state: Mapping[str, Any]) -> bool:
        """Whether a checkpoint's evaluations already met `patience`."""
        if self.patience is None or state["best_step"] is None:
            return False
        return len([e for e in state["evaluations"] if e["step"] > state["best_step"]]) >= self.patience

    def restore(self, checkpoint: Path) -> None:
        """Puts a checkpoint's weights and evaluations in place without training on."""
        # As `train` does it: what is left to compute, such as the calibration, is computed in the training's precision.
        self.model = self.accelerator.prepare_model(self.model, evaluation_mode=True)
        self._load_from_checkpoint(str(checkpoint))
        self._restore_state(checkpoint)
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))

    def load_best(self) -> int | None:
        """Puts the best evaluation's weights into the model: with averaging, the averages of that step.

        Where that checkpoint is damaged, the best of those that are whole takes its place, and `load_warnings` says so.

        Returns:
            Its step, or None where nothing was evaluated: the weights stay the last ones.
        """
        self.load_warnings = []
        lost: set[int] = set()
        while self.best_step is not None and self.best_step != self.state.global_step and not self.in_memory:
            fault = self._fault_of(self.best_step)
            if fault is None:
                break
            lost.add(self.best_step)
            best = self.best_step
            self.best_step = self._best_without(lost)
            instead = "the last weights" if self.best_step is None else f"the best that is whole, step {self.best_step}"
            self.load_warnings.append(
                f"the weights of the best evaluation, step {best}, are lost: {fault}; kept: {instead}"
            )
        if self.best_step is None or self.best_step == self.state.global_step:
            if self.average is not None:
                self.average.put(unwrapped(self))
            return self.best_step
        if self.in_memory:
            fit_private(unwrapped(self), self._kept[self.best_step])
            put_weights(unwrapped(self), self._kept[self.best_step])
            return self.best_step
        path = self._checkpoint_of(self.best_step)
        self._load_from_checkpoint(str(path))
        if self.average is not None:
            self.average.load(path, unwrapped(self))
            self.average.put(unwrapped(self))
        return self.best_step

    def _checkpoint_of(self, step: int) -> Path:
        return self.run.checkpoint_folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"

    def _fault_of(self, step: int) -> str | None:
        path = self._checkpoint_of(step)
        return condition_of(path).fault if path.is_dir() else f"{path.name} is gone"

    def _best_without(self, lost: set[int]) -> int | None:
        """The best evaluation whose weights are still there."""
        left = [
            each
            for each in self.evaluations
            if each["step"] not in lost
            and (each["step"] == self.state.global_step or self._checkpoint_of(each["step"]).is_dir())
        ]
        if not left:
            return None
        step: int = left[self.selection.best([each["metrics"] for each in left])]["step"]
        return step


def changing_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of what training can change, on the processor: trained parameters and buffers, by name."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {
        name: value.detach().to("cpu", copy=True) for name, value in {**trained, **dict(model.named_buffers())}.items()
    }


@torch.no_grad()
def put_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies weights into the model's own, by name."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, value in weights.items():
        own[name].copy_(value)


def unwrapped(trainer: Trainer) -> Any:
    """The model without what compiles it or spreads it over processes."""
    return trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)


def _read_state(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    return state
