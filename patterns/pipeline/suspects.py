"""Which jobs may have killed their pullers, and how that is found out (docs/protocol.md, section 7.14).

Pure. A puller tells how far its user has started. When it dies, the jobs that were started, or were about to be, are
*suspects*. One that was among them twice (or four times in the hands of one that died) is lent alone from then on: to a
puller that holds nothing, and gets nothing else until that job is settled. If that puller dies, it was this job, and
counts as a failure; no other job ever does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from operator import attrgetter
from typing import Final

from zmqkit.patterns.pipeline.leases import Holder
from zmqkit.patterns.pipeline.rows import Row
from zmqkit.patterns.pipeline.runs import runs

DIED: Final = frozenset({"process gone", "silent"})
"""How sessions are lost of pullers that died."""
MAY_HAVE_DIED: Final = DIED | {"forgotten by the other side", "the other side went back in time"}
"""And of those that may have: another process may answer at their address, or they may have given us up."""

STARTED: Final = 2
"""What it counts that a job may have been started when its puller died..."""
HELD: Final = 1
"""...or that it was there; what is told of the starts may be old."""
ENOUGH: Final = 4
"""With so much against it a job is lent alone."""


def suspected(holder: Holder) -> dict[int, int]:
    """By lot: bits of the open leases that may have been started when the puller died.

    What it told is old by a turn: as many as ended in the last one may have been started since, and one in any case. If
    it never told, it may be any.
    """
    found: dict[int, int] = {}
    left = holder.stride
    for first, lot in holder.lots.items():
        bits = lot.open
        if holder.started:
            sure = bits & ((1 << max(0, min(lot.last, holder.started) - first + 1)) - 1)
            rest = bits & ~sure
            while left > 0 and rest:
                sure |= rest & -rest
                rest &= rest - 1
                left -= 1
            bits = sure
        found[first] = bits
    return found


class Suspects:
    """All suspects of one pusher, and those that wait to be lent alone.

    Attributes:
        deaths: by sequence: what there is against a message. Gone when it is settled.
        waiting: (row, index) of those that wait for a puller of their own.
    """

    def __init__(self) -> None:
        self.deaths: dict[int, int] = {}
        self.waiting: deque[tuple[Row, int]] = deque()

    def died(self, holder: Holder) -> int:
        """A puller died with these in its hands. Returns how many of them are lent alone from now on."""
        found = 0
        started = suspected(holder)
        for first, lot in holder.lots.items():
            for index, count in runs(lot.open):
                for at in range(index, index + count):
                    sequence = lot.row.key + lot.index + at
                    before = self.deaths.get(sequence, 0)
                    after = self.deaths[sequence] = before + (STARTED if started[first] >> at & 1 else HELD)
                    found += before < ENOUGH <= after
        return found

    def to_blame(self, holder: Holder, reason: str) -> bool:
        """It held one job only, and that one is why it died."""
        if holder.held != 1:
            return False
        return reason in DIED or (reason in MAY_HAVE_DIED and self.alone(_only(holder)))

    def alone(self, sequence: int) -> bool:
        """It is lent alone."""
        return self.deaths.get(sequence, 0) >= ENOUGH

    def settled(self, row: Row, bits: int) -> None:
        """These messages are not waited for any more."""
        for index, count in runs(bits):
            for sequence in range(row.key + index, row.key + index + count):
                self.deaths.pop(sequence, None)

    def split(self, row: Row, bits: int) -> tuple[int, int]:
        """Bits of those that are lent as ever, and of those that are lent alone."""
        alone = 0
        for index, count in runs(bits):
            for at in range(index, index + count):
                if self.alone(row.key + at):
                    alone |= 1 << at
        return bits & ~alone, alone

    def lendings(self, holders: Iterable[Holder]) -> list[Holder]:
        """Keep pullers for suspects while some wait, half of all at most and one at least; returns those that are free.

        A puller that is kept gets nothing else, so that it is empty when what it holds is done.
        """
        known = list(holders)
        kept = [each for each in known if each.kept]
        if len(kept) < min(len(self.waiting), max(1, len(known) // 2)):
            others = [each for each in known if not each.kept and takes(each)]
            if others:
                chosen = min(others, key=attrgetter("held"))
                chosen.kept = True
                kept.append(chosen)
        free = [each for each in kept if not each.held and takes(each) and each.session.room_messages > 0]
        chosen_now = free[: len(self.waiting)]
        served = len(chosen_now) == len(self.waiting)
        for each in kept:
            if (served or not takes(each)) and each not in chosen_now and not self._runs_one(each):
                each.kept = False
        return chosen_now

    def _runs_one(self, holder: Holder) -> bool:
        """What it holds is a suspect, alone."""
        return holder.held == 1 and self.alone(_only(holder))


def _only(holder: Holder) -> int:
    """The sequence of the one message that it holds."""
    (lot,) = holder.lots.values()
    return lot.row.key + lot.row_bits.bit_length() - 1


def takes(holder: Holder) -> bool:
    """It is there, and not silent."""
    return holder.session.link is not None and not holder.session.busy
