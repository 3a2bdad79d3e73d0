"""Numbers watched while a model trains: what is wrong with them is said once, in words, and written to the history."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from equipoise.training._history import plain_numbers
from equipoise.training._watch_readings import Pool, Readings

__all__ = ["Watch"]

#: From so many times the largest of the first losses on, a loss that is unusual is a spike; likewise a gradient norm.
SPIKE, EXPLOSION = 2.0, 10.0
#: A norm must be so many times the median of the latest, too.
TIMES = 30.0
#: An event of one kind and task is not said again for so many steps.
QUIET = 100
#: What lasts so many steps is said.
LONG = 50
#: A norm of no more than this share of the task's largest counts as zero.
ZERO = 1e-10
#: A loss of no more than this share of the first ones is learned, and its gradient may well be zero.
LEARNED = 1e-6
#: A task is starved where its weight, and its weight times its gradient norm, is below this share of the tasks' mean.
STARVED = 0.05
#: In so many logged lines one after the other.
LINES = 5
#: Evaluations one after the other in which a task is worse than its constant, until it is said.
WORSE = 3


class Watch:
    """Reads numbers that the host has already: nothing here waits for a device or walks a graph.

    An event is a line of the history that readers of its other lines pass over:

        {"step": 120, "event": {"kind": "loss_spike", "task": "label", "message": "...", "values": {"loss": 7.1, ...}}}

    Its step is the one in which it was seen, counted as the update that was being computed, so that a resumed run, whose
    history is cut back to a checkpoint, writes none twice. docs/watch.md lists the kinds and their rules.

    Args:
        tasks: names.
        record: gets the lines; None where another process writes them.
        say: shows a sentence to people, or None.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        record: Callable[[dict[str, Any]], None] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.tasks, self.record, self.say = list(tasks), record, say
        self.pools = {task: Pool() for task in tasks}
        self.losses = {task: Readings(SPIKE) for task in tasks}
        self.norms = {task: Readings(EXPLOSION, TIMES) for task in tasks}
        self.whole = Readings(EXPLOSION, TIMES)  # the norm of the update's gradient
        self.peaks: dict[str, float] = {}  # the largest norm of each task
        self.zero: dict[str, int] = {}  # since which step it has been zero
        self.seen: dict[str, int] = {}  # the latest step with a label
        self.low: dict[str, list[int]] = {}  # since which step it has been starved, and in how many lines
        self.worse: dict[str, int] = {}  # in how many evaluations on end
        self.verdicts: dict[str, dict[str, str]] = {}  # step of an evaluation -> task -> what is worse
        self.said: dict[str, int] = {}  # kind and task -> step
        self.patience = LONG

    def begin(self, steps_per_epoch: int) -> None:
        """Before the first step: how long a task may well go without a label."""
        self.patience = max(LONG, steps_per_epoch)

    # What is read ----------------------------------------------------------------------------------------------------

    def batch(
        self, step: int, losses: Mapping[str, float], norms: Mapping[str, float], counts: Mapping[str, int]
    ) -> None:
        """One batch, before its update.

        Args:
            step: the update that it is for, from 1.
            losses: task -> mean loss; tasks without a label are absent.
            norms: task -> gradient norm where it was measured.
            counts: task -> examples.
        """
        for task in self.tasks:
            if task not in losses:
                self._unseen(step, task)
                continue
            self.seen[task] = step
            self.said.pop(f"no_labels|{task}", None)
            loss, norm = losses[task], norms.get(task)
            bad = (
                "loss"
                if not math.isfinite(loss)
                else "gradient"
                if norm is not None and not math.isfinite(norm)
                else None
            )
            if bad is not None:  # the balancer was told to leave such a task out, else we would not come here
                self.tell(
                    step, f"nonfinite_{bad}", f"task '{task}': the {bad} is not finite; the task is left out", task
                )
                continue
            self._loss(step, task, loss, counts.get(task, 1))
            if norm is not None:
                self._norm(step, task, norm, loss)

    def update(self, step: int, norm: float) -> None:
        """The norm of an update's whole gradient, before it is clipped."""
        usual = self.whole.take(norm)
        # Where a task's own norm says it, that says more.
        if usual is not None and step not in [self.said.get(f"exploding_norm|{task}") for task in self.tasks]:
            self._exploding(step, None, "the gradient norm", norm, usual)

    def logged(self, step: int, tasks: Mapping[str, Mapping[str, float]]) -> None:
        """The tasks of a logged line: `weight`, and `norm` where it was measured."""
        here = [task for task in self.tasks if "weight" in tasks.get(task, {})]
        weights = [abs(tasks[task]["weight"]) for task in here]
        known = all("norm" in tasks[task] for task in here)
        pushes = [w * tasks[task]["norm"] if known else w for task, w in zip(here, weights, strict=True)]
        shares, pushed = _shares(weights), _shares(pushes)
        for at, task in enumerate(here):
            if max(shares[at], pushed[at]) * len(here) >= STARVED:
                self.low.pop(task, None)
                self.said.pop(f"starved_task|{task}", None)
                continue
            since, lines = self.low.get(task, [step, 0])
            self.low[task] = [since, lines + 1]
            if lines + 1 >= LINES and step - since >= LONG and f"starved_task|{task}" not in self.said:
                words = (
                    f"task '{task}' is starved: since step {since} it has had {shares[at]:.2%} of the tasks' weights"
                )
                words += f" and {pushed[at]:.2%} of their push (weight times gradient norm)" if known else ""
                words += (
                    f", where equal ones would be {1 / len(here):.0%}. Give it more weight, or choose another method"
                )
                self.tell(step, "starved_task", words, task, {"share": shares[at], "push": pushed[at], "since": since})

    def evaluated(self, step: int, worse: Mapping[str, str]) -> None:
        """An evaluation: which tasks are worse than their constant, and in what words."""
        self.verdicts[str(step)] = dict(worse)
        for task in self.tasks:
            if task not in worse:
                self.worse.pop(task, None)
                self.said.pop(f"worse_than_constant|{task}", None)
                continue
            self.worse[task] = self.worse.get(task, 0) + 1
            if self.worse[task] >= WORSE:
                self._worse(step, task, worse[task], f"in {WORSE} evaluations on end")

    def finish(self, step: int, chosen: int | None, history: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        """The end of the training.

        Args:
            step: the last one.
            chosen: the evaluation whose weights are kept.
            history: reads it: a run that was stopped here may have said everything already.
        """
        unseen = [task for task in self.tasks if step and task not in self.seen]
        worse = self.verdicts.get(str(chosen), {})
        if not unseen and not worse:
            return
        told = [line["event"] for line in history() if line.get("step") == step and "event" in line]
        self.said |= {f"{one['kind']}|{one['task']}": step for one in told if one.get("task")}
        for task in unseen:
            if f"no_labels|{task}" not in self.said:
                self.tell(step, "no_labels", f"task '{task}' had no label in any of the {step} steps", task)
        for task, words in worse.items():
            self._worse(step, task, words, f"in the evaluation that was kept, of step {chosen}")

    # What is said ----------------------------------------------------------------------------------------------------

    def tell(
        self,
        step: int,
        kind: str,
        message: str,
        task: str | None = None,
        values: Mapping[str, Any] | None = None,
        *,
        always: bool = False,
    ) -> None:
        """Says and writes an event, unless one of its kind and task has been said within the last 100 steps.

        Args:
            step: when it was seen.
            kind: one of those that docs/watch.md lists.
            message: a sentence that names the task.
            task: its name, or None where it is no single task's.
            values: the numbers behind it.
            always: write it in any case; say it as often as others.
        """
        key = f"{kind}|{task or ''}"
        loud = key not in self.said or step - self.said[key] >= QUIET
        if loud:
            self.said[key] = step
        if self.record is not None and (loud or always):
            event = {"kind": kind, "task": task, "message": message, "values": dict(values or {})}
            self.record(plain_numbers({"step": step, "event": event}))
            if loud and self.say is not None:
                self.say(f"step {step}: {message}")

    def _loss(self, step: int, task: str, loss: float, count: int) -> None:
        found = self.pools[task].add(loss, count, step)
        if found is None:
            return
        value, at = found
        usual = self.losses[task].take(value)
        if usual is not None:
            words = f"task '{task}': its loss spiked to {value:.3g} in step {at}, where {usual:.3g} was usual"
            words += f" and {self.losses[task].start:.3g} the largest at the beginning"
            self.tell(step, "loss_spike", words, task, {"loss": value, "usual": usual, "at": at})

    def _norm(self, step: int, task: str, norm: float, loss: float) -> None:
        usual = self.norms[task].take(norm)
        if usual is not None:
            self._exploding(step, task, f"task '{task}': its gradient norm", norm, usual)
        self.peaks[task] = max(self.peaks.get(task, 0.0), norm)
        learned = self.losses[task].seen > 0 and loss <= LEARNED * self.losses[task].start
        if norm > ZERO * self.peaks[task] or learned:
            self.zero.pop(task, None)
            self.said.pop(f"dead_task|{task}", None)
            return
        since = self.zero.setdefault(task, step)
        if step - since >= LONG and f"dead_task|{task}" not in self.said:
            words = f"task '{task}' is dead: its gradient has been zero since step {since}, at a loss of {loss:.3g}. Nothing "
            words += "teaches it; its outputs may be saturated, or its loss constant"
            self.tell(step, "dead_task", words, task, {"since": since, "loss": loss})

    def _exploding(self, step: int, task: str | None, what: str, norm: float, usual: float) -> None:
        words = f"{what} exploded to {norm:.3g} in step {step}, where {usual:.3g} was usual"
        self.tell(step, "exploding_norm", words, task, {"norm": norm, "usual": usual})

    def _unseen(self, step: int, task: str) -> None:
        since = self.seen.get(task, 0)
        if step - since > self.patience and f"no_labels|{task}" not in self.said:
            words = f"task '{task}' has had no label in {step - since} steps: nothing teaches it"
            self.tell(step, "no_labels", words, task, {"since": since})

    def _worse(self, step: int, task: str, words: str, when: str) -> None:
        if f"worse_than_constant|{task}" not in self.said:
            words = f"task '{task}': {words} {when}. Its training labels may be wrong, or the learning rate too high"
            self.tell(step, "worse_than_constant", words, task)

    # What a checkpoint keeps -----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that later events depend on."""
        readings = {"losses": self.losses, "norms": self.norms}
        return {
            **{kind: {task: one.state() for task, one in found.items()} for kind, found in readings.items()},
            "pools": {task: pool.state() for task, pool in self.pools.items()},
            "whole": self.whole.state(),
            **{name: dict(getattr(self, name)) for name in KEPT},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        for task in self.tasks:
            self.losses[task].restore(state["losses"][task])
            self.norms[task].restore(state["norms"][task])
            self.pools[task].restore(state["pools"][task])
        self.whole.restore(state["whole"])
        for name in KEPT:
            setattr(self, name, dict(state[name]))


#: Attributes of `Watch` that are plain JSON.
KEPT = ("peaks", "zero", "seen", "low", "worse", "verdicts", "said")


def _shares(values: Sequence[float]) -> list[float]:
    total = sum(values)
    return [value / total if total > 0 else 1 / len(values) for value in values]
