"""The running average by hand, on several inner methods, with its state and the inner one's."""

import pytest
import torch
from jacobians import TASKS, draw, named, step

from equipoise.balance import DAO, DBMTL, FAMO, Fixed, GradientCosinePenalty, MetaBalance
from equipoise.balance._gradvac import GradVac
from equipoise.balance._running_average import RunningAverage
from equipoise.errors import BalanceError


def test_by_hand() -> None:
    balancer = RunningAverage(of={"method": "dao", "scale": "one", "own_floor": None}, decay=0.9)
    assert step(balancer, {"a": [1, 0], "b": [0, 1]}) == {"a": 0.5, "b": 0.5}
    assert step(balancer, {"a": [3, 0], "b": [0, 1]}) == pytest.approx({"a": 0.475, "b": 0.525})
    assert step(balancer, {"a": [3, 0], "b": [0, 1]}) == pytest.approx({"a": 0.4525, "b": 0.5475})


def test_torchjd() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    balancer = RunningAverage(of="mgda", decay=0.7)
    reference = aggregation.CRMOGMWeighting(aggregation.MGDAWeighting(), alpha=0.7)
    for number in range(6):
        jacobian = draw(number)
        weights = torch.tensor(list(step(balancer, named(jacobian)).values()), dtype=torch.float64)
        torch.testing.assert_close(weights, reference(jacobian @ jacobian.T), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_the_ends(decay: float) -> None:
    balancer = RunningAverage(of={"method": "dao", "own_floor": None}, decay=decay)
    first = step(balancer, {"a": [1, 0], "b": [0, 1]})
    found = step(balancer, {"a": [3, 0], "b": [0, 1]})
    assert found == pytest.approx(first if decay else {"a": 0.5, "b": 1.5})


def test_an_absent_task_keeps_its_average_and_starts_with_its_first_weight() -> None:
    balancer = RunningAverage(of=DAO(tasks=["a", "b", "c"], own_floor=None), decay=0.5)
    step(balancer, {"a": [1, 0], "b": [0, 1]})
    before = balancer.average.clone()
    step(balancer, {"a": [5, 0], "c": [0, 1]})
    assert balancer.average[1] == before[1]
    assert balancer.average[2] == balancer.of.weights[2], "the first weight of c starts its average"


def test_state_holds_the_inner_one_s_and_goes_on_to_the_bit_in_another_order() -> None:
    whole = RunningAverage(of="gradvac", tasks=TASKS)
    for number in range(4):
        step(whole, named(draw(number)))
    assert "of.goals" in whole.state_dict()
    same, other = RunningAverage(of=GradVac(), tasks=TASKS), RunningAverage(of="gradvac", tasks=TASKS[::-1])
    nameless = RunningAverage(of="gradvac")
    for balancer in (same, other, nameless):
        balancer.load_state_dict(whole.state_dict())
        assert balancer.of._steps == 4
    for number in range(4, 8):
        expected = step(whole, named(draw(number)))
        assert step(same, named(draw(number))) == expected
        assert step(nameless, named(draw(number))) == expected
        assert step(other, named(draw(number))) == pytest.approx(expected, rel=1e-12)


def test_what_the_inner_method_declares_is_taken_over() -> None:
    dao = DAO(data_weights="inverse_frequency", double_batch=True, every=3, on_nonfinite="skip")
    balancer = RunningAverage(of=dao)
    assert balancer.requires == {"shared", "targets"}
    assert (balancer.double_batch, balancer.monitor_every, balancer.on_nonfinite) == (True, 3, "skip")
    assert RunningAverage(of=DAO(), on_nonfinite="skip").on_nonfinite == "skip"
    assert RunningAverage(of="equal").requires == frozenset()
    assert RunningAverage(of={"method": "modo"}).scopes == {"parameters"}


def test_hooks_are_passed_on() -> None:
    heard: list[object] = []

    class Hooked(DAO):
        def penalty(self, gramian, cosines):
            return heard.append(("penalty", cosines))

        def observe_after(self, losses):
            heard.append(("after", losses))

        def observe_validation(self, losses):
            heard.append(("validation", losses))

    balancer = RunningAverage(of=Hooked())
    balancer.penalty(None, 2)
    balancer.observe_after({})
    balancer.observe_validation({})
    assert heard == [("penalty", 2), ("after", {}), ("validation", {})]


def test_names_come_from_the_inner_method_and_must_agree() -> None:
    fixed = Fixed(weights={"a": 1.0, "b": 3.0})
    assert RunningAverage(of=fixed).tasks == ("a", "b")
    with pytest.raises(BalanceError, match="the inner balancer's tasks are a, b, in this order, not b, a"):
        RunningAverage(of=fixed, tasks=["b", "a"])
    inner = DAO()
    RunningAverage(of=inner, tasks=["x", "y"])
    assert inner.tasks == ("x", "y")


def test_nested() -> None:
    of = {"method": "running_average", "of": {"method": "fixed", "weights": {"a": 1.0, "b": 3.0}}}
    balancer = RunningAverage(of=of)
    assert step(balancer, {"a": [1, 0], "b": [0, 1]}) == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("of", "words"),
    [
        ("gradvacc", "no balancer 'gradvacc'. Did you mean 'gradvac'"),
        ({"method": "dao", "scal": "one"}, "no setting 'scal'"),
        ({"scale": "one"}, "of must be a balancer"),
        (None, "of must be a balancer"),
        (DAO, "of must be a balancer"),
    ],
)
def test_of(of: object, words: str) -> None:
    with pytest.raises(BalanceError, match=words):
        RunningAverage(of=of)


@pytest.mark.parametrize("decay", [-0.1, 1.1, "0.9"])
def test_decay(decay: object) -> None:
    with pytest.raises(BalanceError, match="decay must be a number"):
        RunningAverage(of="dao", decay=decay)


def famo_without(task: str, balancer: RunningAverage) -> None:
    """A step, then losses after it of which one is not finite."""
    step(balancer, {"a": [1, 0], "b": [0, 1]})
    after = {name: torch.tensor(float("nan") if name == task else 0.5, dtype=torch.float64) for name in "ab"}
    balancer.observe_after(after)


def test_skipping_reaches_the_inner_balancer_and_counts_together() -> None:
    balancer = RunningAverage(of="famo", on_nonfinite="skip", tasks=["a", "b"])
    famo_without("b", balancer)
    assert balancer.of.on_nonfinite == "skip"
    assert balancer.skipped == {"a": 0, "b": 1}
    losses = {task: torch.tensor(value, requires_grad=True) for task, value in (("a", float("inf")), ("b", 1.0))}
    balancer(losses)
    assert balancer.skipped == {"a": 1, "b": 1}


def test_whether_to_skip_is_one_setting() -> None:
    with pytest.raises(BalanceError, match="task 'b': the loss is not finite"):
        famo_without("b", RunningAverage(of=FAMO(on_nonfinite="skip"), on_nonfinite="raise"))
    later = RunningAverage(of=FAMO())
    later.on_nonfinite = "skip"
    famo_without("b", later)
    assert RunningAverage(of=RunningAverage(of=FAMO()), on_nonfinite="skip").of.of.on_nonfinite == "skip"
    with pytest.raises(BalanceError, match="on_nonfinite must be"):
        RunningAverage(of="famo", on_nonfinite="ignore")


def test_the_processes_are_one_setting() -> None:
    asked: list[object] = []

    class Asks(DAO):
        def weigh(self, losses, present, statistics):
            asked.append(self.process_group)
            return super().weigh(losses, present, statistics)

    inner = Asks()
    inner.process_group = "as it was"
    balancer = RunningAverage(of=RunningAverage(of=inner))
    assert balancer.process_group == "as it was"
    balancer.process_group = None
    step(balancer, {"a": [1, 0], "b": [0, 1]})
    assert asked
    assert set(asked) == {None}


def test_the_class_tells_what_any_class_does() -> None:
    assert RunningAverage.requires == frozenset()
    assert RunningAverage.scopes == {"representation", "parameters"}
    assert RunningAverage.measured_at == "representation"


def test_what_the_inner_method_requires_is_asked_anew() -> None:
    inner = Fixed(weights={"a": 1.0, "b": 3.0})
    balancer = RunningAverage(of=inner)
    inner.requires = frozenset({"after"})
    assert balancer.requires == {"after"}


@pytest.mark.parametrize("of", [DBMTL(), MetaBalance(target="a")])
def test_what_is_no_weighted_sum_is_refused(of: DBMTL | MetaBalance) -> None:
    with pytest.raises(
        BalanceError, match=rf"RunningAverage changes weights, and the update of {type(of).__name__} is no"
    ):
        RunningAverage(of=of)


def test_a_penalty_is_passed_on() -> None:
    for balancer in (GradientCosinePenalty(strength=1.0), RunningAverage(of=GradientCosinePenalty(strength=1.0))):
        hidden = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
        total = balancer({"a": (hidden[0] ** 2)[0], "b": hidden.square().sum()}, shared=hidden)
        assert total.item() == pytest.approx(3 + 1 - 0.5**0.5)
