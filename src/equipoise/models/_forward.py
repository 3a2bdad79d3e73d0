"""Running a model over many texts: sorted by length, in batches of a token budget, the backbone once for all tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["forward_all", "run_batches", "token_batches"]


def token_batches(lengths: Sequence[int] | NDArray[np.int32], max_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Indices of texts, batch by batch: similar lengths together, at most `max_tokens` with padding (at least one text).

    The longest come first, so that a batch that does not fit in memory shows at once.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        size = max(1, max_tokens // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size


def run_batches(
    compute: Callable[[dict[str, torch.Tensor]], NDArray[np.float32]],
    rows: Any,
    lengths: Sequence[int] | NDArray[np.int32],
    collate: Callable[[list[Any]], dict[str, Any]],
    *,
    max_tokens: int,
) -> NDArray[np.float32] | None:
    """What `compute` says of all rows, `[rows, outputs]` in the rows' order; None of no row.

    Args:
        compute: a batch of token tensors, on the processor -> `[b, outputs]`.
        rows: what `collate` makes batches of, by index (`__getitems__` is used where there is one).
        lengths: tokens of each row.
        collate: rows -> a batch; its `targets` and `labelled` are not needed.
        max_tokens: of one batch, padding included.
    """
    outputs: NDArray[np.float32] | None = None
    for indices in token_batches(lengths, max_tokens):
        wanted = [int(index) for index in indices]
        items = rows.__getitems__(wanted) if hasattr(rows, "__getitems__") else [rows[index] for index in wanted]
        batch = collate(items)
        batch.pop("targets", None)
        batch.pop("labelled", None)
        found = compute(batch)
        if outputs is None:
            outputs = np.empty((len(lengths), found.shape[1]), dtype=np.float32)
        outputs[indices] = found
    return outputs


@torch.no_grad()
def forward_all(
    model: Any,
    rows: Any,
    lengths: Sequence[int] | NDArray[np.int32],
    collate: Callable[[list[Any]], dict[str, Any]],
    *,
    max_tokens: int = 8192,
) -> NDArray[np.float32]:
    """Logits of all rows, `[rows, outputs]` float32, in the rows' order.

    Args:
        model: a multi-task model; it is put into evaluation mode and back.
        rows, lengths, collate, max_tokens: as for `run_batches`.
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device

    def compute(batch: dict[str, torch.Tensor]) -> NDArray[np.float32]:
        logits = model(**{name: tensor.to(device) for name, tensor in batch.items()}).logits
        found: NDArray[np.float32] = logits.float().cpu().numpy()
        return found

    try:
        outputs = run_batches(compute, rows, lengths, collate, max_tokens=max_tokens)
    finally:
        model.train(training)
    return outputs if outputs is not None else np.empty((0, model.config.num_labels), dtype=np.float32)
