"""What a puller keeps of a pusher that is gone, for the case that it is opened anew (docs/protocol.md, section 7.15).

Pure. Jobs that the user has begun stay the user's, and what they are settled with waits here, until a pusher with the
same journal takes them, or has not done so in time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from zmqkit.errors import DecodeError, LeaseLost
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.parcels import Asked, Parcel, Source
from zmqkit.patterns.pipeline.runs import runs
from zmqkit.protocol.session import Session

if TYPE_CHECKING:
    from zmqkit.patterns.pipeline.puller import PullerCore

KEPT: Final = 120.0
"""Seconds after which a pusher that was lost is waited for no more."""
TIMER: Final = "kept"

HERE: Final = frozenset({"closed", "disconnected", "credit exceeded"})
"""How sessions end that this side will not begin anew."""


class Left:
    """What is left of a parcel: `Parcel.open` is in the user's hands, and besides:

    Attributes:
        acks: bits of what was acked.
        others: by index: how others ended, with leases that say nothing.
        unbegun: bits of those among them that nobody had begun.
    """

    __slots__ = ("acks", "others", "parcel", "unbegun")

    def __init__(self, parcel: Parcel) -> None:
        self.parcel = parcel
        self.acks = 0
        self.others: dict[int, wire.Unsettled] = {}
        self.unbegun = 0

    @property
    def bits(self) -> int:
        """All of it."""
        return self.parcel.open | self.ended

    @property
    def ended(self) -> int:
        """What is in the user's hands no more."""
        bits = self.acks
        for index in self.others:
            bits |= 1 << index
        return bits


class Kept:
    """What one session left."""

    __slots__ = ("asked", "epoch", "journal", "left", "session", "until", "until_taken")

    def __init__(self, journal: bytes, epoch: bytes, until: float) -> None:
        self.journal = journal
        self.epoch = epoch
        self.until = until
        self.left: dict[int, Left] = {}
        """By the first lease of the parcel."""
        self.asked: list[Asked] = []
        self.session: bytes | None = None
        """In which it was presented."""
        self.until_taken = 0.0
        """Then the answer must be there."""

    @property
    def ends(self) -> float:
        """When it is given up."""
        return self.until if self.session is None else self.until_taken

    def of(self, parcel: Parcel) -> Left:
        """What is left of a parcel."""
        left = self.left.get(parcel.delivery.lease)
        if left is None:
            left = self.left[parcel.delivery.lease] = Left(parcel)
        return left


class Keeping:
    """All that one puller keeps.

    Args:
        puller: its core.
        seconds: for which it is kept.
    """

    def __init__(self, puller: PullerCore, seconds: float) -> None:
        self._puller = puller
        self._seconds = min(seconds, KEPT)
        self._all: list[Kept] = []
        self._left: dict[int, tuple[Kept, Left]] = {}
        """By the id of the parcel."""

    def __len__(self) -> int:
        return len(self._left)

    def parcels(self) -> Iterator[Parcel]:
        """All of which some job is in the user's hands."""
        return (left.parcel for _, left in self._left.values() if left.parcel.open)

    def of(self, parcel: Parcel) -> Left | None:
        """What is left of a parcel whose session is gone; None: it is lost."""
        found = self._left.get(id(parcel))
        return None if found is None else found[1]

    def ask(self, asked: Asked) -> bool:
        """Somebody waits to hear that an ack is stored. False: its parcel is lost."""
        found = self._left.get(id(asked.parcel))
        if found is None:
            return False
        found[0].asked.append(asked)
        return True

    # ---- coming in -----------------------------------------------------------------

    def keep(self, source: Source, now: float) -> None:
        """A session was lost: keep what was begun, and what was settled and is not known to have been heard."""
        kept = Kept(source.journal, source.epoch, now + self._seconds)
        source.heard()
        told = [*source.unheard]
        told.append(source.told(0, source.others))
        for _, acks, others in told:
            for parcel, bits in acks:
                kept.of(parcel).acks |= bits
            for parcel, index, other in others:
                kept.of(parcel).others[index] = other
        for parcel in source.parcels.values():
            left = kept.of(parcel)
            for index in parcel.take_back():
                if parcel.open >> index & 1:
                    parcel.open &= ~(1 << index)
                    left.others[index] = wire.Unsettled(0, wire.RELEASE)
                    left.unbegun |= 1 << index
                    self._puller.counters["jobs_lost"] += 1
            parcel.lost = not parcel.open
        for asked in [*(each for asks in source.asks.values() for each in asks), *source.asked]:
            kept.of(asked.parcel).acks |= 1 << asked.at
            kept.asked.append(asked)
        if not kept.left:
            return
        self._all.append(kept)
        self._left.update({id(left.parcel): (kept, left) for left in kept.left.values()})
        self._set_timer()

    def lost(self, session: Session) -> None:
        """Who was to take something is gone: somebody else may."""
        for kept in self._all:
            if kept.session == session.id:
                kept.session = None

    # ---- going on ------------------------------------------------------------------

    def present(self, source: Source, now: float) -> None:
        """A session began: say what is held of its pusher's journal."""
        by_epoch: dict[bytes, list[int]] = {}
        for kept in [each for each in self._all if each.journal == source.journal]:
            if kept.epoch == source.epoch:
                self._drop(kept, "the pusher took it back")
            elif kept.session is None:
                found = by_epoch.setdefault(kept.epoch, [])
                for lease, left in kept.left.items():
                    sequence = left.parcel.delivery.sequence
                    for index, count in runs(left.bits):
                        found += (lease, sequence + index, sequence + index + count - 1)
                kept.session, kept.until_taken = source.session.id, now + source.session.peer.bound
        for epoch, found in by_epoch.items():
            message = wire.Present(epoch, found[: 3 * wire.MAX_RANGES])
            self._puller.sessions.send(source.session, message.pack(), 0, now)
        self._set_timer()

    def taken(self, source: Source, message: wire.Taken, now: float) -> None:
        """What goes on, by which leases. Raises `DecodeError`."""
        group = [each for each in self._all if each.session == source.session.id and each.epoch == message.epoch]
        found: dict[int, tuple[int, int]] = {}
        beyond = False
        for at in range(0, len(message.runs), 4):
            delivery, first, last, lease = message.runs[at : at + 4]
            source.highest = max(source.highest, lease + last - first)
            kept = next((each for each in group if delivery in each.left), None)
            parcel = None if kept is None else kept.left[delivery].parcel
            index = 0 if parcel is None else first - parcel.delivery.sequence
            if parcel is None or not 0 <= index <= index + last - first < len(parcel):
                beyond = True
                continue
            base, bits = found.get(delivery, (lease - index, 0))
            if base != lease - index:
                raise DecodeError("TAKEN whose leases are not as far apart as their sequences")
            found[delivery] = base, bits | ((1 << (last - first + 1)) - 1) << index
        for delivery, (base, bits) in found.items():
            kept = next(each for each in group if delivery in each.left)
            left = kept.left.pop(delivery)
            del self._left[id(left.parcel)]
            beyond |= bool(bits & ~left.bits)
            self._go_on(source, kept, left, base, bits & left.bits, now)
        if beyond:
            self._puller.tell_held(source)  # whatever it is, we hold it no more
        if not message.more:
            for kept in group:
                self._drop(kept, "its pusher did not take it any more")

    def _go_on(self, source: Source, kept: Kept, left: Left, base: int, bits: int, now: float) -> None:
        puller, parcel = self._puller, left.parcel
        self._give_up(left, ~bits)
        puller.counters["went_on"] += (bits & ~left.unbegun).bit_count()
        puller.go_on(source, parcel, base, bits, left.acks & bits, now)
        for index, other in left.others.items():
            if bits >> index & 1:
                puller.end_otherwise(source, parcel, index, other)
        asked = [each for each in kept.asked if each.parcel is parcel]
        kept.asked = [each for each in kept.asked if each.parcel is not parcel]
        source.asked += [each for each in asked if bits >> each.at & 1]
        self._refuse([each for each in asked if not bits >> each.at & 1], "its pusher did not take it any more")

    # ---- the end of it -------------------------------------------------------------

    def expire(self, now: float) -> None:
        """What was waited for long enough is lost."""
        for kept in [each for each in self._all if each.ends <= now]:
            self._drop(kept, "its pusher did not come back in time")
        self._set_timer()

    def close(self) -> None:
        """Nobody comes back any more."""
        for kept in list(self._all):
            self._drop(kept, "the puller was closed")

    def _drop(self, kept: Kept, why: str) -> None:
        self._all.remove(kept)
        for left in kept.left.values():
            del self._left[id(left.parcel)]
            left.parcel.lost = True
            self._give_up(left, -1)
        self._refuse(kept.asked, why)

    def _give_up(self, left: Left, bits: int) -> None:
        """These are somebody else's, or will be."""
        puller, parcel = self._puller, left.parcel
        gone = parcel.open & bits
        parcel.open &= ~bits
        parcel.gone |= gone
        puller.counters["jobs_lost"] += gone.bit_count()
        puller.counters["settles_stale"] += (left.acks & bits).bit_count()

    def _refuse(self, asked: list[Asked], why: str) -> None:
        for each in asked:
            error = LeaseLost(f"the pusher was lost before it confirmed the ack, and {why}: the job may come again")
            self._puller.out.replies.append((each.ticket, error))

    def _set_timer(self) -> None:
        if self._all:
            self._puller.set_timer(TIMER, min(each.ends for each in self._all))
