"""The sockets of a proxy: plain ones, with several addresses each. Knows libzmq; no thread, no clock.

Each has a monitor, by which it is known when libzmq has given a port back.
Those whose send can block have a *spill*: see `zmqkit.transport.proxies`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import logging
import os
import struct
from collections import deque

import zmq

from zmqkit.errors import AddressError, AddressInUse
from zmqkit.options import Heartbeat
from zmqkit.transport.context import context
from zmqkit.transport.sockets import (
    EVENTS,
    LISTENING,
    NOWAIT,
    STOPPED,
    answers,
    open_monitor,
)

log = logging.getLogger("zmqkit")

PAIRS = frozenset(
    {
        ("ROUTER", "DEALER"), ("DEALER", "ROUTER"), ("DEALER", "DEALER"), ("ROUTER", "ROUTER"),
        ("XSUB", "XPUB"), ("XPUB", "XSUB"), ("PULL", "PUSH"), ("PUSH", "PULL"),
    }
)  # fmt: skip
"""Kinds of sockets that can stand on the two sides of a proxy. PAIR is none: it has room for no spill."""


SPILLS = {"PUSH": zmq.PULL, "DEALER": zmq.DEALER}
"""Kinds whose send blocks when there is no room, and what takes from them."""

_numbers = itertools.count()

SUBSCRIPTION_BYTES = 64 * 1024
"""The longest that a subscriber can say. libzmq keeps a node for each byte of a subscription, and takes them away by
recursion: by one of 1 MB who leaves ends the process."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outlet:
    """One socket of a proxy, as it is to be opened.

    Attributes:
        kind: "ROUTER", "XPUB"...
        binds: addresses to bind.
        connects: addresses to connect to.
        messages: the high-water mark, both ways, of each connection.
        frame_bytes: the largest frame that is received; who sends a larger one is disconnected. An XPUB receives
            `SUBSCRIPTION_BYTES` at most.
        heartbeat: ZMTP heartbeats for peers that understand them; None: TCP's own only.
    """

    kind: str
    binds: tuple[str, ...]
    connects: tuple[str, ...]
    messages: int
    frame_bytes: int
    heartbeat: Heartbeat | None = None


class PlainSocket:
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
            most = SUBSCRIPTION_BYTES if outlet.kind == "XPUB" else outlet.frame_bytes
            made.setsockopt(zmq.MAXMSGSIZE, min(most, outlet.frame_bytes))
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
        for event, value in self.told():
            if event == LISTENING:
                self.listening.append((value, os.fstat(value).st_ino))
        for address in self.outlet.connects:
            self.connect(address)
        if self.outlet.kind in SPILLS:
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
        if self.outlet.kind in SPILLS and self._spill is None:
            spill = context().socket(SPILLS[self.outlet.kind])
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

    def deliver_spilled(self) -> None:
        """Send the first of what was spilled. There is room for it."""
        with contextlib.suppress(zmq.Again):  # who had room is gone
            self.socket.send_multipart(self.spilled[0], NOWAIT)
            self.spilled.popleft()

    def told(self) -> list[tuple[int, int]]:
        """What the monitor told since the last time: events and their values."""
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
            if any(event == STOPPED for event, _ in self.told()):
                self.monitor.close(0)
                return
        # Not closed: libzmq would wait for it.
        log.warning("a socket at %s does not end", ", ".join(self.addresses) or "no address")


def poll(*watched: tuple[zmq.Socket[bytes], int], timeout: float | None = None) -> list[tuple[zmq.Socket[bytes], int]]:
    """Wait until one of these has what it is watched for, so many seconds at most; None: without end."""
    poller = zmq.Poller()
    for socket, events in watched:
        poller.register(socket, events)
    return poller.poll(None if timeout is None else int(timeout * 1000))
