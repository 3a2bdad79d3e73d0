"""The adapter: any of TorchJD's weightings that needs a Gramian, and any of its scalarizers, the user's own included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from equipoise.balance._foreign import ask, build, changes, hold, packed, restore, snapshot, torchjd, unpacked
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._gramian import COST, GramianBalancer
from equipoise.balance._registry import register
from equipoise.balance._settings import whole
from equipoise.balance._streams import stream
from equipoise.errors import BalanceError


@register("torchjd")
class TorchJDBalancer(GramianBalancer):
    """Weights the tasks as a weighting or scalarizer of TorchJD does, given our Gramian or our losses.

    w = weighting(G)   or   w_i = d scalarizer(L_1 .. L_K) / d L_i

    G is the Gramian of the tasks' gradients and L their plain losses, both in the order of the tasks' names, in float64
    on the CPU. MoDo and SDMGrad get the inner products between the two halves of the batch in place of G.

    References:
        Jacobian Descent For Multi-Objective Optimization (Quinton and Rey, 2024)
        https://arxiv.org/abs/2406.16232

    Args:
        weighting: a `torchjd.aggregation.Weighting` or `torchjd.scalarization.Scalarizer`, of TorchJD's or one's own; or
            the name of one of TorchJD's classes, as in a recipe: `weighting: MGDAWeighting`.
        settings: with a name, its constructor's keywords. A list of numbers becomes a tensor, in the order of the tasks'
            names; so does a mapping of every task to a number.
        tasks: every task's name; None takes them from the first call.
        smoothing: share of the old value that running averages of norms and cosines keep, in [0, 1); None: no average.
        every: measure and solve each so many steps.
        seed: of random orders. Each step draws from a generator of its own.
        double_batch: weigh each half of the batch by the Gramian of the other. MoDo and SDMGrad always divide the batch.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: TorchJD or a solver is not installed; the object is neither; or it needs more than a Gramian.

    Example:
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> losses = {"polarity": hidden[:, 0] * 3, "label": hidden[:, 1] * 1}
        >>> balancer = TorchJDBalancer(weighting="MGDAWeighting")
        >>> loss = balancer(losses, shared=hidden)
        >>> {task: round(weight, 4) for task, weight in balancer.last["weights"].items()}
        {'polarity': 0.1, 'label': 0.9}

    Note:
        A scalarizer gets the last known losses of tasks that are absent (the mean of the present ones for a task never
        seen). One with an `update` method, as FAMO has, needs `observe_after`. One that learns parameters by the user's
        optimiser is refused: our scalar has constant weights, so no gradient would reach them. A weighting with a memory
        gets all tasks in every step: one without a gradient takes part as a gradient of mean norm that is orthogonal to
        all others, its weight is replaced, and its row of the memory stays. State that TorchJD keeps outside of its
        `state_dict` is in ours: every tensor, number and list that changed since construction, as bytes. One's own class
        must set what it remembers in its constructor, to None if need be: a saved state sets no other name.
    """

    family = "gramian"
    source = "Quinton and Rey, 2024: Jacobian Descent For Multi-Objective Optimization (TorchJD)"
    url = "https://arxiv.org/abs/2406.16232"
    rule = "weight = weighting(G), or the gradient of scalarizer(L), of any of TorchJD's"
    needs = "shared (a scalarizer: nothing); extra `torchjd`"
    cost = COST
    state = "norm of each task, cosine of each pair, last losses; the weighting's own"
    ours = "absent tasks, smoothing, every, double_batch, seed"

    scale_free = False  # not every weighting is

    seen: Tensor  # [tasks] bool

    def __init__(
        self,
        *,
        weighting: object,
        settings: Mapping[str, object] | None = None,
        tasks: Sequence[str] | None = None,
        smoothing: float | None = None,
        every: int = 1,
        seed: int = 0,
        double_batch: bool = False,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        options: object = {} if settings is None else settings
        if not isinstance(options, Mapping):
            raise BalanceError(f"settings must map the weighting's settings to values, found {settings!r}")
        if isinstance(weighting, str):
            weighting = build(weighting, **{str(key): _tensor(key, value, tasks) for key, value in options.items()})
        elif options:
            raise BalanceError("settings go with a name. An object has its settings already")
        module, kind = _sorted_out(weighting)
        super().__init__(
            tasks=tasks,
            smoothing=smoothing,
            every=every,
            double_batch=double_batch or kind == "cross",
            on_nonfinite=on_nonfinite,
        )
        self.seed = whole("seed", seed, low=0)
        self.kind = kind
        # In a list: not one of our submodules, since its own state_dict would come and go with its buffers.
        self._held = [module]
        # Of a user's own class nobody knows whether it remembers.
        self._remembers = any(
            isinstance(part, torchjd("_mixins").Stateful) or not type(part).__module__.startswith("torchjd.")
            for part in module.modules()
        )
        self._initial = snapshot(module)
        self._ahead: tuple[object, dict[str, object]] | None = None  # state after `weigh`, for `observe` of one step
        self.add_task_buffer("seen", dtype=torch.bool)
        if kind != "gramian":
            self.needs_cosines = False
        if kind == "cross":
            self.scopes = frozenset({"parameters"})
        if kind == "scalarizer":
            self.requires = frozenset({"after"} if hasattr(module, "update") else ())
            self.monitor = False

    @property
    def weighting(self) -> torch.nn.Module:
        """TorchJD's module. Call its `step()` at the end of an epoch if it asks for that, as its DWA does."""
        return self._held[0]

    def solve(self, gramian: Tensor, losses: Tensor, rows: Sequence[int]) -> Tensor:
        """Asks the weighting, and leaves it as it was."""
        if not self._remembers:
            with torch.no_grad():
                return ask(self.weighting, gramian, stream(self.seed, self._steps))
        places = self._places(rows)
        full = torch.eye(len(self.tasks), dtype=torch.float64) * gramian.diagonal().mean()
        full[torch.tensor(places)[:, None], torch.tensor(places)] = gramian
        return self._look(gramian, full)[places]

    def learn(self, gramian: Tensor, rows: Sequence[int], fresh: Tensor) -> None:
        """Lets the weighting remember the step."""
        if self._remembers:
            if self._ahead is None or self._ahead[0] is not gramian:
                self.solve(gramian, gramian, rows)
            now = torch.zeros(len(self.tasks), dtype=torch.bool)
            now[self._places(rows)] = fresh
            self._keep(now)

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        if self.kind == "gramian" or (self.kind == "cross" and statistics is None):
            return super().weigh(losses, present, statistics)
        found = self._look(losses, self._statistic(losses, present, statistics))
        if not bool(found.isfinite().all()):
            raise BalanceError(f"TorchJD's {type(self.weighting).__name__} found no finite weights: {found.tolist()}")
        weights = torch.empty(len(self.tasks), dtype=torch.float64)
        weights[self._order()] = found
        return weights.to(losses)

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Remembers the step."""
        if self.kind == "scalarizer" or (self.kind == "cross" and statistics is not None):
            if self._ahead is None or self._ahead[0] is not losses:
                self._look(losses, self._statistic(losses, present, statistics))
            self._keep(present.cpu()[self._order()])
        super().observe(losses, present, statistics if self.kind == "gramian" else None)
        self.seen |= present
        self._ahead = None

    def observe_after(self, losses: Mapping[str, Tensor]) -> None:
        """Hands the losses of the same batch after the step to a scalarizer that asks for them."""
        if "after" in self.requires:
            means, present = self._plain(losses)
            update: Any = self.weighting.update
            update(means.where(present, self.last_losses.to(means)).double().cpu()[self._order()])

    def get_extra_state(self) -> Tensor:
        """What TorchJD's module remembers, as bytes."""
        return packed(changes(self._initial, snapshot(self.weighting)))

    def set_extra_state(self, state: Tensor) -> None:
        """Gives TorchJD's module its memory back."""
        restore(self.weighting, {**self._initial, **unpacked(state, self.weighting, self._initial)})

    def _order(self) -> list[int]:
        return sorted(range(len(self.tasks)), key=lambda k: self.tasks[k])

    def _places(self, rows: Sequence[int]) -> list[int]:
        order = self._order()
        return [order.index(row) for row in rows]

    def _statistic(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        order = self._order()
        if self.kind == "cross":
            cross = None if statistics is None else statistics.cross
            if cross is None:
                raise BalanceError(
                    f"{type(self.weighting).__name__} needs the inner products between two halves of the batch, which "
                    "are measured at shared parameters: balance.shared: last_layer, adapter or all"
                )
            return cross.cpu().double()[order][:, order]
        known = losses.where(present, self.last_losses.to(losses))
        mean = losses.where(present, 0).sum() / present.sum()
        return known.where(present | self.seen, mean).cpu().double()[order]

    def _look(self, step: object, statistic: Tensor) -> Tensor:
        """Runs the module, notes the state after it, and puts the one before it back, also if it fails half way."""
        before = snapshot(self.weighting)
        seed = stream(self.seed, self._steps)
        try:
            if self.kind == "scalarizer":
                with torch.enable_grad():
                    values = statistic.requires_grad_()
                    (answer,) = torch.autograd.grad(ask(self.weighting, values, seed), values)
            else:
                with torch.no_grad():
                    answer = ask(self.weighting, statistic, seed).detach()
            after = snapshot(self.weighting)
        finally:
            restore(self.weighting, before)
        if new := sorted(after.keys() - self._initial.keys()):
            name = type(self.weighting).__name__
            # Said in the first step: a saved state could not be loaded into a new module, which has no such name.
            raise BalanceError(
                f"{name} makes {new[0]!r} while it runs, so its memory cannot be restored. Set it in __init__, to None if "
                "there is nothing yet; a buffer by register_buffer"
            )
        self._ahead = (step, after)
        return answer

    def _keep(self, fresh: Tensor) -> None:
        assert self._ahead is not None
        restore(self.weighting, hold(snapshot(self.weighting), self._ahead[1], fresh))


def _sorted_out(given: object) -> tuple[torch.nn.Module, Literal["gramian", "cross", "scalarizer"]]:
    """Tells what an object needs, and refuses what needs more than we have."""
    aggregation, scalarization = torchjd("aggregation"), torchjd("scalarization")
    if isinstance(given, aggregation.GramianWeightedAggregator):
        given = given.gramian_weighting
    if isinstance(given, scalarization.Scalarizer):
        kind: Literal["gramian", "cross", "scalarizer"] = "scalarizer"
    elif isinstance(given, aggregation.Weighting):
        inner = given
        while isinstance(inner, (aggregation.CRMOGMWeighting, aggregation._weighting_bases._Composition)):
            inner = inner.weighting
        kind = "cross" if isinstance(inner, (aggregation.MoDoWeighting, aggregation.SDMGradWeighting)) else "gramian"
        if kind == "gramian" and isinstance(inner, aggregation._weighting_bases._MatrixWeighting):
            raise BalanceError(
                f"{type(inner).__name__} needs the gradients themselves, and would make meaningless numbers of their "
                "Gramian. Choose a weighting on the Gramian, or one of ours: equipoise balancers"
            )
    else:
        raise BalanceError(
            "weighting must be a Weighting or a Scalarizer of TorchJD, or the name of one, such as 'MGDAWeighting'; "
            f"found {given!r}"
        )
    assert isinstance(given, torch.nn.Module)
    if not hasattr(given, "update") and any(parameter.requires_grad for parameter in given.parameters()):
        raise BalanceError(
            f"{type(given).__name__} learns parameters of its own, which no gradient would reach here. "
            "Ours that learn: uncertainty, imtl_l"
        )
    return given, kind


def _tensor(key: object, value: object, tasks: Sequence[str] | None) -> object:
    """Makes a tensor of what a recipe can write: a list of numbers, or a number for every task."""
    if isinstance(value, Mapping):
        if tasks is None or set(value) != set(tasks):
            raise BalanceError(f"settings.{key} must give every task a number, and tasks their names; found {value!r}")
        value = [value[task] for task in sorted(tasks)]
    if isinstance(value, list):
        try:
            return torch.tensor(value, dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise BalanceError(f"settings.{key} must be a list of numbers, found {value!r}") from error
    return value
