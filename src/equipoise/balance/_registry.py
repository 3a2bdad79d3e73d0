"""Names of the balancing methods: one decorator registers a class, and its name is the recipe's `balance.method`.

Another package's methods come by an entry point of the group `equipoise.balancers`: its name is the method's, its object
the class. They are imported when a name is looked up that is not ours. One that cannot be used breaks nothing else: it is
logged once, listed with the reason, and an error for whoever asks for it.
"""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, TypeVar

from equipoise.errors import BalanceError

if TYPE_CHECKING:
    from equipoise.balance._base import Balancer

    BalancerType = TypeVar("BalancerType", bound=type[Balancer])

_log = logging.getLogger(__name__)

_BALANCERS: dict[str, type[Balancer]] = {}
_GROUP = "equipoise.balancers"
FAMILIES = {
    "baselines": "Baselines",
    "losses": "From losses",
    "norms": "From gradient norms",
    "gramian": "From the Gramian of the gradients",
    "wrappers": "Wrappers of another method",
    "other": "Others",
}
_TEXTS = ("family", "source", "url", "rule", "needs", "cost", "state", "ours")


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
    near = difflib.get_close_matches(str(name), list(options), n=3)
    near.sort(key=lambda option: sorted(option) != sorted(str(name)))  # letters that changed places come first
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


class _Plugins:
    """Other packages' methods: named in their metadata, imported when they are first asked for."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[EntryPoint]] | None = None  # None: nobody has looked yet
        self.packages: dict[str, str] = {}  # method -> the distribution that brought it
        self.broken: dict[str, tuple[str, Exception]] = {}  # method -> distribution, what is wrong with it

    def load(self, name: str | None = None) -> None:
        """Imports the methods that have not been imported yet, or the one of a name."""
        if self.waiting is None:
            self.waiting = {}
            for entry in entry_points(group=_GROUP):
                self.waiting.setdefault(entry.name, []).append(entry)
        for wanted in sorted(self.waiting) if name is None else [name]:
            # Taken out first: a module that looks up names while it is imported must not start its own import again.
            if entries := self.waiting.pop(wanted, None):
                self._add(wanted, entries)

    def _add(self, name: str, entries: list[EntryPoint]) -> None:
        entry, before = entries[0], set(_BALANCERS)
        packages = sorted({_distribution(each) for each in entries})
        try:
            if len(packages) > 1:
                raise BalanceError(f"{' and '.join(packages)} both have a method of that name. Uninstall all but one")
            if name in _BALANCERS and package_of(name) == "equipoise":
                raise BalanceError("equipoise itself has a method of that name, which stays in place")
            cls = entry.load()
            _check_class(cls, entry.value)
            register(name)(cls)
        except Exception as error:  # whatever a stranger's module may raise
            for added in set(_BALANCERS) - before:
                if _root(_BALANCERS[added].__module__) == _root(entry.module):
                    del _BALANCERS[added]
            self.broken[name] = (", ".join(packages), error)
            _log.warning("balancer %r of the package %s cannot be used: %s", name, ", ".join(packages), reason(error))
        else:
            self.packages[name] = packages[0]


_PLUGINS = _Plugins()


def _check_class(cls: object, value: str) -> None:
    """Raises unless a class can be built by name and told of in a table."""
    from equipoise.balance._base import Balancer  # which imports this file

    if not (isinstance(cls, type) and issubclass(cls, Balancer)):
        raise BalanceError(f"{value} is no subclass of equipoise.balance.Balancer")
    odd = [text for text in _TEXTS if not isinstance(getattr(cls, text), str)]
    if odd:
        raise BalanceError(f"{cls.__name__}.{odd[0]} must be text, found {getattr(cls, odd[0])!r}")
    if "tasks" not in inspect.signature(cls).parameters and not _takes_any(cls):
        raise BalanceError(f"{cls.__name__} takes no tasks. Its constructor needs tasks=None among its keywords")


def _distribution(entry: EntryPoint) -> str:
    return (entry.dist.name if entry.dist is not None else None) or _root(entry.module)


def _root(module: str) -> str:
    return module.partition(".")[0]


def reason(error: BaseException) -> str:
    """Words what is wrong with a plug-in on one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, BalanceError) else f"{type(error).__name__}: {text}"


def package_of(name: str) -> str:
    """Returns the distribution that brought a registered method; for one registered by hand its module's package."""
    return _PLUGINS.packages.get(name) or _root(_BALANCERS[name].__module__)


def available() -> dict[str, type[Balancer]]:
    """Lists the registered methods, by name in alphabetical order; those of other packages too.

    Example:
        >>> sorted({"dao", "equal", "fixed"} & set(available()))
        ['dao', 'equal', 'fixed']
    """
    _PLUGINS.load()
    return dict(sorted(_BALANCERS.items()))


def settings_of(cls: type[Balancer]) -> list[str]:
    """Lists what `create` accepts for a method beside the task names: its constructor's keywords."""
    found = inspect.signature(cls).parameters.values()
    return [p.name for p in found if p.name != "tasks" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def defaults_of(cls: type[Balancer]) -> dict[str, object]:
    """A method's settings that have a default, with it: what a resolved recipe writes out."""
    found = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in found if p.name != "tasks" and p.default is not inspect.Parameter.empty}


def _takes_any(cls: type[Balancer]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(cls).parameters.values())


def create(name: str, task_names: Sequence[str] | None, /, **settings: object) -> Balancer:
    """Builds a balancer from its name and settings, as a recipe's `balance` section gives them.

    Args:
        name: one of `available()`.
        task_names: every task of the run; None takes them from the first call, which must then carry all tasks.
        **settings: the method's own keywords.

    Returns:
        The balancer, in training mode, on the CPU (it follows the losses to their device).

    Raises:
        BalanceError: no such method, no such setting, a setting with an unusable value, or another package's method
            that cannot be used.

    Example:
        >>> create("dao", ["polarity", "label"], smoothing=0.9)
        DAO(tasks=['polarity', 'label'], smoothing=0.9)
    """
    cls = _find(name)
    valid = settings_of(cls)
    for setting in settings:
        if setting == "tasks" or (setting not in valid and not _takes_any(cls)):
            raise BalanceError(
                f"balancer {name!r} has no setting {setting!r}.{did_you_mean(setting, valid)} "
                f"Settings: {', '.join(valid) or 'none'}"
            )
    make: Callable[..., Balancer] = cls
    try:
        inspect.signature(cls).bind(tasks=task_names, **settings)
        return make(tasks=task_names, **settings)
    except TypeError as error:
        raise BalanceError(f"balancer {name!r}: {error}") from error


def _find(name: str) -> type[Balancer]:
    if name not in _BALANCERS:  # ours need no import of anybody's
        _PLUGINS.load(name)
    if name in _BALANCERS:
        return _BALANCERS[name]
    if name in _PLUGINS.broken:
        package, error = _PLUGINS.broken[name]
        raise BalanceError(f"balancer {name!r} of the package {package} cannot be used: {reason(error)}") from error
    known = available()
    raise BalanceError(f"no balancer {name!r}.{did_you_mean(name, known)} Available: {', '.join(known) or 'none'}")


def describe(*, broken: bool = False) -> list[dict[str, str]]:
    """Describes every registered method in plain words, for `equipoise balancers` and `docs/balancers.md`.

    Args:
        broken: list other packages' methods that cannot be used too, with the reason under `error`.

    Returns:
        One mapping a method, in alphabetical order, with the keys `method`, `class`, `package`, `family`, `source`,
        `url`, `rule`, `needs`, `cost`, `state`, `ours`, `settings` and `error`, all of them text. What does not apply
        is empty.
    """
    rows = [
        {
            "method": name,
            "class": cls.__name__,
            "package": package_of(name),
            **{text: getattr(cls, text) for text in _TEXTS},
            "needs": cls.needs or ", ".join(sorted(cls.requires)) or "nothing",
            "settings": ", ".join(settings_of(cls)),
            "error": "",
        }
        for name, cls in available().items()
    ]
    if broken:
        empty = dict.fromkeys(["class", *_TEXTS, "settings"], "")
        rows += [
            {"method": name, "package": package, **empty, "family": "other", "error": reason(error)}
            for name, (package, error) in sorted(_PLUGINS.broken.items())
        ]
    return rows


def by_family(rows: Iterable[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Sorts what `describe` gives under headings: our families in their order, then other packages.

    Example:
        >>> list(by_family(describe()))[:2]
        ['Baselines', 'From losses']
    """
    found: dict[str, list[dict[str, str]]] = {title: [] for title in [*FAMILIES.values(), "Other packages"]}
    for row in rows:
        ours = row["package"] == "equipoise"
        found[FAMILIES.get(row["family"], FAMILIES["other"]) if ours else "Other packages"].append(row)
    return {title: members for title, members in found.items() if members}
