"""Messages of the recovery channel, inside sessions of the roles "publish" and "subscribe" (docs/protocol.md, 14.4).

Pure. What a stranger sends is returned checked, or raises `DecodeError`. Only BLOCK counts against the credit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple, cast

from zmqkit.errors import DecodeError
from zmqkit.patterns.pubsub import topics as names
from zmqkit.patterns.pubsub.wire import (
    MAX_CODEC,
    MAX_SENT_AT,
    Headers,
    check_bodies,
    read_headers,
    read_id,
    read_offsets,
    read_time,
)
from zmqkit.protocol import wire
from zmqkit.protocol.core import Frames

TOPICS, JOINED, LEFT, SEEN, FEED, STOP, COMMIT, CHECK, VALUES = range(1, 10)
BLOCK, BEGUN, DONE, HOLE, EPOCH, COMMITTED, CHECKED, REFUSED, LEAVE = range(20, 29)

CHUNK_TOPICS: Final = 5_000
"""So many patterns a message at most, added and removed together."""

MAX_CURSOR: Final = 200
"""The longest name of a cursor, in characters."""

MAX_TOLD: Final = 100
"""So many topics are named in a HOLE at most."""

SUM_BELOW: Final = 1 << 63
"""The sum of offsets in a CHECK is taken modulo this."""

BLOCK_MESSAGES: Final = 512
BLOCK_BYTES: Final = 256 * 1024
"""What a publisher puts into one BLOCK at most; one body may be larger."""

Kind = Literal["after", "earliest", "time", "resume"]
"""Where a feed begins: after an offset, with the oldest message there is, at a time, at the session's cursor."""

WRONG, RIGHT, UNKNOWN = range(3)
"""What a CHECK finds. UNKNOWN: the publisher no longer holds what it would need."""


# ---- from the subscriber ---------------------------------------------------------


class Topics(NamedTuple):
    """Which topics the session is about, in chunks of `CHUNK_TOPICS`; they are in force from `done` on.

    Attributes:
        reset: forget what was said before.
        add: patterns, as the user wrote them.
        remove: patterns.
        done: the last chunk.
    """

    reset: bool
    add: list[str]
    remove: list[str]
    done: bool

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([TOPICS, *self])]


class Joined(NamedTuple):
    """The subscriber lives on the data plane, behind its fence of that number, from this offset on."""

    number: int
    offset: int

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([JOINED, *self])]


class Left(NamedTuple):
    """The subscriber lives on the data plane no more."""

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([LEFT])]


class Seen(NamedTuple):
    """The newest beat that came over the data plane."""

    beat: int

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([SEEN, *self])]


class Feed(NamedTuple):
    """Asks for messages of the session's topics.

    Attributes:
        feed: a number that the subscriber gives it, fresh in the session.
        publisher: whose offset `after` is; "" where the kind needs none. Of another publisher it is worth nothing.
        epoch: of `after`; "" where the kind needs none.
        after: the offset after which it begins; with "time": microseconds since 1970.
        until: the last offset wanted; None: go on with what will be published.
        kind: see `Kind`.
    """

    feed: int
    publisher: str
    epoch: str
    after: int
    until: int | None
    kind: Kind

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([FEED, *self])]


class Stop(NamedTuple):
    """No more of this feed. What is on its way still comes."""

    feed: int

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([STOP, *self])]


class Commit(NamedTuple):
    """Moves the session's cursor. `ask` not 0: answer with COMMITTED and this number once it is stored."""

    epoch: str
    offset: int
    ask: int

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([COMMIT, *self])]


class Check(NamedTuple):
    """Asks whether that was all: of the session's topics, after an offset and up to one, so many messages.

    Attributes:
        ask: number of the question.
        after: offset before the span.
        up_to: last offset of the span.
        messages: how many were delivered of it.
        total: the sum of their offsets, modulo `SUM_BELOW`.
    """

    ask: int
    after: int
    up_to: int
    messages: int
    total: int

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([CHECK, *self])]


class Values(NamedTuple):
    """Asks for the last value of each of the session's topics, as they were at an offset: BLOCKs, then DONE."""

    feed: int
    up_to: int

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([VALUES, *self])]


# ---- from the publisher ----------------------------------------------------------


class Block(NamedTuple):
    """Messages of a feed, in the order of their offsets. Attributes: as `wire.Data`, and:

    Attributes:
        topics: that occur.
        indexes: which of `topics` each message has; None: all have the one.
        later: how many microseconds after `sent_at` each message was sent; None: all at that time.
    """

    feed: int
    epoch: str
    offsets: Sequence[int]
    topics: list[str]
    indexes: Sequence[int] | None
    sent_at: int
    codec: str
    lengths: list[int]
    blob: bytes
    headers: Headers = {}  # noqa: RUF012
    later: Sequence[int] | None = None

    def pack(self) -> Frames:
        """The message's frames."""
        offsets, indexes = self.offsets, self.indexes
        at = offsets[0] if offsets[-1] - offsets[0] + 1 == len(offsets) else list(offsets)
        more: dict[str, Any] = {"headers": dict(self.headers)} if self.headers else {}
        if self.later is not None:
            more["later"] = list(self.later)
        head = [
            BLOCK, self.feed, self.epoch, at, self.topics, None if indexes is None else list(indexes), self.sent_at,
            self.codec, self.lengths, more,
        ]  # fmt: skip
        return [wire.pack(head), self.blob]


class Begun(NamedTuple):
    """Where a feed begins: its first message comes after this offset of this epoch."""

    feed: int
    epoch: str
    after: int

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([BEGUN, *self])]


class Done(NamedTuple):
    """The feed came to its end; or an open one, for the first time, to the newest message. Up to there it is whole."""

    feed: int
    epoch: str
    offset: int

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([DONE, *self])]


class Hole(NamedTuple):
    """Messages that no history holds any more, some of which may be of the session's topics.

    Attributes:
        feed: it comes at its place in this feed.
        epoch: of the offsets.
        first: offset.
        last: offset.
        topics: those known to be hit; empty: not known which.
    """

    feed: int
    epoch: str
    first: int
    last: int
    topics: list[str]

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([HOLE, *self])]


class Epoch(NamedTuple):
    """The feed goes over into a newer epoch, whose first offset is told."""

    feed: int
    epoch: str
    first: int

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([EPOCH, *self])]


class Committed(NamedTuple):
    """The cursor is stored; or it is not, and `trouble` says why."""

    ask: int
    trouble: str = ""

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([COMMITTED, *self])]


class Checked(NamedTuple):
    """The answer to a CHECK: WRONG, RIGHT or UNKNOWN."""

    ask: int
    verdict: int

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([CHECKED, *self])]


class Refused(NamedTuple):
    """Something that was asked for is not given. The session goes on.

    Attributes:
        code: "cursor in use", "no cursor", "too many topics", "too many feeds", "no values", "publisher" (the position
            is of another one), "journal".
        text: for people.
        feed: that was asked for; 0: it was no feed.
    """

    code: str
    text: str
    feed: int = 0

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([REFUSED, *self])]


class Leave(NamedTuple):
    """The subscriber is too slow for the data plane: its connection is closed. A feed gives it what it missed."""

    reason: str

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([LEAVE, *self])]


FromSubscriber = Topics | Joined | Left | Seen | Feed | Stop | Commit | Check | Values
FromPublisher = Block | Begun | Done | Hole | Epoch | Committed | Checked | Refused | Leave


# ---- reading ---------------------------------------------------------------------


def read_from_subscriber(frames: Frames) -> FromSubscriber:
    """Decode what a publisher got. Raises `DecodeError`."""
    return cast(FromSubscriber, _read(frames, _OF_SUBSCRIBERS))


def read_from_publisher(frames: Frames) -> FromPublisher:
    """Decode what a subscriber got. Raises `DecodeError`."""
    return cast(FromPublisher, _read(frames, _OF_PUBLISHERS))


_Reader = Callable[[list[Any], Frames], Any]
_Readers = dict[int, tuple[str, int, int, _Reader]]


def _read(frames: Frames, readers: _Readers) -> object:
    head = wire.unpack(frames[0]) if frames else None
    if type(head) is not list or not head:
        raise DecodeError("a message of publish-subscribe without a head")
    kind = head[0]
    reader = readers.get(kind) if type(kind) is int else None
    if reader is None:
        raise DecodeError(f"a message of publish-subscribe of kind {wire.shown(kind)}")
    name, fields, frames_wanted, read_it = reader
    if len(head) < fields or len(frames) < frames_wanted:
        raise DecodeError(f"{name} with parts missing")
    return read_it(head, frames)


def _epoch(value: object, *, none: bool = False) -> str:
    return "" if none and value == "" else read_id(value, "epoch")


def _feed(value: object) -> int:
    feed = wire.number(value, "feed")
    if not feed:
        raise DecodeError("a feed has a number from 1 on")
    return feed


def _read_topics(head: list[Any], frames: Frames) -> Topics:
    add, remove = head[2], head[3]
    if type(add) is not list or type(remove) is not list or len(add) + len(remove) > CHUNK_TOPICS:
        raise DecodeError(f"TOPICS without lists, or with more than {CHUNK_TOPICS} of them")
    return Topics(head[1] is True, [names.read_pattern(each) for each in add],
                  [names.read_pattern(each) for each in remove], head[4] is True)  # fmt: skip


def _read_joined(head: list[Any], frames: Frames) -> Joined:
    return Joined(wire.number(head[1], "number"), wire.number(head[2], "offset"))


def _read_left(head: list[Any], frames: Frames) -> Left:
    return Left()


def _read_seen(head: list[Any], frames: Frames) -> Seen:
    return Seen(wire.number(head[1], "beat"))


_KINDS: Final = frozenset({"after", "earliest", "time", "resume"})


def _read_feed(head: list[Any], frames: Frames) -> Feed:
    kind, until, publisher = head[6], head[5], head[2]
    if type(kind) is not str or kind not in _KINDS:
        raise DecodeError(f"FEED of kind {wire.shown(kind)}")
    needed = kind == "after"
    return Feed(
        _feed(head[1]),
        read_id(publisher, "publisher") if needed or publisher != "" else "",
        _epoch(head[3], none=not needed),
        wire.number(head[4], "after"),
        None if until is None else wire.number(until, "until"),
        cast(Kind, kind),
    )


def _read_stop(head: list[Any], frames: Frames) -> Stop:
    return Stop(_feed(head[1]))


def _read_commit(head: list[Any], frames: Frames) -> Commit:
    return Commit(_epoch(head[1]), wire.number(head[2], "offset"), wire.number(head[3], "ask"))


def _read_check(head: list[Any], frames: Frames) -> Check:
    ask, after, up_to, messages, total = (wire.number(each, "CHECK") for each in head[1:6])
    if after > up_to:
        raise DecodeError("CHECK of a span that ends before it begins")
    return Check(ask, after, up_to, messages, total)


def _read_values(head: list[Any], frames: Frames) -> Values:
    return Values(_feed(head[1]), wire.number(head[2], "up_to"))


def _read_block(head: list[Any], frames: Frames) -> Block:
    found, indexes, lengths, blob = head[4], head[5], head[8], frames[1]
    check_bodies(lengths, blob)
    count = len(lengths)
    if type(found) is not list or not 0 < len(found) <= count:
        raise DecodeError("BLOCK without its topics")
    if indexes is None:
        if len(found) != 1:
            raise DecodeError("BLOCK that does not say which message is of which topic")
    elif (
        type(indexes) is not list or len(indexes) != count or not _INT.issuperset(map(type, indexes))
        or min(indexes) < 0 or max(indexes) >= len(found)
    ):  # fmt: skip
        raise DecodeError("BLOCK whose messages are of no topic")
    return Block(
        _feed(head[1]),
        _epoch(head[2]),
        read_offsets(head[3], count),
        [names.read_topic(each) for each in found],
        indexes,
        read_time(head[6]),
        wire.text(head[7], "codec", MAX_CODEC),
        lengths,
        blob,
        read_headers(head[9], count),
        _read_later(head[9].get("later"), count),
    )


def _read_later(value: object, count: int) -> list[int] | None:
    if value is None:
        return None
    if type(value) is not list or len(value) != count or not _INT.issuperset(map(type, value)):
        raise DecodeError("BLOCK whose times are not those of its messages")
    if min(value) < 0 or max(value) > MAX_SENT_AT:
        raise DecodeError("BLOCK with times that no calendar has")
    return value


_INT: Final = frozenset({int})


def _read_begun(head: list[Any], frames: Frames) -> Begun:
    return Begun(_feed(head[1]), _epoch(head[2]), wire.number(head[3], "offset"))


def _read_done(head: list[Any], frames: Frames) -> Done:
    return Done(_feed(head[1]), _epoch(head[2]), wire.number(head[3], "offset"))


def _read_hole(head: list[Any], frames: Frames) -> Hole:
    first, last, told = wire.number(head[3], "offset"), wire.number(head[4], "offset"), head[5]
    if not 1 <= first <= last:
        raise DecodeError("HOLE that ends before it begins")
    if type(told) is not list or len(told) > MAX_TOLD:
        raise DecodeError(f"HOLE without a list of at most {MAX_TOLD} topics")
    return Hole(_feed(head[1]), _epoch(head[2]), first, last, [names.read_topic(each) for each in told])


def _read_epoch(head: list[Any], frames: Frames) -> Epoch:
    return Epoch(_feed(head[1]), _epoch(head[2]), wire.number(head[3], "offset"))


def _read_committed(head: list[Any], frames: Frames) -> Committed:
    return Committed(wire.number(head[1], "ask"), wire.text(head[2], "trouble"))


def _read_checked(head: list[Any], frames: Frames) -> Checked:
    ask, verdict = wire.number(head[1], "ask"), wire.number(head[2], "verdict")
    if verdict not in (WRONG, RIGHT, UNKNOWN):
        raise DecodeError("CHECKED with a verdict that does not exist")
    return Checked(ask, verdict)


def _read_refused(head: list[Any], frames: Frames) -> Refused:
    return Refused(wire.text(head[1], "code", 40), wire.text(head[2], "text"), wire.number(head[3], "feed"))


def _read_leave(head: list[Any], frames: Frames) -> Leave:
    return Leave(wire.text(head[1], "reason"))


_OF_SUBSCRIBERS: Final[_Readers] = {
    TOPICS: ("TOPICS", 5, 1, _read_topics),
    JOINED: ("JOINED", 3, 1, _read_joined),
    LEFT: ("LEFT", 1, 1, _read_left),
    SEEN: ("SEEN", 2, 1, _read_seen),
    FEED: ("FEED", 7, 1, _read_feed),
    STOP: ("STOP", 2, 1, _read_stop),
    COMMIT: ("COMMIT", 4, 1, _read_commit),
    CHECK: ("CHECK", 6, 1, _read_check),
    VALUES: ("VALUES", 3, 1, _read_values),
}
_OF_PUBLISHERS: Final[_Readers] = {
    BLOCK: ("BLOCK", 10, 2, _read_block),
    BEGUN: ("BEGUN", 4, 1, _read_begun),
    DONE: ("DONE", 4, 1, _read_done),
    HOLE: ("HOLE", 6, 1, _read_hole),
    EPOCH: ("EPOCH", 4, 1, _read_epoch),
    COMMITTED: ("COMMITTED", 3, 1, _read_committed),
    CHECKED: ("CHECKED", 3, 1, _read_checked),
    REFUSED: ("REFUSED", 4, 1, _read_refused),
    LEAVE: ("LEAVE", 2, 1, _read_leave),
}
