"""How messages that want more than their turn become rows (docs/protocol.md, 7.7 and 8.6).

Pure. A row is for one lane, one time to begin and one time to end; what was sent before under the same id is left out.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from zmqkit.patterns.pipeline.dedupe import Dedupe
from zmqkit.patterns.pipeline.entries import hash_of
from zmqkit.patterns.pipeline.hands import Arrival
from zmqkit.patterns.pipeline.lanes import Lanes
from zmqkit.patterns.pipeline.rows import NO_KEYS, ROW_MESSAGES, Plan, Row

STEP_US: Final = 1_000
"""Times to begin and to end are rounded up to so many microseconds, so that what is sent together shares a row."""


def times(plan: Plan, wall_us: int) -> tuple[int, int]:
    """When messages of a plan that come now become due, and expire; 0: at once, and never."""
    due = _ceiled(wall_us + plan.delay * 1e6) if plan.delay else 0
    expires = _ceiled(wall_us + plan.ttl * 1e6) if plan.ttl else 0
    return due, expires


def _ceiled(time: float) -> int:
    return -(-int(time + 1) // STEP_US) * STEP_US


class Cut(NamedTuple):
    """What became of a group of arrivals."""

    rows: list[Row]
    ids: list[list[int]]
    """For each row: sequences of the messages whose ids are to be remembered."""
    hashes: list[list[bytes]]
    """For each row: of the key of each message, empty for one without; or nothing at all."""
    duplicates: dict[int, int]
    """For each message that was sent before: the sequence that it was sent under."""


def cut(group: list[Arrival], origin: str, lanes: Lanes, dedupe: Dedupe, wall_us: int) -> Cut:
    """Make rows of neighbouring messages. New ids are added to the window."""
    found = Cut([], [], [], {})
    row: _Open | None = None
    given: dict[bytes, int] = {}
    for arrival in group:
        pack, plan = arrival.pack, arrival.pack.plan or Plan()
        keys, ids, once, headers = plan.keys, pack.ids, plan.once, pack.headers
        begin = end = 0  # of the bodies that go into the row, and are not there yet
        for index, length in enumerate(pack.lengths):
            sequence = arrival.first + index
            id, key = ids.get(index), keys.get(index)
            fresh = once and id is not None
            if fresh:
                assert id is not None
                before = dedupe.find(id, wall_us)
                if before is not None:
                    found.duplicates[sequence] = before
                    if row is not None:
                        row.bodies.append(pack.blob[begin:end])
                    begin = end = end + length
                    continue
                dedupe.add(id, sequence, wall_us)
            lane, hash = plan.priority, b""
            if key is not None:
                hash = hash_of(key)
                if hash in given:
                    lane = given[hash]
                else:
                    lane = given[hash] = lanes.lane_of(hash, lane)
            if row is None or not row.takes(sequence, lane, arrival.due, arrival.expires):
                if row is not None:
                    row.bodies.append(pack.blob[begin:end])
                    row.close(found, origin)
                row = _Open(sequence, lane, arrival.due, arrival.expires, pack.sent_at, pack.codec)
                begin = end
            end += length
            at = len(row.lengths)
            row.lengths.append(length)
            if id is not None:
                row.ids[at] = id
            if key is not None:
                row.keys[at] = key
                row.hashes += [b""] * (at - len(row.hashes))
                row.hashes.append(hash)
            if index in headers:
                row.headers[at] = headers[index]
            if fresh:
                row.fresh.append(sequence)
        if row is not None:
            row.bodies.append(pack.blob[begin:end])
    if row is not None:
        row.close(found, origin)
    return found


class _Open:
    """A row that is being filled."""

    __slots__ = (
        "bodies", "codec", "due", "expires", "first", "fresh", "hashes", "headers", "ids", "keys", "lane", "lengths",
        "sent_at",
    )  # fmt: skip

    def __init__(self, first: int, lane: int, due: int, expires: int, sent_at: int, codec: str) -> None:
        self.first = first
        self.lane = lane
        self.due = due
        self.expires = expires
        self.sent_at = sent_at
        self.codec = codec
        self.lengths: list[int] = []
        self.bodies: list[bytes] = []
        """Some in a piece."""
        self.ids: dict[int, str] = {}
        self.keys: dict[int, str] = {}
        self.hashes: list[bytes] = []
        self.headers: dict[int, Any] = {}
        self.fresh: list[int] = []

    def takes(self, sequence: int, lane: int, due: int, expires: int) -> bool:
        count = len(self.lengths)
        return (
            sequence == self.first + count and lane == self.lane and count < ROW_MESSAGES
            and due == self.due and expires == self.expires
        )  # fmt: skip

    def close(self, found: Cut, origin: str) -> None:
        found.rows.append(
            Row(
                self.first, origin, self.sent_at, self.codec, self.lengths, b"".join(self.bodies), self.ids,
                self.headers, self.keys or NO_KEYS, self.lane, self.due, self.expires,
            )
        )  # fmt: skip
        if self.hashes:
            self.hashes += [b""] * (len(self.lengths) - len(self.hashes))
        found.hashes.append(self.hashes)
        found.ids.append(self.fresh)
