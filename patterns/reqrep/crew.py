"""Threads that run handlers, and one that looks after those that take too long. Knows nothing of what they run."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Crew(Generic[T]):
    """So many threads, each of which takes and runs, until there is nothing to take any more.

    Args:
        name: of the peer; in the threads' names.
        threads: how many.
        take: blocks for the next; None: end.
        run: does it. It must not raise.
        ended: called by each thread at its end.
    """

    def __init__(
        self, name: str, threads: int, take: Callable[[], T | None], run: Callable[[T], None],
        ended: Callable[[], None],
    ) -> None:  # fmt: skip
        self._take = take
        self._run = run
        self._ended = ended
        self._threads = [
            threading.Thread(target=self._work, name=f"zmqkit-handler-{name}-{at}", daemon=True)
            for at in range(1, threads + 1)
        ]

    def start(self) -> None:
        """Begin."""
        for each in self._threads:
            each.start()

    def join(self, deadline: float | None) -> None:
        """Wait for all of them to end, until the deadline on the monotonic clock."""
        here = threading.current_thread()
        for each in self._threads:
            if each is not here and each.ident is not None:
                each.join(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        try:
            while (item := self._take()) is not None:
                self._run(item)
                del item
        finally:
            self._ended()


class Watchdog:
    """Calls back for what is not done in time. Its thread is there only while something is watched."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._running = False

    def watch(self, until: float, late: Callable[[], object]) -> Any:
        """Call `late` at that time, unless `done` is called with what this returns."""
        entry = (until, next(self._order), late)
        with self._changed:
            heapq.heappush(self._due, entry)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="zmqkit-watchdog", daemon=True).start()
            elif self._due[0] is entry:
                self._changed.notify()
        return entry

    def done(self, entry: Any) -> None:
        """It is done."""
        with self._changed:
            if entry in self._due:
                self._due.remove(entry)
                heapq.heapify(self._due)
            if not self._due:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._due:
                    self._running = False
                    return
                until, _, late = self._due[0]
                left = until - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                heapq.heappop(self._due)
            late()
