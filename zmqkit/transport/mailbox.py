"""What a peer's user takes: a queue between the I/O thread and threads, asyncio tasks and trio tasks.

Knows waiters; no zmq, no core. Items stay in the queue until somebody takes them; a wake-up is only a hint that
there is something. So a waiter that was woken and then cancelled, or interrupted, loses nothing: it passes the hint on.

Ctrl-C (KeyboardInterrupt) may come in the main thread at any moment that CPython looks for it: after a call, at the
start of a function, at a backward jump. Hence the shape of the code below: an item is looked at and deleted by two
instructions with none of these between (``queue[0]``, ``del queue[0]``), and what was deleted is given back by one
single call if an interrupt comes before the caller has it.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from zmqkit.transport.waiters import ThreadWaiter, Waiter, async_waiter, rouse_loop

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A queue with waiters. Every method may be called from any thread. Items are never None.

    Attributes:
        lock: hold it (``with mailbox.lock:``) round `peek` and `pop`: to look at the first item, and take or leave it.
        closed: nothing more will come.
        failure: why it was closed, if by an error.
        stopped: whoever waits returns at once; see `stop`.
    """

    def __init__(self) -> None:
        self.lock: contextlib.AbstractContextManager[Any] = threading.Lock()
        self.closed = False
        self.stopped = False
        self.failure: BaseException | None = None
        self._items: deque[T] = deque()
        self._returned: deque[T] = deque()
        """What was taken and given back; goes first. Apart, so that giving back needs no lock (see `take`)."""
        # First come, first woken. No lock: each step is one atomic call, so that a signal handler may call `stop`.
        self._waiters: deque[Waiter] = deque()

    def __len__(self) -> int:
        return len(self._items) + len(self._returned)

    @property
    def waiters(self) -> int:
        """How many wait now."""
        return len(self._waiters)

    # ---- in ------------------------------------------------------------------------

    def put_many(self, items: list[T]) -> None:
        """Append items, and wake as many waiters as there are items. From the I/O thread."""
        self._items.extend(items)
        if self._waiters:
            self._wake(len(items))

    def put_back(self, items: Iterable[T]) -> None:
        """Give back what was taken; it goes first, in this order."""
        back = list(items)[::-1]
        try:
            self._returned.extendleft(back)
        finally:
            self._wake(len(back))

    def close(self, failure: BaseException | None = None, *, wake: bool = True) -> None:
        """Nothing more will come: wake everybody. What is in can still be taken."""
        if self.failure is None:
            self.failure = failure
        self.closed = True
        if wake:
            self._wake_all()

    def stop(self) -> None:
        """Wake everybody and let nobody wait, until `resume`; nothing is closed. From any thread or signal handler."""
        self.stopped = True
        self._wake_all()
        rouse_loop()

    def resume(self) -> None:
        """Take back a `stop`."""
        self.stopped = False

    def nudge(self, waiters: int = 1) -> None:
        """Wake so many more waiters if there is anything to take.

        For who leaves a part of an item for others, and for who was woken and then went away without taking.
        """
        if self._waiters and (self._items or self._returned):
            self._wake(waiters)

    # ---- out -----------------------------------------------------------------------

    def peek(self) -> T | None:
        """The first item, None if there is none. Hold the `lock`."""
        queue = self._returned or self._items
        return queue[0] if queue else None

    def pop(self) -> T | None:
        """Take the first item, None if there is none. Hold the `lock`, and `put_back` what an exception finds taken."""
        queue = self._returned or self._items
        if not queue:
            return None
        item = queue[0]
        del queue[0]
        return item

    def take(self) -> T | None:
        """Take the first item; None if there is none. An interrupt leaves it in the mailbox, or it is returned."""
        item: T | None = None
        try:
            with self.lock:
                queue = self._returned or self._items
                if queue:
                    item = queue[0]
                    del queue[0]
            return item
        except BaseException:
            if item is not None:
                self._returned.appendleft(item)
                self._wake(1)
            raise

    def take_many(self, limit: int) -> list[T]:
        """Take up to ``limit`` items, as safely as `take`; fewer, or none, where there are fewer."""
        head: list[T] = []
        taken = 0
        try:
            with self.lock:
                queue = self._returned or self._items
                head = list(itertools.islice(queue, limit))
                for _ in head:
                    del queue[0]
                    taken += 1
            return head
        except BaseException:
            if taken:
                self._returned.extendleft(head[:taken][::-1])
                self._wake(taken)
            raise

    # ---- waiting -------------------------------------------------------------------

    def wait_nonempty(self, timeout: float | None = None) -> bool:
        """Block this thread until there is something to take, or the mailbox is closed or stopped.

        At most ``timeout`` seconds; None: for ever. True if there is something (another may be quicker to take it).
        """
        if not self._idle():
            return bool(self._items or self._returned)
        waiter = ThreadWaiter()
        try:
            self._waiters.append(waiter)
            if self._idle():
                waiter.wait(timeout)
            self._leave(waiter)
            return bool(self._items or self._returned)
        except BaseException:
            self._leave(waiter)
            self.nudge()  # we may have been woken, and will not look
            raise

    async def wait_nonempty_async(self, timeout: float | None = None) -> bool:
        """The same for a task of asyncio or trio. No checkpoint when there is something already."""
        if not self._idle():
            return bool(self._items or self._returned)
        waiter = async_waiter()
        try:
            self._waiters.append(waiter)
            if self._idle():
                await waiter.wait(timeout)
            self._leave(waiter)
            return bool(self._items or self._returned)
        except BaseException:
            self._leave(waiter)
            self.nudge()
            raise

    def _idle(self) -> bool:
        """Whether there is reason to wait: nothing to take, and it is neither closed nor stopped."""
        return not (self._items or self._returned or self.closed or self.stopped)

    def busy(self) -> bool:
        """Whether there is no reason to wait."""
        return bool(self._items or self._returned or self.closed or self.stopped)

    def _leave(self, waiter: Waiter) -> None:
        try:
            self._waiters.remove(waiter)
        except ValueError:
            return  # it was woken, and taken out by who woke it

    def _wake(self, count: int) -> None:
        waiters = self._waiters
        waiter: Waiter | None = None
        try:
            while count > 0 and waiters:
                try:
                    waiter = waiters[0]
                    waiters.remove(waiter)
                except (IndexError, ValueError):
                    continue  # another was quicker
                if waiter.wake():
                    count -= 1
        except BaseException:
            if waiter is not None:
                waiter.wake()  # interrupted between taking it out and waking it
            raise

    def _wake_all(self) -> None:
        self._wake(len(self._waiters))


class SharedMailbox(Mailbox[Any]):
    """A mailbox that wakes no more threads than needed.

    Attributes:
        threads: how many threads wait, the leader not counted.
        leader_takes: who is taking a turn will take from here, be it the leader or who posts: nobody need be woken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.threads = 0
        self.leader_takes = False

    def put_many(self, items: list[Any]) -> None:
        """Append items; wake one thread, or as many tasks as there are items."""
        self._items.extend(items)
        if self._waiters and not self.leader_takes:
            self._wake(1 if self.threads else len(items))

    def wake(self, count: int) -> None:
        """Wake so many of those who wait."""
        self._wake(count)
