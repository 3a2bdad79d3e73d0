"""The order of rows in an epoch: a pure function of the seed and the epoch, so that a run can be continued exactly.

A sampler always gives the whole epoch; whoever continues in the middle skips what is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["LengthGroupedSampler", "ShuffleSampler"]

Rows = NDArray[np.int64]


class ShuffleSampler:
    """Every row once, in random order.

    Args:
        n: how many rows there are.
        seed: a whole number from 0.

    Example:
        >>> sampler = ShuffleSampler(4, seed=0)
        >>> sorted(sampler)
        [0, 1, 2, 3]
    """

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        return iter(self.order().tolist())

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose order is given next."""
        self.epoch = epoch

    def order(self) -> Rows:
        """`[n]` the rows in the order of this epoch."""
        order: Rows = np.random.default_rng((self.seed, self.epoch)).permutation(self.n)
        return order


class LengthGroupedSampler(ShuffleSampler):
    """Every row once, rows of like length in one batch, so that little is padded.

    Rows are shuffled and cut into megabatches; each megabatch is sorted by length and cut into batches; the batches are
    shuffled. The rows that fill no batch are drawn at random and come last. In epoch 0 the batch with the longest row
    comes first: if memory runs out, it does so at once.

    Args:
        lengths: `[n]` tokens a row.
        batch_size: rows a batch.
        seed: a whole number from 0.
        megabatch: batches sorted together. More pad less, and mix less.
    """

    def __init__(self, lengths: ArrayLike, batch_size: int, *, seed: int, megabatch: int = 50) -> None:
        self.lengths: NDArray[Any] = np.asarray(lengths)
        super().__init__(len(self.lengths), seed)
        if batch_size < 1 or megabatch < 1:
            raise ValueError(f"batch_size and megabatch must be 1 or more, not {batch_size} and {megabatch}")
        self.batch_size = batch_size
        self.megabatch = megabatch

    def order(self) -> Rows:
        """`[n]` the rows in the order of this epoch; each `batch_size` of them are a batch."""
        random = np.random.default_rng((self.seed, self.epoch))
        rows = random.permutation(self.n)
        whole = self.n - self.n % self.batch_size
        rows, rest = rows[:whole], rows[whole:]
        megabatch = np.arange(whole) // (self.megabatch * self.batch_size)
        # Rows are in random order and the sort is stable, so equal lengths stay shuffled.
        rows = rows[np.lexsort((self.lengths[rows], megabatch))]
        batches = rows.reshape(-1, self.batch_size)
        batches = batches[random.permutation(len(batches))]
        if self.epoch == 0 and len(batches):
            longest = int(self.lengths[batches].max(axis=1).argmax())
            batches[[0, longest]] = batches[[longest, 0]]
        return np.concatenate([batches.reshape(-1), rest])
