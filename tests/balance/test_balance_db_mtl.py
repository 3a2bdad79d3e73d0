"""DB-MTL: log-losses and the longest norm by hand, running gradients against plain float64 autograd."""

import pytest
import torch

from equipoise.balance._db_mtl import DBMTL
from equipoise.errors import BalanceError


def linear(point: torch.Tensor, slopes: dict[str, list[float]], losses: dict[str, float]) -> dict[str, torch.Tensor]:
    """Losses with these values and these gradients at a point that is zero."""
    flat = point.reshape(-1)
    return {t: flat @ torch.tensor(slopes[t], dtype=torch.float64) + losses[t] for t in slopes}


def at_parameters(
    balancer: DBMTL, slopes: dict[str, list[float]], losses: dict[str, float]
) -> tuple[list[float], dict[str, float]]:
    layer = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    balancer(linear(layer, slopes, losses), shared=[layer]).backward()
    return layer.grad.tolist(), balancer.last["weights"]


def test_at_parameters_by_hand() -> None:
    balancer = DBMTL(beta=0.5)
    # Log-gradients (3, 0) / 1 and (0, 4) / 2 = (0, 2); the longest is 3.
    update, weights = at_parameters(balancer, {"a": [3.0, 0.0], "b": [0.0, 4.0]}, {"a": 1.0, "b": 2.0})
    assert update == pytest.approx([3.0, 3.0], rel=1e-7)
    assert weights == pytest.approx({"a": 1.0, "b": 0.5}, rel=1e-7), "what the heads get"
    # Averages (3, 0) / 2 + (1, 0) / 2 = (2, 0) and (0, 2) / 2 + (1, 0) / 2 = (0.5, 1); norms 2 and 1.25 ** 0.5.
    update, _ = at_parameters(balancer, {"a": [1.0, 0.0], "b": [1.0, 0.0]}, {"a": 1.0, "b": 1.0})
    factor = 2 / 1.25**0.5
    assert update == pytest.approx([2 + 0.5 * factor, factor], rel=1e-7)


def test_heads_get_the_gradient_of_the_log_losses() -> None:
    layer = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    head = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    DBMTL()({"a": (layer * head).square().sum(), "b": layer.sum() * 5}, shared=[layer]).backward()
    # d log (h^2 . 1) / dh = 2 h / 2
    assert head.grad.tolist() == pytest.approx([1.0, 1.0], rel=1e-7)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_running_gradients_against_autograd(decay: float) -> None:
    draw = torch.Generator().manual_seed(0)
    layers = [torch.nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64)) for shape in ((4, 3), (3,))]
    heads = torch.randn(3, 3, generator=draw, dtype=torch.float64)
    balancer = DBMTL(beta=0.8, decay=decay)
    running = None
    for step in range(1, 6):
        inputs = torch.randn(6, 4, generator=draw, dtype=torch.float64)

        def losses(inputs: torch.Tensor = inputs) -> dict[str, torch.Tensor]:
            out = ((inputs @ layers[0]).tanh() * layers[1]) @ heads
            return {t: 10.0**k * (out[:, k] - 1).square().mean() for k, t in enumerate("abc")}

        logs = [(loss + 1e-8).log() for loss in losses().values()]
        pulls = [torch.autograd.grad(x, layers, retain_graph=True) for x in logs]
        found = torch.stack([torch.cat([g.flatten() for g in pull]) for pull in pulls])
        share = 0.8 / step**decay
        running = found if running is None else share * running + (1 - share) * found
        norms = running.norm(dim=1)
        expected = (norms.max() / norms) @ running
        for layer in layers:
            layer.grad = None
        balancer(losses(), shared=layers).backward()
        update = torch.cat([layer.grad.flatten() for layer in layers])
        torch.testing.assert_close(update, expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(balancer.averages, running, rtol=1e-10, atol=1e-13)


def test_at_a_representation_norms_are_averaged_by_hand() -> None:
    balancer = DBMTL(beta=0.5)
    for slopes, expected in (
        # Norms of the log-gradients 3 and 2.
        ({"a": [3.0, 0.0], "b": [0.0, 4.0]}, {"a": 1.0, "b": 1.5 / 2}),
        # 0.5 * 3 + 0.5 * 1 = 2 and 0.5 * 2 + 0.5 * 4 = 3.
        ({"a": [1.0, 0.0], "b": [8.0, 0.0]}, {"a": 1.5, "b": 1 / 2}),
    ):
        hidden = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
        balancer(linear(hidden, slopes, {"a": 1.0, "b": 2.0}), shared=hidden)
        assert balancer.last["weights"] == pytest.approx(expected, rel=1e-7)
    assert balancer.averages.shape == (2, 0), "no gradient is kept where the rows change"


def test_an_absent_task_keeps_its_average_and_is_in_the_maximum() -> None:
    balancer = DBMTL(tasks=["a", "b"], beta=0.5)
    at_parameters(balancer, {"a": [4.0, 0.0], "b": [0.0, 1.0]}, {"a": 1.0, "b": 1.0})
    update, _ = at_parameters(balancer, {"b": [0.0, 3.0]}, {"b": 1.0})
    # The average of b is (0, 2); it is made as long as a's, 4; a adds nothing.
    assert update == pytest.approx([0.0, 4.0], rel=1e-7)
    assert balancer.measured.tolist() == [1, 2]
    assert balancer.averages[0].tolist() == pytest.approx([4.0, 0.0], rel=1e-7)


def test_zero_losses_and_gradients() -> None:
    balancer = DBMTL()
    update, weights = at_parameters(balancer, {"a": [0.0, 0.0], "b": [0.0, 2.0]}, {"a": 0.0, "b": 1.0})
    assert update == pytest.approx([0.0, 2.0], rel=1e-7)
    assert weights["a"] == pytest.approx(1e8)
    fresh = DBMTL()
    assert at_parameters(fresh, {"a": [0.0, 0.0]}, {"a": 0.0})[0] == [0.0, 0.0]


def test_scoring_after_a_step_without_a_task_uses_its_last_weight() -> None:
    balancer = DBMTL(tasks=["a", "b"])
    at_parameters(balancer, {"a": [4.0, 0.0], "b": [0.0, 1.0]}, {"a": 4.0, "b": 2.0})
    at_parameters(balancer, {"b": [0.0, 3.0]}, {"b": 1.0})
    with torch.no_grad():
        total = balancer({"a": torch.tensor(8.0), "b": torch.tensor(3.0)})
    assert total.item() == pytest.approx(8 / 4 + 3, rel=1e-6)


def test_between_measurements_losses_are_weighed_by_the_lengths_last_known() -> None:
    balancer = DBMTL(every=2)
    at_parameters(balancer, {"a": [3.0, 0.0], "b": [0.0, 2.0]}, {"a": 1.0, "b": 1.0})
    _, weights = at_parameters(balancer, {"a": [9.0, 0.0], "b": [0.0, 2.0]}, {"a": 1.0, "b": 4.0})
    assert weights == pytest.approx({"a": 1.0, "b": 1.5 / 4}, rel=1e-7)


@pytest.mark.parametrize("order", [["a", "b"], ["b", "a"]])
def test_state_with_gradients_survives_and_follows_the_order_of_tasks(order: list[str]) -> None:
    slopes = {"a": [3.0, 1.0], "b": [0.0, 4.0]}
    half = DBMTL(tasks=["a", "b"])
    at_parameters(half, slopes, {"a": 1.0, "b": 2.0})
    resumed = DBMTL(tasks=order)
    resumed.load_state_dict(half.state_dict())
    assert resumed.averages.shape == (2, 2)
    following = {"a": [1.0, -1.0], "b": [2.0, 4.0]}
    expected = at_parameters(half, following, {"a": 3.0, "b": 1.0})
    found = at_parameters(resumed, following, {"a": 3.0, "b": 1.0})
    assert found[0] == pytest.approx(expected[0], rel=1e-14)
    assert found[1] == expected[1]
    unnamed = DBMTL()
    unnamed.load_state_dict(half.state_dict())
    torch.testing.assert_close(unnamed.averages, half.averages, rtol=0, atol=0)


def test_other_shared_parameters_are_refused() -> None:
    balancer = DBMTL()
    at_parameters(balancer, {"a": [3.0, 0.0]}, {"a": 1.0})
    layer = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    with pytest.raises(BalanceError, match="averages holds 2 numbers a task, but shared now has 3"):
        balancer({"a": layer.sum() + 1}, shared=[layer])


def test_a_negative_loss_is_refused() -> None:
    with pytest.raises(BalanceError, match=r"task 'a'.*zero or more"):
        at_parameters(DBMTL(), {"a": [3.0, 0.0]}, {"a": -1.0})


@pytest.mark.parametrize("settings", [{"beta": 1.0}, {"beta": "0.9"}, {"beta": None}, {"decay": -1}])
def test_unusable_settings_are_refused(settings: dict) -> None:
    with pytest.raises(BalanceError, match=f"{next(iter(settings))} must"):
        DBMTL(**settings)
