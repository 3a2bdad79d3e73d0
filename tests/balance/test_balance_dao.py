"""DAO: the paper's two-task formula, every property that follows from it, and each choice that is ours."""

import statistics

import pytest
import torch

from equipoise.balance import DAO
from equipoise.errors import BalanceError

TASKS = ["r", "c", "e"]


def pull(norms: dict[str, float], rows: int = 1) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Losses whose gradients at the representation have exactly these norms, each along an axis of its own."""
    hidden = torch.ones(rows, len(norms), dtype=torch.float64, requires_grad=True)
    return {task: hidden[0, k] * norm for k, (task, norm) in enumerate(norms.items())}, hidden


def weights(balancer: DAO, norms: dict[str, float]) -> dict[str, float]:
    losses, hidden = pull(norms)
    balancer(losses, shared=hidden)
    return balancer.last["weights"]


def network() -> tuple[torch.nn.Parameter, dict[str, torch.Tensor], torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    backbone = torch.nn.Parameter(torch.randn(4, 3, generator=draw, dtype=torch.float64))
    hidden = torch.randn(8, 4, generator=draw, dtype=torch.float64) @ backbone
    heads = torch.randn(3, 3, generator=draw, dtype=torch.float64)
    out = hidden @ heads
    return backbone, {"r": out[:, 0].square(), "c": out[:, 1].sigmoid(), "e": (out[:, 2] - 5).square()}, hidden


def update(balancer: DAO, factor: float = 1.0) -> torch.Tensor:
    backbone, losses, hidden = network()
    losses["c"] = losses["c"] * factor
    balancer(losses, shared=hidden).backward()
    return backbone.grad


# Known from the paper, and "Follows" 1 to 9 of what was derived -----------------------------------------------------


def test_the_paper_s_formula_for_two_tasks() -> None:
    found = weights(DAO(scale="one"), {"r": 3.0, "c": 1.0})
    assert found == pytest.approx({"r": 1 / (3 + 1), "c": 3 / (3 + 1)}, rel=1e-15)


def test_follows_1_any_number_of_tasks_against_autograd() -> None:
    _, losses, hidden = network()
    balancer = DAO(scale="one")
    balancer(losses, shared=hidden)
    _, losses, hidden = network()
    norms = {t: torch.autograd.grad(x.mean(), hidden, retain_graph=True)[0].norm().item() for t, x in losses.items()}
    total = sum(1 / norm for norm in norms.values())
    assert balancer.last["norms"] == pytest.approx(norms, rel=1e-14)
    assert balancer.last["weights"] == pytest.approx({t: 1 / norm / total for t, norm in norms.items()}, rel=1e-14)


def test_follows_2_every_task_pushes_alike_and_no_harder_than_the_weakest() -> None:
    norms = {"r": 5.0, "c": 0.1, "e": 2.0}
    found = weights(DAO(scale="one"), norms)
    pushes = [found[task] * norms[task] for task in TASKS]
    assert pushes == pytest.approx([1 / sum(1 / n for n in norms.values())] * 3, rel=1e-14)
    assert pushes[0] <= 0.1


@pytest.mark.parametrize("smoothing", [None, 0.9])
def test_follows_2_a_task_without_gradient_does_not_stop_the_others(smoothing: float | None) -> None:
    balancer = DAO(scale="one", smoothing=smoothing)
    weights(balancer, {"r": 2.0, "c": 2.0, "e": 1.0})
    for _ in range(300):
        found = weights(balancer, {"r": 1.0, "c": 1.0, "e": 0.0})
    assert found["r"] == pytest.approx(0.5)
    assert found["c"] == pytest.approx(0.5)
    assert found["e"] == pytest.approx(0.5), "the weight of the median norm, so that it can come back"
    assert weights(balancer, {"r": 1.0, "c": 1.0, "e": 1.0})["e"] == pytest.approx(1 / 3, rel=0.2)


def test_follows_2_epsilon_is_a_share_of_the_largest_norm() -> None:
    assert weights(DAO(epsilon=1e-3, scale="one"), {"r": 1.0, "c": 2e-3})["r"] < 0.01
    assert weights(DAO(epsilon=1e-3, scale="one"), {"r": 1.0, "c": 5e-4}) == pytest.approx({"r": 1.0, "c": 1.0})
    assert weights(DAO(epsilon=1e-3), {"r": 1e-20, "c": 1e-20}) == pytest.approx({"r": 1.0, "c": 1.0})


def test_follows_2_the_floor_bounds_how_far_a_fading_task_slows_the_others() -> None:
    norms = {"r": 1.0, "c": 1.0, "e": 1e-6}
    free, floored = weights(DAO(scale="one"), norms), weights(DAO(scale="one", floor=0.1), norms)
    assert free["r"] < 1e-5
    assert floored == pytest.approx({"r": 1 / 12, "c": 1 / 12, "e": 10 / 12})


def test_follows_2_the_floor_works_for_two_tasks() -> None:
    # Median of 0.001 and 1 is their midpoint, 0.5005; a tenth of it is the least that counts.
    least = 0.05005
    found = weights(DAO(scale="one", floor=0.1), {"r": 1.0, "c": 0.001})
    assert found == pytest.approx({"r": least / (1 + least), "c": 1 / (1 + least)}, rel=1e-12)


def test_own_floor_compares_a_task_with_its_own_past() -> None:
    balancer = DAO(scale="one", own_floor=0.5)
    # Norms far apart in unlike units are no sign of a solved task: nothing binds.
    assert weights(balancer, {"r": 100.0, "c": 1.0}) == pytest.approx({"r": 1 / 101, "c": 100 / 101}, rel=1e-12)
    # The mean so far of c is 1; it counts as 0.5 although it fell to 0.001. After that step its mean is 0.5005.
    assert weights(balancer, {"r": 100.0, "c": 0.001}) == pytest.approx({"r": 0.5 / 100.5, "c": 100 / 100.5}, rel=1e-12)
    expected = 0.5 * (1 + 0.001) / 2
    found = weights(balancer, {"r": 100.0, "c": 0.001})
    assert found["c"] == pytest.approx(100 / (100 + expected), rel=1e-12)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_own_floor_does_not_see_the_unit_of_a_loss(factor: float) -> None:
    plain, scaled = DAO(own_floor=0.5), DAO(own_floor=0.5)
    for norms in ({"r": 3.0, "c": 1.0}, {"r": 2.0, "c": 0.01}, {"r": 2.5, "c": 0.02}):
        first = weights(plain, norms)
        second = weights(scaled, norms | {"c": norms["c"] * factor})
    push = {"r": second["r"] * 2.5, "c": second["c"] * 0.02 * factor}
    assert push["c"] / push["r"] == pytest.approx(first["c"] * 0.02 / (first["r"] * 2.5), rel=1e-10)


def test_follows_3_scale() -> None:
    one, tasks = DAO(scale="one"), DAO()
    norms = {"r": 1.0, "c": 4.0, "e": 2.0}
    assert sum(weights(one, norms).values()) == pytest.approx(1.0, rel=1e-15)
    assert sum(weights(tasks, norms).values()) == pytest.approx(3.0, rel=1e-15)
    assert weights(tasks, dict.fromkeys(TASKS, 2.0)) == pytest.approx(dict.fromkeys(TASKS, 1.0))


@pytest.mark.parametrize("factor", [1e-6, 0.01, 7.0, 1e6])
def test_follows_4_with_one_loss_rescaled_its_push_keeps_direction_and_share(factor: float) -> None:
    plain, scaled = update(DAO(scale="one")), update(DAO(scale="one"), factor)
    cosine = torch.nn.functional.cosine_similarity(plain.flatten(), scaled.flatten(), dim=0)
    assert cosine.item() == pytest.approx(1.0, abs=1e-12)


def test_follows_4_size_of_the_update_is_that_of_the_harmonic_mean() -> None:
    # The common push is 1 / sum_j (1 / n_j), so rescaling one loss changes the size by the ratio of these, as derived.
    _, losses, hidden = network()
    balancer = DAO(scale="one")
    balancer(losses, shared=hidden)
    norms = balancer.last["norms"]
    before = 1 / sum(1 / n for n in norms.values())
    after = 1 / sum(1 / (n * (7 if task == "c" else 1)) for task, n in norms.items())
    ratio = update(DAO(scale="one"), 7.0).norm() / update(DAO(scale="one")).norm()
    assert ratio.item() == pytest.approx(after / before, rel=1e-12)


def test_follows_5_no_gradient_flows_through_lambda() -> None:
    backbone, losses, hidden = network()
    balancer = DAO()
    balancer(losses, shared=hidden).backward()
    found = backbone.grad.clone()
    fixed = balancer.last["weights"]
    backbone, losses, _ = network()
    sum(fixed[task] * loss.mean() for task, loss in losses.items()).backward()
    torch.testing.assert_close(found, backbone.grad, rtol=1e-12, atol=0)


def test_follows_6_a_scalar_data_weight_survives_the_balancing() -> None:
    hidden = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
    losses = {"r": 9 * hidden[:, 0], "c": 0.1 * hidden[:, 1]}
    targets = {"r": torch.tensor([0, 0, 0, 1]), "c": torch.tensor([0, 0, 1, 1])}
    balancer = DAO(data_weights="entropy")
    loss = balancer(losses, shared=hidden, targets=targets)
    data = balancer.last["data_weights"]
    (gradient,) = torch.autograd.grad(loss, hidden)
    ratio = gradient[:, 0].norm() / gradient[:, 1].norm()
    assert data["r"] < data["c"]
    assert ratio.item() == pytest.approx(data["r"] / data["c"], rel=1e-12)
    assert balancer.last["weights"]["r"] == pytest.approx(balancer.weights[0].item() * data["r"], rel=1e-15)


def test_follows_7_running_average_of_norms() -> None:
    balancer = DAO(scale="one", smoothing=0.75)
    assert weights(balancer, {"r": 1.0, "c": 1.0}) == pytest.approx({"r": 0.5, "c": 0.5})
    # r: 0.75 * 1 + 0.25 * 9 = 3; c stays 1.
    assert weights(balancer, {"r": 9.0, "c": 1.0}) == pytest.approx({"r": 0.25, "c": 0.75})
    assert balancer.last["norms"] == {"r": 9.0, "c": 1.0}, "the log tells what was measured"


def test_follows_7_double_batch_weighs_each_half_by_the_other() -> None:
    # Even rows pull r by 1 and c by 1 each, odd rows by 3 and 1.
    hidden = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
    slope = torch.tensor([1.0, 3.0, 1.0, 3.0], dtype=torch.float64)
    losses = {"r": slope * hidden[:, 0], "c": hidden[:, 1] * 1}
    balancer = DAO(scale="one", double_batch=True)
    loss = balancer(losses, shared=hidden)
    (gradient,) = torch.autograd.grad(loss, hidden)
    # Even rows are weighed by the odd ones, (1/4, 3/4), and odd rows by the even ones, (1/2, 1/2); each row is 1/4 of
    # its task's mean.
    expected = torch.tensor([[0.25, 0.75], [3 * 0.5, 0.5], [0.25, 0.75], [3 * 0.5, 0.5]], dtype=torch.float64) / 4
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=0)
    assert balancer.last["weights"] == pytest.approx({"r": 0.375, "c": 0.625})
    assert balancer.last["norms"] == pytest.approx({"r": 2 / 2**0.5, "c": 1 / 2**0.5})


def test_follows_7_double_batch_makes_a_weight_independent_of_the_noise_it_multiplies() -> None:
    draw = torch.Generator().manual_seed(0)
    plain, crossed = [], []
    for _ in range(300):
        slope = torch.randn(2, generator=draw, dtype=torch.float64).exp()
        for balancer, found in ((DAO(scale="one"), plain), (DAO(scale="one", double_batch=True), crossed)):
            hidden = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
            loss = balancer({"r": slope * hidden[:, 0], "c": hidden[:, 1] * 1.0}, shared=hidden)
            (gradient,) = torch.autograd.grad(loss, hidden)
            # How the weight that row 0 of r got moves with the pull of that row.
            found.append((slope[0].item(), gradient[0, 0].item() / slope[0].item()))
    assert statistics.correlation(*zip(*plain, strict=True)) < -0.3
    assert abs(statistics.correlation(*zip(*crossed, strict=True))) < 0.15


def test_double_batch_of_single_examples_and_scalars() -> None:
    hidden = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    balancer = DAO(scale="one", double_batch=True)
    balancer({"r": 3 * hidden[:, 0], "c": hidden[:, 1] * 1}, shared=hidden).backward()
    assert balancer.last["weights"] == pytest.approx({"r": 0.25, "c": 0.75})
    losses, hidden = pull({"r": 1.0, "c": 2.0})
    with pytest.raises(BalanceError, match="task 'r': double_batch needs one loss per example"):
        balancer(losses, shared=hidden)


def test_follows_8_ratio_of_norms_at_representation_and_at_parameters_differ() -> None:
    # dL/dW = x^T dL/dh: rows of equal pull at h weigh by their inputs at W, so the two ratios are two measurements.
    weight = torch.nn.Parameter(torch.eye(2, dtype=torch.float64))
    rows = torch.tensor([[10.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    hidden = rows @ weight
    losses = {"r": hidden[0].sum(), "c": hidden[1].sum()}
    at_hidden, at_weight = DAO(scale="one"), DAO(scale="one")
    at_hidden(losses, shared=hidden)
    at_weight(losses, shared=[weight])
    assert at_hidden.last["weights"] == pytest.approx({"r": 0.5, "c": 0.5})
    assert at_weight.last["weights"] == pytest.approx({"r": 1 / 11, "c": 10 / 11})


def test_follows_9_disjoint_rows_have_no_cosine_at_a_representation_but_at_parameters() -> None:
    weight = torch.nn.Parameter(torch.eye(2, dtype=torch.float64))
    hidden = torch.ones(2, 2, dtype=torch.float64) @ weight
    losses = {"r": hidden[0].sum(), "c": -hidden[1].sum()}
    balancer = DAO()
    balancer(losses, shared=hidden)
    assert balancer.last["cosines"] == {}
    balancer = DAO()
    balancer.needs_angles = (
        True  # what costs nothing at a representation is left out at parameters unless it is asked for
    )
    losses = {"r": hidden[0].sum(), "c": -hidden[1].sum()}
    balancer(losses, shared=[weight])
    assert balancer.last["cosines"] == {"r|c": pytest.approx(-1.0)}


# Ours -----------------------------------------------------------------------------------------------------------------


def test_an_absent_task_keeps_its_norm_in_the_sum() -> None:
    balancer = DAO(scale="one", tasks=["r", "c"])
    weights(balancer, {"r": 3.0, "c": 1.0})
    assert weights(balancer, {"r": 3.0}) == pytest.approx({"r": 0.25}), "not 1: a lone task would escape the balance"


def test_a_task_never_seen_is_not_in_the_sum_until_it_comes() -> None:
    balancer = DAO(tasks=TASKS)
    assert weights(balancer, {"r": 3.0, "c": 1.0}) == pytest.approx({"r": 0.5, "c": 1.5})
    assert balancer.weights.tolist() == pytest.approx([0.5, 1.5, 0.75]), "e has the weight of the median norm, 2"
    assert sum(weights(balancer, {"r": 3.0, "c": 1.0, "e": 1.0}).values()) == pytest.approx(3.0)


def test_every_measures_each_n_steps_and_keeps_the_norms_between() -> None:
    balancer = DAO(scale="one", every=3)
    found = [weights(balancer, {"r": float(step), "c": 1.0})["r"] for step in (1, 2, 3, 4)]
    assert found == pytest.approx([0.5, 0.5, 0.5, 0.2])


def test_resuming_keeps_the_rhythm_of_every() -> None:
    balancer = DAO(every=2, tasks=["r", "c"])
    weights(balancer, {"r": 1.0, "c": 1.0})
    resumed = DAO(every=2, tasks=["r", "c"])
    resumed.load_state_dict(balancer.state_dict())
    assert weights(resumed, {"r": 9.0, "c": 1.0}) == pytest.approx({"r": 1.0, "c": 1.0})
    assert weights(resumed, {"r": 3.0, "c": 1.0}) == pytest.approx({"r": 0.5, "c": 1.5})


def test_tiny_and_huge_norms_do_not_overflow() -> None:
    hidden = torch.ones(1, 2, requires_grad=True)
    balancer = DAO(scale="one", epsilon=0.0)
    balancer({"r": hidden[0, 0] * 1e-18, "c": hidden[0, 1] * 1e18}, shared=hidden)
    assert balancer.last["weights"] == pytest.approx({"r": 1.0, "c": 0.0})
    assert all(weight == weight for weight in balancer.last["weights"].values())


def test_a_gradient_that_is_not_finite_names_its_task() -> None:
    hidden = torch.zeros(1, 2, requires_grad=True)
    losses = {"r": hidden[0, 0].sqrt(), "c": hidden[0, 1] * 1}
    with pytest.raises(BalanceError, match="task 'r': the gradient at shared is not finite"):
        DAO()(losses, shared=hidden)
    balancer = DAO(on_nonfinite="skip")
    assert balancer(losses, shared=hidden).isfinite()
    assert balancer.skipped == {"r": 1, "c": 0}


def test_what_is_missing_is_named() -> None:
    losses, hidden = pull({"r": 1.0, "c": 1.0})
    with pytest.raises(BalanceError, match="DAO needs shared"):
        DAO()(losses)
    with pytest.raises(BalanceError, match="no loss depends on shared"):
        DAO()(losses, shared=torch.ones(1, 2, requires_grad=True))
    with pytest.raises(BalanceError, match="data_weights need targets"):
        DAO(data_weights="entropy")(losses, shared=hidden)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"smoothing": 1.0}, "smoothing must lie in"),
        ({"every": 0}, "whole number N >= 1"),
        ({"scale": "sum"}, "scale must be one of"),
        ({"epsilon": -1.0}, "epsilon must lie in"),
        ({"floor": 2.0}, "floor must lie in"),
        ({"data_weights": "inverse_frequnecy"}, r"no data weights.*Did you mean 'inverse_frequency'\?"),
        ({"data_weights": "entropy", "data_exponent": 2.0}, "data_exponent must lie in"),
        ({"data_weights": "entropy", "data_smoothing": 1.0}, "data_smoothing must lie in"),
        ({"data_weights": {"x": "entropy"}, "tasks": ["r"]}, "no task 'x'"),
    ],
)
def test_unusable_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(BalanceError, match=message):
        DAO(**settings)


def test_needs_follow_from_settings() -> None:
    assert DAO().requires == {"shared"}
    assert DAO(data_weights="entropy").requires == {"shared", "targets"}
    assert DAO(task_level=False).requires == set()
    assert DAO(task_level=False, data_weights="entropy").requires == {"targets"}


@pytest.mark.parametrize("scale", ["one", "tasks"])
@pytest.mark.parametrize("settings", [{}, {"double_batch": True, "floor": 0.5, "smoothing": 0.5, "every": 3}])
def test_without_the_task_level_the_data_weights_act_alone(scale: str, settings: dict) -> None:
    whole = DAO(data_weights="inverse_frequency", tasks=["r", "c"])
    alone = DAO(data_weights="inverse_frequency", tasks=["r", "c"], task_level=False, scale=scale, **settings)
    equal = {"one": 0.5, "tasks": 1.0}[scale]
    for _ in range(3):
        hidden = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
        losses = {"r": 9 * hidden[:, 0], "c": 0.1 * hidden[:, 1]}
        targets = {"r": torch.tensor([0, 0, 0, 1]), "c": torch.tensor([0, 0, 1, 1])}
        whole(losses, shared=hidden, targets=targets)
        (gradient,) = torch.autograd.grad(alone(losses, targets=targets), hidden)
    assert alone.weights.tolist() == [equal, equal]
    assert alone.last["norms"] == {}
    # A rare example of r pulls by more than a frequent one, and by as much more as under the whole method.
    assert gradient[3, 0] > 1.5 * gradient[0, 0]
    assert gradient[0, 1].item() == pytest.approx(equal * 0.1 / 4, rel=1e-9)
    assert alone.last["data_weights"] == whole.last["data_weights"]
    assert whole.last["weights"]["r"] < whole.last["weights"]["c"]


def test_without_the_task_level_an_absent_task_changes_nothing() -> None:
    balancer = DAO(task_level=False, tasks=TASKS)
    losses, _ = pull({"r": 5.0})
    assert balancer(losses).item() == pytest.approx(5.0)
    assert balancer.weights.tolist() == [1.0, 1.0, 1.0]


def test_repr_shows_what_differs_from_the_defaults() -> None:
    assert repr(DAO(tasks=["r"], floor=0.1, scale="one")) == "DAO(tasks=['r'], scale='one', floor=0.1)"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("task_level", "no"),
        ("task_level", 0),
        ("smoothing", "0.9"),
        ("smoothing", True),
        ("epsilon", "small"),
        ("epsilon", None),
        ("floor", [0.1]),
        ("own_floor", "half"),
        ("data_exponent", "1"),
        ("data_exponent", None),
        ("data_smoothing", [0.9]),
        ("data_weights", ["entropy"]),
        ("data_weights", 1),
    ],
)
@pytest.mark.parametrize("data_weights", [None, "entropy"])
def test_settings_of_a_wrong_type_are_refused(setting: str, value: object, data_weights: str | None) -> None:
    with pytest.raises(BalanceError, match=rf"^{setting} must be "):
        DAO(**({"data_weights": data_weights} | {setting: value}))
