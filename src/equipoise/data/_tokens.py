"""Token batches: texts -> token numbers in an Arrow file, once -> padded tensors, every step."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from equipoise.data._split import Split
from equipoise.errors import DataError

if TYPE_CHECKING:
    import torch

__all__ = ["Collator", "TokenSplit", "tokenise"]

#: Rows a record batch; all but the last hold exactly so many, so that a row is found by one division.
_CHUNK_ROWS = 8192

Tokens = NDArray[np.int32]


class TokenSplit:
    """A tokenised split: a map-style dataset of rows without padding, memory-mapped. Crosses processes as its paths.

    A row is `{"input_ids": int32 [length], "token_type_ids": int32 [length] (if the tokenizer makes them), "targets":
    {task: float32 scalar or [classes]}}`. Its arrays are views of the file: copy before writing to them.

    Attributes:
        split: the split that it was made from.
        lengths: `[n]` int32, tokens a row.
        truncated: how many rows were longer than the model reads.
        token_types: whether rows carry `token_type_ids`.
    """

    def __init__(self, path: str | Path, split: Split) -> None:
        self.path = Path(path)
        self.split = split
        with pa.memory_map(str(self.path)) as source:
            table = pa.ipc.open_file(source).read_all()
        self.truncated = int(pc.sum(table.column("cut")).as_py() or 0)
        self.token_types = "token_type_ids" in table.schema.names
        self._ids = [_views(chunk) for chunk in table.column("input_ids").chunks]
        self._types = [_views(chunk)[0] for chunk in table.column("token_type_ids").chunks] if self.token_types else []
        lengths = [np.diff(offsets) for _, offsets in self._ids]
        self.lengths: Tokens = np.concatenate(lengths) if lengths else np.empty(0, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    def __reduce__(self) -> tuple[type[TokenSplit], tuple[Path, Split]]:
        return TokenSplit, (self.path, self.split)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        chunk, row = divmod(int(index) % len(self), _CHUNK_ROWS)
        values, offsets = self._ids[chunk]
        start, end = offsets[row], offsets[row + 1]
        item: dict[str, Any] = {"input_ids": values[start:end]}
        if self.token_types:
            item["token_type_ids"] = self._types[chunk][start:end]
        item["targets"] = {task: targets[index] for task, targets in self.split.targets.items()}
        return item

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The rows of a whole batch: what torch's loader calls where it finds it."""
        return [self[index] for index in indices]


def _views(lists: pa.ListArray) -> tuple[Tokens, Tokens]:
    """The numbers of all rows, and where each row starts in them. No copy."""
    return lists.values.to_numpy(), lists.offsets.to_numpy()


def tokenise(split: Split, tokenizer: Any, *, max_length: int, folder: Path, name: str) -> TokenSplit:
    """Tokenises a split to disk, some thousand rows at a time.

    Args:
        split: the texts, or pairs of texts.
        tokenizer: a Hugging Face tokenizer.
        max_length: the most tokens a row may have, special tokens included; the rest is cut off (of a pair, from the
            longer text first).
        folder: where to.
        name: the file's name, less `.tokens.arrow`.

    Raises:
        DataError: the tokenizer makes no token of a text.
    """
    path = folder / f"{name}.tokens.arrow"
    temporary = folder / f"{name}.tokens.arrow.tmp"
    writer: Any = None
    for start in range(0, len(split), _CHUNK_ROWS):
        rows = np.arange(start, min(start + _CHUNK_ROWS, len(split)))
        batch = _encode(split.text_list(rows), split.pair_list(rows), tokenizer, max_length)
        empty = np.flatnonzero(np.diff(batch.column("input_ids").offsets.to_numpy()) == 0)
        if len(empty):
            where = split.where(start + int(empty[0]))
            raise DataError(f"{where}: the tokenizer makes no token of this text. Remove the row or mend its text.")
        if writer is None:
            writer = pa.ipc.new_file(str(temporary), batch.schema)
        writer.write_batch(batch)
    writer.close()
    os.replace(temporary, path)
    return TokenSplit(path, split)


def _encode(texts: list[str], pairs: list[str] | None, tokenizer: Any, max_length: int) -> pa.RecordBatch:
    encoded = tokenizer(
        texts, pairs, truncation=True, max_length=max_length, return_attention_mask=False, verbose=False
    )
    ids = encoded["input_ids"]
    if encoded.encodings is not None:
        # Looking at the overflow copies it, so only rows that fill the length are asked.
        cut = [
            len(row) >= max_length and bool(code.overflowing) for row, code in zip(ids, encoded.encodings, strict=True)
        ]
    else:  # a tokenizer written in Python does not say: rows that just fit count as cut
        cut = [len(row) >= max_length for row in ids]
    columns = {"input_ids": pa.array(ids, type=pa.list_(pa.int32())), "cut": pa.array(cut)}
    if "token_type_ids" in encoded:
        columns["token_type_ids"] = pa.array(encoded["token_type_ids"], type=pa.list_(pa.int32()))
    return pa.RecordBatch.from_pydict(columns)


class Collator:
    """Pads rows of a `TokenSplit` to the longest of the batch. Holds numbers only, so it crosses processes.

    Args:
        tokenizer: the tokenizer that made the rows; its padding token, side and token type are read, no more.
        tasks: the tasks whose targets go into a batch.
        pad_to_multiple_of: round the length up, for tensor cores; None does not.
        max_length: where rounding up ends: the model may read no more.

    Example:
        >>> from types import SimpleNamespace
        >>> tokenizer = SimpleNamespace(pad_token_id=0, padding_side="right", pad_token_type_id=0)
        >>> rows = [{"input_ids": np.array([5, 6]), "targets": {"score": 0.5}},
        ...         {"input_ids": np.array([7]), "targets": {"score": float("nan")}}]
        >>> batch = Collator(tokenizer, ["score"])(rows)
        >>> batch["input_ids"].tolist(), batch["attention_mask"].tolist(), batch["targets"]["score"].tolist()
        ([[5, 6], [7, 0]], [[1, 1], [1, 0]], [0.5, nan])
    """

    def __init__(
        self,
        tokenizer: Any,
        tasks: Sequence[str] | Mapping[str, Any],
        pad_to_multiple_of: int | None = None,
        max_length: int | None = None,
    ) -> None:
        # Without a padding token any number will do: the attention mask hides it.
        candidates = (tokenizer.pad_token_id, getattr(tokenizer, "eos_token_id", None), 0)
        self.pad_token_id = next(int(token) for token in candidates if token is not None)
        self.pad_token_type_id = int(getattr(tokenizer, "pad_token_type_id", 0) or 0)
        self.left = tokenizer.padding_side == "left"
        self.tasks = list(tasks)
        self.pad_to_multiple_of, self.max_length = pad_to_multiple_of, max_length

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Makes a batch.

        Args:
            rows: `[b]` rows as `TokenSplit` gives them; `targets` may be absent.

        Returns:
            `input_ids`, `attention_mask` and, where rows carry them, `token_type_ids`: int64 `[b, length]`; `targets`:
            task -> float32 `[b]` or `[b, classes]`, NaN where a row carries no label; `labelled`: task -> int64 `[n_t]`, the
            rows that carry one.
        """
        import torch  # the rest of the room reads tables without it

        lengths = np.array([len(row["input_ids"]) for row in rows])
        longest = int(lengths.max())
        if self.pad_to_multiple_of:
            rounded = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
            longest = rounded if self.max_length is None else max(longest, min(rounded, self.max_length))
        places = np.arange(longest)
        filled = places >= (longest - lengths)[:, None] if self.left else places < lengths[:, None]
        batch: dict[str, Any] = {
            "input_ids": self._pad([row["input_ids"] for row in rows], filled, self.pad_token_id),
            "attention_mask": torch.from_numpy(filled.astype(np.int64)),
        }
        if "token_type_ids" in rows[0]:
            types = [row["token_type_ids"] for row in rows]
            batch["token_type_ids"] = self._pad(types, filled, self.pad_token_type_id)
        if "targets" in rows[0]:
            targets = {task: np.array([row["targets"][task] for row in rows], dtype=np.float32) for task in self.tasks}
            batch["targets"] = {task: torch.from_numpy(values) for task, values in targets.items()}
            # Here, because on a GPU to look for them would be to wait for it, once for each task.
            labelled = {task: ~np.isnan(values.reshape(len(rows), -1)[:, 0]) for task, values in targets.items()}
            batch["labelled"] = {task: torch.from_numpy(np.flatnonzero(found)) for task, found in labelled.items()}
        return batch

    @staticmethod
    def _pad(values: list[Tokens], filled: NDArray[np.bool_], padding: int) -> torch.Tensor:
        import torch

        padded = np.full(filled.shape, padding, dtype=np.int64)
        # Row by row, left to right, is the order in which a mask is filled, on either side.
        padded[filled] = np.concatenate(values)
        return torch.from_numpy(padded)
