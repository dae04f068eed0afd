"""Which ids a pusher has seen lately, so that what is sent twice is stored once (docs/protocol.md, section 8.7).

Pure. An id that the user gave stands here from the moment when its message is accepted until the window moves past it,
whether or not the message settled meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from zmqkit.errors import DecodeError
from zmqkit.options import Window
from zmqkit.protocol import wire

IDS: Final = "ids"
FORMAT: Final = 1

COST_BYTES: Final = 200
"""What one id costs in memory besides its text."""


class Seen(NamedTuple):
    """One id."""

    sequence: int
    """Of the message that was stored under it."""
    at: int
    """Microseconds since 1970."""
    outcome: str
    """"expired", once it is known and would be found nowhere else; else empty."""


class Dedupe:
    """The window of ids.

    Args:
        window: how long, and how much.
    """

    def __init__(self, window: Window) -> None:
        self._window = window
        self._seen: dict[str, Seen] = {}
        self._ids: dict[int, str] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._seen)

    def find(self, id: str, wall_us: int) -> int | None:
        """The sequence under which a message of this id was stored within the window."""
        seen = self._seen.get(id)
        if seen is None or wall_us - seen.at > self._window.seconds * 1e6:
            return None
        return seen.sequence

    def add(self, id: str, sequence: int, wall_us: int, outcome: str = "") -> None:
        """A message of this id was accepted, or found in the journal. Later ones have higher sequences."""
        before = self._seen.pop(id, None)
        if before is not None:
            self._ids.pop(before.sequence, None)
            self._size -= len(id) + COST_BYTES
        self._seen[id] = Seen(sequence, wall_us, outcome)
        self._ids[sequence] = id
        self._size += len(id) + COST_BYTES

    def evict(self, wall_us: int) -> list[int]:
        """Forget what the window has moved past. Returns the sequences, whose rows may go."""
        window, gone = self._window, []
        while self._ids and (
            len(self._ids) > window.count
            or self._size > window.size_bytes
            or wall_us - self._seen[self._ids[next(iter(self._ids))]].at > window.seconds * 1e6
        ):
            sequence = next(iter(self._ids))
            self.forget(sequence)
            gone.append(sequence)
        return gone

    def forget(self, sequence: int) -> bool:
        """The message was not stored after all, or is forgotten. False: it is none of these."""
        id = self._ids.pop(sequence, None)
        if id is None:
            return False
        del self._seen[id]
        self._size -= len(id) + COST_BYTES
        return True

    def expired(self, sequence: int) -> bytes | None:
        """The message of this sequence expired. Returns what its row is from now on; None if it has none."""
        id = self._ids.get(sequence)
        if id is None:
            return None
        seen = self._seen[id] = self._seen[id]._replace(outcome="expired")
        return pack_id(id, seen.at, seen.outcome)

    def restore(self, rows: Iterable[tuple[int, bytes]]) -> list[int]:
        """Take in what the journal holds. Returns the sequences of those that expired. Raises `DecodeError`."""
        late = []
        for sequence, value in rows:
            id, at, outcome = unpack_id(value)
            self.add(id, sequence, at, outcome)
            if outcome:
                late.append(sequence)
        return late


def pack_id(id: str, at: int, outcome: str = "") -> bytes:
    """A row of the log ``ids``."""
    return wire.pack([FORMAT, id, at, outcome] if outcome else [FORMAT, id, at])


def unpack_id(value: bytes) -> tuple[str, int, str]:
    """Back from the journal: id, time, outcome. Raises `DecodeError`."""
    found = wire.unpack(value)
    if type(found) is not list or len(found) < 3 or found[0] != FORMAT:
        raise DecodeError("an id of a format that this version does not read")
    id, at, outcome = found[1], found[2], found[3] if len(found) > 3 else ""
    if type(id) is not str or type(at) is not int or outcome not in ("", "expired"):
        raise DecodeError("an id whose values are of other types than they should be")
    return id, at, outcome
