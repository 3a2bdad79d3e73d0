"""A guess written down as a commented recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from equipoise.data._guess import Column, Guess

__all__ = ["recipe_text"]

_TYPES = {"score": "regression", "class": "classification", "multilabel": "multilabel", "ordinal": "ordinal"}
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Words that YAML 1.1 reads as something else than themselves.
_RESERVED = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}

_RECIPE = """\
# Written by `equipoise init` from the first {rows} rows of {name}. Look it over, then:
#   equipoise train {this}
{broken}
model:
  backbone: minilm          # ships as a package, needs no network; or a Hugging Face id or a local path
  pooling: auto             # auto | native | mean | cls | last
  adapter: null             # null = train every weight; or {{type: lora, rank: 16}}
  max_length: {max_length:<4}          # tokens; 95 % of the texts have at most {words} words

data:
  train: {path}
  validation: 0.1           # a share of the training rows, or a file
  test: null                # a share, a file, or null
  text: {text}    # {text_why}
  max_rejected: 0.05        # stop where this share of the rows cannot be used; they are listed in rejected.jsonl
{ignored}
tasks:
{tasks}

balance:
  method: auto              # DAO; `equipoise balancers` lists the others, `equipoise compare` tries them

training:
  epochs: 4
  batch_size: 32
  learning_rate: auto       # by the backbone's width; minilm: 2.0e-4
  seed: 0                   # decides the split, the order of rows and the heads' first weights
  precision: auto           # auto | fp32 | bf16 | fp16

output: {output}            # the run folder
"""


def recipe_text(guess: Guess, path: str | Path, recipe: str | Path = "recipe.yaml") -> str:
    """Writes a guess as a YAML recipe with a comment on every choice.

    Args:
        guess: what the table seems to hold.
        path: the table, as the recipe shall name it.
        recipe: the recipe's own name, for the command that its first lines tell.
    """
    stem = re.sub(r"[^\w-]+", "_", Path(str(path).removeprefix("hub:")).name.split(".")[0]) or "run"
    names: dict[str, str] = {}
    for column in guess.tasks:
        names[_task_name(column.name, names)] = column.name
    tasks = [_task(name, column) for name, column in zip(names, guess.tasks, strict=True)]
    ignored = [f"  #   {_comment(column.name)}: {_comment(column.why)}" for column in guess.ignored]
    return _RECIPE.format(
        rows=guess.rows,
        name=_comment(Path(path).name),
        this=_comment(str(recipe)),
        broken=f"# {guess.broken} of these rows cannot be read; training will list them.\n" if guess.broken else "",
        max_length=next((length for length in (64, 128, 256) if guess.words * 1.5 + 2 <= length), 512),
        words=guess.words,
        path=_scalar(str(path)),
        text=_scalar(guess.text.name),
        text_why=_comment(guess.text.why),
        ignored="\n".join(["  # Columns left out:", *ignored, ""]) if ignored else "",
        tasks="\n".join(tasks),
        output=_scalar(f"runs/{stem}"),
    )


def _task(name: str, column: Column) -> str:
    settings = {"type": _TYPES[column.role], "column": column.name, **column.settings}
    body = ", ".join(f"{key}: {_scalar(value)}" for key, value in settings.items())
    note = [f"  # Note: {_comment(column.note)}."] if column.note else []
    return "\n".join([f"  # {_comment(column.why)}", *note, f"  {_scalar(name)}: {{{body}}}"])


def _task_name(column: str, taken: dict[str, str]) -> str:
    """A column's name with nothing but letters, digits, `_`, `-` and spaces in it, and no other task's name."""
    # YAML reads no key of more than 1,024 characters.
    base = re.sub(r"[^\w -]+", "_", column)[:60].strip(" -") or "task"
    number = 2
    name = base
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    return name


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_scalar(item) for item in value) + "]"
    if not isinstance(value, str):
        return yaml.safe_dump(value).split("\n")[0]
    if _PLAIN.fullmatch(value) and value.casefold() not in _RESERVED:
        return value
    return yaml.safe_dump(value, default_style='"', allow_unicode=True, width=float("inf")).strip()


def _comment(text: str) -> str:
    """One printable line: a column's name may hold anything."""
    return "".join(character if character.isprintable() else " " for character in text)
