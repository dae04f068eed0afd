"""Ctrl-C at random moments, for the programs of this folder."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable


class Interrupts:
    """Raises KeyboardInterrupt in the main thread, again and again, at random moments of what it is asked to interrupt.

    At those only, for no loop of Python's own is proof against Ctrl-C: there are moments before its ``try`` and after
    its ``except``; and in CPython 3.13 the jump at the end of a ``while`` within a ``try`` is outside that ``try``
    (python/cpython#130279). So the handler raises only while it is armed, that is while `_exposed` runs, and
    once; whatever is raised there, in a jump of its own too, comes out of a call that stands in a ``try``.
    """

    def __init__(self, longest_s: float) -> None:
        self.count = 0
        self._armed = False
        self._drawn = random.Random(7)
        self._longest_s = longest_s
        # Not SIGINT, because timers send this one.
        signal.signal(signal.SIGALRM, self._ring)

    def _ring(self, number: int, frame: object) -> None:
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt

    def start_timer(self) -> None:
        # And again after a while: Python swallows an interrupt that comes while an object is freed, and sleeps on in a
        # lock if the signal comes just before it sleeps.
        signal.setitimer(signal.ITIMER_REAL, self._drawn.uniform(1e-6, self._longest_s), 0.02)

    def stop_timer(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def during(self, call: Callable[[], object]) -> bool:
        """True if the call was interrupted. Start the timer in it, or in another thread meanwhile."""
        try:
            self._exposed(call)
        except KeyboardInterrupt:
            self.count += 1
            return True
        finally:
            self.stop_timer()
        return False

    def _exposed(self, call: Callable[[], object]) -> None:
        self._armed = True
        call()
        self._armed = False

    def until(self, done: Callable[[], bool], step: Callable[[], object], recover: Callable[[], object]) -> None:
        """Repeat ``step`` until done, interrupted all the time; after each interrupt ``recover``."""

        def steps() -> None:
            self.start_timer()
            while not done():
                self._armed = True  # again, if an interrupt was swallowed
                step()

        while not done():
            if self.during(steps):
                recover()
