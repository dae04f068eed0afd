"""Many deadlines that are hardly ever reached: buckets of 10 ms, in place of a heap of single times.

Pure: times come in and go out. To set one and to take it back costs a few dictionary operations; the heap below holds
buckets, not entries. After Varghese and Lauck, "Hashed and Hierarchical Timing Wheels" (SOSP 1987), scheme 2, coarse.
"""

from __future__ import annotations

import heapq
from typing import Final, Generic, TypeVar

TICK: Final = 0.01
"""Seconds: what is due comes at its time or up to one tick later, never before it."""

T = TypeVar("T")


class Deadlines(Generic[T]):
    """Things that are due at a time, each at most once."""

    __slots__ = ("_buckets", "_count", "_heap")

    def __init__(self) -> None:
        self._buckets: dict[int, dict[T, None]] = {}
        self._heap: list[int] = []
        """The numbers of all buckets. Empty ones stay, until something is due, as the next call may need them again."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, when: float, thing: T) -> None:
        """Make `thing` due at `when`."""
        number = int(when / TICK) + 1
        bucket = self._buckets.get(number)
        if bucket is None:
            if len(self._heap) > 4 * self._count and (not self._count or len(self._heap) > 64):
                self._compact()
            bucket = self._buckets[number] = {}
            heapq.heappush(self._heap, number)
        bucket[thing] = None
        self._count += 1

    def remove(self, when: float, thing: T) -> None:
        """Take back what was added with the same `when`. What was popped meanwhile is not there any more."""
        number = int(when / TICK) + 1
        bucket = self._buckets.get(number)
        if bucket is None or thing not in bucket:
            return
        del bucket[thing]
        self._count -= 1

    def next(self) -> float | None:
        """When `pop` must be called, if only to find that what was due was taken back; None: nothing is due ever.

        Changes nothing.
        """
        return self._heap[0] * TICK if self._count else None

    def pop(self, now: float) -> list[T]:
        """All that is due at `now`, in the order of the buckets; it is taken out."""
        due: list[T] = []
        while self._heap and self._heap[0] * TICK <= now:
            due += self._buckets.pop(heapq.heappop(self._heap))
        self._count -= len(due)
        self._prune()
        return due

    def _prune(self) -> None:
        heap, buckets = self._heap, self._buckets
        while heap and not buckets[heap[0]]:
            del buckets[heapq.heappop(heap)]

    def _compact(self) -> None:
        """Buckets that were emptied behind the first one would pile up while that one stays."""
        self._buckets = {number: bucket for number, bucket in self._buckets.items() if bucket}
        self._heap = sorted(self._buckets)
