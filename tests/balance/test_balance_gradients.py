"""Norms, inner products and cosines against hand-computed values and against autograd over a whole network."""

import pytest
import torch

from equipoise.balance import measure
from equipoise.errors import BalanceError


def test_hand_computed_norms_and_cosine() -> None:
    hidden = torch.tensor([[1.0, 2.0]], requires_grad=True)
    found = measure([3 * hidden[0, 0] + 4 * hidden[0, 1], 2 * hidden[0, 0]], hidden)
    assert found.norms.tolist() == [5.0, 2.0]
    assert found.gramian.tolist() == [[25.0, 6.0], [6.0, 4.0]]
    assert found.cosines[0, 1].item() == pytest.approx(0.6)
    assert found.present.tolist() == [True, True]


def test_parameters_agree_with_one_backward_a_task() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    rows = torch.randn(5, 3, dtype=torch.float64)

    def losses() -> list[torch.Tensor]:
        out = network(rows)
        return [out[:, 0].square().mean(), out[:, 1].sin().mean(), (out[:, 0] * out[:, 1]).mean()]

    found = measure(losses(), network.parameters())
    flat = []
    for k in range(3):
        network.zero_grad()
        losses()[k].backward()
        flat.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    jacobian = torch.stack(flat)
    torch.testing.assert_close(found.gramian, jacobian @ jacobian.T, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.norms, jacobian.norm(dim=1), rtol=1e-12, atol=0)
    unit = jacobian / jacobian.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found.cosines, unit @ unit.T, rtol=1e-12, atol=1e-14)
    assert found.norms.dtype == torch.float64


def test_orthogonal_rows_of_a_representation_have_no_cosine() -> None:
    hidden = torch.ones(4, 3, requires_grad=True)
    apart = measure([hidden[:2].sum(), hidden[2:].sum()], hidden)
    assert apart.cosines[0, 1].isnan()
    assert apart.cosines[0, 0].item() == pytest.approx(1.0)
    overlapping = measure([hidden[:3].sum(), hidden[2:].sum()], hidden)
    assert overlapping.cosines[0, 1].item() == pytest.approx(3 / (9 * 6) ** 0.5)


def test_orthogonal_gradients_on_common_rows_have_cosine_zero() -> None:
    hidden = torch.ones(2, 2, requires_grad=True)
    assert measure([hidden[:, 0].sum(), hidden[:, 1].sum()], hidden).cosines[0, 1].item() == 0.0


def test_token_representations_count_rows_in_the_first_dimension() -> None:
    hidden = torch.ones(2, 3, 4, requires_grad=True)
    found = measure([hidden[0].sum(), hidden[1].sum()], hidden)
    assert found.norms.tolist() == pytest.approx([12**0.5] * 2)
    assert found.cosines[0, 1].isnan()


def test_zero_and_absent_tasks_are_defined() -> None:
    hidden = torch.ones(1, 2, requires_grad=True)
    found = measure([hidden.sum() * 0, None, hidden.sum()], hidden)
    assert found.norms.tolist() == [0.0, 0.0, pytest.approx(2**0.5)]
    assert found.present.tolist() == [True, False, True]
    assert found.cosines[0].isnan().all()
    assert found.cosines[1].isnan().all()


def test_a_task_that_does_not_reach_shared_counts_as_zero() -> None:
    hidden, other = torch.ones(1, 2, requires_grad=True), torch.ones(1, requires_grad=True)
    assert measure([hidden.sum(), other.sum()], hidden).norms.tolist() == [pytest.approx(2**0.5), 0.0]


def test_shared_that_no_loss_depends_on_is_an_error() -> None:
    hidden, stranger = torch.ones(1, 2, requires_grad=True), torch.ones(1, 2, requires_grad=True)
    with pytest.raises(BalanceError, match="no loss depends on shared"):
        measure([hidden.sum()], stranger)
    with pytest.raises(BalanceError, match="shared needs no gradient"):
        measure([hidden.sum()], hidden.detach())


def test_frozen_parameters_are_left_out() -> None:
    free, frozen = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2), requires_grad=False)
    assert measure([(free * frozen).sum()], [free, frozen]).norms.tolist() == [pytest.approx(2**0.5)]


def test_bfloat16_gradients_are_summed_in_float32() -> None:
    hidden = torch.ones(4096, 8, dtype=torch.bfloat16, requires_grad=True)
    found = measure([hidden.float().sum()], hidden)
    assert found.norms.dtype == torch.float32
    assert found.norms.item() == pytest.approx((4096 * 8) ** 0.5, rel=1e-6)


def test_the_callers_own_gradients_stay_untouched() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    loss = (weight * 3).sum()
    measure([loss], [weight])
    assert weight.grad is None
    loss.backward()
    assert weight.grad.tolist() == [3.0, 3.0]
