"""Some rows of a tokenised split, as a split of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.data._split import Split
from equipoise.data._tokens import TokenSplit

__all__ = ["TokenSubset", "hold_out"]


class SplitRows:
    """Some rows of a split: their targets and where they come from. See `Split` for the attributes.

    Args:
        split: all rows.
        rows: `[n]` the numbers of those that are wanted.
    """

    def __init__(self, split: Split | SplitRows, rows: NDArray[np.int64]) -> None:
        self.files: list[str] = split.files
        self.targets: dict[str, NDArray[np.float32]] = {task: labels[rows] for task, labels in split.targets.items()}
        self.row_ids: NDArray[np.int64] = split.row_ids[rows]
        self.file_ids: NDArray[np.int32] = split.file_ids[rows]
        self.lines: NDArray[np.int64] = split.lines[rows]

    def __len__(self) -> int:
        return len(self.row_ids)


class TokenSubset:
    """Rows of a tokenised split by their numbers, a map-style dataset that stands wherever a `TokenSplit` does.

    Attributes:
        lengths: `[n]` int32, tokens a row.
        split: the same rows of the split that it was made from.
        truncated: how many of all the split's rows were longer than the model reads.
    """

    def __init__(self, tokens: TokenSplit | TokenSubset, rows: NDArray[np.int64]) -> None:
        self.tokens, self.rows = tokens, rows
        self.lengths: NDArray[np.int32] = tokens.lengths[rows]
        self.truncated: int = tokens.truncated

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.tokens[int(self.rows[index])]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The rows of a whole batch: what torch's loader calls where it finds it."""
        return [self[index] for index in indices]

    @cached_property
    def split(self) -> SplitRows:
        """Texts, targets and places of these rows."""
        return SplitRows(self.tokens.split, self.rows)


def hold_out(tokens: TokenSplit | TokenSubset, share: float, seed: int) -> tuple[TokenSubset, TokenSubset]:
    """Divides a split at random: what is left to train on, and what is held out.

    Args:
        tokens: two rows or more.
        share: of the rows that are held out, above 0 and below 1; at least one row on each side.
        seed: draws the rows.
    """
    order = np.random.default_rng((seed, len(tokens))).permutation(len(tokens))
    size = min(max(round(share * len(tokens)), 1), len(tokens) - 1)
    return TokenSubset(tokens, np.sort(order[size:])), TokenSubset(tokens, np.sort(order[:size]))
