"""Inboxes that a pusher knows, and jobs that go only to one of them (docs/protocol.md, section 7.13).

Pure. What was lent to a puller with an inbox, and was not answered when its session ended, may have its effect there or
not: it is *in doubt*, and waits here for a puller that presents this inbox. For the next opening the journal says to
which inbox a message was lent: a mark in the row's log ``marks``; or, while there is but one inbox and every puller has
it, one number for all, reserved ahead, so that lending costs no commit.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from zmqkit.errors import DecodeError
from zmqkit.patterns.pipeline.rows import Row
from zmqkit.patterns.pipeline.runs import Run, runs
from zmqkit.patterns.pipeline.walltime import STATE
from zmqkit.protocol import core, wire

INBOXES: Final = "inboxes"
FORMAT: Final = 1
LENT: Final = 2
"""The key of our row in the log ``state``."""

RESERVED: Final = 4096
"""So many sequences are reserved for lending beyond the last that was lent."""
MAX_INBOXES: Final = 1000
"""More are not served: a stranger must not fill the journal."""

Write = Callable[[str, int, int, bytes | None], int]


class Inbox:
    """One inbox, and the jobs that wait for a puller that presents it.

    Attributes:
        id: its own, 16 bytes.
        number: what stands for it in the journal; never given twice.
        commits: the highest of its commit counter that was heard.
        sessions: how many open ones present it.
        waiting: messages that wait here, those in doubt among them.
        in_doubt: messages that wait here and may have had their effect.
        marking: messages that will wait here, once it is stored that they may be lent.
    """

    __slots__ = ("_heap", "_order", "commits", "id", "in_doubt", "marking", "number", "sessions", "since", "told",
                 "waiting")  # fmt: skip

    def __init__(self, number: int, id: bytes, commits: int) -> None:
        self.number = number
        self.id = id
        self.commits = commits
        self.sessions = self.waiting = self.in_doubt = self.marking = 0
        self.since: float | None = None
        """When jobs began to be in doubt with nobody there."""
        self.told = False
        self._heap: list[tuple[int, int, Row, int, bool]] = []
        self._order = 0

    @property
    def first(self) -> int:
        """The sequence of the next message that waits here; some does."""
        return self._heap[0][0]

    def keep(self, row: Row, bits: int, *, alone: bool) -> None:
        """These messages of a row wait here from now on."""
        for index, count in runs(bits):
            for at in range(index, index + count):
                self._order += 1
                heapq.heappush(self._heap, (row.key + at, self._order, row, at, alone))
        self.waiting += bits.bit_count()
        self.in_doubt += (bits & row.bound).bit_count()

    def take(self, most: int, most_bytes: int) -> Run | None:
        """Take the next run, in the order of the sequences; None if none waits."""
        if not self._heap:
            return None
        _, _, row, index, alone = self._heap[0]
        count = size = 0
        while self._heap and count < most:
            _, _, other, at, other_alone = self._heap[0]
            if other is not row or at != index + count or other_alone != alone:
                break
            size += row.lengths[at]
            if count and size > most_bytes:
                break
            heapq.heappop(self._heap)
            count += 1
            if alone:
                break
        self.waiting -= count
        self.in_doubt -= (row.bound >> index & ((1 << count) - 1)).bit_count()
        return Run(row, index, count, alone)

    def drain(self) -> list[Run]:
        """Take all."""
        found = []
        while (run := self.take(1 << 30, 1 << 62)) is not None:
            found.append(run)
        return found

    def messages(self) -> Iterator[tuple[Row, int]]:
        """Each that is in doubt, as (row, index), in no order."""
        return ((row, index) for _, _, row, index, _ in self._heap if row.bound >> index & 1)


class Doubt:
    """All inboxes of one pusher.

    Args:
        durable: there is a journal.

    Attributes:
        inboxes: by id.
        waiting, in_doubt: the sums of all inboxes.
        plain, plain_bytes: of what waits, messages in rows that are plain, and bytes of their bodies.
        version: rises with each change that must be stored before somebody is lent to.
        stored: the version that the journal has.
    """

    def __init__(self, *, durable: bool) -> None:
        self.inboxes: dict[bytes, Inbox] = {}
        self.waiting = self.in_doubt = self.plain = self.plain_bytes = 0
        self.version = self.stored = 0
        self._durable = durable
        self._numbers: dict[int, Inbox] = {}
        self._next = 1
        self._default = 0
        """The number of the one inbox that all plain messages up to `_up_to` may have been lent to."""
        self._mixed = False
        """Pullers differ: each lending is marked."""
        self._up_to = 0
        self._safe = 0
        """`_up_to`, as far as the journal has it."""
        self._highest = 0
        """The highest sequence of a plain message that was lent to the default inbox."""
        self._found = (0, 0)
        """Default and bound of the rows that the journal held when it was opened."""
        self._others = 0
        """Sessions without an inbox."""
        self._changed: set[int] = set()
        self._lent_changed = False
        self._flushed: deque[tuple[int, int, int]] = deque()

    # ---- opening -------------------------------------------------------------------

    def of(self, number: int) -> Inbox | None:
        """The inbox of a number; None: it is not known any more."""
        return self._numbers.get(number)

    def restore(self, inboxes: Iterable[core.Row], state: Iterable[core.Row], waiting: int) -> None:
        """Take in what the journal holds, with so many messages in it. Raises `DecodeError`."""
        for each in inboxes:
            id, commits = unpack_inbox(each.value)
            inbox = Inbox(each.key, id, commits)
            self.inboxes[id] = self._numbers[each.key] = inbox
            self._next = max(self._next, each.key + 1)
        for each in state:
            if each.key == LENT:
                self._up_to, self._default, mixed, after = unpack_lent(each.value)
                self._mixed = bool(mixed)
                self._next = max(self._next, after)
        if not waiting and (self._default or self._mixed):
            self._up_to = self._default = 0
            self._mixed = False
            self._lent_changed = True
        if self._default not in self._numbers:
            self._default = 0

    def opened_at(self, sequence: int) -> None:
        """The first sequence that this opening gives out: what is reserved beyond was never lent."""
        self._up_to = min(self._up_to, sequence - 1)
        self._safe = self._highest = self._up_to
        self._found = self._default, self._up_to

    def found(self, row: Row) -> None:
        """A row was read from the journal, with its marks: bind what may have been lent."""
        default, up_to = self._found
        if default and default in self._numbers and row.key <= up_to and not row.special:
            bits = row.all & ~row.done & ((1 << (up_to - row.key + 1)) - 1)
            for marked in row.inboxes.values():
                bits &= ~marked
            if bits:
                row.lend_to(default, row.inboxes.get(default, 0) | bits)
        for number, bits in row.inboxes.items():
            if number in self._numbers:
                row.bound |= bits & ~row.done

    # ---- who is there --------------------------------------------------------------

    def meet(self, id: bytes | None) -> Inbox | None:
        """A session began, with this inbox; None: without any. `version` is what must be stored before it is lent to.

        Returns None for one with an inbox only if there are too many.
        """
        if id is None:
            self._others += 1
            if self._default and not self._mixed:
                self._mix()
            return None
        inbox = self.inboxes.get(id)
        if inbox is None:
            if len(self.inboxes) >= MAX_INBOXES:
                self._others += 1
                return None
            inbox = self.inboxes[id] = self._numbers[self._next] = Inbox(self._next, id, 0)
            self._next += 1
            self._must_store(inbox)
        inbox.sessions += 1
        inbox.since, inbox.told = None, False
        if not self._mixed and self._default != inbox.number:
            if self._default or self._others or len(self.inboxes) > 1:
                self._mix()
            else:
                self._default = inbox.number
                self._up_to = self._highest
                self._lent_changed = True
                self.version += 1
        return inbox

    def leave(self, inbox: Inbox | None) -> list[Run]:
        """A session that was met ended. Returns what was to be lent to it and never was."""
        if inbox is None:
            self._others -= 1
            return []
        inbox.sessions -= 1
        if inbox.sessions or inbox.waiting == inbox.in_doubt:
            return []
        return self._sort_out(inbox)

    def _sort_out(self, inbox: Inbox) -> list[Run]:
        """Take from what waits for an inbox all that is not bound to it."""
        gone = []
        for run in self._drained(inbox):
            bits = run.bits
            free = bits & ~run.row.bound
            self.keep(inbox, run.row, bits & run.row.bound, alone=run.alone)
            for index, count in runs(free):
                gone.append(Run(run.row, index, count, run.alone))
        return gone

    def _mix(self) -> None:
        self._mixed = True
        self._up_to = min(self._up_to, self._highest)
        self._lent_changed = True
        self.version += 1

    def tighten(self) -> bool:
        """Nothing more is lent: take back what was reserved ahead. True: that is to be written."""
        if not self._default or self._mixed or self._up_to <= self._highest:
            return False
        self._up_to = self._highest
        self._lent_changed = True
        return True

    def heard(self, inbox: Inbox, commits: int) -> None:
        """A puller told how many commits its inbox has."""
        if commits > inbox.commits:
            inbox.commits = commits
            self._changed.add(inbox.number)

    def release(self, inbox: Inbox) -> list[Run]:
        """An operator says that this inbox answers no more: forget it, and return what waited for it.

        Its number is never given again, so marks that name it in rows on disk mean nothing from now on.
        """
        del self.inboxes[inbox.id], self._numbers[inbox.number]
        self._changed.add(inbox.number)
        if self._default == inbox.number:
            self._default, self._up_to, self._mixed = 0, 0, True
        self._lent_changed = True
        self.version += 1
        return self._drained(inbox)

    def _drained(self, inbox: Inbox) -> list[Run]:
        found = inbox.drain()
        for run in found:
            self._gone(run)
        return found

    # ---- lending -------------------------------------------------------------------

    def covers(self, inbox: Inbox, run: Run) -> bool:
        """Whether the next opening would know that this run may have been lent to the inbox."""
        if not self._durable:
            return True
        if self._mixed or run.row.special or self._default != inbox.number:
            return False
        if any(run.bits & marked for number, marked in run.row.inboxes.items() if number != inbox.number):
            return False  # a mark goes before the number for all
        last = run.row.key + run.index + run.count - 1
        if last > self._up_to - RESERVED // 2:
            self._up_to = last + RESERVED
            self._lent_changed = True
            self.version += 1
        if last > self._safe:
            return False
        self._highest = max(self._highest, last)
        return True

    def bind(self, inbox: Inbox, row: Row, bits: int) -> None:
        """It is not known what became of these at the inbox."""
        if inbox.number in self._numbers:
            row.lend_to(inbox.number, row.inboxes.get(inbox.number, 0) | bits)
            row.bound |= bits

    def again(self, row: Row, bits: int, *, alone: bool) -> int:
        """These may be lent again: those that are bound wait here. Returns the others."""
        for number, marked in row.inboxes.items():
            mine = bits & marked & row.bound
            if mine:
                inbox = self._numbers.get(number)
                if inbox is not None:
                    self.keep(inbox, row, mine, alone=alone)
                    bits &= ~mine
        row.bound &= ~bits  # their inbox was released meanwhile
        return bits

    def keep(self, inbox: Inbox, row: Row, bits: int, *, alone: bool) -> None:
        """These wait for the inbox."""
        inbox.keep(row, bits, alone=alone)
        self._count(row, bits, 1)

    def take(self, inbox: Inbox, most: int, most_bytes: int) -> Run | None:
        """Take the next run for an inbox; None if none waits."""
        run = inbox.take(most, most_bytes)
        if run is not None:
            self._gone(run)
        return run

    def _gone(self, run: Run) -> None:
        self._count(run.row, run.bits, -1)

    def _count(self, row: Row, bits: int, sign: int) -> None:
        self.waiting += sign * bits.bit_count()
        self.in_doubt += sign * (bits & row.bound).bit_count()
        if not row.special:
            self.plain += sign * bits.bit_count()
            self.plain_bytes += sign * sum(sum(row.lengths[at : at + count]) for at, count in runs(bits))

    # ---- time ----------------------------------------------------------------------

    def missed(self, now: float, bound: float) -> list[tuple[Inbox, str]]:
        """Inboxes for which jobs have been in doubt for the bound, with nobody there; each with the id of its first
        job; told once."""
        found = []
        for inbox in self.inboxes.values():
            if inbox.sessions or not inbox.in_doubt:
                inbox.since = None
            elif inbox.since is None:
                inbox.since = now
            elif not inbox.told and now >= inbox.since + bound:
                inbox.told = True
                row, index = min(inbox.messages(), key=lambda each: each[0].key + each[1])
                found.append((inbox, row.id(index)))
        return found

    def next_time(self, bound: float) -> float | None:
        """When `missed` has something to tell, unless somebody comes."""
        if not self.in_doubt:
            return None
        times = [each.since + bound for each in self.inboxes.values() if each.since is not None and not each.told]
        return min(times, default=None)

    # ---- the journal ---------------------------------------------------------------

    def _must_store(self, inbox: Inbox) -> None:
        self._changed.add(inbox.number)
        self._lent_changed = True
        self.version += 1

    def to_write(self, *, beside: bool) -> bool:
        """Whether to write now; `beside`: something else is written anyhow."""
        if self._lent_changed and self.version > self.stored:
            return True
        return beside and bool(self._changed or self._lent_changed)

    def flush(self, write: Write) -> None:
        """Put out what changed."""
        number = 0
        for each in self._changed:
            inbox = self._numbers.get(each)
            number = write(INBOXES, each, 0, None if inbox is None else pack_inbox(inbox.id, inbox.commits))
        if self._lent_changed:
            value = pack_lent(self._up_to, self._default, self._mixed, self._next)
            number = write(STATE, LENT, 0, value)
        self._changed = set()
        self._lent_changed = False
        if self._durable:
            self._flushed.append((number, self.version, self._up_to))
        else:
            self.stored, self._safe = self.version, self._up_to

    def written(self, up_to: int) -> None:
        """Writes up to this number are in the journal."""
        while self._flushed and self._flushed[0][0] <= up_to:
            _, self.stored, self._safe = self._flushed.popleft()

    def write_failed(self, up_to: int) -> None:
        """Writes up to this number are not: all is written once more."""
        while self._flushed and self._flushed[0][0] <= up_to:
            self._flushed.popleft()
            self._changed.update(range(1, self._next))  # those that were released, too
            self._lent_changed = True
            self.version += 1


def pack_inbox(id: bytes, commits: int) -> bytes:
    """A row of the log ``inboxes``."""
    return wire.pack([FORMAT, id, commits])


def unpack_inbox(value: bytes) -> tuple[bytes, int]:
    """Back from the journal: id and commit counter. Raises `DecodeError`."""
    found = wire.unpack(value)
    if (
        type(found) is not list or len(found) < 3 or found[0] != FORMAT
        or type(found[1]) is not bytes or type(found[2]) is not int
    ):  # fmt: skip
        raise DecodeError("an inbox of a format that this version does not read")
    return found[1], found[2]


def pack_lent(up_to: int, default: int, mixed: bool, after: int) -> bytes:
    """Our row of the log ``state``."""
    return wire.pack([FORMAT, up_to, default, int(mixed), after])


def unpack_lent(value: bytes) -> tuple[int, int, int, int]:
    """Back from the journal: `lent_up_to`, the inbox's number, whether lendings are marked, the next number.

    Raises:
        DecodeError: it is none.
    """
    found = wire.unpack(value)
    if (
        type(found) is not list or len(found) < 5 or found[0] != FORMAT
        or not all(type(each) is int and each >= 0 for each in found[1:5])
    ):  # fmt: skip
        raise DecodeError("what was lent is of a format that this version does not read")
    return found[1], found[2], found[3], found[4]
