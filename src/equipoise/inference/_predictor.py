"""A trained model in memory, and what it says about texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from equipoise.data import Collator
from equipoise.errors import DataError, RunError
from equipoise.models import LoadedModel, forward_all, load_model, slices
from equipoise.runs import Run
from equipoise.tasks import Task

__all__ = ["Model", "load"]


class Model:
    """Predicts every task's value for texts; made by `equipoise.load`.

    Args:
        loaded: a saved model in memory.
        device: where it runs; None = a GPU if there is one.
        max_tokens: of one batch, padding included: more is faster until memory ends.

    Attributes:
        tasks: name -> task.
        text: the names of the text column, or of the two of a pair.
    """

    def __init__(
        self, loaded: LoadedModel, *, device: str | torch.device | None = None, max_tokens: int = 8192
    ) -> None:
        self._loaded, self._max_tokens = loaded, max_tokens
        self.tasks: Mapping[str, Task] = loaded.sidecar.tasks
        self.text: tuple[str, ...] = loaded.sidecar.text
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._loaded.model.to(self.device)
        self._slices = slices(self.tasks)
        self._collate = Collator(loaded.tokenizer, {})

    def predict(self, texts: Sequence[str] | Sequence[Sequence[str]] | pd.DataFrame) -> pd.DataFrame:
        """Predicts all tasks.

        Args:
            texts: texts, pairs of texts (if the model was trained on pairs), or a table with the recipe's text columns.

        Returns:
            One row per text in the order given: `<task>` is the score in the user's units or the class's name,
            `<task>/<class>` its probability. A table keeps its index.

        Raises:
            DataError: a text is missing, empty or no text; the message says which.
        """
        columns, index = self._columns(texts)
        outputs = self.outputs(*columns)
        return pd.DataFrame(self.read(outputs), index=index)

    def outputs(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> NDArray[np.float32]:
        """Raw outputs of all heads, `[n, outputs]`; `read` makes predictions of them."""
        if not len(texts):
            return np.empty((0, sum(task.size for task in self.tasks.values())), dtype=np.float32)
        encoded = self._loaded.tokenizer(
            list(texts),
            None if pairs is None else list(pairs),
            truncation=True,
            max_length=self._loaded.sidecar.max_length,
            return_attention_mask=False,
            verbose=False,
        )
        rows = [
            {"targets": {}, **{key: np.asarray(encoded[key][i], dtype=np.int32) for key in encoded}}
            for i in range(len(texts))
        ]
        lengths = [len(ids) for ids in encoded["input_ids"]]
        return forward_all(self._loaded.model, rows, lengths, self._collate, max_tokens=self._max_tokens)

    def read(self, outputs: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Prediction columns of raw outputs `[n, outputs]`."""
        columns: dict[str, NDArray[Any]] = {}
        for name, task in self.tasks.items():
            columns |= task.predict(outputs[:, self._slices[name]])
        return columns

    def records(self, outputs: NDArray[np.float32]) -> list[dict[str, Any]]:
        """One plain mapping a row of raw outputs `[n, outputs]`, ready for JSON.

        A score is a number; a class task is `{"value": name, "probabilities": {class: share}}`.
        """
        rows: list[dict[str, Any]] = [{} for _ in outputs]
        for name, task in self.tasks.items():
            columns = task.predict(self.task_outputs(outputs, name))
            values = columns.pop(name).tolist()
            classes = {column.removeprefix(f"{name}/"): found.tolist() for column, found in columns.items()}
            for at, (row, value) in enumerate(zip(rows, values, strict=True)):
                probabilities = {label: found[at] for label, found in classes.items()}
                row[name] = {"value": value, "probabilities": probabilities} if probabilities else value
        return rows

    def task_outputs(self, outputs: NDArray[np.float32], task: str) -> NDArray[np.float32]:
        """One task's part of raw outputs."""
        return outputs[:, self._slices[task]]

    def _columns(self, texts: Any) -> tuple[list[list[str]], Any]:
        wanted = len(self.text)
        if isinstance(texts, pd.DataFrame):
            missing = [name for name in self.text if name not in texts.columns]
            if missing:
                raise DataError(
                    f"the table has no column '{missing[0]}'. The model reads {', '.join(self.text)}; "
                    f"found {', '.join(map(str, texts.columns))}"
                )
            columns, index = [texts[name].tolist() for name in self.text], texts.index
        elif isinstance(texts, str):
            raise DataError("predict takes a list of texts, found one text. Write predict([text])")
        else:
            rows: list[Any] = list(texts)
            if wanted == 1:
                columns = [rows]
            else:
                for position, row in enumerate(rows):
                    if isinstance(row, str) or not isinstance(row, list | tuple) or len(row) != wanted:
                        raise DataError(
                            f"text {position}: the model was trained on pairs ({', '.join(self.text)}); found {row!r}"
                        )
                columns = [[row[i] for row in rows] for i in range(wanted)]
            index = None
        for name, column in zip(self.text, columns, strict=True):
            for position, value in enumerate(column):
                if not isinstance(value, str) or not value.strip():
                    what = "is empty" if isinstance(value, str) else f"is no text: {value!r}"
                    raise DataError(f"text {position} ({name}) {what}")
        return columns, index


def load(run: Run | str | Path, *, device: str | torch.device | None = None) -> Model:
    """Loads a trained run, or a model folder alone, for prediction.

    Args:
        run: a run, its folder, or its `model` folder.
        device: where it runs; None = a GPU if there is one.

    Raises:
        RunError: there is no such run, it is not finished, or it is damaged.
    """
    folder = run.folder if isinstance(run, Run) else Path(run)
    if not (folder / "multitask.json").is_file():
        folder = Run.open(folder).model_folder
    try:
        return Model(load_model(folder), device=device)
    except OSError as error:
        raise RunError(f"{folder} cannot be read: {error}") from error
