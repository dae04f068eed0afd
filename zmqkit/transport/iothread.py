"""The first driver: one background thread a peer, which owns its sockets and its journal and pumps its core.

Knows the contract of a core and no pattern. Users' threads and tasks never touch a socket: they `post` calls of the
core's verbs, wait on tickets, and take from the mailbox. So heartbeats go on while a user's loop is blocked, an async
peer never syncs a disk on its loop, and a cancelled wait loses nothing.

The thread sleeps in two depths. After activity it *dozes*: it looks round every millisecond, so that a busy producer
need not wake it, which costs a system call. After `DOZE_SECONDS` of silence it *sleeps*, and every `post` wakes it.
The order closes the race: the sleeper raises its flag, then looks at the queue; a producer appends, then looks at the
flag.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import zmq

from zmqkit.errors import AddressError, Closed, Forked
from zmqkit.events import Event
from zmqkit.options import Heartbeat, Limits
from zmqkit.protocol.core import Core
from zmqkit.transport import forks, tickets, wakeup
from zmqkit.transport.mailbox import Mailbox
from zmqkit.transport.pump import Pump, Store
from zmqkit.transport.tickets import Desk, Ticket, WaitExpired
from zmqkit.transport.timers import Alarms
from zmqkit.transport.wires import Wires

log = logging.getLogger("zmqkit.transport")

DOZE_SECONDS = 0.005
DOZE_POLL_SECONDS = 0.001
SLEEP_SECONDS = 30.0
"""The longest sleep, where nothing is due."""
STUCK_SECONDS = 0.01
"""How long to sleep where a core with a bug keeps a deadline that is past."""
FLUSH_SECONDS = 1.0
"""How long closed sockets may go on sending what the core said last."""
GRACE_SECONDS = 1.0
"""How much longer than asked `close` waits for a thread that is in a system call."""

AWAKE, DOZING, SLEEPING = 0, 1, 2

E = TypeVar("E", bound=Event)


class IoThread:
    """Drives one core.

    Args:
        core: the state machine; from `start` on touched by the I/O thread only.
        journal: where writes go; closed when the driver ends. None: writes count as stored at once.
        name: of the peer; the thread is called ``zmqkit-<name>``.
        binds: addresses to bind, port 0 or ``*`` for a free one.
        connects: addresses to connect to.
        heartbeat: sets libzmq's own heartbeats, so that a dead hop is noticed before the session's bound.
        limits: ``frame_bytes`` bounds each frame that is received.
        waker: "eventfd", "pipe", or what the system has.

    Attributes:
        mailbox: what the core gives the user.
        addresses: what is bound, ports filled in; after `start`.
        failure: the exception that ended the thread, if one did; every waiter is woken with it.
        ended: resolved when all is torn down: True if the core had finished.
    """

    def __init__(
        self,
        core: Core,
        *,
        journal: Store | None = None,
        name: str,
        binds: Sequence[str] = (),
        connects: Sequence[str] = (),
        heartbeat: Heartbeat | None = None,
        limits: Limits | None = None,
        waker: wakeup.Kind = "auto",
    ) -> None:
        self.core = core
        self.name = name
        self.mailbox: Mailbox[Any] = Mailbox()
        self.addresses: tuple[str, ...] = ()
        self.failure: BaseException | None = None
        self.ended = Ticket()
        self._journal = journal
        self._binds = tuple(binds)
        self._connects = tuple(connects)
        self._desk = Desk()
        self._alarms = Alarms()
        self._wires = Wires(core, heartbeat or Heartbeat(), limits or Limits(), self._alarms, self._bug)
        self._pump = Pump(core, journal, self._wires, self.mailbox, self._alarms, self._bug)
        self._waker = wakeup.Waker(waker)
        self._wake = self._waker.wake
        self._commands: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._append: Callable[[tuple[Callable[..., object], tuple[Any, ...]]], None] = self._commands.append
        self._depth = AWAKE
        self._lock = threading.Lock()
        """Held to start and to end once, and to change the callbacks. Never while waiting."""
        self._thread: threading.Thread | None = None
        self._closing = False
        self._close_by = math.inf
        self._flush = FLUSH_SECONDS
        self._forked = False
        self._turns = 0
        self._wakeups = 0
        self._core_errors = 0

    def __repr__(self) -> str:
        return f"<IoThread {self.name!r}>"

    # ---- from any thread -------------------------------------------------------------

    def start(self) -> None:
        """Bind and connect in this thread, so that errors come up here; then start the I/O thread.

        Raises:
            AddressInUse: a bind address is taken.
            AddressError: an address cannot be bound, or read. After either nothing is left open, and the journal is
                still the caller's.
            Closed: it was started or closed before.
            Forked: it was made before a fork, in the parent.
        """
        with self._lock:
            if self._desk.ended is not None:
                self._refuse()
            if self._thread is not None:
                raise Closed(f"{self.name} was started before")
            try:
                self.addresses = tuple(self._wires.bind(address) for address in self._binds)
                for address in self._connects:
                    self._wires.connect(address, time.monotonic())
            except BaseException:
                self._close_sockets(0)
                self.addresses = ()
                raise
            self._thread = threading.Thread(target=self._run, name=f"zmqkit-{self.name}", daemon=True)
            forks.register(self)
            self._thread.start()

    def post(self, fn: Callable[..., object], *args: Any) -> None:
        """Run ``fn(*args, now)`` in the I/O thread, soon: within a millisecond or so.

        What it raises is logged, and is the result of every `Ticket` among ``args``.
        Raises `Closed`, `Forked`, or the `failure`.
        """
        try:
            self._append((fn, args))
        finally:  # also when Ctrl-C comes right after the append
            if self._depth == SLEEPING:
                self._wake()

    def submit(self, fn: Callable[..., object], *args: Any) -> None:
        """The same, at once: for calls that somebody waits for."""
        try:
            self._append((fn, args))
        finally:
            if self._depth:
                self._wake()

    def ticket(self) -> Ticket:
        """A ticket for a verb to resolve; when the driver ends without, its waiters are told."""
        return Ticket(self._desk)

    def wait(self, ticket: Ticket, timeout: float | None = None) -> Any:
        """Block this thread for the ticket's result. See `tickets.wait`."""
        try:
            return tickets.wait(ticket, timeout)
        finally:
            del ticket  # see `Ticket.result`

    def wait_items(self, timeout: float | None = None) -> bool:
        """Block this thread until there is something to take. See `Mailbox.wait_nonempty`."""
        return self.mailbox.wait_nonempty(timeout)

    async def wait_async(self, ticket: Ticket, timeout: float | None = None) -> Any:
        """The same for a task of asyncio or trio."""
        try:
            return await tickets.wait_async(ticket, timeout)
        finally:
            del ticket

    async def wait_items_async(self, timeout: float | None = None) -> bool:
        """The same for a task of asyncio or trio."""
        return await self.mailbox.wait_nonempty_async(timeout)

    def connect(self, address: str) -> None:
        """Connect to one more address, or count one more user of it. An address that cannot be read is logged."""
        self.submit(self._connect, address)

    def disconnect(self, address: str) -> None:
        """Take back one `connect`; the connection ends with its last user. Unknown addresses are ignored."""
        self.submit(self._wires.disconnect, address)

    def on(self, event_type: type[E], callback: Callable[[E], object]) -> Callable[[], None]:
        """Call back for events of this type, in the I/O thread. What it raises is logged. Returns its removal."""
        entry = (event_type, callback)
        with self._lock:
            self._pump.callbacks = (*self._pump.callbacks, entry)

        def remove() -> None:
            with self._lock:
                self._pump.callbacks = tuple(other for other in self._pump.callbacks if other is not entry)

        return remove

    def stats(self) -> dict[str, int | float]:
        """The core's counters, and the driver's as ``io_...``."""
        own = {
            **self._wires.stats(),
            "turns": self._turns,
            "wakeups": self._wakeups,
            "commits": self._pump.commits,
            "commit_failures": self._pump.commit_failures,
            "core_errors": self._core_errors,
            "callback_errors": self._pump.callback_errors,
        }
        return {**self.core.counters, **{f"io_{name}": value for name, value in own.items()}}

    def begin_close(self, timeout: float | None, *, flush: float = FLUSH_SECONDS) -> None:
        """Ask to close, without waiting; `ended` tells. The shortest of several timeouts counts.

        Args:
            timeout: seconds that the core has to finish; None: as long as it takes.
            flush: seconds that the sockets then have to send what it said last.
        """
        with self._lock:
            if self._thread is None:
                if not self.ended.done and not self._forked:
                    self._end(Closed(f"{self.name} is closed"))
                    self._close_journal()
                    self.ended.resolve(True)
                return
        close_by = math.inf if timeout is None else time.monotonic() + max(timeout, 0.0)
        with contextlib.suppress(Exception):  # it has ended already
            self.submit(self._start_close, close_by, flush)

    def close(self, timeout: float | None = None) -> bool:
        """Let the core finish, at most ``timeout`` seconds (None: as long as it takes), then tear everything down.

        Idempotent, from any thread; the shortest of several timeouts counts. In the I/O thread itself (a callback)
        it only asks. Returns True if the core had finished and all is torn down.
        """
        if self._forked:
            return True
        self.begin_close(timeout)
        if threading.current_thread() is self._thread:
            return False
        patience = None if timeout is None else max(timeout, 0.0) + FLUSH_SECONDS + GRACE_SECONDS
        try:
            return bool(tickets.wait(self.ended, patience))
        except WaitExpired:
            log.warning("%s: the I/O thread is still busy, probably with the disk; left behind", self.name)
            return False

    def become_forked(self) -> None:
        """This is the child of a fork: from now on everything raises `Forked`; nothing of the parent's is touched."""
        self._forked = True
        error = Forked(f"{self.name} belongs to the parent process {os.getppid()}; open a new one in the child")
        # Waiters are the parent's: waking them would write to its loops' descriptors.
        self._end(error, wake=False)
        self.mailbox.lock = _Refusing(self._refuse)
        self._depth = AWAKE
        self._lock = threading.Lock()
        self._waker.close()
        self._wires.become_forked()
        self.ended.resolve(True)
        # libzmq's objects must not be freed here either.
        _inherited.append((self._wires, self._journal))

    # ---- in the I/O thread -------------------------------------------------------------

    def _run(self) -> None:
        finished = False
        try:
            self._loop()
            finished = self.core.finished
        except BaseException as error:
            self.failure = error
            log.critical("%s: the I/O thread ends: %s", self.name, error, exc_info=True)
        finally:
            self._tear_down(finished)

    def _loop(self) -> None:
        clock = time.monotonic
        core, wires, pump, alarms, commands = self.core, self._wires, self._pump, self._alarms, self._commands
        waker = self._waker
        poll = zmq.zmq_poll
        ready: list[tuple[Any, int]] = []
        active = clock()
        while True:
            self._turns += 1
            now = clock()
            busy = False
            if ready:
                sockets = [socket for socket, _ in ready]
                if sockets[0] == waker.fd:
                    self._wakeups += 1
                    waker.clear()
                busy = wires.handle(sockets, now)
                active = now
            # So many as there are now: a producer that never pauses must not keep the sockets waiting.
            for _ in range(len(commands)):
                fn, args = commands.popleft()
                try:
                    fn(*args, now)
                except Exception as error:
                    self._command_raised(fn, args, error)
                active = now
            alarms.run(now)
            due = core.next_deadline()
            fired = due is not None and due <= now
            if fired:
                pump.handle_timer(now)
            pump.run(now)
            if self._closing and (core.finished or clock() >= self._close_by):
                return

            # How long, and how deeply, to sleep.
            told, now = now, clock()
            due = core.next_deadline()
            # What came due since it was told the time, while the journal was written say, is no fault of the core's.
            if fired and due is not None and due < told:
                self._core_errors += 1
                log.error("the core left its deadline %.3f s in the past", now - due)
                due = now + STUCK_SECONDS
            wake_at = min(
                now + SLEEP_SECONDS if due is None else due,
                alarms.next() or math.inf,
                self._close_by,
                now + SLEEP_SECONDS,
            )
            pause = 0.0 if busy else max(wake_at - now, 0.0)
            if pause:
                if now - active < DOZE_SECONDS:
                    pause = min(pause, DOZE_POLL_SECONDS)
                    self._depth = DOZING
                else:
                    self._depth = SLEEPING
                if commands:
                    pause = 0.0
            ready = poll([(waker.fd, zmq.POLLIN), *wires.pollset], math.ceil(pause * 1000))
            self._depth = AWAKE

    def _connect(self, address: str, now: float) -> None:
        try:
            self._wires.connect(address, now)
        except (AddressError, zmq.ZMQError) as error:
            log.warning("%s: %s", self.name, error)

    def _command_raised(self, fn: Callable[..., object], args: tuple[Any, ...], error: Exception) -> None:
        self._bug(getattr(fn, "__name__", repr(fn)))
        for arg in args:
            if isinstance(arg, Ticket):
                arg.resolve(error)

    def _bug(self, name: str) -> None:
        """Called in an ``except`` block: the core raised, which it must not."""
        self._core_errors += 1
        log.exception("%s: the core's %s raised", self.name, name)

    def _start_close(self, close_by: float, flush: float, now: float) -> None:
        self._close_by = min(self._close_by, close_by)
        self._flush = min(self._flush, flush)
        if not self._closing:
            self._closing = True
            try:
                self.core.close(now)
            except Exception:
                self._bug("close")
                self._close_by = now  # it may never be finished

    # ---- the end ----------------------------------------------------------------------

    def _tear_down(self, finished: bool) -> None:
        try:
            self._end(self.failure or Closed(f"{self.name} is closed"))
            self._close_sockets(self._flush)
        except BaseException:
            log.exception("%s: tearing down", self.name)
        finally:
            self._close_journal()
            forks.unregister(self)
            self.ended.resolve(finished)

    def _end(self, error: BaseException, *, wake: bool = True) -> None:
        """No more calls are taken; every waiter is told."""
        self._desk.end(error, wake=False)
        self._append = self._refuse
        commands = list(self._commands)
        self._commands.clear()
        if wake:
            for _, args in commands:
                for arg in args:
                    if isinstance(arg, Ticket):
                        arg.resolve(error)
            self._desk.end(error)
        self.mailbox.close(error, wake=wake)

    def _close_sockets(self, flush: float) -> None:
        """Close, wait until libzmq has sent what is left and freed the ports, at most ``flush`` seconds."""
        wires = self._wires
        try:
            wires.begin_close(flush)
            until = time.monotonic() + flush + 0.2  # libzmq keeps the limit; this one is for libzmq
            while not wires.closed() and time.monotonic() < until:
                zmq.zmq_poll(wires.pollset, 20)
        finally:
            wires.abandon()

    def _close_journal(self) -> None:
        if self._journal is not None:
            try:
                self._journal.close()
            except Exception:
                log.exception("%s: closing the journal", self.name)

    def _refuse(self, _: object = None) -> NoReturn:
        error = self._desk.ended
        assert error is not None
        if error is self.failure:
            raise error
        raise type(error)(*error.args)  # a fresh one: its traceback is the caller's own


class _Refusing:
    """A lock of a forked child: entering it raises."""

    def __init__(self, refuse: Callable[[], NoReturn]) -> None:
        self._refuse = refuse

    def __enter__(self) -> NoReturn:
        self._refuse()

    def __exit__(self, *_: object) -> None:
        return None


_inherited: list[object] = []
"""What a forked child must never free."""
