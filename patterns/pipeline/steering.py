"""Steering a pusher from outside while it runs: both cores of its control socket (docs/protocol.md, section 7.10).

Pure. Whoever reaches the control address, a local socket of the same user, asks one thing at a time in a session of the
role `steer`; the pusher's face answers. Over any other address such a session is ended.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Self

from zmqkit.errors import DecodeError, JournalError
from zmqkit.protocol import wire
from zmqkit.protocol.core import Frames, Row
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore
from zmqkit.protocol.session import Session

ROLE: Final = "steer"

ASK, ANSWER = 32, 33

MOST_IDS: Final = 10_000
"""So many ids in one question; more are asked about in several."""
MAX_VERB: Final = 32
MAX_ERROR: Final = 2_000


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """One question."""

    number: int
    verb: str
    arguments: dict[str, Any]

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([ASK, self.number, self.verb, self.arguments])]


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What it came to: an error, or a value, with rows of the journal perhaps."""

    number: int
    error: str = ""
    value: Any = None
    rows: Sequence[Row] = ()

    def pack(self) -> Frames:
        """The message's frames."""
        rows = [[row.key, row.weight, len(row.value)] for row in self.rows]
        return [
            wire.pack([ANSWER, self.number, self.error[:MAX_ERROR], self.value, rows]),
            b"".join(row.value for row in self.rows),
        ]


def read_ask(frames: Frames) -> Ask:
    """Raises `DecodeError`."""
    head = wire.unpack(frames[0]) if frames else None
    if type(head) is not list or len(head) < 4 or head[0] != ASK or type(head[3]) is not dict:
        raise DecodeError("not a question of who steers")
    return Ask(wire.number(head[1], "number"), wire.text(head[2], "verb", MAX_VERB), head[3])


def read_answer(frames: Frames) -> Answer:
    """Raises `DecodeError`."""
    head = wire.unpack(frames[0]) if frames else None
    if type(head) is not list or len(head) < 5 or head[0] != ANSWER or type(head[4]) is not list or len(frames) < 2:
        raise DecodeError("not an answer to who steers")
    rows, offset = [], 0
    for each in head[4]:
        if type(each) is not list or len(each) != 3:
            raise DecodeError("an answer with rows that are none")
        key, weight, size = (wire.number(value, "row") for value in each)
        rows.append(Row(key, weight, frames[1][offset : offset + size]))
        offset += size
    if offset != len(frames[1]):
        raise DecodeError("an answer whose rows are of other lengths")
    return Answer(wire.number(head[1], "number"), wire.text(head[2], "error", MAX_ERROR), head[3], rows)


class Request(NamedTuple):
    """A question, as the pusher's face gets it."""

    session: bytes
    ask: Ask


class Steered:
    """Who steers a pusher: the half of its core.

    Args:
        pusher: its core.

    Attributes:
        address: of the control socket, as bound; empty: there is none.
        steward: the ticket that gets each `Request`; its face answers by `answer`.
    """

    def __init__(self, pusher: Any) -> None:
        self._pusher = pusher
        self.address = ""
        self.steward: Any = None
        self._sessions: dict[bytes, Session] = {}
        self._asked: set[bytes] = set()

    def opened(self, session: Session, now: float) -> bool:
        """Somebody came. False: a puller, where pullers come."""
        steers, here = session.peer.role == ROLE, self._is_here(session)
        if not (steers or here):
            return False
        self._sessions[session.id] = session
        if not (steers and here):
            self._pusher.sessions.bad_frame(session.link, "steering, and nothing else, is for the control socket")
            self._pusher.sessions.goodbye(session, "not here", now)
        return True

    def lost(self, session: Session, now: float) -> bool:
        """Somebody is gone. False: a puller."""
        self._asked.discard(session.id)
        return self._sessions.pop(session.id, None) is not None

    def received(self, session: Session, frames: Frames, now: float) -> bool:
        """A message came. False: from a puller. Raises `DecodeError`."""
        if session.id not in self._sessions:
            return False
        if not self._is_here(session):
            raise DecodeError("steering, and nothing else, is for the control socket")
        ask = read_ask(frames)
        if session.id in self._asked:
            raise DecodeError("one question at a time")
        self._asked.add(session.id)
        self._pusher.sessions.owe(session, True, now)
        self._pusher.out.replies.append((self.steward, Request(session.id, ask)))
        return True

    def answer(self, name: bytes, answer: Answer, now: float) -> None:
        """A verb of the face."""
        session = self._sessions.get(name)
        if session is not None:
            self._asked.discard(name)
            self._pusher.sessions.send(session, answer.pack(), 0, now)
            self._pusher.sessions.owe(session, False, now)

    def _is_here(self, session: Session) -> bool:
        link = session.link
        return bool(self.address) and isinstance(link, tuple) and link[1] == self.address


class SteeringCore(PatternCore):
    """The side that asks.

    Args:
        local: what this side says of itself.
        rng: ids and jitter.
    """

    def __init__(self, local: Local, rng: random.Random) -> None:
        super().__init__(local, rng)
        self._session: Session | None = None
        self._number = 0
        self._waiting: dict[int, Any] = {}

    def ask(self, verb: str, arguments: dict[str, Any], ticket: Any, now: float) -> None:
        """`ticket` gets the `Answer`, or an exception: it is not known whether it was done."""
        session = self._session
        if session is None:
            self.out.replies.append((ticket, self._gone()))
            return
        self._number += 1
        self._waiting[self._number] = ticket
        self.sessions.send(session, Ask(self._number, verb, arguments).pack(), 0, now)
        self.sessions.owe(session, True, now)

    def opened(self, session: Session, now: float) -> None:
        """The pusher is there."""
        self._session = session

    def lost(self, session: Session, reason: str, now: float) -> None:
        """It is gone."""
        self._session = None
        waiting, self._waiting = self._waiting, {}
        self.out.replies.extend((ticket, self._gone()) for ticket in waiting.values())

    def received(self, session: Session, frames: Frames, messages: int, now: float) -> None:
        """An answer came."""
        answer = read_answer(frames)
        ticket = self._waiting.pop(answer.number, None)
        if ticket is not None:
            self.out.replies.append((ticket, answer))
        self.sessions.owe(session, bool(self._waiting), now)

    @staticmethod
    def _gone() -> JournalError:
        return JournalError("the program that has the journal open has just closed it: ask once more")


@dataclasses.dataclass(frozen=True, slots=True)
class Sought:
    """Arguments of a question, checked."""

    log: str
    first: int
    last: int
    size_bytes: int
    ids: tuple[str, ...]
    inbox: bytes

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> Self:
        """Raises `DecodeError`."""
        ids = arguments.get("ids", [])
        if type(ids) is not list or len(ids) > MOST_IDS or not all(type(each) is str for each in ids):
            raise DecodeError(f"ids are texts, {MOST_IDS} at most")
        first, last, size = (wire.number(arguments.get(name, 0), name) for name in ("first", "last", "size_bytes"))
        inbox = arguments.get("inbox", b"")
        if type(inbox) is not bytes:
            raise DecodeError("an inbox's id is bytes")
        return cls(wire.text(arguments.get("log", ""), "log", 31), first, last, size, tuple(ids), inbox)
