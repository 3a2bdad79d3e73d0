"""What methods from the Gramian have in common: the inner products of all tasks' gradients, also of those not here now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._registry import defaults_of
from equipoise.balance._settings import Scale, choice, number
from equipoise.errors import BalanceError

COST = (
    "one walk back through each head at a representation; one backward a task at parameters; a small solve on the host"
)
STATE = "norm of each task, cosine of each pair"

_EPSILON = 1e-8  # a norm not above this share of the largest one counts as zero


class GramianBalancer(Balancer):
    """Weights the tasks by solving something on the Gramian of their gradients.

    G_ij = n_i c_ij n_j,   n_i = norm of task i's gradient,   c_ij = cosine between those of tasks i and j

    What a batch does not show keeps its last known value: the norm of an absent task, the cosine of two tasks that did
    not meet (0 if they never did). Cosines of different batches need not fit together, so if one of them is not of this
    batch, their matrix is made positive semidefinite: negative eigenvalues become 0, and the diagonal 1 again. The norms
    stay as measured.

    A task whose gradient is zero, or that was never seen, is left out of the solve and gets the mean of the others'
    weights. With no task left, all weights are equal.

    A method is a subclass with `solve`, and, if the solver remembers anything, `learn`.

    Args:
        tasks: every task's name; None takes them from the first call.
        scale: None where a method's weights have no fixed sum. Else `"one"`: the weights as `solve` returns them, which
            for equal tasks is 1 / K each; `"tasks"`: times the number of tasks that are in the solve.
        smoothing: share of the old value that running averages of norms and cosines keep, in [0, 1); None: no average.
        every: measure and solve each so many steps; the weights stay between.
        double_batch: weigh each half of the batch by the Gramian of the other.
        on_nonfinite: `"raise"` or `"skip"`.

    Raises:
        BalanceError: a setting is out of its range; two tasks of a batch share no row of the representation, and never did.
    """

    requires = frozenset({"shared"})
    measured_at = "last_layer"  # cosines at the representation are no stand-in for those of parameters
    needs_cosines: bool = True
    scale_free: ClassVar[bool] = True  # c G gives the weights of G, so the solver gets G with a trace near 1

    norms: Tensor  # [tasks], last or running norm; 0 before a task was first seen
    active: Tensor  # [tasks] bool, whether the last measurement was above zero
    cosines: Tensor  # [tasks, tasks], last or running cosine; 0 before two tasks first met
    met: Tensor  # [tasks, tasks] bool, whether they did
    last_losses: Tensor  # [tasks]

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None,
        scale: Scale | None = None,
        smoothing: float | None = None,
        every: int = 1,
        double_batch: bool = False,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(
            tasks=tasks, on_nonfinite=on_nonfinite, monitor=True, monitor_every=every, double_batch=double_batch
        )
        self.scale = None if scale is None else choice("scale", scale, ("tasks", "one"))
        self.smoothing = None if smoothing is None else number("smoothing", smoothing, low=0, below=1)
        self.every = every
        self.add_task_buffer("norms")
        self.add_task_buffer("active", dtype=torch.bool)
        self.add_pair_buffer("cosines")
        self.add_pair_buffer("met", dtype=torch.bool)
        self.add_task_buffer("last_losses")
        self._known: tuple[GradientStatistics, _Problem] | None = None  # from `weigh` to `observe` of one step

    # What a method writes -------------------------------------------------------------------------------------------

    def solve(
        self,
        gramian: Tensor,  # [m, m] float64 on the CPU, positive semidefinite, of the m tasks that have a gradient
        losses: Tensor,  # [m] float64, last known
        rows: Sequence[int],  # [m], which of `self.tasks` they are; in the order of their names
    ) -> Tensor:
        """Returns the weights `[m]`. Must change no state."""
        raise NotImplementedError

    def learn(
        self,
        gramian: Tensor,  # as in `solve`
        rows: Sequence[int],
        fresh: Tensor,  # [m] bool, which of them were measured in this step
    ) -> None:
        """Remembers the step, where a solver has a state."""

    # --------------------------------------------------------------------------------------------------------------

    def initial_weights(self) -> Tensor:
        """Returns equal weights, in the method's scale."""
        return torch.full((len(self.tasks),), self._equal())

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns what was solved; on a step without measurement the weights of the step before."""
        if statistics is None:
            return (self.weights if self._steps else self.initial_weights()).to(losses)
        problem = self._posed(losses, present, statistics)
        if problem.weights is None:
            problem.weights = self._solved(problem)
        return problem.weights.to(losses)

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Keeps norms, cosines and losses for the steps, and for the absent tasks, that come without them."""
        if statistics is not None:
            problem = self._posed(losses, present, statistics)
            if problem.rows:
                self.learn(problem.gramian, problem.rows, problem.fresh)
            norms, active, cosines, met, _ = self._merged(statistics)
            self.norms.copy_(norms)
            self.active.copy_(active)
            self.cosines.copy_(cosines)
            self.met.copy_(met)
        self.last_losses.copy_(losses.where(present, self.last_losses))
        self._known = None

    def extra_repr(self) -> str:
        """Shows the tasks and the settings that differ from the defaults."""
        own = {name: value for name, value in vars(self).items() if name != "on_nonfinite"}
        changed = [
            f"{name}={own[name]!r}"
            for name, default in defaults_of(type(self)).items()
            if name in own and own[name] != default
        ]
        return ", ".join([super().extra_repr(), *changed])

    def _equal(self) -> float:
        return 1.0 / len(self.tasks) if self.scale == "one" else 1.0

    def _merged(self, statistics: GradientStatistics) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Returns norms, active, cosines, met and which cosines are of this batch, on the device."""
        kept = self.smoothing or 0.0
        measured, present = statistics.norms.to(self.norms), statistics.present
        largest = measured.where(present, self.norms.where(self.active, 0)).max()
        alive = present & (measured > _EPSILON * largest)
        norms = (kept * self.norms + (1 - kept) * measured).where(self.norms > 0, measured)
        found = statistics.cosines.to(self.cosines)
        fresh = found.isfinite() & alive[:, None] & alive[None, :]
        cosines = (kept * self.cosines + (1 - kept) * found).where(self.met, found)
        return (
            norms.where(alive, self.norms),
            alive.where(present, self.active),
            cosines.where(fresh, self.cosines),
            self.met | fresh,
            fresh,
        )

    def _posed(self, losses: Tensor, present: Tensor, statistics: GradientStatistics) -> _Problem:
        """Brings to the host what is to be solved: the one wait of a solver."""
        if self._known is not None and self._known[0] is statistics:
            return self._known[1]
        norms, active, cosines, met, fresh = self._merged(statistics)
        pairs = active[:, None] & active[None, :]
        here = statistics.present[:, None] & statistics.present[None, :]
        packed = torch.cat(
            [
                norms.where(active, 0)[None],
                losses.where(present, self.last_losses).to(norms)[None],
                statistics.present.to(norms)[None],
                cosines,
                (pairs & ~fresh).to(norms),
                (pairs & here & ~met).to(norms),
            ]
        ).to("cpu")
        count = len(self.tasks)
        n, known_losses, now = packed[:3].double()
        c, stale, apart = packed[3:].double().reshape(3, count, count)
        off = 1 - torch.eye(count, dtype=torch.float64)
        if self.needs_cosines and (strangers := (apart * off).nonzero().tolist()):
            one, other = (self.tasks[k] for k in strangers[0])
            raise BalanceError(
                f"tasks {one!r} and {other!r} share no row of the representation, so the angle between their gradients "
                f"has no meaning there, and {type(self).__name__} needs it. Pass shared parameters instead: "
                "balance.shared: last_layer, adapter or all"
            )
        rows = [k for k in sorted(range(count), key=lambda k: self.tasks[k]) if n[k] > 0]
        c, n = c[rows][:, rows], n[rows]
        c = ((c + c.T) / 2).fill_diagonal_(1)
        if self.smoothing is not None or bool((stale * off)[rows][:, rows].any()):
            c = nearest_correlations(c)
        problem = _Problem(rows, c * n[:, None] * n[None, :], known_losses[rows], now[rows] > 0)
        if rows and self.scale_free:
            # By a power of two, so that no digit changes. Solvers take a small trace for a zero gradient.
            problem.gramian = torch.ldexp(problem.gramian, -torch.frexp(problem.gramian.trace()).exponent)
        self._known = (statistics, problem)
        return problem

    def _solved(self, problem: _Problem) -> Tensor:
        weights = torch.full((len(self.tasks),), self._equal(), dtype=torch.float64)
        if not problem.rows:
            return weights
        found = self.solve(problem.gramian, problem.losses, problem.rows).detach().to("cpu", torch.float64)
        if not bool(found.isfinite().all()):
            raise BalanceError(
                f"{type(self).__name__} found no finite weights for the Gramian {problem.gramian.tolist()}"
            )
        if self.scale == "tasks":
            found = found * len(problem.rows)
        weights[:] = found.mean()
        weights[problem.rows] = found
        return weights


class _Problem:
    """What is handed to a solver, and its answer."""

    def __init__(self, rows: list[int], gramian: Tensor, losses: Tensor, fresh: Tensor) -> None:
        self.rows, self.gramian, self.losses, self.fresh = rows, gramian, losses, fresh
        self.weights: Tensor | None = None  # [tasks]


def nearest_correlations(
    cosines: Tensor,  # [m, m], symmetric, 1 on the diagonal
) -> Tensor:
    """Makes a matrix of cosines positive semidefinite: negative eigenvalues become 0, then the diagonal 1 again.

    Example:
        >>> impossible = torch.tensor([[1.0, 1.0, -1.0], [1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]], dtype=torch.float64)
        >>> torch.linalg.eigvalsh(impossible).min().item() < -0.9
        True
        >>> torch.linalg.eigvalsh(nearest_correlations(impossible)).min().item() > -1e-12
        True
    """
    values, vectors = torch.linalg.eigh(cosines)
    if values[0] >= 0:
        return cosines
    clipped: Tensor = (vectors * values.clamp(min=0)) @ vectors.T
    size = clipped.diagonal().clamp(min=1e-12).sqrt()
    clipped = clipped / (size[:, None] * size[None, :])
    return ((clipped + clipped.T) / 2).clamp(-1, 1).fill_diagonal_(1)
