"""What all methods from the Gramian share: what a solver is given, and what happens to tasks that are not in the solve."""

import math

import pytest
import torch
from jacobians import TASKS, draw, named, step

from equipoise.balance._gradients import measure
from equipoise.balance._gramian import GramianBalancer, nearest_correlations
from equipoise.balance._preferences import preferred
from equipoise.errors import BalanceError


class Seen(GramianBalancer):
    """Keeps what it was asked, and answers with 1, 2, 3, .."""

    scale_free = False

    def __init__(self, tasks: list[str] | None = None, **settings: object) -> None:
        super().__init__(tasks=tasks, **settings)
        self.asked: list[tuple[torch.Tensor, torch.Tensor, list[str]]] = []
        self.learned: list[tuple[list[str], list[bool]]] = []

    def solve(self, gramian, losses, rows):
        self.asked.append((gramian, losses, [self.tasks[row] for row in rows]))
        return torch.arange(1.0, len(rows) + 1, dtype=torch.float64)

    def learn(self, gramian, rows, fresh):
        self.learned.append(([self.tasks[row] for row in rows], fresh.tolist()))


def test_the_solver_gets_the_gramian_in_the_order_of_the_names() -> None:
    jacobian = draw(0, 3)
    balancer = Seen(["c", "a", "b"])
    weights = step(balancer, {"c": jacobian[2], "a": jacobian[0], "b": jacobian[1]})
    gramian, losses, names = balancer.asked[0]
    assert names == ["a", "b", "c"]
    torch.testing.assert_close(gramian, jacobian @ jacobian.T, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(losses, jacobian.sum(1), rtol=1e-14, atol=1e-14)
    assert weights == {"c": 3.0, "a": 1.0, "b": 2.0}
    assert len(balancer.asked) == 1, "what was solved by weigh is not solved again by observe"
    assert balancer.learned == [(["a", "b", "c"], [True, True, True])]


def test_a_scale_free_solver_gets_a_trace_near_one_without_a_digit_changed() -> None:
    balancer = Seen(["a", "b", "c"])
    balancer.scale_free = True
    jacobian = draw(1, 3, scale=1e-6)
    step(balancer, named(jacobian))
    gramian = balancer.asked[0][0]
    assert 0.5 <= gramian.trace() < 1
    power = math.log2((gramian[0, 0] / (jacobian[0] @ jacobian[0])).item())
    assert power == pytest.approx(round(power), abs=1e-12)


def test_an_absent_task_takes_part_with_its_last_known_norm_cosines_and_loss() -> None:
    jacobian = draw(2, 3)
    balancer = Seen(["a", "b", "c"])
    step(balancer, named(jacobian))
    other = draw(3, 3)
    weights = step(balancer, {"a": other[0], "c": other[2]})
    gramian, losses, names = balancer.asked[1]
    assert names == ["a", "b", "c"]
    norms = torch.stack([other[0].norm(), jacobian[1].norm(), other[2].norm()])
    torch.testing.assert_close(gramian.diagonal(), norms.square(), rtol=1e-13, atol=0)
    cosine = (jacobian[0] @ jacobian[1]) / jacobian[0].norm() / jacobian[1].norm()
    if torch.linalg.eigvalsh(gramian).min() > 1e-9:  # nothing had to be clipped
        torch.testing.assert_close(gramian[0, 1], cosine * norms[0] * norms[1], rtol=1e-12, atol=0)
        torch.testing.assert_close(gramian[0, 2], other[0] @ other[2], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(losses[1], jacobian[1].sum(), rtol=1e-14, atol=0)
    assert balancer.learned[1] == (["a", "b", "c"], [True, False, True])
    assert set(weights) == {"a", "c"}
    assert balancer.weights.tolist() == [1, 2, 3]


def test_cosines_of_different_batches_are_made_to_fit_together() -> None:
    balancer = Seen(["a", "b", "c"])
    step(balancer, {"a": [1.0, 0, 0], "b": [1.0, 1e-3, 0], "c": [1.0, 0, 1e-3]})  # all alike
    step(balancer, {"a": [2.0, 0, 0], "c": [-2.0, 0, 0]})  # now a and c are opposed, and b is not here
    gramian = balancer.asked[1][0]
    assert torch.linalg.eigvalsh(gramian).min() > -1e-12
    torch.testing.assert_close(gramian.diagonal().sqrt(), torch.tensor([2.0, 1.0, 2.0]).double(), rtol=1e-6, atol=0)
    assert gramian[0, 2] < 0


def test_nearest_correlations_leaves_a_valid_matrix_alone() -> None:
    rows = torch.nn.functional.normalize(draw(4, 3))
    valid = (rows @ rows.T).fill_diagonal_(1)
    assert nearest_correlations(valid) is valid


@pytest.mark.parametrize(
    ("scale", "weights"), [(None, [1.0, 2.0, 1.5]), ("one", [1.0, 2.0, 1.5]), ("tasks", [2, 4, 3])]
)
def test_a_task_without_gradient_gets_the_mean_of_the_others(scale: str | None, weights: list[float]) -> None:
    balancer = Seen(["a", "b", "c"], scale=scale)
    assert step(balancer, {"a": [1.0, 0], "b": [0, 1.0], "c": [0.0, 0]}) == dict(zip("abc", weights, strict=True))
    assert balancer.asked[0][2] == ["a", "b"]


def test_a_zero_gradient_is_forgotten_when_the_task_pulls_again() -> None:
    balancer = Seen(["a", "b"], smoothing=0.5)
    step(balancer, {"a": [2.0, 0], "b": [0, 4.0]})
    step(balancer, {"a": [2.0, 0], "b": [0, 0.0]})
    assert balancer.asked[1][2] == ["a"]
    assert balancer.norms.tolist() == [2, 4], "a zero gradient does not enter the average"
    step(balancer, {"a": [2.0, 0], "b": [0, 2.0]})
    assert balancer.asked[2][2] == ["a", "b"]
    assert balancer.norms.tolist() == [2, 3]


def test_a_norm_next_to_nothing_beside_the_largest_counts_as_zero() -> None:
    balancer = Seen(["a", "b"])
    step(balancer, {"a": [1.0, 0], "b": [0, 1e-9]})
    assert balancer.asked[0][2] == ["a"]


@pytest.mark.parametrize(("scale", "weight"), [(None, 1.0), ("one", 0.5), ("tasks", 1.0)])
def test_without_any_gradient_the_weights_are_equal(scale: str | None, weight: float) -> None:
    balancer = Seen(["a", "b"], scale=scale)
    assert step(balancer, {"a": [0.0, 0], "b": [0, 0.0]}) == {"a": weight, "b": weight}
    assert not balancer.asked
    assert balancer.initial_weights().tolist() == [weight, weight]


def test_smoothing_averages_norms_and_cosines() -> None:
    balancer = Seen(["a", "b"], smoothing=0.75)
    step(balancer, {"a": [1.0, 0], "b": [0, 1.0]})
    step(balancer, {"a": [5.0, 0], "b": [5.0, 0]})
    assert balancer.norms.tolist() == [2, 2]
    torch.testing.assert_close(balancer.asked[1][0], torch.tensor([[4.0, 1], [1, 4]]).double())


def test_every_keeps_the_weights_between() -> None:
    balancer = Seen(["a", "b"], every=3)
    for _ in range(4):
        assert step(balancer, {"a": [1.0, 0], "b": [0, 1.0]}) == {"a": 1.0, "b": 2.0}
    assert len(balancer.asked) == 2


def test_double_batch_solves_on_each_half() -> None:
    balancer = Seen(["a", "b"], double_batch=True)
    hidden = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
    sizes = torch.tensor([1.0, 2, 1, 2], dtype=torch.float64)
    balancer({"a": sizes * hidden[:, 0], "b": sizes * (hidden[:, 0] + hidden[:, 1])}, shared=hidden)
    odd, even = (asked[0] for asked in balancer.asked)  # the first half is weighed by what the second shows
    torch.testing.assert_close(odd, 4 * even, rtol=1e-12, atol=0)


def test_tasks_that_share_no_row_are_refused_until_they_have_met() -> None:
    balancer = Seen(["a", "b"])
    hidden = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    apart = {"a": hidden[0].sum(), "b": hidden[1].sum()}
    with pytest.raises(
        BalanceError, match=r"tasks 'a' and 'b' share no row.*balance\.shared: last_layer, adapter or all"
    ):
        balancer(apart, shared=hidden)
    step(balancer, {"a": [1.0, 0], "b": [1.0, 1]})
    hidden = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    balancer({"a": hidden[0].sum(), "b": hidden[1].sum()}, shared=hidden)
    gramian = balancer.asked[-1][0]
    assert gramian[0, 1].item() == pytest.approx(2 * 2**-0.5, rel=1e-12)


def test_tasks_that_never_met_in_one_batch_have_cosine_zero() -> None:
    balancer = Seen(["a", "b"])
    for rows in ({"a": [1.0, 0]}, {"b": [1.0, 0]}):
        step(balancer, rows)
    assert balancer.asked[1][0].tolist() == [[1, 0], [0, 1]]


def test_weights_that_are_not_finite_are_an_error() -> None:
    class Broken(Seen):
        def solve(self, gramian, losses, rows):
            return torch.full((len(rows),), torch.nan)

    with pytest.raises(BalanceError, match="Broken found no finite weights"):
        step(Broken(["a", "b"]), {"a": [1.0, 0], "b": [0, 1.0]})


def test_state_follows_the_order_of_the_tasks() -> None:
    one = Seen(["a", "b", "c"])
    step(one, named(draw(5, 3)))
    other = Seen(["c", "a", "b"])
    other.load_state_dict(one.state_dict())
    rows = draw(6, 3)
    for balancer in (one, other):
        step(balancer, {"a": rows[0], "c": rows[2]})
    torch.testing.assert_close(one.asked[-1][0], other.asked[-1][0], rtol=1e-13, atol=1e-13)
    assert other.extra_repr() == "tasks=['c', 'a', 'b']"


def test_it_uses_the_cosines_of_measure() -> None:
    jacobian = draw(7, 2)
    hidden = torch.ones(1, 7, dtype=torch.float64, requires_grad=True)
    found = measure([(hidden[0] * row).sum() for row in jacobian], hidden)
    balancer = Seen(["a", "b"])
    step(balancer, named(jacobian))
    torch.testing.assert_close(balancer.cosines, found.cosines, rtol=1e-14, atol=0)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, "0.9", True])
def test_settings_out_of_range(smoothing: object) -> None:
    with pytest.raises(BalanceError, match="smoothing must be a number"):
        Seen(TASKS, smoothing=smoothing)


def test_preferences() -> None:
    assert preferred(None, ["a"], [0]) is None
    with pytest.raises(BalanceError, match="preferences name no task 'x'"):
        preferred({"x": 1.0}, ["a"], [0])
    with pytest.raises(BalanceError, match="preferences lack a number for b"):
        preferred({"a": 1.0}, ["a", "b"], [0])
