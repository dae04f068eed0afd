"""What all zmq sockets of a peer have in common, each with its monitor. Knows libzmq; no core, no thread, no clock.

Which kinds there are: `zmqkit.transport.links`, `zmqkit.transport.data`. All only ever see whole messages, as lists of
frames.

Flags of send and receive are plain integers: pyzmq's enums cost a microsecond a frame.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import socket as sockets
import stat
import struct
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import zmq
import zmq.backend

from zmqkit.errors import AddressError, AddressInUse
from zmqkit.options import Heartbeat, Limits
from zmqkit.transport.context import context

NOWAIT = 1
MORE = 2
MORE_NOWAIT = 3

LISTENING = int(zmq.EVENT_LISTENING)
DISCONNECTED = int(zmq.EVENT_DISCONNECTED)
HANDSHAKE_SUCCEEDED = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
HANDSHAKE_FAILED = int(
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
STOPPED = int(zmq.EVENT_MONITOR_STOPPED)
RETRIED = int(zmq.EVENT_CONNECT_RETRIED)

EVENTS = int(zmq.EVENTS)
FD = int(zmq.FD)
SRCFD = int(zmq.SRCFD)
READABLE = int(zmq.POLLIN)

MAX_LINGER = 1e6
"""Seconds. libzmq takes milliseconds, in an integer of 32 bits."""

MAX_FRAMES = 1024
"""A message of more frames is none of ours: it is read to its end and dropped."""

EXPELLED_A_TURN = 5000
"""So many messages of expelled peers are thrown away a turn: it must be quicker than they come."""

_names = itertools.count()
_event = struct.Struct("=HI")

Receive = Callable[[Any, list[bytes], float], None]
"""(link, frames, now)"""


class Endpoint:
    """A socket and its monitor.

    Attributes:
        socket: None while closed.
        monitor: the PAIR socket on which libzmq tells what becomes of the connections.
        link: of all messages, ("c", address); None where each peer is a link of its own.
        oversize: how many messages were dropped because they have too many frames, or (inproc) too large ones.
        expelled: routing ids of peers whose messages are dropped, and whether their connection was closed.
        unheard: how many messages of expelled peers, or of subscribers that are gone, were dropped.
        unread: see `Wires.unread`.
        polled: what the socket is polled for: `READABLE`, zmq.POLLOUT, or 0.
        up: whether the connection stands; always, where others connect.
    """

    KIND: ClassVar[int]
    """Of the socket."""
    EVENTS: ClassVar[int] = STOPPED | HANDSHAKE_FAILED | DISCONNECTED
    SEND_MESSAGES: ClassVar[int] = 0
    """So many messages may wait to be sent over one connection; 0: any number."""
    OTHERS: ClassVar[str] = "a plain PUSH, PULL, PUB or SUB"
    """Who is no peer of it, for people."""

    def __init__(self, address: str, heartbeat: Heartbeat, limits: Limits) -> None:
        self.address = address
        self.inproc = address.startswith("inproc:")
        self.link: tuple[str, str] | None = None
        self.socket: zmq.Socket[bytes] | None = None
        self.monitor: zmq.Socket[bytes] | None = None
        self.oversize = 0
        self.expelled: dict[bytes, bool] = {}
        self.unheard = 0
        self.unread = False
        self.polled = READABLE
        self.up = True
        self._send: Callable[[bytes, int], object] = _closed
        self._heartbeat = heartbeat
        self._limits = limits

    def _open(self) -> zmq.Socket[bytes]:
        made = context().socket(self.KIND)
        try:
            made.setsockopt(zmq.LINGER, 0)
            made.setsockopt(zmq.SNDHWM, self.SEND_MESSAGES)
            # Never a receiving high-water mark: libzmq 4.3.5 aborts the whole process when a peer that it holds back
            # sent a heartbeat and is gone (stream_engine_base.cpp, `!_io_error`). Who floods us is expelled instead.
            made.setsockopt(zmq.RCVHWM, 0)
            made.setsockopt(zmq.MAXMSGSIZE, self._frame_bytes())
            made.setsockopt(zmq.IPV6, int("[" in self.address))
            bound_ms = self._heartbeat.bound * 1000
            # Together below the bound: that the hop is dead is known before the session gives its peer up.
            made.setsockopt(zmq.HEARTBEAT_IVL, _clamp(bound_ms * 0.3))
            made.setsockopt(zmq.HEARTBEAT_TIMEOUT, _clamp(bound_ms * 0.6))
            made.setsockopt(zmq.HEARTBEAT_TTL, min(_clamp(bound_ms * 0.6, 100), 6_553_500))
            made.setsockopt(zmq.HANDSHAKE_IVL, _clamp(bound_ms * 2, 1000))
            made.setsockopt(zmq.TCP_KEEPALIVE, 1)
            self.monitor = open_monitor(made, self.EVENTS)
        except BaseException:
            made.close()
            raise
        self.socket = made
        # Past the checks of pyzmq's outer class, which are for what we do not use.
        self._send = functools.partial(zmq.backend.Socket.send, made)
        return made

    def receive(self, limit: int, receive: Receive, now: float, lone: bool = False) -> bool:
        """Hand on what has come, at most ``limit`` messages. True if there may be more.

        Call it when the poll found something to read. ``receive`` must not raise. ``lone``: take one only, and do not
        look for more.
        """
        socket = self.socket
        if socket is None:
            return False
        recv: Callable[[int, bool], zmq.Frame] = socket.recv  # type: ignore[assignment]  # copy=False
        link: Any = self.link
        address = self.address
        expelled = self.expelled
        first = True
        try:
            left, spare = limit, EXPELLED_A_TURN
            while left and spare:
                frame = recv(NOWAIT, False)
                frames = [frame.bytes]
                while frame.more:
                    frame = recv(NOWAIT, False)
                    if len(frames) <= MAX_FRAMES + 1:
                        frames.append(frame.bytes)
                if self.link is None:
                    route = frames.pop(0)
                    link = ("b", address, route)
                    if route in expelled:
                        self._expel(route, frame)
                        spare -= 1
                        continue
                left -= 1
                if len(frames) > MAX_FRAMES or (self.inproc and self._too_large(frames)):
                    self.oversize += 1
                else:
                    del frame  # libzmq's copy of it: a large one is not kept beside ours
                    receive(link, frames, now)
                # To ask is cheaper than the exception that ends a burst, but dearer than one more message. So it is
                # asked once: a lone message needs no exception, a burst pays for one question.
                if first:
                    if lone:
                        return True
                    first = False
                    if not socket.get(EVENTS) & READABLE:  # type: ignore[operator]  # this option is an integer
                        return False
        except zmq.Again:
            return False
        return True

    def _expel(self, route: bytes, frame: zmq.Frame) -> None:
        """A message of an expelled peer: close its connection, the first time."""

    def events(self, limit: int = 10_000) -> list[int]:
        """What the monitor told since the last time."""
        return [event for event, _ in self._told(limit)]

    def _told(self, limit: int) -> list[tuple[int, int]]:
        """Events and their values."""
        told: list[tuple[int, int]] = []
        if self.monitor is None:
            return told
        receive = self.monitor.recv
        try:
            while len(told) < limit:
                head = receive(NOWAIT)
                receive(NOWAIT)  # the address
                told.append(_event.unpack(head))
        except zmq.Again:
            return told  # read empty: the usual end
        return told

    def close(self) -> None:
        """Close at once; what was not sent is dropped."""
        # In this order, or libzmq may wait for the monitor for ever.
        if self.socket is not None:
            self.socket.disable_monitor()
        if self.monitor is not None:
            self.monitor.close(0)
        if self.socket is not None:
            self.socket.close(0)
        self.socket = self.monitor = None
        self._send = _closed

    def begin_close(self, linger_ms: int) -> None:
        """Close, but go on sending what was not sent for so long. `closed` tells when that is over."""
        if self.socket is not None:
            self.socket.close(linger_ms)
            self.socket = None

    def closed(self) -> bool:
        """After `begin_close`: whether libzmq has flushed and freed everything, the port or path included."""
        if self.monitor is None:
            return True
        if STOPPED in self.events():
            self.monitor.close(0)
            self.monitor = None
            return True
        return False

    def _frame_bytes(self) -> int:
        """The largest frame that is received."""
        return self._limits.frame_bytes

    def _too_large(self, frames: Sequence[bytes]) -> bool:
        # libzmq checks frames where they come from outside; inproc has no such place.
        if self.inproc:
            largest = self._frame_bytes()
            return any(len(frame) > largest for frame in frames)
        return False


class Sender(Endpoint):
    """An endpoint to which one sends without naming a peer."""

    def send(self, frames: Sequence[bytes]) -> None:
        """Send one message. Raises `zmq.ZMQError` when nobody is there (a DEALER, inproc)."""
        send = self._send
        last = len(frames) - 1
        if last < 0:
            raise ValueError("a message without frames")
        begun = False
        try:
            for frame in frames[:last]:
                send(frame, MORE_NOWAIT)
                begun = True
            send(frames[last], NOWAIT)
        except BaseException:
            if begun:
                send(b"", NOWAIT)  # or the next message would become a part of this one
            raise


class Bound(Endpoint):
    """An endpoint to which others connect.

    Attributes:
        address: as bound, the port filled in.
        greeted: how many connections stand that got through ZeroMQ's handshake.
        failed: how many did not, and are about to be told to be gone.
    """

    EVENTS = Endpoint.EVENTS | LISTENING | HANDSHAKE_SUCCEEDED
    GROUP: ClassVar[str]

    def __init__(self, address: str, heartbeat: Heartbeat, limits: Limits) -> None:
        super().__init__(address, heartbeat, limits)
        self.greeted = 0
        self.failed = 0
        self._listening: tuple[int, int] | None = None
        """The descriptor on which connections are accepted, and the socket's inode; for a forked child."""

    @property
    def group(self) -> tuple[str, str]:
        """("b", address), or ("d", address) of a data endpoint."""
        return (self.GROUP, self.address)

    def open(self) -> None:
        """Bind. Raises `AddressInUse`, or `AddressError` for what cannot be bound here."""
        made = self._open()
        try:
            if self.address.startswith("ipc://") and answers(self.address[len("ipc://") :]):
                # libzmq would take the path away from whoever listens there.
                raise AddressInUse(f"cannot bind {self.address!r}: another process is bound there; choose another path")
            made.bind(self.address)
        except zmq.ZMQError as error:
            self.close()
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(
                    f"cannot bind {self.address!r}: the address is in use; choose another port, or * for a free one"
                ) from error
            raise AddressError(f"cannot bind {self.address!r}: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise
        self.address = made.getsockopt_string(zmq.LAST_ENDPOINT)
        for event, value in self._told(10):  # told while it was bound; nothing is told within the process
            if event == LISTENING:
                self._listening = (value, os.fstat(value).st_ino)

    def become_forked(self) -> None:
        """This is the child of a fork: let go of the port, or it would stay taken when the parent closes it.

        All else of libzmq's is left alone; of the parent's connections the remote side learns by its heartbeats.
        """
        if self._listening is not None:
            fd, inode = self._listening
            with contextlib.suppress(OSError):  # it was closed before the fork
                if os.fstat(fd).st_ino == inode:
                    os.close(fd)


def _closed(data: bytes, flags: int) -> object:
    raise zmq.ZMQError(errno.ENOTSOCK)


def shut(fd: int, address: str, inode: int | None = None) -> None:
    """Shut down the connection with this descriptor, if it is one that was accepted at this bound address.

    libzmq closes no single connection, but tells which descriptor a message came from. Who is gone already left his to
    somebody else, perhaps: the socket's inode tells, if it is known.
    """
    try:
        fd = os.dup(fd)
    except OSError:
        return
    if not stat.S_ISSOCK(os.fstat(fd).st_mode) or inode not in (None, os.fstat(fd).st_ino):
        os.close(fd)
        return
    with sockets.socket(fileno=fd) as connection, contextlib.suppress(OSError):
        # To be sure touch a connection of our own port only. From here on whatever the other side sends is answered
        # by a reset.
        if _is_of(connection, address):
            connection.shutdown(sockets.SHUT_RDWR)


def _is_of(connection: sockets.socket, address: str) -> bool:
    """Whether this is a connection that was accepted at a bound address."""
    here = connection.getsockname()
    connection.getpeername()  # raises for what is not connected
    if isinstance(here, tuple):
        return address.startswith("tcp:") and address.rpartition(":")[2] == str(here[1])
    return address.startswith("ipc:") and os.fsdecode(here).replace("\0", "@", 1) == address[len("ipc://") :]


def open_monitor(socket: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
    """The socket on which libzmq tells these events of another one."""
    address = f"inproc://zmqkit-monitor-{next(_names)}"
    socket.monitor(address, events)
    made = context().socket(zmq.PAIR)
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.RCVHWM, 0)  # when full, libzmq's own thread would block
    made.connect(address)
    return made


def _clamp(milliseconds: float, least: int = 10) -> int:
    return int(min(max(milliseconds, least), 2**31 - 1))


def answers(path: str) -> bool:
    """Whether somebody listens at this path of a local socket."""
    if path == "*" or (not path.startswith("@") and not os.path.exists(path)):
        return False
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect("\0" + path[1:] if path.startswith("@") else path)
        except BlockingIOError:
            return True  # its queue of connections is full: somebody is there
        except OSError:
            return False
        return True
