"""What simulated publishers published, and what of it may and must arrive where.

The judge: it knows bodies, topics and offsets, rows on a disk as anybody may read them, and what came out at a
subscriber's user. No state of a core. No two bodies are alike.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable

from zmqkit.patterns.pubsub.rows import MESSAGES, Row
from zmqkit.testing.journal import Disk


@functools.cache
def lets_in(pattern: str, topic: str) -> bool:
    """Whether a pattern lets a topic in, as the documentation has it and not as the code does it."""
    want, have = pattern.split("."), topic.split(".")
    if want[-1] == "#":
        want = want[:-1]
        if len(have) < len(want):
            return False
        have = have[: len(want)]
    return len(want) == len(have) and all(w in ("*", h) for w, h in zip(want, have, strict=True))


@dataclasses.dataclass(slots=True, eq=False)
class Message:
    """One message, from `publish` on.

    Attributes:
        place: in its line: rises with opening and offset.
        state: ``posted``; then ``stored``, ``refused`` (certainly not) or ``unknown`` (the process died first).
        gone: it was stored in what is gone now: a memory, or a tail that was torn off.
        trimmed: history let it go, as it was told to.
    """

    body: bytes
    topic: str
    offset: int
    sent_at: int
    opening: Opening
    place: int
    state: str = "posted"
    gone: bool = False
    trimmed: bool = False

    @property
    def reused(self) -> bool:
        """Its offset was another message's before, which was torn off."""
        return self.offset <= self.opening.used

    @property
    def due(self) -> bool:
        """Whoever wants its topic must get it, or hear that it is missing."""
        return self.state == "stored" and not self.gone

    def __repr__(self) -> str:
        gone = ", gone" if self.gone else ", trimmed" if self.trimmed else ""
        return f"{self.offset} {self.body!r} of {self.topic} ({self.state}{gone}) of {self.opening}"


@dataclasses.dataclass(slots=True, eq=False)
class Opening:
    """One opening of one publisher: an epoch.

    Attributes:
        name: of the publisher's process.
        line: where its messages are.
        epoch: 32 hex digits.
        next: the next offset.
        used: offsets up to this one were given out by earlier openings, whose tail was torn off.
        ended: it runs no longer.
    """

    name: str
    line: Line
    epoch: str
    number: int
    first: int
    next: int
    used: int = 0
    ended: bool = False
    by_offset: dict[int, Message] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{self.name}'s opening {self.number}"


class Line:
    """All messages under one publisher's id: of one memory, or of one journal with all its epochs."""

    def __init__(self, id: str, name: str, *, durable: bool) -> None:
        self.id = id
        self.name = name
        self.durable = durable
        self.openings: list[Opening] = []
        self.messages: list[Message] = []
        self.by_topic: dict[str, list[Message]] = {}

    def after(self, epoch: str, offset: int) -> int:
        """The place of the first message after a position; one of an epoch that never was is before all."""
        numbers = [opening.number for opening in self.openings if opening.epoch == epoch]
        if not numbers:
            return 0
        (number,) = numbers
        return next(
            (m.place for m in self.messages if (m.opening.number, m.offset) > (number, offset)), len(self.messages)
        )


class Book:
    """All that was published in a world."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts
        self.lines: dict[str, Line] = {}
        self.by_epoch: dict[tuple[str, str], Opening] = {}
        self.current: dict[str, Opening] = {}
        """By the name of a publisher: its newest opening."""

    # ---- what is done ----------------------------------------------------------------

    def opened(self, name: str, id: str, epoch: str, number: int, first: int, *, durable: bool) -> Opening:
        """A publisher was opened. One that was restored from a snapshot goes on with the same epoch."""
        line = self.lines.get(id)
        if line is None:
            line = self.lines[id] = Line(id, name, durable=durable)
        opening = self.by_epoch.get((id, epoch))
        if opening is None:
            opening = self.by_epoch[id, epoch] = Opening(name, line, epoch, number, first, first)
            opening.used = max((each.next - 1 for each in line.openings), default=0)
            line.openings.append(opening)
            for message in line.messages:
                if message.trimmed and message.offset >= first:
                    message.gone = True  # a power cut undid more than that: nobody knows that it ever was
        for other in self.lines.values():
            if other.name == name and other is not line:
                for message in other.messages:
                    message.gone = True  # its journal was moved aside, or its memory is gone
        opening.ended = False
        opening.next = max(opening.next, first)
        self.current[name] = opening
        return opening

    def posted(self, opening: Opening, topic: str, body: bytes, sent_at: int) -> Message:
        """A message is handed to a publisher under the next offset."""
        line = opening.line
        message = Message(body, topic, opening.next, sent_at, opening, len(line.messages))
        opening.next += 1
        opening.by_offset[message.offset] = message
        line.messages.append(message)
        line.by_topic.setdefault(topic, []).append(message)
        return message

    def told(self, messages: Iterable[Message], result: object) -> None:
        """The ticket of a publish was resolved."""
        for message in messages:
            assert message.state == "posted", f"{message} was told again: {result!r}"
            if not isinstance(result, BaseException):
                message.state = "stored"
            elif type(result).__name__ == "CommitIndeterminate":
                message.state = "unknown"
            else:
                message.state = "refused"

    def went_down(self, opening: Opening, *, durable: bool) -> None:
        """A publisher's process ended."""
        opening.ended = True
        for message in opening.by_offset.values():
            if message.state == "posted":
                message.state = "unknown"
            if not durable:
                message.gone = True

    def look(self, line: Line, disk: Disk, *, undone: bool) -> None:
        """Compare a line with the disk: what is missing was trimmed from the front, or torn off the end."""
        held = {}
        for each in disk.rows(MESSAGES):
            row = Row.unpack(each.key, each.value)
            for index in range(row.count):
                indexes = row.indexes
                held[row.body(index)] = (row.key + index, row.topics[0 if indexes is None else indexes[index]])
        lowest = min((offset for offset, _ in held.values()), default=None)
        for message in line.messages:
            there = held.get(message.body)
            if there is not None:
                assert there == (message.offset, message.topic), f"{message} is on the disk as {there}"
                assert message.state != "refused", f"{message} is on the disk"
                if message.state == "unknown":
                    message.state = "stored"
                    message.gone = False
                continue
            if message.state == "unknown":
                message.state, message.gone = "refused", True
            elif message.state == "stored" and not message.gone and not message.trimmed:
                if undone and (lowest is None or message.offset > lowest):
                    message.gone = True
                    self.counts["stored messages torn off"] += 1
                else:
                    message.trimmed = True

    # ---- what is seen ----------------------------------------------------------------

    def find(self, publisher: str, epoch: str, offset: int) -> Message:
        """The message that somebody got."""
        opening = self.by_epoch.get((publisher, epoch))
        assert opening is not None, f"a message of publisher {publisher}, epoch {epoch}, which there never were"
        message = opening.by_offset.get(offset)
        assert message is not None, f"message {offset} of {opening}, which was never published"
        assert message.state != "refused", f"{message} arrived, and it was refused"
        return message


class Hearing:
    """What one incarnation of a subscriber has of one line.

    Attributes:
        base: the place before which nothing is owed; None: it is not known where this subscriber began.
        since: what was sent before that, in microseconds since 1970, is not owed.
        newest: the place of the last one that came.
    """

    __slots__ = ("_lost", "_upto", "base", "line", "newest", "seen", "since")

    def __init__(self, line: Line, base: int | None, since: int) -> None:
        self.line = line
        self.since = since
        self.base = base
        self.newest = -1
        self.seen: set[int] = set()
        self._lost: list[tuple[int, int, str, int]] = []
        self._upto: dict[str, int] = {}

    def lose(self, first: int, last: int, topic: str = "") -> None:
        """It was told that these offsets are lost, or some of them; of one topic, or of any ("").

        Nothing is said of what is published later: an opening may use offsets again whose messages were torn off.
        """
        self._lost.append((first, last, topic, len(self.line.messages)))

    def is_lost(self, message: Message) -> bool:
        """Whether it was told that this one is lost."""
        return any(
            first <= message.offset <= last and topic in ("", message.topic) and message.place < end
            for first, last, topic, end in self._lost
        )

    def changed(self, epoch: str, last: int) -> None:
        """It was told of a new epoch of the line, and how far it had come before."""
        if self.base is None and last:
            before = [each for each in self.line.openings if each.epoch != epoch and each.first <= last]
            first = self.line.openings[0].epoch
            self.base = self.line.after(before[-1].epoch if before else first, last)

    def begin(self, place: int) -> None:
        """From here on all is owed, if nothing earlier is already."""
        if self.base is None or place < self.base:
            self.base = place
            self._upto.clear()

    def came(self, message: Message, *, begins: bool) -> Message | None:
        """A message arrived. Returns one of its topic that should have come before, and did not.

        Args:
            message: which.
            begins: it may be the first that is owed; a last value may not.
        """
        if begins:
            self.begin(message.place)
        self.seen.add(message.place)
        self.newest = max(self.newest, message.place)
        return self.missing(message.topic, message.place)

    def owes(self, message: Message) -> bool:
        """Whether this one is due to it, and neither came nor was called lost."""
        if self.base is None or message.place < self.base or message.sent_at < self.since:
            return False
        return message.due and message.place not in self.seen and not self.is_lost(message)

    def missing(self, topic: str, before: int) -> Message | None:
        """The first message of a topic below a place that is owed, and neither came nor was called lost."""
        messages = self.line.by_topic.get(topic, [])
        at = self._upto.get(topic, 0)
        while at < len(messages) and messages[at].place < before:
            message = messages[at]
            if self.owes(message):
                self._upto[topic] = at
                return message
            at += 1
        self._upto[topic] = at
        return None
