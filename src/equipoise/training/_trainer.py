"""A small subclass of `transformers.Trainer`: several tasks' losses, one balanced backward.

Callbacks, trackers, FSDP and DeepSpeed settings of the stock Trainer keep working, because the balancer gives one
scalar and the stock Trainer does the rest.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from equipoise.balance import Balancer
from equipoise.data import Collator, LengthGroupedSampler, ShuffleSampler
from equipoise.errors import BalanceError, RunError
from equipoise.models import Sidecar, forward_all, representation, save_model, slices
from equipoise.runs import Run, replace_folder, write_json
from equipoise.tasks import Task
from equipoise.training._feeds import feed, task_losses
from equipoise.training._history import plain_numbers
from equipoise.training._parameters import parameter_groups, plain_model, shared_parameters
from equipoise.training._selection import Selection

__all__ = ["MultiTaskTrainer"]

BALANCER_FILE = "balancer.safetensors"
STATE_FILE = "evaluations.json"
RESUMABLE_FILES = "optimizer*"  # a checkpoint without them holds weights to choose from, and cannot be continued


class MultiTaskTrainer(Trainer):
    """Trains one model on several tasks.

    Args:
        model: of `equipoise.models.build`.
        args: the stock training arguments.
        tasks: name -> fitted task.
        balancer: turns the tasks' losses into one.
        measured_at: the recipe's `balance.shared`: where the tasks' gradients are measured.
        train_dataset: tokenised rows with targets; `lengths` says how many tokens each has.
        eval_dataset: the same for validation, or None.
        tokenizer: the model's.
        sidecar: saved beside every checkpoint.
        run: the run folder.
        selection: which evaluation is the best.
        patience: stop after so many evaluations without a better one; None = never.
        head_learning_rate: of everything between the backbone's tokens and the logits; None = the same as the backbone's.
        group_by_length: batches of similar length.
        eval_max_tokens: tokens of one evaluation batch.
        callbacks: the user's.
        held_out: tokenised rows that weigh the tasks and train nothing, for balancers that ask for validation losses.
    """

    optimizer: torch.optim.Optimizer | None
    control: TrainerControl

    # The balanced loss is a mean over the micro-batch; the Trainer divides it by the number of accumulated ones.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        tasks: Mapping[str, Task],
        balancer: Balancer,
        measured_at: str,
        train_dataset: Any,
        eval_dataset: Any | None,
        tokenizer: Any,
        sidecar: Sidecar,
        run: Run,
        selection: Selection,
        patience: int | None = None,
        head_learning_rate: float | None = None,
        group_by_length: bool = True,
        eval_max_tokens: int = 8192,
        callbacks: list[TrainerCallback] | None = None,
        held_out: Any | None = None,
    ) -> None:
        self.tasks, self.balancer, self.measured_at = dict(tasks), balancer, measured_at
        self.task_slices = slices(tasks)
        self.sidecar, self.run, self.selection, self.patience = sidecar, run, selection, patience
        self.head_learning_rate = head_learning_rate or args.learning_rate
        self.group_by_length = group_by_length
        self.eval_max_tokens = eval_max_tokens
        self.evaluations: list[dict[str, Any]] = []  # {"step", "metrics": {task: {...}}}
        self.best_step: int | None = None
        self.rows_trained = 0  # by this process, since it started
        self._writing_to: str | None = None
        self._shared_parameters: list[nn.Parameter] | None = None
        self._window: dict[str, Any] | None = None  # what a checkpoint had summed up since the last logged step
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=Collator(tokenizer, tasks),
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        self.balancer.to(self.args.device)
        self.feeds = feed(self, balancer, held_out)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self._window is not None:
            # The stock Trainer starts a new window when it resumes; the logged mean would miss what came before.
            self._tr_loss += self._window["loss"]
            self._globalstep_last_logged = self._window["since"]
            self._window = None
        super()._run_epoch(*args, **kwargs)

    # The step --------------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The balanced loss of one micro-batch."""
        self.feeds.before()
        self.feeds.keep(inputs)
        targets, labelled = inputs.pop("targets"), inputs.pop("labelled")
        outputs = model(**inputs)
        self.rows_trained += len(outputs.logits)
        losses, labels = task_losses(self.tasks, self.task_slices, outputs.logits, targets, labelled)
        try:
            loss = self.balancer(losses, shared=self._shared(), targets=labels)
        except BalanceError as error:
            raise BalanceError(f"step {self.state.global_step + 1}: {error}{self._last_good()}") from error
        return (loss, outputs) if return_outputs else loss

    def _shared(self) -> Tensor | Iterable[Tensor] | None:
        if "shared" not in self.balancer.requires:
            return None
        if self.measured_at == "representation":
            return representation(plain_model(_unwrapped(self)))
        if self._shared_parameters is None:
            self._shared_parameters = shared_parameters(self.accelerator.unwrap_model(self.model), self.measured_at)
        return self._shared_parameters

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        # The last place before the update: whatever went wrong upstream, NaN does not reach the weights. Under a
        # gradient scaler an infinite gradient is ordinary, and the scaler skips that step itself.
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        value = float(norm) if norm is not None else 0.0
        if not math.isfinite(value) and self.accelerator.scaler is None:
            raise BalanceError(
                f"step {self.state.global_step + 1}: the gradient of the weights is not finite, although every task's loss "
                f"is. Lower training.learning_rate, or set training.precision: fp32{self._last_good()}"
            )
        return norm

    def _last_good(self) -> str:
        checkpoints = self.run.checkpoints()
        return f". The last good checkpoint is {checkpoints[-1]}" if checkpoints else ""

    # What the stock Trainer asks for ---------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.group_by_length:
            return LengthGroupedSampler(dataset.lengths, self.args.train_batch_size, seed=self.args.seed)
        return ShuffleSampler(len(dataset), seed=self.args.seed)

    def _set_signature_columns_if_needed(self) -> None:
        # Targets travel by name beside the model's own inputs, so no key may be thrown away.
        self.args.remove_unused_columns = False
        super()._set_signature_columns_if_needed()

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with the heads, and the balancer's own parameters, in groups of their own."""
        if self.optimizer is None:
            module = self.model if model is None else model
            groups = parameter_groups(
                module,
                decays=set(self.get_decay_parameter_names(module)),
                learning_rate=self.args.learning_rate,
                head_learning_rate=self.head_learning_rate,
                weight_decay=self.args.weight_decay,
            )
            own = [p for p in self.balancer.parameters() if p.requires_grad]
            if own:
                groups.append({"params": own, "lr": self.args.learning_rate, "weight_decay": 0.0})
            cls, kwargs = self.get_optimizer_cls_and_kwargs(self.args, module)
            self.optimizer = cls(groups, **kwargs)
        return self.optimizer

    # Evaluation ------------------------------------------------------------------------------------------------------

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Every task's metrics on the validation split, and the decision which evaluation is the best so far."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        metrics = self.score(dataset)
        flat = {
            f"{metric_key_prefix}_{task}_{name}": value
            for task, values in metrics.items()
            for name, value in values.items()
            if isinstance(value, int | float)
        }
        if self.is_in_train:
            self.evaluations.append({"step": self.state.global_step, "metrics": metrics})
            previous, found = self.best_step, [e["metrics"] for e in self.evaluations]
            self.best_step = self.evaluations[self.selection.best(found)]["step"]
            if self.stopped_early({"best_step": self.best_step, "evaluations": self.evaluations}):
                self.control.should_training_stop = True
            self.control.should_save = True
            line = {
                "step": self.state.global_step,
                "epoch": round(float(self.state.epoch or 0), 4),
                "split": "validation",
                "metrics": metrics,
                "best": self.best_step == self.state.global_step,
                "replaces": previous if previous != self.best_step else None,
            }
            if self.is_world_process_zero():
                self.run.append_history(line)
        self.log(flat)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, flat)
        return flat

    def score(self, dataset: Any) -> dict[str, dict[str, Any]]:
        """Task -> metrics on tokenised rows."""
        # In training's precision: Accelerate has wrapped the model's forward pass.
        outputs = forward_all(self.model, dataset, dataset.lengths, self.data_collator, max_tokens=self.eval_max_tokens)
        return {
            name: task.metrics(outputs[:, self.task_slices[name]], dataset.split.targets[name])
            for name, task in self.tasks.items()
            if name in dataset.split.targets
        }

    # History ---------------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Writes training lines to `history.jsonl` before the stock Trainer hands them to its callbacks."""
        if "loss" in logs and self.is_world_process_zero():
            last = self.balancer.last
            tasks: dict[str, dict[str, float]] = {name: {} for name in self.tasks}
            for key, singular in (
                ("losses", "loss"),
                ("weights", "weight"),
                ("norms", "norm"),
                ("data_weights", "data_weight"),
            ):
                for name, value in last.get(key, {}).items():
                    tasks[name][singular] = value
            logs |= {f"{name}/{key}": value for name, values in tasks.items() for key, value in values.items()}
            line: dict[str, Any] = {"step": self.state.global_step, "epoch": round(float(self.state.epoch or 0), 4)}
            line |= {key: logs[key] for key in ("loss", "grad_norm", "learning_rate") if key in logs}
            if start_time is not None:
                elapsed = max(time.time() - start_time, 1e-9)
                line["samples_per_second"] = round(self.rows_trained / elapsed, 2)
            line["tasks"] = tasks
            line["cosines"] = last.get("cosines", {})
            self.run.append_history(plain_numbers(line))
        super().log(logs, start_time)

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return self._writing_to or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint beside its place and renames it: it is whole or absent."""
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        partial = self.run.checkpoint_folder / ".partial"
        if self.is_world_process_zero():
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._writing_to = str(partial)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._writing_to = None
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            state = {key: value.detach().cpu().contiguous() for key, value in self.balancer.state_dict().items()}
            save_file(state, partial / name / BALANCER_FILE)
            own = {
                "evaluations": self.evaluations,
                "best_step": self.best_step,
                "window": {"loss": self._tr_loss.item(), "since": self._globalstep_last_logged},
            }
            write_json(partial / name / STATE_FILE, own)
            replace_folder(partial / name, self.run.checkpoint_folder / name)
            shutil.rmtree(partial, ignore_errors=True)
            self._prune()
        self.accelerator.wait_for_everyone()

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # At an epoch's last step the stock Trainer comes here twice, to save and then to evaluate. A run killed between
        # the two would resume behind the evaluation and never make it, so that checkpoint waits for the evaluation.
        last_step = float(self.state.epoch or 0).is_integer() and self.args.eval_strategy == "epoch"
        if last_step and not self.control.should_evaluate:
            self.control.should_save = False
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def gathered_weights(self) -> dict[str, Tensor] | None:
        """The whole model's weights where it is sharded over processes (all must call it), else None."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            weights: dict[str, Tensor] = self.accelerator.get_state_dict(self.model_wrapped)
            return weights
        return None

    def _prune(self) -> None:
        """Keeps the latest checkpoint whole, and of the others the weights that selection may still want."""
        latest = self.run.checkpoints()[-1]
        metrics = [e["metrics"] for e in self.evaluations]
        wanted = {self.evaluations[i]["step"] for i in self.selection.candidates(metrics)} if metrics else set()
        for path in self.run.checkpoints():
            if path == latest:
                continue
            if int(path.name.rpartition("-")[2]) not in wanted:
                shutil.rmtree(path)
                continue
            for file in path.iterdir():
                if file.name.startswith(("optimizer", "scheduler", "rng_state", "scaler")):
                    shutil.rmtree(file) if file.is_dir() else file.unlink()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        # Without the stock method's training_args.bin, which is a pickle.
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            save_model(_unwrapped(self), self.processing_class, self.sidecar, folder, state_dict=state_dict)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        self.balancer.load_state_dict(load_file(folder / BALANCER_FILE))
        self.balancer.to(self.args.device)
        saved = _read_state(folder)
        self.evaluations, self.best_step = saved["evaluations"], saved["best_step"]
        self._window = saved["window"]

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
        self._load_from_checkpoint(str(checkpoint))
        saved = _read_state(checkpoint)
        self.evaluations, self.best_step = saved["evaluations"], saved["best_step"]
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))

    def load_best(self) -> int | None:
        """Puts the best evaluation's weights into the model.

        Returns:
            Its step, or None where nothing was evaluated: the weights stay the last ones.
        """
        if self.best_step is None or self.best_step == self.state.global_step:
            return self.best_step
        path = self.run.checkpoint_folder / f"{PREFIX_CHECKPOINT_DIR}-{self.best_step}"
        if not path.is_dir():
            raise RunError(
                f"the best checkpoint {path} is gone; the latest weights are in {self.run.checkpoints()[-1]}"
            )
        self._load_from_checkpoint(str(path))
        return self.best_step


def _read_state(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    return state


def _unwrapped(trainer: Trainer) -> Any:
    return trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
