"""MetaBalance: factors by hand, every shared tensor by itself, against the paper's algorithm written out."""

import pytest
import torch

from equipoise.balance._metabalance import MetaBalance
from equipoise.errors import BalanceError

Slopes = dict[str, tuple[float, float]]  # of each task at two shared tensors


def step(balancer: MetaBalance, slopes: Slopes) -> list[float]:
    layers = [torch.nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2)]
    losses = {t: layers[0][0] * one + layers[1][0] * other for t, (one, other) in slopes.items()}
    balancer(losses, shared=layers).backward()
    return [0.0 if layer.grad is None else layer.grad.item() for layer in layers]


def test_each_shared_tensor_is_balanced_by_itself() -> None:
    balancer = MetaBalance(target="a", relax=0.5)
    # First tensor: b from 1 half way to the size 4, 2.5; second: from 10 half way to 2, 6, against a's sign.
    assert step(balancer, {"a": (4.0, 2.0), "b": (1.0, -10.0)}) == pytest.approx([4 + 2.5, 2 - 6], rel=1e-12)
    assert balancer.last["weights"] == {"a": 1.0, "b": 1.0}, "the heads get their plain gradients"


@pytest.mark.parametrize("relax", [0.0, 1.0])
def test_the_two_ends_of_relax(relax: float) -> None:
    update = step(MetaBalance(target="a", relax=relax), {"a": (4.0, 2.0), "b": (1.0, 10.0)})
    assert update == pytest.approx([5.0, 12.0] if relax == 0 else [8.0, 4.0], rel=1e-12)


def test_against_the_algorithm_of_the_paper() -> None:
    draw = torch.Generator().manual_seed(0)
    layers = [torch.nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64)) for shape in ((4, 3), (3,))]
    heads = torch.nn.Parameter(torch.randn(3, 3, generator=draw, dtype=torch.float64))
    balancer = MetaBalance(target="b", relax=0.7, beta=0.9)
    running = [dict.fromkeys("abc", 0.0) for _ in layers]  # from zero, as the official code has them
    for _ in range(5):
        inputs = torch.randn(6, 4, generator=draw, dtype=torch.float64)

        def losses(inputs: torch.Tensor = inputs) -> dict[str, torch.Tensor]:
            out = ((inputs @ layers[0]).tanh() * layers[1]) @ heads
            return {t: 10.0**k * (out[:, k] - 1).square().mean() for k, t in enumerate("abc")}

        pulls = {t: torch.autograd.grad(x, [*layers, heads], retain_graph=True) for t, x in losses().items()}
        for parameter in [*layers, heads]:
            parameter.grad = None
        balancer(losses(), shared=layers).backward()
        for number, layer in enumerate(layers):
            for task in "abc":
                running[number][task] = 0.9 * running[number][task] + 0.1 * pulls[task][number].norm().item()
            factors = {t: 0.7 * running[number]["b"] / running[number][t] + 0.3 for t in "abc"}
            expected = sum(factors[t] * pulls[t][number] for t in "abc")
            torch.testing.assert_close(layer.grad, expected, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(heads.grad, sum(pull[2] for pull in pulls.values()), rtol=1e-10, atol=1e-13)


def test_at_a_representation_there_is_one_block() -> None:
    hidden = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    balancer = MetaBalance(target="b", relax=0.7)
    balancer({"a": hidden[0, 0] * 8, "b": hidden[0, 1] * 2}, shared=hidden)
    assert balancer.last["weights"] == pytest.approx({"a": 0.7 * 0.25 + 0.3, "b": 1.0}, rel=1e-12)


def test_between_measurements_all_shared_tensors_are_one_block() -> None:
    balancer = MetaBalance(target="a", relax=1.0, every=2)
    step(balancer, {"a": (3.0, 4.0), "b": (0.0, 1.0)})
    step(balancer, {"a": (3.0, 4.0), "b": (0.0, 1.0)})
    assert balancer.last["weights"] == pytest.approx({"a": 1.0, "b": 5.0}, rel=1e-12)


def test_absent_tasks_and_zero_gradients() -> None:
    balancer = MetaBalance(target="a", tasks=["a", "b"], relax=1.0)
    assert step(balancer, {"b": (5.0, 1.0)}) == [5.0, 1.0], "the target's size is not known yet"
    step(balancer, {"a": (2.0, 0.0), "b": (5.0, 1.0)})
    assert balancer.measured.tolist() == [[1, 0], [2, 2]]
    # Target absent: its last norm, 2, is kept; it has none at the second tensor.
    assert step(balancer, {"b": (5.0, 1.0)}) == pytest.approx([2.0, 1.0], rel=1e-12)
    step(balancer, {"a": (2.0, 0.0), "b": (0.0, 0.0)})
    assert balancer.norms[1].tolist() == pytest.approx([5.0, 1.0], rel=1e-12)


@pytest.mark.parametrize("order", [["a", "b"], ["b", "a"]])
def test_state_survives_and_follows_the_order_of_tasks(order: list[str]) -> None:
    half = MetaBalance(target="a", tasks=["a", "b"])
    step(half, {"a": (4.0, 2.0), "b": (1.0, -10.0)})
    resumed = MetaBalance(target="a", tasks=order)
    resumed.load_state_dict(half.state_dict())
    assert resumed.norms.shape == (2, 2)
    following: Slopes = {"a": (1.0, 2.0), "b": (3.0, 1.0)}
    assert step(resumed, following) == pytest.approx(step(half, following), rel=1e-14)


def test_other_shared_parameters_are_refused() -> None:
    balancer = MetaBalance(target="a")
    step(balancer, {"a": (4.0, 2.0)})
    layer = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    with pytest.raises(BalanceError, match="norms holds 2 numbers a task, but shared now has 1"):
        balancer({"a": layer.sum()}, shared=[layer])


def test_the_target_must_be_a_task() -> None:
    with pytest.raises(BalanceError, match=r"'polarty'.*Did you mean 'polarity'"):
        MetaBalance(target="polarty", tasks=["polarity", "label"])
    with pytest.raises(BalanceError, match="target must be one of the tasks a, b, found 'x'"):
        step(MetaBalance(target="x"), {"a": (4.0, 2.0), "b": (1.0, 1.0)})
    with pytest.raises(BalanceError, match="target must be the name of a task, found 0"):
        MetaBalance(target=0)


@pytest.mark.parametrize("settings", [{"relax": 1.5}, {"relax": "0.7"}, {"beta": 1.0}, {"epsilon": -1}])
def test_unusable_settings_are_refused(settings: dict) -> None:
    with pytest.raises(BalanceError, match=f"{next(iter(settings))} must"):
        MetaBalance(target="a", **settings)
