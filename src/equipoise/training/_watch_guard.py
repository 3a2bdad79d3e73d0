"""What a training does about a number that is not finite: it stops, leaves the update out, or is taken back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from equipoise.balance import NotFiniteError
from equipoise.errors import RunError
from equipoise.training._checkpoints import unwrapped
from equipoise.training._watch import Watch
from equipoise.training._watch_finite import bad_labels, bad_weight
from equipoise.training._watch_rollback import FACTOR, TakenBackError, rollbacks_of, scale_rates

__all__ = ["Guard", "OnNonFinite"]

OnNonFinite = Literal["stop", "skip", "rollback"]

#: So many updates in a row may be left out; one more stops the training.
SKIPS = 10
#: So many updates in a row may overflow under a gradient scaler. It halves its scale each time, from 65,536.
OVERFLOWS = 24


class Guard(TrainerCallback):
    """Decides what becomes of an update whose numbers are not finite (`training.on_nonfinite`), and keeps count.

    `stop`: the training ends with an error that names step, task and cause.
    `skip`: the update is left out, as under a gradient scaler: weights, optimiser, schedule, averages and the balancer's
    state stay as they were; the step counts and the data goes on. Of accumulated batches, all of the update's go.
    `rollback`: `TakenBackError` says that the training is to go on from its last checkpoint at half the rate.

    Every process comes to the same decision, because losses, gradients and their norms are those of all processes.

    Args:
        trainer: a `MultiTaskTrainer`.
        watch: gets the events.
        policy: what to do.
        max_rollbacks: with `rollback`, so many times; then the training ends with the error.

    Attributes:
        left_out: the update in progress is.
        skipped: updates left out so far.
        rollbacks: how often the training has been taken back.

    Raises:
        RunError: the policy cannot be followed.
    """

    def __init__(self, trainer: Any, watch: Watch, policy: OnNonFinite, max_rollbacks: int) -> None:
        self.trainer, self.watch, self.policy, self.max_rollbacks = trainer, watch, policy, max_rollbacks
        self.left_out, self.skipped, self.rollbacks = False, 0, 0
        self._in_a_row, self._overflows, self._sound = 0, 0, -1
        self._labels: list[str] = []
        self._before: tuple[dict[str, Tensor], Tensor] | None = None
        if policy == "rollback" and trainer.in_memory:
            raise RunError(
                "training.on_nonfinite: rollback goes back to a checkpoint, and this training writes none "
                "(equipoise compare). Set it to stop or skip"
            )
        if policy != "stop" and trainer.sharded:
            raise RunError(
                f"training.on_nonfinite: {policy} does not go with a model that is sharded over processes. Set it to stop"
            )

    # A number that is not finite --------------------------------------------------------------------------------------

    def look_at_labels(
        self, error: NotFiniteError, targets: Mapping[str, Tensor], labelled: Mapping[str, Tensor]
    ) -> None:
        """Before `fault`: whether it is the batch's labels. See `bad_labels`."""
        self._labels = bad_labels(error.tasks, targets, labelled)

    def fault(self, error: NotFiniteError, *, step: int | None = None) -> None:
        """Tells of it, and leaves the update out where the policy says so and it can be.

        Args:
            error: what is not finite.
            step: where it was found, once it is too late to leave the update out; None = in the update in progress.

        Raises:
            TakenBackError: the training is to be taken back.
            NotFiniteError: it is to end.
        """
        late, step = step is not None, self.trainer.state.global_step + 1 if step is None else step
        weight = self._bad_weight()
        words, labels = error.words, self._labels
        self._labels = []
        if weight is not None and not words.startswith("the weight"):
            words += f", because the weight {weight} is not"
        elif labels:
            words += ", because a label is not"
        kind = "weight" if weight else "label" if labels else next(iter(error.tasks.values()), "gradient")
        tasks = list(error.tasks)
        event = (f"nonfinite_{kind}", tasks[0] if len(tasks) == 1 else None)
        if self.policy == "skip" and weight is None and not late and self._in_a_row < SKIPS:
            self._leave_out()
            words += f"; the update is left out ({self.skipped} so far)"
            self.watch.tell(step, event[0], words, event[1], {"skipped": self.skipped}, always=True)
            return
        self.watch.tell(step, event[0], words, event[1], always=True)
        message = f"step {step}: {words}"
        if self.policy == "rollback" and self.rollbacks < self.max_rollbacks:
            raise TakenBackError(message, error.tasks, step, self.rollbacks + 1)
        raise NotFiniteError(message, self._advice(weight, bool(tasks)) + self.trainer._last_good(), error.tasks)

    def check_weights(self) -> None:
        """Before a checkpoint is written, and at the end: the weights are finite.

        Raises:
            NotFiniteError: they are not, so the checkpoint would be none to go back to.
        """
        step = self.trainer.state.global_step
        if self._sound != step:
            name = self._bad_weight()
            if name is not None:
                self.fault(NotFiniteError(f"the weight {name} is not finite"), step=step)
            self._sound = step

    def before_update(self, norm: float | None) -> None:
        """The last look before an update is made.

        Args:
            norm: of its gradient; None where it is left out already, or not known.

        Raises:
            NotFiniteError: as `fault`; under a gradient scaler, which leaves such an update out by itself and halves its
                scale, only where that goes on for longer than a scale can have been too large.
        """
        if norm is None or math.isfinite(norm):
            self._overflows = 0
            if norm is not None:
                self.watch.update(self.trainer.state.global_step + 1, norm)
        elif self.trainer.accelerator.scaler is None:
            self.fault(NotFiniteError("the gradient of the weights is not finite, although every task's loss is"))
        else:
            self._overflows += 1
            if self._overflows > OVERFLOWS:
                words = f"the gradient of the weights has not been finite in {self._overflows} updates on end"
                self.fault(NotFiniteError(words), step=self.trainer.state.global_step + 1)
        if self.left_out:
            self._pass_over(self.trainer.optimizer)

    def finish(self) -> None:
        """The end of the training.

        Raises:
            NotFiniteError: the last update has left a weight that is not finite.
        """
        self.check_weights()
        trainer = self.trainer
        self.watch.finish(trainer.state.global_step, trainer.best_step, lambda: trainer.run.history)

    def _bad_weight(self) -> str | None:
        """The first weight that is not finite, in whatever process; all must ask. None too where each has a part only."""
        trainer = self.trainer
        if trainer.sharded:
            return None
        name = bad_weight(unwrapped(trainer))
        if trainer.args.world_size > 1:
            found = torch.tensor(float(name is not None), device=trainer.args.device)
            elsewhere = float(trainer.accelerator.reduce(found, "sum")) > 0
            name = name or ("of another process" if elsewhere else None)
        return name

    def _pass_over(self, optimizer: Any) -> None:
        """Makes the optimiser's next step do nothing and say so, which keeps the schedule where it is."""
        step = optimizer.step

        def nothing(closure: Any = None) -> None:
            optimizer.step = step
            optimizer._is_overflow = True  # what accelerate sets where its gradient scaler leaves a step out

        optimizer.step = nothing

    def _leave_out(self) -> None:
        trainer = self.trainer
        self.left_out = True
        self.skipped, self._in_a_row = self.skipped + 1, self._in_a_row + 1
        assert self._before is not None, "`on_step_begin` took it"
        balancer, loss = self._before
        trainer.balancer.load_state_dict(balancer)
        trainer.feeds.forget()
        # The logged loss is a mean over the updates that were made.
        trainer._tr_loss.copy_(loss)
        trainer._globalstep_last_logged += 1
        trainer.model.zero_grad()

    def _advice(self, weight: str | None, known: bool) -> str:
        if self.policy == "rollback" and self.rollbacks:
            return f"The training was taken back {self.rollbacks} times. Look at the data and the learning rate"
        if self.policy == "skip" and self._in_a_row >= SKIPS:
            return f"{SKIPS} updates in a row were left out. Look at the data and the learning rate"
        if self.policy == "skip" and weight is not None:
            return "No later step mends a weight. Lower training.learning_rate, or set training.on_nonfinite: rollback"
        if not known and weight is None:
            return "Lower training.learning_rate, or set training.precision: fp32"
        return "Look at its data and learning rate, or set training.on_nonfinite: skip or rollback"

    # The stock Trainer's part ----------------------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Learns how long an epoch is."""
        self.watch.begin(-(-len(kwargs["train_dataloader"]) // args.gradient_accumulation_steps))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before an update's first batch: what it could have to be put back to."""
        if self.left_out:
            self.left_out, self.trainer.optimizer._is_overflow = False, False
        if self.policy == "skip":
            balancer = {name: value.detach().clone() for name, value in self.trainer.balancer.state_dict().items()}
            self._before = balancer, self.trainer._tr_loss.clone()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After an update that was made, the next one that is left out is the first in a row."""
        if not self.left_out:
            self._in_a_row = 0

    # What a checkpoint keeps -----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The counts, and what the watch has read."""
        counts = {"skipped": self.skipped, "in_a_row": self._in_a_row, "overflows": self._overflows}
        return {**counts, "rollbacks": self.rollbacks, "watch": self.watch.state()}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Goes on from a checkpoint. `state`: None where an older version wrote it."""
        if state is not None:
            self.skipped, self._in_a_row, self._overflows = state["skipped"], state["in_a_row"], state["overflows"]
            self.rollbacks = state["rollbacks"]
            self.watch.restore(state["watch"])

    def slow_down(self) -> None:
        """Before the first step, with the checkpoint's state in place: the rate of a training that was taken back.

        A rollback to a checkpoint is later than the checkpoint, and stands in the history only.
        """
        trainer = self.trainer
        found = max(self.rollbacks, rollbacks_of(trainer.run.history, trainer.state.global_step))
        scale_rates(trainer.optimizer, trainer.lr_scheduler, FACTOR ** (found - self.rollbacks))
        self.rollbacks = found
