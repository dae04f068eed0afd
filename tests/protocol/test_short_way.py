"""The short way of a message through the session layer does what the long way does, and leaves all else to that."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest

from tests.protocol.pair import local
from zmqkit.protocol.core import Frames
from zmqkit.protocol.pattern import PatternCore
from zmqkit.protocol.session import INLINE_BYTES, Session
from zmqkit.protocol.wire import DATA, HELLO, PING, STATE, Hello

LINK = ("b", "x", b"peer")
NAME = b"sessions"


class Short(PatternCore):
    """A core that keeps what rises."""

    def __init__(self) -> None:
        super().__init__(local("b", credit_messages=40, credit_bytes=4000), random.Random(1))
        self.risen: list[Any] = []
        hello = Hello(role="echo", instance=b"c" * 16, session=NAME, credit_messages=5, credit_bytes=500)
        self.receive_message(LINK, [hello.pack(HELLO)], 0.0)

    def heard(self, session: Session, now: float) -> None:
        self.risen.append(("heard", session.heard_by_peer, session.room_messages, session.room_bytes))

    def received(self, session: Session, frames: Frames, messages: int, now: float) -> None:
        self.risen.append(("received", list(frames), messages))

    def lost(self, session: Session, reason: str, now: float) -> None:
        self.risen.append(("lost", reason))

    @property
    def told(self) -> Any:
        """All that can be seen of it from outside."""
        sent = [(link, list(frames)) for link, frames in self.out.sends]
        return self.risen, sent, self.counters, sorted(self.sessions.timers.heap), list(self.out.events)


class Long(Short):
    """The same without the short way."""

    def receive_message(self, link: Any, frames: Frames, now: float) -> None:
        self.sessions.receive_message(link, frames, now)
        self._rise(now)


@pytest.mark.parametrize("seed", range(300))
def test_whatever_comes_both_ways_do_the_same(seed: int) -> None:
    rng = random.Random(seed)
    short, long = Short(), Long()
    number = heard = sent = 0
    wrong: list[Any] = [-1, 1.0, True, None, "1", b"", [], 2**63, 2**64 - 1, 7]
    for at in range(60):
        now = at * 0.01
        if rng.random() < 0.3:
            sent += 1
            for core in (short, long):
                for session in core.sessions:
                    core.sessions.send(session, [b"x" * rng.randrange(1)], 1, now)
        heard = rng.randint(heard, sent)
        step = rng.choices([1, 0, 2, -1], [30, 2, 2, 1])[0]
        number += step
        body: Any = bytes(rng.randrange(60))
        header = [DATA, NAME, heard, rng.randrange(50), rng.randrange(5000), number, rng.randrange(3), body]
        frames: list[bytes] = []
        kind = rng.random()
        if kind < 0.1:
            header[rng.randrange(8)] = rng.choice(wrong)
        elif kind < 0.2:
            frames = [header.pop(), b"more"][: rng.randint(0, 2)]
        elif kind < 0.25:
            header = header[: rng.randrange(9)]
        elif kind < 0.3:
            header = [rng.choice([PING, STATE]), *header[1:7], "later"]
        message = [msgpack.packb(header), *frames]
        if kind > 0.98:
            message[0] = message[0][:-1]
        for core in (short, long):
            core.receive_message(LINK, message, now)
            core.end_turn(now)
        assert short.told == long.told
        if not len(short.sessions):
            break


def test_a_small_body_rides_in_the_header_and_a_large_one_does_not() -> None:
    core = Short()
    (session,) = core.sessions
    for size in (0, INLINE_BYTES, INLINE_BYTES + 1):
        core.out.sends.clear()
        core.sessions.send(session, [bytes(size)], 0, 0.0)
        ((_, frames),) = core.out.sends
        assert len(frames) == (1 if size <= INLINE_BYTES else 2)
