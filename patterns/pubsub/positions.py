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
    """One publisher's messages: offsets rise within an epoch, and an epoch that is over does not come again.

    A later epoch may use offsets again, if the publisher's journal lost its tail.
    """

    __slots__ = ("last", "open", "over")

    def __init__(self, last: Position) -> None:
        self.last = last
        """The newest that was handed out, or dealt with in an earlier life."""
        self.open: dict[tuple[str, int], Position] = {}
        """What is in hand, oldest first, with the position before it."""
        self.over: set[str] = set()
        """Epochs before the last one's."""

    def is_new(self, epoch: str, offset: int) -> bool:
        """Whether this comes after all that was handed out."""
        if epoch == self.last.epoch:
            return offset > self.last.offset
        return epoch not in self.over


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
            if (epoch, offset) in line.open:
                return True
            if not line.is_new(epoch, offset):
                return False
            if epoch != line.last.epoch:
                line.over.add(line.last.epoch)
            line.open[epoch, offset] = line.last
            line.last = Position(publisher, epoch, offset)
            return True

    def done(self, publisher: str, epoch: str, offset: int) -> Position | None:
        """A message is dealt with. Returns the position that may be kept now, if that is a new one."""
        with self.lock:
            line = self._lines[publisher]
            if (epoch, offset) not in line.open:
                return None
            oldest = next(iter(line.open))
            del line.open[epoch, offset]
            if oldest != (epoch, offset):
                return None
            return next(iter(line.open.values())) if line.open else line.last

    def is_oldest(self, publisher: str, epoch: str, offset: int) -> bool:
        """Whether no older message of the publisher is in hand."""
        with self.lock:
            line = self._lines[publisher]
            if not line.open:
                return True
            oldest_epoch, oldest = next(iter(line.open))
            return oldest >= offset if oldest_epoch == epoch else oldest_epoch not in line.over
