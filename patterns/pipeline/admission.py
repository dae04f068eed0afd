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
    duplicates: dict[int, int]
    """For each message that was sent before: the sequence that it was sent under."""


def cut(group: list[Arrival], origin: str, lanes: Lanes, dedupe: Dedupe, wall_us: int) -> Cut:
    """Make rows of neighbouring messages. New ids are added to the window."""
    found = Cut([], [], {})
    open_row: _Open | None = None
    given: dict[bytes, int] = {}
    for arrival in group:
        pack, plan = arrival.pack, arrival.pack.plan or Plan()
        offset = 0
        for index, length in enumerate(pack.lengths):
            body = pack.blob[offset : offset + length]
            offset += length
            sequence = arrival.first + index
            id, key = pack.ids.get(index), plan.keys.get(index)
            fresh = plan.once and id is not None
            if fresh:
                assert id is not None
                before = dedupe.find(id, wall_us)
                if before is not None:
                    found.duplicates[sequence] = before
                    continue
                dedupe.add(id, sequence, wall_us)
            lane = plan.priority
            if key is not None:
                hash = hash_of(key)
                lane = given.setdefault(hash, lanes.lane_of(hash, lane))
            shape = (lane, arrival.due, arrival.expires)
            if open_row is None or not open_row.takes(sequence, shape):
                if open_row is not None:
                    open_row.close(found, origin)
                open_row = _Open(sequence, shape, pack.sent_at, pack.codec)
            at = len(open_row.bodies)
            open_row.bodies.append(body)
            if id is not None:
                open_row.ids[at] = id
            if key is not None:
                open_row.keys[at] = key
            if index in pack.headers:
                open_row.headers[at] = pack.headers[index]
            if fresh:
                open_row.fresh.append(sequence)
    if open_row is not None:
        open_row.close(found, origin)
    return found


class _Open:
    """A row that is being filled."""

    __slots__ = ("bodies", "codec", "first", "fresh", "headers", "ids", "keys", "sent_at", "shape")

    def __init__(self, first: int, shape: tuple[int, int, int], sent_at: int, codec: str) -> None:
        self.first = first
        self.shape = shape
        self.sent_at = sent_at
        self.codec = codec
        self.bodies: list[bytes] = []
        self.ids: dict[int, str] = {}
        self.keys: dict[int, str] = {}
        self.headers: dict[int, Any] = {}
        self.fresh: list[int] = []

    def takes(self, sequence: int, shape: tuple[int, int, int]) -> bool:
        count = len(self.bodies)
        return sequence == self.first + count and shape == self.shape and count < ROW_MESSAGES

    def close(self, found: Cut, origin: str) -> None:
        lane, due, expires = self.shape
        found.rows.append(
            Row(
                self.first, origin, self.sent_at, self.codec, list(map(len, self.bodies)), b"".join(self.bodies),
                self.ids, self.headers, self.keys or NO_KEYS, lane, due, expires,
            )
        )  # fmt: skip
        found.ids.append(self.fresh)
