"""What a search may change: fixed loss weights, recipe overrides out of a grid, or both."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from equipoise.errors import RecipeError

__all__ = ["Plain", "Space"]

Plain = str | int | float | bool | None

WIDEST = 30.0  # how much more, or less, than the first task any other may weigh
WEIGHTS = "balance.weights"


class Space:
    """The settings that a search may try.

    A point has one *parameter* for each free number: the weight of a task over that of the first one (`ratio:TASK`),
    and the value of a recipe override. Its *settings*, override -> value, are what a recipe takes.

    K tasks have K - 1 free weights, the ratios to the first task's, each from 1/30 to 30, even in its logarithm. The
    weights sum to K, so that the learning rate keeps its meaning.

    Args:
        tasks: tasks whose fixed weights are searched, as the balancer `fixed` takes them; None or none: no weights.
        grid: override -> values to try; None or none: no overrides.

    Raises:
        RecipeError: nothing is searched; fewer than two tasks, or one twice; an override without values, a value twice,
            or one that a recipe cannot hold.

    Example:
        >>> space = Space(tasks=["polarity", "label"], grid={"training.learning_rate": [2e-5, 5e-5]})
        >>> space.settings({"ratio:label": 3.0, "training.learning_rate": 5e-5})
        {'balance.weights': {'polarity': 0.5, 'label': 1.5}, 'training.learning_rate': 5e-05}
    """

    def __init__(
        self, *, tasks: Sequence[str] | None = None, grid: Mapping[str, Sequence[Plain]] | None = None
    ) -> None:
        if not (tasks or grid):
            raise RecipeError(
                "a search needs weights, or a grid such as training.learning_rate: [2e-5, 5e-5], to choose from"
            )
        self.tasks = tuple(tasks or ())
        self.grid = {key: _checked(key, values) for key, values in (grid or {}).items()}
        if self.tasks and (len(self.tasks) < 2 or len(set(self.tasks)) < len(self.tasks)):
            raise RecipeError(
                f"weights are searched for two tasks or more, each named once; found {', '.join(self.tasks)}"
            )
        if self.tasks and WEIGHTS in self.grid:
            raise RecipeError(f"{WEIGHTS} is searched twice, as weights and in the grid")

    @property
    def ratios(self) -> tuple[str, ...]:
        """The names of the parameters that are ratios of weights."""
        return tuple(f"ratio:{task}" for task in self.tasks[1:])

    def settings(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Returns override -> value of a point."""
        settings: dict[str, Any] = {}
        if self.tasks:
            ratios = [1.0, *(parameters[name] for name in self.ratios)]
            unit = len(ratios) / sum(ratios)
            settings[WEIGHTS] = {task: ratio * unit for task, ratio in zip(self.tasks, ratios, strict=True)}
        return settings | {key: parameters[key] for key in self.grid}

    def parameters(self, settings: Mapping[str, Any] | None = None) -> dict[str, Plain]:
        """Returns the point of some settings; of None: equal weights, and the first value of every override.

        Raises:
            RecipeError: the settings are not of this space.
        """
        if settings is None:
            return dict.fromkeys(self.ratios, 1.0) | {key: values[0] for key, values in self.grid.items()}
        searched = {*self.grid, *((WEIGHTS,) if self.tasks else ())}
        if searched != settings.keys():
            raise RecipeError(
                f"the first trial must set what is searched, no more and no less: {', '.join(sorted(searched))}; "
                f"found {', '.join(sorted(settings)) or 'nothing'}"
            )
        point: dict[str, Plain] = dict(self._ratios(settings[WEIGHTS])) if self.tasks else {}
        for key, values in self.grid.items():
            if settings[key] not in values:
                raise RecipeError(f"{key}: the first trial's {settings[key]!r} is not in the grid {list(values)}")
            point[key] = settings[key]
        return point

    def points(self, first: Mapping[str, Plain], seed: int) -> list[dict[str, Plain]] | None:
        """Returns all points of a grid, `first` at the front and the others shuffled; None where weights are free."""
        if self.tasks:
            return None
        points = [dict(zip(self.grid, chosen, strict=True)) for chosen in itertools.product(*self.grid.values())]
        random.Random(seed).shuffle(points)
        return sorted(points, key=lambda point: point != first)

    def described(self) -> dict[str, Any]:
        """Returns what tells this space from others, as plain data."""
        return {"tasks": list(self.tasks), "widest": WIDEST, "grid": {k: list(v) for k, v in self.grid.items()}}

    def _ratios(self, weights: object) -> Iterator[tuple[str, float]]:
        if not isinstance(weights, Mapping) or {*weights} != {*self.tasks}:
            raise RecipeError(f"{WEIGHTS} must give every task a number ({', '.join(self.tasks)}), found {weights!r}")
        if not all(isinstance(weight, int | float) and 0 < weight < math.inf for weight in weights.values()):
            raise RecipeError(f"{WEIGHTS} of the first trial must be numbers above zero, found {dict(weights)}")
        for name, task in zip(self.ratios, self.tasks[1:], strict=True):
            ratio = weights[task] / weights[self.tasks[0]]
            if abs(math.log(ratio)) > math.log(WIDEST) + 1e-9:
                raise RecipeError(
                    f"{WEIGHTS} of the first trial: {task} over {self.tasks[0]} is {ratio:.4g}, outside 1/30 to 30"
                )
            yield name, min(max(ratio, 1 / WIDEST), WIDEST)


def _checked(key: str, values: object) -> tuple[Plain, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise RecipeError(f"{key}: a grid needs a list of values, found {values!r}")
    for value in values:
        if not (value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))):
            raise RecipeError(f"{key}: {value!r} is no value for a grid; take text, numbers, true, false or null")
    if len({*values}) < len(values):
        raise RecipeError(f"{key}: a value stands twice in {list(values)}")
    return tuple(values)
