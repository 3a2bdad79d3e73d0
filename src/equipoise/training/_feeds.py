"""The tasks' losses of a batch, and the further ones that some balancers ask for: on held-out rows, and after the update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from equipoise.balance import Balancer, NotFiniteError
from equipoise.data import ShuffleSampler
from equipoise.models import autocast_free
from equipoise.tasks import Task

__all__ = ["Feeds", "batch_losses", "feed", "task_losses"]


def task_losses(
    tasks: Mapping[str, Task],
    slices: Mapping[str, slice],
    logits: Tensor,  # [rows, outputs]
    targets: Mapping[str, Tensor],  # [rows] or [rows, classes]
    labelled: Mapping[str, Tensor],  # the rows that carry a label, [n_t]
    consistency: float | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One loss for each labelled row, by task, and the labels that data weights read.

    A task without a label in the batch has empty tensors: other processes may have some, and then all must walk back.

    With `consistency` the logits are of the batch twice, one behind the other, under different dropout. An example's loss
    is the mean of its two, and the coefficient times their divergence beside it.
    """
    logits, again = autocast_free(logits), None
    if consistency is not None:
        logits, again = logits.chunk(2)
    losses, labels = {}, {}
    for name, task in tasks.items():
        rows = labelled[name]
        own = targets[name][rows]
        # An empty batch's loss may not be defined, but it has nothing in it.
        chosen = logits[rows, slices[name]]
        losses[name] = task.loss(chosen, own) if len(rows) else chosen.flatten()
        if len(rows) and again is not None and consistency is not None:
            other = again[rows, slices[name]]
            losses[name] = (losses[name] + task.loss(other, own)) / 2 + consistency * task.divergence(chosen, other)
        if len(rows):
            labels[name] = task.balance_targets(own)
    return losses, labels


def batch_losses(
    trainer: Any, model: nn.Module, inputs: Mapping[str, Any]
) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
    """Runs the model on a batch of the collator: its outputs, and what `task_losses` makes of them.

    While it trains with `consistency`, each row goes through it twice, in one pass.

    References:
        R-Drop: Regularized Dropout for Neural Networks (Liang et al., 2021)
        https://arxiv.org/abs/2106.14448

    Note:
        The paper adds the two losses up and we take their mean, so that the learning rate keeps its meaning: our
        coefficient is half of its alpha.
    """
    rows = {name: value for name, value in inputs.items() if name not in ("targets", "labelled")}
    consistency = trainer.consistency if model.training else None
    if consistency is not None:
        rows = {name: torch.cat([value, value]) for name, value in rows.items()}
    outputs = model(**rows)
    losses, labels = task_losses(
        trainer.tasks, trainer.task_slices, outputs.logits, inputs["targets"], inputs["labelled"], consistency
    )
    return outputs, losses, labels


class Feeds(TrainerCallback):
    """Tells a balancer what it asks for beside the training losses, at the right moments.

    Args:
        balancer: `requires` says what it asks for.
        trainer: computes the losses; it calls `before` at the start of a step and `keep` with every batch.
        held_out: rows that no step trains on, or None where the balancer asks for none.

    Attributes:
        rows_forwarded: rows that went through the model for it beside the training's.
        first_step: the step that this is counted from: 0, but where the run goes on from a checkpoint that does not tell.
    """

    def __init__(self, balancer: Balancer, trainer: Any, held_out: Any | None) -> None:
        self.balancer, self.trainer, self.held_out = balancer, trainer, held_out
        self._order = ShuffleSampler(len(held_out), trainer.args.seed).order() if held_out is not None else None
        self.rows_forwarded, self.first_step = 0, 0
        self._observed = -1
        self._kept: tuple[dict[str, Any], list[Tensor]] | None = None

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Tells the balancer how long an epoch is: it is called once a batch."""
        self.balancer.epoch = len(kwargs["train_dataloader"])

    def before(self) -> None:
        """Before the first batch of a step: losses on held-out rows, another batch of them each time."""
        step: int = self.trainer.state.global_step
        if not torch.is_grad_enabled():  # an evaluation's batch
            return
        if "validation" not in self.balancer.requires or step == self._observed or step % self.balancer.validate_every:
            return
        assert self.held_out is not None
        assert self._order is not None
        self._observed = step
        args, model = self.trainer.args, self.trainer.model_wrapped
        # The rows follow from the step, so that a resumed run sees the same ones.
        start = (step // self.balancer.validate_every * args.world_size + args.process_index) * args.train_batch_size
        places = (start + torch.arange(min(args.train_batch_size, len(self._order)))) % len(self._order)
        batch = self.trainer.data_collator([self.held_out[int(self._order[place])] for place in places])
        training = model.training
        model.eval()
        try:
            self.balancer.observe_validation(self._losses(self.trainer._prepare_inputs(batch)))
        finally:
            model.train(training)

    def keep(self, inputs: Mapping[str, Any]) -> None:
        """Remembers the batch, targets and all, and the random state that its dropout is drawn from."""
        if "after" in self.balancer.requires and torch.is_grad_enabled():
            self._kept = (dict(inputs), _random_states(self.trainer.args.device))

    def forget(self) -> None:
        """The update is not made, so there is nothing to tell of it."""
        self._kept = None

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """After the update: the losses of the step's last batch again, with the same dropout."""
        if self._kept is None:
            return
        inputs, states = self._kept
        self._kept = None
        device: torch.device = self.trainer.args.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.set_rng_state(states[0])
            if device.type == "cuda":
                torch.cuda.set_rng_state(states[1], device)
            try:
                self.balancer.observe_after(self._losses(inputs))
            except NotFiniteError as error:
                self.trainer.guard.fault(error, step=self.trainer.state.global_step + 1)

    @torch.no_grad()
    def _losses(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        trainer = self.trainer
        twice = trainer.consistency is not None and trainer.model_wrapped.training
        self.rows_forwarded += len(inputs["input_ids"]) * (2 if twice else 1)
        with trainer.compute_loss_context_manager():
            return batch_losses(trainer, trainer.model_wrapped, inputs)[1]


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def feed(trainer: Trainer, balancer: Balancer, held_out: Any | None) -> Feeds:
    """Makes the feeds of a trainer and adds them to its callbacks."""
    feeds = Feeds(balancer, trainer, held_out)
    trainer.add_callback(feeds)
    return feeds
