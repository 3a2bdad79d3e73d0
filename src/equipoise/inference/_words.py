"""The words of a text as spans of its characters, and tokens' contributions summed to them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise

__all__ = ["spread", "words_of"]

#: Characters that join a word where they stand between two word characters: don't, 3.5, 1,200, well-kept.
JOINERS = frozenset("'’.,-‐_·:")
#: Scripts that are written without spaces: each of their characters is a word of its own.
UNSPACED = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))


def words_of(text: str) -> list[tuple[int, int]]:
    """Where the words stand: runs of letters and digits, and runs of anything else that is no white space.

    Marks belong to the letter before them (accents, vowel signs). Together the spans cover every character that is not
    white space, each once.

    Returns:
        `(start, end)` of each word in characters (code points), from the front.

    Example:
        >>> [text[a:b] for text in ["Don't panic: 3.5% 🎉!"] for a, b in words_of(text)]
        ["Don't", 'panic', ':', '3.5', '%', '🎉!']
    """
    kinds = _kinds(text)
    spans: list[tuple[int, int]] = []
    start = 0
    for at in range(1, len(text) + 1):
        if at == len(text) or kinds[at] != kinds[start] or kinds[at] == "unspaced":
            if kinds[start] != "space":
                spans.append((start, at))
            start = at
    return spans


def _kinds(text: str) -> list[str]:
    kinds: list[str] = []
    for character in text:
        before = kinds[-1] if kinds else ""
        if character.isspace():
            kinds.append("space")
        elif any(low <= ord(character) <= high for low, high in UNSPACED) and character.isalnum():
            kinds.append("unspaced")
        elif character.isalnum() or (before == "word" and unicodedata.category(character)[0] == "M"):
            kinds.append("word")
        else:
            kinds.append("other")
    for at in range(1, len(text) - 1):
        inner = kinds[at - 1] == "word" == kinds[at + 1]
        if inner and text[at] in JOINERS and (text[at] not in ".,:" or _numeric(text, at)):
            kinds[at] = "word"
    return kinds


def _numeric(text: str, at: int) -> bool:
    # Points, commas and colons join digits only: "end.Begin" and "a,b" are two words each.
    return text[at - 1].isdigit() and text[at + 1].isdigit()


def spread(
    words: Sequence[tuple[int, int]], tokens: Sequence[tuple[int, int]], values: Sequence[float]
) -> tuple[list[float], float]:
    """Sums tokens' values to the words that they stand on.

    A token over several words is shared out by the number of its characters in each.

    Args:
        words: spans in order, without overlap.
        tokens: spans of the tokens in the same text; several may cover one character.
        values: one for each token.

    Returns:
        The sums, one for each word, and what belongs to none (tokens of white space, or without characters).
    """
    assert all(one[1] <= other[0] for one, other in pairwise(words))
    sums, rest, first = [0.0] * len(words), 0.0, 0
    for (start, end), value in zip(tokens, values, strict=True):
        # Tokens come in order of their start; a few may step back within one character.
        while first > 0 and words[first - 1][1] > start:
            first -= 1
        while first < len(words) and words[first][1] <= start:
            first += 1
        shares: list[tuple[int, int]] = []
        at = first
        while at < len(words) and words[at][0] < end:
            shares.append((at, min(end, words[at][1]) - max(start, words[at][0])))
            at += 1
        covered = sum(length for _, length in shares)
        if covered <= 0:
            rest += value
            continue
        for index, length in shares:
            sums[index] += value * length / covered
    return sums, rest
