"""One way into every kind of table: `open_table`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from equipoise.data._csv import open_csv
from equipoise.data._hub import open_hub
from equipoise.data._jsonl import open_jsonl
from equipoise.data._parquet import open_parquet
from equipoise.data._table import Table
from equipoise.data._text_files import check_file
from equipoise.errors import DataError

__all__ = ["SUFFIXES", "open_table"]

#: The file kinds that can be read. All but parquet also with `.gz` behind.
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def open_table(source: str | Path, *, batch_rows: int = 8192, needed: Sequence[str] = ()) -> Table:
    """Opens a table of text and labels.

    Args:
        source: a file (`.csv`, `.tsv`, `.jsonl`, `.ndjson`, `.parquet`; all but the last also gzipped), or
            `hub:org/name[:config][@split]`.
        batch_rows: how many rows a batch holds at most.
        needed: columns that the caller will ask for. JSON lines need to know, because a column may first appear deep in
            the file; of parquet, only these columns can make a row unusable.

    Raises:
        DataError: the source does not exist, is of no known kind, or cannot be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "reviews.csv"
        >>> _ = path.write_text("text,score\\nWe like it,0.9\\nNA,\\n")
        >>> table = open_table(path)
        >>> table.columns
        ['text', 'score']
        >>> [(batch.rows.to_pylist(), batch.lines) for batch in table]
        [([{'text': 'We like it', 'score': '0.9'}, {'text': 'NA', 'score': None}], [2, 3])]
    """
    name = str(source)
    if name.startswith("hub:"):
        return open_hub(name, batch_rows=batch_rows)
    path = Path(source)
    there = check_file(path, name)
    suffix, zipped = path.suffix.lower(), False
    if suffix == ".gz":
        suffix, zipped = Path(path.stem).suffix.lower(), True
    if suffix not in SUFFIXES or (zipped and suffix == ".parquet"):
        shown = f"{suffix}.gz" if zipped else suffix
        raise DataError(
            f"{name}: cannot read files of kind '{shown}'. Known: {', '.join(SUFFIXES)} (all but .parquet also with .gz), "
            "or hub:org/name."
        )
    if not there:
        raise DataError(f"{name}: no such file (looked in {path.parent.resolve()}).")
    if suffix == ".parquet":
        return open_parquet(path, name, batch_rows=batch_rows, needed=needed)
    if suffix in (".jsonl", ".ndjson"):
        return open_jsonl(path, name, batch_rows=batch_rows, needed=needed)
    return open_csv(path, name, delimiter="\t" if suffix == ".tsv" else ",", batch_rows=batch_rows)
