"""A small pattern of the tests' own upon sessions, and the world in which its sessions are tried.

Both sides say numbered words in each session, as many as the other gave credit for, and ask questions that are echoed.
It imports nothing of any real pattern.
"""

from __future__ import annotations

import random
from typing import Any

from zmqkit.errors import DecodeError
from zmqkit.protocol.core import Frames
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore
from zmqkit.protocol.session import Session


class EchoCore(PatternCore):
    """Words count against the credit, questions and echoes do not.

    What it sends, hears, opens and loses it also puts into ``out.items``, in order: the history that is judged.
    """

    def __init__(self, local: Local, rng: random.Random) -> None:
        super().__init__(local, rng)
        self.unsaid: dict[bytes, int] = {}
        self.untaken: dict[bytes, int] = {}
        self.unechoed: dict[bytes, int] = {}
        self._open: dict[bytes, Session] = {}
        self._taken: dict[bytes, tuple[int, int]] = {}
        self._number = 0
        self.eager = False

    # ---- verbs ---------------------------------------------------------------------

    def say(self, count: int, now: float) -> None:
        """Say so many words in each session, as soon as there is credit."""
        for name in self.unsaid:
            self.unsaid[name] += count

    def ask(self, now: float) -> None:
        """Ask a question in each session."""
        for name, session in self._open.items():
            self.unechoed[name] += 1
            self.sessions.owe(session, True, now)
            self._put(session, b"ask", 0, now)

    def take(self, most: int, now: float) -> None:
        """Take up to so many words of each session, and give as much credit again."""
        for name, session in self._open.items():
            count = min(most, self.untaken[name])
            if count:
                self.untaken[name] -= count
                messages, size = self._taken[name]
                self._taken[name] = messages, size = messages + count, size + 40 * count
                self.sessions.grant(session, self.local.credit_messages + messages, self.local.credit_bytes + size)

    def take_all(self, now: float) -> None:
        """From now on take each word as soon as it is here."""
        self.eager = True

    # ---- hooks ---------------------------------------------------------------------

    def opened(self, session: Session, now: float) -> None:
        self._open[session.id] = session
        self.unsaid[session.id] = self.untaken[session.id] = self.unechoed[session.id] = 0
        self._taken[session.id] = (0, 0)
        self.out.items.append(("opened", session.id, session.peer.instance))

    def received(self, session: Session, frames: Frames, messages: int, now: float) -> None:
        if len(frames) != 1:
            raise DecodeError("not a word")
        self.out.items.append(("got", session.id, frames[0]))
        kind = frames[0].split(b" ")[0]
        if kind == b"word":
            self.untaken[session.id] += messages
        elif kind == b"ask":
            self._put(session, b"echo", 0, now)
        else:
            self.unechoed[session.id] -= 1
            self.sessions.owe(session, self.unechoed[session.id] > 0, now)

    def lost(self, session: Session, reason: str, now: float) -> None:
        for table in (self.unsaid, self.untaken, self.unechoed, self._open, self._taken):
            table.pop(session.id, None)
        self.out.items.append(("lost", session.id, reason, session.heard_by_peer))

    def end_turn(self, now: float) -> None:
        if self.eager:
            self.take(1 << 30, now)
        for name, session in self._open.items():
            while self.unsaid[name] and session.room_messages > 0:
                count = min(self.unsaid[name], session.room_messages, 3)
                self.unsaid[name] -= count
                self._put(session, b"word", count, now)
        super().end_turn(now)

    def _put(self, session: Session, kind: bytes, messages: int, now: float) -> None:
        self._number += 1
        frame = b"%s %d of %s" % (kind, self._number, self.local.name.encode())
        frame += b"." * (40 * messages - len(frame) if messages else 0)
        self.out.items.append(("sent", session.id, frame))
        self.sessions.send(session, [frame], messages, now)

    # ---- for the judge -------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing is left to say, to take or to be answered."""
        return not any((*self.unsaid.values(), *self.untaken.values(), *self.unechoed.values()))

    def state(self) -> dict[str, Any]:
        """For people."""
        return {
            "sessions": {each.id.hex(): (each.link, each.sent, each.heard, each.heard_by_peer, each.unheard)
                         for each in self.sessions},
            "unsaid": list(self.unsaid.values()), "untaken": list(self.untaken.values()),
            "unechoed": list(self.unechoed.values()),
        }  # fmt: skip
