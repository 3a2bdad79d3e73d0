"""The last loss of each task: kept where it is absent, and what an unknown one counts as."""

import torch

from equipoise.balance._geometric_mean import GeometricMean
from equipoise.balance._last_losses import fill_unknown


def step(balancer: GeometricMean, **losses: float) -> None:
    balancer({task: torch.tensor(loss, requires_grad=True) for task, loss in losses.items()})


def test_absent_tasks_keep_their_last_loss() -> None:
    balancer = GeometricMean(tasks=["a", "b", "c"])
    step(balancer, a=1.0, b=2.0)
    step(balancer, a=3.0)
    assert balancer.latest.tolist() == [3.0, 2.0, 0.0]
    assert balancer.seen.tolist() == [True, True, False]
    losses, known = balancer.with_latest(torch.tensor([0.0, 0.0, 9.0]), torch.tensor([False, False, True]))
    assert losses.tolist() == [3.0, 2.0, 9.0]
    assert known.all()


def test_the_unknown_count_as_the_mean_of_the_known() -> None:
    values, known = torch.tensor([1.0, torch.nan, 5.0]), torch.tensor([True, False, True])
    assert fill_unknown(values, known).tolist() == [1.0, 3.0, 5.0]
    assert fill_unknown(values, torch.zeros(3, dtype=torch.bool)).tolist() == [0.0, 0.0, 0.0]
