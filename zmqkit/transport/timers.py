"""The driver's own alarms: redials, probes, what is held back for a moment. Knows nothing but time."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any


class Alarms:
    """Calls to be made later, on the driver's clock. One caller at a time.

    Attributes:
        heap: the calls; the first is due first, and at its first element.
    """

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = itertools.count()

    def at(self, when: float, fn: Callable[..., object], *args: Any) -> None:
        """Call ``fn(*args, now)`` when the time has come."""
        heapq.heappush(self.heap, (when, next(self._order), fn, args))

    def next(self) -> float | None:
        """When the first is due."""
        return self.heap[0][0] if self.heap else None

    def run(self, now: float) -> bool:
        """Make the calls that are due. True if there was one."""
        heap = self.heap
        if not heap or heap[0][0] > now:
            return False
        due = []
        while heap and heap[0][0] <= now:
            due.append(heapq.heappop(heap))
        for _, _, fn, args in due:
            fn(*args, now)
        return True
