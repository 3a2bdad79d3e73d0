"""The rules of what is noticed, on numbers made for them: seen with step and task, said once, and nothing else said."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from equipoise.balance import DAO, NotFiniteError
from equipoise.tasks import from_dict
from equipoise.training._watch import LINES, LONG, QUIET, WORSE, Watch
from equipoise.training._watch_baseline import LEAST, worse_than_constant
from equipoise.training._watch_finite import bad_labels, bad_weight
from equipoise.training._watch_readings import EXAMPLES, FIRST, Pool, Readings

TASKS = ["polarity", "label"]


class Listener:
    """A watch, and what it wrote and said."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.watch = Watch(TASKS, self.lines.append, self.said.append)
        self.watch.begin(10)

    def batch(self, step: int, label: float | None, polarity: float = 0.1, norms: Any = None) -> None:
        losses = {"polarity": polarity} | ({} if label is None else {"label": label})
        measured = {task: (norms or {}).get(task, 0.5) for task in losses}
        self.watch.batch(step, losses, measured, dict.fromkeys(losses, 32))

    @property
    def told(self) -> list[tuple[int, str, str | None]]:
        return [(line["step"], line["event"]["kind"], line["event"]["task"]) for line in self.lines]


def healthy(seed: int, steps: int) -> list[float]:
    """A loss that falls, with the long upper tail that batches have."""
    rng = random.Random(seed)
    scale = rng.choice([0.1, 1.0, 2.0])
    return [scale * (0.02 + 0.98 * 0.97 ** (0.3 * step)) * rng.lognormvariate(0, 0.5) for step in range(steps)]


def test_a_spike_is_said_once_with_step_and_task() -> None:
    heard = Listener()
    losses = healthy(0, 120)
    for step, loss in enumerate(losses, 1):
        heard.batch(step, label=60.0 if step in (90, 92, 95) else loss)
    assert heard.told == [(90, "loss_spike", "label")]
    (line,) = heard.lines
    assert line["event"]["values"] == {
        "loss": 60.0,
        "usual": pytest.approx(np.median(losses[25:89]), rel=1e-5),
        "at": 90,
    }
    assert heard.said == [f"step 90: {line['event']['message']}"]
    assert "'label'" in heard.said[0]
    for step in range(121, 191 + QUIET):  # a later one of the same kind is said again
        heard.batch(step, label=600.0 if step == 190 + QUIET else 0.1)
    assert heard.told[1:] == [(190 + QUIET, "loss_spike", "label")]


def test_healthy_losses_say_nothing() -> None:
    for seed in range(60):
        heard = Listener()
        for step, loss in enumerate(healthy(seed, 400), 1):
            heard.batch(step, label=loss, polarity=loss / 7)
        assert heard.told == [], f"seed {seed}"


def test_what_is_unusual_but_does_no_harm_is_not_said() -> None:
    heard = Listener()
    for step in range(1, 101):
        heard.batch(step, label=1.0 if step <= FIRST else 1.9 if step == 80 else 0.001)
    assert heard.told == []


@pytest.mark.parametrize("value", [0.0, 1.0, -2.0])
def test_equal_values_have_no_spread_and_the_bound_is_their_size(value: float) -> None:
    readings = Readings(2.0)
    for _ in range(FIRST):
        assert readings.take(value) is None
    assert readings.take(value + abs(value)) is None
    assert readings.take(value + abs(value) + 0.1) == value


def test_a_norm_that_grows_with_the_training_does_not_explode() -> None:
    heard = Listener()
    for step in range(1, 201):  # thirty times its first values after 200 steps, and each batch has its own
        heard.watch.update(step, 0.4 * 1.017**step * (1.0, 0.6, 3.0, 0.8)[step % 4])
    assert heard.told == []


def test_the_first_values_never_stand_out() -> None:
    readings = Readings(2.0)
    assert [readings.take(x) for x in [0.1] * (FIRST - 1) + [50.0, 99.0, 101.0]] == [None] * (FIRST + 1) + [0.1]


def test_small_batches_are_put_together_and_the_step_is_that_of_the_largest_loss() -> None:
    pool = Pool()
    assert pool.add(1.0, EXAMPLES - 4, 7) is None
    assert pool.add(9.0, 3, 8) is None
    assert pool.add(2.0, 1, 9) == (pytest.approx((12 + 27 + 2) / EXAMPLES), 8)
    assert pool.add(3.0, EXAMPLES, 10) == (3.0, 10)


def test_an_exploding_norm_names_the_task_where_one_is_known() -> None:
    heard = Listener()
    for step in range(1, 61):
        heard.batch(step, label=1.0, norms={"polarity": 5e4 if step == 50 else 0.5 + step % 7 / 10})
        heard.watch.update(step, 4e5 if step == 50 else 3e5 if step == 55 else 2.0)
    assert heard.told == [(50, "exploding_norm", "polarity")]
    for step in range(61, 101):
        heard.batch(step, label=1.0)
        heard.watch.update(step, 8e6 if step == 90 else 2.0)
    assert heard.told[1:] == [(90, "exploding_norm", None)]


def test_a_task_without_gradient_is_dead_after_long_and_may_come_back() -> None:
    heard = Listener()
    for step in range(1, 200):
        heard.batch(step, label=1.0, norms={"label": 0.0 if 10 <= step < 100 or step >= 120 else 0.5})
    assert heard.told == [(10 + LONG, "dead_task", "label"), (120 + LONG, "dead_task", "label")]
    assert heard.lines[0]["event"]["values"] == {"since": 10, "loss": 1.0}


def test_a_task_that_is_learned_is_not_dead() -> None:
    heard = Listener()
    for step in range(1, 200):
        heard.batch(step, label=1.0 if step < 30 else 1e-8, norms={"label": 0.5 if step < 30 else 0.0})
    assert heard.told == []


def test_a_task_without_labels_is_said_after_an_epoch_and_at_the_end() -> None:
    heard = Listener()
    heard.watch.begin(70)
    for step in range(1, 101):
        heard.batch(step, label=None if step > 20 else 1.0)
    assert heard.told == [(91, "no_labels", "label")]
    never = Listener()
    for step in range(1, 20):
        never.batch(step, label=None)
    never.watch.finish(19, None, list)
    assert never.told == [(19, "no_labels", "label")]
    again = Listener()
    again.watch.restore(json.loads(json.dumps(never.watch.state())))
    again.watch.finish(19, None, lambda: never.lines)  # it was stopped between this and its last file
    assert again.told == []


@pytest.mark.parametrize(
    ("weights", "norms", "starved"),
    [
        ((1.99, 0.01), (1.0, 1.0), True),
        ((1.99, 0.01), None, True),
        ((1.99, 0.01), (0.01, 1.99), False),  # a small weight on a large gradient, as `dao` gives it
        ((1.0, 1.0), (1.0, 0.001), False),  # a small gradient, and no weight is to blame
        ((1.9, 0.1), (1.0, 1.0), False),
    ],
)
def test_a_task_is_starved_by_its_weight(weights: Any, norms: Any, starved: bool) -> None:
    heard = Listener()
    for step in range(10, 10 * LINES + 20, 10):
        line = {task: {"weight": weight} for task, weight in zip(TASKS, weights, strict=True)}
        for task, norm in zip(TASKS, norms or (), strict=False):
            line[task]["norm"] = norm
        heard.watch.logged(step, line)
    assert heard.told == ([(10 + LONG, "starved_task", "label")] if starved else [])
    if starved:
        assert "0.50% of the tasks' weights" in heard.said[0]


def test_one_task_alone_is_not_starved_and_a_line_without_it_tells_nothing() -> None:
    heard = Listener()
    for step in range(10, 200, 10):
        heard.watch.logged(step, {"polarity": {"weight": 0.0}, "label": {}})
    assert heard.told == []


def test_worse_than_a_constant_is_said_after_some_evaluations_or_at_the_end() -> None:
    heard = Listener()
    for step in (10, 20, 40, 50, 60, 70):
        heard.watch.evaluated(step, {} if step == 20 else {"label": "accuracy 0.2 is worse than 0.5"})
    assert WORSE == 3
    assert heard.told == [(60, "worse_than_constant", "label")]
    ends = Listener()
    ends.watch.evaluated(10, {"label": "accuracy 0.2 is worse than 0.5"})
    ends.watch.evaluated(20, {})
    ends.watch.finish(20, 20, list)
    assert [kind for _, kind, _ in ends.told] == ["no_labels", "no_labels"]  # as no batch was seen
    ends.watch.finish(20, 10, list)
    assert ends.told[2:] == [(20, "worse_than_constant", "label")]


def test_a_watch_that_is_restored_says_what_it_would_have_said() -> None:
    whole, first = Listener(), Listener()
    numbers = healthy(3, 200)

    def feed(heard: Listener, steps: range) -> None:
        for step in steps:
            loss = 70.0 if step in (61, 150) else numbers[step]
            norms = {"polarity": 0.0 if step > 30 else 1.0, "label": 9e5 if step == 90 else 1.0}
            heard.batch(step, loss, norms=norms)
            heard.watch.update(step, 7e5 if step == 170 else 2.0)
            if step % 10 == 0:
                heard.watch.logged(step, {"polarity": {"weight": 2.0}, "label": {"weight": 0.01 if step > 20 else 1.0}})
                heard.watch.evaluated(step, {"polarity": "worse"} if step >= 100 else {})

    feed(whole, range(1, 200))
    for cut in (57, 62, 81, 111):
        first = Listener()
        feed(first, range(1, cut))
        second = Listener()
        second.watch.restore(json.loads(json.dumps(first.watch.state(), allow_nan=False)))
        feed(second, range(cut, 200))
        assert first.lines + second.lines == whole.lines
    assert {kind for _, kind, _ in whole.told} == {
        "loss_spike", "exploding_norm", "dead_task", "starved_task", "worse_than_constant",
    }  # fmt: skip


def test_a_process_that_writes_nothing_says_nothing() -> None:
    said: list[str] = []
    watch = Watch(TASKS, None, said.append)
    watch.tell(1, "loss_spike", "words", "label", always=True)
    assert said == []


# Worse than a constant ------------------------------------------------------------------------------------------------


def score() -> Any:
    return from_dict(
        {"kind": "regression", "name": "s", "column": "s", "range": [-1.0, 1.0], "offset": 0.0, "scale": 1.0}
        | {"loss": "mse", "huber_delta": 1.0}
    )


def classes() -> Any:
    return from_dict(
        {"kind": "classification", "name": "c", "column": "c", "labels": ["a", "b", "c"], "casefold": False}
        | {"weights": None, "label_smoothing": 0.0, "thresholds": None, "source": None}
    )


@pytest.mark.parametrize(("slope", "worse"), [(0.8, False), (0.0, False), (-0.8, True)])
def test_a_score_turned_round_is_worse(slope: float, worse: bool) -> None:
    rng = np.random.default_rng(0)
    true = rng.uniform(-1, 1, 200).astype(np.float32)
    outputs = (slope * true + rng.normal(0, 0.05, 200))[:, None].astype(np.float32)
    found = worse_than_constant(score(), outputs, true, np.zeros(1, np.float32))
    assert (found is not None) == worse
    if found is not None:
        assert "mse" in found
        assert "is worse than 0.3" in found


def test_a_little_worse_on_few_rows_is_noise_and_fewer_tell_nothing() -> None:
    rng = np.random.default_rng(1)
    true = rng.normal(0, 0.3, 40).astype(np.float32)
    outputs = rng.normal(0, 0.05, (40, 1)).astype(np.float32)  # noise costs a little more than saying zero
    assert worse_than_constant(score(), outputs, true, np.zeros(1, np.float32)) is None
    few = LEAST - 1
    assert worse_than_constant(score(), -true[:few, None] * 3, true[:few], np.zeros(1, np.float32)) is None
    assert worse_than_constant(score(), -true[:, None] * 3, true, np.zeros(1, np.float32)) is not None
    true[few:] = np.nan  # rows without a label do not count
    assert worse_than_constant(score(), -true[:, None] * 3, true, np.zeros(1, np.float32)) is None


@pytest.mark.parametrize(("kind", "worse"), [("right", False), ("turned", True), ("guessed", True), ("rare", False)])
def test_classes_are_judged_by_accuracy_too_where_they_are_guessed(kind: str, worse: bool) -> None:
    rng = np.random.default_rng(0)
    true = rng.choice(3, 300, p=[0.7, 0.2, 0.1])
    said = {"right": true, "turned": (true + 1) % 3, "guessed": rng.permutation(true), "rare": true.copy()}[kind]
    if kind == "guessed":
        said = rng.integers(3, size=300)
    if (
        kind == "rare"
    ):  # every rare class is found, at the price of many false alarms: accuracy falls, and it is not guessing
        said[(true == 0) & (rng.random(300) < 0.5)] = 1
    outputs = np.eye(3, dtype=np.float32)[said] * 4
    constant = np.log(np.array([0.7, 0.2, 0.1], dtype=np.float32))
    assert (worse_than_constant(classes(), outputs, true.astype(np.float32), constant) is not None) == worse


# What is not finite ---------------------------------------------------------------------------------------------------


def test_the_first_weight_that_is_not_finite_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    model.register_buffer("count", torch.zeros(1, dtype=torch.int64))
    model.register_buffer("empty", torch.zeros(0))
    assert bad_weight(model) is None
    model[1].running_var[0] = float("inf")
    assert bad_weight(model) == "1.running_var"
    with torch.no_grad():
        model[0].bias[1] = float("nan")
    assert bad_weight(model) == "0.bias"
    assert bad_weight(nn.Identity()) is None


def test_labels_that_are_not_finite_are_found_where_they_count() -> None:
    nan = float("nan")
    targets = {"a": torch.tensor([0.0, nan, 1.0]), "b": torch.tensor([[0.0, 1.0], [nan, nan], [float("inf"), 0.0]])}
    rows = {"a": torch.tensor([0, 2]), "b": torch.tensor([0])}
    assert bad_labels(["a", "b"], targets, rows) == []
    rows["b"] = torch.tensor([0, 2])
    assert bad_labels(["a", "b"], targets, rows) == ["b"]
    assert bad_labels(["a"], targets, rows) == []


def test_the_balancer_s_check_leaves_its_numbers_on_the_host() -> None:
    hidden = torch.ones(4, 3, requires_grad=True)
    balancer = DAO(tasks=["a", "b", "c"])
    losses = {"a": hidden.sum(1), "b": 2 * hidden.sum(1)}
    balancer(losses, shared=hidden)
    assert balancer.checked["losses"] == {"a": 3.0, "b": 6.0}
    assert balancer.checked["norms"] == balancer.last["norms"]
    assert {type(x) for found in balancer.checked.values() for x in found.values()} == {float}
    with torch.no_grad():
        balancer({"a": hidden.sum(1) * 9})
    assert balancer.checked["losses"] == {"a": 3.0, "b": 6.0}, "what nothing is trained on does not count"
    with pytest.raises(NotFiniteError, match="task 'b': the loss is not finite") as caught:
        balancer({"a": hidden.sum(1), "b": hidden.sum(1) / 0}, shared=hidden)
    assert caught.value.tasks == {"b": "loss"}
    assert caught.value.words == "task 'b': the loss is not finite"
    again = copy.copy(caught.value)  # as it crosses processes
    assert (str(again), again.words, again.tasks) == (str(caught.value), caught.value.words, {"b": "loss"})
    slope = (hidden.sum(1) * 0).sqrt()  # 0, and its gradient is not finite
    with pytest.raises(NotFiniteError, match="gradient at shared") as caught:
        balancer({"a": hidden.sum(1), "b": slope}, shared=hidden)
    assert caught.value.tasks == {"b": "gradient"}
