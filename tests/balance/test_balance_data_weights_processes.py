"""Data weights in two processes (gloo) against one on the joined batch: the same weights, state, update and errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from process_helpers import STEPS, TASKS, Model, labelled, losses_of, share, start
from torch import Tensor, distributed, multiprocessing

from equipoise.balance import DAO, DataWeights
from equipoise.errors import BalanceError

pytestmark = pytest.mark.distributed

RULES = {
    "inverse_frequency": "inverse_frequency",
    "density": "density",
    "entropy": "entropy",
    "mixed": {"polarity": "density", "label": "inverse_frequency", "emotion": "entropy"},
}


def rows_of(step: int) -> dict[str, Tensor]:
    """Which rows carry which label, `[12]` each. Rank 1 starts without any, and misses a task in the next step."""
    rows = labelled(step)
    if step == 0:
        for own in rows.values():
            own[6:] = False
    return rows


def targets_of(step: int, mine: slice) -> dict[str, Tensor]:
    """Labels of the rows that carry one. Those of rank 1 leave the grid, and bring classes that it has no column for."""
    generator = torch.Generator().manual_seed(7 + step)
    scores = torch.randn(12, generator=generator, dtype=torch.float64)
    classes, emotions = (torch.randint(0, 4, (12,), generator=generator) for _ in range(2))
    if step == 3:
        scores[9], classes[10] = 50.0, 100
    targets = dict(zip(TASKS, (scores, classes, emotions), strict=True))
    return {task: labels[mine][rows_of(step)[task][mine]] for task, labels in targets.items()}


def weights_of(rule: object, mine: slice) -> dict[str, Tensor]:
    """The weights of a few steps, `step task` -> `[n_t]` or a scalar, and the state."""
    weigh = DataWeights(rule, tasks=TASKS, smoothing=0.7)
    found = {}
    for step in range(STEPS):
        targets = {task: labels for task, labels in targets_of(step, mine).items() if len(labels)}
        losses = [torch.ones_like(targets[task], dtype=torch.float64) if task in targets else None for task in TASKS]
        for task, weight in zip(TASKS, weigh(losses, targets), strict=True):
            if weight is not None:
                found[f"{step} {task}"] = weight
    return found | {"shares": weigh.shares, "spans": weigh.spans}


def train(rule: object, model: torch.nn.Module, mine: slice) -> dict[str, Tensor]:
    balancer = DAO(tasks=TASKS, data_weights=rule, data_exponent=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for step in range(STEPS):
        losses, hidden = losses_of(model, step, mine)
        already = labelled(step)
        losses = {task: loss[rows_of(step)[task][mine][already[task][mine]]] for task, loss in losses.items()}
        total = balancer(losses, shared=hidden, targets=targets_of(step, mine))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    plain = getattr(model, "module", model)
    return {name: parameter.detach().clone() for name, parameter in plain.named_parameters()}


def worker(rank: int, folder: str) -> None:
    start(rank, folder)
    found = {}
    for name, rule in RULES.items():
        trained = train(rule, torch.nn.parallel.DistributedDataParallel(Model()), share(rank))
        found[name] = {"weights": weights_of(rule, share(rank)), "trained": trained}
    torch.save(found, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, dict[str, Tensor]]]]:
    folder = tmp_path_factory.mktemp("data")
    multiprocessing.spawn(worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", RULES)
def test_weights_are_those_of_one_process_on_the_joined_batch(name: str, two) -> None:
    zero, other = (ranks[name]["weights"] for ranks in two)
    one = weights_of(RULES[name], slice(None))
    assert zero.keys() | other.keys() == one.keys()
    assert len(one) > 2 + STEPS - 1
    for key, value in one.items():
        if value.dim() == 1:  # a weight an example: each rank has those of its own
            found = torch.cat([ranks[key] for ranks in (zero, other) if key in ranks])
            assert value.mean().item() == pytest.approx(1.0, rel=1e-12)
        else:
            torch.testing.assert_close(
                zero[key], other[key], rtol=0, atol=0, equal_nan=True, msg=f"{key}: ranks differ"
            )
            found = zero[key]
        torch.testing.assert_close(
            found, value, rtol=1e-10, atol=1e-12, equal_nan=True, msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.parametrize("name", RULES)
def test_training_is_that_of_one_process_on_the_joined_batch(name: str, two) -> None:
    one = train(RULES[name], Model(), slice(None))
    start_of = dict(Model().named_parameters())
    for key, value in one.items():
        zero, other = (ranks[name]["trained"][key] for ranks in two)
        torch.testing.assert_close(zero, other, rtol=0, atol=0, msg=f"{key}: the ranks differ")
        # The steps, which are small against the parameters.
        expected = value - start_of[key].detach()
        torch.testing.assert_close(zero - start_of[key].detach(), expected, rtol=1e-10, atol=1e-13)


def failing_worker(rank: int, folder: str) -> None:
    start(rank, folder)
    whole, real = torch.tensor([0, 1, 1]), torch.tensor([0.0, 0.5, 1.0])
    ones = torch.ones(3)
    words = []
    for rule, here, there in (
        ("inverse_frequency", whole, torch.tensor([0, -100, 1])),
        ("density", real, torch.tensor([0.0, float("nan"), 1.0])),
        ("density", torch.tensor([0.0, -float("inf"), 1.0]), real),
        ("entropy", whole, real),
        ("inverse_frequency", whole, torch.tensor([0, 1])),
        ({"t": "inverse_frequency"}, whole, real),
        ("inverse_frequency", whole, None),
    ):
        weigh = DataWeights(rule, tasks=["t"])
        labels = there if rank else here
        with pytest.raises(BalanceError) as error:
            weigh([ones], None if labels is None else {"t": labels})
        words.append(str(error.value))
        assert not weigh.shares.any()
        weigh([ones], {"t": real if rule == "density" else whole})  # the ranks are still in step
        assert weigh.shares.sum() == 1
    (Path(folder) / f"{rank}.txt").write_text("\n".join(words))
    distributed.destroy_process_group()


def test_labels_that_one_process_cannot_use_are_an_error_in_all(tmp_path: Path) -> None:
    multiprocessing.spawn(failing_worker, (str(tmp_path),), nprocs=2)
    zero, other = ((tmp_path / f"{rank}.txt").read_text().splitlines() for rank in (0, 1))
    assert zero[:4] == other[:4], "what the joined bounds show has the same words everywhere"
    for words, expected in zip(
        other,
        (
            "task 't': class -100 in targets",
            "task 't': a target is not finite",
            "task 't': a target is not finite",
            "task 't': targets are integers in one process and floating-point in another",
            "task 't': 2 targets for 3 losses",
            "task 't': inverse_frequency weighs integer",
            "data_weights need targets",
        ),
        strict=True,
    ):
        assert expected in words
    assert all("another process cannot weigh its targets" in words for words in zero[4:])
