"""Real faces and real cores in one thread, without sockets: what tests of handlers run upon.

A `Bench` joins cores in memory and pumps them in place, whenever somebody hands a verb to one. Its time is virtual:
it leaps to what is due next when nobody has anything else to do, so that no retry is waited for.

Knows the contract of a core, journals, and what faces expect of a driver (zmqkit/transport/iothread.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from zmqkit.errors import JournalError, UsageError
from zmqkit.events import Event
from zmqkit.journal import Journal
from zmqkit.protocol.core import Core, Frames, Link, Write
from zmqkit.transport.mailbox import Mailbox
from zmqkit.transport.tickets import Ticket

E = TypeVar("E", bound=Event)


class BenchMailbox(Mailbox[Any]):
    """A mailbox that does not block: who waits for something lets the bench go on instead."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self._bench = bench

    def wait_nonempty(self, timeout: float | None = None) -> bool:
        """Let time go on until there is something, or the mailbox is stopped."""
        # Bounded waits are for more of what is there already: all that can come without time going on has come.
        while not (self or self.stopped) and timeout != 0 and self._bench.go_on():
            pass
        return bool(self)

    async def wait_nonempty_async(self, timeout: float | None = None) -> bool:
        """The same."""
        return self.wait_nonempty(timeout)


class BenchDriver:
    """Drives one core in place; to a face it is an open driver.

    Args:
        bench: which it belongs to.
        core: the state machine.
        journal: where its writes go; None without.
    """

    def __init__(self, bench: Bench, core: Core, journal: Journal | None = None) -> None:
        self.core = core
        self.mailbox = BenchMailbox(bench)
        self.addresses: tuple[str, ...] = ()
        self.routes: dict[Link, tuple[BenchDriver, Link]] = {}
        self.journal = journal
        self._bench = bench
        self._commands: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._arrived: deque[tuple[Link, Frames]] = deque()
        self._callbacks: list[tuple[type[Event], Callable[[Any], object]]] = []
        self._going = True
        """Its last turn put something out: what came of that it has not seen yet."""
        bench.drivers.append(self)

    # ---- what faces use ------------------------------------------------------------

    def ticket(self) -> Ticket:
        """A ticket for a verb to resolve."""
        return Ticket()

    def post(self, fn: Callable[..., object], *args: Any) -> None:
        """Run ``fn(*args, now)`` and all that follows from it."""
        self._commands.append((fn, args))
        self._bench.pump()

    submit = post

    def wait(self, ticket: Ticket, timeout: float | None = None) -> Any:
        """The ticket's result: all that can come without time going on has come."""
        return ticket.result()

    def wait_items(self, timeout: float | None = None) -> bool:
        """Let time go on until there is something to take, or the mailbox is stopped."""
        return self.mailbox.wait_nonempty(timeout)

    def check_wait(self) -> None:
        """Nothing to object: who waits here pumps it himself."""

    async def wait_async(self, ticket: Ticket, timeout: float | None = None) -> Any:
        """The same."""
        return self.wait(ticket, timeout)

    async def wait_items_async(self, timeout: float | None = None) -> bool:
        """The same."""
        return self.wait_items(timeout)

    def on(self, event_type: type[E], callback: Callable[[E], object]) -> Callable[[], None]:
        """Call back for events of this type. Returns its removal."""
        entry = (event_type, callback)
        self._callbacks.append(entry)
        return lambda: self._callbacks.remove(entry)

    def stats(self) -> dict[str, int | float]:
        """The core's counters."""
        return dict(self.core.counters)

    def close(self, timeout: float | None = None) -> bool:
        """Nothing is open."""
        self.mailbox.close()
        return True

    # ---- what the bench uses -------------------------------------------------------

    def turn(self, now: float) -> bool:
        """One turn of the core. True if anything happened."""
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
        if not (busy or self._going):
            return False  # nothing came, and its last turn had nothing to say
        core.end_turn(now)
        self._going = self._drain(now)
        return self._going or busy

    def _drain(self, now: float) -> bool:
        core, out = self.core, self.core.out
        writes, out.writes = out.writes, []
        sends, out.sends = out.sends, []
        replies, out.replies = out.replies, []
        items, out.items = out.items, []
        events, out.events = out.events, []
        reads, out.reads = out.reads, []
        out.probes, out.disconnects, out.dials = [], [], []
        if writes:
            self._store(writes, out.written, now)
        for link, frames in sends:
            other, back = self.routes[link]
            other._arrived.append((back, frames))
        for ticket, result in replies:
            if ticket is not None:
                ticket.resolve(result)
        if items:
            self.mailbox.put_many(items)
        for event in events:
            for kind, callback in tuple(self._callbacks):
                if isinstance(event, kind):
                    callback(event)
        for read in reads:
            core.loaded(read, self.journal.read(read) if self.journal is not None else [], now)
        return bool(writes or sends or replies or items or events or reads)

    def _store(self, writes: list[Write], up_to: int, now: float) -> None:
        try:
            if self.journal is not None:
                self.journal.commit(writes)
        except JournalError as error:
            self.core.store_failed(up_to, error, now)
        else:
            self.core.stored(up_to, now)


class Bench:
    """Drivers that are pumped together.

    Attributes:
        now: virtual time, in seconds.
        when_quiet: called when nothing is left to do at this moment; returns True if it found something to do.
        done: asked before time goes on; True ends all waiting.
        next_due: the next moment at which something can happen that is waited for. Heartbeats are not: time leaps over
            them, and the sessions think that they overslept.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.drivers: list[BenchDriver] = []
        self.when_quiet: Callable[[], bool] = lambda: False
        self.done: Callable[[], bool] = lambda: False
        self.next_due: Callable[[], float | None] = lambda: None
        self._pumping = False

    def join(self, dialling: BenchDriver, bound: BenchDriver) -> None:
        """Connect two cores."""
        there: Link = ("c", f"inproc://{len(self.drivers)}/{len(dialling.routes)}")
        back: Link = ("b", "inproc://bench", len(bound.routes).to_bytes(4, "big"))
        dialling.routes[there] = (bound, back)
        bound.routes[back] = (dialling, there)
        dialling.post(dialling.core.link_up, there)

    def pump(self) -> None:
        """Give every core its turns, until nothing happens any more at this moment."""
        if self._pumping:
            return  # who pumps already goes on until this is done, too
        self._pumping = True
        try:
            busy = True
            while busy:
                busy = False
                for driver in self.drivers:
                    busy |= driver.turn(self.now)
                busy = busy or self.when_quiet()
        finally:
            self._pumping = False

    def go_on(self) -> bool:
        """Move time on to what is due next. False if all is done."""
        self.pump()
        if self.done():
            return False
        due = self.next_due()
        if due is None:
            raise UsageError("nothing more can happen, and something is still waited for")
        self.now = max(self.now, due)
        self.pump()
        return True
