"""The barest pattern: askers ask, echoers answer. It shows what a pattern needs, and imports nothing of any real one.

Pure. A question goes to the session with the most room and is answered once. When a session is lost for good, its
questions end with `Unanswered`: whether they were heard is told, whether they were answered is not known.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

from zmqkit.errors import DecodeError, ZmqkitError
from zmqkit.protocol import wire
from zmqkit.protocol.core import Frames
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore
from zmqkit.protocol.session import Session


class Unanswered(ZmqkitError):
    """The session was lost. `heard`: the echoer is known to have heard the question."""

    def __init__(self, reason: str, heard: bool) -> None:
        super().__init__(f"no answer: {reason}")
        self.heard = heard


class AskerCore(PatternCore):
    """Asks; questions wait here while nobody has room for them."""

    def __init__(self, local: Local, rng: random.Random) -> None:
        super().__init__(local, rng)
        self._waiting: deque[tuple[bytes, Any]] = deque()
        self._asked: dict[bytes, dict[int, tuple[int, Any]]] = {}
        self._number = 0

    def ask(self, body: bytes, ticket: Any, now: float) -> None:
        """The verb: `ticket` gets what comes back, or `Unanswered`."""
        self._waiting.append((body, ticket))

    def opened(self, session: Session, now: float) -> None:
        self._asked[session.id] = {}

    def lost(self, session: Session, reason: str, now: float) -> None:
        for number, ticket in self._asked.pop(session.id).values():
            self.out.replies.append((ticket, Unanswered(reason, number <= session.heard_by_peer)))

    def received(self, session: Session, frames: Frames, messages: int, now: float) -> None:
        if len(frames) != 2:
            raise DecodeError("an answer has a number and a body")
        question = self._asked[session.id].pop(wire.number(wire.unpack(frames[0]), "question"), None)
        if question is None:
            raise DecodeError("an answer that nobody asked for")
        self.out.replies.append((question[1], frames[1]))
        self.sessions.owe(session, bool(self._asked[session.id]), now)

    def end_turn(self, now: float) -> None:
        while self._waiting:
            session = max(self.sessions, key=lambda each: each.room_messages, default=None)
            if session is None or session.room_messages < 1:
                break
            body, ticket = self._waiting.popleft()
            self._number += 1
            number = self.sessions.send(session, [wire.pack(self._number), body], 1, now)
            self._asked[session.id][self._number] = (number, ticket)
            self.sessions.owe(session, True, now)
        super().end_turn(now)


class EchoerCore(PatternCore):
    """Answers at once, and gives as much new credit as it answered."""

    def __init__(self, local: Local, rng: random.Random) -> None:
        super().__init__(local, rng)
        self._bytes: dict[bytes, int] = {}
        self.counters["heard"] = self.counters["echoed"] = 0
        self.dumb = False
        """It hears, and never answers."""

    def opened(self, session: Session, now: float) -> None:
        self._bytes[session.id] = 0

    def lost(self, session: Session, reason: str, now: float) -> None:
        del self._bytes[session.id]

    def received(self, session: Session, frames: Frames, messages: int, now: float) -> None:
        if len(frames) != 2 or messages != 1:
            raise DecodeError("a question has a number and a body")
        self.counters["heard"] += 1
        if self.dumb:
            return
        self.counters["echoed"] += 1
        self._bytes[session.id] += sum(map(len, frames))
        self.sessions.send(session, frames, 0, now)
        self.sessions.grant(session, session.limit_messages + 1, self.local.credit_bytes + self._bytes[session.id])
