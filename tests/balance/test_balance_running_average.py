"""The running average by hand, on several inner methods, with its state and the inner one's."""

import pytest
import torch
from jacobians import TASKS, draw, named, step

from equipoise.balance import DAO, Fixed
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
        def combine(self, statistics, weights):
            return heard.append(("combine", weights))

        def penalty(self, gramian, cosines):
            return heard.append(("penalty", cosines))

        def observe_after(self, losses):
            heard.append(("after", losses))

        def observe_validation(self, losses):
            heard.append(("validation", losses))

    balancer = RunningAverage(of=Hooked())
    balancer.combine(None, 1)
    balancer.penalty(None, 2)
    balancer.observe_after({})
    balancer.observe_validation({})
    assert heard == [("combine", 1), ("penalty", 2), ("after", {}), ("validation", {})]


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
