"""What a publisher knows of its topics: each one's last offset, and its last value where they are kept.

Pure. Bounded, whatever topics there are: `LastOffsets` forgets those that were idle longest, under a floor that serves
as the last offset of whatever it does not know (docs/protocol.md, 14.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from zmqkit.patterns.pubsub.rows import Row
from zmqkit.patterns.pubsub.topics import Filter

GENERATION: Final = 50_000
"""So many topics are known for certain; twice as many at most."""

MAX_VALUES: Final = 100_000
"""So many topics keep their last value."""


class LastOffsets:
    """Topic to offset of its last message, in two generations: when the young one is full, the old one is forgotten.

    Args:
        floor: no message of a topic that is not known has a higher offset.
        generation: so many topics make a generation.
    """

    __slots__ = ("_generation", "_old", "_young", "floor")

    def __init__(self, floor: int = 0, generation: int = GENERATION) -> None:
        self.floor = floor
        self._generation = generation
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def known(self, topic: str) -> int | None:
        """The topic's last offset; None: it is not known, and at most `floor`."""
        found = self._young.get(topic)
        return self._old.get(topic) if found is None else found

    def put(self, topic: str, offset: int) -> int:
        """The topic has a newer message. Returns the offset of the one before it, or the floor."""
        young = self._young
        found = young.get(topic)
        if found is None:
            found = self._old.pop(topic, self.floor)
            if len(young) >= self._generation:
                self._rotate()
                young = self._young
        young[topic] = offset
        return found

    def put_all(self, newest: dict[str, int]) -> list[int]:
        """`put` for several topics, in their order."""
        found = list(map(self._young.get, newest))
        if None in found:
            return [self.put(topic, offset) for topic, offset in newest.items()]
        self._young.update(newest)
        return found  # type: ignore[return-value]

    def update(self, newest: dict[str, int]) -> None:
        """Newer messages of several topics."""
        young = self._young
        young.update(newest)
        if self._old:
            for topic in newest:
                self._old.pop(topic, None)
        if len(young) >= self._generation:
            self._rotate()

    def _rotate(self) -> None:
        if self._old:
            self.floor = max(self.floor, max(self._old.values()))
        self._old, self._young = self._young, {}

    def hit(self, filter: Filter, after: int) -> tuple[list[str], bool]:
        """Which topics of a filter are known to have their last offset above `after`, and whether that is all.

        False where others, which are not known, may have one too.
        """
        literals = filter.literals
        if literals is not None and len(literals) <= len(self):
            found = [topic for topic in literals if (self.known(topic) or 0) > after]
            whole = self.floor <= after or all(self.known(topic) is not None for topic in literals)
            return sorted(found), whole
        tables = (self._young, self._old)
        found = [topic for each in tables for topic, at in each.items() if at > after and filter.matches(topic)]
        return sorted(found), self.floor <= after


class Value(NamedTuple):
    """The last value of a topic. `headers` are those of this one message, `epoch` is that of its offset."""

    offset: int
    sent_at: int
    codec: str
    body: bytes
    headers: dict[str, str] | None
    epoch: str = ""


class LastValues:
    """Topic to its last message, in the order of offsets. The topics that were idle longest are forgotten first.

    Args:
        most: topics.
        most_bytes: bytes of bodies.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._values: dict[str, Value] = {}
        self.forgotten = 0
        """How many topics lost their value."""

    def __len__(self) -> int:
        return len(self._values)

    def topics(self) -> list[str]:
        """All topics, in the order of their offsets."""
        return list(self._values)

    def get(self, topic: str) -> Value | None:
        """The topic's last message, if it is kept."""
        return self._values.get(topic)

    def take(self, rows: Iterable[Row], epoch_at: Callable[[int], tuple[str, int]]) -> None:
        """Newer messages. `epoch_at`: the epoch of an offset, and its first one."""
        newest: dict[str, tuple[Row, int]] = {}
        for row in rows:
            for topic, offset in row.newest().items():
                newest[topic] = (row, offset)
        values = self._values
        for topic, (row, offset) in sorted(newest.items(), key=_by_offset):
            old = values.pop(topic, None)
            if old is not None:
                self._bytes -= len(old.body)
            body, headers = row.body(offset - row.key), row.headers.get(offset - row.key)
            kept = None if headers is None else dict(headers)
            values[topic] = Value(offset, row.sent_at, row.codec, body, kept, epoch_at(offset)[0])
            self._bytes += len(body)
        for topic in self._idle():
            self._bytes -= len(values.pop(topic).body)
            self.forgotten += 1

    def _idle(self) -> Iterator[str]:
        """Topics to forget. Taken one by one, as long as there are too many."""
        excess = len(self._values) - self._most
        size = self._bytes - self._most_bytes
        if excess <= 0 and size <= 0:
            return
        found = []
        for topic, value in self._values.items():
            if excess <= 0 and size <= 0:
                break
            found.append(topic)
            excess -= 1
            size -= len(value.body)
        yield from found


def _by_offset(item: tuple[str, tuple[Row, int]]) -> int:
    return item[1][1]
