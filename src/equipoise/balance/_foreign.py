"""Calls of TorchJD's modules: how they are found, built, run and remembered. The only file that imports TorchJD.

TorchJD is an optional extra, imported when a method that needs it is built.
"""

from __future__ import annotations

import copy
import importlib
import io
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from equipoise.errors import BalanceError

_SOLVERS = {"UPGradWeighting": "quadprog", "DualProjWeighting": "quadprog", "CAGradWeighting": "cvxpy"}
_PLAIN = (bool, int, float, str, torch.dtype, torch.device, type(None))
_MODULE = frozenset(vars(torch.nn.Module()))  # what every module has, whatever it computes
_GONE = object()


def torchjd(part: str) -> Any:
    """Imports one of TorchJD's packages.

    Args:
        part: `"aggregation"` or `"scalarization"`.

    Raises:
        BalanceError: TorchJD is not installed; with the line that installs it.
    """
    try:
        return importlib.import_module(f"torchjd.{part}")
    except ImportError as error:
        raise BalanceError(
            f'this method needs TorchJD. Install it with: pip install "equipoise[torchjd]" ({error})'
        ) from error


def build(name: str, **settings: object) -> torch.nn.Module:
    """Builds one of TorchJD's weightings or scalarizers from its class name.

    Args:
        name: a name of `torchjd.aggregation` that ends in `Weighting`, or a scalarizer's of `torchjd.scalarization`.
        **settings: its constructor's keywords.

    Raises:
        BalanceError: TorchJD or a solver is not installed, there is no such class, or a setting is unusable.
    """
    aggregation, scalarization = torchjd("aggregation"), torchjd("scalarization")
    weightings = {key for key in aggregation.__all__ if key.endswith("Weighting")} - {"Weighting"}
    scalarizers = set(scalarization.__all__) - {"Scalarizer"}
    if name not in weightings | scalarizers:
        raise BalanceError(f"TorchJD has no {name!r}. It has: {', '.join(sorted(weightings | scalarizers))}")
    make = getattr(aggregation if name in weightings else scalarization, name)
    try:
        module: torch.nn.Module = make(**settings)
    except ImportError as error:
        extra = _SOLVERS.get(name, "torchjd")
        raise BalanceError(
            f'{name} needs a solver. Install it with: pip install "equipoise[{extra}]" ({error})'
        ) from error
    except (TypeError, ValueError) as error:
        raise BalanceError(f"TorchJD's {name}: {error}") from error
    return module


def ask(module: torch.nn.Module, statistic: Tensor, seed: int) -> Tensor:
    """Runs a module on the CPU, its random numbers drawn from a seed of their own, whatever the caller's generator does.

    Raises:
        BalanceError: the module refuses what it is given.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)
            answer: Tensor = module(statistic)
    except (ValueError, ArithmeticError) as error:
        raise BalanceError(f"TorchJD's {type(module).__name__}: {error}") from error
    return answer


class Solver:
    """One of TorchJD's weightings behind one of our methods. No `Module`: what it remembers is the method's to keep.

    Args:
        name: the weighting's class.
        **settings: its constructor's keywords.

    Raises:
        BalanceError: TorchJD or a solver is not installed, or a setting is unusable.
    """

    def __init__(self, name: str, **settings: object) -> None:
        self.module: Any = build(name, **settings)

    def __call__(self, gramian: Tensor, seed: int = 0) -> Tensor:
        """Returns the weights, `[m]`."""
        with torch.no_grad():
            return ask(self.module, gramian, seed)


# What a module remembers --------------------------------------------------------------------------------------------
# TorchJD's modules keep it in buffers that start as None, in plain attributes and in an optimiser of their own, so their
# state_dict does not tell it all.


def snapshot(module: torch.nn.Module) -> dict[str, object]:
    """Copies everything in a module that may change: tensors, numbers, text, lists of them, and optimisers."""
    found = {}
    for path, part in module.named_modules():
        for name, value in _members(part):
            if (kept := _copied(value)) is not _GONE:
                found[f"{path}/{name}"] = kept
    return found


def restore(module: torch.nn.Module, state: dict[str, object]) -> None:
    """Puts back what `snapshot` copied."""
    parts = dict(module.named_modules())
    for place, value in state.items():
        path, name = place.split("/")
        part, value = parts[path], copy.deepcopy(value)
        members: dict[str, Any] = part.__dict__
        if name in part._parameters:
            parameter = part._parameters[name]
            assert parameter is not None
            with torch.no_grad():
                parameter.copy_(value)
        elif name in part._buffers:
            part._buffers[name] = value
        elif isinstance(value, dict) and "optimizer" in value:
            optimizer = getattr(torch.optim, value["optimizer"])(list(part.parameters()), lr=0.1)
            optimizer.load_state_dict(value["state"])  # with its learning rate
            members[name] = optimizer
        else:
            members[name] = value


def changes(old: dict[str, object], new: dict[str, object]) -> dict[str, object]:
    """Returns what of a new snapshot differs from an old one: the state, without the settings."""
    return {place: value for place, value in new.items() if not _same(old.get(place, _GONE), value)}


def hold(
    old: dict[str, object],
    new: dict[str, object],
    fresh: Tensor,  # [tasks] bool
) -> dict[str, object]:
    """Returns the new snapshot with the old rows (and columns) of the tasks that are not fresh, in tensors over tasks."""

    def held(before: object, after: object) -> object:
        if not (isinstance(before, Tensor) and isinstance(after, Tensor) and before.shape == after.shape):
            return after
        for dim, size in enumerate(after.shape):
            if size == len(fresh):
                after = after.where(
                    fresh.reshape([-1 if d == dim else 1 for d in range(after.dim())]), before.to(after)
                )
        return after

    return {place: held(old.get(place), value) for place, value in new.items()}


def packed(state: dict[str, object]) -> Tensor:
    """Writes a snapshot as bytes, `[bytes]` uint8, so that it fits where only tensors do."""
    if not state:
        return torch.empty(0, dtype=torch.uint8)
    stored = io.BytesIO()
    torch.save(state, stored)
    return torch.frombuffer(bytearray(stored.getvalue()), dtype=torch.uint8)


def unpacked(stored: Tensor, module: torch.nn.Module, known: Collection[str]) -> dict[str, object]:
    """Reads what `packed` wrote. Only plain values: nothing in it is run.

    Args:
        stored: the bytes, from a file that anybody may have written.
        module: whose state they are.
        known: the names in the module's snapshot when it was new. Nothing else is ever set: it could be a method.

    Raises:
        BalanceError: the state has a name that a new module does not have, or has no names.
    """
    if not len(stored):
        return {}
    state: object = torch.load(io.BytesIO(bytes(stored.tolist())), weights_only=True)
    name = type(module).__name__
    if not isinstance(state, dict):
        raise BalanceError(f"the saved state of {name} is a {type(state).__name__}, not a mapping of names to values")
    if odd := sorted(str(place) for place in state if place not in known):
        raise BalanceError(
            f"the saved state has {odd[0]!r}, and {name} has no such attribute when it is new. Is it of another class, or "
            f"another version of it? It has: {', '.join(sorted(known)) or 'none'}"
        )
    return state


def _members(part: torch.nn.Module) -> Iterator[tuple[str, object]]:
    yield from ((name, value) for name, value in vars(part).items() if name not in _MODULE)
    yield from part._buffers.items()
    yield from part._parameters.items()


def _copied(value: object) -> object:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, torch.optim.Optimizer):
        return {"optimizer": type(value).__name__, "state": copy.deepcopy(value.state_dict())}
    if isinstance(value, (list, tuple)):
        items = [_copied(item) for item in value]
        return _GONE if any(item is _GONE for item in items) else type(value)(items)
    if isinstance(value, dict):
        pairs = {key: _copied(item) for key, item in value.items()}
        return _GONE if any(item is _GONE for item in pairs.values()) else pairs
    return value if isinstance(value, _PLAIN) else _GONE


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other
