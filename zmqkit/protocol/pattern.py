"""The part of a core that is alike in all patterns: sessions below, hooks for the pattern above.

Pure. A pattern's core derives from `PatternCore`, fills in the hooks and adds its verbs.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from typing import Any

from zmqkit.errors import DecodeError
from zmqkit.protocol.core import Frames, Link, Outputs, Read, Row
from zmqkit.protocol.local import Changed, Heard, Local, Lost, Opened, Received
from zmqkit.protocol.session import Session
from zmqkit.protocol.sessions import Sessions


class PatternCore:
    """A core upon sessions; see `zmqkit.protocol.core.Core` for the contract.

    Args:
        local: what this side says of itself.
        rng: ids and jitter; `random.SystemRandom` outside of simulations.
    """

    def __init__(self, local: Local, rng: random.Random) -> None:
        self.out = Outputs()
        self.counters: dict[str, int | float] = {}
        self.local = local
        self.sessions = Sessions(local, self.out, self.counters, rng)
        self.rng = rng
        self._finished = False
        self._awaited: list[tuple[int, Any]] = []

    # ---- a verb that all patterns have ---------------------------------------------

    def wait_for_sessions(self, count: int, ticket: Any, now: float) -> None:
        """`ticket` gets None once so many sessions are open."""
        self._awaited.append((count, ticket))
        self._tell_awaited()

    def forget_sessions(self, ticket: Any, answer: Any, now: float) -> None:
        """Nobody waits on this ticket of `wait_for_sessions` any more; `answer` gets None after it."""
        self._awaited = [each for each in self._awaited if each[1] is not ticket]
        self.out.replies.append((answer, None))

    def _tell_awaited(self) -> None:
        there = len(self.sessions)
        self.out.replies.extend((ticket, None) for count, ticket in self._awaited if count <= there)
        self._awaited = [each for each in self._awaited if each[0] > there]

    # ---- hooks of the pattern ----------------------------------------------------

    def opened(self, session: Session, now: float) -> None:
        """A session began."""

    def received(self, session: Session, frames: Frames, messages: int, now: float) -> None:
        """The next message of a session. May raise `DecodeError`: it is counted, the session goes on."""

    def heard(self, session: Session, now: float) -> None:
        """The other side heard more, or gave credit."""

    def changed(self, session: Session, now: float) -> None:
        """A session's connection went or came, or the other side became busy or was so no longer."""

    def lost(self, session: Session, reason: str, now: float) -> None:
        """A session ended for good."""

    # ---- the contract ------------------------------------------------------------

    def link_up(self, link: Link, now: float) -> None:
        """See `Core`."""
        self.sessions.link_up(link, now)
        self._rise(now)

    def link_down(self, link: Link, now: float) -> None:
        """See `Core`."""
        self.sessions.link_down(link, now)
        self._rise(now)

    def link_forgotten(self, link: Link, now: float) -> None:
        """A verb of the driver: it will not make this connection again."""
        self.sessions.link_forgotten(link, now)
        self._rise(now)

    def links_disturbed(self, group: Hashable, now: float) -> None:
        """See `Core`."""
        self.sessions.links_disturbed(group, now)
        self._rise(now)

    def receive_message(self, link: Link, frames: Frames, now: float) -> None:
        """See `Core`."""
        sessions = self.sessions
        found = sessions.receive_next(link, frames, now) if frames else None
        if found is None:
            sessions.receive_message(link, frames, now)
        else:  # without detour through `ups`: those of earlier inputs have risen
            session, body, messages, news = found
            if news:
                self.heard(session, now)
            try:
                self.received(session, body, messages, now)
            except DecodeError as error:
                sessions.bad_frame(session.link, str(error))
        if sessions.ups:
            self._rise(now)

    def process_gone(self, key: Hashable, now: float) -> None:
        """See `Core`."""
        self.sessions.process_gone(key, now)
        self._rise(now)

    def handle_timer(self, now: float) -> None:
        """See `Core`."""
        self.sessions.handle_timer(now)
        self._rise(now)

    def next_deadline(self) -> float | None:
        """See `Core`."""
        heap = self.sessions.timers.heap  # not asked through two calls: each turn comes here
        return heap[0][0] if heap else None

    def end_turn(self, now: float) -> None:
        """See `Core`."""
        sessions = self.sessions
        if sessions.granted:
            sessions.end_turn(now)
        if sessions.ups:
            self._rise(now)

    def stored(self, up_to: int, now: float) -> None:
        """See `Core`."""

    def store_failed(self, up_to: int, error: Exception, now: float) -> None:
        """See `Core`."""

    def loaded(self, read: Read, rows: Sequence[Row], now: float) -> None:
        """See `Core`."""

    def close(self, now: float) -> None:
        """See `Core`."""
        self.sessions.close(now)
        self._rise(now)
        self._finished = True

    @property
    def finished(self) -> bool:
        """See `Core`."""
        return self._finished

    def _rise(self, now: float) -> None:
        """Hand on what the sessions have for the pattern; what it does may bring up more."""
        sessions = self.sessions
        while sessions.ups:
            ups, sessions.ups = sessions.ups, []
            for up in ups:
                kind = type(up)
                if kind is Received:
                    try:
                        self.received(up.session, up.frames, up.messages, now)  # type: ignore[union-attr]
                    except DecodeError as error:
                        sessions.bad_frame(up.session.link, str(error))
                elif kind is Heard:
                    self.heard(up.session, now)
                elif kind is Changed:
                    self.changed(up.session, now)
                elif kind is Opened:
                    self.opened(up.session, now)
                    if self._awaited:
                        self._tell_awaited()
                else:
                    assert isinstance(up, Lost)
                    self.lost(up.session, up.reason, now)
