"""Named deadlines in one heap, for pure cores.

Knows nothing of clocks: times come in and go out. The heap is pruned where it changes, so that asking for the
next deadline changes nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable


class Timers:
    """A set of keys, each due at one time. Setting a key again moves it.

    Attributes:
        heap: (time, order, key); the first is due first. To be read only, by who may not pay for a call of `next`.
    """

    __slots__ = ("_order", "_when", "heap")

    def __init__(self) -> None:
        self._when: dict[Hashable, tuple[float, int, Hashable]] = {}
        """The entry of the heap that counts, by key; others of that key are left over."""
        self.heap: list[tuple[float, int, Hashable]] = []
        self._order = 0

    def __contains__(self, key: Hashable) -> bool:
        return key in self._when

    def __len__(self) -> int:
        return len(self._when)

    def set(self, key: Hashable, when: float) -> None:
        """Make `key` due at `when`, whatever it was before."""
        self._order += 1
        heap, known = self.heap, self._when
        before = known.get(key)
        known[key] = entry = (when, self._order, key)
        heapq.heappush(heap, entry)
        if len(heap) > 64 and len(heap) > 4 * len(known):
            self.heap = list(known.values())
            heapq.heapify(self.heap)
        elif heap[0] is before:
            self._prune()

    def sooner(self, key: Hashable, when: float) -> None:
        """Make `key` due at `when` unless it is due before."""
        known = self._when.get(key)
        if known is None or when < known[0]:
            self.set(key, when)

    def cancel(self, key: Hashable) -> None:
        """Forget `key`, if it is there."""
        known = self._when.pop(key, None)
        if known is not None and self.heap[0] is known:
            self._prune()

    def due(self, key: Hashable) -> float | None:
        """When `key` is due, None if it is not set."""
        known = self._when.get(key)
        return None if known is None else known[0]

    def next(self) -> float | None:
        """The earliest time of all, None if nothing is set. Changes nothing."""
        return self.heap[0][0] if self.heap else None

    def pop(self, now: float) -> Hashable | None:
        """Take the earliest key that is due at `now`, None if there is none. (None is never a key.)"""
        heap = self.heap
        if not heap or heap[0][0] > now:
            return None
        key = heapq.heappop(heap)[2]
        del self._when[key]
        self._prune()
        return key

    def _prune(self) -> None:
        heap, when = self.heap, self._when
        while heap and when.get(heap[0][2]) is not heap[0]:
            heapq.heappop(heap)
