"""Cross-validation: where the test split is small, every row becomes a test row once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from equipoise.data import open_table, text_hashes
from equipoise.errors import DataError, RecipeError
from equipoise.recipe import Recipe

__all__ = ["fold_recipes"]


def fold_recipes(recipe: Recipe, folds: int, folder: Path) -> list[Recipe]:
    """The recipe with its rows dealt out anew, once for each fold.

    All files of a table are put together. Each text belongs to one fold (by a hash of its normalised form and the seed,
    so that its copies are never on two sides), and is a test row of that fold and a training row of the others.
    Validation is a share of the training rows: the recipe's, or a tenth where the recipe names a file.

    Args:
        recipe: a checked recipe.
        folds: 2 or more.
        folder: where the folds' tables are written; it must exist.

    Raises:
        RecipeError: too few rows for so many folds.
    """
    data = recipe.data
    if data.max_train_rows is not None:
        raise RecipeError("compare: --folds uses every row, and data.max_train_rows asks for a part. Leave one out")
    share = data.validation if isinstance(data.validation, float) else 0.1
    several = not isinstance(data.train, str)
    tables: list[dict[str, Any]] = []
    for number, table in enumerate(data.train if isinstance(data.train, list) else [None]):
        path = data.train if table is None else table.path
        whole = [(data if table is None else table).validation, (data if table is None else table).test]
        if several and number == 0:  # files that the recipe names for all tables
            whole += [data.validation, data.test]
        sources = [str(path), *(source for source in whole if isinstance(source, str))]
        text = data.text if table is None or table.text is None else table.text
        tables.append({"sources": sources, "text": text, "table": table})
    read = [_rows(table["sources"], table["text"]) for table in tables]
    # One deal for all tables: a text that stands in two of them is on the same side in both.
    groups, group_of = np.unique(np.concatenate([hashes for _, hashes in read]), return_inverse=True)
    if len(groups) < folds:
        raise RecipeError(f"compare: there are {len(groups)} different texts, too few for {folds} folds")
    # As even as can be: a random order of the texts, dealt out in turn.
    fold_of_group = np.empty(len(groups), dtype=np.int64)
    fold_of_group[np.random.default_rng(recipe.training.seed).permutation(len(groups))] = np.arange(len(groups)) % folds
    ends = np.cumsum([len(hashes) for _, hashes in read])[:-1]
    dealt = np.split(fold_of_group[group_of.reshape(-1)], ends)
    written = [
        _write(rows, fold_of, folds, folder, number)
        for number, ((rows, _), fold_of) in enumerate(zip(read, dealt, strict=True))
    ]
    recipes = []
    for fold in range(folds):
        changes: dict[str, Any] = {"validation": share, "test": None}
        if several:
            changes["train"] = [
                table["table"].model_copy(update={"path": paths[fold][0], "test": paths[fold][1], "validation": None})
                for table, paths in zip(tables, written, strict=True)
            ]
        else:
            changes |= {"train": written[0][fold][0], "test": written[0][fold][1]}
        recipes.append(recipe.model_copy(update={"data": data.model_copy(update=changes)}))
    return recipes


def _rows(sources: list[str], text: str | tuple[str, str]) -> tuple[pa.Table, NDArray[np.uint64]]:
    """A table's rows from all its files, less those that no reader can read, and a hash of each one's text."""
    parts = []
    for source in sources:
        for batch in open_table(source):
            sound = [row for row in range(len(batch.lines)) if row not in batch.errors]
            parts.append(pa.Table.from_batches([batch.rows]).take(sound))
    rows = pa.concat_tables(parts, promote_options="default")
    columns = [text] if isinstance(text, str) else list(text)
    missing = [name for name in columns if name not in rows.column_names]
    if missing:
        raise DataError(f"{sources[0]} has no column '{missing[0]}'. Columns: {', '.join(rows.column_names)}")
    texts = [rows.column(name).fill_null("").to_pylist() for name in columns]
    return rows, text_hashes(texts[0], texts[1] if len(texts) > 1 else None)


def _write(rows: pa.Table, fold_of: NDArray[np.int64], folds: int, folder: Path, number: int) -> list[tuple[str, str]]:
    """Writes one table's folds; returns (train, test) for each."""
    found = []
    for fold in range(folds):
        paths = []
        for side, chosen in (("train", fold_of != fold), ("test", fold_of == fold)):
            path = folder / f"table-{number}-fold-{fold}-{side}.parquet"
            pq.write_table(rows.filter(pa.array(chosen)), path)
            paths.append(str(path))
        found.append((paths[0], paths[1]))
    return found
