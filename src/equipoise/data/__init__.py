"""Files -> checked rows -> label encodings -> token batches.

    open_table   any table as strings, broken rows in their places
    prepare      tables -> fitted tasks and checked splits on disk
    tokenise     a split -> token numbers on disk; `Collator` pads a batch of them
    samplers     the order of rows in an epoch
    guess        a table nobody has described yet -> a first recipe

Memory does not grow with the rows but for a few numbers each: everything streams into Arrow files in the run's folder,
and is memory-mapped from there. Nothing is dropped silently: each row that cannot be used is in `rejected.jsonl` with
its file, line and reason, and a text that is in two splits is counted.
"""

from equipoise.data._assign import text_hashes
from equipoise.data._guess import Column, Guess, guess
from equipoise.data._plan import TableSpec
from equipoise.data._prepare import Prepared, prepare
from equipoise.data._readers import open_table
from equipoise.data._recipe_text import recipe_text
from equipoise.data._samplers import LengthGroupedSampler, ShuffleSampler
from equipoise.data._split import Split
from equipoise.data._subset import TokenSubset, hold_out
from equipoise.data._table import RowBatch, Table
from equipoise.data._tokens import Collator, TokenSplit, tokenise

__all__ = [
    "Collator",
    "Column",
    "Guess",
    "LengthGroupedSampler",
    "Prepared",
    "RowBatch",
    "ShuffleSampler",
    "Split",
    "Table",
    "TableSpec",
    "TokenSplit",
    "TokenSubset",
    "guess",
    "hold_out",
    "open_table",
    "prepare",
    "recipe_text",
    "text_hashes",
    "tokenise",
]
