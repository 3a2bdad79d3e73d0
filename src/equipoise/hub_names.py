"""Names on a model hub, and what could be taken for one: a path, another name that looks alike, a place above.

A name is letters, digits, `-`, `_` and `.`, at most once parted by `/`. Letters are those of ASCII: a Cyrillic `а` makes
another name that nobody sees. `hub:` before a name says that no folder is meant.
"""

from __future__ import annotations

import os
import re

__all__ = ["HUB", "name_problem", "plain_name", "revision_problem", "shadowed"]

HUB = "hub:"
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_-])?"


def plain_name(name: str) -> str:
    """A name without `hub:`."""
    return name.removeprefix(HUB)


def name_problem(name: str, *, owner: bool = False) -> str | None:
    """Why a text is no name on a hub, or None where it is one.

    Args:
        name: without `hub:`.
        owner: whether `OWNER/` must stand before it.

    Example:
        >>> name_problem("org/some-model.v2"), name_problem("../org/model")
        (None, "it has '..' in it, which leads to the folder above")
    """
    strange = next((sign for sign in name if not sign.isprintable() or not sign.isascii()), None)
    if strange is not None:
        return f"it holds {strange!a}, and names are made of ASCII letters, digits, '-', '_' and '.'"
    if ".." in name:
        return "it has '..' in it, which leads to the folder above"
    if "\\" in name:
        return "it has a backslash in it; names have '/'"
    if name.endswith("/") or name.startswith(("/", "~", ".")):
        return "it is written like a folder"
    if name.count("/") > 1:
        return "it has more than one '/' in it"
    if owner and "/" not in name:
        return "there is no owner in it: write OWNER/NAME"
    if "--" in name or name.endswith(".git") or not re.fullmatch(rf"(?:{_PART}/)?{_PART}", name):
        return "names are made of letters, digits, '-', '_' and '.', without '--' and without '.git' at the end"
    return None


def revision_problem(revision: str | None) -> str | None:
    """Why a text is no branch, tag or commit that a hub can have, or None. It becomes part of a path in the local cache."""
    if revision is None or (re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./+@-]{0,199}", revision) and ".." not in revision):
        return None
    return "a branch, tag or commit is made of letters, digits and '_-./+@', without '..'"


def shadowed(name: str) -> bool:
    """Whether a folder of this name lies in the current one. The libraries behind a hub's name would take it instead."""
    return os.path.isdir(name)
