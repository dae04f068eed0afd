"""How fast jobs may be taken: so many a second, evenly, without bursts to make up for pauses. Knows the clock only."""

from __future__ import annotations

import threading
import time
from typing import Final

from zmqkit import checks

LOOK: Final = 0.1
"""Seconds after which whoever waits for his turn looks whether he is still wanted."""


class Pace:
    """Gives out turns, one each ``1 / rate`` seconds. From any thread.

    Args:
        rate: turns a second.
    """

    def __init__(self, rate: float) -> None:
        self._interval = 1.0 / rate
        self._next = 0.0
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """The next turn is taken. Returns when it begins, on the monotonic clock: in the past, if nobody waited."""
        with self._lock:
            turn = max(time.monotonic(), self._next)
            self._next = turn + self._interval
            return turn

    def pause(self, turn: float, deadline: float | None) -> float | None:
        """How long to sleep before a reserved turn is looked at again; 0: it has come. None: it comes too late, and was
        given back."""
        now = time.monotonic()
        if turn <= now:
            return 0.0
        if deadline is None:
            return min(turn - now, LOOK)
        if deadline <= now:
            self.give_back()
            return None
        return min(turn - now, LOOK, deadline - now)

    def more(self, turns: int) -> None:
        """So many turns were used at once, beyond the one that was reserved: the next comes as much later."""
        with self._lock:
            self._next += turns * self._interval

    def give_back(self) -> None:
        """A turn that was reserved was not used."""
        with self._lock:
            self._next -= self._interval


def pace_of(rate: float | None) -> Pace | None:
    """The pace for ``rate=``. Raises for what is no rate."""
    if rate is None:
        return None
    found = checks.number("rate", rate, "a positive number of jobs a second, or None")
    if not 1e-6 <= found <= 1e9:
        raise ValueError(f"rate must be a positive number of jobs a second, or None, got {rate!r}")
    return Pace(found)
