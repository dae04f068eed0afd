"""Who waits, and how they are woken: a thread, an asyncio task, a trio task, behind one small interface.

Knows locks and event loops; not what is waited for. A wake-up is a hint: the waiter looks for itself. Waking is
cheap and never blocks; a burst of wake-ups for one event loop is one call into that loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import threading
import time
import weakref
from _thread import get_ident
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import trio

    from zmqkit.transport.shared import SharedPump


class Waiter(Protocol):
    """Somebody who waits, once."""

    def wake(self) -> bool:
        """Wake it, from any thread; more often than once does no harm. False: it cannot be reached any more."""


LOOK_SECONDS = 1.0
"""A signal that comes just before a lock sleeps is not seen by Python before it wakes: so it wakes now and then."""


class ThreadWaiter:
    """A waiting thread. A bare lock and not a Condition: nothing of it can be left half done by Ctrl-C."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> bool:
        try:
            self._lock.release()
        except RuntimeError:
            return True  # it was woken before, which is as good
        return True

    def wait(self, timeout: float | None) -> bool:
        """Wait until woken, at most ``timeout`` seconds (None: for ever). Ctrl-C gets through."""
        if timeout is not None and timeout <= LOOK_SECONDS:
            return self._lock.acquire(timeout=max(timeout, 0.0))
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while not self._lock.acquire(timeout=LOOK_SECONDS):
            left = deadline - time.monotonic()
            if left <= LOOK_SECONDS:
                return self._lock.acquire(timeout=max(left, 0.0))
        return True


class Leader:
    """Stands for the leader of a `SharedPump` among those who wait for a ticket, or for items."""

    __slots__ = ("_driver",)

    def __init__(self, driver: SharedPump) -> None:
        self._driver = driver

    def wake(self) -> bool:
        # If it does not sleep it is taking a turn, and looks for itself.
        if self._driver.polling:
            self._driver.wake_leader()
        return True


class AsyncWaiter(Waiter, Protocol):
    """A waiting task."""

    async def wait(self, timeout: float | None) -> bool:
        """Wait until woken, at most ``timeout`` seconds (None: for ever). True if woken."""


def async_waiter() -> AsyncWaiter:
    """A waiter for the running task, on asyncio or trio."""
    if in_trio():
        return TrioWaiter()
    return AsyncioWaiter()


async def checkpoint() -> None:
    """Let the loop run others, and be cancelled here if that was asked for."""
    if in_trio():
        import trio

        await trio.lowlevel.checkpoint()
    else:
        await asyncio.sleep(0)


def in_trio() -> bool:
    """Whether this runs in a task of trio."""
    # trio first: in its guest mode an asyncio loop runs in the same thread. Never imported for those who do not use it.
    if "trio" not in sys.modules:
        return False
    import trio

    return trio.lowlevel.in_trio_task()


# ---- asyncio ---------------------------------------------------------------------


class AsyncioPort:
    """Collects the waiters of one loop that are to be woken; one call into the loop wakes all of them."""

    __slots__ = ("__weakref__", "_ready", "_scheduled", "loop", "thread")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.thread = 0
        """Set by the loop's own callbacks to their thread, for as long as they run: what they wake needs no detour."""
        self.loop = weakref.ref(loop)  # the port is the value of a weak dictionary keyed by the loop
        self._ready: deque[AsyncioWaiter] = deque()
        self._scheduled = False

    def wake(self, waiter: AsyncioWaiter) -> bool:
        loop = self.loop()
        if loop is None or loop.is_closed():
            return False
        if asyncio._get_running_loop() is loop:
            if not waiter.future.done():
                waiter.future.set_result(None)
            return True
        self._ready.append(waiter)
        if not self._scheduled:
            self._scheduled = True
            try:
                loop.call_soon_threadsafe(self._run)
            except RuntimeError:  # closed since we looked
                self._scheduled = False
                return False
        return True

    def _run(self) -> None:
        # First the flag, then the queue: who appends after the queue was seen empty finds the flag down.
        self._scheduled = False
        ready = self._ready
        while ready:
            waiter = ready.popleft()
            if not waiter.future.done():
                waiter.future.set_result(None)


def rouse_loop() -> None:
    """Called where a signal handler may have woken waiters: the loop that it interrupted goes on sleeping otherwise.

    From the loop's own thread a waiter is woken by what the loop does next. A signal handler runs in that thread, too,
    but in the midst of the loop's sleep.
    """
    loop = asyncio._get_running_loop()
    if loop is not None:
        with contextlib.suppress(RuntimeError):  # closed
            loop.call_soon_threadsafe(_nothing)


def _nothing() -> None:
    return None


_asyncio_ports: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncioPort] = weakref.WeakKeyDictionary()


def asyncio_port(loop: asyncio.AbstractEventLoop) -> AsyncioPort:
    """The port of the running loop."""
    port = _asyncio_ports.get(loop)
    if port is None:
        # Only the loop's own thread comes here for this loop.
        port = _asyncio_ports[loop] = AsyncioPort(loop)
    return port


class AsyncioWaiter:
    """A waiting asyncio task.

    Args:
        loop: the running one, where that is known.
        port: its port.
    """

    __slots__ = ("_port", "future")

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, port: AsyncioPort | None = None) -> None:
        if loop is None:
            loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = asyncio.Future(loop=loop)
        self._port = asyncio_port(loop) if port is None else port

    def wake(self) -> bool:
        if self._port.thread == get_ident():
            if not self.future.done():
                self.future.set_result(None)
            return True
        return self._port.wake(self)

    async def wait(self, timeout: float | None) -> bool:
        future = self.future
        if timeout is None:
            await future
            return True
        timer = future.get_loop().call_later(timeout, self._expire)
        try:
            await future
        except TimeoutError:
            return False
        finally:
            timer.cancel()
        return True

    def _expire(self) -> None:
        if not self.future.done():
            self.future.set_exception(TimeoutError())


# ---- trio ------------------------------------------------------------------------


class _TrioPort:
    """The same for one run of trio."""

    __slots__ = ("_ready", "_scheduled", "_token")

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._ready: deque[TrioWaiter] = deque()
        self._scheduled = False

    def wake(self, waiter: TrioWaiter) -> bool:
        import trio

        self._ready.append(waiter)
        if not self._scheduled:
            self._scheduled = True
            try:
                self._token.run_sync_soon(self._run)
            except (trio.RunFinishedError, OSError):  # OSError: a run that was abandoned, its descriptors are closed
                self._scheduled = False
                return False
        return True

    def _run(self) -> None:
        self._scheduled = False
        ready = self._ready
        while ready:
            ready.popleft().deliver()


_trio_port: Any = None
"""A trio RunVar: gone with its run. Made at the first use."""


class TrioWaiter:
    """A waiting trio task."""

    __slots__ = ("_port", "_task", "_woken")

    def __init__(self) -> None:
        global _trio_port
        import trio

        if _trio_port is None:
            _trio_port = trio.lowlevel.RunVar("zmqkit port", default=None)
        port = _trio_port.get()
        if port is None:
            port = _TrioPort(trio.lowlevel.current_trio_token())
            _trio_port.set(port)
        self._port: _TrioPort = port
        self._task: trio.lowlevel.Task | None = None
        self._woken = False

    def wake(self) -> bool:
        return self._port.wake(self)

    def deliver(self) -> None:
        """Called in trio's thread."""
        import trio

        self._woken = True
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def wait(self, timeout: float | None) -> bool:
        import trio

        if timeout is None:
            await self._park()
        else:
            with trio.move_on_after(max(timeout, 0.0)):
                await self._park()
        return self._woken

    async def _park(self) -> None:
        import trio

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        if not self._woken:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)
