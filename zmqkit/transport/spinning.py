"""Waiting awake: who will not wait for long does not go to sleep.

To be woken costs a lone call more than all else: the kernel must take the processor out of its idle state, and what the
caches held is gone. So a leader whose last wait was short asks the kernel again and again for a moment, and lets others
run in between, before it sleeps. What is lost by it is bounded: after a long wait it sleeps at once again. And where
much comes at a time it always sleeps: then others need the processor more.

(Adaptive spinning, as mutexes of kernels and virtual machines do it; see docs/decisions/0021.)
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from time import monotonic

from zmqkit.errors import UsageError

VARIABLE = "ZMQKIT_SPIN_US"
"""The environment variable that says for how many microseconds; 0: never."""

SPIN_SECONDS = 0.0005
"""Unless it says something else: about as long as a call takes that sleeps at both ends."""

LONE_BYTES = 4096
"""More than this between two waits is no lone call or message, but a stream, or large enough for nobody to notice."""

Events = list[tuple[int, int]]


def spin_seconds() -> float:
    """For how long a leader may spin: nothing where there is no second processor for who is to answer.

    Raises `UsageError` if the environment says what is no number of microseconds.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if given:
        if not (given.isascii() and given.isdecimal() and len(given) <= 6):
            raise UsageError(f"{VARIABLE} is a whole number of microseconds below a million, not {given[:40]!r}")
        return int(given) / 1e6
    return SPIN_SECONDS if processors() > 1 else 0.0


def processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Spinner:
    """Sleeps on a set of descriptors, and remembers for how long it had to.

    Args:
        poll: ``poll(seconds)`` as `Readiness.poll`.
        longest: for how many seconds it may spin.
    """

    __slots__ = ("_came", "_last", "_longest", "_poll")

    def __init__(self, poll: Callable[[float], Events], longest: float) -> None:
        self._poll = poll
        self._longest = longest
        self._last = math.inf
        self._came = 0

    def poll(self, seconds: float, now: float, came: int) -> Events:
        """The same, from ``now`` on: awake at first, if the last wait was short.

        So many bytes ``came`` since the beginning.
        """
        poll = self._poll
        lone = came - self._came <= LONE_BYTES
        self._came = came
        if lone and self._last < self._longest:
            until = now + (self._longest if seconds < 0 else min(self._longest, seconds))
            while not (events := poll(0)) and monotonic() < until:
                os.sched_yield()
            if events:
                self._last = monotonic() - now
                return events
            if seconds > 0:
                seconds = max(now + seconds - monotonic(), 0.0)
        events = poll(seconds)
        self._last = monotonic() - now
        return events
