"""When to wait a moment before the next commit: those who were just told that theirs is stored may send again.

Knows numbers only; the clock and the pause are handed in.

Threads that send one message after another share commits: what comes while one is synced is the next. Left alone they
fall into two groups that take turns, or worse: the first thread that is told sends again, and its message alone is the
next commit, while all others wait. Databases know the remedy as a delay of group commits (PostgreSQL's
``commit_delay`` and ``commit_siblings``). Here nothing is to be set: a pause is some microseconds, there is another
one only as long as more and more comes, and there is none for a while where a pause brought nothing. Who sends alone
is never kept waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Final

PAUSE_SECONDS: Final = 20e-6
"""Linux makes some 75 us of it; a thread needs about as long to be woken and send once more."""

GATHER_SECONDS: Final = 0.002
"""The longest gathering, a pause more or less: nobody looks at the sockets meanwhile."""

MOST_SKIPPED: Final = 64


class Gathering:
    """Of one I/O thread, between a commit and the next.

    Args:
        commands: what was handed over and is not done yet; other threads append to it.
        clock: seconds, rising.
        pause: sleeps so many seconds, while other threads run.
    """

    __slots__ = ("_clock", "_commands", "_pause", "_skip", "_skipped")

    def __init__(self, commands: Sized, clock: Callable[[], float], pause: Callable[[float], object]) -> None:
        self._commands = commands
        self._clock = clock
        self._pause = pause
        self._skip = 0
        """So many chances are let go after a gathering to which nobody came."""
        self._skipped = 0

    def gather(self, told: int) -> None:
        """Let those come who may.

        Args:
            told: how many waited for the last commit, and were told of it just now. Together with those who have come
                since then they are all that is waited for.
        """
        commands = self._commands
        first = here = len(commands)
        wanted = told + first
        if wanted < 2:
            return
        if self._skipped < self._skip:
            self._skipped += 1
            return
        self._skipped = 0
        until = self._clock() + GATHER_SECONDS
        while True:
            self._pause(PAUSE_SECONDS)
            came = len(commands)
            if came >= wanted or came == here or self._clock() >= until:
                break
            here = came
        self._skip = 0 if came > first else min(2 * self._skip + 1, MOST_SKIPPED)
