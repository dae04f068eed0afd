"""What all drivers have in common: what is around the turns of a core. How turns come about is each driver's own.

Knows the contract of a core and no pattern.
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

from zmqkit.errors import AddressError, Closed, Forked, UsageError
from zmqkit.events import Event
from zmqkit.options import Heartbeat, Limits
from zmqkit.protocol.core import Core
from zmqkit.transport import forks, tickets, wakeup
from zmqkit.transport.driver import DataKind
from zmqkit.transport.mailbox import Mailbox
from zmqkit.transport.pump import Pump, Store
from zmqkit.transport.tickets import Desk, Ticket, WaitExpired
from zmqkit.transport.timers import Alarms
from zmqkit.transport.wires import Wires

log = logging.getLogger("zmqkit.transport")

STUCK_SECONDS = 0.01
"""How long to sleep where a core with a bug keeps a deadline that is past."""
FLUSH_SECONDS = 1.0
"""How long closed sockets may go on sending what the core said last."""
GRACE_SECONDS = 1.0
"""How much longer than asked `close` waits for a thread that is in a system call."""

E = TypeVar("E", bound=Event)
Command = tuple[Callable[..., object], tuple[Any, ...]]


class BaseDriver:
    """Drives one core; see `Driver` for what its users may ask.

    Args:
        core: the state machine; from `start` on touched by the driver only.
        journal: where writes go; closed when the driver ends. None: writes count as stored at once.
        name: of the peer; the driver's thread is called ``zmqkit-<name>``.
        binds: addresses to bind, port 0 or ``*`` for a free one.
        connects: addresses to connect to.
        data: which kind the data endpoints are; None: there are none.
        data_binds: addresses to bind as data endpoints; the core's link_up of each is its first input.
        data_connects: addresses to connect as data endpoints.
        heartbeat: sets libzmq's own heartbeats, so that a dead hop is noticed before the session's bound.
        limits: ``frame_bytes`` bounds each frame that is received, but of subscriptions `data.SUBSCRIPTION_BYTES`.
        waker: "eventfd", "pipe", or what the system has.
    """

    def __init__(
        self,
        core: Core,
        *,
        journal: Store | None = None,
        name: str,
        binds: Sequence[str] = (),
        connects: Sequence[str] = (),
        data: DataKind | None = None,
        data_binds: Sequence[str] = (),
        data_connects: Sequence[str] = (),
        heartbeat: Heartbeat | None = None,
        limits: Limits | None = None,
        waker: wakeup.Kind = "auto",
    ) -> None:
        self.core = core
        self.name = name
        self.mailbox: Mailbox[Any] = self._make_mailbox()
        self.addresses: tuple[str, ...] = ()
        self.data_addresses: tuple[str, ...] = ()
        self.failure: BaseException | None = None
        self.ended = Ticket()
        self._journal = journal
        self._binds = tuple(binds)
        self._connects = tuple(connects)
        if data is None and (data_binds or data_connects):
            raise UsageError(f"{name}: addresses of data endpoints say nothing without data=")
        self._data_binds = tuple(data_binds)
        self._data_connects = tuple(data_connects)
        self._desk = Desk()
        self._alarms = Alarms()
        self._data = data
        self._wires = Wires(core, heartbeat or Heartbeat(), limits or Limits(), self._alarms, self._bug, data)
        self._pump = Pump(core, journal, self._wires, self.mailbox, self._alarms, self._bug)
        self._waker = wakeup.Waker(waker)
        self._wake = self._waker.wake
        self._commands: deque[Command] = deque()
        self._append: Callable[[Command], None] = self._commands.append
        self._lock = threading.Lock()
        """Held to start and to end once, and to change the callbacks. Never while waiting."""
        self._thread: threading.Thread | None = None
        self._closing = False
        self._close_by = math.inf
        self._flush: float | None = None
        self._forked = False
        self._turns = 0
        self._wakeups = 0
        self._core_errors = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    # ---- what each driver does in its own way -------------------------------------------

    def _make_mailbox(self) -> Mailbox[Any]:
        return Mailbox()

    def submit(self, fn: Callable[..., object], *args: Any) -> None:
        """Run ``fn(*args, now)`` where the core may be touched, at once."""
        raise NotImplementedError

    def _run(self) -> None:
        """What the driver's own thread does, to its end: `_tear_down`."""
        raise NotImplementedError

    def _pumps_here(self) -> bool:
        """Whether it is this thread that is just giving the core a turn."""
        raise NotImplementedError

    # ---- from any thread -----------------------------------------------------------------

    def start(self) -> None:
        """Bind and connect in this thread, so that errors come up here; then start the driver's thread.

        Raises `AddressInUse`, `AddressError`, `Closed`, `Forked`; see `Driver.start`.
        """
        with self._lock:
            if self._desk.ended is not None:
                self._refuse()
            if self._thread is not None:
                raise Closed(f"{self.name} was started before")
            wires = self._wires
            try:
                self.data_addresses = tuple(wires.bind_data(address) for address in self._data_binds)
                self.addresses = tuple(wires.bind(address) for address in self._binds)
                for address in self._connects:
                    wires.connect(address, time.monotonic())
                for address in self._data_connects:
                    wires.connect_data(address, time.monotonic())
            except BaseException:
                self._close_sockets(0)
                self.addresses = self.data_addresses = ()
                raise
            if self._data_binds:
                self._commands.appendleft((wires.announce, ()))
            self._thread = threading.Thread(target=self._run, name=f"zmqkit-{self.name}", daemon=True)
            forks.register(self)
            self._thread.start()

    def ticket(self) -> Ticket:
        """A ticket for a verb to resolve; when the driver ends without, its waiters are told."""
        return Ticket(self._desk)

    def connect(self, address: str) -> None:
        """Connect to one more address, or count one more user of it. An address that cannot be read is logged."""
        self.submit(self._connect, address)

    def disconnect(self, address: str) -> None:
        """Take back one `connect`; the connection ends with its last user. Unknown addresses are ignored."""
        self.submit(self._wires.disconnect, address)

    def connect_data(self, address: str) -> None:
        """Connect one more data endpoint, or count one more user of it. See `Driver.connect_data`."""
        if self._data is None:
            raise UsageError(f"{self.name} has no data endpoints")
        self.submit(self._connect_data, address)

    def disconnect_data(self, address: str) -> None:
        """Take back one `connect_data`; the connection ends with its last user. Unknown addresses are ignored."""
        self.submit(self._wires.disconnect_data, address)

    def alarm(self, seconds: float, fn: Callable[[float], object]) -> None:
        """Run ``fn(now)`` where the core may be touched, so many seconds from now. See `Driver.alarm`."""
        self.submit(self._set_alarm, seconds, fn)

    def check_wait(self) -> None:
        """Raises `UsageError` where the core is pumped, in a callback. See `Driver.check_wait`."""
        if self._pumps_here():
            raise UsageError(
                f"{self.name}: this waits, and was called in a callback, on the thread that does this peer's I/O: it "
                "would wait for itself. Hand the event to a thread or task of your own, through a queue say; or use "
                "what does not wait, as send_nowait() or stop()"
            )

    def on(self, event_type: type[E], callback: Callable[[E], object]) -> Callable[[], None]:
        """Call back for events of this type, where the core is pumped. See `Driver.on`."""
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

        Idempotent, from any thread; the shortest of several timeouts counts. Where the core is pumped (a callback) it
        only asks. Returns True if the core had finished and all is torn down.
        """
        if self._forked:
            return True
        self.begin_close(timeout)
        if self._pumps_here():
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
        self._lock = threading.Lock()
        self._waker.close()
        self._wires.become_forked()
        self.ended.resolve(True)
        # libzmq's objects must not be freed here either.
        _inherited.append((self._wires, self._journal))

    # ---- where the core is pumped ----------------------------------------------------------

    def _set_alarm(self, seconds: float, fn: Callable[[float], object], now: float) -> None:
        self._alarms.at(now + seconds, self._alarmed, fn)

    def _alarmed(self, fn: Callable[[float], object], now: float) -> None:
        try:
            fn(now)
        except Exception:
            self._bug(getattr(fn, "__name__", repr(fn)))

    def _connect(self, address: str, now: float) -> None:
        try:
            self._wires.connect(address, now, retry=True)
        except AddressError as error:
            log.warning("%s: %s", self.name, error)

    def _connect_data(self, address: str, now: float) -> None:
        try:
            self._wires.connect_data(address, now, retry=True)
        except AddressError as error:
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
        self._flush = flush if self._flush is None else min(self._flush, flush)
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
            self._close_sockets(FLUSH_SECONDS if self._flush is None else self._flush)
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
