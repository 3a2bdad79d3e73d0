"""How the shared tests of the family build a method that cannot be built without settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from equipoise.balance import Balancer, create

# Only what a method cannot be built without: tasks -> settings.
REQUIRED: dict[str, Callable[[list[str]], dict[str, Any]]] = {
    "fixed": lambda tasks: {"weights": {task: 1.0 + sum(map(ord, task)) % 3 for task in tasks}},
    "metabalance": lambda tasks: {"target": "polarity"},
    "pcd": lambda tasks: {"primary": "polarity"},
    "priority": lambda tasks: {"of": {"method": "dao"}, "priorities": {"polarity": 2.0}},
    "recompute_every": lambda tasks: {"of": {"method": "dao"}, "every": 2},
    "running_average": lambda tasks: {"of": {"method": "mgda"}},
    "torchjd": lambda tasks: {"weighting": "MGDAWeighting"},
}


def build(method: str, tasks: list[str], **settings: Any) -> Balancer:
    """The method with as little said as it allows."""
    return create(method, tasks, **REQUIRED.get(method, lambda tasks: {})(tasks), **settings)


def scopes_of(method: str) -> list[str]:
    """Where a method can be measured: `representation`, `last_layer`, `all`; one of them for one that measures nothing."""
    balancer = build(method, ["polarity", "label", "emotion"])
    if "shared" not in balancer.requires:
        return ["representation"]
    places = {"representation": ["representation"], "parameters": ["last_layer", "all"]}
    return [place for scope in ("representation", "parameters") if scope in balancer.scopes for place in places[scope]]
