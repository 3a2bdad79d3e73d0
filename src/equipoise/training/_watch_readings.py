"""When a number stands out from what it has been so far."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

__all__ = ["FIRST", "SPREADS", "WINDOW", "Pool", "Readings"]

#: So many of the latest values say what is usual.
WINDOW = 64
#: So many values at the beginning say what an untrained model gives; nothing stands out among them.
FIRST = 20
#: So many spreads above the median a value stands out.
SPREADS = 8.0
#: The median absolute deviation times this is the standard deviation, where values are normal.
NORMAL = 1.4826
#: A value of a loss is a mean over so many examples or more: of fewer, one hard example would stand out.
EXAMPLES = 16


class Readings:
    """The latest values of one number, and whether a new one stands out among them:

        x > max(window),   x > m + 8 * 1.4826 * median(|window - m|),   x > start + (factor - 1) |start|

    with m the median of the window of the latest 64 values, and start the largest of the first 20. The first two ask
    whether it is unusual, and neither is moved by a few odd values before it. The third asks whether it matters: late in a
    training losses are so small that a batch with one hard example lies many spreads off, which does no harm.

    References:
        The Influence Curve and Its Role in Robust Estimation (Hampel, 1974)
        https://doi.org/10.1080/01621459.1974.10482962
        Detecting outliers: Do not use standard deviation around the mean, use absolute deviation around the median
        (Leys et al., 2013)
        https://doi.org/10.1016/j.jesp.2013.03.013

    Args:
        factor: a value matters from so many times the largest of the first ones on.
        times: and from so many times the median on, where that is large. Gradient norms grow in healthy trainings too.

    Note:
        Leys et al. propose 2.5 or 3 spreads, for values that are normal. Losses of batches have a long upper end.
    """

    def __init__(self, factor: float, times: float = 0.0) -> None:
        self.factor, self.times = factor, times
        self.seen, self.start = 0, 0.0
        self.window: deque[float] = deque(maxlen=WINDOW)

    def take(self, value: float) -> float | None:
        """Takes in a finite value; returns the usual one, the median, if this one stands out, else None."""
        usual = None
        # The cheap question first: hardly any value is the largest of its window, and the rest sorts it.
        if self.seen >= FIRST and value > max(self.window) and value > self.limit:
            middle = statistics.median(self.window)
            spread = NORMAL * statistics.median(abs(one - middle) for one in self.window)
            if value > max(middle + SPREADS * spread, self.times * middle):
                usual = middle
        if self.seen < FIRST:
            self.start = max(self.start, value) if self.seen else value
        self.seen += 1
        self.window.append(value)
        return usual

    @property
    def limit(self) -> float:
        """What a value must pass to matter."""
        return self.start + (self.factor - 1) * abs(self.start)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"seen": self.seen, "start": self.start, "window": list(self.window)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.seen, self.start = state["seen"], state["start"]
        self.window = deque(state["window"], maxlen=WINDOW)


class Pool:
    """Mean losses of batches with few examples, put together until they are of 16 examples."""

    def __init__(self) -> None:
        self.total, self.count, self.largest, self.step = 0.0, 0, 0.0, 0

    def add(self, loss: float, count: int, step: int) -> tuple[float, int] | None:
        """Adds a batch; returns the mean, and the step of the largest loss in it, once there are enough.

        Args:
            loss: the batch's mean.
            count: its examples.
            step: the update that it is for.
        """
        if not self.count or loss > self.largest:
            self.largest, self.step = loss, step
        self.total, self.count = self.total + loss * count, self.count + count
        if self.count < EXAMPLES:
            return None
        found = self.total / self.count, self.step
        self.total, self.count, self.largest, self.step = 0.0, 0, 0.0, 0
        return found

    def state(self) -> list[float]:
        """What a checkpoint keeps."""
        return [self.total, self.count, self.largest, self.step]

    def restore(self, state: list[float]) -> None:
        """Goes on from there."""
        self.total, self.largest = state[0], state[2]
        self.count, self.step = int(state[1]), int(state[3])
