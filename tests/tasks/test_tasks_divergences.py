"""The divergence of two answers: by hand, against torch's own, and what every kind's must be."""

import math

import pyarrow as pa
import pytest
import torch
from torch.distributions import Bernoulli, Categorical, kl_divergence

from equipoise.errors import RecipeError
from equipoise.tasks import Task, available, kind
from equipoise.tasks._divergences import ordinal_log_probabilities

LABELS = {
    "regression": ["0", "1", "2"],
    "classification": ["a", "b", "c"],
    "ordinal": ["1", "2", "3"],
    "multilabel": ["a|b", "b", "c"],
}


def fitted(name: str) -> Task:
    return kind(name).fit("task", kind(name).Settings(), pa.chunked_array([LABELS[name]]))


def two(size: int, rows: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(rows, size, generator=draw) * 3, torch.randn(rows, size, generator=draw) * 3


@pytest.mark.parametrize("name", sorted(LABELS))
def test_contract(name: str) -> None:
    task = fitted(name)
    a, b = two(task.size)
    a.requires_grad_()
    b.requires_grad_()
    found = task.divergence(a, b)
    assert found.shape == (7,)
    assert (found > 0).all()
    torch.testing.assert_close(found, task.divergence(b, a))
    torch.testing.assert_close(task.divergence(a, a), torch.zeros(7))
    for outputs in (a, b):  # each answer moves towards the other, and each row depends on that row alone
        (gradient,) = torch.autograd.grad(found[2], outputs, retain_graph=True)
        assert gradient[2].abs().sum() > 0
        assert torch.count_nonzero(gradient) == torch.count_nonzero(gradient[2])
    assert task.divergence(a[:0], b[:0]).shape == (0,)
    assert task.divergence(a.bfloat16(), b.bfloat16()).dtype == torch.float32
    far = task.divergence(
        torch.full((1, task.size), 1e4), torch.full((1, task.size), -1e4).index_fill(1, torch.tensor(0), 1e4)
    )
    assert torch.isfinite(far).all()


def test_every_kind_of_ours_has_one() -> None:
    assert set(available()) == set(LABELS)
    assert not [name for name in available() if kind(name).divergence is Task.divergence]


def test_classes_by_hand_and_against_torch() -> None:
    task = fitted("classification")
    # p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): KL(p||q) = 1/2 log 2 - 1/4 log 2 = KL(q||p)
    p, q = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.25, 0.5, 0.25]]).log()
    assert task.divergence(p, q + 3).item() == pytest.approx(0.25 * math.log(2), rel=1e-5)
    a, b = two(3)
    first, second = Categorical(logits=a), Categorical(logits=b)
    torch.testing.assert_close(task.divergence(a, b), (kl_divergence(first, second) + kl_divergence(second, first)) / 2)


def test_labels_against_torch() -> None:
    a, b = two(3)
    first, second = Bernoulli(logits=a), Bernoulli(logits=b)
    expected = (kl_divergence(first, second) + kl_divergence(second, first)).mean(dim=1) / 2
    torch.testing.assert_close(fitted("multilabel").divergence(a, b), expected, atol=1e-5, rtol=1e-4)


def test_scores_by_hand() -> None:
    found = fitted("regression").divergence(torch.tensor([[0.5], [3.0]]), torch.tensor([[1.0], [1.0]]))
    assert found.tolist() == [0.25, 4.0]


def test_ranks_have_the_distribution_that_is_predicted() -> None:
    task = fitted("ordinal")
    a, b = two(2)
    columns = task.predict(a.numpy())
    probabilities = torch.stack([torch.from_numpy(columns[f"task/{label}"]) for label in task.labels], dim=1)
    torch.testing.assert_close(ordinal_log_probabilities(a).exp().double(), probabilities, atol=1e-6, rtol=1e-5)
    first = Categorical(logits=ordinal_log_probabilities(a))
    second = Categorical(logits=ordinal_log_probabilities(b))
    expected = (kl_divergence(first, second) + kl_divergence(second, first)) / 2
    torch.testing.assert_close(task.divergence(a, b), expected, atol=1e-5, rtol=1e-4)


def test_a_kind_without_one_says_so() -> None:
    with pytest.raises(RecipeError, match=r"training\.consistency: regression \(tasks\.task\) has no divergence"):
        Task.divergence(fitted("regression"), torch.zeros(1, 1), torch.zeros(1, 1))
