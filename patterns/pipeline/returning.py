"""Leases that go on when a pusher is opened anew (docs/protocol.md, section 7.15).

Pure. The journal says how far was lent. What may have been is held back for one bound after opening; who comes back
meanwhile and presents what it holds is leased that anew. When the bound is over, the journal is told that leases of
before go on no more, and then all goes as ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from zmqkit.errors import DecodeError
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.leases import Holder, Lot
from zmqkit.patterns.pipeline.letter_takers import ABOUT as DEAD_LETTERS
from zmqkit.patterns.pipeline.rows import Row
from zmqkit.patterns.pipeline.runs import Run, runs
from zmqkit.patterns.pipeline.walltime import STATE
from zmqkit.protocol import core
from zmqkit.protocol import wire as values
from zmqkit.protocol.session import Session

FORMAT: Final = 1
GIVEN: Final = 3
"""The key of our row in the log ``state``."""
ABOUT: Final = "journal"
"""In the HELLO of a pusher whose leases may go on: the uuid of its journal."""

RESERVED: Final = 4096
"""So many sequences are written beyond the last that was lent."""
MAX_EPOCHS: Final = 16
MAX_WAITING: Final = 1_000_000
"""So many runs may wait for rows that are still to be read, all pullers together."""

Write = Callable[[str, int, int, bytes | None], int]


class _Presented:
    """What a puller presented and was not answered yet."""

    __slots__ = ("epoch", "runs", "session")

    def __init__(self, session: bytes, epoch: bytes, presented: list[int]) -> None:
        self.session = session
        self.epoch = epoch
        self.runs = presented


class Returning:
    """What one opening of a pusher holds back, and for whom.

    Args:
        pusher: its core.
        enabled: it has a journal, and says so.

    Attributes:
        reserved: see `RESERVED`.
        held: messages of plain rows that are held back in memory. (Those of others are counted in `Lanes.waiting`.)
        taking: what is presented may be leased.
        holding: something is held back, or may be when it is read; `turn` must be called.
        look: `answer` must be called.
        changed, urgent: there is something to write, beside other writes or at once; call `flush`.
        due: when `turn` must be called; None: no matter when.
        flushed: numbers of writes that are not known to be stored.
    """

    def __init__(self, pusher: Any, *, enabled: bool) -> None:
        self._pusher = pusher
        self._enabled = enabled
        self._epoch: bytes = pusher.settings.epoch
        heartbeat = pusher.local.heartbeat
        self._bound = heartbeat.interval * heartbeat.liveness
        self.reserved = RESERVED
        self.held = 0
        self.taking = False
        self.holding = False
        self.due: float | None = None
        self._up_to = [0, 0]
        """The highest sequence that may have been lent, of plain rows, and of others."""
        self._found = 0
        """That of plain rows, as the journal had it."""
        self._epochs = [self._epoch]
        """Those whose leases may go on, in a later opening our own, too."""
        self._rows: dict[int, tuple[Row, int]] = {}
        """Plain rows, by key, and bits of what of them is held back."""
        self._waiting: list[_Presented] = []
        self._sought: set[int] = set()
        self.look = False
        """There may be more to answer than when it was looked last."""
        self._lent = False
        """Something was, in this opening."""
        self.changed = self.urgent = False
        self._ending = False
        self._end: int | None = None
        """The number of the write that ends it all."""
        self.flushed: deque[int] = deque()

    # ---- opening -------------------------------------------------------------------

    def restore(self, state: Iterable[core.Row], waiting: int) -> None:
        """Take in what the journal holds, with so many messages in it. Raises `DecodeError`."""
        for each in state if self._enabled else ():
            if each.key != GIVEN:
                continue
            plain, other, epochs = unpack_given(each.value)
            if not (plain or other):
                continue
            if not waiting:
                self.changed = True
                continue
            self._up_to = [plain, other]
            self._epochs = [*epochs, self._epoch][-MAX_EPOCHS:]
            self.taking = self.holding = True
            self._pusher.backlog.hold = self._hold
            self._pusher.backlog.lanes.held_up_to = other

    def opened_at(self, sequence: int) -> None:
        """The first sequence that this opening gives out: what is reserved beyond was never lent."""
        self._up_to = [min(each, sequence - 1) for each in self._up_to]
        self._found = self._up_to[0]

    def _hold(self, row: Row, bits: int) -> int:
        """A plain row was read of which these are not settled. Returns those that are not held back."""
        back = bits & ((1 << max(0, self._found - row.key + 1)) - 1)
        if back:
            self._rows[row.key] = row, back
            self.held += back.bit_count()
        return bits & ~back

    # ---- lending -------------------------------------------------------------------

    def lent(self, run: Run) -> None:
        """This is lent now; for the next opening."""
        if not self._enabled:
            return
        last = run.row.key + run.index + run.count - 1
        which = int(run.row.special)
        if last > self._up_to[which] - self.reserved // 2:
            self._up_to[which] = last + self.reserved
        elif self._lent:
            return
        self._lent = self.changed = self.urgent = True

    def tighten(self, holders: Iterable[Holder]) -> bool:
        """Nothing more is lent: of what was, only this is still leased. True: that is to be written."""
        if self.holding or not self._lent:
            return False
        self._up_to = [0, 0]
        for holder in holders:
            for lot in holder.lots.values():
                which = int(lot.row.special)
                last = lot.row.key + lot.row_bits.bit_length() - 1
                self._up_to[which] = max(self._up_to[which], last)
        return True

    # ---- who comes back ------------------------------------------------------------

    def present(self, holder: Holder, message: wire.Present, now: float) -> None:
        """A puller says what it holds of an opening of before. Raises `DecodeError`."""
        session, count = holder.session, len(message.runs) // 3
        self._pusher.counters["presented"] += sum(
            min(message.runs[at + 2] - message.runs[at + 1] + 1, wire.MAX_MESSAGES) for at in range(0, 3 * count, 3)
        )
        if any(each.session == session.id and each.epoch == message.epoch for each in self._waiting):
            raise DecodeError("PRESENT, and the one before is not answered")
        known = self.taking and message.epoch in self._epochs and message.epoch != self._epoch
        if not known or sum(len(each.runs) for each in self._waiting) > 3 * (MAX_WAITING - count):
            self._pusher.sessions.send(session, wire.Taken(message.epoch, [], False).pack(), 0, now)
            return
        self._waiting.append(_Presented(session.id, message.epoch, message.runs))
        self.look = True

    def lost(self, session: Session) -> None:
        """A puller is gone."""
        self._waiting = [each for each in self._waiting if each.session != session.id]

    def loaded(self) -> None:
        """Rows came from the journal; or a puller may be given something that could not before."""
        self.look = bool(self._waiting)

    def answer(self, now: float) -> None:
        """Lease what is there of what was presented, and say so."""
        self.look = False
        self._waiting = [each for each in self._waiting if not self._answer(each, now)]

    def _answer(self, presented: _Presented, now: float) -> bool:
        """True: all of it is answered."""
        pusher = self._pusher
        holder: Holder = pusher._holders[presented.session]
        taken: list[int] = []
        lots: list[tuple[int, Run]] = []
        later: list[int] = []
        bases: dict[tuple[int, int], int] = {}
        for at in range(0, len(presented.runs), 3):
            delivery, first, last = presented.runs[at : at + 3]
            if len(taken) >= 4 * wire.MAX_RANGES:
                later += (delivery, first, last)
                self.look = True
                continue
            found = self._find(holder, first, last)
            if found is None:
                later += (delivery, first, last)
                continue
            row, bits = found
            if not bits:
                continue
            base = bases.get((delivery, row.key))
            if base is None:
                # One distance between leases and sequences for all that came together.
                base = bases[delivery, row.key] = pusher.next_leases(row.count)
            for index, count in runs(bits):
                if len(taken) >= 4 * wire.MAX_RANGES:
                    break  # what is not said stays held back
                taken += (delivery, row.key + index, row.key + index + count - 1, base + index)
                lots.append((base + index, self._take(Run(row, index, count, False))))
        if taken or not later:
            number = pusher.sessions.send(
                holder.session, wire.Taken(presented.epoch, taken, bool(later)).pack(), 0, now
            )
            for lease, run in sorted(lots, key=lambda each: each[0]):
                holder.lease(Lot(lease, run, number))
            pusher.sessions.owe(holder.session, holder.held > 0, now)
        presented.runs = later
        return not later

    def _find(self, holder: Holder, first: int, last: int) -> tuple[Row, int] | None:
        """The row of a run, and bits of what of it may be leased to this puller; None: not to be said yet."""
        backlog = self._pusher.backlog
        if not self.taking:
            return NOTHING
        if holder.behind:
            return None
        entry = backlog.lanes.find(first) if backlog.lanes.entries else None
        if entry is not None:
            if not entry.back:
                return NOTHING
            if entry.row is None:
                if entry.key not in self._sought:
                    self._sought.add(entry.key)
                    backlog.lanes.seek(entry)
                return None
            row, bits = entry.row, entry.back
        else:
            row = backlog.row_of(first)
            if row is None:
                return None if backlog.on_disk(first) else NOTHING
            bits = self._rows.get(row.key, NOTHING)[1]
        low, high = first - row.key, min(last, row.last) - row.key
        bits &= ((1 << (high - low + 1)) - 1) << low
        # What may have had its effect in an inbox goes on only where that inbox is.
        theirs = row.bound if holder.inbox is None else ~(row.bound & row.inboxes.get(holder.inbox.number, 0))
        return row, bits & ~theirs

    def _take(self, run: Run) -> Run:
        """It is leased from now on."""
        row = run.row
        if row.special:
            self._pusher.backlog.lanes.take_back(row.key, run.bits)
        else:
            bits = self._rows[row.key][1] & ~run.bits
            if bits:
                self._rows[row.key] = row, bits
            else:
                del self._rows[row.key]
            self.held -= run.count
        self._pusher.counters["taken"] += run.count
        self.lent(run)
        return run

    # ---- the end of it -------------------------------------------------------------

    def turn(self, now: float) -> None:
        """See whether the bound is over."""
        if not self.taking:
            pass
        elif self.due is None:
            self.due = now + self._bound
        elif now >= self.due:
            self.due = None
            self.taking = False
            self.look = bool(self._waiting)
            self._epochs = [self._epoch]
            self.changed = self.urgent = self._ending = True
        if not self.taking and self._pusher.broken:
            self._let_go()  # nothing is stored any more

    def _let_go(self) -> None:
        """Nothing is held back any more."""
        if not self.holding:
            return
        self.holding = False
        self._lent = True  # the journal names our epoch
        backlog = self._pusher.backlog
        backlog.hold = None
        backlog.lanes.let_go()
        kept, self._rows = self._rows, {}
        self.held = 0
        for row, bits in kept.values():
            backlog.again(row, bits)

    # ---- the journal ---------------------------------------------------------------

    def flush(self, write: Write) -> None:
        """Put out what changed."""
        number = write(STATE, GIVEN, 0, pack_given(self._up_to[0], self._up_to[1], self._epochs))
        self.flushed.append(number)
        if self._ending:
            self._ending, self._end = False, number
        self.changed = self.urgent = False

    def written(self, up_to: int) -> None:
        """Writes up to this number are in the journal."""
        while self.flushed and self.flushed[0] <= up_to:
            self.flushed.popleft()
        if self._end is not None and self._end <= up_to:
            self._end = None
            self._let_go()

    def write_failed(self, up_to: int) -> None:
        """Writes up to this number are not: all is written once more. Nobody waits for a disk that is full."""
        while self.flushed and self.flushed[0] <= up_to:
            self.flushed.popleft()
            self.changed = True
        if self._end is not None and self._end <= up_to:
            self._end = None
            self._let_go()


def about_of(epoch: bytes, journal: str | None) -> dict[str, Any]:
    """What a pusher says of itself; `journal`: the uuid of its journal, in hex, if its leases may go on."""
    about = {"epoch": epoch, DEAD_LETTERS: True}
    return about if journal is None else {**about, ABOUT: bytes.fromhex(journal)}


NOTHING: Final[tuple[Any, int]] = None, 0


def pack_given(plain: int, other: int, epochs: list[bytes]) -> bytes:
    """Our row of the log ``state``."""
    return values.pack([FORMAT, plain, other, epochs])


def unpack_given(value: bytes) -> tuple[int, int, list[bytes]]:
    """Back from the journal: how far plain rows were lent, and others, and whose leases may go on.

    Raises:
        DecodeError: it is none.
    """
    found = values.unpack(value)
    if (
        type(found) is not list or len(found) < 4 or found[0] != FORMAT
        or not all(type(each) is int and each >= 0 for each in found[1:3])
        or type(found[3]) is not list or not all(type(each) is bytes and len(each) == 16 for each in found[3])
    ):  # fmt: skip
        raise DecodeError("what may be leased is of a format that this version does not read")
    return found[1], found[2], found[3]
