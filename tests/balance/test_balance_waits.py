"""How often a step waits for the device: once, for the check that everything is finite."""

from __future__ import annotations

import warnings

import pytest
import torch
from balance_helpers import build, scopes_of

from equipoise.balance import available

TASKS = ["polarity", "label", "emotion"]
# Their problem is solved on the host, which is told under `cost`.
ON_THE_HOST = {
    "cagrad", "dualproj", "fairgrad", "gradvac", "imtl_g", "mgda", "modo", "nash_mtl", "pcd", "pcgrad", "running_average",
    "sdmgrad", "torchjd", "upgrad", "aligned_mtl",
}  # fmt: skip
FREE = [(m, w) for m in sorted(set(available()) - ON_THE_HOST) for w in scopes_of(m) if w != "last_layer"]


def step(method: str, where: str, balancer: object, device: str) -> torch.Tensor:
    weight = torch.nn.Parameter(torch.ones(5, 4, device=device))
    hidden = torch.ones(6, 5, device=device) @ weight
    losses = {task: (hidden * (k + 1)).sum(1) ** 2 for k, task in enumerate(TASKS)}
    if "validation" in balancer.requires:
        balancer.observe_validation({task: loss.detach() for task, loss in losses.items()})
    total = balancer(losses, shared=hidden if where == "representation" else [weight])
    if "after" in balancer.requires:
        balancer.observe_after({task: loss.detach() for task, loss in losses.items()})
    return total


@pytest.mark.parametrize(("method", "where"), FREE)
def test_no_number_is_read_but_by_the_one_check(method: str, where: str, monkeypatch) -> None:
    # A tensor of the device 'meta' has no numbers: whatever would read one, or branch on one, raises.
    balancer = build(method, TASKS).to("meta")
    monkeypatch.setattr(type(balancer), "_finite", lambda self, *args, **kwargs: [True] * 3)
    for _ in range(3):
        step(method, where, balancer, "meta").backward()


@pytest.mark.parametrize("method", sorted(ON_THE_HOST))
def test_the_table_says_who_solves_on_the_host(method: str) -> None:
    if method in {"torchjd", "running_average"}:
        pytest.skip("it depends on what is wrapped")
    assert "host" in available()[method].cost


@pytest.mark.gpu
@pytest.mark.parametrize(("method", "where"), FREE)
def test_one_wait_a_step_on_a_gpu(method: str, where: str) -> None:
    balancer = build(method, TASKS)
    for _ in range(2):  # masks and buffers find their place
        step(method, where, balancer, "cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            step(method, where, balancer, "cuda").backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    extra = len({"after", "validation"} & balancer.requires)  # their losses are checked too
    assert len([w for w in seen if "synchroniz" in str(w.message)]) <= 1 + extra
