"""A small subclass of `transformers.Trainer`: several tasks' losses, one balanced backward.

Callbacks, trackers, FSDP and DeepSpeed settings of the stock Trainer keep working, because the balancer gives one
scalar and the stock Trainer does the rest.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments

from equipoise.balance import Balancer, NotFiniteError
from equipoise.data import Collator, LengthGroupedSampler, ShuffleSampler
from equipoise.errors import BalanceError, RunError
from equipoise.models import Sidecar, forward_all, representation, slices
from equipoise.runs import Run
from equipoise.tasks import Task
from equipoise.training._averaging import Averaging, WeightAverage
from equipoise.training._branching import Branching
from equipoise.training._checkpoints import CheckpointedTrainer, changing_weights, unwrapped
from equipoise.training._clock import Clock
from equipoise.training._feeds import batch_losses, feed
from equipoise.training._history import plain_numbers
from equipoise.training._parameters import parameter_groups, plain_model, shared_parameters
from equipoise.training._selection import Selection
from equipoise.training._trackers import Tracker
from equipoise.training._watch import Watch
from equipoise.training._watch_baseline import ConstantBaseline
from equipoise.training._watch_guard import Guard, OnNonFinite

__all__ = ["MultiTaskTrainer"]


class MultiTaskTrainer(CheckpointedTrainer):
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
        layer_decay: share of the learning rate that is left one block further down; None = the same rate everywhere.
        group_by_length: batches of similar length.
        eval_max_tokens: tokens of one evaluation batch.
        callbacks: the user's.
        held_out: tokenised rows that weigh the tasks and train nothing, for balancers that ask for validation losses.
        averaging: judge, choose and save a running average of the weights; see `WeightAverage`. None = the weights.
        averaging_decay: of `ema`.
        averaging_start: of `swa`.
        consistency: coefficient of the divergence between two passes of each batch under different dropout; None = one
            pass. A model without dropout gives the same answer twice, at twice the cost.
        in_memory: write no checkpoint; keep the weights that selection may still want in memory. Such a run cannot be
            resumed.
        on_nonfinite: what to do about a number that is not finite; see `Guard`.
        max_rollbacks: how often at most such a training is taken back.
        say: shows a sentence to people, or None.

    Raises:
        RunError: an option does not go with a model that is sharded over processes.
    """

    optimizer: torch.optim.Optimizer | None

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
        layer_decay: float | None = None,
        group_by_length: bool = True,
        eval_max_tokens: int = 8192,
        callbacks: list[TrainerCallback] | None = None,
        held_out: Any | None = None,
        averaging: Averaging | None = None,
        averaging_decay: float = 0.999,
        averaging_start: float = 0.5,
        consistency: float | None = None,
        in_memory: bool = False,
        on_nonfinite: OnNonFinite = "stop",
        max_rollbacks: int = 3,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.tasks, self.balancer, self.measured_at = dict(tasks), balancer, measured_at
        self.task_slices = slices(tasks)
        self.sidecar, self.run, self.selection, self.patience = sidecar, run, selection, patience
        self.head_learning_rate, self.layer_decay = head_learning_rate or args.learning_rate, layer_decay
        self.group_by_length, self.consistency = group_by_length, consistency
        self.eval_max_tokens = eval_max_tokens
        self.evaluations, self.best_step, self.clock = [], None, Clock()
        self.in_memory, self._kept = in_memory, {}
        self.average = averaging and WeightAverage(averaging, decay=averaging_decay, start=averaging_start)
        self.rows_trained, self._began = 0, time.perf_counter()  # by this process, since it started
        self._writing_to, self._window = None, None
        self._outputs: NDArray[np.float32] | None = None  # of the latest evaluation
        self._shared_parameters: list[nn.Parameter] | None = None
        self.branching = next((each for each in callbacks or () if isinstance(each, Branching)), None)
        self.trackers = [each for each in callbacks or () if isinstance(each, Tracker)]
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
        writes = self.is_world_process_zero()
        self.watch = Watch(list(self.tasks), self._record if writes else None, say)
        self.guard = Guard(self, self.watch, on_nonfinite, max_rollbacks)
        self.add_callback(self.guard)
        self.baseline = ConstantBaseline(self.tasks, self.task_slices, train_dataset)
        if self.average is not None:
            self.add_callback(self.average)
        if self.sharded and (in_memory or averaging):
            # Of a part of the model there is neither an average nor a copy that could be put back.
            setting = "in_memory" if in_memory else "training.averaging"
            raise RunError(f"{setting}: does not go with a model that is sharded over processes. Leave it out")

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if not self.rows_trained:
            self._began = time.perf_counter()
        if self._window is not None:
            # The stock Trainer starts a new window when it resumes; the logged mean would miss what came before.
            self._tr_loss += self._window["loss"]
            self._globalstep_last_logged = self._window["since"]
            self._window = None
        self.clock.start()
        try:
            super()._run_epoch(*args, **kwargs)
        finally:
            self.clock.stop()

    # The step --------------------------------------------------------------------------------------------------------

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch, unless its update is left out."""
        if not self.guard.left_out:
            try:
                loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
                return loss
            except NotFiniteError as error:
                self.guard.fault(error)
        return torch.zeros((), device=self.args.device)

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
        outputs, losses, labels = batch_losses(self, model, inputs)
        # The stock Trainer counts what is left as the model's inputs.
        rows = {name: inputs.pop(name) for name in ("targets", "labelled")}
        self.rows_trained += len(next(iter(inputs.values())))
        if self.branching is not None:
            self.branching.observe(losses, self.state.global_step)
        counts = {name: loss.numel() for name, loss in losses.items()}
        try:
            loss = self.balancer(losses, shared=self._shared(), targets=labels)
        except NotFiniteError as error:
            self.guard.look_at_labels(error, **rows)
            raise
        except BalanceError as error:
            raise BalanceError(f"step {self.state.global_step + 1}: {error}{self._last_good()}") from error
        self.watch.batch(self.state.global_step + 1, **self.balancer.checked, counts=counts)
        return (loss, outputs) if return_outputs else loss

    def _shared(self) -> Tensor | Iterable[Tensor] | None:
        if "shared" not in self.balancer.requires:
            return None
        if self.measured_at == "representation":
            return representation(plain_model(unwrapped(self)))
        if self._shared_parameters is None:
            self._shared_parameters = shared_parameters(self.accelerator.unwrap_model(self.model), self.measured_at)
        return self._shared_parameters

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return None if self.guard.left_out else super()._clip_grad_norm(model)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        # The last place before the update: whatever went wrong upstream, NaN does not reach the weights.
        norm = None if self.guard.left_out else super()._get_grad_norm(model, grad_norm=grad_norm)
        self.guard.before_update(None if norm is None else float(norm))
        return None if self.guard.left_out else norm

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
                layer_decay=self.layer_decay,
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
        with self.clock.paused():
            return self._evaluated(self.eval_dataset if eval_dataset is None else eval_dataset, metric_key_prefix)

    def _evaluated(self, dataset: Any, prefix: str) -> dict[str, float]:
        model = unwrapped(self)
        # After the training the model holds what was chosen, which is not to be exchanged for the last average.
        averaged = self.average.in_place(model) if self.average and self.is_in_train else contextlib.nullcontext()
        if self.is_in_train:
            self.guard.check_weights()
        with averaged:
            metrics = self.score(dataset)
            judged = changing_weights(model) if self.in_memory and self.is_in_train else {}
        flat = {
            f"{prefix}_{task}_{name}": value
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
            if self.in_memory:
                self._keep(judged)
            self.control.should_save = not self.in_memory
            line = {
                "step": self.state.global_step,
                "epoch": round(float(self.state.epoch or 0), 4),
                "split": "validation",
                "seconds": round(self.clock.seconds, 3),
                "metrics": metrics,
                "best": self.best_step == self.state.global_step,
                "replaces": previous if previous != self.best_step else None,
            }
            if self.is_world_process_zero():
                self._record(line)
            self.watch.evaluated(self.state.global_step, self.baseline.worse(self._outputs, dataset))
        self.log(flat)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, flat)
        return flat

    def score(self, dataset: Any) -> dict[str, dict[str, Any]]:
        """Task -> metrics on tokenised rows."""
        self._outputs = outputs = self.outputs_of(dataset)
        if self.is_in_train and not np.isfinite(outputs).all():
            bad = [name for name, own in self.task_slices.items() if not np.isfinite(outputs[:, own]).all()]
            words = f"the outputs of {', '.join(bad)} on validation are not finite"
            self.guard.fault(NotFiniteError(words, tasks=dict.fromkeys(bad, "output")), step=self.state.global_step)
        return self.metrics_of(outputs, dataset)

    def outputs_of(self, dataset: Any) -> NDArray[np.float32]:
        """Logits of tokenised rows, `[rows, outputs]`, in training's precision."""
        # Accelerate has wrapped the model's forward pass.
        return forward_all(self.model, dataset, dataset.lengths, self.data_collator, max_tokens=self.eval_max_tokens)

    def metrics_of(self, outputs: NDArray[np.float32], dataset: Any) -> dict[str, dict[str, Any]]:
        """Task -> metrics of such logits."""
        return {
            name: task.metrics(outputs[:, self.task_slices[name]], dataset.split.targets[name])
            for name, task in self.tasks.items()
            if name in dataset.split.targets
        }

    # History ---------------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Writes training lines to `history.jsonl` before the stock Trainer hands them to its callbacks."""
        if "loss" in logs and self.is_world_process_zero():
            # Of an update that was left out there is nothing to tell.
            last: Mapping[str, dict[str, float]] = {} if self.guard.left_out else self.balancer.last
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
                # Not by `start_time`, which is of the clock on the wall, and that can be put back.
                elapsed = max(time.perf_counter() - self._began, 1e-9)
                line["samples_per_second"] = round(self.rows_trained / elapsed, 2)
            line["tasks"] = tasks
            line["cosines"] = last.get("cosines", {})
            self._record(plain_numbers(line))
            self.watch.logged(self.state.global_step, tasks)
        super().log(logs, start_time)

    # What a checkpoint keeps, and how a training begins and ends -----------------------------------------------------

    def _own_state(self) -> dict[str, Any]:
        return {**super()._own_state(), "guard": self.guard.state()}

    def _restore_state(self, checkpoint: Path) -> dict[str, Any]:
        saved = super()._restore_state(checkpoint)
        self.guard.restore(saved.get("guard"))
        return saved

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        self.guard.slow_down()
        return prepared

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.guard.check_weights()
        super()._save_checkpoint(model, trial)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains, and looks at what came of it."""
        done = super().train(*args, **kwargs)
        self.guard.finish()
        return done

    def restore(self, checkpoint: Path) -> None:
        """Puts a checkpoint in place that is the end of the training."""
        super().restore(checkpoint)
        self.guard.finish()

    def _record(self, line: dict[str, Any]) -> None:
        self.run.append_history(line)
        for tracker in self.trackers:
            tracker.record(line)
