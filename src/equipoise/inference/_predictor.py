"""A trained model in memory, and what it says about texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from equipoise.data import Collator
from equipoise.errors import DataError, RecipeError, RunError
from equipoise.inference._engine import Engine, TorchEngine
from equipoise.inference._onnx import ONNX_FILE, OnnxEngine
from equipoise.models import (
    SIDECAR,
    LoadedModel,
    Sidecar,
    find_danger,
    load_backbone,
    load_model,
    pick_device,
    run_batches,
    slices,
)
from equipoise.runs import Run
from equipoise.tasks import Task

__all__ = ["Model", "load"]


class Model:
    """Predicts every task's value for texts; made by `equipoise.load`.

    Args:
        loaded: a saved model in memory; it belongs to this one from here on.
        device: where it runs; None = a GPU if there is one.
        precision: `fp32`; `bf16`; `auto`, bf16 where the hardware has it.
        max_tokens: of one batch, padding included; None is what suits the device.
        engine: what computes in place of `loaded.model`.
        exact: loads the model in float32, for what needs gradients; None where `loaded` is it.

    Attributes:
        tasks: name -> task.
        text: the names of the text column, or of the two of a pair.
        device: where it runs.
        precision: `fp32`, `bf16` or `int8`.
        max_tokens: of one batch.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        device: str | torch.device | None = None,
        precision: str = "fp32",
        max_tokens: int | None = None,
        engine: Engine | None = None,
        exact: Callable[[], LoadedModel] | None = None,
    ) -> None:
        self._loaded, self._exact = loaded, exact
        self.tasks: Mapping[str, Task] = loaded.sidecar.tasks
        self.text: tuple[str, ...] = loaded.sidecar.text
        self._engine: Engine = engine or TorchEngine(
            loaded.model, torch.device(device) if device is not None else pick_device(), precision
        )
        self.device, self.precision = self._engine.device, self._engine.precision
        if engine is None and self.precision == "fp32":
            self._exact = None  # this one is it: its files may be others by the time that gradients are asked for
        self.max_tokens = max_tokens or self._engine.max_tokens
        self._slices = slices(self.tasks)
        # oneDNN keeps a kernel for every shape that it has seen: of lengths that are multiples of eight there are few, so
        # that memory does not grow with the requests, and most batches find theirs.
        self._collate = Collator(loaded.tokenizer, {}, pad_to_multiple_of=8, max_length=loaded.sidecar.max_length)

    def exact(self) -> LoadedModel:
        """The model with float32 weights, for what needs gradients. Where this one has others, it is loaded when first asked.

        Raises:
            RunError: it is not there any more, or there never were weights (an ONNX folder).
        """
        if self._exact is not None:
            self._loaded, self._exact = self._exact(), None
            self._loaded.model.to(self.device)
        return self._loaded

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
        found = run_batches(self._engine.compute, rows, lengths, self._collate, max_tokens=self.max_tokens)
        assert found is not None  # there is a text
        return found

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


def load(
    run: Run | str | Path,
    *,
    device: str | torch.device | None = None,
    precision: str = "auto",
    max_tokens: int | None = None,
    threads: int | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Loads a trained run, a model folder alone, or an ONNX export of one, for prediction.

    Args:
        run: a run, its folder, its `model` folder, or a folder that `equipoise export --format onnx` wrote.
        device: where it runs; None = a GPU if there is one. ONNX exports run on the processor.
        precision: `fp32`; `bf16`; `auto`, bf16 where the hardware multiplies it. `metrics.json` was measured in float32;
            bf16 changes the last digits. An ONNX export has the precision that it was written in.
        max_tokens: of one batch, padding included; None is what suits the device.
        threads: processor threads, of the whole process where torch computes; None leaves them as they are.
        trust_remote_code: run the code that the model brings along. Only for a run whose code you have read; otherwise a run
            that needs it is refused.

    Raises:
        RunError: there is no such run, it is not finished, it is damaged, or it holds what must not be in it.
    """
    folder = run.folder if isinstance(run, Run) else Path(run)
    if not (folder / SIDECAR).is_file():
        folder = Run.open(folder).model_folder
    try:
        if (folder / ONNX_FILE).is_file():
            return _load_onnx(folder, precision, device, max_tokens, threads)
        if threads is not None:
            torch.set_num_threads(threads)
        return Model(
            load_model(folder, trusted=trust_remote_code),
            device=device,
            precision=precision,
            max_tokens=max_tokens,
            exact=partial(load_model, folder, trusted=trust_remote_code),
        )
    except OSError as error:
        raise RunError(f"{folder} cannot be read: {error}") from error


def _load_onnx(
    folder: Path, precision: str, device: str | torch.device | None, max_tokens: int | None, threads: int | None
) -> Model:
    danger = find_danger(folder)
    if danger is not None:
        raise RunError(danger)
    engine = OnnxEngine(folder, threads=threads)
    if precision not in ("auto", engine.precision):
        raise RunError(
            f"{folder} is an ONNX export in {engine.precision}, found precision '{precision}'. Leave it auto"
        )
    if device is not None and torch.device(device).type != "cpu":
        raise RunError(f"{folder} is an ONNX export, which runs on the processor here, found device '{device}'")
    try:
        tokenizer = load_backbone(str(folder.resolve())).tokenizer
    except RecipeError as error:
        raise RunError(f"{folder}: {error}") from error
    loaded = LoadedModel(model=None, tokenizer=tokenizer, sidecar=Sidecar.read(folder))

    def exact() -> LoadedModel:
        raise RunError(f"{folder} is an ONNX export, which has no gradients. Use the run that it was made of")

    return Model(loaded, max_tokens=max_tokens, engine=engine, exact=exact)
