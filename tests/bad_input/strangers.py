"""Strangers that speak raw ZeroMQ, frame by frame as docs/protocol.md has it, and know nothing of zmqkit's code.

`Dealer` dials a bound peer, `Router` waits for peers that dial it. Every wait is bounded. On one connection frames
stay in order, so `Dealer.settled` tells that all that was said before has been looked at.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import msgpack
import zmq

PATIENCE_S = 20.0
"""Every wait of these tests ends after so long, as a failure."""

HELLO, WELCOME, REFUSED, LOST, DATA, STATE, PING, PONG, RESUME, GOODBYE = range(1, 11)
DELIVER, SETTLE, SETTLED, HELD = range(1, 5)
PRESENT, TAKEN = 9, 10
NACK, REJECT, RELEASE, ISOLATE = range(1, 5)

EPOCH = b"stranger's epoch"

_attempts = itertools.count(1)


def pack(value: object) -> bytes:
    """A header or a head."""
    packed: bytes = msgpack.packb(value)
    return packed


def unpack(data: bytes) -> Any:
    """What a peer said."""
    return msgpack.unpackb(data, strict_map_key=False)


def greeting(role: str, credit: int = 0, **changed: Any) -> dict[str, Any]:
    """The map of a good HELLO (section 3.1). Without credit nothing is delivered to the stranger."""
    said: dict[str, Any] = {
        "zmqkit": [1, 1],
        "role": role,
        "instance": os.urandom(16),
        "session": os.urandom(8),
        "attempt": next(_attempts),
        "resume": False,
        "replaces": b"",
        "heard": 0,
        "sent": 0,
        "credit": [credit, 1 << 40 if credit else 0],
        "heartbeat": [1.0, 3],
        "busy": 3600.0,
        "frame": 1 << 26,
        "name": "stranger",
        "host": "",
        "process": [0, ""],
        "features": [],
        "about": {"epoch": EPOCH} if role == "push" else {},
    }
    return {**said, **changed}


class Raw:
    """A raw socket in a context of its own."""

    def __init__(self, kind: int) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(kind)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)

    def close(self) -> None:
        self._socket.close(0)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def wait(self, seconds: float = PATIENCE_S) -> list[bytes]:
        """The next message, which must come."""
        assert self._socket.poll(int(seconds * 1000)), "nothing came"
        return self._socket.recv_multipart()


class Dealer(Raw):
    """Dials one bound peer.

    Attributes:
        session: the session's id, once it was welcomed; before, one that nobody has.
        welcome: what the other side said of itself.
        heard, sent: numbers of section 4.
        credit: the limits that we gave, in messages and bytes.
        room: the limit of messages that we were given.
    """

    def __init__(self, address: str, role: str, credit: int = 0) -> None:
        super().__init__(zmq.DEALER)
        self.role = role
        self.session = os.urandom(8)
        self.welcome: dict[str, Any] = {}
        self.heard = self.sent = 0
        self.room = 0
        self.credit = [credit, 1 << 40 if credit else 0]
        self._pings = itertools.count(1)
        self._socket.connect(address)

    # ---- saying --------------------------------------------------------------------

    def say(self, *frames: bytes) -> None:
        """Any message."""
        self._socket.send_multipart(frames)

    def hello(self, **changed: Any) -> Any:
        """Say HELLO; returns the answer: WELCOME, REFUSED or LOST, as its header."""
        self.say(pack([HELLO, greeting(self.role) | changed]))
        return self.answer(WELCOME, REFUSED, LOST)

    def enter(self, **changed: Any) -> Self:
        """Open a session."""
        said = {**greeting(self.role, credit=self.credit[0]), **changed}
        self.session = said["session"]
        self.say(pack([HELLO, said]))
        _, self.welcome = self.answer(WELCOME)
        self.room = self.welcome["credit"][0]
        return self

    def header(self, kind: int, *more: Any) -> bytes:
        """The header of a session frame (2.2)."""
        return pack([kind, self.session, self.heard, *self.credit, *more])

    def data(self, head: Any, *blobs: bytes, messages: int = 0) -> None:
        """A message of the pipeline, as the next DATA."""
        self.sent += 1
        self.say(self.header(DATA, self.sent, messages), head if isinstance(head, bytes) else pack(head), *blobs)

    # ---- hearing -------------------------------------------------------------------

    def answer(self, *kinds: int) -> Any:
        """The next header of one of these kinds; others are passed over, but what is numbered counts as heard."""
        return self.message(*kinds)[0]

    def message(self, *kinds: int) -> tuple[Any, list[bytes]]:
        """The same, with the frames that follow the header."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert time.monotonic() < deadline, f"none of {kinds} came"
            frames = self.wait()
            header = unpack(frames[0])
            if header[0] == PING:
                self.say(self.header(PONG, header[5], self.sent))
            if header[0] == DATA:
                self.heard = max(self.heard, header[5])
            if header[0] in kinds:
                return header, body_of(header, frames)

    def delivery(self) -> Any:
        """The head of the next DELIVER."""
        while True:
            _, frames = self.message(DATA)
            head = unpack(frames[0])
            if head[0] == DELIVER:
                return head

    def settled(self) -> None:
        """Wait until all that we said before has been looked at: a PING is answered in its turn, by PONG or LOST."""
        number = next(self._pings)
        self.say(self.header(PING, number, self.sent))
        while True:
            header = self.answer(PONG, LOST)
            if header[0] == LOST or header[5] == number:
                return

    def grant(self, messages: int) -> None:
        """Raise the credit."""
        self.credit = [messages, 1 << 40]
        self.say(self.header(STATE))


class Guest:
    """A peer that dialled a `Router`, as the router sees it."""

    def __init__(self, router: Router, route: bytes, hello: dict[str, Any]) -> None:
        self.router = router
        self.route = route
        self.hello = hello
        self.session = hello["session"]
        self.heard = self.sent = 0

    def say(self, *frames: bytes) -> None:
        self.router.say(self.route, *frames)

    def header(self, kind: int, *more: Any) -> bytes:
        return pack([kind, self.session, self.heard, 0, 0, *more])

    def data(self, head: Any, *blobs: bytes, messages: int = 0) -> None:
        self.sent += 1
        self.say(self.header(DATA, self.sent, messages), head if isinstance(head, bytes) else pack(head), *blobs)

    def welcome(self, role: str, /, **changed: Any) -> None:
        """A good WELCOME, or one that is changed."""
        said = greeting(role, session=self.session, attempt=self.hello["attempt"], resume=True)
        self.say(pack([WELCOME, said | changed]))


class Router(Raw):
    """Waits for peers that dial it.

    Attributes:
        address: where it listens.
    """

    def __init__(self) -> None:
        super().__init__(zmq.ROUTER)
        self._socket.bind("tcp://127.0.0.1:*")
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def say(self, route: bytes, *frames: bytes) -> None:
        self._socket.send_multipart([route, *frames])

    def hear(self) -> tuple[bytes, Any, list[bytes]]:
        """Who said the next message, its header, and the frames after it."""
        route, *frames = self.wait()
        header = unpack(frames[0])
        return route, header, body_of(header, frames)

    def guest(self) -> Guest:
        """The next one who says HELLO."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            route, header, _ = self.hear()
            if header[0] == HELLO:
                return Guest(self, route, header[1])
        raise AssertionError("nobody greeted")

    def settled(self, guest: Guest) -> Any:
        """Wait until a guest has looked at all that was said to it: it answers a PING; returns PONG or LOST."""
        number = int.from_bytes(os.urandom(6), "big")
        guest.say(guest.header(PING, number, guest.sent))
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            route, header, _ = self.hear()
            if route != guest.route:
                continue
            if header[0] == DATA:
                guest.heard = max(guest.heard, header[5])
            if header[0] == LOST or (header[0] == PONG and header[5] == number):
                return header
        raise AssertionError("no answer")


def body_of(header: Any, frames: list[bytes]) -> list[bytes]:
    """The frames of the pattern (2.1): behind the header, or the only one in it."""
    if header[0] == DATA and header[7:]:
        assert len(frames) == 1
        return [header[7]]
    return frames[1:]


def deliver(bodies: Sequence[object] = ("x",), lease: int = 1, **changed: Any) -> tuple[list[Any], bytes]:
    """A good DELIVER (7.2): its head, and the blob. `changed` replaces fields of the head by name."""
    parts = [pack(body) for body in bodies]
    fields = {
        "kind": DELIVER,
        "lease": lease,
        "sequence": lease,
        "origin": "stranger",
        "sent_at": 1_700_000_000_000_000,
        "codec": "msgpack",
        "lengths": [len(part) for part in parts],
        "more": {},
    }
    return list({**fields, **changed}.values()), b"".join(parts)


def numbered(prefix: str, count: int) -> Iterator[str]:
    """Bodies that tell whose they are."""
    return (f"{prefix} {number}" for number in range(count))
