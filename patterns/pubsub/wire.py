"""Frames of the data plane: what XPUB sends and XSUB reads (docs/protocol.md, section 14.2).

Pure. What a stranger sends is returned checked, or raises `DecodeError`. What goes over the recovery channel is in
``talk.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from zmqkit.errors import DecodeError
from zmqkit.patterns.pubsub import topics
from zmqkit.protocol import wire

VERSION: Final = 1

STREAM_BYTES: Final = 8
MAX_MESSAGES: Final = 1 << 20
MAX_CODEC: Final = 64
MAX_SENT_AT: Final = 253_402_300_799_999_999
"""The last microsecond of the year 9999."""
MAX_HINT: Final = 300
MAX_PRIVATE: Final = 32 + 22 + MAX_HINT
MAX_SEAT: Final = 64

FRAME_MESSAGES: Final = 4096
FRAME_BYTES: Final = 256 * 1024
"""What a publisher puts into one frame at most; one body may be larger."""

HEAD_BYTES: Final = 2 * 1024 * 1024
"""What stands before the bodies takes less than this: topics, offsets, lengths, and usual headers."""

KNOWN_TOPICS: Final = 20_000
"""So many topics need not be checked again."""

Headers = Mapping[int, Mapping[str, str]]
"""From a message's index in its frame to what its sender added; most have none."""


class Data(NamedTuple):
    """Messages of one topic (14.2).

    Attributes:
        topic: of all of them.
        stream: 8 bytes: which opening of which publisher.
        offsets: of the messages, rising. A `range` where they are neighbours.
        previous: offset of the topic's message before the first one here, or one that no older message of it passes.
        group_last: the last offset of what was sent in the same turn.
        sent_at: microseconds since 1970.
        codec: of the bodies.
        lengths: of the bodies.
        blob: the bodies end to end.
        headers: by index.
    """

    topic: str
    stream: bytes
    offsets: Sequence[int]
    previous: int
    group_last: int
    sent_at: int
    codec: str
    lengths: list[int]
    blob: bytes
    headers: Headers = {}  # noqa: RUF012

    def pack(self) -> bytes:
        """The frame."""
        return pack_data(topics.wire_topic(self.topic), *self[1:])


class Mixed(NamedTuple):
    """Messages of several topics (14.2), where nobody subscribes only some of what begins so.

    Attributes:
        prefix: how all the topics begin: words, each with its dot; "" if they have none in common.
        stream: 8 bytes: which opening of which publisher.
        offsets: of the messages, rising. A `range` where they are neighbours.
        previous: for each topic the offset of its message before the first one here, as in `Data`.
        group_last: the last offset of what was sent in the same turn.
        sent_at: microseconds since 1970.
        codec: of the bodies.
        lengths: of the bodies.
        blob: the bodies end to end.
        headers: by index.
        topics: that occur, each once.
        indexes: which of `topics` each message has.
    """

    prefix: str
    stream: bytes
    offsets: Sequence[int]
    previous: list[int]
    group_last: int
    sent_at: int
    codec: str
    lengths: list[int]
    blob: bytes
    headers: Headers
    topics: list[str]
    indexes: list[int]

    def pack(self) -> bytes:
        """The frame."""
        return pack_data(topics.mixed_topic(self.prefix), *self[1:])

    def parts(self) -> list[Data]:
        """The same, a frame a topic."""
        found: list[tuple[list[int], list[int], list[bytes], dict[int, Mapping[str, str]]]]
        found = [([], [], [], {}) for _ in self.topics]
        start = 0
        for at, (index, offset, length) in enumerate(zip(self.indexes, self.offsets, self.lengths, strict=True)):
            offsets, lengths, pieces, headers = found[index]
            if at in self.headers:
                headers[len(offsets)] = self.headers[at]
            offsets.append(offset)
            lengths.append(length)
            pieces.append(self.blob[start : (start := start + length)])
        last = self.group_last
        return [
            Data(
                topic,
                self.stream,
                offsets,
                previous,
                last,
                self.sent_at,
                self.codec,
                lengths,
                b"".join(pieces),
                headers,
            )
            for topic, previous, (offsets, lengths, pieces, headers) in zip(
                self.topics, self.previous, found, strict=True
            )
        ]


class Beat(NamedTuple):
    """All up to this offset was sent (14.2). Answered by SEEN with its number."""

    stream: bytes
    offset: int
    number: int

    def pack(self) -> bytes:
        """The frame."""
        return b"b" + self.stream + wire.pack([self.offset, self.number])


class Fence(NamedTuple):
    """To one subscriber: what comes after this, of this stream and over this connection, is whole (14.3).

    Attributes:
        private: the name that the subscriber made, see `private_name`.
        stream: of the publisher's frames.
        publisher: its id: 32 hex digits.
        epoch: 32 hex digits.
        instance: of the publisher's peer object: 32 hex digits.
        offset: the last one given out.
        recovery: where to connect: ":PORT" at the data address's host, a whole address, or "": the publisher connects.
        seat: of a forwarder: who comes with the seat of another one came in its place; "" without a forwarder.
    """

    private: str
    stream: bytes
    publisher: str
    epoch: str
    instance: str
    offset: int
    recovery: str
    seat: str = ""

    def pack(self) -> bytes:
        """The frame."""
        head = [VERSION, self.stream, self.publisher, self.epoch, self.instance, self.offset, self.recovery]
        if self.seat:
            head.append(self.seat)
        return topics.private_topic(self.private) + wire.pack(head)


class OtherVersion(NamedTuple):
    """A fence of a version of the protocol that is not spoken here."""

    private: str
    version: int


def pack_data(
    name: bytes, stream: bytes, offsets: Sequence[int], previous: int | list[int], group_last: int, sent_at: int,
    codec: str, lengths: list[int], blob: bytes, headers: Headers, *mixed: list[Any],
) -> bytes:  # fmt: skip
    """A data frame. `name` is `topics.wire_topic` of the topic, or `topics.mixed_topic`; for the rest see `Data`, and
    `Mixed`, of which `mixed` are the topics and indexes."""
    first, last = offsets[0], offsets[-1]
    at = first if last - first + 1 == len(offsets) else list(offsets)
    more = {"headers": dict(headers)} if headers else {}
    head = wire.pack([at, previous, group_last, sent_at, codec, lengths, more, *mixed])
    return b"".join((name, stream, len(head).to_bytes(4, "big"), head, blob))


def read(frame: bytes) -> Data | Mixed | Beat | Fence | OtherVersion:
    """Decode one frame of the data plane. Raises `DecodeError`."""
    kind = frame[:1]
    if kind == b"d":
        return _read_data(frame)
    if kind == b"b":
        return _read_beat(frame)
    if kind == b"p":
        return _read_fence(frame)
    raise DecodeError(f"a data frame of kind {wire.shown(kind)}")


def _name(frame: bytes, most: int) -> bytes:
    """The name between the kind and the terminator."""
    end = frame.find(0, 1, most + 2)
    if end < 0:
        raise DecodeError("a data frame whose topic does not end")
    return frame[1:end]


def _read_data(frame: bytes) -> Data | Mixed:
    name = _name(frame, topics.MAX_TOPIC_BYTES)
    at = len(name) + 2 + STREAM_BYTES + 4
    stream = frame[at - 4 - STREAM_BYTES : at - 4]
    size = int.from_bytes(frame[at - 4 : at], "big")
    if len(frame) < at + size:
        raise DecodeError("a data frame that ends too soon")
    head = wire.unpack(frame[at : at + size])
    if type(head) is not list or len(head) < 7:
        raise DecodeError("a data frame without its head")
    at_offsets, previous, group_last, sent_at, codec, lengths, more = head[:7]
    blob = frame[at + size :]
    check_bodies(lengths, blob)
    offsets = read_offsets(at_offsets, len(lengths))
    sent_at, codec = read_time(sent_at), wire.text(codec, "codec", MAX_CODEC)
    headers = read_headers(more, len(lengths)) if more != {} else {}
    if offsets[-1] > wire.number(group_last, "group_last"):
        raise DecodeError("a data frame of a group that ends before it")
    if not name or name[-1:] == b".":
        if len(head) < 9:
            raise DecodeError("a mixed data frame without its topics")
        names = read_topics(head[7], head[8], len(lengths))
        _check_previous(previous, names, offsets[0])
        return Mixed(_prefix(name), stream, offsets, previous, group_last, sent_at, codec, lengths, blob, headers,
                     names, head[8])  # fmt: skip
    if not wire.number(previous, "previous") < offsets[0]:
        raise DecodeError("a data frame whose offsets are in no order")
    return Data(_topic(name), stream, offsets, previous, group_last, sent_at, codec, lengths, blob, headers)


@functools.lru_cache(KNOWN_TOPICS)
def _topic(name: bytes) -> str:
    """A topic as it stands in a frame, checked once for many frames. Raises `DecodeError`."""
    try:
        return topics.read_topic(name.decode())
    except UnicodeDecodeError:
        raise DecodeError("a data frame whose topic is not UTF-8") from None


def _prefix(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise DecodeError("a data frame whose topic is not UTF-8") from None


def read_topics(names: object, indexes: object, count: int) -> list[str]:
    """Topics, each of them of some message, and which of them each of so many messages has. Raises `DecodeError`."""
    if type(names) is not list or not names or not _TEXT.issuperset(map(type, names)):
        raise DecodeError("messages without topics")
    # The same objects for the same topics: they know their hash, and are compared at a glance.
    found = list(map(_known.get, names))
    if None in found:
        found = _learn(names)
    if type(indexes) is not list or len(indexes) != count or not _INT.issuperset(map(type, indexes)):
        raise DecodeError("messages of no topic")
    if len(set(indexes)) != len(names) or min(indexes) or max(indexes) >= len(names):
        raise DecodeError("topics without messages, or messages without topics")
    return found  # type: ignore[return-value]  # there is no None in it


def _check_previous(previous: object, names: list[str], first: int) -> None:
    if type(previous) is not list or len(previous) != len(names) or not _INT.issuperset(map(type, previous)):
        raise DecodeError("topics without their previous offsets")
    if min(previous) < 0 or max(previous) >= first:
        raise DecodeError("a data frame whose offsets are in no order")


_known: Final[dict[str, str]] = {}
"""Topics that were checked before."""


def _learn(names: list[str]) -> list[str | None]:
    for each in names:
        topics.read_topic(each)
    if len(_known) + len(names) > KNOWN_TOPICS:
        _known.clear()
    if len(names) <= KNOWN_TOPICS:
        _known.update(zip(names, names, strict=True))
    return list(names)


def _read_beat(frame: bytes) -> Beat:
    head = wire.unpack(frame[1 + STREAM_BYTES :])
    if type(head) is not list or len(head) < 2:
        raise DecodeError("a beat without its numbers")
    return Beat(frame[1 : 1 + STREAM_BYTES], wire.number(head[0], "offset"), wire.number(head[1], "beat"))


def _read_fence(frame: bytes) -> Fence | OtherVersion:
    name = _name(frame, MAX_PRIVATE)
    try:
        private = name.decode()
    except UnicodeDecodeError:
        raise DecodeError("a fence whose topic is not UTF-8") from None
    head = wire.unpack(frame[len(name) + 2 :])
    if type(head) is not list or not head:
        raise DecodeError("a fence without its fields")
    version = wire.number(head[0], "version")
    if version != VERSION:
        return OtherVersion(private, version)
    if len(head) < 7:
        raise DecodeError("a fence with fields missing")
    return Fence(
        private,
        wire.octets(head[1], "stream", STREAM_BYTES),
        read_id(head[2], "publisher"),
        read_id(head[3], "epoch"),
        read_id(head[4], "instance"),
        wire.number(head[5], "offset"),
        wire.text(head[6], "recovery", MAX_HINT),
        wire.text(head[7], "seat", MAX_SEAT) if len(head) > 7 else "",
    )


# ---- subscriptions ---------------------------------------------------------------


class Subscription(NamedTuple):
    """A frame that a subscriber's XSUB sends: it subscribes a prefix, or no longer does."""

    on: bool
    prefix: bytes


class Private(NamedTuple):
    """The name of a private topic: who subscribes it, and how he may be connected to.

    Attributes:
        instance: of the subscriber's peer object, 16 bytes.
        number: rises with each that the instance makes.
        hint: where the subscriber's recovery channel is bound, if he binds: ":PORT" or an address; else "".
    """

    instance: bytes
    number: int
    hint: str


def subscription(prefix: bytes, on: bool = True) -> bytes:
    """The frame that subscribes a prefix, or no longer does."""
    return (b"\1" if on else b"\0") + prefix


def read_subscription(frame: bytes) -> Subscription:
    """What an XPUB got. Raises `DecodeError`."""
    if frame[:1] not in (b"\0", b"\1"):
        raise DecodeError("a message of a subscriber that is no subscription")
    return Subscription(frame[0] == 1, frame[1:])


def private_name(instance: bytes, number: int, hint: str = "") -> str:
    """The name of a private topic; see `Private`."""
    return f"{instance.hex()}/{number}/{hint}"


def read_private(prefix: bytes) -> Private:
    """Who subscribed a private topic: ``p``, name, terminator. Raises `DecodeError`."""
    if prefix[:1] != b"p" or prefix[-1:] != topics.TERMINATOR or len(prefix) > MAX_PRIVATE + 2:
        raise DecodeError("no private topic")
    try:
        parts = prefix[1:-1].decode().split("/", 2)
        instance, number, hint = bytes.fromhex(parts[0]), int(parts[1]), parts[2]
    except (ValueError, IndexError):
        raise DecodeError("a private topic with parts missing") from None
    if len(instance) != 16 or len(parts[0]) != 32 or str(number) != parts[1] or not hint.isprintable():
        raise DecodeError("a private topic of no instance")
    return Private(instance, wire.number(number, "number"), wire.text(hint, "hint", MAX_HINT))


# ---- parts that frames share -----------------------------------------------------

_HEX: Final = frozenset("0123456789abcdef")


def read_id(value: object, what: str) -> str:
    """32 hex digits. Raises `DecodeError`."""
    if type(value) is str and len(value) == 32 and _HEX.issuperset(value):
        return value
    raise DecodeError(f"{what} must be 32 hex digits, got {wire.shown(value)}")


def read_time(value: object) -> int:
    """Microseconds since 1970. Raises `DecodeError`."""
    sent_at = wire.number(value, "sent_at")
    if sent_at > MAX_SENT_AT:
        raise DecodeError("sent_at is no time that a calendar has")
    return sent_at


def check_bodies(lengths: object, blob: bytes) -> None:
    """The lengths of one or more bodies, and the bodies. Raises `DecodeError`."""
    if type(lengths) is not list or not 0 < len(lengths) <= MAX_MESSAGES:
        raise DecodeError("messages without lengths")
    if not _INT.issuperset(map(type, lengths)) or min(lengths) < 0 or sum(lengths) != len(blob):
        raise DecodeError("messages whose lengths are not those of their bodies")


_INT: Final = frozenset({int})
_TEXT: Final = frozenset({str})


def read_offsets(value: object, count: int) -> Sequence[int]:
    """So many rising offsets, from the first one if they are neighbours. Raises `DecodeError`."""
    if type(value) is int:
        if not 1 <= value < wire.MAX_NUMBER - count:
            raise DecodeError("an offset that no message has")
        return range(value, value + count)
    if type(value) is not list or len(value) != count or not _INT.issuperset(map(type, value)):
        raise DecodeError("offsets that are not those of the messages")
    if value[0] < 1 or value[-1] >= wire.MAX_NUMBER or not rises(value):
        raise DecodeError("offsets in no order")
    return range(value[0], value[-1] + 1) if value[-1] - value[0] + 1 == count else value


def rises(numbers: Iterable[int]) -> bool:
    """Whether each number is above the one before it."""
    found = list(numbers)
    return all(map(int.__lt__, found, found[1:]))


def read_headers(more: Any, count: int) -> Headers:
    """The headers in a frame's map, by index. Raises `DecodeError`."""
    if type(more) is not dict:
        raise DecodeError("messages without their map")
    found = more.get("headers")
    if found is None:
        return {}
    if type(found) is not dict or not all(type(i) is int and 0 <= i < count for i in found):
        raise DecodeError("headers must be a map from the messages' indexes")
    for each in found.values():
        if type(each) is not dict or not all(type(k) is str and type(v) is str for k, v in each.items()):
            raise DecodeError("headers must be a map from text to text")
    return found
