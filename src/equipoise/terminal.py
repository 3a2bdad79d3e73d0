r"""What reaches a terminal. Text that came from data can't colour it, clear it, move its cursor or turn its reading direction.

Errors write out such signs themselves (`errors.py`); this is for everything else that is printed: use this `Console`, and
`visible` or `json_text` for plain lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import rich.console
from rich.segment import Segment

__all__ = ["Console", "json_text", "visible"]

#: Control characters but tab and line feed, other systems' line ends, and what turns the direction of reading.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""Text with such signs written out.

    Example:
        >>> print(visible("a\x1b[2Jb"))
        a\x1b[2Jb
    """
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def json_text(data: Any, **options: Any) -> str:
    r"""JSON in which letters stay as they are and such signs are escaped; it reads back as the same.

    Example:
        >>> print(json_text({"é": "\x9b2J"}))
        {"é": "\u009b2J"}
    """
    text = json.dumps(data, ensure_ascii=False, **options)
    return UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}" if found[0] not in "\r\n" else found[0], text)


class Console(rich.console.Console):
    """rich's console, for text of which some came from data: `[red]` and `[link=...]` in it are words, and nothing else is seen
    by the terminal but what rich itself puts there. Styles are given by `Text` and `style=`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})

    def render(self, renderable: Any, options: rich.console.ConsoleOptions | None = None) -> Iterable[Segment]:
        """Pieces of text with their styles; the control codes of rich's own are pieces of another kind."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)
