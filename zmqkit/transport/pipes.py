"""The sockets of plain pipelines: PUSH and PULL; see docs/protocol.md, section 7.6. Knows libzmq; no core, no thread.

As with the other data endpoints, all connections of a bound one are one link, ("d", address), and a connecting one has
a socket for each remote address, and for each connection to it a new one.

Both are bounded by high-water marks: who does not read holds back his PUSH, and a PULL that is not read holds back who
sends. So there are no heartbeats of ZeroMQ's here: behind what is held back nobody would answer them, and who is
merely slow would be taken for dead. TCP's keepalive finds a host that is gone. (libzmq 4.3.5 may abort a process that
holds back a peer which sent it heartbeats and is gone, see `Endpoint._open`; so plain peers had better send none.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zmq

from zmqkit.options import Heartbeat, Limits
from zmqkit.transport.data import DIALERS, LISTENERS, DataDialer, DataListener
from zmqkit.transport.sockets import MAX_FRAMES, NOWAIT, Endpoint, Receive, Sender

WAITING_MESSAGES = 1_000
"""So many messages at most wait at one connection; fewer if the limits say so."""

READ_BYTES = 1 << 20
"""So much is taken from a PULL in one go, and one message more."""

WRITABLE = int(zmq.POLLOUT)

KEEPALIVE = ((zmq.TCP_KEEPALIVE_IDLE, 30), (zmq.TCP_KEEPALIVE_INTVL, 10), (zmq.TCP_KEEPALIVE_CNT, 3))
"""A host that is gone is noticed within a minute of silence, in seconds and tries."""


class Plain(Endpoint):
    """What both have in common."""

    def _open(self) -> zmq.Socket[bytes]:
        made = super()._open()
        most = min(WAITING_MESSAGES, self._limits.queued_messages)
        made.setsockopt(zmq.SNDHWM, most)
        made.setsockopt(zmq.RCVHWM, most)
        made.setsockopt(zmq.HEARTBEAT_IVL, 0)
        for option, value in KEEPALIVE:
            made.setsockopt(option, value)
        return made


class Pushing(Plain, Sender):
    """A PUSH. It takes a message where a peer is connected and has room, and tells when that is so again."""

    KIND = int(zmq.PUSH)
    OTHERS = "a puller without plain=True, or no PULL"

    def __init__(self, address: str, heartbeat: Heartbeat, limits: Limits) -> None:
        super().__init__(address, heartbeat, limits)
        self.polled = 0

    def push(self, messages: Sequence[Sequence[bytes]]) -> int:
        """Send what there is room for. Returns how many of the messages that are; they are ZeroMQ's from now on."""
        send = self.send
        taken = 0
        try:
            for frames in messages:
                send(frames)
                taken += 1
        except zmq.ZMQError:
            pass  # EAGAIN: nobody is there, or has room
        self.polled = WRITABLE
        return taken


class Pulling(Plain):
    """A PULL. It is read only as far as the core has said.

    Attributes:
        room: how many more messages may be taken.
    """

    KIND = int(zmq.PULL)
    OTHERS = "a pusher without plain=True, or no PUSH"

    def __init__(self, address: str, heartbeat: Heartbeat, limits: Limits) -> None:
        super().__init__(address, heartbeat, limits)
        self.polled = 0
        self.room = 0

    def receive(self, limit: int, receive: Receive, now: float, lone: bool = False) -> bool:
        """Hand on what has come, at most ``limit`` messages, whatever `room` is. See `Endpoint.receive`."""
        socket: Any = self.socket
        if socket is None:
            return False
        recv, link = socket.recv, self.link
        size = 0
        try:
            for _ in range(limit):
                frame = recv(NOWAIT, False)  # copy=False
                frames: list[bytes] = [frame.bytes]
                while frame.more:
                    frame = recv(NOWAIT, False)
                    if len(frames) <= MAX_FRAMES:
                        frames.append(frame.bytes)
                if len(frames) > MAX_FRAMES:
                    self.oversize += 1
                    continue
                self.room -= 1
                size += sum(map(len, frames))
                receive(link, frames, now)
                if size >= READ_BYTES:
                    return True
        except zmq.Again:
            return False
        return True


class PushDialer(Pushing, DataDialer):
    """A PUSH that connects to one address."""

    def begin_close(self, linger_ms: int) -> None:
        """Close, but go on sending for so long what was taken."""
        Endpoint.begin_close(self, linger_ms)


class PushListener(Pushing, DataListener):
    """A PUSH bound to one address."""


class PullDialer(Pulling, DataDialer):
    """A PULL that connects to one address."""


class PullListener(Pulling, DataListener):
    """A PULL bound to one address."""


DIALERS["PUSH"], DIALERS["PULL"] = PushDialer, PullDialer
LISTENERS["PUSH"], LISTENERS["PULL"] = PushListener, PullListener
