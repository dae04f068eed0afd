"""What happens to open drivers when the process forks or exits. Knows them only as a small protocol.

Fork: neither threads nor sockets live on in the child. Each open driver becomes one there that raises `Forked` at
every use; nothing of it is flushed, because all of that belongs to the parent. Only the descriptors of bound ports
are closed there: otherwise a port would stay taken for as long as the child lives.

Exit: daemon threads die in the middle of what they do. So before that, open drivers are closed, all of them at
once, within `EXIT_SECONDS` altogether.
"""

from __future__ import annotations

import atexit
import os
import time
import weakref
from typing import Protocol

from zmqkit.transport.tickets import Ticket, WaitExpired, wait

EXIT_SECONDS = 1.0
"""How long all open drivers together may delay the interpreter's exit."""


class Open(Protocol):
    """An open driver."""

    ended: Ticket

    def begin_close(self, timeout: float | None, *, flush: float = ...) -> None:
        """Ask it to close, without waiting."""

    def become_forked(self) -> None:
        """This is the child of a fork."""


_open: dict[int, weakref.ref[Open]] = {}


def register(driver: Open) -> None:
    """From now on until `unregister` (or until it is freed) this driver is open."""
    key = id(driver)

    def freed(_: object) -> None:
        _open.pop(key, None)

    _open[key] = weakref.ref(driver, freed)


def unregister(driver: Open) -> None:
    """This driver is closed."""
    _open.pop(id(driver), None)


def _all_open() -> list[Open]:
    # list() of a dict's values is one atomic call; other threads open and close drivers meanwhile.
    return [driver for driver in (ref() for ref in list(_open.values())) if driver is not None]


def close_all(seconds: float = EXIT_SECONDS) -> bool:
    """Close every open driver, bounded by so many seconds altogether. True if all of them came to their end."""
    until = time.monotonic() + seconds
    drivers = _all_open()
    for driver in drivers:
        driver.begin_close(seconds * 0.5, flush=seconds * 0.3)
    for driver in drivers:
        try:
            wait(driver.ended, until - time.monotonic())
        except WaitExpired:
            return False
    return True


def _after_in_child() -> None:
    drivers = _all_open()
    _open.clear()
    for driver in drivers:
        driver.become_forked()


atexit.register(close_all)
os.register_at_fork(after_in_child=_after_in_child)
