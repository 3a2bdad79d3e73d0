"""The contract: what every registered method must do. A new method is tested here by being registered."""

import io

import pytest
import torch

from equipoise.balance import Balancer, available, create
from equipoise.errors import BalanceError

TASKS = ["polarity", "label", "emotion"]
# Only what a method cannot be built without.
REQUIRED = {"fixed": lambda tasks: {"weights": {task: 1.0 + TASKS.index(task) for task in tasks}}}

METHODS = pytest.mark.parametrize("method", sorted(available()))


def build(method: str, tasks: list[str] = TASKS, **settings: object) -> Balancer:
    return create(method, tasks, **REQUIRED.get(method, lambda tasks: {})(tasks), **settings)


class Toy:
    """A backbone of one matrix and one linear head a task, in float64 unless told."""

    def __init__(self, tasks: list[str] = TASKS, dtype: torch.dtype = torch.float64) -> None:
        # Drawn per name, so that the order of the tasks changes nothing else.
        self.backbone = torch.nn.Parameter(self.draw(0, 5, 4).to(dtype))
        self.heads = {task: self.draw(1 + TASKS.index(task), 4).to(dtype).requires_grad_() for task in tasks}

    @staticmethod
    def draw(seed: int, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def losses(self, step: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        hidden = self.draw(100 + step, 6, 5).to(self.backbone) @ self.backbone  # [n, d]
        return {task: (10.0**k * (hidden @ head - 1)) ** 2 for k, (task, head) in enumerate(self.heads.items())}, hidden

    def shuffled(self, order: list[str], step: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        losses, hidden = self.losses(step)
        return {task: losses[task] for task in order}, hidden


def run(balancer: Balancer, steps: range, toy: Toy | None = None) -> list[dict[str, float]]:
    toy = toy or Toy()
    weights = []
    for step in steps:
        losses, hidden = toy.losses(step)
        if step % 3 == 1:
            del losses["label"]
        balancer(losses, shared=hidden)
        weights.append(balancer.last["weights"])
    return weights


@METHODS
def test_backward_is_the_weighted_sum_of_gradients(method: str) -> None:
    toy = Toy()
    balancer = build(method)
    losses, hidden = toy.losses()
    balancer(losses, shared=hidden).backward()
    weights = balancer.last["weights"]
    assert set(weights) == set(TASKS)

    reference = Toy()
    losses, _ = reference.losses()
    sum(weights[task] * loss.mean() for task, loss in losses.items()).backward()
    torch.testing.assert_close(toy.backbone.grad, reference.backbone.grad, rtol=1e-10, atol=0)
    for task in TASKS:
        torch.testing.assert_close(toy.heads[task].grad, reference.heads[task].grad, rtol=1e-10, atol=0)


@METHODS
def test_value_is_the_weighted_sum_of_losses(method: str) -> None:
    losses, hidden = Toy().losses()
    balancer = build(method)
    total = balancer(losses, shared=hidden)
    last = balancer.last
    assert total.shape == ()
    assert total.item() == pytest.approx(sum(last["weights"][t] * last["losses"][t] for t in TASKS), rel=1e-12)
    assert last["losses"] == pytest.approx({task: loss.mean().item() for task, loss in losses.items()}, rel=1e-12)


@METHODS
def test_state_round_trip_gives_the_next_ten_weights_to_the_bit(method: str) -> None:
    whole = build(method)
    expected = run(whole, range(14))[4:]

    half = build(method)
    run(half, range(4))
    assert all(isinstance(value, torch.Tensor) for value in half.state_dict().values())
    stored = io.BytesIO()
    torch.save(half.state_dict(), stored)
    stored.seek(0)
    resumed = build(method)
    resumed.load_state_dict(torch.load(stored, weights_only=True))
    assert run(resumed, range(4, 14)) == expected


@METHODS
def test_state_survives_safetensors_and_another_order_of_tasks(method: str, tmp_path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    half = build(method)
    run(half, range(4))
    safetensors.save_file(half.state_dict(), str(tmp_path / "state.safetensors"))
    resumed = build(method, ["emotion", "polarity", "label"])
    resumed.load_state_dict(safetensors.load_file(str(tmp_path / "state.safetensors")))
    assert resumed.weights.tolist() == [half.weights[TASKS.index(task)].item() for task in resumed.tasks]
    toy = Toy()
    losses, hidden = toy.losses(4)
    half(losses, shared=hidden)
    resumed(losses, shared=hidden)
    assert resumed.last["weights"] == pytest.approx(half.last["weights"], rel=1e-12)


@METHODS
def test_order_of_tasks_does_not_matter(method: str) -> None:
    order = ["emotion", "polarity", "label"]
    one, other = build(method), build(method, order)
    for step in range(3):
        losses, hidden = Toy().losses(step)
        one(losses, shared=hidden)
        losses, hidden = Toy().shuffled(order, step)
        other(losses, shared=hidden)
        assert other.last["weights"] == pytest.approx(one.last["weights"], rel=1e-12)


@METHODS
@pytest.mark.parametrize("absent", ["no name", "no example"])
def test_an_absent_task_adds_nothing(method: str, absent: str) -> None:
    toy = Toy()
    balancer = build(method)
    losses, hidden = toy.losses()
    if absent == "no name":
        del losses["label"]
    else:
        losses["label"] = losses["label"][:0]
    total = balancer(losses, shared=hidden)
    total.backward()
    assert set(balancer.last["weights"]) == {"polarity", "emotion"}
    assert total.isfinite()
    assert toy.heads["label"].grad is None or not toy.heads["label"].grad.any()


@METHODS
def test_a_single_task_trains(method: str) -> None:
    toy = Toy(["polarity"])
    losses, hidden = toy.losses()
    balancer = build(method, ["polarity"])
    balancer(losses, shared=hidden).backward()
    assert balancer.last["weights"]["polarity"] > 0
    assert toy.backbone.grad.abs().sum() > 0


@METHODS
def test_zero_losses_and_gradients_give_no_nan(method: str) -> None:
    toy = Toy()
    balancer = build(method)
    for solved in (["label"], TASKS):
        losses, hidden = toy.losses()
        losses.update({task: (hidden @ toy.heads[task]) * 0 for task in solved})
        total = balancer(losses, shared=hidden)
        total.backward()
        assert total.isfinite()
        assert all(torch.isfinite(torch.tensor(w)) for w in balancer.last["weights"].values())
        assert set(balancer.last["weights"]) == set(TASKS)
        assert toy.backbone.grad.isfinite().all()


@METHODS
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_its_task_and_changes_no_state(method: str, value: float) -> None:
    balancer = build(method)
    run(balancer, range(2))
    before = {name: tensor.clone() for name, tensor in balancer.state_dict().items()}
    losses, hidden = Toy().losses()
    losses["label"] = losses["label"] * value
    with pytest.raises(BalanceError, match="task 'label': the loss is not finite"):
        balancer(losses, shared=hidden)
    torch.testing.assert_close(dict(balancer.state_dict()), before, rtol=0, atol=0)


@METHODS
def test_a_loss_that_is_not_finite_can_be_skipped(method: str, caplog) -> None:
    toy = Toy()
    balancer = build(method, on_nonfinite="skip")
    losses, hidden = toy.losses()
    losses["label"] = losses["label"] * float("nan")
    balancer(losses, shared=hidden).backward()
    assert toy.backbone.grad.isfinite().all()
    assert set(balancer.last["weights"]) == {"polarity", "emotion"}
    assert balancer.skipped == {"polarity": 0, "label": 1, "emotion": 0}
    assert "task 'label'" in caplog.text


@METHODS
def test_bfloat16_autocast_agrees_within_rounding(method: str) -> None:
    exact, rounded = build(method), build(method)
    losses, hidden = Toy(dtype=torch.float32).losses()
    exact(losses, shared=hidden)
    toy = Toy(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, hidden = toy.losses()
        total = rounded(losses, shared=hidden)
    assert hidden.dtype == torch.bfloat16
    assert total.dtype == torch.float32
    total.backward()
    assert toy.backbone.grad.isfinite().all()
    assert rounded.last["weights"] == pytest.approx(exact.last["weights"], rel=0.05)


@METHODS
def test_accumulated_gradients_are_the_sum_of_the_steps(method: str) -> None:
    both, apart, total = Toy(), build(method), build(method)
    for step in range(2):
        losses, hidden = both.losses(step)
        total(losses, shared=hidden).backward()
    expected = torch.zeros_like(both.backbone)
    for step in range(2):
        toy = Toy()
        losses, hidden = toy.losses(step)
        apart(losses, shared=hidden).backward()
        expected += toy.backbone.grad
    torch.testing.assert_close(both.backbone.grad, expected, rtol=1e-12, atol=0)


@METHODS
def test_weights_are_constants_of_the_step(method: str) -> None:
    toy = Toy()
    losses, hidden = toy.losses()
    balancer = build(method)
    total = balancer(losses, shared=hidden)
    (pull,) = torch.autograd.grad(total, losses["label"])
    weight = balancer.last["weights"]["label"]
    torch.testing.assert_close(pull, torch.full_like(pull, weight / len(pull)), rtol=1e-12, atol=0)
    assert not balancer.weights.requires_grad


@METHODS
def test_evaluation_uses_the_last_weights_and_changes_nothing(method: str) -> None:
    balancer = build(method)
    run(balancer, range(3))
    before = {name: tensor.clone() for name, tensor in balancer.state_dict().items()}
    last = balancer.last
    with torch.no_grad():
        losses, _ = Toy().losses(9)
        total = balancer(losses)
    means = torch.stack([losses[task].mean() for task in TASKS])
    torch.testing.assert_close(total, (before["weights"].to(means) * means).sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(dict(balancer.state_dict()), before, rtol=0, atol=0)
    assert balancer.last == last


@METHODS
def test_scoring_before_the_first_step_works(method: str) -> None:
    balancer = build(method).eval()
    losses, _ = Toy().losses()
    assert balancer(losses).item() > 0


@METHODS
def test_the_class_describes_itself(method: str) -> None:
    cls = available()[method]
    for text in (cls.source, cls.url, cls.rule, cls.cost, cls.state, cls.ours):
        assert text, f"{cls.__name__} lacks a line of the table in docs/balancers.md"
    assert cls.url in (cls.__doc__ or "")
    assert "Example:" in (cls.__doc__ or "")
