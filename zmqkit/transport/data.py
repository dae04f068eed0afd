"""The sockets of publish-subscribe: XPUB and XSUB. Knows libzmq; no core, no thread, no clock.

Those of plain pipelines, data endpoints too, are in `zmqkit.transport.pipes`.

Either side may bind or connect. All connections of a bound one are one link, ("d", address): libzmq sends to them by
their subscriptions, and takes from them in turn. A connecting one has a socket for each remote address, and for each
connection to it a new one. libzmq would dial again by itself and repeat the subscriptions, so that nobody could tell
what had been published in between.
"""

from __future__ import annotations

import os
import struct
from typing import Any

import zmq

from zmqkit.options import Heartbeat, Limits
from zmqkit.transport.context import context
from zmqkit.transport.driver import DataKind
from zmqkit.transport.links import Dialer
from zmqkit.transport.sockets import EVENTS, NOWAIT, RETRIED, SRCFD, Bound, Endpoint, Receive, Sender, shut

SUBSCRIPTION_BYTES = 1024
"""The largest frame that a publisher takes from a subscriber: each byte of it may cost libzmq some 40."""

PUBLISHED_MESSAGES = 200_000
"""So many frames may wait for one subscriber; libzmq drops what comes on top. A core closes the connection before."""

SUBSCRIBED_MESSAGES = 1_000_000
"""So many subscriptions may wait for one publisher that connected to us."""

NEVER_MS = 2**30
"""libzmq dials again after 12 days, that is, never. With -1, which says so, it tells nothing of a name that cannot be
resolved; with this it tells of each failure that it will try again (EVENT_CONNECT_RETRIED)."""

WRITABLE = int(zmq.POLLOUT)

_token = struct.Struct("=iQ")
"""A connection's descriptor, and the inode of its socket: descriptors are used again."""


class DataDialer(Dialer):
    """An XSUB that connects to one address; see `Publishing` for the XPUB. Its link is ("d", address)."""

    KIND = int(zmq.XSUB)
    EVENTS = Dialer.EVENTS | RETRIED
    RECONNECT_MS = (NEVER_MS, 0)
    OTHERS = "a subscriber, too, or a peer of another pattern"

    def __init__(self, address: str, heartbeat: Heartbeat, limits: Limits) -> None:
        super().__init__(address, heartbeat, limits)
        self.link = ("d", address)
        self._witness: zmq.Socket[bytes] | None = None
        """Within the process no monitor tells that the other side is gone, and none of our sends fails. A PUSH of our
        own at the same address tells: it can be written to as long as somebody is there, or may still come."""

    def open(self) -> None:
        """Start connecting. Raises `AddressError` for an address that libzmq cannot read."""
        super().open()
        if self.inproc:
            self._witness = context().socket(zmq.PUSH)
            self._witness.setsockopt(zmq.LINGER, 0)
            self._witness.setsockopt(zmq.RCVHWM, 1)  # a bound XSUB sends its subscriptions to it
            self._witness.connect(self.address)

    @property
    def deserted(self) -> bool:
        """Within the process: whether the other side is gone. Elsewhere the monitor tells."""
        witness = self._witness
        return witness is not None and not witness.get(EVENTS) & WRITABLE  # type: ignore[operator]  # an integer

    def close(self) -> None:
        """Close at once; what was not sent is dropped."""
        self._dismiss()
        super().close()

    def begin_close(self, linger_ms: int) -> None:
        """Close, but go on sending what was not sent for so long. `closed` tells when that is over."""
        self._dismiss()
        # What an XSUB has not sent are subscriptions, of no use to anybody now. Where the other side has closed the
        # connection already, libzmq would wait for it the whole time.
        super().begin_close(linger_ms if self.KIND == zmq.XPUB else 0)

    def _dismiss(self) -> None:
        if self._witness is not None:
            self._witness.close(0)
            self._witness = None


class DataListener(Bound, Sender):
    """An XSUB bound to one address; see `Publishing` for the XPUB. Its link, and its group, is ("d", address)."""

    KIND = int(zmq.XSUB)
    GROUP = "d"
    SEND_MESSAGES = SUBSCRIBED_MESSAGES
    OTHERS = "a subscriber, too, or a peer of another pattern"

    def open(self) -> None:
        """Bind. Raises `AddressInUse`, or `AddressError` for what cannot be bound here."""
        super().open()
        self.link = self.group

    def shut(self, token: bytes) -> None:
        """Close one connection, of which `receive` told the token. One that is gone already is ignored."""
        found = _read(token)
        if found is not None:
            shut(found[0], self.address, found[1])


class Publishing(Endpoint):
    """What makes it an XPUB: all that comes are subscriptions, and each is told with its connection's token."""

    KIND = int(zmq.XPUB)
    SEND_MESSAGES = PUBLISHED_MESSAGES
    OTHERS = "a publisher, too, or a peer of another pattern"

    def _open(self) -> zmq.Socket[bytes]:
        made = super()._open()
        made.setsockopt(zmq.XPUB_VERBOSE, 1)  # each subscription is told, not only the first of its kind
        return made

    def _frame_bytes(self) -> int:
        return min(self._limits.frame_bytes, SUBSCRIPTION_BYTES)

    def receive(self, limit: int, receive: Receive, now: float, lone: bool = False) -> bool:
        """Hand on the subscriptions that have come, each with a token. See `Endpoint.receive`."""
        socket, link = self.socket, self.link
        if socket is None:
            return False
        try:
            for _ in range(limit):
                frame = _take(socket)
                if frame.more or (self.inproc and len(frame) > SUBSCRIPTION_BYTES):
                    self.oversize += 1  # no subscriber says anything in several frames
                    while frame.more:
                        frame = _take(socket)
                elif (token := self._name(frame)) is None:
                    self.unheard += 1
                else:
                    receive(link, [frame.bytes, token], now)
                if lone:
                    return True
        except zmq.Again:
            return False
        return True

    def _name(self, frame: zmq.Frame) -> bytes | None:
        """The token of the connection over which it came; empty where libzmq does not tell, None where it is gone."""
        if self.inproc:
            return b""
        try:
            fd = int(frame.get(SRCFD))
        except zmq.ZMQError:
            return b""
        inode = _inode(fd)
        return None if inode is None else _token.pack(fd, inode)


class PlainPublishing(Publishing):
    """An XPUB for plain SUBs: each end of a subscription is told, too, and libzmq drops for who is slow."""

    def _open(self) -> zmq.Socket[bytes]:
        made = super()._open()
        made.setsockopt(zmq.XPUB_VERBOSER, 1)
        made.setsockopt(zmq.SNDHWM, min(PUBLISHED_MESSAGES, self._limits.queued_messages))
        return made

    def _name(self, frame: zmq.Frame) -> bytes:
        return super()._name(frame) or b""  # also of a connection that is gone, for subscriptions are counted


class PublishingDialer(Publishing, DataDialer):
    """An XPUB that connects to one address."""


class PublishingListener(Publishing, DataListener):
    """An XPUB bound to one address."""


class PlainPublishingDialer(PlainPublishing, DataDialer):
    """The same for plain SUBs."""


class PlainPublishingListener(PlainPublishing, DataListener):
    """The same for plain SUBs."""


DIALERS: dict[DataKind, type[DataDialer]] = {
    "XPUB": PublishingDialer, "PUB": PlainPublishingDialer, "XSUB": DataDialer,
}  # fmt: skip
LISTENERS: dict[DataKind, type[DataListener]] = {
    "XPUB": PublishingListener, "PUB": PlainPublishingListener, "XSUB": DataListener,
}  # fmt: skip


def alive(token: bytes) -> bool:
    """Whether the connection with this token stands."""
    found = _read(token)
    return found is not None and _inode(found[0]) == found[1]


def _take(socket: zmq.Socket[Any]) -> zmq.Frame:
    return socket.recv(NOWAIT, False)  # copy=False


def _read(token: bytes) -> tuple[int, int] | None:
    if len(token) != _token.size:
        return None
    fd, inode = _token.unpack(token)
    return fd, inode


def _inode(fd: int) -> int | None:
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return None
