"""Priorities by hand, on several inner methods."""

import pytest
import torch
from jacobians import draw, named, step
from torch.overrides import TorchFunctionMode

from equipoise.balance import DAO, GradientCosinePenalty
from equipoise.balance._priority import Priority
from equipoise.errors import BalanceError


def test_by_hand() -> None:
    balancer = Priority(of={"method": "dao", "scale": "one"}, priorities={"a": 2.0})
    # DAO: 1/4 and 3/4; doubled for a, 2/4 and 3/4, scaled back to 1.
    assert step(balancer, {"a": [3, 0], "b": [0, 1]}) == pytest.approx({"a": 0.4, "b": 0.6})


@pytest.mark.parametrize("method", ["dao", "mgda", "pcgrad", "imtl_g", "equal"])
def test_ratios_and_sum(method: str) -> None:
    balancer, plain = Priority(of=method, priorities={"a": 4.0, "c": 0.5}), Priority(of=method, priorities={})
    found, before = step(balancer, named(draw(0))), step(plain, named(draw(0)))
    assert sum(found.values()) == pytest.approx(sum(before.values()), rel=1e-9)
    if before["b"] and before["d"]:
        assert found["a"] / found["b"] == pytest.approx(4 * before["a"] / before["b"], rel=1e-9)
        assert found["c"] / found["d"] == pytest.approx(0.5 * before["c"] / before["d"], rel=1e-9)


def test_equal_priorities_change_nothing() -> None:
    plain, priority = DAO(), Priority(of="dao", priorities=dict.fromkeys("abcd", 7.0))
    assert step(priority, named(draw(1))) == pytest.approx(step(plain, named(draw(1))), rel=1e-12)


def test_initial_weights() -> None:
    assert Priority(of="dao", priorities={"a": 3.0}, tasks=["a", "b"]).initial_weights().tolist() == [1.5, 0.5]


def test_negative_weights_without_a_sum_are_left_as_they_are() -> None:
    balancer = Priority(of={"method": "imtl_g"}, priorities={"b": 100.0})
    found = step(balancer, {"a": [4, 4], "b": [1, 0]})
    assert all(abs(weight) < 1e4 for weight in found.values())


@pytest.mark.parametrize(
    ("priorities", "words"),
    [
        ({"a": 0}, r"priorities\.a must be a number above 0"),
        ({"x": 1.0}, "priorities name no task 'x'"),
        ([1.0], "priorities must map"),
    ],
)
def test_priorities(priorities: object, words: str) -> None:
    with pytest.raises(BalanceError, match=words):
        Priority(of="dao", priorities=priorities, tasks=["a", "b"])


def test_the_factors_come_to_the_device_without_a_wait() -> None:
    made: list[torch.device | None] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.tensor:
                made.append((kwargs or {}).get("device"))
            return func(*args, **(kwargs or {}))

    balancer = Priority(of="equal", priorities={"a": 2.0}, tasks=["a", "b"])
    with Watch():
        balancer.weigh(torch.ones(2), torch.ones(2, dtype=torch.bool), None)
    assert made, "the factors are made in the step"
    assert made == [None] * len(made), "numbers of the host, made on a device, wait for it"


@pytest.mark.parametrize("of", [{"method": "db_mtl"}, {"method": "metabalance", "target": "a"}])
def test_what_is_no_weighted_sum_is_refused(of: dict) -> None:
    with pytest.raises(
        BalanceError, match=r"Priority changes weights, and the update of (DBMTL|MetaBalance) is no weighted"
    ):
        Priority(of=of, priorities={"a": 2.0}, tasks=["a", "b"])


def test_a_penalty_stays_beside_the_weights() -> None:
    penalty, priority = GradientCosinePenalty(strength=1.0), Priority(of="cosine_penalty", priorities={"a": 3.0})
    hidden = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)

    def total(balancer: object) -> float:
        return balancer({"a": (hidden[0] ** 2)[0], "b": hidden.square().sum()}, shared=hidden).item()

    # 1 + 2 and the penalty; then 3/2 and 1/2 of them with the same one, which is 0.1 where it was 1.
    price = total(penalty) - 3
    assert price == pytest.approx(1 - 0.5**0.5)
    assert total(priority) == pytest.approx(1.5 * 1 + 0.5 * 2 + 0.1 * price)
