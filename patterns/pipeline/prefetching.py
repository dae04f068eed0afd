"""How many jobs a puller should hold that nobody handles yet: as many as are settled while more are on their way.

Pure. It follows the rate of settles; when the mailbox ran empty though all credit was used, it was too little, and is
doubled. It shrinks slowly: a pause is no reason to begin anew (docs/decisions/0012-prefetch.md).
"""

from __future__ import annotations

import math
from typing import Final

FIRST: Final = 16
"""To begin with."""
LEAST: Final = 1
MOST: Final = 4096

AHEAD: Final = 0.1
"""Seconds of work that should be here, besides what is done in a round trip."""

SHRINK: Final = 8
"""Of what is too much it gives up one in so many, each time that the rate is looked at."""


class Prefetch:
    """The prefetch for one pusher.

    Attributes:
        target: how many jobs this pusher may have in our hands.
    """

    __slots__ = ("_count", "_since", "_width", "target")

    def __init__(self, now: float) -> None:
        self.target = FIRST
        self._since = now
        self._count = 0
        self._width = 0

    def settled(self, count: int, trip: float, now: float) -> None:
        """So many jobs were settled in a turn; `trip`: seconds of a round trip to the pusher."""
        self._count += count
        self._width = max(count, self._width)
        passed = now - self._since
        if passed < AHEAD:
            return
        wanted = math.ceil(self._count / passed * (AHEAD + trip))
        if self._width > 1:
            # Jobs that are settled together were taken together: the next batch should be here meanwhile.
            wanted = max(wanted, 2 * self._width)
        wanted = max(LEAST, min(MOST, wanted))
        if wanted >= self.target:
            self.target = wanted
        else:
            self.target -= max(1, (self.target - wanted) // SHRINK)
        self._since, self._count = now, 0
        self._width -= -(-self._width // SHRINK)

    def begin(self, now: float) -> None:
        """Jobs come after a pause in which there was nothing to do: it says nothing of the rate."""
        self._since, self._count = now, 0

    def ran_empty(self) -> bool:
        """All credit was used, and nothing is left for the user. False: more than this is never held."""
        if self.target >= MOST:
            return False
        self.target = min(MOST, 2 * self.target)
        return True
