"""A steerable proxy over two plain sockets: libzmq's own loop in C, in one thread. Knows libzmq and threads; no core.

libzmq's loop takes no orders but over its control socket, and of these 4.3.5 mixes up PAUSE and RESUME. So whatever has
to be done to the sockets is a *job*: the loop is told to end, the thread does the job, and the loop begins anew over
the same sockets. Paused, it just does not begin; the high-water marks and TCP then hold the peers back.

The loop looks for room at a socket once and then forwards up to 1,000 messages. When there is no more room it blocks
in the middle of them, deaf to its control socket, until a peer reads. So each socket that can block is bound to an
address inside this process besides. Who wants the loop to end, and waits in vain, connects a *spill* there: the loop
gets rid of what it holds, and ends; what was spilled is sent first when it begins again. Where messages go both ways a
second thread looks for that: blocked in one direction, the loop would hold up the other, and both might stand for ever.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

import zmq

from zmqkit.errors import Closed, WaitTimeout
from zmqkit.transport import forks
from zmqkit.transport.context import context
from zmqkit.transport.outlets import PAIRS, SPILLS, Outlet, PlainSocket, poll
from zmqkit.transport.sockets import MAX_LINGER, NOWAIT
from zmqkit.transport.tickets import Ticket, WaitExpired, wait

log = logging.getLogger("zmqkit")

Which = Literal[0, 1]
"""The frontend, or the backend."""

PATIENCE = 0.25
"""Seconds after which a loop that was told to end is taken for blocked."""

ANSWER = 0.1
"""Seconds that the loop has to tell its counters. Blocked it tells none, and the last ones are told again."""

ENDING = 3.0
"""Seconds in which a proxy has done a job, unless the machine is out of all measure busy."""

# What makes this libzmq's loop forward nothing more: 4.3.5 does the one when it is told the other.
_HOLD = b"RESUME" if zmq.zmq_version_info() == (4, 3, 5) else b"PAUSE"
_TELL = b"STATISTICS"
_END = b"TERMINATE"

_UNTOUCHED = {signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL}
_counters = struct.Struct("=Q")
_numbers = itertools.count()

Counters = tuple[int, int, int, int, int, int, int, int]
"""Frames and bytes: received in front, sent in front, received at the back, sent at the back."""

WATCH = 0.25
"""Seconds between two looks whether the loop is blocked, where it forwards both ways."""

BOTH_WAYS = {"ROUTER", "DEALER"}

_ENDING_MS = int(ENDING * 1000)

NOTHING: Counters = (0, 0, 0, 0, 0, 0, 0, 0)


Verdict = Literal["forward", "wait", "end"]


class Sense(Protocol):
    """Looks at what comes first, in the proxy's thread, before anything is forwarded.

    Its methods say what is to be done: "forward" all from now on, and first what was kept; "wait", and keep this, too;
    "end": keep nothing, do nothing more, and be closed soon.
    """

    @property
    def patience(self) -> float | None:
        """Seconds without news after which `quiet` is asked; None: never."""

    def message(self, which: Which, frames: list[bytes]) -> Verdict:
        """A message came from that side."""

    def quiet(self) -> Verdict:
        """Nothing came."""


class SteeredProxy:
    """Forwards between two sockets, both ways, until it is closed. Every method may be called from any thread.

    Args:
        name: for the thread, and logs.
        frontend: the one socket.
        backend: the other; together a pair of `PAIRS`.
        failed: called from the thread with the error that ended it by itself.
        sense: asked in the thread before anything is forwarded, until it agrees; None: nobody is asked.

    Attributes:
        ended: resolved when all is closed.
    """

    def __init__(
        self,
        name: str,
        frontend: Outlet,
        backend: Outlet,
        failed: Callable[[BaseException], object] = lambda _: None,
        sense: Sense | None = None,
    ) -> None:
        if (frontend.kind, backend.kind) not in PAIRS:
            raise ValueError(f"no proxy stands between {frontend.kind} and {backend.kind}")
        self.name = name
        self.ended = Ticket()
        self._outlets = (frontend, backend)
        self._failed = failed
        self._sense = sense
        self._addresses: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._sockets: tuple[PlainSocket, PlainSocket] | None = None
        self._jobs: deque[tuple[Callable[[], object], Ticket]] = deque()
        self._thread: threading.Thread | None = None
        self._paused = False
        self._ending = False
        self._linger_ms = 0
        self._forked = False
        self._jobs_lock = threading.Lock()
        """Held by who hands over a job, and waits for it: one at a time."""
        self._steer_lock = threading.RLock()
        """For what follows: the other end of the control socket, and the counters. A finalizer may need it anywhere."""
        self._steer: zmq.Socket[bytes]
        self._shut = False
        """The sockets are closed."""
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
        made: list[PlainSocket] = []
        try:
            for outlet in self._outlets:
                made.append(PlainSocket(outlet))
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
        if {frontend.outlet.kind, backend.outlet.kind} <= BOTH_WAYS:
            threading.Thread(target=self._watch, name=f"zmqkit-watch-{self.name}", daemon=True).start()

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
        with contextlib.suppress(Closed, WaitTimeout):
            self._call(lambda: self._end(linger))
        if threading.current_thread() is not self._thread:
            with contextlib.suppress(WaitExpired):
                wait(self.ended, None if linger is None else linger + ENDING)

    def begin_close(self, timeout: float | None = 0.0, *, flush: float = 0.0) -> None:
        """The same, without waiting for anything: also from a finalizer, whichever thread runs it."""
        if self._thread is None or self._forked or self.ended.done:
            return
        done = Ticket()
        self._jobs.append((lambda: self._end(flush), done))
        self._interrupt()
        self._make_room(done)  # nobody is going to look whether it is blocked

    def become_forked(self) -> None:
        """This is the child of a fork: let go of the ports, or they would stay taken when the parent closes them."""
        self._forked = True
        self._steer_lock, self._jobs_lock = threading.RLock(), threading.Lock()
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
            self._make_room(done)
            try:
                wait(done, ENDING)
            except WaitExpired:
                raise WaitTimeout(
                    f"the proxy of {self.name} does not answer: what was asked of it is done when it does"
                ) from None

    def _make_room(self, done: Ticket) -> None:
        """Let a loop that is blocked get rid of what it holds, unless a job is done by now."""
        with self._steer_lock:
            if not done.done and not self._shut:
                for each in self._both:
                    each.open_spill()

    def _interrupt(self) -> None:
        with self._steer_lock:
            for word in (_HOLD, _TELL, _END):
                self._say(word)

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(zmq.ZMQError):  # it has just ended, and its control socket is closed
            self._steer.send(word, NOWAIT)
            self._asked += word is _TELL

    def _watch(self) -> None:
        """In a thread of its own: see to it that answers come through while there is no room for requests.

        Blocked in one direction the loop forwards nothing in the other; and a worker who is not rid of his answers
        may take no more requests, so that it would be blocked for ever.
        """
        unanswered = 0
        while not self._forked:
            with contextlib.suppress(WaitExpired):
                wait(self.ended, WATCH)
                return
            self.counters()
            unanswered = unanswered + 1 if self._running and self._asked else 0
            if unanswered > 1:
                unanswered = 0
                with contextlib.suppress(Closed, WaitTimeout):
                    self._call(lambda: None)

    # ---- in the proxy's thread -----------------------------------------------------

    @property
    def _both(self) -> tuple[PlainSocket, PlainSocket]:
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
        try:
            self._close_all()
        finally:
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
        elif self._sense is not None:
            self._ask(self._sense)
        elif self._deliver_spilled():
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

    def _deliver_spilled(self) -> bool:
        """Send what was spilled, and pass on what comes the other way. False if there is a job before that is done."""
        both = self._both
        while both[0].spilled or both[1].spilled:
            watched: list[tuple[zmq.Socket[bytes], int]] = [(self._control, zmq.POLLIN)]
            for at, each in enumerate(both):
                # Nobody who would have to wait for room is given anything more.
                onwards = zmq.POLLIN if both[1 - at].outlet.kind not in SPILLS else 0
                if wanted := onwards | (zmq.POLLOUT if each.spilled else 0):
                    watched.append((each.socket, wanted))
            ready = dict(poll(*watched))
            if self._control in ready:
                return False
            for at, each in enumerate(both):
                if ready.get(each.socket, 0) & zmq.POLLOUT:
                    each.deliver_spilled()
                if ready.get(each.socket, 0) & zmq.POLLIN:
                    with contextlib.suppress(zmq.Again):  # what was there to read is gone
                        self._pass(at, each.socket.recv_multipart(NOWAIT))
        return True

    def _collect_spills(self) -> None:
        for each in self._both:
            each.collect_spill()

    def _pass_subscriptions(self) -> None:
        """Paused, wait for a job. What is subscribed meanwhile is passed on: it would wait without bound."""
        kinds = ("XPUB",) if self._sense is None else ()  # else they are looked at first, when it goes on
        watched = [(each.socket, zmq.POLLIN) for each in self._both if each.outlet.kind in kinds]
        for socket, _ in poll((self._control, zmq.POLLIN), *watched):
            if socket is not self._control:
                at = [each.socket for each in self._both].index(socket)
                with contextlib.suppress(zmq.Again):  # what was there to read is gone
                    self._pass(at, socket.recv_multipart(NOWAIT))

    def _ask(self, sense: Sense) -> None:
        """Show what comes first to who knows, or be woken by a job."""
        both = self._both
        watched = [(each.socket, zmq.POLLIN) for each in both]
        ready = {each for each, _ in poll((self._control, zmq.POLLIN), *watched, timeout=sense.patience)}
        verdicts: list[Verdict] = [] if ready else [sense.quiet()]
        which: Which
        for which in (0, 1):
            if both[which].socket in ready:
                with contextlib.suppress(zmq.Again):  # what was there to read is gone
                    frames = both[which].socket.recv_multipart(NOWAIT)
                    both[1 - which].spilled.append(frames)
                    self._count(which, frames)
                    verdicts.append(sense.message(which, frames))
        if not {"forward", "end"}.isdisjoint(verdicts):
            self._sense = None
            if "end" in verdicts:
                self._paused = True
                for each in both:
                    each.spilled.clear()

    def _pass(self, source: int, frames: list[bytes]) -> None:
        self._both[1 - source].socket.send_multipart(frames, NOWAIT)
        self._count(source, frames)

    def _count(self, source: int, frames: list[bytes]) -> None:
        """Enter what did not go through the loop in C."""
        count, size = len(frames), sum(map(len, frames))
        one = (count, size, 0, 0, 0, 0, count, size) if source == 0 else (0, 0, count, size, count, size, 0, 0)
        with self._steer_lock:
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
        self._linger_ms = -1 if linger is None else int(min(linger, MAX_LINGER) * 1000)

    def _close_all(self) -> None:
        linger = self._linger_ms
        with self._steer_lock:
            self._collect_spills()
            self._shut = True
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


def _read(told: list[bytes]) -> Counters:
    a, b, c, d, e, f, g, h = (_counters.unpack(each)[0] for each in told)
    return a, b, c, d, e, f, g, h


def _sum(one: Counters, other: Counters) -> Counters:
    a, b, c, d, e, f, g, h = (x + y for x, y in zip(one, other, strict=True))
    return a, b, c, d, e, f, g, h
