"""Waking the I/O thread out of its poll: an eventfd, or a pipe where there is none. Knows file descriptors only."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Literal

Kind = Literal["auto", "eventfd", "pipe"]


class Waker:
    """A descriptor that becomes readable by `wake`.

    The descriptors are closed when the object is freed, not before: a thread that is just about to wake holds a
    reference, so it never writes to a descriptor that meanwhile belongs to another file.

    Attributes:
        fd: what the poll waits on.
        wake: from any thread. It is a C callable on purpose: between a caller's look at "it sleeps" and the system
            call no Python code runs, hence no KeyboardInterrupt comes between.
    """

    def __init__(self, kind: Kind = "auto") -> None:
        self.wake: Callable[[], object]
        # sys.platform, and not hasattr: type checkers know the first.
        if sys.platform == "linux" and kind != "pipe":
            self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._fds = [self.fd]
            self.wake = functools.partial(os.eventfd_write, self.fd, 1)
        elif kind == "eventfd":
            raise OSError("no eventfd on this system")
        else:
            self.fd, out = os.pipe()
            self._fds = [self.fd, out]
            os.set_blocking(self.fd, False)
            # The writing end blocks when 64 KiB wake-ups wait. They cannot: only a sleeper is woken, and it reads.
            self.wake = functools.partial(os.write, out, b"\0")

    def clear(self) -> None:
        """Take all wake-ups that came."""
        try:
            os.read(self.fd, 4096)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Close the descriptors: only where no other thread can be about to wake (a forked child)."""
        while self._fds:
            os.close(self._fds.pop())

    def __del__(self) -> None:
        if hasattr(self, "_fds"):
            self.close()
