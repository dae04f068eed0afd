"""The data plane of a forwarder: what publishers send goes to whoever subscribed to it, and subscriptions go up.

Knows libzmq and a thread; of publish-subscribe only how a frame of a stream is told from other messages, and that those
that begin with ``p`` may be none of the subscribers' business (docs/protocol.md, 14.2 and 14.3): the `Guide` decides.

Nobody slows anybody. What publishers send is always taken; for whom too much waits is disconnected (`Lagging`), as
publishers do it (14.7), and at the latest libzmq drops for him at its high-water mark.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import zmq
import zmq.backend

from zmqkit.options import Heartbeat, Limits
from zmqkit.protocol.core import Link
from zmqkit.transport import forks
from zmqkit.transport.connections import LOOK_SECONDS
from zmqkit.transport.data import DataDialer, DataListener, PublishingDialer, PublishingListener, alive
from zmqkit.transport.lagging import Lagging
from zmqkit.transport.links import Dialer
from zmqkit.transport.sockets import DISCONNECTED, HANDSHAKE_FAILED, MORE_NOWAIT, NOWAIT, SRCFD, Endpoint
from zmqkit.transport.tickets import Ticket, WaitExpired, wait
from zmqkit.transport.wakeup import Waker

log = logging.getLogger("zmqkit.transport")

TURN_MESSAGES = 1_000
"""So many of one socket before the others have their turn."""

LARGE_BYTES = 8 * 1024
"""Frames from this size on are not copied. How large one is, is known only when it is there; so it is expected..."""

LARGE_STAYS = 64
"""...so long after the last one."""

WAITING_MESSAGES = 100_000
"""So many messages may wait for one subscriber; below the high-water mark of the socket."""

SUBSCRIPTIONS_A_TURN = 500

MAX_TOPIC = 257
"""A data frame's topic ends before this."""

SLEEP_SECONDS = 30.0
FLUSH_SECONDS = 1.0
GRACE_SECONDS = 1.0

RCVMORE = int(zmq.RCVMORE)
DATA = ord("d")


class Guide(Protocol):
    """Decides what is subscribed, and what is told to whom. Called in the relay's thread; it must not raise.

    Attributes:
        up: subscriptions to send: (inlet's link, frame).
        down: messages to send: (outlet's link, frame).
        cuts: connections to close: (outlet's link, token).
    """

    up: list[tuple[Link, bytes]]
    down: list[tuple[Link, bytes]]
    cuts: list[tuple[Link, bytes]]

    @property
    def streams(self) -> Collection[bytes]:
        """Names of streams: a frame that bears one where it should is a message by itself."""

    def subscription(self, link: Link, frame: bytes, token: bytes, now: float) -> None:
        """This came to an outlet, over the connection with this token."""

    def fence(self, link: Link, frame: bytes, now: float) -> bool:
        """This came to an inlet: a single frame that begins with ``p``. False: pass it on as it is."""

    def broken(self, link: Link) -> None:
        """The connection of an endpoint that dials broke. It is dialled again."""

    def remade(self, link: Link) -> None:
        """An endpoint is a new one under the same name, which knows nothing."""

    def next_deadline(self) -> float | None:
        """When `handle_timer` is to be called; None: never, as things stand."""

    def handle_timer(self, now: float) -> None:
        """It is time."""


class Inlet(DataDialer):
    """An XSUB that connects to publishers; libzmq dials again, and subscribes again."""

    EVENTS = Dialer.EVENTS
    RECONNECT_MS = Dialer.RECONNECT_MS


class _Watching(Endpoint):
    """An XPUB whose connections are watched."""

    lagging: Lagging
    sent = (0, 0)
    """Bytes and messages, as far as counted."""

    def _name(self, frame: zmq.Frame) -> bytes | None:
        token: bytes | None = super()._name(frame)  # type: ignore[misc]  # that of `Publishing`
        if token:
            self.lagging.add(token, int(frame.get(SRCFD)), *self.sent)
        return token


class Outlet(_Watching, PublishingDialer):
    """An XPUB that connects to subscribers."""

    EVENTS = Dialer.EVENTS
    RECONNECT_MS = Dialer.RECONNECT_MS


class BoundOutlet(_Watching, PublishingListener):
    """An XPUB to which subscribers connect."""


class Relay:
    """The sockets of a forwarder's data plane, and the thread that passes on what comes.

    Endpoints are named by links: ("d", address), the port filled in.

    Args:
        name: for logs and the thread.
        guide: see `Guide`.
        front, back: limits of the two sides; of the back `queued_bytes` may wait for one subscriber.
        after: called in the relay's thread when the guide was asked something.
        ended: called there with what ended it, if it ends by itself.

    Attributes:
        ended: resolved when all is closed.
    """

    def __init__(
        self, name: str, guide: Guide, heartbeat: Heartbeat, front: Limits, back: Limits,
        after: Callable[[], object], ended: Callable[[BaseException], object],
    ) -> None:  # fmt: skip
        self.name = name
        self.ended = Ticket()
        self._guide = guide
        self._heartbeat = heartbeat
        self._front, self._back = front, back
        self._after = after
        self._failed = ended
        self._inlets: dict[Link, DataDialer | DataListener] = {}
        self._outlets: dict[Link, Outlet | BoundOutlet] = {}
        self._handlers: dict[Any, Callable[[float], object]] = {}
        self._pollset: list[tuple[Any, int]] = []
        self._waker = Waker()
        self._commands: deque[Callable[[float], object]] = deque()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closing = False
        self._flush = FLUSH_SECONDS
        self._look_at = math.inf
        self._large: dict[Link, int] = {}
        self._paused = False
        self._told_failed = -math.inf
        self.received = self.received_bytes = self.sent = self.sent_bytes = 0
        self.asked = self.asked_bytes = self.told = self.told_bytes = 0
        self.dropped = self.slow = self.failed_handshakes = 0

    # ---- which sockets there are: before `start`, or by `call` in the thread ---------------

    def bind(self, front: bool, address: str) -> str:
        """Bind, and return the address with its port filled in. Raises `AddressInUse`, `AddressError`."""
        made: DataListener
        if front:
            made = DataListener(address, self._heartbeat, self._front)
        else:
            made = self._watched(BoundOutlet(address, self._heartbeat, self._back))
        made.open()
        self._add(made.group, made)
        return made.address

    def connect(self, front: bool, address: str) -> None:
        """Connect. Raises `AddressError` for an address that libzmq cannot read."""
        made: DataDialer
        if front:
            made = Inlet(address, self._heartbeat, self._front)
        else:
            made = self._watched(Outlet(address, self._heartbeat, self._back))
        self._open(made)
        self._add(made.link, made)
        if made.inproc:
            self._look_at = 0.0

    def _open(self, endpoint: DataDialer) -> None:
        """Begin to connect; where that is not possible now (no descriptors are left, say), it is tried again."""
        try:
            endpoint.open()
        except zmq.ZMQError as error:
            log.warning("%s: cannot dial %s, will try again: %s", self.name, endpoint.address, error)
            self._look_at = 0.0

    def disconnect(self, address: str) -> None:
        """Close what connects to an address; the guide was told."""
        link = ("d", address)
        for endpoints in (self._inlets, self._outlets):
            found = endpoints.pop(link, None)
            if found is not None:
                found.close()
        self._changed()

    def _watched(self, outlet: Any) -> Any:
        outlet.lagging = Lagging(self._back.queued_bytes, WAITING_MESSAGES)
        outlet.sent = (self.sent_bytes, self.sent)
        return outlet

    def _add(self, link: Link, made: Any) -> None:
        (self._outlets if isinstance(made, _Watching) else self._inlets)[link] = made
        self._large[link] = 0
        self._changed()

    def _changed(self) -> None:
        handlers: dict[Any, Callable[[float], object]] = {}
        for link, inlet in self._inlets.items():
            if inlet.socket is not None:
                handlers[inlet.socket] = functools.partial(self._pass_on, link, inlet)
        for outlet in self._outlets.values():
            if outlet.socket is not None:
                handlers[outlet.socket] = functools.partial(outlet.receive, SUBSCRIPTIONS_A_TURN, self._subscribed)
        for link, endpoint in {**self._inlets, **self._outlets}.items():
            if endpoint.monitor is not None:
                handlers[endpoint.monitor] = functools.partial(self._watch, link, endpoint)
        self._handlers = handlers
        self._pollset = [(self._waker.fd, 1), *((socket, 1) for socket in handlers)]

    # ---- from any thread -------------------------------------------------------------------

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name=f"zmqkit-relay-{self.name}"[:60], daemon=True)
        forks.register(self)
        self._thread.start()

    def call(self, fn: Callable[[float], object]) -> None:
        """Run ``fn(now)`` in the relay's thread, soon. What it raises is logged."""
        self._commands.append(fn)
        self._waker.wake()

    def pause(self, paused: bool) -> None:
        """Pass nothing on, or go on. What comes meanwhile is dropped. In force when this returns."""
        turned = threading.Event()

        def turn(now: float) -> None:
            self._paused = paused
            turned.set()

        if self._thread is None:
            self._paused = paused
            return
        self.call(turn)
        if threading.current_thread() is not self._thread:
            turned.wait(GRACE_SECONDS)

    def begin_close(self, timeout: float | None, *, flush: float = FLUSH_SECONDS) -> None:
        """Ask to close, without waiting; `ended` tells. What is on its way has `flush` seconds to leave."""
        with self._lock:
            if self._thread is None:
                self._tear_down(0.0)
                return
        limit = flush if timeout is None else min(flush, timeout)

        def end(now: float) -> None:
            self._closing = True
            self._flush = min(self._flush, limit)

        self.call(end)

    def close(self, timeout: float | None) -> None:
        """The same, and wait for it."""
        self.begin_close(timeout)
        if threading.current_thread() is not self._thread:
            with contextlib.suppress(WaitExpired):
                wait(self.ended, None if timeout is None else timeout + FLUSH_SECONDS + GRACE_SECONDS)

    def become_forked(self) -> None:
        """This is the child of a fork: let go of the ports, and leave the rest alone."""
        for endpoint in (*self._inlets.values(), *self._outlets.values()):
            if isinstance(endpoint, DataListener):
                endpoint.become_forked()
        self._waker.close()
        self._commands = _Deaf()
        self.ended.resolve(True)
        _inherited.append((self._inlets, self._outlets))

    # ---- in the relay's thread -------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            log.critical("%s: the relay ends: %s", self.name, error, exc_info=True)
            self._failed(error)
        finally:
            self._tear_down(self._flush)

    def _loop(self) -> None:
        clock, poll, waker, commands, guide = time.monotonic, zmq.zmq_poll, self._waker, self._commands, self._guide
        while not self._closing:
            due = min(guide.next_deadline() or math.inf, self._look_at, clock() + SLEEP_SECONDS)
            pause = 0.0 if commands else max(0.0, due - clock())
            ready = poll(self._pollset, math.ceil(pause * 1000))
            now = clock()
            handlers = self._handlers
            for socket, _ in ready:
                handler = handlers.get(socket)
                if handler is not None:
                    handler(now)
                elif socket == waker.fd:
                    waker.clear()
            while commands:
                try:
                    commands.popleft()(now)
                except Exception:
                    log.exception("%s: a command of the relay's", self.name)
            if due <= now:
                guide.handle_timer(now)
                self._look(now)
            self._say()

    def _subscribed(self, link: Link, frames: Sequence[bytes], now: float) -> None:
        self.asked += 1
        self.asked_bytes += len(frames[0])
        self._guide.subscription(link, frames[0], frames[1], now)

    def _pass_on(self, link: Link, inlet: DataDialer | DataListener, now: float) -> None:
        """Send what has come to an inlet on to all outlets."""
        socket = inlet.socket
        if socket is None:
            return
        # Past the checks of pyzmq's outer class, as `Endpoint` sends.
        receive: Callable[..., Any] = functools.partial(zmq.backend.Socket.recv, socket)
        streams, paused, large = self._guide.streams, self._paused, self._large[link]
        sends: list[Callable[..., object]] = [each._send for each in self._outlets.values() if each.socket]
        send: Any = sends[0] if len(sends) == 1 else None
        messages = size = dropped = kept = kept_size = 0
        try:
            for _ in range(TURN_MESSAGES):
                if large:
                    frame = receive(1, False)
                    length = len(frame)
                    if length >= LARGE_BYTES and not frame.more:
                        large = LARGE_STAYS
                        messages += 1
                        size += length
                        if paused:
                            dropped += 1
                        else:
                            for each in sends:
                                each(frame, 1, False)
                        continue
                    large -= 1
                    data, more = frame.bytes, frame.more
                else:
                    data = receive(1)
                    length = len(data)
                    # To ask libzmq whether a frame follows costs as much as all the rest: not for frames of streams.
                    at = data.find(0, 1, MAX_TOPIC) + 1
                    if data[at : at + 8] in streams and data[0] == DATA:
                        if length >= LARGE_BYTES:
                            large = LARGE_STAYS
                        elif send is not None and not paused:
                            send(data, 1)
                            messages += 1
                            size += length
                            continue
                        more = False
                    elif data[:1] == b"b" and data[1:9] in streams:
                        more = False
                    else:
                        large = LARGE_STAYS if length >= LARGE_BYTES else 0
                        more = zmq.backend.Socket.get(socket, RCVMORE)
                messages += 1
                size += length
                if more:
                    size += self._rest(socket, data, () if paused else sends)
                    dropped += paused
                elif data[:1] == b"p" and self._guide.fence(link, data, now):
                    kept += 1
                    kept_size += length
                    self._say()
                elif paused:
                    dropped += 1
                elif send is not None:
                    send(data, NOWAIT)
                else:
                    for each in sends:
                        each(data, NOWAIT)
        except zmq.Again:
            pass  # read empty: the usual end
        finally:
            self._large[link] = large
            self.received += messages
            self.received_bytes += size
            self.dropped += dropped
            if not paused:
                self.sent += messages - kept
                self.sent_bytes += size - kept_size
                self._look_for_slow()

    @staticmethod
    def _rest(socket: zmq.Socket[bytes], data: bytes, sends: Sequence[Callable[..., object]]) -> int:
        """Pass on a message of several frames, of which the first one is here. Returns the size of the others."""
        size, more = 0, True
        while more:
            for send in sends:
                send(data, MORE_NOWAIT)
            data = socket.recv(NOWAIT)  # all of a message is there, or nothing
            size += len(data)
            more = bool(zmq.backend.Socket.get(socket, RCVMORE))
        for send in sends:
            send(data, NOWAIT)
        return size

    def _look_for_slow(self) -> None:
        sent = (self.sent_bytes, self.sent)
        for link, outlet in list(self._outlets.items()):
            outlet.sent = sent
            if outlet.lagging.is_due(*sent):
                for token in outlet.lagging.look(*sent):
                    self.slow += 1
                    log.warning("%s: disconnects who does not read what is sent to him, at %s", self.name,
                                outlet.address)  # fmt: skip
                    self._cut(link, outlet, token)

    def _cut(self, link: Link, outlet: Outlet | BoundOutlet, token: bytes) -> None:
        """Close one connection; who is there may come again."""
        if isinstance(outlet, BoundOutlet):
            outlet.shut(token)
        elif alive(token):
            self._make_anew(link, outlet)

    def _make_anew(self, link: Link, endpoint: DataDialer) -> None:
        endpoint.close()
        self._open(endpoint)
        self._changed()
        self._guide.broken(link)
        self._guide.remade(link)

    def _say(self) -> None:
        """Send what the guide has to say."""
        guide = self._guide
        if guide.down:
            down, guide.down = guide.down, []
            for link, frame in down:
                self._send(self._outlets.get(link), frame)
                self.sent += 1
                self.sent_bytes += len(frame)
        if guide.up:
            up, guide.up = guide.up, []
            for link, frame in up:
                self._send(self._inlets.get(link), frame)
                self.told += 1
                self.told_bytes += len(frame)
        if guide.cuts:
            cuts, guide.cuts = guide.cuts, []
            for link, token in cuts:
                outlet = self._outlets.get(link)
                if outlet is not None:
                    self._cut(link, outlet, token)
        self._after()

    @staticmethod
    def _send(endpoint: Any, frame: bytes) -> None:
        if endpoint is not None:
            with contextlib.suppress(zmq.ZMQError):  # within the process, and nobody is there
                endpoint.send((frame,))

    def _watch(self, link: Link, endpoint: Endpoint, now: float) -> None:
        for event in endpoint.events():
            if event == DISCONNECTED and isinstance(endpoint, Dialer):
                self._guide.broken(link)
            elif event & HANDSHAKE_FAILED:
                self.failed_handshakes += 1
                if now >= self._told_failed + 60.0:
                    self._told_failed = now
                    log.warning("%s: a connection at %s failed in ZeroMQ's handshake: is another kind of socket at its "
                                "other end?", self.name, endpoint.address)  # fmt: skip

    def _look(self, now: float) -> None:
        """Within the process nothing tells that the other side is gone, and libzmq does not dial again."""
        self._look_at = math.inf
        for link, endpoint in {**self._inlets, **self._outlets}.items():
            if isinstance(endpoint, DataDialer):
                if endpoint.socket is None or (endpoint.inproc and endpoint.deserted):
                    self._make_anew(link, endpoint)
                if endpoint.socket is None or endpoint.inproc:
                    self._look_at = now + LOOK_SECONDS

    def _tear_down(self, flush: float) -> None:
        endpoints = [*self._inlets.values(), *self._outlets.values()]
        try:
            for endpoint in endpoints:
                endpoint.begin_close(int(flush * 1000))
            until = time.monotonic() + flush + 0.2
            while (waiting := [each for each in endpoints if not each.closed()]) and time.monotonic() < until:
                monitors: list[Any] = [each.monitor for each in waiting]
                zmq.zmq_poll([(monitor, 1) for monitor in monitors], 20)
        finally:
            for endpoint in endpoints:
                endpoint.close()
            forks.unregister(self)
            self._commands = _Deaf()
            self.ended.resolve(True)

    def stats(self) -> dict[str, int]:
        """Counters by name."""
        return {
            "frontend_messages_received": self.received, "frontend_bytes_received": self.received_bytes,
            "frontend_messages_sent": self.told, "frontend_bytes_sent": self.told_bytes,
            "backend_messages_received": self.asked, "backend_bytes_received": self.asked_bytes,
            "backend_messages_sent": self.sent, "backend_bytes_sent": self.sent_bytes,
            "frames_dropped": self.dropped, "slow_connections_closed": self.slow,
            "connections_refused": self.failed_handshakes,
            "connections_watched": sum(len(each.lagging) for each in self._outlets.values()),
        }  # fmt: skip


class _Deaf(deque[Any]):
    """Takes commands, and forgets them."""

    def append(self, _: Any) -> None:
        """Nothing."""


_inherited: list[object] = []
"""What a forked child must never free."""
