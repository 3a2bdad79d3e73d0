"""A nasty table and what must become of it."""

# ruff: noqa: PT017  (a refusal is looked at where it comes)

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from equipoise import recipe
from equipoise.data import Prepared, TableSpec, guess, prepare, recipe_text
from equipoise.errors import DataError, EquipoiseError
from equipoise.inference import predict_file

LABEL = {"label": {"type": "classification"}}
SCORE = {"score": {"type": "regression", "range": [-1, 1]}}
FREE_SCORE = {"score": {"type": "regression"}}

HEAD = "text,label\n"
TWO = "good words,pos\nbad words,neg\n"
BASE = HEAD + TWO


@dataclass(frozen=True)
class Case:
    """One table.

    Attributes:
        name: says what is nasty about it.
        content: the file's bytes (text is written as UTF-8), or a function that makes it at a path.
        used: rows that are trained on. None where the table is refused.
        rejected: pattern of a reason -> how many rows have it. Rows read are used or rejected: that is checked of all.
        error: pattern of the one message, where it is refused.
        file: its name.
        tasks: of the recipe.
        text: the text column, or two.
        data: further keys of the recipe's `data`; `{folder}` stands for where the file lies.
        where: the path as the recipe names it, where that is not the file's.
        check: looks closer at what was prepared.
    """

    name: str
    content: bytes | str | Callable[[Path], object] = BASE
    used: int | None = None
    rejected: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
    file: str = "t.csv"
    tasks: Mapping[str, Any] = field(default_factory=lambda: LABEL)
    text: str | Sequence[str] = "text"
    data: Mapping[str, Any] = field(default_factory=dict)
    where: str | None = None
    check: Callable[[Prepared], None] | None = None

    def write(self, folder: Path) -> Path:
        """Makes the file."""
        path = folder / self.file
        if callable(self.content):
            self.content(path)
        else:
            path.write_bytes(self.content.encode() if isinstance(self.content, str) else self.content)
        return path

    def recipe(self, path: Path) -> dict[str, Any]:
        """The recipe for it."""
        train = (
            str(path)
            if self.where is None
            else self.where.replace("{folder}", str(path.parent)).replace("{path}", str(path))
        )
        data = {"train": train, "validation": None, "max_rejected": 1.0, "text": self.text}
        more = {
            key: value.format(folder=path.parent) if isinstance(value, str) else value
            for key, value in self.data.items()
        }
        return {"data": {**data, **more}, "tasks": dict(self.tasks)}


def through_training(case: Case, folder: Path) -> None:
    """As `equipoise train` reads it; fails where anything else comes of it than the case says."""
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    path = case.write(folder / "in")
    try:
        prepared = prepared_of(case.recipe(path), folder / "out")
    except EquipoiseError as error:
        message = str(error)
        assert case.error is not None, f"refused: {message}"
        assert re.search(case.error, message), f"refused with other words: {message}"
        assert "\n" not in message or not isinstance(error, DataError), f"more than a line: {message!r}"
        assert len(message) < 5000, "a message that nobody reads"
        return
    assert case.error is None, f"not refused: {prepared.report}"
    assert prepared.report["rows_rejected"] + used_rows(prepared) == prepared.report["rows_read"], "rows got lost"
    assert used_rows(prepared) == case.used
    reasons = rejected_reasons(folder / "out")
    assert len(reasons) == prepared.report["rows_rejected"], "a rejected row is not written down"
    for pattern, count in case.rejected.items():
        found = [reason for reason in reasons if re.search(pattern, reason)]
        assert len(found) == count, f"{pattern}: {reasons}"
    assert sum(case.rejected.values()) == len(reasons), reasons
    if case.check is not None:
        case.check(prepared)


def prepared_of(settings: Mapping[str, Any], folder: Path) -> Prepared:
    """The rows of a recipe, split and encoded, in a folder."""
    loaded = recipe.load(settings)
    data = loaded.data
    train = data.train
    assert isinstance(train, str)
    return prepare(
        [TableSpec(train, data.text)],
        loaded.tasks,
        validation=data.validation,
        test=data.test,
        seed=0,
        drop_leaks=data.drop_leaks,
        max_rejected=data.max_rejected,
        folder=folder,
        max_train_rows=data.max_train_rows,
    )


def used_rows(prepared: Prepared) -> int:
    return sum(len(split) for split in prepared.splits.values())


def rejected_reasons(folder: Path) -> list[str]:
    lines = (folder / "rejected.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line)["reason"] for line in lines]


def through_init(path: Path) -> str | None:
    """As `equipoise init` reads it: the recipe, which must be one, or None where it is refused in one line."""
    try:
        text = recipe_text(guess(path), path)
    except DataError as error:
        assert "\n" not in str(error)
        return None
    file = path.parent / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    loaded = recipe.load(file)
    assert loaded.data.train == str(path.resolve())
    return text


class StubModel:
    """Stands for a trained model: says of each text how long it is."""

    def __init__(self, text: Sequence[str] = ("text",)) -> None:
        self.text = tuple(text)
        self.tasks = {"length": SimpleNamespace(size=1)}

    def outputs(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Any:
        assert all(isinstance(text, str) and text.strip() for text in texts)
        return np.array([[len(text)] for text in texts], dtype=np.float32).reshape(len(texts), 1)

    def read(self, outputs: Any) -> dict[str, Any]:
        return {"length": outputs[:, 0]}


def through_predict(path: Path, output: Path, text: str | Sequence[str] = "text", **options: Any) -> int | None:
    """As `equipoise predict` reads it: rows in the output, or None where it is refused in one line."""
    model: Any = StubModel([text] if isinstance(text, str) else text)
    try:
        return predict_file(model, path, output, **options).rows
    except DataError as error:
        assert "\n" not in str(error)
        assert not output.exists()
        return None


def in_room(room: str, cases: Iterable[Case]) -> Iterator[Case]:
    """Cases with their room before their name."""
    for case in cases:
        yield replace(case, name=f"{room}: {case.name}")
