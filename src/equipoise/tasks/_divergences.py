"""How far two answers to one text lie apart, for training that wants them alike under different dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ordinal_log_probabilities", "symmetric_bernoulli_kl", "symmetric_kl"]


def symmetric_kl(
    log_p: Tensor,  # [n, classes], log-probabilities
    log_q: Tensor,
) -> Tensor:
    """(KL(p||q) + KL(q||p)) / 2 = sum_c (p_c - q_c) (log p_c - log q_c) / 2, `[n]`."""
    return 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=1)


def symmetric_bernoulli_kl(
    logits_p: Tensor,  # [n, classes], each of them there or not
    logits_q: Tensor,
) -> Tensor:
    """The same of each class's Bernoulli distribution, which is (p - q) (logit p - logit q) / 2; `[n, classes]`."""
    return 0.5 * (logits_p.sigmoid() - logits_q.sigmoid()) * (logits_p - logits_q)


def ordinal_log_probabilities(
    logits: Tensor,  # [n, classes - 1], of P(y > k | y > k-1)
) -> Tensor:
    """log P(y = k), `[n, classes]`: past every class below k, and not past k itself."""
    from torch.nn import functional

    past = functional.logsigmoid(logits).cumsum(dim=1)
    stays = functional.logsigmoid(-logits)
    return functional.pad(past, (1, 0)) + functional.pad(stays, (0, 1))
