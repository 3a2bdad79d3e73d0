"""Any `transformers.Trainer`, with several losses balanced into the one that it trains on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import has_length

from equipoise.balance import Balancer
from equipoise.errors import BalanceError

BALANCER_FILE = "balancer.safetensors"
FED = frozenset({"shared", "targets"})  # what a balancer may require of this trainer

Shared = str | Callable[[nn.Module], Tensor | Iterable[Tensor]]


class BalancedLossMixin:
    """Makes a Trainer balance the losses that the user's model computes. Stands before the Trainer in the bases.

    The model's forward returns a mapping (a dict or a `ModelOutput`) with

    - `losses`: task -> scalar, or one value per example `[n_t]`; a task that the batch lacks is left out;
    - `targets`: task -> labels, only for balancers that require them;
    - whatever else it likes, such as `logits`.

    A trainer that gets its losses otherwise overrides `task_losses`. Each task's weight, plain loss and norm in its last
    micro-batch are logged beside the stock numbers as `<task>/weight`, `<task>/loss` and `<task>/norm`; the balancer's state
    is written into every checkpoint and read when training resumes.

    Args:
        *args: the Trainer's.
        balancer: turns the tasks' losses into one.
        shared: where the tasks' gradients are measured. A name such as `"encoder"`: that submodule's output (of a tuple
            or a `ModelOutput` the first entry), of each time it is called in a step. A function of the model:
            what it returns after the forward pass, such as `lambda model: model.encoder.parameters()`. None suits
            balancers that measure nothing.
        **kwargs: the Trainer's.

    Raises:
        BalanceError: the balancer requires what is not fed here, or a setting of the Trainer would be ignored.

    Note:
        Under gradient accumulation the balancer is called once a micro-batch, and each micro-batch counts the same:
        losses are means over what they were given, so the Trainer's token count (`num_items_in_batch`), which is that
        of a single label column, stays out of it. `eval_loss` is weighed by the last training step's weights, which
        move: choose the best checkpoint by a metric, and name all label columns in `label_names`.

        `shared` is no entry of the model's output, because what wraps a model (mixed precision, DDP) may hand out
        copies, on which no loss depends. With `torch_compile` use parameters: a compiled model has no inside.
    """

    # Each loss is a mean over its micro-batch, so the Trainer divides by the number of accumulated ones. Left at None,
    # it would not do so for a model whose forward takes **kwargs.
    loss_is_scaled_for_ga = False

    args: Any
    model: Any
    accelerator: Any

    def __init__(self, *args: Any, balancer: Balancer, shared: Shared | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.balancer, self.shared = balancer, shared
        self._latest: dict[str, Tensor] = {}  # task -> its last plain loss, on the device
        self._check()

    def task_losses(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Mapping[str, Tensor], Any]:
        """Returns the losses of one micro-batch by task, and the model's outputs."""
        outputs = model(**inputs)
        if not isinstance(outputs, Mapping) or not isinstance(outputs.get("losses"), Mapping):
            found = f"one with {', '.join(outputs)}" if isinstance(outputs, Mapping) else f"a {type(outputs).__name__}"
            raise BalanceError(
                "the model's forward must return a mapping with `losses`, itself a mapping of task to loss; found "
                f"{found}. Or override task_losses"
            )
        return outputs["losses"], outputs

    def get_train_dataloader(self) -> Any:
        """The stock Trainer's; the balancer is told how many batches make an epoch, where there is an end to them."""
        loader = super().get_train_dataloader()  # type: ignore[misc]
        if has_length(loader):
            self.balancer.epoch = len(loader)
        return loader

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Returns the balanced loss of one micro-batch."""
        learning = torch.is_grad_enabled() and "shared" in self.balancer.requires
        plain = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        with _recorded(plain, self.shared if learning else None) as points:
            losses, outputs = self.task_losses(model, inputs)
        shared: Tensor | Iterable[Tensor] | None = points or None
        if learning and callable(self.shared):
            shared = self.shared(plain)
        targets = outputs.get("targets") if isinstance(outputs, Mapping) else None
        loss = self.balancer(losses, shared=shared, targets=targets)
        if torch.is_grad_enabled():
            self._latest |= {task: value.detach().mean() for task, value in losses.items() if value.numel()}
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> Any:
        """Predicts as the stock Trainer does, and keeps `losses` and `targets` out of the predictions."""
        if ignore_keys is None:
            ignore_keys = getattr(getattr(self.model, "config", None), "keys_to_ignore_at_inference", [])
        ignored = [*ignore_keys, "losses", "targets"]
        return super().prediction_step(model, inputs, prediction_loss_only, ignored)  # type: ignore[misc]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each task's weight, plain loss and norm to a training line."""
        if "loss" in logs and self.balancer.tasks:
            last = self.balancer.last
            weights = dict(zip(self.balancer.tasks, self.balancer.weights.tolist(), strict=True)) | last["weights"]
            numbers = {f"{task}/weight": weight for task, weight in weights.items()}
            numbers |= {f"{task}/loss": loss.item() for task, loss in self._latest.items()}
            numbers |= {f"{task}/norm": norm for task, norm in last["norms"].items()}
            logs = {**logs, **numbers}
        super().log(logs, start_time)  # type: ignore[misc]

    def _check(self) -> None:
        name = type(self.balancer).__name__
        if foreign := self.balancer.requires - FED:
            raise BalanceError(f"{name} requires {', '.join(sorted(foreign))}, which this trainer does not feed it")
        if "shared" in self.balancer.requires and self.shared is None:
            raise BalanceError(
                f"{name} needs shared: the name of the submodule whose output the heads are fed with, or a function "
                "of the model that returns the shared parameters"
            )
        for setting in ("label_smoother", "compute_loss_func"):
            if getattr(self, setting, None) is not None:
                raise BalanceError(f"{setting} acts on one loss and would be ignored: compute the losses in the model")
        if self.args.n_gpu > 1:
            raise BalanceError("DataParallel splits the batch out of the balancer's sight: start one process a GPU")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        if self.args.should_save:
            state = {key: value.detach().cpu().clone() for key, value in self.balancer.state_dict().items()}
            save_file(state, Path(output_dir) / BALANCER_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is None:
            return
        path = Path(checkpoint) / BALANCER_FILE
        if not path.is_file():
            raise BalanceError(
                f"{checkpoint} has no {BALANCER_FILE}: it was written without a balancer or with save_only_model, and "
                "cannot be continued to the bit. Load its weights and start a new run"
            )
        self.balancer.load_state_dict(load_file(path))
        self.balancer.to(self.args.device)


class BalancedTrainer(BalancedLossMixin, Trainer):
    """The stock Trainer for a model that computes several losses: see `BalancedLossMixin`.

    Example:
        trainer = BalancedTrainer(model=model, args=args, train_dataset=rows, balancer=DAO(), shared="encoder")
        trainer.train()
    """


@contextmanager
def _recorded(model: nn.Module, shared: Shared | None) -> Iterator[list[Tensor]]:
    """Collects what the submodule named `shared` puts out; nothing for other kinds of `shared`."""
    points: list[Tensor] = []
    if not isinstance(shared, str):
        yield points
        return
    try:
        module = model.get_submodule(shared)
    except AttributeError:
        children = ", ".join(name for name, _ in model.named_children())
        raise BalanceError(f"shared: the model has no submodule {shared!r}. It has {children}") from None

    def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
        point = output if isinstance(output, Tensor) else None
        if point is None and (isinstance(output, tuple) or hasattr(output, "to_tuple")):
            point = output[0]
        if not isinstance(point, Tensor):
            raise BalanceError(
                f"shared: submodule {shared!r} puts out a {type(output).__name__}, expected a tensor, a tuple or a "
                "ModelOutput. Give a function of the model instead"
            )
        points.append(point)

    # Removed before the balancer measures: checkpointed modules run again then, and would be recorded twice.
    handle = module.register_forward_hook(record)
    try:
        yield points
    finally:
        handle.remove()
