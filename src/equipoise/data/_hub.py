"""Tables from the Hugging Face hub: `hub:org/name[:config][@split]`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from equipoise.data._arrow import string_batch
from equipoise.data._table import RowBatch, Table, check_columns
from equipoise.errors import DataError
from equipoise.hub_names import name_problem, shadowed

__all__ = ["open_hub"]


def open_hub(source: str, *, batch_rows: int) -> Table:
    """Loads a split of a hub dataset (`train` unless said otherwise). Class numbers become class names.

    Raises:
        DataError: the address is incomplete, or the dataset cannot be loaded.
    """
    import datasets  # a second to import, and most tables are files

    # The split may hold colons of its own: `train[:100]`.
    address, _, split = source.removeprefix("hub:").partition("@")
    repository, _, config = address.partition(":")
    problem = name_problem(repository)
    if problem is not None:
        raise DataError(f"{source!a} names no dataset ({problem}). Write hub:org/name[:config][@split].")
    if shadowed(repository):
        # The library looks for a folder first, and would read that.
        raise DataError(
            f"{source}: a folder '{repository}' lies here, which would be read in place of the hub's. Run elsewhere"
        )
    try:
        dataset = datasets.load_dataset(repository, config or None, split=split or "train")
    except Exception as error:  # the library raises some twenty kinds, from the network up
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{source}: cannot be loaded ({message}).") from error
    columns = check_columns(source, dataset.column_names)
    features = dict(zip(columns, (dataset.features[name] for name in dataset.column_names), strict=True))
    names = {column: classes for column, feature in features.items() if (classes := _class_names(feature)) is not None}

    def batches() -> Iterator[RowBatch]:
        row = 1
        for batch in dataset.with_format("arrow").iter(batch_size=batch_rows):
            yield string_batch(batch, columns, row, names)
            row += batch.num_rows

    return Table(source, columns, batches)


def _class_names(feature: Any) -> list[str] | None:
    import datasets

    inner = getattr(feature, "feature", feature)  # a list of class numbers holds the class feature inside
    return list(inner.names) if isinstance(inner, datasets.ClassLabel) else None
