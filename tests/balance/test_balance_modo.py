"""MoDo: steps by hand, TorchJD's weighting, MGDA as its fixed point, and what two half batches are for."""

import pytest
import torch
from jacobians import crossed, draw, turn

from equipoise.balance._modo import MoDo
from equipoise.errors import BalanceError

aggregation = pytest.importorskip("torchjd.aggregation")

# Two tasks whose shortest mean has the weight |g_b|^2 / (|g_a|^2 + |g_b|^2) = 0.118 on the first.
GRADIENTS = torch.tensor([[1.0, 0.0], [0.0, (0.118 / 0.882) ** 0.5]], dtype=torch.float64)


def named(**settings: object) -> MoDo:
    return MoDo(tasks=["a", "b"], **settings)


def test_two_steps_by_hand() -> None:
    balancer = named(gamma=0.1, rho=0.0)
    # w - gamma A w = (0.5 - 0.2, 0.5 - 0.05) sums to 0.75; the projection adds 0.125 to each.
    assert turn(balancer, crossed([[4.0, 0.0], [0.0, 1.0]])).tolist() == pytest.approx([0.425, 0.575])
    # (0.425 - 0.17, 0.575 - 0.0575) sums to 0.7725.
    assert turn(balancer, crossed([[4.0, 0.0], [0.0, 1.0]])).tolist() == pytest.approx([0.36875, 0.63125])
    assert turn(balancer, crossed([[1e3, 0.0], [0.0, 0.0]])).tolist() == [0.0, 1.0]


def test_torchjd_to_the_bit_over_ten_steps() -> None:
    balancer, reference = MoDo(tasks=["a", "b", "c"]), aggregation.MoDoWeighting(gamma=0.1, rho=0.1)
    balancer.fit(torch.device("cpu"), torch.float64)
    for number in range(10):
        cross = draw(number, 3, 3)
        assert turn(balancer, crossed(cross)).tolist() == reference(cross).tolist()


def test_weights_stay_on_the_simplex() -> None:
    balancer = MoDo(tasks=list("abcd"), gamma=5.0)
    for number in range(20):
        weights = turn(balancer, crossed(draw(number, 4, 4)))
        assert weights.min() >= 0
        assert weights.sum().item() == pytest.approx(1, abs=1e-6)


def test_without_noise_the_fixed_point_is_mgda_s() -> None:
    one, other = torch.tensor([[1.0, 2, 0], [3, -1, 1]], dtype=torch.float64)
    expected = ((other - one) @ other / (one - other).square().sum()).clamp(0, 1).item()
    assert 0.1 < expected < 0.9
    rows = torch.stack([one, other])
    balancer = named(gamma=0.02, rho=0.0)
    for _ in range(300):
        weights = turn(balancer, crossed(rows @ rows.T))
    assert weights[0].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("a", [0.25, 1.0, 3.0])
def test_opposed_gradients_cancel(a: float) -> None:
    rows = torch.tensor([[1.0, 1.0], [-a, -a]], dtype=torch.float64)
    balancer = named(gamma=0.05, rho=0.0)
    for _ in range(2000):
        weights = turn(balancer, crossed(rows @ rows.T))
    assert weights.tolist() == pytest.approx([a / (1 + a), 1 / (1 + a)], abs=1e-5)


def run(*, double: bool, steps: int = 8000) -> float:
    """The mean weight of the first task over the last three quarters, with noise 3x larger on the second task."""
    generator = torch.Generator().manual_seed(0)
    sizes = 0.373 * torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    balancer, weights = named(gamma=2e-3, rho=0.0), []
    balancer.fit(torch.device("cpu"), torch.float64)
    halves = GRADIENTS + sizes * torch.randn(steps, 2, 2, 2, generator=generator, dtype=torch.float64)
    for even, odd in halves:
        weights.append(turn(balancer, crossed(even @ (odd if double else even).T))[0])
    return torch.stack(weights[steps // 4 :]).mean().item()


def test_two_half_batches_find_the_weight_that_one_batch_misses() -> None:
    one, other = GRADIENTS
    truth = ((other - one) @ other / (one - other).square().sum()).item()
    assert truth == pytest.approx(0.118, abs=1e-12)
    assert run(double=True) == pytest.approx(truth, abs=0.02)
    assert run(double=False) > truth + 0.2


def test_gamma_zero_keeps_equal_weights_to_the_bit() -> None:
    balancer = named(gamma=0.0)
    for number in range(5):
        assert turn(balancer, crossed(draw(number, 2, 2))).tolist() == [0.5, 0.5]


def test_one_task_has_the_weight_one() -> None:
    assert turn(MoDo(tasks=["a"]), crossed([[3.0]])).tolist() == [1.0]


def test_scaled_losses_with_a_scaled_gamma_leave_the_weights_unchanged() -> None:
    plain, scaled = named(gamma=0.1, rho=0.0), named(gamma=0.1 / 64, rho=0.0)
    for number in range(5):
        cross = draw(number, 2, 2)
        assert turn(plain, crossed(cross)).tolist() == turn(scaled, crossed(64 * cross)).tolist()


def test_an_absent_task_keeps_its_weight_and_the_others_share_out_the_rest() -> None:
    balancer = MoDo(tasks=["a", "b", "c"], gamma=0.1, rho=0.0)
    before = turn(balancer, crossed(torch.diag(torch.tensor([1.0, 2.0, 3.0]))))
    after = turn(balancer, crossed(torch.diag(torch.tensor([5.0, 0.0, 1.0])), [True, False, True]))
    assert after[1].item() == pytest.approx(before[1].item(), rel=1e-6)
    assert after.sum().item() == pytest.approx(1, abs=1e-6)
    assert after[0] < before[0]


def test_the_order_of_the_tasks_does_not_matter_and_state_follows_it() -> None:
    cross = draw(0, 3, 3)
    one, other = MoDo(tasks=["a", "b", "c"]), MoDo(tasks=["c", "a", "b"])
    turn(one, crossed(cross))
    other.load_state_dict(one.state_dict())
    order = torch.tensor([2, 0, 1])
    first, second = turn(one, crossed(cross)), turn(other, crossed(cross[order][:, order]))
    torch.testing.assert_close(first[order], second, rtol=1e-12, atol=0)


def test_the_update_through_a_network_uses_both_halves() -> None:
    layer = torch.nn.Linear(3, 2, bias=False, dtype=torch.float64)
    rows = draw(1, 6, 3)
    hidden = layer(rows)
    losses = {"a": hidden[:, 0].square(), "b": (hidden.sum(1) - 1).square()}
    means = [loss.mean() for loss in losses.values()]
    halves = [[loss[part::2].mean() for loss in losses.values()] for part in (0, 1)]
    even, odd = (
        torch.stack([torch.autograd.grad(loss, layer.weight, retain_graph=True)[0].flatten() for loss in half])
        for half in halves
    )
    expected = aggregation.MoDoWeighting(gamma=0.1, rho=0.1)(even @ odd.T)
    direct = torch.autograd.grad((expected * torch.stack(means)).sum(), layer.weight, retain_graph=True)[0]
    balancer = MoDo()
    balancer(losses, shared=layer.parameters()).backward()
    assert list(balancer.last["weights"].values()) == pytest.approx(expected.tolist(), rel=1e-12)
    torch.testing.assert_close(layer.weight.grad, direct, rtol=1e-10, atol=1e-12)


def test_a_representation_is_refused() -> None:
    hidden = torch.ones(2, 2, requires_grad=True)
    with pytest.raises(BalanceError, match="MoDo cannot be measured at the representation"):
        MoDo()({"a": hidden[:, 0] * 1, "b": hidden[:, 1] * 1}, shared=hidden * 1)


def test_scale_and_initial_weights() -> None:
    assert turn(named(gamma=0.0, scale="tasks"), crossed(torch.eye(2))).tolist() == [1, 1]
    assert named().initial_weights().tolist() == [0.5, 0.5]
    assert named(scale="tasks").initial_weights().tolist() == [1, 1]


@pytest.mark.parametrize(("setting", "value"), [("gamma", -1), ("rho", "0.1"), ("scale", "sum"), ("every", 0)])
def test_settings(setting: str, value: object) -> None:
    with pytest.raises(BalanceError):
        MoDo(**{setting: value})
