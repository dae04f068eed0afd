"""A learning switch, time by hand, and what comes out of it."""

from __future__ import annotations

import random
from typing import Any

from zmqkit.address import nth
from zmqkit.devices.switch import SwitchCore
from zmqkit.protocol import wire
from zmqkit.protocol.core import Frames, Link
from zmqkit.protocol.wire import DATA, HELLO, REFUSED, WELCOME, Hello

FRONT, BACK = "tcp://front:1", "tcp://back:1"
ONE, TWO = "tcp://one:1", "tcp://two:1"
BOUND = 3.0


def client(number: int) -> Link:
    """A connection that was made to the frontend."""
    return ("b", FRONT, number)


def server(number: int) -> Link:
    """A connection that was made to the backend."""
    return ("b", BACK, number)


def line(address: str, number: int) -> Link:
    """A connection to an acceptor that is dialled."""
    return ("c", nth(address, number))


class Switch:
    """A core, its clock, and what comes out of it."""

    def __init__(self, *dialled: str, stand: bool = True, listening: bool = False) -> None:
        self.now = 100.0
        self.attempt = 0
        self.core = SwitchCore(
            name="between", sides=("frontend", "backend"), roles=({"client"}, {"server"}), dialled=dialled,
            open_ended=listening, rng=random.Random(1),
        )  # fmt: skip
        self.core.bound_at([FRONT], [BACK] if listening else [], self.now)
        self.dials: list[tuple[str, bool]] = []
        self.disconnects: list[Link] = []
        self.events: list[Any] = []
        if stand:
            for address in dialled:
                self.core.link_up(("c", address), self.now)
        self.take()

    def take(self) -> list[tuple[Link, str]]:
        """What was sent since the last time: to whom, and the kind; or LOST and REFUSED with what they say."""
        return [(link, shown(frames)) for link, frames in self.sent()]

    def sent(self) -> list[tuple[Link, Frames]]:
        """The same, as it is."""
        self.core.end_turn(self.now)
        out = self.core.out
        sends, out.sends = out.sends, []
        dials, out.dials = out.dials, []
        self.dials += dials
        self.disconnects += out.disconnects
        self.events += out.events
        out.disconnects, out.events = [], []
        return sends

    def told(self) -> dict[Link, list[str]]:
        """What was sent, by link."""
        told: dict[Link, list[str]] = {}
        for link, kind in self.take():
            told.setdefault(link, []).append(kind)
        return told

    def receive(self, link: Link, *frames: bytes) -> None:
        self.core.receive_message(link, list(frames), self.now)

    def say(self, link: Link, kind: int, *fields: object) -> None:
        self.receive(link, wire.pack([kind, *fields]))

    def hello(
        self, link: Link, session: bytes = b"session1", *, instance: bytes = b"i" * 16, role: str = "client",
        kind: int = HELLO, attempt: int = 0, **more: Any,
    ) -> bytes:  # fmt: skip
        self.attempt += 1
        made = Hello(
            role=role, instance=instance, session=session, attempt=attempt or self.attempt, interval=BOUND / 3,
            liveness=3, **more,
        ).pack(kind)  # fmt: skip
        self.receive(link, made)
        return made

    def welcome(self, link: Link, session: bytes = b"session1", *, role: str = "server", **more: Any) -> bytes:
        return self.hello(link, session, role=role, kind=WELCOME, instance=b"s" * 16, **more)

    def up(self, link: Link) -> None:
        self.core.link_up(link, self.now)

    def down(self, link: Link) -> None:
        self.core.link_down(link, self.now)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with each timer at its time."""
        end = self.now + seconds
        while (due := self.core.next_deadline()) is not None and due <= end:
            self.now = max(due, self.now)
            self.core.handle_timer(self.now)
            self.core.end_turn(self.now)
        self.now = end

    def pair(self, address: str = ONE, number: int = 2, *, link: Link | None = None, **more: Any) -> Link:
        """Bring a session through; returns the line to the acceptor."""
        self.hello(link or client(1), **more)
        self.take()
        self.up(line(address, number))
        self.welcome(line(address, number), more.get("session", b"session1"))
        self.take()
        return line(address, number)

    def count(self, name: str) -> int:
        self.core.end_turn(self.now)
        return int(self.core.counters[name])


def shown(frames: Frames) -> str:
    """The kind of a message, with what LOST, REFUSED and MORE say."""
    header = wire.unpack(frames[0])
    kind = wire.NAMES[header[0]]
    if header[0] == REFUSED:
        return f"{kind} {header[1]}"
    return f"{kind} {header[1]}" if kind == "MORE" else kind


def data(session: bytes = b"session1", number: int = 1) -> bytes:
    return wire.pack([DATA, session, 0, 0, 0, number, 1, b"body"])
