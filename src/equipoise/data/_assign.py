"""Which row goes to which split, and which texts stand in two of them.

Everything works on one 64-bit hash a row, of its normalised text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

__all__ = ["Hashes", "assign", "first_match", "text_hashes"]

Hashes = NDArray[np.uint64]

#: No word is longer; what is, is normalised piece by piece.
_WORD = 2_000


def text_hashes(texts: Sequence[str], pairs: Sequence[str] | None = None) -> Hashes:
    """Hashes texts so that two that read the same are the same: NFKC, case folded, white space collapsed.

    Args:
        texts: `[n]`.
        pairs: `[n]` the second texts, if any.

    Returns:
        `[n]` uint64.

    Example:
        >>> first, second = text_hashes(["Profit  ROSE", "profit rose"])
        >>> bool(first == second)
        True
    """
    keys = [_normalise(text) for text in texts]
    if pairs is not None:
        # The separator is white space to `split`, so no normalised text holds one.
        keys = [f"{key}\x1f{_normalise(pair)}" for key, pair in zip(keys, pairs, strict=True)]
    digests = b"".join([blake2b(key.encode(), digest_size=8).digest() for key in keys])
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _normalise(text: str) -> str:
    if not text.isascii():
        text = _composed(text) if len(text) <= _WORD else " ".join(_composed(word) for word in text.split())
    return " ".join(text.casefold().split())


def _composed(text: str) -> str:
    """NFKC. It sorts the marks behind a letter, in a time that grows with the square of their number, so runs are cut."""
    pieces = [text[start : start + _WORD] for start in range(0, len(text), _WORD)]
    return "".join(unicodedata.normalize("NFKC", piece) for piece in pieces)


def assign(
    hashes: Hashes,  # [n]
    strata: NDArray[np.int64],  # [n], whole numbers from 0
    validation: NDArray[np.float64],  # [strata], the share of each stratum
    test: NDArray[np.float64],  # [strata]
    seed: int,
) -> NDArray[np.int8]:
    """Deals rows out to train (0), validation (1) and test (2), the same share of every stratum.

    Rows of one text stay together. Where a text goes depends on the text and the seed, hardly on the other rows: a table
    that grows or is sorted anew keeps (nearly) all of its rows where they were. Every stratum keeps one text in train.

    Returns:
        `[n]` int8.
    """
    groups, first, group_of, sizes = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    # The stratum of a text is that of its first row.
    stratum = strata[first]
    order = np.lexsort((_mix(groups, seed), stratum))
    rows_per_stratum = np.bincount(stratum, weights=sizes, minlength=len(validation))
    test_rows = _apportion(rows_per_stratum * test)
    validation_rows = _apportion(rows_per_stratum * validation)

    code = np.zeros(len(groups), dtype=np.int8)
    ends = np.cumsum(np.bincount(stratum, minlength=len(validation)))
    start = 0
    for index, end in enumerate(ends):
        mine = order[start : max(end - 1, start)].tolist()
        for split, wanted in ((2, int(test_rows[index])), (1, int(validation_rows[index]))):
            # A text with more copies than there is room for stays in train; the next one is tried.
            for group in mine if wanted else ():
                if not code[group] and sizes[group] <= wanted:
                    code[group] = split
                    wanted -= int(sizes[group])
                    if not wanted:
                        break
        start = int(end)
    result: NDArray[np.int8] = code[group_of.reshape(-1)]
    return result


def _apportion(wanted: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rounds to whole rows whose sum is the rounded sum: the largest remainders get the rows that are left."""
    rows = np.floor(wanted).astype(np.int64)
    left = round(float(wanted.sum())) - int(rows.sum())
    # Of equal remainders the larger stratum goes first: a rare class can spare a row the least.
    order = np.lexsort((-wanted, -(wanted - rows).round(9)))
    rows[order[: max(left, 0)]] += 1
    return rows


def _mix(values: Hashes, seed: int) -> Hashes:
    """The finaliser of splitmix64, so that each seed gives an order of its own."""
    salt = np.frombuffer(blake2b(str(seed).encode(), digest_size=8).digest(), dtype="<u8").astype(np.uint64)
    mixed = values ^ salt
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Hashes = mixed ^ (mixed >> np.uint64(31))
    return result


def first_match(rows: Hashes, among: Hashes) -> NDArray[np.int64]:
    """For each row the first position of its text among others, or -1. `[n]`, `[m]` -> `[n]` int64."""
    if not len(among):
        return np.full(len(rows), -1, dtype=np.int64)
    texts, first = np.unique(among, return_index=True)
    place = np.minimum(np.searchsorted(texts, rows), len(texts) - 1)
    return np.where(texts[place] == rows, first[place], -1).astype(np.int64)
