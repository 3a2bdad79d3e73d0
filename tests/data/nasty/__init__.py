"""Nasty tables, made by us. Each says what must become of it; tests/data/test_data_nasty.py holds the readers to it."""

from nasty import (
    nasty_csv,
    nasty_encodings,
    nasty_jsonl,
    nasty_labels,
    nasty_packed,
    nasty_parquet,
    nasty_places,
    nasty_sizes,
    nasty_texts,
)
from nasty.case import Case, in_room

__all__ = ["BIG", "SMALL"]

_ROOMS = {
    "encoding": nasty_encodings,
    "text": nasty_texts,
    "csv": nasty_csv,
    "label": nasty_labels,
    "json lines": nasty_jsonl,
    "parquet": nasty_parquet,
    "packed": nasty_packed,
    "place": nasty_places,
}

#: Those that are read in a moment.
SMALL: list[Case] = [case for room, module in _ROOMS.items() for case in in_room(room, module.CASES)]
#: Those that would fill a machine's memory if they were let.
BIG: list[Case] = list(in_room("size", nasty_sizes.CASES))
