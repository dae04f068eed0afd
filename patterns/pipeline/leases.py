"""Who holds what: each delivery of a message is a lease with a number of its own (docs/protocol.md, section 7.1).

Pure. A lease number is given once and never again by the same pusher, so a settle that comes too late finds nothing.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterator

from zmqkit.patterns.pipeline.doubt import Inbox
from zmqkit.patterns.pipeline.rows import Row
from zmqkit.patterns.pipeline.runs import Run, runs
from zmqkit.patterns.pipeline.wire import Ranges, merged
from zmqkit.protocol.session import Session


class Lot:
    """A run of messages that was delivered together; their leases are neighbours."""

    __slots__ = ("first", "index", "last", "number", "open", "row")

    def __init__(self, first: int, run: Run, number: int) -> None:
        self.first = first
        self.last = first + run.count - 1
        self.row = run.row
        self.index = run.index
        self.number = number
        """The number of the session's message that carried it."""
        self.open = (1 << run.count) - 1
        """Bits of the leases that are not settled."""

    @property
    def row_bits(self) -> int:
        """The open leases, as bits of the row."""
        return self.open << self.index


class Holder:
    """One puller, and the leases that it holds."""

    __slots__ = (
        "_starts", "behind", "held", "inbox", "kept", "lots", "session", "started", "stride", "unheard", "version",
    )  # fmt: skip

    def __init__(self, session: Session) -> None:
        self.session = session
        self.started = 0
        """The highest lease that it is known to have started; 0: it never told."""
        self.stride = 1
        """How many leases ended by its last settle: as many may have been started since."""
        self.kept = False
        """It gets suspects only, one at a time."""
        self.lots: dict[int, Lot] = {}
        self._starts: list[int] = []
        self.unheard: deque[Lot] = deque()
        """Lots that are not known to have arrived."""
        self.held = 0
        """Open leases."""
        self.inbox: Inbox | None = None
        """What it presents, if anything."""
        self.behind = False
        """Its inbox has fewer commits than were heard of, as far as it told."""
        self.version = 0
        """Of `Doubt`: nothing is lent before the journal has that."""

    def lease(self, lot: Lot) -> None:
        """Lend a lot."""
        self.lots[lot.first] = lot
        if self._starts and lot.first < self._starts[-1]:
            insort(self._starts, lot.first)  # it was presented: its number was set aside before
        else:
            self._starts.append(lot.first)
        self.unheard.append(lot)
        self.held += lot.last - lot.first + 1

    def end(self, first: int, last: int) -> Iterator[tuple[Lot, int]]:
        """End the leases of a range. Yields each lot with the bits that were open until now."""
        at = max(0, bisect_right(self._starts, first) - 1)
        while at < len(self._starts) and self._starts[at] <= last:
            lot = self.lots[self._starts[at]]
            low, high = max(first, lot.first), min(last, lot.last)
            if low > high:
                at += 1
                continue
            bits = lot.open & (((1 << (high - low + 1)) - 1) << (low - lot.first))
            lot.open &= ~bits
            self.held -= bits.bit_count()
            if lot.open:
                at += 1
            else:
                del self.lots[lot.first]
                del self._starts[at]
            if bits:
                yield lot, bits

    def arrived(self, number: int) -> Iterator[Lot]:
        """The session's messages up to `number` were heard: yields the lots that arrived with them."""
        while self.unheard and self.unheard[0].number <= number:
            yield self.unheard.popleft()

    def holds(self, first: int, last: int) -> bool:
        """Whether any lot that is not all settled lies in the range, at least in part."""
        at = bisect_right(self._starts, last) - 1
        return at >= 0 and self.lots[self._starts[at]].last >= first

    def missing(self, up_to: int, listed: Ranges) -> Ranges:
        """Open leases up to a number that the puller does not list as held."""
        pairs = merged(listed)
        found: Ranges = []
        at = 0
        for start in self._starts:
            lot = self.lots[start]
            if lot.first > up_to:
                break
            bits = lot.open & ((1 << (min(lot.last, up_to) - lot.first + 1)) - 1)
            while at < len(pairs) and pairs[at][1] < lot.first:
                at += 1
            while at < len(pairs) and pairs[at][0] <= lot.last:
                low, high = max(pairs[at][0], lot.first), min(pairs[at][1], lot.last)
                bits &= ~(((1 << (high - low + 1)) - 1) << (low - lot.first))
                if pairs[at][1] > lot.last:
                    break  # it may reach into the next lot
                at += 1
            for index, count in runs(bits):
                found += (lot.first + index, lot.first + index + count - 1)
        return found

    def rows(self) -> Iterator[tuple[Row, int]]:
        """Each row of which messages are held, with their bits."""
        for lot in self.lots.values():
            yield lot.row, lot.row_bits
