"""Which files a prediction over many takes, and where what it makes of each goes."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from equipoise.errors import DataError
from equipoise.inference._files import OUTPUT_KINDS
from equipoise.inference._manifest import MANIFEST

__all__ = ["Source", "find_sources"]


@dataclass(frozen=True)
class Source:
    """One file to read and the one to write.

    Attributes:
        shown: the input as the user's pattern gives it.
        path: the same, absolute.
        name: of the output, relative to the output folder, with `/` between folders.
    """

    shown: str
    path: Path
    name: str


def find_sources(inputs: Sequence[str | Path], folder: Path, kind: str | None) -> list[Source]:
    """Expands patterns to files, each with an output of its own.

    Args:
        inputs: files, and patterns with `*`, `?`, `[...]` and `**` (folders of any depth). Where a pattern names
            folders behind its first wildcard, the outputs keep them: `in/**/*.csv` makes `out/2024/a.csv` of
            `in/2024/a.csv`.
        folder: where the outputs go.
        kind: csv, tsv, jsonl or parquet; None: each as its input.

    Raises:
        DataError: nothing fits a pattern, two inputs have one output, an output would be among the inputs, or the kind
            is unknown.
    """
    if kind is not None and kind not in OUTPUT_KINDS:
        raise DataError(f"cannot write files of kind '{kind}'. Known: {', '.join(OUTPUT_KINDS)}")
    if not inputs:
        raise DataError("no input was named")
    found: dict[Path, Source] = {}
    for item in map(str, inputs):
        for shown, relative in _expand(item):
            path = Path(os.path.abspath(shown))
            found.setdefault(path, Source(shown, path, _output_name(relative, kind).as_posix()))
    sources = list(found.values())
    _refuse_collisions(sources, folder)
    _refuse_circles([str(item) for item in inputs], sources, folder)
    return sources


def _expand(item: str) -> list[tuple[str, Path]]:
    """Files as shown, and their paths below the pattern's first wildcard."""
    if item.startswith("hub:"):
        raise DataError(f"{item}: a folder of outputs takes files. Score a hub set with -o FILE")
    if os.path.isdir(item):
        raise DataError(f"{item} is a folder. Name its files, such as '{Path(item) / '*.parquet'}'")
    if os.path.exists(item):  # whatever its name looks like
        return [(item, Path(Path(item).name))]
    if not glob.has_magic(item):
        raise DataError(f"{item}: no such file (looked in {Path(item).parent.resolve()})")
    fixed = []
    for part in Path(item).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    base = Path(*fixed)
    files = [
        path
        for path in sorted(glob.glob(item, recursive=True))
        if not os.path.isdir(path) and os.path.basename(path) != MANIFEST
    ]
    if not files:
        raise DataError(f"no file fits '{item}' (looked in {base.resolve()})")
    return [(path, Path(path).relative_to(base)) for path in files]


def _output_name(relative: Path, kind: str | None) -> Path:
    """The same name; `.ndjson`, which is not written, becomes `.jsonl`."""
    zipped = relative.suffix.lower() == ".gz"
    plain = relative.with_suffix("") if zipped else relative
    if kind is not None:
        return plain.with_suffix(f".{kind}")
    if plain.suffix.lower() == ".ndjson":
        plain = plain.with_suffix(".jsonl")
    return Path(f"{plain}{relative.suffix}") if zipped else plain


def _refuse_collisions(sources: Sequence[Source], folder: Path) -> None:
    taken: dict[str, Source] = {}
    for source in sources:
        first = taken.setdefault(source.name, source)
        if first is not source:
            raise DataError(
                f"{first.shown} and {source.shown} would both be written to {folder / source.name}. "
                "Score them into two folders"
            )


def _refuse_circles(patterns: Sequence[str], sources: Sequence[Source], folder: Path) -> None:
    """An output must neither replace an input nor be one of the next run's."""
    inputs = {os.path.realpath(source.path): source for source in sources}
    for source in sources:
        output = folder / source.name
        if os.path.realpath(output) in inputs:
            raise DataError(f"{output}: the output would replace an input. Choose another folder")
        for pattern in patterns:
            if _fits(Path(os.path.abspath(output)).parts, Path(os.path.abspath(pattern)).parts):
                raise DataError(
                    f"{output}: the output would be among the inputs '{pattern}' of the next run. "
                    "Choose a folder outside"
                )


def _fits(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path is one that `glob` with `recursive=True` would give (hidden files aside)."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return _fits(path, pattern[1:]) or (bool(path) and _fits(path[1:], pattern))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _fits(path[1:], pattern[1:])
