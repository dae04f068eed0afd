"""How long a puller's jobs have been in its user's hands (docs/protocol.md, section 7.11).

Pure. A job is started when the user claims it; nobody tells the core, which looks now and then how far each parcel is
claimed. So a start is seen late by a look, and never too early: nothing is taken back before its time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from zmqkit.patterns.pipeline.runs import runs

if TYPE_CHECKING:
    from zmqkit.patterns.pipeline.puller import Parcel

LOOKS: Final = 8
"""So often it is looked during one lease..."""
LONGEST_PAUSE: Final = 60.0
"""...and at least so often, in seconds."""


class Held:
    """When the jobs of one parcel were seen to be started, and until when they may be held."""

    __slots__ = ("seen", "starts", "until")

    def __init__(self) -> None:
        self.seen = 0
        """Indexes below this one were seen to be started."""
        self.starts: list[tuple[int, int, float]] = []
        """(bits, the highest of these, when they were seen), in order."""
        self.until: dict[int, float] = {}
        """Of those that were extended."""


class Holding:
    """The started jobs of one puller.

    Args:
        max_lease: seconds for which a job may be held from its start on, or after its last extension.
    """

    def __init__(self, max_lease: float) -> None:
        self.max_lease = max_lease
        self.pause = min(max_lease / LOOKS, LONGEST_PAUSE)
        """Seconds between two looks."""
        self._held: dict[int, tuple[Parcel, Held]] = {}

    def extend(self, parcel: Parcel, index: int, seconds: float | None, now: float) -> float:
        """A job may be held for so many seconds from now on (None: `max_lease`), or as long as it might before.

        Returns when that ends.
        """
        held = self._of(parcel)
        self._see(parcel, held, now)
        before = held.until.get(index)
        if before is None:
            before = next((at + self.max_lease for bits, _, at in held.starts if bits >> index & 1), now)
        until = held.until[index] = max(before, now + (self.max_lease if seconds is None else seconds))
        return until

    def look(self, parcels: Iterable[Parcel], now: float) -> tuple[list[tuple[Parcel, int]], float | None]:
        """What is held for too long, as parcels and bits; and when to look again, None if nothing is held."""
        known, self._held = self._held, {}
        late: list[tuple[Parcel, int]] = []
        times = []
        for parcel in parcels:
            pair = known.get(id(parcel))
            held = Held() if pair is None else pair[1]
            self._held[id(parcel)] = parcel, held
            self._see(parcel, held, now)
            bits = self._late(parcel, held, now)
            if bits:
                late.append((parcel, bits))
            times.append(now + self.pause)
            times += [at + self.max_lease for _, _, at in held.starts if at + self.max_lease > now]
            times += [at for at in held.until.values() if at > now]
        return late, min(times, default=None)

    def _of(self, parcel: Parcel) -> Held:
        pair = self._held.get(id(parcel))
        if pair is None:
            pair = self._held[id(parcel)] = parcel, Held()
        return pair[1]

    @staticmethod
    def _see(parcel: Parcel, held: Held, now: float) -> None:
        started = parcel.started
        if started > held.seen:
            held.starts.append(((1 << started) - (1 << held.seen), started - 1, now))
            held.seen = started

    def _late(self, parcel: Parcel, held: Held, now: float) -> int:
        """Bits of the open jobs that are held for too long."""
        left: list[tuple[int, int, float]] = []
        late = 0
        for bits, highest, at in held.starts:
            bits &= parcel.open
            if bits and at + self.max_lease <= now:
                late |= bits
                bits = 0
            if bits:
                left.append((bits, highest, at))
        for index, until in list(held.until.items()):
            if not parcel.open >> index & 1:
                del held.until[index]
            elif until > now:
                if late >> index & 1:
                    late &= ~(1 << index)
            else:
                late |= 1 << index
        for index in tuple(parcel.through) if late else ():
            late &= ~(1 << index)
        if late or len(left) != len(held.starts):
            # What was extended has its own time from now on; what is late is taken back by who asked.
            held.starts = left
        return late


def told(bits: int) -> Iterable[int]:
    """The single bits of a set."""
    for index, count in runs(bits):
        yield from range(index, index + count)
