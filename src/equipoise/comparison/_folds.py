"""Cross-validation: where the test split is small, every row becomes a test row once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.data import open_table, text_hashes
from equipoise.errors import RecipeError
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
        tables.append({"sources": sources, "text": text, "table": table, "number": number})
    written = [_write(folds, folder, recipe.training.seed, **table) for table in tables]
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


def _write(
    folds: int, folder: Path, seed: int, sources: list[str], text: str | tuple[str, str], table: Any, number: int
) -> list[tuple[str, str]]:
    """Writes one table's folds; returns (train, test) for each. Rows that are broken are left to the sources' own check."""
    parts = []
    for source in sources:
        for batch in open_table(source):
            sound = [row for row in range(len(batch.lines)) if row not in batch.errors]
            parts.append(pa.Table.from_batches([batch.rows]).take(sound))
    rows = pa.concat_tables(parts, promote_options="default")
    columns = [text] if isinstance(text, str) else list(text)
    texts = [rows.column(name).fill_null("").to_pylist() for name in columns]
    hashes = text_hashes(texts[0], texts[1] if len(texts) > 1 else None)
    groups, group_of = np.unique(hashes, return_inverse=True)
    if len(groups) < folds:
        raise RecipeError(f"compare: {sources[0]} has {len(groups)} different texts, too few for {folds} folds")
    # As even as can be: a random order of the texts, dealt out in turn.
    fold_of_group = np.empty(len(groups), dtype=np.int64)
    fold_of_group[np.random.default_rng(seed).permutation(len(groups))] = np.arange(len(groups)) % folds
    fold_of = fold_of_group[group_of.reshape(-1)]
    found = []
    for fold in range(folds):
        paths = []
        for side, chosen in (("train", fold_of != fold), ("test", fold_of == fold)):
            path = folder / f"table-{number}-fold-{fold}-{side}.parquet"
            pq.write_table(rows.filter(pa.array(chosen)), path)
            paths.append(str(path))
        found.append((paths[0], paths[1]))
    return found
