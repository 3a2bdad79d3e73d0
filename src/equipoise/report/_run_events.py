"""What was noticed while a run trained: the events of its history, in the words in which they were said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.report._html import Html, details, listing

__all__ = ["event_words", "events_part"]

#: So many sentences stand open.
SAID = 8


def events_part(history: Sequence[Mapping[str, Any]]) -> list[Html]:
    """A heading and the sentences; nothing where nothing was noticed, or nobody watched."""
    said = event_words(history)
    if not said:
        return []
    parts = [Html("<h3>What was noticed while it trained</h3>"), listing(said[:SAID])]
    if said[SAID:]:
        parts.append(details(f"{len(said) - SAID} more", listing(said[SAID:])))
    return parts


def event_words(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence an event, in the order of the history."""
    events = [(line.get("step"), line["event"]) for line in history if isinstance(line.get("event"), Mapping)]
    return [
        # A rollback stands at the step that was gone back to, and its sentence names the one that failed.
        f"{event['message']}." if event.get("kind") == "rollback" else f"Step {step:,}: {event['message']}."
        for step, event in events
        if isinstance(step, int) and isinstance(event.get("message"), str)
    ]
