"""Whether the wall clock can be believed, by what the journal saw of it last (docs/protocol.md, section 8.8).

Pure. Times to live are wall times, so that they go on while nobody has the journal open. A clock that was set wrong
would let everything expire, so an implausible one expires nothing.
"""

from __future__ import annotations

from typing import Final

from zmqkit.errors import DecodeError
from zmqkit.protocol import wire

STATE: Final = "state"
FORMAT: Final = 1
WALL: Final = 1
"""The key of its row."""

BACK: Final = 60.0
"""Seconds that a clock may be behind."""
AHEAD: Final = 10 * 365.25 * 86400
"""Seconds that a clock may be ahead: nobody leaves a journal for so long."""
TELL_AFTER: Final = 0.1
"""Seconds from the first look until a jump is told: nobody listens yet while a peer is being opened."""
WRITE_EVERY: Final = 10.0
"""Seconds between two writes, and then only beside others."""


class WallTime:
    """The clock of one opening.

    Args:
        offset: wall time minus the driver's clock, in seconds.

    Attributes:
        believed: it is where it should be.
    """

    def __init__(self, offset: float) -> None:
        self.offset = offset
        self.believed = True
        self._last: float | None = None
        self._written: float | None = None
        self._again: float | None = None
        self._tell_at: float | None = None
        self._told = False

    def us(self, now: float) -> int:
        """Microseconds since 1970."""
        return int((now + self.offset) * 1e6)

    def restore(self, value: bytes) -> None:
        """What the journal saw last. Raises `DecodeError`."""
        found = wire.unpack(value)
        if type(found) is not list or len(found) < 2 or found[0] != FORMAT or type(found[1]) is not int:
            raise DecodeError("the time of a format that this version does not read")
        self._last = found[1] / 1e6
        self.believed = False
        self._again = 0.0  # at once

    def look(self, now: float) -> float | None:
        """Compare with what was seen last; returns how far it is from there while that is too far."""
        if self._last is None:
            return None
        off = now + self.offset - self._last
        self.believed = -BACK <= off <= AHEAD
        self._again = self._last - BACK - self.offset if off < -BACK else None
        if self.believed:
            self._last = None
            return None
        return off

    def to_tell(self, now: float) -> bool:
        """Whether a jump is to be told now: once."""
        if self._told:
            return False
        if self._tell_at is None:
            self._tell_at = now + TELL_AFTER
        self._told = now >= self._tell_at
        return self._told

    def next_time(self) -> float | None:
        """When it is to be looked at again."""
        if self._tell_at is None or self._told or self.believed:
            return self._again
        return self._tell_at if self._again is None else min(self._again, self._tell_at)

    def row(self, now: float) -> bytes | None:
        """What to write beside other writes now; None: nothing."""
        if self._written is not None and now - self._written < WRITE_EVERY:
            return None
        self._written = now
        return wire.pack([FORMAT, self.us(now)])
