"""What all peers share, sync and async: addresses, opening, discovery, stopping, events. Nothing here waits.

Knows the driver's interface and discovery; no pattern. A face (`zmqkit.peer.sync`, `zmqkit.peer.aio`) adds the waiting,
a pattern the core.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import random
import socket
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

from zmqkit import checks, discovery
from zmqkit import codec as codecs
from zmqkit.address import Address, bare, parse, require_secure
from zmqkit.errors import Closed, Forked, UsageError
from zmqkit.events import Event, PeerLost
from zmqkit.options import Heartbeat, Limits
from zmqkit.peer import hooks
from zmqkit.peer.common import Addresses as Addresses
from zmqkit.peer.common import Common as Common
from zmqkit.peer.found import reachable
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore
from zmqkit.transport import hosts
from zmqkit.transport.driver import Driver
from zmqkit.transport.iothread import IoThread
from zmqkit.transport.shared import SharedPump
from zmqkit.transport.tickets import Ticket

Ev = TypeVar("Ev", bound=Event)

log = logging.getLogger("zmqkit")

LINGER = 5.0
"""Seconds that a closing peer goes on serving what waits."""

MAX_LINGER = 1e6
"""Who wants more than these eleven days wants no bound."""

QUIET = 1.0
"""Seconds in which an event that strangers can cause is logged once. Callbacks and counters miss none."""

ALONE = 5.0
"""Seconds after which a peer that connects, and has met nobody yet, says so."""

MAX_NAME = 200
"""The longest name of a peer, in characters."""

ENDING = 3.0
"""Seconds in which a driver that was told to end has ended, unless the disk does not answer it."""

DRAIN = 8.0
"""Seconds that a stopped loop has to finish what it runs: containers kill after 10."""


@dataclasses.dataclass(eq=False, slots=True)
class _Subscription:
    """A callback for events, and what ends it at the driver, once there is one."""

    event: type[Event]
    callback: Callable[[Any], object]
    end: Callable[[], None] = lambda: None


class PeerBase:
    """One peer object, without the waiting.

    Constructing does no I/O: no socket, file, thread or event loop.
    """

    _role: ClassVar[str]
    _accepts: ClassVar[frozenset[str]]
    _binds: ClassVar[bool]
    """Where addresses in front go: bound, else connected."""
    _latency: ClassVar[bool] = False
    """Whether a lone message should be as quick as can be, at the price of work in the callers' threads. A peer with a
    journal never does that work there: it may sync a disk."""
    _tells: ClassVar[bool] = True
    """Whether its events are logged, and told to those who listen to all peers. Not where it is a part of a device."""
    _core: PatternCore
    _driver: Driver | None = None

    def __init__(self, addresses: Sequence[str], common: Common) -> None:
        unknown = set(common) - set(Common.__annotations__)
        if unknown:
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {sorted(unknown)[0]!r}")
        self.name: str = _checked_name(common.get("name")) or f"{socket.gethostname()}:{os.getpid()}"
        self._codec = common.get("codec", "msgpack")
        codecs.check(self._codec)
        self._insecure = common.get("insecure", False)
        heartbeat, limits, linger = common.get("heartbeat"), common.get("limits"), common.get("linger", LINGER)
        self._heartbeat = Heartbeat() if heartbeat is None else heartbeat
        self._limits = Limits() if limits is None else limits
        self._linger = None if linger is None else checks.seconds("linger", linger, none=True)
        if self._linger is not None and self._linger > MAX_LINGER:
            self._linger = None
        self._announce = common.get("announce")
        check_types(
            heartbeat=(self._heartbeat, Heartbeat),
            limits=(self._limits, Limits),
            announce=(self._announce, str | None),
            insecure=(self._insecure, bool),
        )
        binds, connects = (checks.several(name, common.get(name)) for name in ("bind", "connect"))
        (binds if self._binds else connects).extend(addresses)
        self._to_bind, self._to_connect = self._sort_out(binds, connects)
        self._closed = False
        self._close_ended = Ticket()
        """Resolved when the first `close` is through."""
        self._closer = 0
        """The thread in which that runs."""
        self._stopped = False
        self._forked = False
        self._owner = 0
        """The process that opened it."""
        self._state_lock = threading.RLock()
        self._subscriptions: list[_Subscription] = []
        self._watches: list[discovery.Watch] = []
        self._announcements: list[discovery.Announcement] = []
        self._wanted: dict[Address, frozenset[str]] = {}
        self._fading: set[str] = set()
        self._logged: dict[str, tuple[float, int]] = {}
        """When an event that strangers cause was last logged, and how many came since."""

    def _sort_out(self, binds: list[str], connects: list[str]) -> tuple[list[Address], list[Address]]:
        to_bind: list[Address] = []
        for text in binds:
            address = parse(text)
            if address.scheme == "zeroconf":
                # To bind a name is to announce it.
                if self._announce not in (None, address.rest):
                    raise UsageError(f"{text} and announce={self._announce!r} are two names for one peer: choose one")
                self._announce = address.rest
            elif address.scheme == "static":
                to_bind += address.members
            else:
                to_bind.append(address)
        if self._announce is not None and not to_bind:
            to_bind.append(parse("tcp://127.0.0.1:*"))
        to_connect = [parse(text) for text in connects]
        if not to_bind and not to_connect:
            raise UsageError(f"{type(self).__name__} needs an address, as in tcp://127.0.0.1:5557 or zeroconf://jobs")
        for address in to_bind:
            require_secure(address, self._insecure, "bind")
        for address in to_connect:
            for each in address.members or (address,):
                if each.wildcard:
                    raise UsageError(f"{each} can be bound, but nobody can connect to it: name a host")
                if each.scheme == "tcp" and not each.port:
                    raise UsageError(f"{each} can be bound, but nobody can connect to it: name a port")
            require_secure(address, self._insecure, "connect")
        return to_bind, to_connect

    # ---- what a pattern adds -------------------------------------------------------

    def _build(self) -> tuple[PatternCore, Any]:
        """Make the core, and open its journal if it has one (None without)."""
        raise NotImplementedError

    def _local(self, **more: Any) -> Local:
        process = hosts.this_process()
        return Local(
            role=self._role,
            accepts=self._accepts,
            instance=os.urandom(16),
            heartbeat=self._heartbeat,
            frame_bytes=self._limits.frame_bytes,
            name=self.name,
            host=process.host,
            pid=process.pid,
            started=process.started,
            **more,
        )

    # What a user binds and connects are the places of sessions, unless a pattern has other sockets there.

    def _endpoints(self, binds: list[str]) -> dict[str, Any]:
        """What the driver opens, as keywords of its; `binds` is what the user wants to be bound."""
        return {"binds": binds}

    def _frame_limits(self) -> Limits:
        """What the driver is told of the limits: its sockets take frames that are as large."""
        return self._limits

    def _bound(self, driver: Driver) -> tuple[str, ...]:
        """What is bound for the user, ports filled in."""
        return driver.addresses

    def _dial(self, driver: Driver, address: str) -> None:
        """Connect to what the user named, or discovery found."""
        driver.connect(address)

    def _hang_up(self, driver: Driver, address: str, now: float) -> None:
        """Take that back. Runs where the core may be touched."""
        self._core.link_forgotten(("c", address), now)
        driver.disconnect(address)

    def _dialled_in_use(self) -> set[str]:
        """What was dialled and is of use. Runs where the core may be touched."""
        return {bare(session.link[1]) for session in self._core.sessions if isinstance(session.link, tuple)}

    @staticmethod
    def _random() -> random.Random:
        return random.SystemRandom()

    # ---- opening -------------------------------------------------------------------

    def _start(self) -> None:
        """Open, if that has not been done. Blocks shortly. Raises what opening can raise."""
        if self._driver is not None and not (self._closed or self._forked):
            return
        with self._state_lock:
            if self._closed:
                raise Closed(f"{type(self).__name__} {self.name} was closed: make a new one")
            if self._forked:
                raise Forked(f"{self.name} belongs to the parent process {self._owner}; open a new one in the child")
            if self._driver is not None:
                return
            self._owner = os.getpid()
            hooks.entered(self)
            binds = [str(each) for each in self._resolved_binds()]
            core, journal = self._build()
            driver: Driver | None = None
            try:
                driver = self._make_driver(core, journal, binds)
                driver.start()
                self._core, self._driver = core, driver
                self._set_up(driver)
            except BaseException:
                self._driver = None
                self._end_discovery()
                if driver is not None:
                    driver.close(0)
                if journal is not None:
                    journal.close()
                raise

    def _make_driver(self, core: PatternCore, journal: Any, binds: list[str]) -> Driver:
        kind = SharedPump if self._latency and journal is None else IoThread
        return kind(
            core, journal=journal, name=self.name, heartbeat=self._heartbeat, limits=self._frame_limits(),
            **self._endpoints(binds),
        )  # fmt: skip

    def _set_up(self, driver: Driver) -> None:
        # The driver's thread, and discovery's, must not keep a peer alive that its user has forgotten.
        drop_faded, found = _weakly(self._drop_faded), _weakly(self._found)
        if self._tells:
            driver.on(Event, hooks.dispatch)
            driver.on(Event, _weakly(self._log_event))
        driver.on(PeerLost, lambda _: drop_faded())
        for entry in self._subscriptions:
            entry.end = driver.on(entry.event, entry.callback)
        for address in self._to_connect:
            if address.looked_up:
                watch = discovery.watch(address, on_change=partial(found, address), roles=self._accepts)
                self._watches.append(watch)
            else:
                self._dial(driver, str(address))
        if self._to_connect:
            driver.alarm(ALONE, _weakly(self._tell_alone))
        if self._announce is not None:
            self._announcements.append(
                discovery.announce(
                    self._announce,
                    self.addresses,
                    role=self._role,
                    instance=self._core.local.instance.hex(),
                    peer_name=self.name,
                )
            )

    def _resolved_binds(self) -> list[Address]:
        found: list[Address] = []
        for address in self._to_bind:
            if address.scheme == "env":
                found += discovery.expand(address)
            else:
                found.append(address)
        for address in found:
            if address.looked_up:
                raise UsageError(f"{address} cannot be bound: name the address itself")
            require_secure(address, self._insecure, "bind")
        return found

    # ---- discovery -----------------------------------------------------------------

    def _found(self, at: Address, found: Iterable[discovery.Found]) -> None:
        """Discovery has news. A hint, no authority: what is gone from it stays while its session lives."""
        driver = self._driver
        if driver is None or self._closed:
            return
        own = self._core.local.instance.hex()
        now_there = reachable(found, own=own, insecure=self._insecure, who=self.name, name=at)
        with self._state_lock:
            before = self._wanted.get(at, frozenset())
            self._wanted[at] = now_there
            wanted = frozenset[str]().union(*self._wanted.values())
            known = before | self._fading
            self._fading = (self._fading | (before - now_there)) - wanted
        for address in now_there - known:
            self._dial(driver, address)
        self._drop_faded()

    def _drop_faded(self) -> None:
        """Give up connections that discovery no longer names and that no session needs."""
        if self._fading and self._driver is not None:
            with contextlib.suppress(Closed):
                self._driver.post(self._drop_faded_now)

    def _drop_faded_now(self, now: float) -> None:
        """Runs in the I/O thread, where the core may be looked at."""
        driver = self._driver
        if driver is None:
            return
        with self._state_lock:
            gone = self._fading - self._dialled_in_use()
            self._fading -= gone
        for address in gone:
            self._hang_up(driver, address, now)

    def _end_discovery(self) -> None:
        with self._state_lock:
            watches, self._watches = self._watches, []
            announcements, self._announcements = self._announcements, []
        _end_all(announcements, watches)

    # ---- the public part that does not wait ----------------------------------------

    @property
    def addresses(self) -> tuple[str, ...]:
        """The bound addresses, ports filled in; empty before opening."""
        return self._bound(self._driver) if self._driver is not None else ()

    @property
    def closed(self) -> bool:
        """Whether it was closed. It cannot be opened again."""
        return self._closed

    def stop(self) -> None:
        """Make loops end and run() return, after what they are just handling. From any thread or signal handler.

        In a forked child this does nothing: the loops are the parent's.
        """
        self._stopped = True
        if self._driver is not None and not self._forked:
            self._driver.mailbox.stop()

    def stats(self) -> dict[str, int | float]:
        """Counters by name, since opening; empty before."""
        return self._driver.stats() if self._driver is not None else {}

    def on(self, event: type[Ev], callback: Callable[[Ev], object], /) -> Callable[[], None]:
        """Call `callback` with each event of this type, subclasses included. Returns what removes it again.

        It runs on the peer's I/O thread: be brief. What it raises is logged.
        """
        hooks.check_callback(event, callback)
        entry = _Subscription(event, callback)
        with self._state_lock:
            self._subscriptions.append(entry)
            if self._driver is not None:
                entry.end = self._driver.on(event, callback)

        def remove() -> None:
            with self._state_lock:
                self._subscriptions = [each for each in self._subscriptions if each is not entry]
                entry.end()

        return remove

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._driver is not None else "not open"
        where = ", ".join(self.addresses or [str(each) for each in (*self._to_bind, *self._to_connect)])
        return f"<{type(self).__module__}.{type(self).__name__} {self.name} {where} ({state})>"

    # ---- for faces -----------------------------------------------------------------

    @property
    def _open_driver(self) -> Driver:
        driver = self._driver
        if driver is None or self._closed:
            self._start()
            driver = self._driver
            assert driver is not None
        return driver

    def _check_open(self) -> None:
        """Raises `Closed` or `Forked` if it can be opened no more."""
        if self._closed or self._forked:
            self._start()

    def _check_wait(self) -> None:
        """Raises `UsageError` in a callback of this peer, where nothing of it can be waited for."""
        if self._driver is not None:
            self._driver.check_wait()

    def _ask(self, verb: Callable[..., None], *args: Any) -> Ticket:
        """Hand a verb to the core, with a ticket for its answer as its last argument."""
        driver = self._open_driver
        ticket = driver.ticket()
        driver.submit(verb, *args, ticket)
        return ticket

    def _tell_soon(self, verb: Callable[..., None], *args: Any) -> None:
        """Hand a verb to the core that nobody waits for; if it is closed, there is nothing to tell."""
        if self._driver is not None:
            with contextlib.suppress(UsageError):
                self._driver.post(verb, *args)

    def _log_event(self, event: Event) -> None:
        kind = type(event).__name__
        level = hooks.LEVELS.get(kind)
        if level is None:
            return
        if kind in hooks.STRANGERS:
            # Who can reach us can cause these as fast as he likes: that must not fill the disk that the log is on.
            now = time.monotonic()
            since, unlogged = self._logged.get(kind, (-math.inf, 0))
            if now < since + QUIET:
                self._logged[kind] = since, unlogged + 1
                return
            self._logged[kind] = now, 0
            if unlogged:
                log.log(level, "%s: %d more of %s since", self.name, unlogged, kind)
        log.log(level, "%s", event)

    def _too_few(self, count: int, timeout: float | None) -> str:
        peers = "1 peer" if count == 1 else f"{count} peers"
        return f"{self.name}: {peers} did not come within {timeout} s: {self._company()}"

    def _tell_alone(self, now: float) -> None:
        """Runs in the I/O thread. Whoever was refused was there, and is told of elsewhere."""
        counters = self._core.counters
        if not (self._closed or counters["sessions_opened"] or counters["handshakes_refused"]):
            log.warning("%s: %s yet", self.name, self._company())

    def _company(self) -> str:
        """Who is there, or that nobody is, and where."""
        sessions = list(self._core.sessions)
        if sessions:
            names = ", ".join(ascii(session.peer.name)[1:-1] for session in sessions[:10])
            return f"{len(sessions)} {'is' if len(sessions) == 1 else 'are'} there ({names})"
        return "; ".join([*map(self._absence, self._to_connect), *(f"nobody came to {at}" for at in self.addresses)])

    def _absence(self, address: Address) -> str:
        if not address.looked_up:
            return f"nobody answers at {address}"
        if found := self._wanted.get(address):
            return f"nobody answers at {', '.join(sorted(found))} ({address})"
        if address.scheme == "zeroconf":
            return f"nobody announces {address.rest!r}"
        return f"{address} leads to nobody"

    def _close_at_exit(self, seconds: float) -> None:
        """The interpreter ends, and nobody closed this peer: do what can be done in so many seconds, without a loop."""
        if self._begin_close():
            assert self._driver is not None
            try:
                self._driver.close(seconds)
            finally:
                self._close_ended.resolve(None)

    def _check_close(self, linger: float | None) -> None:
        """Raises `UsageError` if closing would have to wait, and cannot, because this is a callback."""

    def _begin_close(self) -> bool:
        """True for the caller who closes, and then resolves `_close_ended`; False if it is closed already, or was never
        open."""
        with self._state_lock:
            if self._closed:
                return False
            self._closed = True
            self._closer = threading.get_ident()
        if self._forked or self._driver is None:
            self._close_ended.resolve(None)
            return False  # in a fork, all that there is to close is the parent's
        self._end_discovery()
        return True

    def _being_closed(self, patience: float | None, *, by_threads: bool) -> Iterator[tuple[Ticket, float | None]]:
        """What a second `close` waits for, each at most so long: the end of the first, and of its driver.

        Nothing in a callback, nor where the first is interrupted by the second: these would wait for themselves.
        """
        driver, deadline = self._driver, deadline_of(patience)
        if driver is None or self._forked or (by_threads and self._closer == threading.get_ident()):
            return
        try:
            driver.check_wait()
        except UsageError:
            return
        yield self._close_ended, patience
        left = left_of(deadline)
        yield driver.ended, ENDING if left is None else min(left, ENDING)

    def __del__(self) -> None:
        driver = self._driver
        if driver is None or self._closed or self._forked or self._owner != os.getpid() or sys.is_finalizing():
            return
        self._closed = True
        try:
            warnings.warn(f"unclosed {self!r}{self._lost_with_it()}", ResourceWarning, stacklevel=2, source=self)
        finally:
            # In whatever thread this is, and wherever in it: without waiting for anything.
            with contextlib.suppress(Exception):
                driver.begin_close(0.0)
            if self._watches or self._announcements:
                with contextlib.suppress(RuntimeError):  # no threads any more: the interpreter ends
                    threading.Thread(
                        target=_end_all, args=(self._announcements, self._watches), name="zmqkit-farewell", daemon=True
                    ).start()

    def _lost_with_it(self) -> str:
        """What to say of a peer that nobody closes, besides."""
        return ""

    def _after_fork(self) -> None:
        """This is the child of a fork, in which this peer was opened (or was being opened) by the parent."""
        self._forked = True
        self._state_lock = threading.RLock()  # another thread may have held it


def _weakly(method: Callable[..., object]) -> Callable[..., None]:
    """A peer's method that does not keep the peer alive."""
    reference = weakref.WeakMethod(method)

    def call(*args: Any) -> None:
        found = reference()
        if found is not None:
            found(*args)

    return call


def _end_all(announcements: list[discovery.Announcement], watches: list[discovery.Watch]) -> None:
    for announcement in announcements:
        announcement.close()
    for watch in watches:
        watch.close()


def _checked_name(name: str | None) -> str | None:
    """The name, if it can travel in a handshake."""
    check_types(name=(name, str | None))
    if name is not None and (len(name) > MAX_NAME or not name.isprintable()):
        raise ValueError(f"name must be printable text of at most {MAX_NAME} characters, got {name[:60]!r}")
    return name


def check_types(**given: tuple[object, Any]) -> None:
    """Raises `TypeError`, where the caller can see it, for a setting of another kind: (value, what it must be)."""
    for name, (value, kind) in given.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be {getattr(kind, '__name__', kind)}, got {value!r}")


check_timeout = checks.timeout
"""Raises for what is no number of seconds, before anything is done."""


def deadline_of(timeout: float | None) -> float | None:
    """When a wait that begins now must end, on the monotonic clock."""
    check_timeout(timeout)
    return None if timeout is None else time.monotonic() + timeout


def left_of(deadline: float | None) -> float | None:
    """How many seconds are left until then."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
