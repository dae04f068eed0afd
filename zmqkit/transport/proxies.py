"""A steerable proxy over two plain sockets: libzmq's own loop in C, in one thread. Knows libzmq and threads; no core.

libzmq's loop takes no orders but over its control socket, and of these 4.3.5 mixes up PAUSE and RESUME. So whatever has
to be done to the sockets is a *job*: the loop is told to end, the thread does the job, and the loop begins anew over
the same sockets. Paused, it just does not begin; the high-water marks and TCP then hold the peers back.

The loop looks for room at a socket once and then forwards up to 1,000 messages. When there is no more room it blocks
in the middle of them, deaf to its control socket, until a peer reads. So each socket that can block is bound to an
address inside this process besides. Who wants the loop to end, and waits in vain, connects a *spill* there: the loop
gets rid of what it holds, and ends; what was spilled is sent first when it begins again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import logging
import os
import signal
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

import zmq

from zmqkit.errors import AddressError, AddressInUse, Closed
from zmqkit.options import Heartbeat
from zmqkit.transport import forks
from zmqkit.transport.context import context
from zmqkit.transport.sockets import EVENTS, LISTENING, NOWAIT, STOPPED, answers, open_monitor
from zmqkit.transport.tickets import Ticket, WaitExpired, wait

log = logging.getLogger("zmqkit")

Which = Literal[0, 1]
"""The frontend, or the backend."""

PAIRS = frozenset(
    {
        ("ROUTER", "DEALER"), ("DEALER", "ROUTER"), ("DEALER", "DEALER"), ("ROUTER", "ROUTER"),
        ("XSUB", "XPUB"), ("XPUB", "XSUB"), ("PULL", "PUSH"), ("PUSH", "PULL"),
    }
)  # fmt: skip
"""Kinds of sockets that can stand on the two sides of a proxy. PAIR is none: it has room for no spill."""

PATIENCE = 0.25
"""Seconds after which a loop that was told to end is taken for blocked."""

ANSWER = 0.1
"""Seconds that the loop has to tell its counters. Blocked it tells none, and the last ones are told again."""

ENDING = 3.0
"""Seconds in which a proxy has done a job, unless the machine is out of all measure busy."""

_SPILLS = {"PUSH": zmq.PULL, "DEALER": zmq.DEALER}
"""Kinds whose send blocks when there is no room, and what takes from them."""

# What makes this libzmq's loop forward nothing more: 4.3.5 does the one when it is told the other.
_HOLD = b"RESUME" if zmq.zmq_version_info() == (4, 3, 5) else b"PAUSE"
_TELL = b"STATISTICS"
_END = b"TERMINATE"

_UNTOUCHED = {signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL}
_counters = struct.Struct("=Q")
_numbers = itertools.count()

Counters = tuple[int, int, int, int, int, int, int, int]
"""Frames and bytes: received in front, sent in front, received at the back, sent at the back."""

_ENDING_MS = int(ENDING * 1000)

NOTHING: Counters = (0, 0, 0, 0, 0, 0, 0, 0)


@dataclasses.dataclass(frozen=True, slots=True)
class Outlet:
    """One socket of a proxy, as it is to be opened.

    Attributes:
        kind: "ROUTER", "XPUB"...
        binds: addresses to bind.
        connects: addresses to connect to.
        messages: the high-water mark, both ways, of each connection.
        frame_bytes: the largest frame that is received; who sends a larger one is disconnected.
        heartbeat: ZMTP heartbeats for peers that understand them; None: TCP's own only.
    """

    kind: str
    binds: tuple[str, ...]
    connects: tuple[str, ...]
    messages: int
    frame_bytes: int
    heartbeat: Heartbeat | None = None


class _Socket:
    """A socket of the proxy and what belongs to it."""

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet
        self.addresses: tuple[str, ...] = ()
        self._spill_address = f"inproc://zmqkit-spill-{next(_numbers)}"
        self._spill: zmq.Socket[bytes] | None = None
        self.spilled: deque[list[bytes]] = deque()
        """Messages that are to be sent before any other."""
        self.listening: list[tuple[int, int]] = []
        """Descriptors on which connections are accepted, and their inodes; for a forked child."""
        made = self.socket = context().socket(getattr(zmq, outlet.kind))
        try:
            made.setsockopt(zmq.LINGER, 0)
            made.setsockopt(zmq.SNDHWM, min(outlet.messages, 2**31 - 1))
            made.setsockopt(zmq.RCVHWM, min(outlet.messages, 2**31 - 1))
            made.setsockopt(zmq.MAXMSGSIZE, outlet.frame_bytes)
            made.setsockopt(zmq.IPV6, int(any("[" in each for each in (*outlet.binds, *outlet.connects))))
            made.setsockopt(zmq.TCP_KEEPALIVE, 1)
            if outlet.heartbeat is not None:
                bound_ms = min(max(int(outlet.heartbeat.bound * 1000), 100), 6_553_500)
                made.setsockopt(zmq.HEARTBEAT_IVL, bound_ms // 3)
                made.setsockopt(zmq.HEARTBEAT_TIMEOUT, bound_ms)
            self.monitor = open_monitor(made, LISTENING | STOPPED)
        except BaseException:
            made.close(0)
            raise

    def open(self) -> None:
        """Bind and connect. Raises `AddressInUse` or `AddressError`."""
        self.addresses = tuple(map(self._bind, self.outlet.binds))
        for event, value in self._told():
            if event == LISTENING:
                self.listening.append((value, os.fstat(value).st_ino))
        for address in self.outlet.connects:
            self.connect(address)
        if self.outlet.kind in _SPILLS:
            self.socket.bind(self._spill_address)

    def _bind(self, address: str) -> str:
        if address.startswith("ipc://") and answers(address[len("ipc://") :]):
            # libzmq would take the path away from whoever listens there.
            raise AddressInUse(f"cannot bind {address!r}: another process is bound there; choose another path")
        try:
            self.socket.bind(address)
        except zmq.ZMQError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(
                    f"cannot bind {address!r}: the address is in use; choose another port, or * for a free one"
                ) from error
            raise AddressError(f"cannot bind {address!r}: {error.strerror or error}") from error
        return self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def connect(self, address: str) -> None:
        """Connect to one more address. Raises `AddressError`."""
        try:
            self.socket.connect(address)
        except zmq.ZMQError as error:
            raise AddressError(f"cannot connect to {address!r}: {error.strerror or error}") from error

    def open_spill(self) -> None:
        """Make room, if this socket may be blocked: by any thread."""
        if self.outlet.kind in _SPILLS and self._spill is None:
            spill = context().socket(_SPILLS[self.outlet.kind])
            spill.setsockopt(zmq.RCVHWM, 0)
            spill.connect(self._spill_address)
            self._spill = spill

    def collect_spill(self) -> None:
        """Keep what was spilled, and take the room away again: by who owns the socket."""
        spill = self._spill
        if spill is None:
            return
        with contextlib.suppress(zmq.Again):
            while True:
                self.spilled.append(spill.recv_multipart(NOWAIT))
        spill.disconnect(self._spill_address)  # at once; closing is libzmq's to do when it finds the time
        spill.close(0)
        self._spill = None
        self.socket.get(EVENTS)  # it hears of that now, and sends nothing more there

    def deliver_spilled(self, control: zmq.Socket[bytes]) -> bool:
        """Send what was spilled. False if `control` has something to say before that is done."""
        while self.spilled:
            ready = dict(_poll((self.socket, zmq.POLLOUT), (control, zmq.POLLIN)))
            if control in ready:
                return False
            self.socket.send_multipart(self.spilled[0], NOWAIT)
            self.spilled.popleft()
        return True

    def _told(self) -> list[tuple[int, int]]:
        told = []
        with contextlib.suppress(zmq.Again):
            while True:
                head, _ = self.monitor.recv_multipart(NOWAIT)
                told.append(struct.unpack("=HI", head))
        return told

    def close(self, linger_ms: int) -> None:
        """Close; what was not sent yet may leave for so long (-1: no bound). `await_closed` waits for it."""
        self.socket.close(linger_ms)

    def await_closed(self, patience_ms: int | None) -> None:
        """Wait until libzmq has freed everything, the port included."""
        while self.monitor.poll(patience_ms):
            if any(event == STOPPED for event, _ in self._told()):
                self.monitor.close(0)
                return
        # Not closed: libzmq would wait for it.
        log.warning("a socket at %s does not end", ", ".join(self.addresses) or "no address")


class SteeredProxy:
    """Forwards between two sockets, both ways, until it is closed. Every method may be called from any thread.

    Args:
        name: for the thread, and logs.
        frontend: the one socket.
        backend: the other; together a pair of `PAIRS`.
        failed: called from the thread with the error that ended it by itself.

    Attributes:
        ended: resolved when all is closed.
    """

    def __init__(
        self, name: str, frontend: Outlet, backend: Outlet, failed: Callable[[BaseException], object] = lambda _: None
    ) -> None:
        if (frontend.kind, backend.kind) not in PAIRS:
            raise ValueError(f"no proxy stands between {frontend.kind} and {backend.kind}")
        self.name = name
        self.ended = Ticket()
        self._outlets = (frontend, backend)
        self._failed = failed
        self._addresses: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._sockets: tuple[_Socket, _Socket] | None = None
        self._jobs: deque[tuple[Callable[[], object], Ticket]] = deque()
        self._thread: threading.Thread | None = None
        self._paused = False
        self._ending = False
        self._linger_ms = 0
        self._forked = False
        self._jobs_lock = threading.Lock()
        """Held by who hands over a job, and waits for it: one at a time."""
        self._steer_lock = threading.Lock()
        """For what follows: the other end of the control socket, and the counters."""
        self._steer: zmq.Socket[bytes]
        self._running = False
        """The C loop is, or is about to be, entered."""
        self._asked = 0
        """Counters that were asked for, and not told yet."""
        self._before: Counters = NOTHING
        """Of all loops that ended."""
        self._now: Counters = NOTHING
        """Of the present one, as it told last."""

    def addresses(self, which: Which) -> tuple[str, ...]:
        """What is bound on one side, ports filled in; empty before `open`, and kept after the end."""
        return self._addresses[which]

    def open(self, *, paused: bool = False) -> None:
        """Bind, connect, and begin (or begin paused).

        Raises:
            AddressInUse: somebody else is bound there.
            AddressError: an address cannot be bound, or connected to. After either nothing is left open.
        """
        made: list[_Socket] = []
        try:
            for outlet in self._outlets:
                made.append(_Socket(outlet))
                made[-1].open()
            self._control, self._steer = _control_pair()
        except BaseException:
            for each in made:
                each.close(0)
                each.await_closed(_ENDING_MS)
            raise
        frontend, backend = made
        self._sockets = (frontend, backend)
        self._addresses = (frontend.addresses, backend.addresses)
        self._paused = paused
        self._thread = threading.Thread(target=self._run, name=f"zmqkit-proxy-{self.name}", daemon=True)
        forks.register(self)
        self._thread.start()

    # ---- steering, from any thread -------------------------------------------------

    def pause(self) -> None:
        """Forward nothing more; when this returns, that is so. What a socket was given before may still leave."""
        self._call(lambda: self._set_paused(True))

    def resume(self) -> None:
        """Go on where it paused."""
        self._call(lambda: self._set_paused(False))

    def connect(self, which: Which, address: str) -> None:
        """Connect one side to one more address. Raises `AddressError`."""
        self._call(lambda: self._both[which].connect(address))

    def disconnect(self, which: Which, address: str) -> None:
        """Take that back; what waits for that peer and was not sent is lost with it."""
        self._call(lambda: self._disconnect(which, address))

    def counters(self) -> Counters:
        """What was forwarded since `open`. A loop that is blocked told it before it was."""
        with self._steer_lock:
            if self._running and not self._forked:
                self._take_counters()
                if not self._asked:
                    self._say(_TELL)
                while self._asked and self._steer.poll(int(ANSWER * 1000)):
                    self._take_counters()
            return _sum(self._before, self._now)

    def close(self, linger: float | None) -> None:
        """End; what the sockets were given may leave for so many seconds (None: no bound). Idempotent."""
        if self._thread is None or self._forked:
            return
        with contextlib.suppress(Closed):
            self._call(lambda: self._end(linger))
        if threading.current_thread() is not self._thread:
            with contextlib.suppress(WaitExpired):
                wait(self.ended, None if linger is None else linger + ENDING)

    def begin_close(self, timeout: float | None = 0.0, *, flush: float = 0.0) -> None:
        """The same, without waiting for anything."""
        if self._thread is None or self._forked or self.ended.done:
            return
        with contextlib.suppress(RuntimeError):  # no threads any more: the interpreter ends
            threading.Thread(target=self.close, args=(flush,), name="zmqkit-farewell", daemon=True).start()

    def become_forked(self) -> None:
        """This is the child of a fork: let go of the ports, or they would stay taken when the parent closes them."""
        self._forked = True
        self._steer_lock, self._jobs_lock = threading.Lock(), threading.Lock()
        for each in self._sockets or ():
            for fd, inode in each.listening:
                with contextlib.suppress(OSError):  # it was closed before the fork
                    if os.fstat(fd).st_ino == inode:
                        os.close(fd)

    def _call(self, job: Callable[[], object]) -> None:
        """Have a job done in the proxy's thread, and wait for it. Raises what it raises, and `Closed`."""
        with self._jobs_lock:
            if self._thread is None or self._forked or self.ended.done:
                raise Closed(f"the proxy of {self.name} is closed")
            done = Ticket()
            self._jobs.append((job, done))
            self._interrupt()
            try:
                wait(done, PATIENCE)
                return
            except WaitExpired:
                log.debug("%s: the proxy is blocked; what it holds is kept for later", self.name)
            with self._steer_lock:
                if not done.done:
                    for each in self._both:
                        each.open_spill()
            wait(done, ENDING)

    def _interrupt(self) -> None:
        with self._steer_lock:
            for word in (_HOLD, _TELL, _END):
                self._say(word)

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(zmq.ZMQError):  # it has just ended, and its control socket is closed
            self._steer.send(word, NOWAIT)
            self._asked += word is _TELL

    # ---- in the proxy's thread -----------------------------------------------------

    @property
    def _both(self) -> tuple[_Socket, _Socket]:
        assert self._sockets is not None
        return self._sockets

    def _run(self) -> None:
        # A signal would interrupt the loop in C, and it would begin anew with its counters at 0.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _UNTOUCHED)
        failure: BaseException | None = None
        try:
            while not self._ending:
                self._turn()
        except BaseException as error:
            log.exception("the proxy of %s ended by itself", self.name)
            failure = error
        forks.unregister(self)
        self._close_all()
        self.ended.resolve(None)
        while self._jobs:
            self._jobs.popleft()[1].resolve(Closed(f"the proxy of {self.name} is closed"))
        if failure is not None:
            self._failed(failure)

    def _turn(self) -> None:
        """Do the jobs, then forward until the next one comes."""
        while self._jobs:
            job, done = self._jobs.popleft()
            try:
                done.resolve(job())
            except Exception as error:
                done.resolve(error)
        if self._ending:
            return
        if self._paused:
            self._pass_subscriptions()
        elif all(each.deliver_spilled(self._control) for each in self._both):
            self._forward()
        self._drain_control()

    def _forward(self) -> None:
        frontend, backend = self._both
        with self._steer_lock:
            # What others open from now on is for the loop that now begins.
            self._collect_spills()
            if frontend.spilled or backend.spilled:
                return
            self._running = True
        try:
            zmq.proxy_steerable(frontend.socket, backend.socket, None, self._control)
        except zmq.Again:
            log.debug("%s: what was there to read is gone", self.name)  # the connection broke in between
        finally:
            with self._steer_lock:
                self._running = False
                self._take_counters()
                self._before, self._now = _sum(self._before, self._now), NOTHING
                self._collect_spills()

    def _collect_spills(self) -> None:
        for each in self._both:
            each.collect_spill()

    def _pass_subscriptions(self) -> None:
        """Paused, wait for a job. What is subscribed meanwhile is passed on: it would wait without bound."""
        watched = [(each.socket, zmq.POLLIN) for each in self._both if each.outlet.kind == "XPUB"]
        for socket, _ in _poll((self._control, zmq.POLLIN), *watched):
            if socket is not self._control:
                at = [each.socket for each in self._both].index(socket)
                self._pass(at, socket.recv_multipart(NOWAIT))

    def _pass(self, source: int, frames: list[bytes]) -> None:
        self._both[1 - source].socket.send_multipart(frames, NOWAIT)
        size = sum(map(len, frames))
        took, gave = (len(frames), size), (len(frames), size)
        with self._steer_lock:
            one = (*took, 0, 0, 0, 0, *gave) if source == 0 else (0, 0, *gave, *took, 0, 0)
            self._before = _sum(self._before, one)

    def _drain_control(self) -> None:
        """What nobody in C read is out of date: whoever said it handed over a job, too."""
        with self._steer_lock, contextlib.suppress(zmq.Again):
            while True:
                self._asked -= self._control.recv(NOWAIT) == _TELL

    def _take_counters(self) -> None:
        """Read what the loop has told; the steering lock is held."""
        with contextlib.suppress(zmq.Again):
            while True:
                told = self._steer.recv_multipart(NOWAIT)
                if len(told) == len(NOTHING):
                    self._asked -= 1
                    self._now = _read(told)

    def _set_paused(self, paused: bool) -> None:
        self._paused = paused

    def _disconnect(self, which: Which, address: str) -> None:
        with contextlib.suppress(zmq.ZMQError):  # it was not connected there
            self._both[which].socket.disconnect(address)

    def _end(self, linger: float | None) -> None:
        self._ending = True
        self._linger_ms = -1 if linger is None else int(min(linger * 1000, 2**31 - 1))

    def _close_all(self) -> None:
        linger = self._linger_ms
        with self._steer_lock:
            self._collect_spills()
            for each in self._both:
                with contextlib.suppress(zmq.Again):  # there is still no room for it
                    while each.spilled:
                        each.socket.send_multipart(each.spilled.popleft(), NOWAIT)
                each.close(linger)
            self._steer.close(0)
            self._control.close(0)
        for each in self._both:
            each.await_closed(None if linger < 0 else linger + _ENDING_MS)


def _control_pair() -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """The loop's end of its control socket, and ours."""
    address = f"inproc://zmqkit-steering-{next(_numbers)}"
    ends = []
    for step in ("bind", "connect"):
        end = context().socket(zmq.PAIR)
        end.setsockopt(zmq.LINGER, 0)
        end.setsockopt(zmq.SNDHWM, 0)  # it must never wait for us to read
        end.setsockopt(zmq.RCVHWM, 0)
        getattr(end, step)(address)
        ends.append(end)
    return ends[0], ends[1]


def _poll(*watched: tuple[zmq.Socket[bytes], int]) -> list[tuple[zmq.Socket[bytes], int]]:
    poller = zmq.Poller()
    for socket, events in watched:
        poller.register(socket, events)
    return poller.poll()


def _read(told: list[bytes]) -> Counters:
    a, b, c, d, e, f, g, h = (_counters.unpack(each)[0] for each in told)
    return a, b, c, d, e, f, g, h


def _sum(one: Counters, other: Counters) -> Counters:
    a, b, c, d, e, f, g, h = (x + y for x, y in zip(one, other, strict=True))
    return a, b, c, d, e, f, g, h
