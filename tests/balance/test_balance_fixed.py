"""Fixed: the user's weights, as typed or normalised."""

import pytest
import torch

from equipoise.balance import Fixed
from equipoise.errors import BalanceError


def losses() -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, requires_grad=True) for name, value in {"a": 1.0, "b": 10.0}.items()}


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [(None, {"a": 1.0, "b": 3.0}), ("one", {"a": 0.25, "b": 0.75}), ("tasks", {"a": 0.5, "b": 1.5})],
)
def test_weights_as_typed_or_normalised(normalise: str | None, expected: dict[str, float]) -> None:
    balancer = Fixed(weights={"a": 1, "b": 3}, normalise=normalise)
    total = balancer(losses())
    assert balancer.last["weights"] == expected
    assert total.item() == expected["a"] + 10 * expected["b"]
    assert balancer.eval()(losses()).item() == total.item()


def test_names_not_positions() -> None:
    assert Fixed(weights={"b": 0.0, "a": 2.0}, tasks=["a", "b"])(losses()).item() == 2.0


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1.0, "lable": 1.0}, r"no task 'lable'\. Did you mean 'label'\?"),
        ({"a": 1.0}, "lack a number for label"),
        ({"a": 1.0, "label": -1.0}, "weights.label must be a number, zero or more, found -1.0"),
        ({"a": 1.0, "label": float("nan")}, "weights.label"),
        ({"a": 1.0, "label": "2"}, "weights.label"),
        ({"a": 0, "label": 0}, "must not all be zero"),
        ([1.0, 2.0], "must map every task's name"),
    ],
)
def test_unusable_weights_are_named(weights: object, message: str) -> None:
    with pytest.raises(BalanceError, match=message):
        Fixed(weights=weights, tasks=["a", "label"])


def test_a_checkpoint_does_not_bring_back_old_weights() -> None:
    old = Fixed(weights={"a": 1.0, "b": 1.0})
    old(losses())
    new = Fixed(weights={"a": 2.0, "b": 1.0})
    new.load_state_dict(old.state_dict())
    assert new(losses()).item() == 12.0
