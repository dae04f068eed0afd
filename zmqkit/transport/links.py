"""The sockets that sessions go over: DEALER and ROUTER. Knows libzmq; no core, no thread, no clock.

The connecting side has one DEALER per remote address (with several peers a DEALER would deal round-robin), the
binding side one ROUTER per bound address.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import zmq

from zmqkit.address import bare
from zmqkit.errors import AddressError
from zmqkit.options import Heartbeat, Limits
from zmqkit.transport.sockets import (
    HANDSHAKE_SUCCEEDED,
    MORE_NOWAIT,
    NOWAIT,
    SRCFD,
    Bound,
    Sender,
    shut,
)

MAX_EXPELLED = 1000
"""So many expelled peers are remembered, by routing ids, of which each connection has its own."""

CONNECT_TIMEOUT_MS = 5000
"""A SYN that got lost is not waited for as long as the kernel would (two minutes)."""


class Dialer(Sender):
    """A DEALER that connects to one address; several may, each as a link of its own (see `zmqkit.address.nth`).

    A new connection after a lost one is a new socket: so nothing that was meant for the old one is sent on the new
    one, before the session has greeted.

    Attributes:
        up: whether the connection stands.
        users: how many want this address.
        failures: how many connections in a row did not last, or were not made.
        hung_up: how many in a row ended in ZeroMQ's handshake.
        up_since: when `up` became true.
    """

    KIND = int(zmq.DEALER)
    EVENTS = Sender.EVENTS | HANDSHAKE_SUCCEEDED
    RECONNECT_MS: ClassVar[tuple[int, int]] = (100, 2000)
    """How long libzmq waits, at first and at most, before it tries again to connect. Less than a default heartbeat's
    bound of 3 s: so long a pusher that was opened anew keeps for its pullers what they hold."""

    def __init__(self, address: str, heartbeat: Heartbeat, limits: Limits) -> None:
        super().__init__(bare(address), heartbeat, limits)
        self.link: tuple[str, str] = ("c", address)
        self.up = False
        self.users = 1
        self.failures = 0
        self.hung_up = 0
        self.up_since = 0.0

    def open(self) -> None:
        """Start connecting. Raises `AddressError` for an address that libzmq cannot read."""
        made = self._open()
        first, most = self.RECONNECT_MS
        made.setsockopt(zmq.RECONNECT_IVL, first)
        made.setsockopt(zmq.RECONNECT_IVL_MAX, most)
        made.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS)
        try:
            made.connect(self.address)
        except zmq.ZMQError as error:
            self.close()
            raise AddressError(f"cannot connect to {self.address!r}: {error.strerror or error}") from error


class Listener(Bound):
    """A ROUTER bound to one address. Its group is ("b", address), its links are ("b", address, routing id)."""

    KIND = int(zmq.ROUTER)
    GROUP = "b"
    SEND_MESSAGES = 200_000
    """Who lets more pile up is taken for gone. Credit bounds what is lent (see the greatest prefetch), but a stranger
    that asks and never reads gets his answers too."""

    def _open(self) -> zmq.Socket[bytes]:
        made = super()._open()
        made.setsockopt(zmq.ROUTER_MANDATORY, 1)
        return made

    def expel(self, routing_id: bytes) -> None:
        """Hear nothing more from this peer, and close its connection with its next message."""
        self.expelled[routing_id] = False
        if len(self.expelled) > MAX_EXPELLED:
            del self.expelled[next(iter(self.expelled))]

    def _expel(self, route: bytes, frame: zmq.Frame) -> None:
        self.unheard += 1
        if self.expelled[route]:
            return
        self.expelled[route] = True
        try:
            # Who is gone already left his descriptor to somebody else, perhaps: an empty message finds out.
            self.send(route, [b""])
            shut(int(frame.get(SRCFD)), self.address)
        except zmq.ZMQError:
            return  # gone, or within the process; what comes is dropped all the same

    def send(self, routing_id: bytes, frames: Sequence[bytes]) -> None:
        """Send one message to one peer. Raises `zmq.ZMQError` (EHOSTUNREACH) when it is gone."""
        send = self._send
        last = len(frames) - 1
        if last < 0:
            raise ValueError("a message without frames")
        send(routing_id, MORE_NOWAIT)
        try:
            for frame in frames[:last]:
                send(frame, MORE_NOWAIT)
            send(frames[last], NOWAIT)
        except BaseException:
            send(b"", NOWAIT)  # or the next message would become a part of this one
            raise
