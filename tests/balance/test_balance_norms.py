"""What methods from gradient norms share: running norms, loss rates, and the small functions beside them."""

import pytest
import torch

from equipoise.balance._norms import debiased_share, share, sized
from equipoise.balance._state import TaskState
from equipoise.errors import BalanceError


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_debiased_share_gives_the_average_that_adam_has(beta: float, dtype: torch.dtype) -> None:
    values = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    average, total, mass = torch.zeros((), dtype=dtype), 0.0, 0.0
    for count, value in enumerate(values.to(dtype)):
        kept = debiased_share(beta, torch.tensor(float(count), dtype=dtype))
        average = kept * average + (1 - kept) * value
        total, mass = beta * total + values[count].item(), beta * mass + 1
        assert average.item() == pytest.approx(total / mass, rel=1e-12 if dtype is torch.float64 else 1e-5)


def test_a_sized_buffer_keeps_its_size() -> None:
    owner = TaskState(["a", "b"])
    owner.add_task_buffer("rows", 0)
    owner.rows = sized(owner, "rows", 3)
    assert owner.rows.tolist() == [[0.0] * 3] * 2
    assert sized(owner, "rows", 3) is owner.rows
    with pytest.raises(BalanceError, match="rows holds 3 numbers a task, but shared now has 4"):
        sized(owner, "rows", 4)


def test_share_names_setting_value_and_range() -> None:
    share("x", 0.0)
    share("x", 1, one=True)
    share("x", None, none=True)
    for value, words in ((1, r"\[0, 1\), found 1"), (-0.1, "found -0.1"), ("0.5", "number, found '0.5'")):
        with pytest.raises(BalanceError, match=f"x must .*{words}"):
            share("x", value)
    with pytest.raises(BalanceError, match="x must be a number, found None"):
        share("x", None)
