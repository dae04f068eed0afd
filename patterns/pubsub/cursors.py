"""Cursors: positions that a publisher keeps for subscribers, by name (docs/protocol.md, 14.5).

Pure. A cursor has one live holder, and never steps back. What was committed is said only when it is stored.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from zmqkit.patterns.pubsub.history import History
from zmqkit.patterns.pubsub.rows import CURSORS, pack_cursor
from zmqkit.patterns.pubsub.talk import MAX_CURSOR, Commit, Committed
from zmqkit.protocol.core import Outputs
from zmqkit.protocol.session import Session

MAX_CURSORS: Final = 10_000
"""So many cursors a publisher keeps."""


class Position(NamedTuple):
    """Where a cursor stands."""

    key: int
    """Of its row in the journal."""
    epoch: str
    offset: int


class _Storing(NamedTuple):
    number: int
    asked: list[tuple[Session, int]]


class Cursors:
    """The cursors of one publisher.

    Args:
        history: whose offsets they are.
        found: key, name, epoch and offset of each that the journal held.
    """

    def __init__(self, history: History, found: tuple[tuple[int, str, str, int], ...] = ()) -> None:
        self._history = history
        self._positions = {name: Position(key, epoch, offset) for key, name, epoch, offset in found}
        self._highest = max((key for key, *_ in found), default=0)
        self._holders: dict[str, Session] = {}
        self._dirty: dict[str, list[tuple[Session, int]]] = {}
        self._storing: deque[_Storing] = deque()

    # ---- holders -------------------------------------------------------------------

    def holder(self, name: str) -> Session | None:
        """The session that holds a cursor."""
        return self._holders.get(name)

    def hold(self, name: str, session: Session) -> str:
        """Give a cursor to a session. Returns "", or why that cannot be."""
        if not 0 < len(name) <= MAX_CURSOR:
            return f"a cursor's name is 1 to {MAX_CURSOR} characters"
        if name not in self._positions and len(self._positions.keys() | self._holders.keys()) >= MAX_CURSORS:
            return f"this publisher keeps {MAX_CURSORS} cursors, and takes no more"
        self._holders[name] = session
        return ""

    def release(self, name: str, session: Session) -> None:
        """The session is gone."""
        if self._holders.get(name) is session:
            del self._holders[name]

    # ---- positions -----------------------------------------------------------------

    def position(self, name: str) -> Position | None:
        """Where a cursor stands; None: it was never committed."""
        return self._positions.get(name)

    def commit(self, name: str, session: Session, commit: Commit) -> Committed | None:
        """Move a cursor. Returns an answer to be sent at once, None: one may come once it is stored."""
        place = self._history.epochs.clamp(commit.epoch, commit.offset)
        if place is None or commit.offset > self._history.last:
            return Committed(commit.ask, "no such message was ever published here")
        old = self._positions.get(name)
        if old is None:
            self._highest += 1
            self._positions[name] = Position(self._highest, commit.epoch, commit.offset)
        elif (self._history.epochs.clamp(old.epoch, old.offset) or 0) <= place:
            self._positions[name] = Position(old.key, commit.epoch, commit.offset)
        self._dirty.setdefault(name, [])
        if commit.ask:
            self._dirty[name].append((session, commit.ask))
        return None

    # ---- storing -------------------------------------------------------------------

    def write(self, out: Outputs) -> None:
        """Put out what moved."""
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, {}
        number = out.written
        for name in dirty:
            key, epoch, offset = self._positions[name]
            number = out.write(CURSORS, key, 0, pack_cursor(name, epoch, offset))
        self._storing.append(_Storing(number, [each for asked in dirty.values() for each in asked]))

    def moved(self) -> list[tuple[Session, int]]:
        """Without a journal: who is to be answered now."""
        if not self._dirty:
            return []
        dirty, self._dirty = self._dirty, {}
        return [each for asked in dirty.values() for each in asked]

    def stored(self, up_to: int) -> list[tuple[Session, int]]:
        """Writes up to this number are done with, well or badly: who is to be told, and by which number he asked."""
        found: list[tuple[Session, int]] = []
        while self._storing and self._storing[0].number <= up_to:
            found += self._storing.popleft().asked
        return found
