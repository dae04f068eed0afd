"""What is published in one turn, as frames of the data plane (docs/protocol.md, 14.2).

Pure. This is the hot path of a publisher. A row of one topic is a frame; so is a row of several, where nobody would
miss it (see ``coverage.py``). Otherwise the messages of many rows are put together by topic, a frame each.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Any, Final, NamedTuple

from zmqkit.patterns.pubsub.coverage import Coverage, in_common
from zmqkit.patterns.pubsub.offsets import LastOffsets
from zmqkit.patterns.pubsub.rows import Row
from zmqkit.patterns.pubsub.topics import mixed_topic, wire_topic
from zmqkit.patterns.pubsub.wire import FRAME_BYTES, FRAME_MESSAGES, pack_data

GROUP_MESSAGES: Final = 16_384
GROUP_BYTES: Final = 2 * 1024 * 1024
"""A group holds so much at most: a subscriber keeps it until it is whole."""


class Group(NamedTuple):
    """Frames that belong together, in the order of their first offsets. After more than one a beat must follow."""

    last: int
    """The last offset in it."""
    frames: list[bytes]


def fan_out(rows: Sequence[Row], stream: bytes, offsets: LastOffsets, coverage: Coverage) -> Iterator[Group]:
    """The groups of some rows.

    Args:
        rows: rising.
        stream: of the publisher.
        offsets: each topic's last one; moved on.
        coverage: which topics may share a frame.
    """
    held: list[Row] = []
    messages = size = 0
    for row in rows:
        prefix = None if row.indexes is None else in_common(row.topics)
        shares = prefix is None or coverage.may_share(prefix)
        if held and (
            shares or messages + row.count > GROUP_MESSAGES or size + len(row.blob) > GROUP_BYTES
            or row.codec != held[0].codec or row.key != held[-1].last + 1
        ):  # fmt: skip
            yield by_topic(held, stream, offsets)
            held, messages, size = [], 0, 0
        if prefix is None:
            yield Group(row.last, [_of_one(row, stream, offsets)])
        elif shares:
            yield Group(row.last, [_mixed(row, prefix, stream, offsets)])
        else:
            held.append(row)
            messages += row.count
            size += len(row.blob)
    if held:
        yield by_topic(held, stream, offsets)


def _of_one(row: Row, stream: bytes, offsets: LastOffsets) -> bytes:
    topic, key, last = row.topics[0], row.key, row.last
    previous = offsets.put(topic, last)
    return pack_data(wire_topic(topic), stream, range(key, last + 1), previous, last, row.sent_at, row.codec,
                     row.lengths, row.blob, row.headers)  # fmt: skip


def _mixed(row: Row, prefix: str, stream: bytes, offsets: LastOffsets) -> bytes:
    last, newest = row.last, row.newest()
    previous = offsets.put_all({topic: newest[topic] for topic in row.topics})
    return pack_data(mixed_topic(prefix), stream, range(row.key, last + 1), previous, last, row.sent_at, row.codec,
                     row.lengths, row.blob, row.headers, row.topics, list(row.indexes or ()))  # fmt: skip


# ---- a frame for each topic ------------------------------------------------------


def by_topic(rows: Sequence[Row], stream: bytes, offsets: LastOffsets) -> Group:
    """One group of neighbouring rows of one codec, with a frame for each topic."""
    first, last = rows[0].key, rows[-1].last
    places: dict[str, list[int]] = {}
    """By topic: which messages of the group are of it."""
    at = 0
    for row in rows:
        if row.indexes is None:
            places.setdefault(row.topics[0], []).extend(range(at, at + row.count))
            at += row.count
            continue
        chosen = []
        for topic in row.topics:
            known = places.get(topic)
            if known is None:
                known = places[topic] = []
            chosen.append(known)
        for index in row.indexes:
            chosen[index].append(at)
            at += 1
    run = _Run(rows, first, last, stream)
    frames: list[bytes] = []
    for topic, indexes in places.items():
        previous = offsets.put(topic, first + indexes[-1])
        frames.append(run.frame(wire_topic(topic), indexes, previous))
    if run.too_large:
        frames = run.split(frames)
    return Group(last, frames)


class _Run:
    """The messages of some rows as if they were one.

    Attributes:
        too_large: what must go in several frames, instead of the one that was given: its place, name, messages, and the
            offset before them.
    """

    def __init__(self, rows: Sequence[Row], first: int, last: int, stream: bytes) -> None:
        self._first, self._last = first, last
        self._stream = stream
        self._codec = rows[0].codec
        self._keys = [row.key - first for row in rows]
        self._times = [row.sent_at for row in rows]
        self._lengths = rows[0].lengths if len(rows) == 1 else [length for row in rows for length in row.lengths]
        blob = rows[0].blob if len(rows) == 1 else b"".join([row.blob for row in rows])
        self._ends = list(accumulate(self._lengths, initial=0))
        self._blob = blob
        self._headers = {row.key - first + index: each for row in rows for index, each in row.headers.items()}
        self.too_large: list[tuple[int, bytes, list[int], int]] = []
        self._firsts: list[int] = []
        """Of each frame that was asked for: its first message."""

    def frame(self, name: bytes, indexes: list[int], previous: int) -> bytes:
        """A frame with some messages of one topic; empty where it would be too large, see `split`."""
        self._firsts.append(indexes[0])
        blob, ends, count = self._blob, self._ends, len(indexes)
        start, end = indexes[0], indexes[-1]
        offsets: Sequence[int]
        if end - start + 1 == count:
            offsets = range(self._first + start, self._first + end + 1)
            lengths = self._lengths[start : end + 1]
            body = blob[ends[start] : ends[end + 1]]
        else:
            first = self._first
            offsets = [first + index for index in indexes]
            lengths = list(itemgetter(*indexes)(self._lengths))
            body = b"".join([blob[ends[index] : ends[index + 1]] for index in indexes])
        if count > 1 and (len(body) > FRAME_BYTES or count > FRAME_MESSAGES):
            self.too_large.append((len(self._firsts) - 1, name, indexes, previous))
            return b""
        headers: dict[int, Any] = {}
        if self._headers:
            headers = {n: self._headers[index] for n, index in enumerate(indexes) if index in self._headers}
        row = 0 if len(self._keys) == 1 else bisect_right(self._keys, start) - 1
        return pack_data(name, self._stream, offsets, previous, self._last, self._times[row], self._codec, lengths,
                         body, headers)  # fmt: skip

    def split(self, frames: list[bytes]) -> list[bytes]:
        """The frames, with those that were too large in parts, in the order of their first offsets."""
        parts: list[tuple[int, bytes]] = []
        left = dict.fromkeys(range(len(frames)))
        for at, name, indexes, previous in self.too_large:
            del left[at]
            start = size = 0
            for end in range(1, len(indexes) + 1):
                size += self._lengths[indexes[end - 1]]
                if (
                    end < len(indexes) and end - start < FRAME_MESSAGES
                    and size + self._lengths[indexes[end]] <= FRAME_BYTES
                ):  # fmt: skip
                    continue
                parts.append((indexes[start], self.frame(name, indexes[start:end], previous)))
                previous = self._first + indexes[end - 1]
                start, size = end, 0
        parts += [(self._firsts[at], frames[at]) for at in left]
        return [frame for _, frame in sorted(parts, key=itemgetter(0))]


# ---- for plain subscribers -------------------------------------------------------


def plain(rows: Sequence[Row], offsets: LastOffsets) -> Iterator[tuple[bytes, bytes]]:
    """The messages as plain subscribers read them: topic and body."""
    for row in rows:
        names = [topic.encode() for topic in row.topics]
        offsets.update(row.newest())
        for index in range(row.count):
            yield names[0 if row.indexes is None else row.indexes[index]], row.body(index)
