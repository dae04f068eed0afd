"""Real faces and real cores in one process, without sockets: what `serve` stands upon.

A `Memory` moves messages between drivers, in the thread that hands something over, one at a time; a thread of its own
wakes what is due. Time is real. Knows the contract of a core, and the interface that faces expect of a driver
(zmqkit/transport/driver.py).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from zmqkit.errors import Closed, JournalError
from zmqkit.events import Event
from zmqkit.journal import Journal
from zmqkit.protocol.core import Core, Frames, Link
from zmqkit.transport.mailbox import Mailbox
from zmqkit.transport.tickets import Desk, Ticket, wait, wait_async

E = TypeVar("E", bound=Event)


class MemoryDriver:
    """Drives one core; to a face it is an open driver.

    Args:
        memory: what joins it to others.
        core: the state machine.
        journal: where its writes go; None without.
        name: of the peer.
    """

    def __init__(self, memory: Memory, core: Any, journal: Journal | None, name: str) -> None:
        self.core: Core = core
        self.name = name
        self.mailbox: Mailbox[Any] = Mailbox()
        self.addresses: tuple[str, ...] = ()
        self.failure: BaseException | None = None
        self.ended = Ticket()
        self.routes: dict[Link, tuple[MemoryDriver, Link]] = {}
        self._memory = memory
        self._journal = journal
        self._desk = Desk()
        self._commands: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._arrived: deque[tuple[Link, Frames]] = deque()
        self._callbacks: tuple[tuple[type[Event], Callable[[Any], object]], ...] = ()
        memory.drivers.append(self)

    # ---- what faces use ------------------------------------------------------------

    def start(self) -> None:
        """It is started."""

    def post(self, fn: Callable[..., object], *args: Any) -> None:
        """Run ``fn(*args, now)`` and all that follows from it."""
        if self._desk.ended is not None:
            raise Closed(f"{self.name} is closed")
        self._commands.append((fn, args))
        self._memory.pump()

    submit = post_taking = defer = post

    def ticket(self) -> Ticket:
        """A ticket for a verb to resolve."""
        return Ticket(self._desk)

    def wait(self, ticket: Ticket, timeout: float | None = None) -> Any:
        """Block for the ticket's result."""
        return wait(ticket, timeout)

    def ask(self, ticket: Ticket, timeout: float | None, fn: Callable[..., object], *args: Any) -> Any:
        """Submit, and block for the ticket's result."""
        self.submit(fn, *args)
        ticket.handed = True
        return wait(ticket, timeout)

    def check_wait(self) -> None:
        """Whoever waits here may."""

    def wait_items(self, timeout: float | None = None) -> bool:
        """Block for something to take."""
        return self.mailbox.wait_nonempty(timeout)

    async def wait_async(self, ticket: Ticket, timeout: float | None = None) -> Any:
        """The same."""
        return await wait_async(ticket, timeout)

    async def ask_async(self, ticket: Ticket, fn: Callable[..., object], *args: Any) -> Any:
        """Submit, and wait for the ticket's result."""
        self.submit(fn, *args)
        ticket.handed = True
        return await wait_async(ticket)

    async def wait_items_async(self, timeout: float | None = None) -> bool:
        """The same."""
        return await self.mailbox.wait_nonempty_async(timeout)

    def connect(self, address: str) -> None:
        """There is nobody but who was joined."""

    def disconnect(self, address: str) -> None:
        """The same."""

    def on(self, event_type: type[E], callback: Callable[[E], object]) -> Callable[[], None]:
        """Call back for events of this type. Returns its removal."""
        entry = (event_type, callback)
        self._callbacks = (*self._callbacks, entry)

        def remove() -> None:
            self._callbacks = tuple(each for each in self._callbacks if each is not entry)

        return remove

    def stats(self) -> dict[str, int | float]:
        """The core's counters."""
        return dict(self.core.counters)

    def begin_close(self, timeout: float | None, *, flush: float = 0.0) -> None:
        """Close at once."""
        self.close(0)

    def close(self, timeout: float | None = None) -> bool:
        """Say goodbye; all that can be sent is sent at once. Again: nothing happens."""
        if self._desk.ended is None:
            with contextlib.suppress(Closed):
                self.post(self.core.close)
            self._desk.end(Closed(f"{self.name} is closed"))
            self.mailbox.close()
            if self._journal is not None:
                self._journal.close()
            self.ended.resolve(self.core.finished)
        return True

    def become_forked(self) -> None:
        """Nothing of it is the system's."""

    # ---- what the memory uses ------------------------------------------------------

    def turn(self, now: float) -> bool:
        """One turn of the core. True if anything happened."""
        if self._desk.ended is not None:
            self._arrived.clear()
            return False
        core, busy = self.core, False
        while self._commands:
            fn, args = self._commands.popleft()
            fn(*args, now)
            busy = True
        while self._arrived:
            core.receive_message(*self._arrived.popleft(), now)
            busy = True
        due = core.next_deadline()
        if due is not None and due <= now:
            core.handle_timer(now)
            busy = True
        core.end_turn(now)
        return self._drain(now) or busy

    def _drain(self, now: float) -> bool:
        out = self.core.out
        writes, out.writes = out.writes, []
        sends, out.sends = out.sends, []
        replies, out.replies = out.replies, []
        items, out.items = out.items, []
        events, out.events = out.events, []
        out.probes, out.disconnects, out.dials, out.reads = [], [], [], []
        if writes:
            try:
                if self._journal is not None:
                    self._journal.commit(writes)
                self.core.stored(out.written, now)
            except JournalError as error:
                self.core.store_failed(out.written, error, now)
        for link, frames in sends:
            other, back = self.routes[link]
            other._arrived.append((back, frames))
        for ticket, result in replies:
            if ticket is not None:
                ticket.resolve(result)
        if items:
            self.mailbox.put_many(items)
        for event in events:
            for kind, callback in self._callbacks:
                if isinstance(event, kind):
                    callback(event)
        return bool(writes or sends or replies or items or events)


class Memory:
    """Drivers that are pumped together."""

    def __init__(self) -> None:
        self.drivers: list[MemoryDriver] = []
        self._lock = threading.RLock()
        self._pumping = False
        self._timer = threading.Condition()
        self._due: float | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run_timer, name="zmqkit-testing-timer", daemon=True)
        self._thread.start()

    def join(self, dialling: MemoryDriver, bound: MemoryDriver) -> None:
        """Connect two cores."""
        there: Link = ("c", f"inproc://{len(self.drivers)}/{len(dialling.routes)}")
        back: Link = ("b", "inproc://memory", len(bound.routes).to_bytes(4, "big"))
        dialling.routes[there] = (bound, back)
        bound.routes[back] = (dialling, there)
        dialling.post(dialling.core.link_up, there)

    def pump(self) -> None:
        """Give every core its turns, until nothing happens any more at this moment."""
        with self._lock:
            if self._pumping:
                return  # called back from within: who pumps goes on until this is done, too
            self._pumping = True
            try:
                busy = True
                while busy:
                    busy = False
                    for driver in self.drivers:
                        busy |= driver.turn(time.monotonic())
            finally:
                self._pumping = False
            dues = [driver.core.next_deadline() for driver in self.drivers if driver._desk.ended is None]
            due = min((each for each in dues if each is not None), default=None)
        with self._timer:
            if due != self._due:
                self._due = due
                self._timer.notify()

    def close(self) -> None:
        """The end."""
        with self._timer:
            self._ended = True
            self._timer.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run_timer(self) -> None:
        while True:
            with self._timer:
                if self._ended:
                    return
                left = None if self._due is None else self._due - time.monotonic()
                if left is None or left > 0:
                    self._timer.wait(left)
                    continue
                self._due = None
            self.pump()
