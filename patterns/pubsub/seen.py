"""What a subscriber has seen of a stream: the newest offset of each topic, and how many messages in all.

Pure. Both are bounded, whatever topics and offsets come. `Seen` says whether a message is new and whether one before it
is missing; `Tally` what to ask the publisher to compare (CHECK: docs/protocol.md, 14.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from zmqkit.patterns.pubsub.talk import SUM_BELOW

GENERATION: Final = 10_000
"""So many topics are known for certain; twice as many at most. Fewer than a publisher knows: see `Seen.floor`."""

FLOOR_SPAN: Final = 50_000
"""A publisher forgets a topic only after it published to so many others: what a frame calls the previous offset is
exact, if it is nearer than that. If not, it may be an offset that no message of the topic passes."""

MARK_EVERY: Final = 64
"""How many offsets lie between two places at which a `Tally` can be cut, at least."""

MARKS: Final = 40
"""In so many places at most..."""

NEAR: Final = 12
"""...of which so many are the nearest ones; of the others each second one goes where there are too many."""


class Seen:
    """Topic to offset of the newest message seen, in two generations.

    Args:
        floor: of topics that are not known, everything up to this offset counts as seen.
        generation: so many topics make one.
    """

    __slots__ = ("_next_floor", "_old", "_young", "floor", "generation")

    def __init__(self, floor: int = 0, generation: int = GENERATION) -> None:
        self.floor = floor
        self.generation = generation
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}
        self._next_floor = floor

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def of(self, topic: str) -> int:
        """The newest offset seen of a topic."""
        found = self._young.get(topic)
        if found is None:
            found = self._old.get(topic, 0)
        return found if found > self.floor else self.floor

    def misses_none(self, topics: list[str], previous: list[int]) -> bool:
        """Whether of each topic nothing is missing up to its offset in `previous`."""
        # Nearly always they are just those that were seen last, and to ask for that takes no step here a topic.
        if list(map(self._young.get, topics)) == previous:
            return True
        return not any(map(int.__gt__, previous, map(self.of, topics)))

    def knows(self, topic: str) -> bool:
        """Whether that is the topic's own, and no floor."""
        return topic in self._young or topic in self._old

    def put(self, topic: str, offset: int) -> None:
        """A newer message of a topic was seen."""
        young = self._young
        young[topic] = offset
        if len(young) >= self.generation:
            # What is forgotten is at most as new as the newest there was at the last turn.
            self.floor = max(self.floor, self._next_floor)
            self._next_floor = max(max(young.values()), self._next_floor)
            self._old, self._young = young, {}

    def put_all(self, newest: dict[str, int]) -> None:
        """Newer messages of several topics were seen."""
        self._young.update(newest)
        if len(self._young) >= self.generation:
            topic, offset = newest.popitem()
            self.put(topic, offset)

    def rise(self, offset: int) -> None:
        """All up to this offset is seen, of every topic."""
        if offset > self.floor:
            self.floor = offset

    def restart(self, floor: int) -> None:
        """All up to this offset is seen, nothing after it."""
        self.floor = self._next_floor = floor
        self._young, self._old = {}, {}


class Mark(NamedTuple):
    """What was seen, of all topics together, up to an offset."""

    offset: int
    messages: int
    total: int


class Span(NamedTuple):
    """What came after one offset and up to another: how many messages, and the sum of their offsets."""

    after: int
    messages: int
    total: int
    end: Mark
    """How it stood at its end: up to here it goes."""

    @property
    def up_to(self) -> int:
        """The last offset of it."""
        return self.end.offset


class Tally:
    """Counts what comes, and remembers the counts at some earlier offsets: the nearer, the more of them.

    A publisher compares only what it holds in memory. So a span must be short enough, and long enough to be worth it.
    """

    __slots__ = ("_due", "_marks", "doubtful", "messages", "total")

    def __init__(self, offset: int = 0) -> None:
        self.restart(offset)

    def restart(self, offset: int) -> None:
        """Count anew, from this offset on."""
        self.messages = self.total = 0
        self.doubtful = False
        """Not all before `after` could be compared: of some topic the last message may have been lost there."""
        self._marks = [Mark(offset, 0, 0)]
        self._due = offset + MARK_EVERY

    def count(self, offsets: Sequence[int], position: int) -> None:
        """Messages came; all up to `position` is in."""
        if type(offsets) is range:
            self.total += (offsets[0] + offsets[-1]) * len(offsets) // 2
        else:
            self.total += sum(offsets)
        self.messages += len(offsets)
        if position >= self._due:
            self._mark(position)

    def late(self, offsets: Sequence[int]) -> None:
        """Messages came that are older than others: the marks after them were wrong."""
        first, count, total = min(offsets), len(offsets), sum(offsets)
        self.messages += count
        self.total += total
        kept = [each for each in self._marks if each.offset < first]
        self._marks = kept or self._marks[:1]

    def pass_on(self, position: int) -> None:
        """All up to this offset is in, without news."""
        if position >= self._due:
            self._mark(position)

    def _mark(self, position: int) -> None:
        self._due = position + MARK_EVERY
        marks = self._marks
        marks.append(Mark(position, self.messages, self.total))
        if len(marks) > MARKS:
            del marks[1:-NEAR:2]

    @property
    def after(self) -> int:
        """All up to this offset was compared."""
        return self._marks[0].offset

    def span(self, position: int, most: int) -> Span:
        """The longest span up to the newest offset that is at most so many offsets long; or the shortest there is."""
        mark = next((each for each in self._marks if position - each.offset <= most), self._marks[-1])
        total = (self.total - mark.total) % SUM_BELOW
        return Span(mark.offset, self.messages - mark.messages, total, Mark(position, self.messages, self.total))

    def right(self, span: Span) -> None:
        """A span was compared and is right: what came before its end need not be compared again."""
        self.doubtful |= span.after > self.after
        self._marks = [span.end, *(each for each in self._marks if each.offset > span.up_to)]
        self._due = max(self._due, span.up_to + MARK_EVERY)
