"""Names of the balancing methods: one decorator registers a class, and its name is the recipe's `balance.method`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from equipoise.errors import BalanceError

if TYPE_CHECKING:
    from equipoise.balance._base import Balancer

    BalancerType = TypeVar("BalancerType", bound=type[Balancer])

_BALANCERS: dict[str, type[Balancer]] = {}


def did_you_mean(name: object, options: Iterable[str]) -> str:
    """Words a hint at the nearest of the valid names, or nothing if none is near.

    Args:
        name: what the user typed.
        options: the valid names.

    Returns:
        `" Did you mean 'x'?"`, with the leading space, or the empty string.

    Example:
        >>> did_you_mean("gradnrom", ["equal", "gradnorm"])
        " Did you mean 'gradnorm'?"
    """
    near = difflib.get_close_matches(str(name), list(options), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def register(name: str) -> Callable[[BalancerType], BalancerType]:
    """Registers a `Balancer` subclass under the name that recipes use.

    Args:
        name: the method's name, lower case.

    Returns:
        A class decorator that returns the class unchanged.

    Raises:
        BalanceError: another class already has that name.
    """

    def add(cls: BalancerType) -> BalancerType:
        if name in _BALANCERS and _BALANCERS[name] is not cls:
            raise BalanceError(f"balancer {name!r} is registered already, by {_BALANCERS[name].__qualname__}")
        _BALANCERS[name] = cls
        return cls

    return add


def available() -> dict[str, type[Balancer]]:
    """Lists the registered methods, by name in alphabetical order.

    Example:
        >>> sorted({"dao", "equal", "fixed"} & set(available()))
        ['dao', 'equal', 'fixed']
    """
    return dict(sorted(_BALANCERS.items()))


def settings_of(cls: type[Balancer]) -> list[str]:
    """Lists what `create` accepts for a method beside the task names: its constructor's keywords."""
    return [name for name in inspect.signature(cls).parameters if name != "tasks"]


def defaults_of(cls: type[Balancer]) -> dict[str, object]:
    """A method's settings that have a default, with it: what a resolved recipe writes out."""
    found = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in found if p.name != "tasks" and p.default is not inspect.Parameter.empty}


def create(name: str, task_names: Sequence[str], **settings: object) -> Balancer:
    """Builds a balancer from its name and settings, as a recipe's `balance` section gives them.

    Args:
        name: one of `available()`.
        task_names: every task of the run.
        **settings: the method's own keywords.

    Returns:
        The balancer, in training mode, on the CPU (it follows the losses to their device).

    Raises:
        BalanceError: no such method, no such setting, or a setting with an unusable value.

    Example:
        >>> create("dao", ["polarity", "label"], smoothing=0.9)
        DAO(tasks=['polarity', 'label'], smoothing=0.9)
    """
    if name not in _BALANCERS:
        raise BalanceError(
            f"no balancer {name!r}.{did_you_mean(name, _BALANCERS)} Available: {', '.join(available()) or 'none'}"
        )
    cls = _BALANCERS[name]
    valid = settings_of(cls)
    for setting in settings:
        if setting not in valid:
            raise BalanceError(
                f"balancer {name!r} has no setting {setting!r}.{did_you_mean(setting, valid)} "
                f"Settings: {', '.join(valid) or 'none'}"
            )
    try:
        inspect.signature(cls).bind(tasks=task_names, **settings)
    except TypeError as error:
        raise BalanceError(f"balancer {name!r}: {error}") from error
    make: Callable[..., Balancer] = cls
    return make(tasks=task_names, **settings)


def describe() -> list[dict[str, str]]:
    """Describes every registered method in plain words, for `equipoise balancers` and `docs/balancers.md`.

    Returns:
        One mapping a method, in alphabetical order, with the keys `method`, `class`, `source`, `url`, `rule`, `needs`,
        `cost`, `state`, `ours` and `settings`, all of them text.
    """
    return [
        {
            "method": name,
            "class": cls.__name__,
            "source": cls.source,
            "url": cls.url,
            "rule": cls.rule,
            "needs": cls.needs or ", ".join(sorted(cls.requires)) or "nothing",
            "cost": cls.cost,
            "state": cls.state,
            "ours": cls.ours,
            "settings": ", ".join(settings_of(cls)),
        }
        for name, cls in available().items()
    ]
