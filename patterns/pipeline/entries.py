"""What stays in memory of a row that waits for more than its turn (docs/protocol.md, sections 7.7 and 8.6). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

from zmqkit.errors import DecodeError
from zmqkit.patterns.pipeline.rows import Row
from zmqkit.protocol import wire

FORMAT: Final = 1


class Entry:
    """One row that is not plain. Bits count from the first message, as in `Row`."""

    __slots__ = (
        "alone", "back", "count", "due", "expires", "hashes", "held", "kept", "key", "lane", "late", "marks", "names",
        "ready", "row", "saved", "stored",
    )  # fmt: skip

    def __init__(
        self, key: int, count: int, lane: int, due: int, expires: int, hashes: Sequence[bytes], names: list[Any]
    ) -> None:
        self.key = key
        self.count = count
        self.lane = lane
        self.due = due
        """Not to be lent before, in microseconds since 1970; 0 once that has passed."""
        self.expires = expires
        self.hashes = hashes
        """Of the key of each message, empty for one without; or nothing at all."""
        self.names = names
        """[origin, ids], while it is not due."""
        self.row: Row | None = None
        self.saved: tuple[Any, ...] | None = None
        self.marks: bytes | None = None
        self.held = self.ready = self.alone = self.kept = self.back = 0
        self.late = False
        """Its time to live is over."""
        self.stored = False

    @property
    def all(self) -> int:
        """Bits of all messages."""
        return (1 << self.count) - 1

    @property
    def last(self) -> int:
        """The last message's sequence."""
        return self.key + self.count - 1

    @property
    def out(self) -> int:
        """Bits of those that are lent, or wait for another try."""
        return self.all & ~self.kept & ~self.ready & ~self.held & ~self.back

    def pack(self) -> bytes:
        """Its row of the log ``lanes``."""
        flat = b"".join(each or bytes(8) for each in self.hashes)
        return wire.pack([FORMAT, self.lane, self.due, self.expires, flat, self.names])


def hash_of(key: str) -> bytes:
    """What stands for a key in memory. Two keys of one hash keep order with each other, and nothing worse."""
    return blake2b(key.encode(), digest_size=8).digest()


def unpack_entry(key: int, weight: int, value: bytes) -> Entry:
    """Back from the log ``lanes``; `weight`: how many messages its row has. Raises `DecodeError`."""
    found = wire.unpack(value)
    if type(found) is not list or len(found) < 6 or found[0] != FORMAT:
        raise DecodeError(f"row {key} of lanes is of a format that this version does not read")
    _, lane, due, expires, flat, names = found[:6]
    if (
        not all(type(each) is int for each in (lane, due, expires)) or type(flat) is not bytes
        or type(names) is not list or not weight or len(flat) not in (0, 8 * weight)
    ):  # fmt: skip
        raise DecodeError(f"row {key} of lanes makes no sense")
    hashes = [flat[at : at + 8] for at in range(0, len(flat), 8)]
    return Entry(key, weight, lane, due, expires, [each if any(each) else b"" for each in hashes], names)
