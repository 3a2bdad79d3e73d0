"""The contract: what every registered method must do. A new method is tested here by being registered."""

import io
import warnings

import pytest
import torch
from balance_helpers import build, scopes_of
from torch.utils.checkpoint import checkpoint

from equipoise.balance import Balancer, available
from equipoise.errors import BalanceError

TASKS = ["polarity", "label", "emotion"]
# At a representation and at parameters, as far as a method allows either.
CASES = [(method, where) for method in sorted(available()) for where in scopes_of(method) if where != "last_layer"]
METHODS = pytest.mark.parametrize("method", sorted(available()))
PLACES = pytest.mark.parametrize(("method", "where"), CASES)


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

    def shared(self, hidden: torch.Tensor, where: str) -> torch.Tensor | list[torch.Tensor]:
        return hidden if where == "representation" else [self.backbone]

    def shuffled(self, order: list[str], step: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        losses, hidden = self.losses(step)
        return {task: losses[task] for task in order}, hidden


def run(
    balancer: Balancer, steps: range, where: str = "representation", toy: Toy | None = None
) -> list[dict[str, float]]:
    toy = toy or Toy()
    weights = []
    for step in steps:
        losses, hidden = toy.losses(step)
        if step % 3 == 1:
            del losses["label"]
        if "validation" in balancer.requires:
            balancer.observe_validation({task: loss.detach() for task, loss in losses.items()})
        balancer(losses, shared=toy.shared(hidden, where))
        if "after" in balancer.requires:
            balancer.observe_after({task: loss.detach() * 0.9 for task, loss in losses.items()})
        weights.append(balancer.last["weights"])
    return weights


@PLACES
def test_backward_is_the_weighted_sum_of_gradients(method: str, where: str) -> None:
    toy = Toy()
    balancer = build(method, TASKS)
    if not balancer.weighted_sum:
        pytest.skip("its update is no weighted sum; its own tests say what it is")
    losses, hidden = toy.losses()
    balancer(losses, shared=toy.shared(hidden, where)).backward()
    weights = balancer.last["weights"]
    assert set(weights) == set(TASKS)
    expect_weighted_sum(toy, weights)


def expect_weighted_sum(toy: Toy, weights: dict[str, float], factor: float = 1.0) -> None:
    reference = Toy()
    losses, _ = reference.losses()
    (factor * sum(weights[task] * loss.mean() for task, loss in losses.items() if task in weights)).backward()
    # Rows with a large norm cancel in the sum, so an element can be far smaller than what it is the sum of.
    scale = reference.backbone.grad.abs().max().item()
    torch.testing.assert_close(toy.backbone.grad, reference.backbone.grad, rtol=1e-10, atol=1e-13 * scale)
    for task in weights:
        torch.testing.assert_close(toy.heads[task].grad, reference.heads[task].grad, rtol=1e-10, atol=0)


@PLACES
def test_value_is_the_weighted_sum_of_losses(method: str, where: str) -> None:
    toy = Toy()
    losses, hidden = toy.losses()
    balancer = build(method, TASKS)
    if balancer.differentiable:
        pytest.skip("it adds a penalty to the value")
    total = balancer(losses, shared=toy.shared(hidden, where))
    last = balancer.last
    assert total.shape == ()
    assert total.item() == pytest.approx(sum(last["weights"][t] * last["losses"][t] for t in TASKS), rel=1e-12)
    assert last["losses"] == pytest.approx({task: loss.mean().item() for task, loss in losses.items()}, rel=1e-12)


@PLACES
def test_state_round_trip_gives_the_next_ten_weights_to_the_bit(method: str, where: str) -> None:
    whole = build(method, TASKS)
    expected = run(whole, range(14), where)[4:]

    half = build(method, TASKS)
    run(half, range(4), where)
    assert all(isinstance(value, torch.Tensor) for value in half.state_dict().values())
    stored = io.BytesIO()
    torch.save(half.state_dict(), stored)
    stored.seek(0)
    resumed = build(method, TASKS)
    resumed.load_state_dict(torch.load(stored, weights_only=True))
    assert run(resumed, range(4, 14), where) == expected


@PLACES
def test_state_survives_safetensors_and_another_order_of_tasks(method: str, where: str, tmp_path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    half = build(method, TASKS)
    run(half, range(4), where)
    safetensors.save_file(half.state_dict(), str(tmp_path / "state.safetensors"))
    resumed = build(method, ["emotion", "polarity", "label"])
    resumed.load_state_dict(safetensors.load_file(str(tmp_path / "state.safetensors")))
    assert resumed.weights.tolist() == [half.weights[TASKS.index(task)].item() for task in resumed.tasks]
    for balancer in (half, resumed):
        toy = Toy()
        losses, hidden = toy.losses(4)
        balancer(losses, shared=toy.shared(hidden, where))
    assert resumed.last["weights"] == pytest.approx(half.last["weights"], rel=1e-9)


@PLACES
def test_order_of_tasks_does_not_matter(method: str, where: str) -> None:
    order = ["emotion", "polarity", "label"]
    one, other = build(method, TASKS), build(method, order)
    for step in range(3):
        toy = Toy()
        losses, hidden = toy.losses(step)
        one(losses, shared=toy.shared(hidden, where))
        toy = Toy()
        losses, hidden = toy.shuffled(order, step)
        other(losses, shared=toy.shared(hidden, where))
        assert other.last["weights"] == pytest.approx(one.last["weights"], rel=1e-9)


@PLACES
@pytest.mark.parametrize("absent", ["no name", "no example"])
def test_an_absent_task_adds_nothing(method: str, where: str, absent: str) -> None:
    toy = Toy()
    balancer = build(method, TASKS)
    losses, hidden = toy.losses()
    if absent == "no name":
        del losses["label"]
    else:
        losses["label"] = losses["label"][:0]
    total = balancer(losses, shared=toy.shared(hidden, where))
    total.backward()
    assert set(balancer.last["weights"]) == {"polarity", "emotion"}
    assert total.isfinite()
    assert toy.heads["label"].grad is None or not toy.heads["label"].grad.any()


@PLACES
def test_an_absent_task_keeps_its_statistics(method: str, where: str) -> None:
    # One step without a task, and the next one with it goes on from what was known: weights refer to all tasks, so the
    # step's weights are not those of a run that never had the task.
    balancer = build(method, TASKS)
    run(balancer, range(1), where)
    toy = Toy()
    losses, hidden = toy.losses(5)
    before = balancer.weights.clone()
    del losses["label"]
    balancer(losses, shared=toy.shared(hidden, where))
    after = balancer.weights
    assert after.isfinite().all()
    assert before.isfinite().all()
    assert after[1] > 0 or before[1] == 0, "the absent task has a weight of its own to come back with"


@PLACES
def test_a_single_task_trains(method: str, where: str) -> None:
    if method == "priority":
        pytest.skip("its settings name one task of several")
    toy = Toy(["polarity"])
    losses, hidden = toy.losses()
    balancer = build(method, ["polarity"])
    balancer(losses, shared=toy.shared(hidden, where)).backward()
    assert balancer.last["weights"]["polarity"] > 0
    assert toy.backbone.grad.abs().sum() > 0


@PLACES
def test_a_batch_with_one_task_of_several_trains_it(method: str, where: str) -> None:
    balancer = build(method, TASKS)
    run(balancer, range(2), where)
    toy = Toy()
    losses, hidden = toy.losses(2)
    total = balancer({"emotion": losses["emotion"]}, shared=toy.shared(hidden, where))
    total.backward()
    assert total.isfinite()
    assert set(balancer.last["weights"]) == {"emotion"}
    assert toy.backbone.grad.isfinite().all()


@PLACES
def test_zero_losses_and_gradients_give_no_nan(method: str, where: str) -> None:
    balancer = build(method, TASKS)
    for solved in (["label"], TASKS):
        toy = Toy()
        losses, hidden = toy.losses()
        losses.update({task: (hidden @ toy.heads[task]) * 0 for task in solved})
        total = balancer(losses, shared=toy.shared(hidden, where))
        total.backward()
        assert total.isfinite()
        assert all(torch.isfinite(torch.tensor(w)) for w in balancer.last["weights"].values())
        assert set(balancer.last["weights"]) == set(TASKS)
        assert toy.backbone.grad.isfinite().all()


@PLACES
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_its_task_and_changes_no_state(method: str, where: str, value: float) -> None:
    balancer = build(method, TASKS)
    run(balancer, range(2), where)
    before = {name: tensor.clone() for name, tensor in balancer.state_dict().items()}
    toy = Toy()
    losses, hidden = toy.losses()
    losses["label"] = losses["label"] * value
    with pytest.raises(BalanceError, match="task 'label': the loss is not finite"):
        balancer(losses, shared=toy.shared(hidden, where))
    torch.testing.assert_close(dict(balancer.state_dict()), before, rtol=0, atol=0)


@PLACES
def test_a_gradient_that_is_not_finite_names_its_task(method: str, where: str) -> None:
    balancer = build(method, TASKS)
    if "shared" not in balancer.requires:
        pytest.skip("it measures no gradient; the training loop looks at the sum")
    toy = Toy()
    losses, hidden = toy.losses()
    losses["label"] = (losses["label"] * 0).sqrt()  # 0, with a slope of 0 * inf
    with pytest.raises(BalanceError, match="task 'label': the gradient at shared is not finite"):
        balancer(losses, shared=toy.shared(hidden, where))


@PLACES
@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_what_is_not_finite_can_be_skipped_and_never_reaches_a_parameter(
    method: str, where: str, broken: str, caplog
) -> None:
    toy = Toy()
    balancer = build(method, TASKS, on_nonfinite="skip")
    if broken == "gradient" and "shared" not in balancer.requires:
        pytest.skip("it measures no gradient; the training loop looks at the sum")
    losses, hidden = toy.losses()
    losses["label"] = losses["label"] * float("nan") if broken == "loss" else (losses["label"] * 0).sqrt()
    balancer(losses, shared=toy.shared(hidden, where)).backward()
    assert toy.backbone.grad.isfinite().all()
    assert all(head.grad is None or head.grad.isfinite().all() for head in toy.heads.values())
    assert set(balancer.last["weights"]) == {"polarity", "emotion"}
    assert balancer.skipped == {"polarity": 0, "label": 1, "emotion": 0}
    assert "task 'label'" in caplog.text


@METHODS
def test_a_negative_loss_is_refused_or_trained_on(method: str) -> None:
    toy = Toy()
    losses, hidden = toy.losses()
    losses["label"] = losses["label"] - 1e6
    balancer = build(method, TASKS)
    shared = toy.shared(hidden, scopes_of(method)[0])
    if balancer.positive_losses:
        with pytest.raises(BalanceError, match=r"task 'label': its loss is -.*defined for losses of zero or more"):
            balancer(losses, shared=shared)
    else:
        balancer(losses, shared=shared).backward()
        assert toy.backbone.grad.isfinite().all()
        assert all(weight >= 0 or method in {"imtl_g", "aligned_mtl"} for weight in balancer.last["weights"].values())


@PLACES
def test_bfloat16_autocast_agrees_within_rounding(method: str, where: str) -> None:
    exact, rounded = build(method, TASKS), build(method, TASKS)
    toy = Toy(dtype=torch.float32)
    losses, hidden = toy.losses()
    exact(losses, shared=toy.shared(hidden, where))
    toy = Toy(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, hidden = toy.losses()
        total = rounded(losses, shared=toy.shared(hidden, where))
    assert hidden.dtype == torch.bfloat16
    assert total.dtype == torch.float32
    total.backward()
    assert toy.backbone.grad.isfinite().all()
    assert rounded.last["weights"] == pytest.approx(exact.last["weights"], rel=0.1, abs=1e-3)


@PLACES
def test_a_scaled_backward_gives_scaled_gradients(method: str, where: str) -> None:
    # What a gradient scaler does, and what accumulation does with 1 / steps. A power of two changes no digit.
    grads = []
    for scale in (1.0, 1024.0):
        toy = Toy()
        losses, hidden = toy.losses()
        (build(method, TASKS)(losses, shared=toy.shared(hidden, where)) * scale).backward()
        grads.append([toy.backbone.grad / scale, *(head.grad / scale for head in toy.heads.values())])
    for plain, scaled in zip(*grads, strict=True):
        torch.testing.assert_close(scaled, plain, rtol=0, atol=0)


@PLACES
def test_accumulated_gradients_are_the_sum_of_the_steps(method: str, where: str) -> None:
    both, apart, total = Toy(), build(method, TASKS), build(method, TASKS)
    for step in range(2):
        losses, hidden = both.losses(step)
        total(losses, shared=both.shared(hidden, where)).backward()
    expected = torch.zeros_like(both.backbone)
    for step in range(2):
        toy = Toy()
        losses, hidden = toy.losses(step)
        apart(losses, shared=toy.shared(hidden, where)).backward()
        expected += toy.backbone.grad
    torch.testing.assert_close(both.backbone.grad, expected, rtol=1e-12, atol=1e-12 * expected.abs().max().item())


@pytest.mark.parametrize("method", ["equal", "fixed"])
def test_accumulation_equals_one_batch_where_weights_are_constant(method: str) -> None:
    # Any other method reads each micro-batch as a step of its statistics, so there the definition does not allow it.
    parts, whole, balancer = Toy(), Toy(), build(method, TASKS)
    losses, _ = whole.losses()
    balancer(losses).backward()
    losses, _ = parts.losses()
    for half in (slice(0, 3), slice(3, 6)):
        (balancer({task: loss[half] for task, loss in losses.items()}) / 2).backward(retain_graph=True)
    torch.testing.assert_close(parts.backbone.grad, whole.backbone.grad, rtol=1e-12, atol=1e-9)


@PLACES
def test_gradient_checkpointing_changes_nothing(method: str, where: str) -> None:
    found = []
    for recompute in (False, True):
        toy = Toy()

        def backbone(rows: torch.Tensor, toy: Toy = toy) -> torch.Tensor:
            return (rows @ toy.backbone).tanh()

        rows = toy.draw(100, 6, 5)
        hidden = checkpoint(backbone, rows, use_reentrant=False) if recompute else backbone(rows)
        losses = {task: (hidden @ head - 1) ** 2 for task, head in toy.heads.items()}
        balancer = build(method, TASKS)
        balancer(losses, shared=toy.shared(hidden, where)).backward()
        found.append((balancer.last["weights"], toy.backbone.grad))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-12, atol=1e-15)


@PLACES
def test_adapters_train_as_the_weights_say(method: str, where: str) -> None:
    # LoRA's shape: a frozen matrix and a product of two thin ones beside it.
    balancer = build(method, TASKS)
    if not balancer.weighted_sum:
        pytest.skip("its update is no weighted sum; its own tests say what it is")
    grads = []
    for balanced in (True, False):
        toy = Toy()
        frozen = toy.backbone.detach()
        down, up = (torch.nn.Parameter(toy.draw(50 + n, *shape)) for n, shape in enumerate(((5, 2), (2, 4))))
        rows = toy.draw(100, 6, 5)
        hidden = rows @ frozen + rows @ down @ up
        losses = {task: (hidden @ head - 1) ** 2 for task, head in toy.heads.items()}
        if balanced:
            balancer(losses, shared=hidden if where == "representation" else [down, up]).backward()
        else:
            sum(balancer.last["weights"][task] * loss.mean() for task, loss in losses.items()).backward()
        grads.append([down.grad, up.grad])
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def compiled_backbone():
    def backbone(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return (rows @ weight).tanh()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch._dynamo.reset()
        yield torch.compile(backbone, backend="aot_eager")


@PLACES
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_compiled_backbone_changes_nothing(method: str, where: str, compiled_backbone) -> None:
    if build(method, TASKS).differentiable and where != "representation":
        pytest.skip("torch.compile has no second derivatives; at the representation only the heads need them")
    found = []
    for backbone in (lambda rows, weight: (rows @ weight).tanh(), compiled_backbone):
        toy = Toy()
        hidden = backbone(toy.draw(100, 6, 5), toy.backbone)
        losses = {task: (hidden @ head - 1) ** 2 for task, head in toy.heads.items()}
        balancer = build(method, TASKS)
        balancer(losses, shared=toy.shared(hidden, where)).backward()
        found.append((balancer.last["weights"], toy.backbone.grad))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-9)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-9, atol=1e-12)


@PLACES
def test_weights_are_constants_of_the_step(method: str, where: str) -> None:
    toy = Toy()
    losses, hidden = toy.losses()
    balancer = build(method, TASKS)
    if not balancer.weighted_sum:
        pytest.skip("its update is no weighted sum; its own tests say what it is")
    total = balancer(losses, shared=toy.shared(hidden, where))
    (pull,) = torch.autograd.grad(total, toy.heads["label"], retain_graph=True)
    weight = balancer.last["weights"]["label"]
    reference = Toy()
    losses, _ = reference.losses()
    (expected,) = torch.autograd.grad(losses["label"].mean(), reference.heads["label"])
    torch.testing.assert_close(pull, weight * expected, rtol=1e-10, atol=0)
    assert not balancer.weights.requires_grad


@PLACES
def test_evaluation_uses_the_last_weights_and_changes_nothing(method: str, where: str) -> None:
    balancer = build(method, TASKS)
    run(balancer, range(3), where)
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
    balancer = build(method, TASKS).eval()
    losses, _ = Toy().losses()
    assert balancer(losses).item() > 0


@METHODS
def test_a_method_that_needs_what_it_is_not_given_says_so(method: str) -> None:
    balancer = build(method, TASKS)
    if "shared" not in balancer.requires:
        pytest.skip("it needs the losses only")
    losses, _ = Toy().losses()
    with pytest.raises(BalanceError, match="needs shared"):
        balancer(losses)


@METHODS
def test_a_place_that_a_method_is_not_defined_at_is_refused(method: str) -> None:
    balancer = build(method, TASKS)
    if "shared" not in balancer.requires or len(balancer.scopes) > 1:
        pytest.skip("it is defined everywhere")
    toy = Toy()
    losses, hidden = toy.losses()
    other = "parameters" if "representation" in balancer.scopes else "representation"
    with pytest.raises(BalanceError, match=f"cannot be measured at (the )?{other}"):
        balancer(losses, shared=toy.shared(hidden, other))


@METHODS
def test_the_class_describes_itself(method: str) -> None:
    cls = available()[method]
    for text in (cls.source, cls.url, cls.rule, cls.cost, cls.state, cls.ours):
        assert text, f"{cls.__name__} lacks a line of the table in docs/balancers.md"
    assert cls.family in {"baselines", "losses", "norms", "gramian", "wrappers"}
    assert cls.url in (cls.__doc__ or "")
    assert "Example:" in (cls.__doc__ or "")
