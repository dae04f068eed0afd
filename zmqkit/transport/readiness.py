"""Sleeping until something comes: the kernel's set of descriptors, shared by all threads of a driver.

Knows file descriptors only. A set is itself a descriptor, readable while one of its members is: so an event loop, or
another set, can sleep on it.
"""

from __future__ import annotations

import contextlib
import select
import sys
from collections.abc import Callable, Iterable

READABLE = 1


class Readiness:
    """A set of descriptors. It may be changed while others sleep on it.

    Attributes:
        poll: ``poll(seconds)`` sleeps until members are readable and returns them as pairs (descriptor, anything);
            negative: for ever. A C callable where there is one. Ctrl-C gets through.
        fd: the set's own descriptor.
    """

    def __init__(self) -> None:
        self.poll: Callable[[float], list[tuple[int, int]]]
        if sys.platform == "linux":
            self._set = select.epoll()
            self.poll = self._set.poll
        else:
            self._set = select.kqueue()
            self.poll = self._poll
        self.fd: int = self._set.fileno()

    def add(self, fd: int) -> None:
        """Watch this descriptor too."""
        if sys.platform == "linux":
            with contextlib.suppress(FileExistsError):
                self._set.register(fd, READABLE)
        else:
            self._set.control([select.kevent(fd, select.KQ_FILTER_READ, select.KQ_EV_ADD)], 0)

    def remove(self, fds: Iterable[int]) -> None:
        """Watch these no more. That they are closed already does no harm."""
        for fd in fds:
            with contextlib.suppress(OSError):
                if sys.platform == "linux":
                    self._set.unregister(fd)
                else:
                    self._set.control([select.kevent(fd, select.KQ_FILTER_READ, select.KQ_EV_DELETE)], 0)

    def close(self) -> None:
        """Give the set back; its members stay as they are."""
        self._set.close()

    if sys.platform != "linux":

        def _poll(self, seconds: float) -> list[tuple[int, int]]:
            events = self._set.control(None, 64, None if seconds < 0 else seconds)
            return [(event.ident, READABLE) for event in events]
