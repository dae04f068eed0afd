"""What a publisher still holds of what it published: the newest in memory, older messages in a journal if there is one.

Pure. Offsets rise over all epochs of a journal, so it is one line. What is no longer held ends at the offset `gone`;
for a subscriber's topics it can often be proved that none of them is missing (docs/protocol.md, 14.6).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Final, NamedTuple

from zmqkit.options import Retention
from zmqkit.patterns.pubsub.offsets import LastOffsets
from zmqkit.patterns.pubsub.rows import MESSAGES, ROW_MESSAGES, Found, Row
from zmqkit.patterns.pubsub.talk import MAX_TOLD, SUM_BELOW
from zmqkit.patterns.pubsub.topics import Filter
from zmqkit.protocol import core

WINDOW_MESSAGES = 20_000
WINDOW_BYTES = 16 * 1024 * 1024
"""How much of what a journal holds is kept in memory, too, for those who follow closely."""

READ_BYTES = 256 * 1024
"""How much is loaded at a time."""

TRIMMED: Final = 1_000
"""So many rows are deleted a turn at most."""

CHECKED: Final = 100_000
"""So many messages are counted for one CHECK at most."""

MAX_EPOCHS: Final = 10_000
"""So many openings of a journal are told apart at most; the oldest ones are forgotten first."""


class Epochs:
    """Which offsets are of which opening of the journal.

    Args:
        known: first offset and name of each, in order.
    """

    def __init__(self, known: Sequence[tuple[int, str]] = ()) -> None:
        self._firsts = [first for first, _ in known]
        self._names = [name for _, name in known]
        self._past_firsts: list[int] = []
        self._past_names: list[str] = []

    def __len__(self) -> int:
        return len(self._firsts)

    def begin(self, first: int, name: str) -> None:
        """A new epoch, from this offset on."""
        self._firsts.append(first)
        self._names.append(name)

    @property
    def newest(self) -> str:
        """The one that is open now."""
        return self._names[-1]

    @property
    def first(self) -> int:
        """The first offset of the oldest one."""
        return self._firsts[0]

    @property
    def lone(self) -> bool:
        """There is but one, and was no other."""
        return len(self._firsts) == 1 and not self._past_firsts

    def of(self, row: Row) -> tuple[str, int]:
        """The epoch of a row, and its first offset. Feeds may have read one before its epoch was forgotten."""
        if self._past_firsts and row.key < self._firsts[0]:
            index = max(0, bisect_right(self._past_firsts, row.key) - 1)
            return self._past_names[index], self._past_firsts[index]
        return self.at(row.key)

    def at(self, offset: int) -> tuple[str, int]:
        """The epoch of an offset, and its first one."""
        index = max(0, bisect_right(self._firsts, offset) - 1)
        return self._names[index], self._firsts[index]

    def clamp(self, name: str, offset: int) -> int | None:
        """The offset, if it is not above the epoch's last one, else that one. None: the epoch is not known."""
        try:
            index = self._names.index(name)
        except ValueError:
            return None
        last = self._firsts[index + 1] - 1 if index + 1 < len(self._firsts) else offset
        return min(offset, last)

    def forget(self, gone: int) -> list[int]:
        """Forget epochs all of whose messages are gone. Returns their first offsets."""
        count = 0
        while count + 1 < len(self._firsts) and (
            self._firsts[count + 1] - 1 <= gone or len(self._firsts) - count > MAX_EPOCHS
        ):
            count += 1
        forgotten = self._firsts[:count]
        if forgotten:
            self._past_firsts = [*self._past_firsts, *forgotten][-MAX_EPOCHS:]
            self._past_names = [*self._past_names, *self._names[:count]][-MAX_EPOCHS:]
            del self._firsts[:count], self._names[:count]
        return forgotten


def picks(row: Row, filter: Filter) -> Sequence[int] | None:
    """The indexes of a row's messages that a filter lets in; None: all."""
    if filter.everything:
        return None
    topics, indexes, literals = row.topics, row.indexes, filter.literals
    if indexes is None:
        return None if filter.matches(topics[0]) else ()
    if literals is not None:
        wanted = literals.intersection(topics)
        flags = [topic in wanted for topic in topics] if wanted else []
    else:
        flags = list(map(filter.matches, topics))
    if True not in flags:
        return ()
    if False not in flags:
        return None
    return list(compress(range(row.count), map(flags.__getitem__, indexes)))


_FRESH: Final = Found()


class _Old(NamedTuple):
    """What must be known of a row to delete it."""

    key: int
    messages: int
    end: int
    """Bytes of all rows up to it."""
    sent_at: int
    newest: dict[str, int]


class History:
    """Rows in memory, and the bounds of those on disk.

    Args:
        count: without a journal: so many messages are kept.
        size_bytes: without a journal: so many bytes of bodies, the newest row apart.
        retention: with a journal: what it keeps. None: there is no journal.
        found: what the journal held when it was opened.

    Attributes:
        last: the newest offset.
        gone: up to this offset nothing is held any more.
        epochs: which offsets are of which opening.
        dropped: what is known of the topics of messages that are gone.
        written: bytes of all rows that there ever were.
    """

    def __init__(self, count: int, size_bytes: int, retention: Retention | None, found: Found = _FRESH) -> None:
        self.durable = retention is not None
        self.last = found.last
        self.gone = found.gone
        self.epochs = Epochs(found.epochs)
        self.dropped = LastOffsets(found.gone)
        self.written = found.written
        self._count = count
        self._size_bytes = size_bytes
        self._retention = Retention() if retention is None else retention
        self._rows: list[Row] = []
        self._keys: list[int] = []
        self._head = 0
        self._messages = 0
        self._bytes = 0
        # What is on disk: how many messages, from which key on, and the oldest rows as far as they were looked at.
        self._stored = found.messages
        self._first_key = found.first
        self._front: deque[_Old] = deque()
        self._front_asked = False

    def begin(self, first: int, epoch: str) -> None:
        """This opening gives out offsets from `first` on."""
        self.epochs.begin(first, epoch)
        self.last = max(self.last, first - 1)
        if not self.durable:
            self.gone = first - 1
            self.dropped.floor = first - 1

    # ---- in ------------------------------------------------------------------------

    def add(self, row: Row) -> None:
        """A newer row; with a journal: it is stored."""
        self._rows.append(row)
        self._keys.append(row.key)
        self._messages += row.count
        self._bytes += len(row.blob)
        self.last = row.last
        if self.durable:
            self._stored += row.count
            self.written = row.before + len(row.blob)
            self._first_key = self._first_key or row.key
            self._shrink_window()
        else:
            self._shrink()

    def _shrink(self) -> None:
        """Forget what is too much, to the message by count, and row by row by size."""
        rows = self._rows
        gone = max(self.gone, self.last - self._count)
        while self._head < len(rows):
            row = rows[self._head]
            if row.last > gone and (self._bytes <= self._size_bytes or self._head == len(rows) - 1):
                break
            gone = max(gone, row.last)
            if row.indexes is None:
                self.dropped.put(row.topics[0], row.last)
            else:
                self.dropped.update(row.newest())
            self._drop(row)
        self.gone = gone
        self._compact()

    def _shrink_window(self) -> None:
        """What is on disk need not stay in memory."""
        while self._messages > WINDOW_MESSAGES or (self._bytes > WINDOW_BYTES and self._head < len(self._rows) - 1):
            self._drop(self._rows[self._head])
        self._compact()

    def _drop(self, row: Row) -> None:
        self._messages -= row.count
        self._bytes -= len(row.blob)
        self._rows[self._head] = _NOTHING
        self._head += 1

    def _compact(self) -> None:
        if self._head > 64 and self._head > len(self._rows) // 2:
            del self._rows[: self._head], self._keys[: self._head]
            self._head = 0

    # ---- out -----------------------------------------------------------------------

    @property
    def window(self) -> int:
        """What comes after this offset is in memory."""
        if not self.durable:
            return self.gone
        if self._head == len(self._keys):
            return self.last
        first = self._keys[self._head]
        return self.gone if first == self._first_key else first - 1

    def following(self, offset: int) -> Row | None:
        """The row in memory with the first message after an offset that is not below `window`."""
        if offset >= self.last or self._head == len(self._rows):
            return None
        index = max(self._head, bisect_right(self._keys, offset + 1) - 1)
        row = self._rows[index]
        if row.last > offset:
            return row
        return self._rows[index + 1] if index + 1 < len(self._rows) else None

    def wanted(self, offset: int, seen: int) -> core.Read | None:
        """What to read for messages after an offset below `window`; None: there are none on the disk.

        Args:
            offset: after which.
            seen: rows up to this offset were read before.
        """
        first = max(self._first_key, seen + 1, offset + 2 - ROW_MESSAGES)
        last = self.window
        return core.Read(MESSAGES, first, last, READ_BYTES) if self._first_key and first <= last else None

    def since(self, time: int) -> int:
        """The offset before the first row in memory that was sent at a time (microseconds since 1970) or later."""
        for index in range(self._head, len(self._rows)):
            if self._rows[index].sent_at >= time:
                return max(self.gone, self._keys[index] - 1)
        return self.last

    @property
    def first_key(self) -> int:
        """The key of the oldest row on the disk; 0: there was none yet."""
        return self._first_key

    # ---- proofs --------------------------------------------------------------------

    def hole(self, filter: Filter, after: int) -> list[str] | None:
        """What of a filter's topics is gone after an offset: all topics that are hit, or empty: not known which.

        None: nothing, as can be proved.
        """
        if after >= self.gone:
            return None
        hit, whole = self.dropped.hit(filter, after)
        found = set(hit)
        if not self.durable and self._head < len(self._rows):
            row = self._rows[self._head]  # part of it may be gone, too
            found |= {topic for topic, at in row.newest(self.gone + 1).items() if at > after and filter.matches(topic)}
        if not whole:
            return []  # others may be hit besides those that are known: of an earlier opening, or idle for long
        return sorted(found)[:MAX_TOLD] if found else None

    def counted(self, filter: Filter, after: int, up_to: int) -> tuple[int, int] | None:
        """How many messages a filter lets in after an offset and up to one, and the sum of their offsets.

        None: that cannot be told, or not cheaply.
        """
        if after < max(self.gone, self.window) or up_to > self.last or up_to - after > CHECKED:
            return None
        count = total = 0
        for row in self._between(after, up_to):
            low, high = max(0, after + 1 - row.key), min(row.count, up_to + 1 - row.key)
            chosen = picks(row, filter)
            if chosen is None:
                count += high - low
                total += (high - low) * (2 * row.key + low + high - 1) // 2
            else:
                inside = [index for index in chosen if low <= index < high]
                count += len(inside)
                total += sum(inside) + len(inside) * row.key
        return count, total % SUM_BELOW

    def _between(self, after: int, up_to: int) -> Iterator[Row]:
        while after < up_to:
            row = self.following(after)
            if row is None or row.key > up_to:
                return
            yield row
            after = row.last

    # ---- retention -----------------------------------------------------------------

    def front_wanted(self) -> core.Read | None:
        """What to read to know the oldest rows, where a bound may need it. Asked for once."""
        bounds = self._retention
        if self._front or self._front_asked or not self._stored or not self.durable:
            return None
        if bounds.size_bytes is None and bounds.seconds is None and self._stored <= (bounds.count or 1 << 62):
            return None
        self._front_asked = True
        return core.Read(MESSAGES, self._first_key, self.last, READ_BYTES)

    def front_loaded(self, rows: Sequence[Row]) -> None:
        """The oldest rows."""
        self._front_asked = False
        for row in rows:
            self._front.append(_Old(row.key, row.count, row.before + len(row.blob), row.sent_at, row.newest()))

    def next_due(self) -> int | None:
        """When the oldest known row grows too old, in microseconds since 1970."""
        if self._retention.seconds is None or not self._front:
            return None
        return self._front[0].sent_at + int(self._retention.seconds * 1e6)

    def trim(self, time: int) -> list[int]:
        """Give up the rows that retention does not keep. Returns their keys, to be deleted.

        Args:
            time: microseconds since 1970.
        """
        keys: list[int] = []
        bounds, due = self._retention, self.next_due()
        while self._front and len(keys) < TRIMMED:
            old = self._front[0]
            if not (
                (bounds.count is not None and self._stored - old.messages >= bounds.count)
                or (bounds.size_bytes is not None and self.written - old.end >= bounds.size_bytes)
                or (due is not None and due <= time)
            ):
                break
            self._front.popleft()
            keys.append(old.key)
            self.gone = old.key + old.messages - 1
            self.dropped.update(old.newest)
            self._stored -= old.messages
            self._first_key = self.gone + 1
            due = self.next_due()
        while self._head < len(self._rows) and self._rows[self._head].last <= self.gone:
            self._drop(self._rows[self._head])
        return keys


_NOTHING: Final = Row(0, "", 0, [], None, [], b"", {})
