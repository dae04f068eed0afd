"""How an event loop pumps a `SharedPump`: a reader that stays, on asyncio; a system task on trio.

Knows event loops, and of the driver its turns. A loop that pumps is no leader: it sleeps on more than our sockets, and
may be blocked. The housekeeper has an eye on it.

What is submitted during one round of the loop is run together in the next, so that it may share a frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from _thread import get_ident
from typing import TYPE_CHECKING, Protocol

from zmqkit.transport import interrupts
from zmqkit.transport.waiters import asyncio_port, in_trio

if TYPE_CHECKING:
    from zmqkit.transport.shared import SharedPump

log = logging.getLogger("zmqkit.transport")


class LoopPump(Protocol):
    """One loop's part in a driver.

    Attributes:
        thread: in which the loop runs.
        scheduled: `soon` was called, and that round has not come yet.
        until: when it will look by itself, even if nothing comes.
    """

    thread: int
    scheduled: bool
    until: float

    @property
    def alive(self) -> bool:
        """Whether the loop can still run."""

    def soon(self) -> None:
        """Give the core a turn in the loop's next round. In the loop's thread."""

    def arm(self, due: float) -> None:
        """Look by itself then, at the latest. From any thread, with the driver's turn lock held."""

    def end(self) -> None:
        """Pump no more. From any thread."""


def join(driver: SharedPump) -> LoopPump:
    """Let the running loop pump this driver."""
    if in_trio():
        return TrioPump(driver)
    return AsyncioPump(driver)


def _turn(driver: SharedPump, *, poll: bool) -> None:
    found = interrupts.enter()
    try:
        if driver.turn_lock.acquire(False):
            try:
                driver.turn(driver.readiness.poll(0) if poll and not driver.ending else ())
            finally:
                driver.turn_lock.release()
            driver.combine()
    finally:
        interrupts.leave(found)


class AsyncioPump:
    """The running asyncio loop.

    Attributes:
        asyncio: the loop.
        port: by which waiters in it are woken.
    """

    def __init__(self, driver: SharedPump) -> None:
        self.thread = get_ident()
        self.until = math.inf
        self._driver = driver
        self._readiness = driver.readiness  # kept: its descriptor must not be closed while the loop watches it
        self.asyncio = asyncio.get_running_loop()
        self.port = asyncio_port(self.asyncio)
        self.scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self.asyncio.add_reader(self._readiness.fd, self._readable)

    @property
    def alive(self) -> bool:
        return not self.asyncio.is_closed()

    def soon(self) -> None:
        if not self.scheduled:
            self.scheduled = True
            try:
                self.asyncio.call_soon(self._run)
            except RuntimeError:  # it is closed: the housekeeper goes on alone
                self._run()

    def arm(self, due: float) -> None:
        if due >= self.until:
            return
        if get_ident() == self.thread:
            self.until = due
            if self._timer is not None:
                self._timer.cancel()
            with contextlib.suppress(RuntimeError):
                self._timer = self.asyncio.call_later(max(due - time.monotonic(), 0.0), self._due)
        else:
            self._driver.wake_leader()

    def end(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is closed
            if get_ident() == self.thread:
                self._remove()
            else:
                self.asyncio.call_soon_threadsafe(self._remove)

    def _remove(self) -> None:
        if not self.asyncio.is_closed():
            self.asyncio.remove_reader(self._readiness.fd)
        if self._timer is not None:
            self._timer.cancel()

    def _readable(self) -> None:
        self._take_turn(poll=True)

    def _run(self) -> None:
        self.scheduled = False
        self._take_turn(poll=False)

    def _take_turn(self, *, poll: bool) -> None:
        port = self.port
        port.thread = get_ident()
        try:
            _turn(self._driver, poll=poll)
        finally:
            port.thread = 0

    def _due(self) -> None:
        self.until = math.inf
        if self._driver.due <= time.monotonic():
            self._take_turn(poll=False)
        else:
            self.arm(self._driver.due)


class TrioPump:
    """The running trio."""

    def __init__(self, driver: SharedPump) -> None:
        import trio

        self.thread = get_ident()
        self.until = math.inf
        self.alive = True
        self._driver = driver
        self.scheduled = False
        trio.lowlevel.spawn_system_task(self._pump, name=f"zmqkit-{driver.name}")

    def soon(self) -> None:
        if not self.scheduled:
            self.scheduled = True
            self._driver.wake_leader()

    def arm(self, due: float) -> None:
        if due < self.until and get_ident() != self.thread:
            self._driver.wake_leader()

    def end(self) -> None:
        self._driver.wake_leader()

    async def _pump(self) -> None:
        import trio

        driver = self._driver
        readiness = driver.readiness  # kept: its descriptor must not be closed while trio watches it
        try:
            while not driver.ending:
                self.until = driver.due
                pause = self.until - time.monotonic()
                with trio.move_on_after(max(pause, 0.0)):
                    await trio.lowlevel.wait_readable(readiness.fd)
                self.scheduled = False
                _turn(driver, poll=True)
        except Exception:
            log.exception("%s: pumping in trio", driver.name)
        finally:
            self.alive = False
            self.scheduled = True  # nobody need be woken
