"""How far a subscriber is with what it was handed, where that is to survive: see ``cursor=`` and ``inbox=``.

Knows the inbox and threads; no core, no event loop. Messages are handed out in order, but threads may be done with them
in another. So the position that may be kept is that before the oldest message that somebody still has in hand: after a
crash nothing before it is missing, and what comes after it comes again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from zmqkit.inbox import Position


class _Line:
    """One publisher's messages: their offsets rise, over all its epochs."""

    __slots__ = ("last", "open")

    def __init__(self, last: Position) -> None:
        self.last = last
        """The newest that was handed out, or dealt with in an earlier life."""
        self.open: dict[int, Position] = {}
        """What is in hand, oldest first, with the position before it."""


class Progress:
    """What is in hand, and how far all is done.

    Args:
        positions: what was dealt with before.

    Attributes:
        lock: hold it from taking a message to `take`, so that the order is that of the offsets.
    """

    def __init__(self, positions: Iterable[Position] = ()) -> None:
        self.lock = threading.RLock()
        self._lines = {each.publisher: _Line(each) for each in positions}

    def take(self, publisher: str, epoch: str, offset: int) -> bool:
        """A message is about to be handed out. False: it was dealt with before. One that was given back comes anew."""
        with self.lock:
            line = self._lines.get(publisher)
            if line is None:
                line = self._lines[publisher] = _Line(Position(publisher, epoch, 0))
            if offset in line.open:
                return True
            if offset <= line.last.offset:
                return False
            line.open[offset] = line.last
            line.last = Position(publisher, epoch, offset)
            return True

    def done(self, publisher: str, offset: int) -> Position | None:
        """A message is dealt with. Returns the position that may be kept now, if that is a new one."""
        with self.lock:
            line = self._lines[publisher]
            before = line.open.get(offset)
            if before is None:
                return None
            oldest = next(iter(line.open))
            del line.open[offset]
            if oldest != offset:
                return None
            return next(iter(line.open.values())) if line.open else line.last

    def is_oldest(self, publisher: str, offset: int) -> bool:
        """Whether no older message of the publisher is in hand."""
        with self.lock:
            line = self._lines[publisher]
            return not line.open or next(iter(line.open)) >= offset
