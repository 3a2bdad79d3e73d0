"""Parts the tasks' last blocks in the middle of a training, once their gradients have disagreed there for long."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from equipoise.errors import RunError
from equipoise.models import private_parameters, split
from equipoise.runs import Run

if TYPE_CHECKING:
    from equipoise.recipe import ModelSettings

__all__ = ["Branching", "branching", "part_optimizer"]

#: Steps between two measurements. Each walks back from every task's loss through the blocks in question.
MEASURE_EVERY = 10
#: Share of the running mean that a measurement leaves as it was: about the last ten measurements count.
DECAY = 0.9


class Branching(TrainerCallback, ExportableState):
    """Watches the cosine of the tasks' gradients at the blocks that may become private, and parts them once for good.

    For tasks i, j with gradients g of their mean losses at those blocks' parameters:

        c_ij <- 0.9 c_ij + 0.1 cos(g_i, g_j)     every ten steps, from the batch's own losses

    Where the smallest c_ij stays below `below` for `patience` steps without a break, every task gets a copy of the
    weights as they are. A step for one task raises another's loss to first order where the cosine is negative; a mean
    over about a hundred steps and a threshold a little below zero keep the noise of batches from parting tasks that
    merely have nothing to do with each other.

    The optimiser's averages are copied with the weights: they describe the gradients that the copies have seen, and
    AdamW from nothing would take a step of full size in every weight.

    Args:
        model: the multi-task model, with a plan of what to part.
        tasks: their names, in the order of the copies.
        patience: steps.
        below: cosine, in [-1, 1].
        run: gets a line in its history, or None.
        say: shows that line to people, or None.
    """

    def __init__(
        self,
        model: Any,
        tasks: list[str],
        *,
        patience: int,
        below: float,
        run: Run | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.model, self.tasks, self.patience, self.below = model, tasks, patience, below
        self.run, self.say = run, say
        self.means: dict[str, float] = {}
        self.since: int | None = None  # the first step of the present disagreement
        self.measured: int | None = None
        self.parted: int | None = None

    # The trainer's part ----------------------------------------------------------------------------------------------

    def observe(self, losses: Mapping[str, Tensor], step: int) -> None:
        """Measures, where it is time to, before the losses are walked back.

        Args:
            losses: task -> one loss for each labelled row of the batch, `[n_t]`; empty where there is no label.
            step: updates made so far.
        """
        if self.model.private is not None or step % MEASURE_EVERY or step == self.measured:
            return  # of the batches of an accumulated update, the first is measured
        self.measured = step
        points = [p for p in private_parameters(self.model, blocks_only=True) if p.requires_grad]
        gradients = {name: _gradient(loss.mean(), points) for name, loss in losses.items() if len(loss)}
        for one, other in combinations([name for name in self.tasks if name in gradients], 2):
            cosine = nn.functional.cosine_similarity(gradients[one], gradients[other], dim=0).item()
            if cosine == cosine:  # the balancer tells of losses that are not finite, and stops the run
                key = f"{one}|{other}"
                self.means[key] = DECAY * self.means.get(key, cosine) + (1 - DECAY) * cosine
        if not self.means or min(self.means.values()) >= self.below:
            self.since = None
        elif self.since is None:
            self.since = step

    # The stock Trainer's part ----------------------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Takes up what a checkpoint remembers.

        Raises:
            RunError: several processes train; what they would part was counted when they began.
        """
        if args.world_size > 1:
            raise RunError(
                "model.private_when: conflict trains in one process only. Set it to always, or use one process"
            )
        saved: Any = (state.stateful_callbacks or {}).get(type(self).__name__)
        for name, value in (saved or {}).get("attributes", {}).items():
            setattr(self, name, value)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Parts the blocks, where it is time to."""
        step = state.global_step
        if self.model.private is not None or self.since is None or step - self.since < self.patience:
            return
        part_optimizer(optimizer, self.model, split(self.model, self.model.private_plan))
        self.parted = step
        pair, mean = min(self.means.items(), key=lambda item: item[1])
        one, _, other = pair.partition("|")
        count = self.model.private_plan.layers
        note = (
            f"the last {'block now exists' if count == 1 else f'{count} blocks now exist'} once a task: the gradients of "
            f"{one} and {other} have disagreed there since step {self.since} (running mean cosine {mean:.3f}, below "
            f"{self.below:g})"
        )
        if self.run is not None:
            self.run.append_history({"step": step, "note": note, "private_layers": count, "cosines_there": self.means})
        if self.say is not None:
            self.say(f"step {step}: {note}")

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        kept = {"means": dict(self.means), "since": self.since, "measured": self.measured, "parted": self.parted}
        return {"args": {}, "attributes": kept}


def branching(
    settings: ModelSettings, model: Any, tasks: Iterable[str], run: Run, say: Callable[[str], None] | None = None
) -> list[Branching]:
    """The callback that a recipe asks for, or none: one task alone has nobody to part from."""
    if settings.private_when != "conflict" or model.private_plan is None:
        return []
    return [
        Branching(
            model, list(tasks), patience=settings.private_patience, below=settings.private_below, run=run, say=say
        )
    ]


def _gradient(loss: Tensor, points: list[nn.Parameter]) -> Tensor:
    found = torch.autograd.grad(loss, points, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in found]).float()


def part_optimizer(optimizer: Any, model: nn.Module, parts: Mapping[nn.Parameter, list[nn.Parameter]]) -> None:
    """Puts copies of parameters into their originals' groups, each with a copy of what the optimiser knows of them.

    The order within a group is then that of the model, as in an optimiser that is made anew for the parted model: a
    checkpoint's optimiser state goes by that order.

    Args:
        optimizer: holds the originals.
        model: parted already.
        parts: original -> its copies, the original among them.
    """
    group_of = {id(p): index for index, group in enumerate(optimizer.param_groups) for p in group["params"]}
    for original, copies in parts.items():
        for each in copies:
            if each is original or id(original) not in group_of:
                continue
            group_of[id(each)] = group_of[id(original)]
            if original in optimizer.state:
                optimizer.state[each] = copy.deepcopy(optimizer.state[original])
    own = {id(p) for p in model.parameters()}
    for index, group in enumerate(optimizer.param_groups):
        others = [p for p in group["params"] if id(p) not in own]  # a balancer's
        group["params"] = [p for p in model.parameters() if group_of.get(id(p)) == index] + others
