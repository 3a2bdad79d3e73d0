"""Equal: the plain sum, or the plain mean, whatever is absent."""

import torch

from equipoise.balance import Equal


def losses() -> dict[str, torch.Tensor]:
    return {"a": torch.tensor([1.0, 3.0], requires_grad=True), "b": torch.tensor(5.0, requires_grad=True)}


def test_sum_of_mean_losses() -> None:
    assert Equal()(losses()).item() == 7.0


def test_scale_one_divides_by_the_number_of_all_tasks() -> None:
    balancer = Equal(scale="one", tasks=["a", "b"])
    assert balancer(losses()).item() == 3.5
    assert balancer({"a": losses()["a"]}).item() == 1.0, "b is absent, not forgotten"
    assert balancer.last["weights"] == {"a": 0.5}


def test_double_precision_is_kept() -> None:
    tiny = {"a": torch.tensor(1.0 + 1e-12, dtype=torch.float64, requires_grad=True)}
    assert Equal()(tiny).item() == 1.0 + 1e-12
