"""What is published in one turn, as frames of the data plane, one a topic (docs/protocol.md, 9.2).

Pure. This is the hot path of a publisher: per message it takes a slice and three appends, all else is per topic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from zmqkit.patterns.pubsub.offsets import LastOffsets
from zmqkit.patterns.pubsub.rows import Row
from zmqkit.patterns.pubsub.topics import wire_topic
from zmqkit.patterns.pubsub.wire import FRAME_BYTES, FRAME_MESSAGES, pack_data

GROUP_MESSAGES: Final = 16_384
GROUP_BYTES: Final = 2 * 1024 * 1024
"""A group holds so much at most: a subscriber keeps it until it is whole."""


class _Part:
    """Messages of one topic in a group."""

    __slots__ = ("headers", "lengths", "offsets", "pieces", "sent_at")

    def __init__(self, sent_at: int) -> None:
        self.sent_at = sent_at
        self.offsets: list[int] = []
        self.lengths: list[int] = []
        self.pieces: list[bytes] = []
        self.headers: dict[int, Any] = {}


def groups(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Rows in their order, in runs that keep to a group's limits; each run is of one codec."""
    start = messages = size = 0
    for at, row in enumerate(rows):
        full = messages + row.count > GROUP_MESSAGES or size + len(row.blob) > GROUP_BYTES
        if at > start and (full or row.codec != rows[start].codec):
            yield rows[start:at]
            start, messages, size = at, 0, 0
        messages += row.count
        size += len(row.blob)
    yield rows[start:] if start else rows


def frames(rows: Sequence[Row], stream: bytes, offsets: LastOffsets) -> list[bytes]:
    """The frames of one group, in the order of their first offsets. More than one: a beat must follow.

    Args:
        rows: of one codec, rising.
        stream: of the publisher.
        offsets: each topic's last one; moved on.
    """
    first = rows[0]
    group_last, codec = rows[-1].last, first.codec
    if len(rows) == 1 and first.indexes is None:
        previous = offsets.put(first.topics[0], group_last)
        frame = pack_data(wire_topic(first.topics[0]), stream, range(first.key, group_last + 1), previous, group_last,
                          first.sent_at, codec, first.lengths, first.blob, first.headers)  # fmt: skip
        return [frame]
    parts: dict[str, _Part] = {}
    for row in rows:
        if row.indexes is None:
            part = parts.get(row.topics[0])
            if part is None:
                part = parts[row.topics[0]] = _Part(row.sent_at)
            if row.headers:
                part.headers.update((len(part.offsets) + index, each) for index, each in row.headers.items())
            part.offsets += range(row.key, row.key + row.count)
            part.lengths += row.lengths
            part.pieces.append(row.blob)
        else:
            _spread(row, parts)
    found: list[bytes] = []
    firsts: list[int] = []
    split: list[tuple[int, bytes]] = []
    for topic, part in parts.items():
        numbers = part.offsets
        firsts.append(numbers[0])
        previous = offsets.put(topic, numbers[-1])
        blob = part.pieces[0] if len(part.pieces) == 1 else b"".join(part.pieces)
        name = wire_topic(topic)
        if len(numbers) <= FRAME_MESSAGES and len(blob) <= FRAME_BYTES and not split:
            found.append(
                pack_data(
                    name, stream, numbers, previous, group_last, part.sent_at, codec, part.lengths, blob, part.headers
                )
            )
        else:
            split = split or list(zip(firsts[:-1], found, strict=True))
            split += _split(name, stream, part, blob, previous, group_last, codec)
    if split:
        split.sort(key=_by_offset)
        return [frame for _, frame in split]
    return found


def _by_offset(item: tuple[int, bytes]) -> int:
    return item[0]


def _spread(row: Row, parts: dict[str, _Part]) -> None:
    """Hand the messages of a row to their topics."""
    chosen = []
    for topic in row.topics:
        part = parts.get(topic)
        if part is None:
            part = parts[topic] = _Part(row.sent_at)
        chosen.append(part)
    assert row.indexes is not None
    if row.headers:
        for index, each in sorted(row.headers.items()):
            part = chosen[row.indexes[index]]
            part.headers[len(part.offsets) + row.indexes[:index].count(row.indexes[index])] = each
    blob, offset, start = row.blob, row.key, 0
    for index, length in zip(row.indexes, row.lengths, strict=True):
        part = chosen[index]
        part.offsets.append(offset)
        part.lengths.append(length)
        part.pieces.append(blob[start : (start := start + length)])
        offset += 1


def _split(
    name: bytes, stream: bytes, part: _Part, blob: bytes, previous: int, group_last: int, codec: str
) -> Iterator[tuple[int, bytes]]:
    """The frames of what is too much for one, each with its first offset. A message too large for all is alone."""
    start = at = size = 0
    count = len(part.offsets)
    for end in range(1, count + 1):
        size += part.lengths[end - 1]
        if end < count and end - start < FRAME_MESSAGES and size + part.lengths[end] <= FRAME_BYTES:
            continue
        headers = {i - start: each for i, each in part.headers.items() if start <= i < end} if part.headers else {}
        frame = pack_data(
            name, stream, part.offsets[start:end], previous, group_last, part.sent_at, codec, part.lengths[start:end],
            blob[at : at + size], headers,
        )  # fmt: skip
        yield part.offsets[start], frame
        previous = part.offsets[end - 1]
        start, at, size = end, at + size, 0


def plain(rows: Sequence[Row], offsets: LastOffsets) -> Iterator[tuple[bytes, bytes]]:
    """The messages for plain subscribers: topic and body."""
    for row in rows:
        names = [topic.encode() for topic in row.topics]
        for topic, offset in row.newest().items():
            offsets.put(topic, offset)
        for index in range(row.count):
            yield names[0 if row.indexes is None else row.indexes[index]], row.body(index)
