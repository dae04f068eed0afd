"""Servers and clients under attack, each with an honest peer beside it; and strangers that speak of calls.

Records as docs/protocol.md has them in section 12, written by hand.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Self

import zmqkit
from tests.bad_input.scenes import BEAT, LOCAL, Watched
from tests.bad_input.strangers import DATA, PATIENCE_S, PING, PONG, Dealer, Guest, Router, pack, unpack
from zmqkit.options import Limits

CALL, CANCEL, GRANT, ITEM, END, ABORT, RESULT, ERROR, REFUSED, UNKNOWN, METHODS, DRAINING = range(1, 13)

CALLS = 20
"""The honest client's calls."""

EPOCH = b"hostile's epoch!"


def arguments(*args: object, **kwargs: object) -> bytes:
    """The body of a CALL."""
    return pack([args, kwargs])


def call(number: int, method: str = "add", size: int | None = 0, **more: Any) -> list[Any]:
    """A good CALL, or one with more to say."""
    return [CALL, number, size, method, None, 0.0, more or None]


class Calls(Watched):
    """A peer under attack, and an honest client with an honest server.

    Attributes:
        server, client: those who work; one of them may be the peer.
    """

    def __init__(self, peer: Any, server: zmqkit.Server, client: zmqkit.Client) -> None:
        super().__init__(peer)
        self.server = server
        self.client = client

    def finish(self, calls: int = CALLS) -> None:
        """The honest client makes its calls: each is answered, with its own answer."""
        replies = [self.client.submit("add", n, 1) for n in range(calls)]
        assert [reply.result(PATIENCE_S) for reply in replies] == list(range(1, calls + 1))
        assert self.client.call("add", calls, 2) == calls + 2
        self.sound()


def service(limits: Limits | None = None, **options: Any) -> zmqkit.Server:
    """A server that is not open yet."""
    server = zmqkit.Server(LOCAL, heartbeat=BEAT, limits=limits or Limits(), linger=0, **options)
    server.method(name="add")(lambda a, b=0: a + b)

    @server.method
    def rows(n: int) -> Iterator[int]:
        yield from range(n)

    @server.method
    def total(items: Iterator[int]) -> int:
        return sum(items)

    return server


@contextlib.contextmanager
def served(server: zmqkit.Server | None = None, limits: Limits | None = None, **options: Any) -> Iterator[Calls]:
    """A server under attack, an honest client beside it."""
    server = server or service(limits, **options)
    with server, zmqkit.Client(server.addresses[0], heartbeat=BEAT, timeout=PATIENCE_S, linger=0) as client:
        scene = Calls(server, server, client)
        client.wait_for_peers(1, timeout=PATIENCE_S)
        yield scene
        scene.sound()


@contextlib.contextmanager
def dialling(*hostile: str, honest: bool = False, limits: Limits | None = None, **options: Any) -> Iterator[Calls]:
    """A client that dials a hostile address, and an honest pair beside it.

    Args:
        *hostile: the addresses.
        honest: it dials the honest server as well, and is itself the honest client.
        limits: its.
        **options: its.
    """
    options = {"timeout": PATIENCE_S, **options}
    with service() as server, zmqkit.Client(server.addresses[0], heartbeat=BEAT, timeout=PATIENCE_S) as beside:
        own = [server.addresses[0]] if honest else []
        with zmqkit.Client(*hostile, *own, heartbeat=BEAT, limits=limits or Limits(), linger=0, **options) as client:
            scene = Calls(client, server, client if honest else beside)
            if honest:
                client.wait_for_peers(1, timeout=PATIENCE_S)
            yield scene
            scene.sound()


class Caller(Dealer):
    """A stranger that is a client of the server under attack."""

    def __init__(self, address: str, credit: int = 1 << 40) -> None:
        super().__init__(address, "client", credit)

    def wait(self, seconds: float = PATIENCE_S) -> list[bytes]:
        """The next message of a session; answers to plain clients are passed over."""
        while True:
            frames = super().wait(seconds)
            if frames[0] and (0x90 <= frames[0][0] <= 0x9F or frames[0][0] in (0xDC, 0xDD)):
                return frames

    @property
    def epoch(self) -> bytes:
        """Of the server."""
        found: bytes = self.welcome["about"]["epoch"]
        return found

    def enter(self, **changed: Any) -> Self:
        """Open a session; what the server says first of itself is heard."""
        self.heard = self.sent = 0
        super().enter(**changed)
        return self

    def tell(
        self, *records: list[Any], bodies: tuple[bytes, ...] = (), messages: int | None = None, floor: Any = 0,
        epoch: Any = None,
    ) -> None:  # fmt: skip
        """One message of these records; bodies are put where a record has 0, the others behind the head."""
        left = list(bodies)
        for record in records:
            if len(record) > 2 and record[2] == 0 and type(record[2]) is int and record[0] in (CALL, ITEM):
                record[2] = left.pop(0)
        count = sum(record[0] == CALL for record in records if record) if messages is None else messages
        self.data([self.epoch if epoch is None else epoch, floor, list(records)], *left, messages=count)

    def records(self) -> list[tuple[Any, bytes]]:
        """The records of the next message, each with its body."""
        _, frames = self.message(DATA)
        return read(frames)

    def reply(self, number: int) -> tuple[Any, bytes]:
        """What ends this call."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for record, body in self.records():
                if record[1] == number and record[0] in (RESULT, ERROR, REFUSED, UNKNOWN, END):
                    return record, body
        raise AssertionError(f"call {number} was not answered")


def read(frames: list[bytes]) -> list[tuple[Any, bytes]]:
    """The records of a message, each with its body; where that was stands its length."""
    head, large = unpack(frames[0]), iter(frames[1:])
    found = []
    for record in head[2]:
        body = next(large) if record[2] == -1 else record[2] or b""
        if type(record[2]) is bytes:
            record[2] = len(body)
        found.append((record, body))
    return found


class Hostile(Router):
    """A server that does as the test says, for one client that dials it."""

    def __init__(self) -> None:
        super().__init__()
        self.client: Guest
        self._records: deque[tuple[Any, bytes]] = deque()

    def enter(self, credit: int = 1000, **changed: Any) -> Self:
        """Welcome the client that dials."""
        self.client = self.guest()
        self._records.clear()
        about = {"epoch": EPOCH, "window": EPOCH, "journal": False}
        self.client.welcome("server", credit=[credit, 1 << 40 if credit else 0], **{"about": about, **changed})
        return self

    def hear(self) -> tuple[bytes, Any, list[bytes]]:
        """See `Router`; pings are answered, and records are kept for `told`."""
        route, header, frames = super().hear()
        guest = getattr(self, "client", None)
        if guest is not None and route == guest.route:
            if header[0] == PING:
                guest.say(guest.header(PONG, header[5], guest.sent))
            elif header[0] == DATA and header[5] > guest.heard:
                guest.heard = header[5]
                self._records.extend(read(frames))
        return route, header, frames

    def told(self, op: int = CALL) -> tuple[Any, bytes]:
        """The next record of this kind that the client sends, and its body."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            while self._records:
                record, body = self._records.popleft()
                if record[0] == op:
                    return record, body
            self.hear()
        raise AssertionError(f"nothing of kind {op} came")

    def tell(self, *records: list[Any], body: bytes = b"", epoch: Any = b"", floor: Any = 0) -> None:
        """One message of these records; the body is put where one has 0, else behind the head."""
        left = [body] if body else []
        for record in records:
            if record[2] == 0 and type(record[2]) is int:
                record[2] = body
                left = []
        self.client.data([epoch, floor, list(records)], *left)

    def sync(self) -> None:
        """Wait until the client has looked at all that was said."""
        self.settled(self.client)
