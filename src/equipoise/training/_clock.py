"""How long a run has trained, with what is not training left out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

__all__ = ["Clock"]


class Clock:
    """Counts seconds while it runs.

    Example:
        >>> clock = Clock()
        >>> clock.start(earlier=2.0)
        >>> with clock.paused():
        ...     evaluation = clock.seconds
        >>> clock.stop()
        >>> clock.seconds >= evaluation >= 2.0
        True
    """

    def __init__(self) -> None:
        self._counted = 0.0
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._counted + (0.0 if self._since is None else time.perf_counter() - self._since)

    def start(self, earlier: float | None = None) -> None:
        """Goes on from here.

        Args:
            earlier: what was counted before, by another process; None = what this clock shows.
        """
        if earlier is not None:
            self._counted = earlier
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Stands still until it is started again."""
        self._counted, self._since = self.seconds, None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out what happens inside; a clock that stands stays so."""
        running = self._since is not None
        self.stop()
        try:
            yield
        finally:
            if running:
                self.start()
