"""Which files are read, for which split and which tasks: the recipe's words made explicit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from equipoise.data._raw import Source
from equipoise.errors import DataError
from equipoise.tasks import TaskSettings
from equipoise.tasks._base import did_you_mean

__all__ = ["TableSpec", "fitting_order", "plan"]


@dataclass(frozen=True)
class TableSpec:
    """A training table and what is in it.

    Attributes:
        path: a file or `hub:...`, as `open_table` takes it.
        text: the text column, or two for a pair (then both texts must be there).
        tasks: the tasks whose labels it holds; None means all.
        validation: a validation file of its own, with the same columns.
        test: a test file of its own.
    """

    path: str
    text: str | tuple[str, str]
    tasks: tuple[str, ...] | None = None
    validation: str | None = None
    test: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The text columns, one or two."""
        return (self.text,) if isinstance(self.text, str) else tuple(self.text)


def fitting_order(tasks: Mapping[str, TaskSettings]) -> list[str]:
    """The tasks with every derived one behind its source.

    Raises:
        DataError: a source does not exist, or tasks are derived from each other in a circle.
    """
    order: list[str] = []
    while len(order) < len(tasks):
        ready = [name for name in tasks if name not in order and tasks[name].derived_from in (None, *order)]
        if not ready:
            stuck = next(name for name in tasks if name not in order)
            source = str(tasks[stuck].derived_from)
            if source in tasks:
                raise DataError(f"task '{stuck}' is derived from '{source}', which leads back to itself.")
            raise DataError(f"task '{stuck}': no task '{source}' to derive from.{did_you_mean(source, list(tasks))}")
        order.extend(ready)
    return order


def plan(
    tables: Sequence[TableSpec],
    tasks: Mapping[str, TaskSettings],
    validation: float | str | None,
    test: float | str | None,
) -> list[Source]:
    """Lists every file to read. The training tables come first, in their order.

    Raises:
        DataError: there is no table, a table names an unknown task, texts and pairs are mixed, or shares make no sense.
    """
    if not tables:
        raise DataError("no training table. Set data.train.")
    if len({len(table.texts) for table in tables}) > 1:
        raise DataError(
            "some training tables have one text column and others a pair. Give all of them one, or all two."
        )
    _check_shares(validation, test)
    label_column = _label_columns(tasks)
    sources = [_source(table, table.path, "train", label_column) for table in tables]
    for split, common in (("validation", validation), ("test", test)):
        for table in tables:
            own = table.validation if split == "validation" else table.test
            if own is not None:
                sources.append(_source(table, own, split, label_column))
        if isinstance(common, str):
            if len({table.texts for table in tables}) > 1:
                raise DataError(
                    f"data.{split} is one file, but the training tables' text columns differ. Give each table a "
                    f"{split} file of its own."
                )
            sources.append(_checked(Source(common, split, tables[0].texts, label_column)))
    return sources


def _check_shares(validation: float | str | None, test: float | str | None) -> None:
    shares = {"validation": validation, "test": test}
    numbers = {name: share for name, share in shares.items() if isinstance(share, (int, float))}
    for name, share in numbers.items():
        if not 0 < share < 1:
            raise DataError(f"data.{name} is {share}; as a share of the training rows it must be between 0 and 1.")
    if sum(numbers.values()) >= 1:
        raise DataError(f"data.validation and data.test together take {sum(numbers.values()):g} of the training rows.")


def _label_columns(tasks: Mapping[str, TaskSettings]) -> dict[str, str]:
    """Task -> its label column; a derived task reads its source's."""
    columns: dict[str, str] = {}
    for name in fitting_order(tasks):
        source = tasks[name].derived_from
        columns[name] = (tasks[name].column or name) if source is None else columns[source]
    return {name: columns[name] for name in tasks}


def _source(table: TableSpec, path: str, split: str, label_column: Mapping[str, str]) -> Source:
    if table.tasks is None:
        return _checked(Source(path, split, table.texts, label_column))
    for name in table.tasks:
        if name not in label_column:
            near = did_you_mean(name, list(label_column))
            raise DataError(f"{table.path}: no task '{name}'.{near} Tasks: {', '.join(label_column)}")
    return _checked(Source(path, split, table.texts, {name: label_column[name] for name in table.tasks}))


def _checked(source: Source) -> Source:
    for name, column in source.columns.items():
        if column in source.text:
            raise DataError(
                f"{source.path}: task '{name}' reads the column '{column}', which is the text. Name its labels."
            )
    return source
