"""CoBa: the formulas from whole lists, what each score is for, and every trap of the method's first implementation."""

import numpy as np
import pytest
import torch

from equipoise.balance._coba import CoBa, coba_weights
from equipoise.errors import BalanceError

TASKS = ["a", "b", "c"]


def observe(balancer: CoBa, **losses: float) -> None:
    balancer.observe_validation({task: torch.tensor(loss, dtype=torch.float64) for task, loss in losses.items()})


def train(balancer: CoBa, tasks: list[str] = TASKS) -> dict[str, float]:
    balancer({task: torch.tensor(1.0, requires_grad=True, dtype=torch.float64) for task in tasks})
    return balancer.last["weights"]


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def reference(history: np.ndarray, steps: list[int], window: int, warmup: int, tau: float) -> np.ndarray:
    """The weights after a whole history `[tasks, observations]`, by lists and numpy's fit."""
    tasks, size = history.shape
    ratios = history / history[:, :1]
    slopes = np.array(
        [
            [np.polyfit(steps[max(0, t - window) : t], ratio[max(0, t - window) : t], 1)[0] for ratio in ratios]
            for t in range(warmup, size + 1)
        ]
    ).T
    now, count = slopes[:, -1], slopes.shape[1]
    relative = softmax(tasks * now / np.abs(now).sum())
    recent = slopes[:, -window:]
    absolute = softmax(-recent.shape[1] * now / np.abs(recent).sum(1))
    steepest = slopes.max(0)
    factor = min(1.0, count * softmax(-tau * count * steepest / np.abs(steepest).sum())[-1])
    return softmax(tasks * (factor * relative + (1 - factor) * absolute))


@pytest.mark.parametrize(("window", "warmup"), [(4, 2), (5, 5), (3, 7)])
@pytest.mark.parametrize("every", [1, 3])
def test_weights_are_the_formula_s_over_a_run(window: int, warmup: int, every: int) -> None:
    draw = np.random.default_rng(0)
    trend = np.array([-0.05, -0.01, 0.02])[:, None] * np.arange(25)
    history = np.exp(trend) * (1 + 0.05 * draw.random((3, 25))) * np.array([1.0, 10.0, 0.1])[:, None]
    balancer = CoBa(tasks=TASKS, window=window, warmup=warmup, every=every)
    steps: list[int] = []
    seen: list[np.ndarray] = []
    for step in range(25 * every):
        if step % every == 0:
            steps.append(step)
            seen.append(history[:, step // every])
            observe(balancer, **dict(zip(TASKS, seen[-1].tolist(), strict=True)))
        found = list(train(balancer).values())
        if len(seen) < warmup:
            assert found == pytest.approx([1 / 3] * 3)
        else:
            expected = reference(np.stack(seen, 1), steps, window, warmup, 5.0)
            assert found == pytest.approx(expected.tolist(), rel=1e-8)


def test_by_hand_the_first_balance() -> None:
    # One slope since the warm-up: t = 1, so D = min(1, softmax of one number) = 1 and w = softmax(K R).
    # Losses 4, 3, 2 and 4, 3.6, 3.2: slopes of the ratios -1/4 and -1/10, R = softmax(2 (-5/7), 2 (-2/7)).
    balancer = CoBa(tasks=["a", "b"], window=9, warmup=3)
    for a, b in ((4.0, 4.0), (3.0, 3.6), (2.0, 3.2)):
        observe(balancer, a=a, b=b)
        found = train(balancer, ["a", "b"])
    relative = softmax(2 * np.array([-5 / 7, -2 / 7]))
    assert list(found.values()) == pytest.approx(softmax(2 * relative).tolist(), rel=1e-12)
    assert found["b"] > found["a"], "the task that converges more slowly counts more"


def test_a_diverging_task_is_held_back() -> None:
    # b falls, then rises: the relative score alone would give it the most weight.
    slopes = torch.full((2, 30), -0.1, dtype=torch.float64)
    slopes[1, 20:] = torch.linspace(0.05, 0.5, 10)
    found = coba_weights(slopes, window=10, tau=5.0)
    assert found[1] < found[0]
    assert coba_weights(slopes[:, -1:], window=10, tau=5.0)[1] > found[1]


def test_the_divergence_factor_is_bounded() -> None:
    # Ever faster convergence gives t softmax > 1: unbounded, 1 - D would turn the absolute score round.
    slopes = -torch.linspace(0.1, 3, 20, dtype=torch.float64)[None] * torch.tensor([[1.0], [0.5]], dtype=torch.float64)
    raw = 20 * softmax(-5 * 20 * (-np.linspace(0.05, 1.5, 20)) / np.linspace(0.05, 1.5, 20).sum())[-1]
    assert raw > 1
    relative = softmax(2 * np.array([-2 / 3, -1 / 3]))
    expected = softmax(2 * relative)
    assert coba_weights(slopes, window=10, tau=5.0).tolist() == pytest.approx(expected.tolist())


def test_the_window_is_real() -> None:
    # What lies before the window must not matter for the slope.
    one, other = CoBa(tasks=["a"], window=3, warmup=2), CoBa(tasks=["a"], window=3, warmup=2)
    for early, balancer in ((5.0, one), (9.0, other)):
        for loss in (1.0, early, early / 2, 3.0, 2.5, 2.0):
            observe(balancer, a=loss)
            train(balancer, ["a"])
    assert one.slopes[0, -1].item() == pytest.approx(-0.5)
    assert other.slopes[0, -1].item() == pytest.approx(-0.5)


def test_a_batch_of_one_task_gets_its_weight_and_no_more() -> None:
    balancer = CoBa(tasks=TASKS, warmup=2)
    for scale in (1.0, 0.9, 0.7):
        observe(balancer, a=scale, b=2 * scale**2, c=3.0)
    whole = train(balancer)
    assert train(balancer, ["b"]) == {"b": whole["b"]}
    assert sum(whole.values()) == pytest.approx(1)


def test_a_task_absent_from_an_observation_keeps_its_slope() -> None:
    balancer = CoBa(tasks=["a", "b"], window=4, warmup=2)
    for loss in (1.0, 0.8, 0.6):
        observe(balancer, a=loss, b=loss)
        train(balancer, ["a", "b"])
    kept = balancer.slopes[1, -1].item()
    observe(balancer, a=0.4)
    train(balancer, ["a", "b"])
    assert balancer.slopes[:, -1].tolist() == pytest.approx([-0.2, kept])
    assert balancer.count.tolist() == [4, 3]
    observe(balancer, a=0.2, b=0.4)
    # Steps 0, 1, 2, 4 of b: the gap counts as two steps, so the line is bent by that.
    assert balancer.slopes[1, -1].item() == pytest.approx(np.polyfit([0, 1, 2, 4], [1, 0.8, 0.6, 0.4], 1)[0])


def test_flat_zero_and_never_seen_losses_give_finite_weights() -> None:
    balancer = CoBa(tasks=TASKS, warmup=2)
    for _ in range(4):
        observe(balancer, a=0.0, b=1.0)
        found = train(balancer)
        assert found == pytest.approx(dict.fromkeys(TASKS, 1 / 3))


def test_two_observations_in_one_step_have_no_slope_yet() -> None:
    balancer = CoBa(tasks=["a"], warmup=2)
    observe(balancer, a=2.0)
    observe(balancer, a=1.0)
    assert balancer.slopes.tolist() == [[0.0, 0.0]]


def test_resumes_exactly_with_its_whole_history_in_another_order() -> None:
    draw = torch.rand(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    whole = CoBa(tasks=TASKS, window=5, warmup=3)
    for row in draw[:12].tolist():
        observe(whole, **dict(zip(TASKS, row, strict=True)))
        train(whole)
    same, other = CoBa(window=5, warmup=3), CoBa(tasks=["c", "a", "b"], window=5, warmup=3)
    same.load_state_dict(whole.state_dict())
    other.load_state_dict(whole.state_dict())
    for row in draw[12:].tolist():
        for balancer in (whole, same, other):
            observe(balancer, **dict(zip(TASKS, row, strict=True)))
        found = train(whole)
        assert train(same) == found
        assert train(other) == pytest.approx(found, rel=1e-12)


def test_a_state_with_another_window_is_refused() -> None:
    whole = CoBa(tasks=["a"], window=5)
    observe(whole, a=1.0)
    with pytest.raises(BalanceError, match="the saved state has window=5, not window=6"):
        CoBa(window=6).load_state_dict(whole.state_dict())


def test_training_losses_play_no_role() -> None:
    one, other = CoBa(tasks=["a", "b"], warmup=2), CoBa(tasks=["a", "b"], warmup=2)
    for step in range(4):
        for balancer, factor in ((one, 1.0), (other, 100.0)):
            observe(balancer, a=1.0 - 0.1 * step, b=1.0)
            balancer({t: torch.tensor(factor, requires_grad=True, dtype=torch.float64) for t in ("a", "b")})
    assert one.last["weights"] == other.last["weights"]


def test_a_validation_loss_that_is_not_finite_names_its_task() -> None:
    with pytest.raises(BalanceError, match="task 'a'"):
        observe(CoBa(tasks=["a"]), a=float("nan"))


def test_needs_scale_and_settings() -> None:
    balancer = CoBa(tasks=["a", "b"], scale="tasks", every=7)
    assert balancer.requires == {"validation"}
    assert balancer.every == 7
    assert train(balancer, ["a", "b"]) == {"a": 1.0, "b": 1.0}
    for settings in ({"window": 1}, {"warmup": 0}, {"tau": 0}, {"every": 0}, {"scale": "k"}, {"tau": "5"}):
        with pytest.raises(BalanceError, match=next(iter(settings))):
            CoBa(**settings)
