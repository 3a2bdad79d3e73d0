"""Markdown of strings that come from data: whatever stands in them, it stays text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

__all__ = ["bullets", "markdown", "plain", "table"]

LONGEST = 200


def plain(text: object, longest: int = LONGEST) -> str:
    r"""One line of text that any file can hold: no line ends, no control characters, no half characters, not too long.

    Example:
        >>> plain("a\n---\nb\x1b[0m")
        'a --- b[0m'
    """
    words = " ".join(str(text).encode("utf-8", "replace").decode("utf-8").split())
    words = "".join(sign for sign in words if unicodedata.category(sign) not in {"Cc", "Cf", "Cs", "Co", "Cn"})
    return words if len(words) <= longest else words[: longest - 1] + "…"


def markdown(text: object, longest: int = LONGEST) -> str:
    r"""Text in a paragraph, a cell or a list. CommonMark lets every sign of punctuation stand behind a backslash.

    Example:
        >>> print(markdown("macro_f1 *|<script>"))
        macro_f1 \*\|&lt;script&gt;
        >>> print(markdown("# see https://x.example"))
        \# see https\://x.example
    """
    text = plain(text, longest)
    marked = re.sub(r"([\\`*{}\[\]#|~$!@&]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.)", r"\\\1", text)
    # Signs that mean something at the beginning only: a list, a rule, a heading's underline.
    marked = re.sub(r"^([-+=]|\d+(?=[.)](\s|$)))", lambda found: _first(found[1]), marked)
    return marked.replace("<", "&lt;").replace(">", "&gt;")


def _first(sign: str) -> str:
    return f"&#{ord(sign[0])};{sign[1:]}" if sign[0].isdigit() else f"\\{sign}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int | None = None) -> str:
    """A table; its cells are Markdown already.

    Args:
        head: the names of the columns.
        rows: cells.
        numbers_from: from this column on, numbers stand right; None: all stand left.
    """
    right = len(head) if numbers_from is None else numbers_from
    rule = ["---" if at < right else "---:" for at in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *rows])


def bullets(lines: Iterable[str]) -> str:
    """A list; its lines are Markdown already."""
    return "\n".join(f"- {line}" for line in lines)
