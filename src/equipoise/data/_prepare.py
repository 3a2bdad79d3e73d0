"""From tables to checked, encoded splits: read, split, look for leaks, fit the tasks, encode.

Every step streams from disk to disk. What stays in memory is a few numbers a row (its hash and where it goes), never a
Python object.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from equipoise.data._assign import assign
from equipoise.data._leaks import DROPPED, SPLITS, find_leaks
from equipoise.data._plan import TableSpec, fitting_order, plan
from equipoise.data._raw import RawSplit, Source, label_field, raw_path, read_sources
from equipoise.data._rejected import RejectedWriter
from equipoise.data._split import Split, SplitWriter
from equipoise.errors import DataError
from equipoise.tasks import Task, TaskSettings, kind

__all__ = ["Prepared", "prepare"]

_ENCODE_ROWS = 65_536
_CLASS_LIKE = frozenset({"classification", "ordinal"})

Codes = dict[str, NDArray[np.int8]]  # raw split -> [rows] which final split a row goes to, or DROPPED


@dataclass(frozen=True)
class Prepared:
    """What training and evaluation start from.

    Attributes:
        tasks: name -> the task, fitted to the training split, in the recipe's order.
        splits: `train`, and `validation` and `test` where they exist.
        report: what was read, used, rejected, leaked and repeated, as JSON.
    """

    tasks: dict[str, Task]
    splits: dict[str, Split]
    report: dict[str, Any] = field(repr=False)


def prepare(
    tables: Sequence[TableSpec],
    tasks: Mapping[str, TaskSettings],
    *,
    validation: float | str | None,
    test: float | str | None,
    seed: int,
    drop_leaks: bool,
    max_rejected: float,
    folder: Path,
    max_train_rows: int | None = None,
) -> Prepared:
    """Reads tables, splits them, fits the tasks to the training split and encodes every label.

    Args:
        tables: the training tables.
        tasks: name -> settings; a derived task's settings name another task as `source`.
        validation: a share of the training rows (in (0, 1)), a file that holds every task, or None. A share is taken
            from the tables that bring no validation file of their own, and evenly over the classes of the first class
            task and over the tables.
        test: the same for the test split.
        seed: decides which rows a share takes. Rows of one (normalised) text stay on one side.
        drop_leaks: leave out training rows whose text is in validation or test, and validation rows whose text is in
            test. Never touches the test split.
        max_rejected: stop where at least this share of all rows read cannot be used, in [0, 1]; 0 stops at the first.
        folder: where the splits and `rejected.jsonl` go; it must exist.
        max_train_rows: train on a seeded sample of so many rows; None trains on all.

    Raises:
        DataError: a file, a column, a label, a split or a task's labels cannot be used; the message says which.
    """
    sources = plan(tables, tasks, validation, test)
    by_class = next((name for name in tasks if tasks[name].type in _CLASS_LIKE and not tasks[name].derived_from), None)
    try:
        with RejectedWriter(folder / "rejected.jsonl") as rejected:
            raw, rows = read_sources(sources, list(tasks), folder, rejected)
            rejected.check(sum(rows), max_rejected)
            codes = {name: np.full(len(part.hashes), SPLITS.index(name), dtype=np.int8) for name, part in raw.items()}
            shares = {"validation": _shares(tables, "validation", validation), "test": _shares(tables, "test", test)}
            if any(share.any() for share in shares.values()):
                codes["train"] = _deal(raw["train"], by_class, shares, seed)
            leaks = find_leaks(raw, codes, sources, rejected, drop=drop_leaks)
            sampled_out = _sample(codes["train"], max_train_rows, seed)
            wanted = [name for name in SPLITS if name in raw or (name in shares and shares[name].any())]
            _check_not_empty({name: _count(codes, name) for name in wanted}, "before its labels are read")
            fitted = _fit(tasks, raw["train"].table, codes["train"] == 0)
            splits = {name: _encode(name, raw, codes, fitted, sources, folder, rejected) for name in wanted}
            rejected.check(sum(rows), max_rejected)
            kept = raw["train"].hashes[codes["train"] == 0]
            report: dict[str, Any] = {
                "files": [
                    {"file": source.path, "split": source.split, "rows": count}
                    for source, count in zip(sources, rows, strict=True)
                ],
                "rows_read": sum(rows),
                "rows_rejected": rejected.total,
                "stratified_by": by_class if any(share.any() for share in shares.values()) else None,
                "rejected": rejected.report(),
                "leaks": leaks,
                "sampled_out": sampled_out,
                "duplicates": {"train": len(kept) - len(np.unique(kept))},
            }
    finally:
        for name in SPLITS:
            raw_path(folder, name).unlink(missing_ok=True)
    report["splits"] = {name: _summary(split, fitted) for name, split in splits.items()}
    report["warnings"] = _warnings(report)
    return Prepared(fitted, splits, report)


def _shares(tables: Sequence[TableSpec], split: str, share: float | str | None) -> NDArray[np.float64]:
    """`[tables]` the share of each training table that goes to a split."""
    own = [(table.validation if split == "validation" else table.test) is not None for table in tables]
    number = 0.0 if share is None or isinstance(share, str) else float(share)
    return np.where(own, 0.0, number)


def _deal(
    raw: RawSplit, by_class: str | None, shares: Mapping[str, NDArray[np.float64]], seed: int
) -> NDArray[np.int8]:
    """Deals the training rows out to the splits. Strata are the classes (no label counts as one) within each table."""
    file = np.asarray(raw.table.column("file"), dtype=np.int64)
    label = np.zeros(len(file), dtype=np.int64)
    if by_class is not None:
        encoded = pc.dictionary_encode(raw.table.column(label_field(by_class)), null_encoding="encode")
        label = np.concatenate([np.asarray(chunk.indices, dtype=np.int64) for chunk in encoded.chunks])
    classes = int(label.max(initial=0)) + 1
    # `file` numbers the sources, of which the training tables are the first, so it indexes `shares` as well.
    present, strata = np.unique(file * classes + label, return_inverse=True)
    table = present // classes
    return assign(raw.hashes, strata.reshape(-1), shares["validation"][table], shares["test"][table], seed)


def _sample(code: NDArray[np.int8], rows: int | None, seed: int) -> int:
    """Drops all but a sample of the training rows. Returns how many went."""
    train = np.flatnonzero(code == SPLITS.index("train"))
    if rows is None or len(train) <= rows:
        return 0
    gone = np.random.default_rng(seed).permutation(train)[rows:]
    code[gone] = DROPPED
    return len(gone)


def _count(codes: Codes, split: str) -> int:
    return sum(int((code == SPLITS.index(split)).sum()) for code in codes.values())


def _check_not_empty(sizes: Mapping[str, int], when: str) -> None:
    for name, size in sizes.items():
        if not size:
            rest = ", ".join(f"{other} has {count} rows" for other, count in sizes.items() if other != name)
            raise DataError(f"the {name} split is empty {when}{f' ({rest})' if rest else ''}. Give it more rows.")


def _fit(tasks: Mapping[str, TaskSettings], train: pa.Table, mask: NDArray[np.bool_]) -> dict[str, Task]:
    fitted: dict[str, Task] = {}
    for name in fitting_order(tasks):
        labels = train.column(label_field(name)).filter(pa.array(mask))
        if labels.null_count == len(labels):
            raise DataError(f"task '{name}': none of the {len(labels)} training rows carries a label for it.")
        source = tasks[name].derived_from
        fitted[name] = kind(tasks[name].type).fit(
            name, tasks[name], labels, source=None if source is None else fitted[source]
        )
    return {name: fitted[name] for name in tasks}


def _encode(
    name: str,
    raw: Mapping[str, RawSplit],
    codes: Codes,
    tasks: Mapping[str, Task],
    sources: Sequence[Source],
    folder: Path,
    rejected: RejectedWriter,
) -> Split:
    """Writes one split. A row with a label that cannot be used is rejected as a whole."""
    writer = SplitWriter(folder, name, tasks, [source.path for source in sources])
    for origin, part in raw.items():
        mask = codes[origin] == SPLITS.index(name)
        start = 0
        # As they were read, and no larger: texts may be so long that many rows together would fill the memory.
        for piece in part.table.to_batches(max_chunksize=_ENCODE_ROWS):
            batch = piece.filter(pa.array(mask[start : start + piece.num_rows]))
            start += piece.num_rows
            if not batch.num_rows:
                continue
            encoded = {task: tasks[task].encode(batch.column(label_field(task))) for task in tasks}
            reasons: dict[int, list[str]] = {}
            for result in encoded.values():
                for position, reason in result.reasons.items():
                    reasons.setdefault(position, []).append(reason)
            keep = np.ones(batch.num_rows, dtype=bool)
            keep[list(reasons)] = False
            _reject(batch, name, reasons, tasks, sources, rejected)
            writer.write(
                batch.filter(pa.array(keep)) if reasons else batch,
                {task: result.targets[keep] if reasons else result.targets for task, result in encoded.items()},
            )
    _check_not_empty({name: writer.rows}, "once the rows with unusable labels are left out")
    split = writer.close()
    if name == "train":
        for task in tasks:
            if np.isnan(split.targets[task]).all():
                raise DataError(f"task '{task}': none of the {len(split)} training rows carries a usable label for it.")
    return split


def _reject(
    batch: pa.RecordBatch,
    split: str,
    reasons: Mapping[int, list[str]],
    tasks: Mapping[str, Task],
    sources: Sequence[Source],
    rejected: RejectedWriter,
) -> None:
    bad = sorted(reasons)
    for position, row in zip(bad, batch.take(pa.array(bad, type=pa.int64())).to_pylist(), strict=True):
        source = sources[row["file"]]
        cells = dict(zip(source.text, (row["text"], row["text_pair"]), strict=False))
        cells.update({source.columns[task]: row[label_field(task)] for task in tasks if task in source.columns})
        # A derived task repeats its source's reason.
        rejected.write(source.path, row["line"], split, "; ".join(dict.fromkeys(reasons[position])), cells)


def _summary(split: Split, tasks: Mapping[str, Task]) -> dict[str, Any]:
    summary: dict[str, Any] = {"rows": len(split), "labelled": {}, "tasks": {}}
    for name, task in tasks.items():
        targets = split.targets[name]
        has = ~np.isnan(targets if targets.ndim == 1 else targets[:, 0])
        summary["labelled"][name] = int(has.sum())
        summary["tasks"][name] = task.summary(targets) if has.any() else None
    return summary


def _warnings(report: Mapping[str, Any]) -> list[str]:
    """What a reader of the report should not overlook, in words."""
    warnings = [
        f"{leak['rows']} rows of {pair.split('/')[0]} have a text that is in {pair.split('/')[1]} too. "
        "Set data.drop_leaks to leave them out."
        for pair, leak in report["leaks"].items()
        if leak["rows"] and not leak["dropped"]
    ]
    for name, summary in report["splits"].items():
        warnings += [
            f"no row of {name} carries a label of '{task}'" for task, n in summary["labelled"].items() if not n
        ]
    for task, summary in report["splits"]["train"]["tasks"].items():
        warnings += [
            f"classes of '{task}' that read alike: {names}" for names in _alike((summary or {}).get("counts", {}))
        ]
    return warnings


def _alike(names: Iterable[str]) -> list[str]:
    """Names that differ only in white space, in what cannot be seen, or in how Unicode writes a letter."""
    groups: dict[str, list[str]] = {}
    for name in names:
        plain = unicodedata.normalize("NFKC", name) if len(name) <= 1_000 else name
        shown = "".join(c for c in plain if unicodedata.category(c) not in ("Cf", "Cc"))
        groups.setdefault(" ".join(shown.split()), []).append(name)
    return [", ".join(ascii(name[:60]) for name in group) for group in groups.values() if len(group) > 1]
