"""What is written on the command line: methods, seeds and values to try, as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from equipoise import recipe as recipes
from equipoise.errors import RecipeError

__all__ = ["grid_of", "seeds_of", "split_methods"]


def split_methods(text: str) -> Sequence[str]:
    """`dao,fixed(weights={a: 1, b: 2}),equal` -> its parts; a comma inside brackets parts nothing."""
    parts, depth, start = [], 0, 0
    for position, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append(text[start:position])
            start = position + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def seeds_of(text: str) -> int | list[int]:
    """`5` -> five seeds from 0; `0,1,7` -> these; `7,` -> this one."""
    first, *others = (part.strip() for part in text.split(","))
    numbers = [first, *(others[:-1] if others and not others[-1] else others)]
    if not all(re.fullmatch(r"[0-9]{1,20}", number) for number in numbers):
        raise RecipeError(f"compare: seeds: expected a number or a list such as 0,1,7 (or 7, for one), found '{text}'")
    return [int(number) for number in numbers] if others else int(first)


def grid_of(texts: Iterable[str]) -> dict[str, list[Any]]:
    """`training.learning_rate=2e-5,1e-4` -> the key and its values, each as in YAML."""
    grid = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not values:
            raise RecipeError(
                f"compare: tune: expected KEY=A,B such as training.learning_rate=2e-5,1e-4, found '{text}'"
            )
        grid[key.strip()] = [recipes.value_of(value) for value in values.split(",")]
    return grid
