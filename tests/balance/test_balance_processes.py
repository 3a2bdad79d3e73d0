"""Two processes (gloo) against one on the joined batch: the same weights, the same update, for every method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from balance_helpers import build, scopes_of
from process_helpers import TASKS, Model, labelled, losses_of, share, shared_of, start, train
from torch import distributed, multiprocessing

from equipoise.balance import DAO, available, measure
from equipoise.errors import BalanceError

pytestmark = pytest.mark.distributed

CASES = [(method, where) for method in sorted(available()) for where in scopes_of(method)]


def ddp_worker(rank: int, folder: str) -> None:
    start(rank, folder)
    results = {}
    for method, where in CASES:
        distributed.barrier()
        model = torch.nn.parallel.DistributedDataParallel(Model())
        results[f"{method} {where}"] = train(build(method, list(TASKS)), model, where, share(rank))
    torch.save(results, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    folder = tmp_path_factory.mktemp("ddp")
    multiprocessing.spawn(ddp_worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize(("method", "where"), CASES)
def test_two_processes_are_one_on_the_joined_batch(method: str, where: str, two) -> None:
    one = train(build(method, list(TASKS)), Model(), where, slice(None))
    zero, other = (results[f"{method} {where}"] for results in two)
    for name, value in one.items():
        if name == "values":
            value, found = value, (zero[name] + other[name]) / 2  # DDP averages gradients, so the ranks' losses average
        else:
            torch.testing.assert_close(zero[name], other[name], rtol=0, atol=0, msg=f"{name}: the ranks differ")
            found = zero[name]
        torch.testing.assert_close(found, value, rtol=1e-8, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_averaging_the_norms_of_ranks_would_be_wrong() -> None:
    # What our own reduction avoids: each rank's norm carries the noise of its rows, and the mean of them is too large.
    model = Model()

    def norms(mine: slice) -> torch.Tensor:
        losses, hidden = losses_of(model, 0, mine)
        return measure([loss.mean() for loss in losses.values()], shared_of(model, hidden, "all")).norms

    true = norms(slice(None))
    averaged = (norms(share(0)) + norms(share(1))) / 2
    assert ((averaged - true) / true).max() > 0.02
    by_true, by_average = ((1 / n) / (1 / n).sum() for n in (true, averaged))
    assert not torch.allclose(by_true, by_average, rtol=5e-3)


def fsdp_worker(rank: int, folder: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    start(rank, folder)
    mesh = init_device_mesh("cpu", (2,))
    results = {}
    for name in ("equal", "dao"):
        model = Model()
        fully_shard(model.backbone, mesh=mesh)
        fully_shard(model, mesh=mesh)
        results[name] = train(build(name, list(TASKS)), model, "representation", share(rank))
    losses, _ = losses_of(model, 0, share(rank))
    with pytest.raises(BalanceError, match="FSDP"):
        DAO(tasks=TASKS)(losses, shared=model.backbone.parameters())
    torch.save(results, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def test_fsdp_over_two_processes_agrees(tmp_path: Path) -> None:
    multiprocessing.spawn(fsdp_worker, (str(tmp_path),), nprocs=2)
    found = torch.load(tmp_path / "0.pt", weights_only=True)
    for name, results in found.items():
        one = train(build(name, list(TASKS)), Model(), "representation", slice(None))
        for key, value in one.items():
            if key != "values":
                torch.testing.assert_close(results[key], value, rtol=1e-8, atol=1e-12, msg=f"{name}: {key}")


def idle_worker(rank: int, folder: str) -> None:
    start(rank, folder)
    model, balancer = Model(), DAO(tasks=TASKS)
    losses, hidden = losses_of(model, 0, share(rank))
    words = []
    for given in (
        losses if rank == 0 else {},
        {task: loss * float("nan") if rank else loss for task, loss in losses.items()},
    ):
        try:
            balancer(given, shared=hidden)
        except BalanceError as error:
            words.append(str(error))
    (Path(folder) / f"{rank}.txt").write_text("\n".join(words))
    distributed.destroy_process_group()


def test_what_one_process_cannot_do_is_an_error_in_all(tmp_path: Path) -> None:
    multiprocessing.spawn(idle_worker, (str(tmp_path),), nprocs=2)
    zero, one = ((tmp_path / f"{rank}.txt").read_text().splitlines() for rank in (0, 1))
    assert zero == one
    assert "1 of 2 processes have no loss in this batch" in zero[0]
    assert "task 'polarity': the loss is not finite" in zero[1]


def rest_worker(rank: int, folder: str) -> None:
    start(rank, folder)
    # A skipped task: its head has a gradient of zero on every rank, and the next forward finds nothing amiss.
    model = torch.nn.parallel.DistributedDataParallel(Model())
    balancer = DAO(tasks=TASKS, on_nonfinite="skip")
    for step in range(2):
        losses, hidden = losses_of(model, 0, share(rank))
        if step == 0:
            losses["label"] = losses["label"] * float("nan")
        balancer(losses, shared=hidden).backward()
    grads = {name: p.grad for name, p in model.module.named_parameters()}
    words = ""
    try:
        losses, hidden = losses_of(model, 0, share(rank))
        DAO()(losses, shared=hidden)
    except BalanceError as error:
        words = str(error)
    # One example a rank, in halves: the odd one lies on the other rank.
    modo = build("modo", list(TASKS))
    points = []
    for step in range(3):
        losses, _ = losses_of(model.module, step, slice(6 * rank, 6 * rank + 1))
        modo(losses, shared=model.module.backbone.parameters())
        points.append(modo.weights.clone())
    torch.save({"grads": grads, "modo": torch.stack(points)}, Path(folder) / f"{rank}.pt")
    (Path(folder) / f"{rank}.txt").write_text(words)
    distributed.destroy_process_group()


def test_skipped_tasks_unnamed_tasks_and_single_examples(tmp_path: Path) -> None:
    multiprocessing.spawn(rest_worker, (str(tmp_path),), nprocs=2)
    zero, one = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in zero["grads"].items():
        torch.testing.assert_close(one["grads"][name], value, rtol=0, atol=0, msg=name)
        assert value.isfinite().all()
    assert "Give tasks=[...]" in (tmp_path / "0.txt").read_text()
    model, modo = Model(), build("modo", list(TASKS))
    for step in range(3):
        whole, _ = losses_of(model, step, slice(None))
        losses = {task: loss[[0, 6 if len(loss) == 12 else 0]] for task, loss in whole.items()}
        if step == 1:  # rank 1 has no row of this task
            losses["label"] = whole["label"][:1]
        if step == 2:
            losses["emotion"] = whole["emotion"][[0, 6]]
        modo(losses, shared=model.backbone.parameters())
        torch.testing.assert_close(zero["modo"][step], modo.weights, rtol=1e-8, atol=1e-12)


def test_the_batch_of_the_tests_misses_a_task_on_one_rank() -> None:
    assert not labelled(1)["label"][share(1)].any()
    assert labelled(1)["label"][share(0)].all()
    assert not labelled(2)["emotion"][share(1)].all()
