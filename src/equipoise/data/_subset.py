"""Some rows of a tokenised split, as a split of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.data._tokens import TokenSplit

__all__ = ["TokenSubset", "hold_out"]


class TokenSubset:
    """Rows of a `TokenSplit` by their numbers, a map-style dataset.

    Attributes:
        lengths: `[n]` int32, tokens a row.
    """

    def __init__(self, tokens: TokenSplit, rows: NDArray[np.int64]) -> None:
        self.tokens, self.rows = tokens, rows
        self.lengths = tokens.lengths[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.tokens[int(self.rows[index])]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The rows of a whole batch: what torch's loader calls where it finds it."""
        return [self[index] for index in indices]


def hold_out(tokens: TokenSplit, share: float, seed: int) -> tuple[TokenSubset, TokenSubset]:
    """Divides a split at random: what is left to train on, and what is held out.

    Args:
        tokens: two rows or more.
        share: of the rows that are held out, above 0 and below 1; at least one row on each side.
        seed: draws the rows.
    """
    order = np.random.default_rng((seed, len(tokens))).permutation(len(tokens))
    size = min(max(round(share * len(tokens)), 1), len(tokens) - 1)
    return TokenSubset(tokens, np.sort(order[size:])), TokenSubset(tokens, np.sort(order[:size]))
