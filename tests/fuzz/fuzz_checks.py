"""What must hold of any input at all: it is read, or refused in one clear message. Used by hypothesis and by atheris."""

from __future__ import annotations

import json
import re
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[1]
for room in ("data", "report"):
    if str(TESTS / room) not in sys.path:
        sys.path.insert(0, str(TESTS / room))

from nasty.case import StubModel  # noqa: E402

from equipoise import recipe  # noqa: E402
from equipoise.data import TableSpec, guess, open_table, prepare, recipe_text  # noqa: E402
from equipoise.errors import DataError, EquipoiseError  # noqa: E402
from equipoise.inference import predict_file  # noqa: E402
from equipoise.models import Sidecar, slices  # noqa: E402
from equipoise.report._run_facts import read_run  # noqa: E402
from equipoise.runs import Run  # noqa: E402
from equipoise.tasks import kind  # noqa: E402

__all__ = ["init", "recipe_mapping", "recipe_yaml", "run_folder", "sidecar", "table", "written_again"]

TASKS = {
    "label": kind("classification").Settings.model_validate({"type": "classification"}),
    "score": kind("regression").Settings.model_validate({"type": "regression", "range": [-1, 1]}),
    "tags": kind("multilabel").Settings.model_validate({"type": "multilabel", "column": "label"}),
}

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? *|-inf")  # the last is a number of parquet's
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clear(error: EquipoiseError) -> None:
    """A message is there, short, without what a terminal would obey; of data, one line."""
    message = str(error)
    assert message.strip()
    assert not _UNSEEN.search(message), repr(message)
    if isinstance(error, DataError):
        assert "\n" not in message
        assert len(message) < 5000


def refused(work: Callable[[], object]) -> bool:
    """Does something; whether it was refused as it should be. Anything else that is raised goes through."""
    try:
        work()
    except EquipoiseError as error:
        clear(error)
        return True
    return False


def table(file: str, data: bytes, folder: Path) -> None:
    """A table of any bytes, at every door."""
    path = folder / file
    path.write_bytes(data)
    rows = 0

    def read() -> None:
        nonlocal rows
        for batch in open_table(path, batch_rows=3, needed=["text", "label"]):
            assert len(batch.lines) == batch.rows.num_rows
            assert all(0 <= position < len(batch.lines) for position in batch.errors)
            assert batch.lines == sorted(batch.lines)
            for column in batch.rows.columns:
                assert all(value is None or isinstance(value, str) for value in column.to_pylist())
            rows += len(batch.lines)

    if refused(read):
        return
    found: list[Any] = []
    tables = [TableSpec(str(path), "text")]
    options = {"validation": None, "test": None, "seed": 0, "drop_leaks": False, "max_rejected": 1.0, "folder": folder}
    if not refused(lambda: found.append(prepare(tables, TASKS, **options))):
        report = found[0].report
        assert report["rows_read"] == rows
        assert report["rows_rejected"] + len(found[0].splits["train"]) == rows, "rows got lost"
    kinds = ("csv", "jsonl", "parquet")
    written_again(path, folder, [kinds[zlib.crc32(data) % 3]])


def written_again(path: Path, folder: Path, kinds: Sequence[str], **options: Any) -> None:
    """Predicts a table into some kinds of file; what was written reads back, with as many rows."""
    model: Any = StubModel()
    for kind_ in kinds:
        output = folder / f"out.{kind_}"
        output.unlink(missing_ok=True)
        counts: list[Any] = []

        def predict(output: Path = output, counts: list[Any] = counts) -> None:
            counts.append(predict_file(model, path, output, batch_rows=4, **options))

        if refused(predict):
            assert not output.exists()
            continue
        assert sum(len(batch.lines) for batch in open_table(output)) == counts[0].rows
        if kind_ == "csv" and not options:
            no_formulas(output)


def no_formulas(output: Path) -> None:
    """No cell begins as a formula does, but for plain numbers."""
    import csv

    with output.open(encoding="utf-8", newline="") as file:
        csv.field_size_limit(1 << 27)
        for row in csv.reader(file):
            for cell in row:
                begins = cell[:1] in set("=+-@\t\r\n＝＋－＠") and cell
                assert not begins or _NUMBER.fullmatch(cell), repr(cell)


def init(file: str, data: bytes, folder: Path) -> None:
    """The recipe that is written for a table is one, and names columns of the table."""
    path = folder / file
    path.write_bytes(data)
    texts: list[str] = []
    if refused(lambda: texts.append(recipe_text(guess(path), path))):
        return
    (folder / "recipe.yaml").write_text(texts[0], encoding="utf-8")
    loaded = recipe.load(folder / "recipe.yaml")
    columns = open_table(path).columns
    assert loaded.data.text in columns
    assert {task.column for task in loaded.tasks.values()} <= set(columns)


def recipe_yaml(data: bytes, folder: Path) -> None:
    """A recipe of any bytes; one that is sound is the same when it is written down and read again."""
    path = folder / "any.yaml"
    path.write_bytes(data)
    recipe_of(path, folder)


def recipe_mapping(data: Mapping[str, Any], folder: Path) -> None:
    """The same from Python."""
    recipe_of(data, folder)


def recipe_of(source: Path | Mapping[str, Any], folder: Path) -> None:
    found: list[Any] = []
    if refused(lambda: found.append(recipe.load(source))):
        return
    again = folder / "again.yaml"
    again.write_text(recipe.dump(found[0]), encoding="utf-8")
    assert recipe.dump(recipe.load(again)) == recipe.dump(found[0])


def sidecar(data: bytes, folder: Path) -> None:
    """`multitask.json` of any bytes; what is taken can predict and be written again."""
    (folder / "multitask.json").write_bytes(data)
    found: list[Sidecar] = []
    if refused(lambda: found.append(Sidecar.read(folder))):
        return
    read = found[0]
    rng = np.random.default_rng(0)
    places = slices(read.tasks)
    for name, task in read.tasks.items():
        where = places[name]
        outputs = rng.normal(size=(4, where.stop - where.start)).astype(np.float32)
        columns = task.predict(outputs)
        assert name in columns
        assert all(len(values) == 4 for values in columns.values())
    (folder / "multitask.json").unlink()
    read.write(folder)
    assert Sidecar.read(folder).tasks == read.tasks


def run_folder(name: str, data: bytes, folder: Path) -> None:
    """One file of a finished run replaced by any bytes: whoever reads the run reads it or says which file is damaged."""
    path = folder / name
    before = path.read_bytes()
    try:
        path.write_bytes(data)
        refused(lambda: Run.open(folder))  # a newer format is told here
        run = Run(folder)
        refused(lambda: run.metrics)
        refused(lambda: run.history)
        refused(lambda: read_run(folder))
        refused(lambda: recipe.load(run.recipe_file))
        refused(lambda: Sidecar.read(run.model_folder))
        found: list[Any] = []
        if not refused(lambda: found.append(run.history)):
            assert all(isinstance(line, dict) for line in found[0])
            assert len(found[0]) <= data.count(b"\n") or name != "history.jsonl"
    finally:
        path.write_bytes(before)


def as_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()
