"""Bugs planted into the pipeline's cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.simulation.mutants import Mutant, replaced
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.backlog import Backlog
from zmqkit.patterns.pipeline.hands import Settling
from zmqkit.patterns.pipeline.leases import Holder, Lot
from zmqkit.patterns.pipeline.puller import Parcel, PullerCore
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.patterns.pipeline.rows import MARKS, Pack, Row
from zmqkit.patterns.pipeline.runs import Run
from zmqkit.patterns.pipeline.storing import StoringCore
from zmqkit.patterns.pipeline.wire import Outcome
from zmqkit.protocol.core import Frames
from zmqkit.protocol.session import Session


def reuses_leases(old: Callable[..., None]) -> Callable[..., None]:
    def lost(self: PusherCore, session: Session, reason: str, now: float) -> None:
        first = min(self._holders[session.id].lots, default=self._lease)
        old(self, session, reason, now)
        self._lease = first

    return lost


def tells_before_the_journal_has_it(old: Callable[..., None]) -> Callable[..., None]:
    def done(self: PusherCore, row: Row, bits: int, outcome: Outcome, reason: str) -> None:
        old(self, row, bits, outcome, reason)
        for index in range(row.count):
            if bits >> index & 1:
                for watcher in self._watchers.pop(row.key + index, ()):
                    self.out.replies.append((watcher, (outcome, reason)))

    return done


def confirms_before_the_journal_has_it(old: Callable[..., None]) -> Callable[..., None]:
    def admit(self: PusherCore, now: float) -> None:
        old(self, now)
        for each in self._storing:
            self.out.replies.extend((ticket, None) for ticket in each.tickets)
            each.tickets.clear()

    return admit


def takes_leases_of_any_epoch(old: Callable[..., None]) -> Callable[..., None]:
    def settle(self: PusherCore, holder: Holder, message: wire.Settle, now: float) -> None:
        old(self, holder, message._replace(epoch=self.settings.epoch), now)

    return settle


def takes_leases_of_any_holder(old: Callable[..., None]) -> Callable[..., None]:
    def settle(self: PusherCore, holder: Holder, message: wire.Settle, now: float) -> None:
        for each in self._holders.values():
            old(self, each, message._replace(ask=message.ask if each is holder else 0), now)

    return settle


def writes_no_marks(old: Callable[..., int]) -> Callable[..., int]:
    def write(self: PusherCore, log: str, key: int, weight: int, value: bytes | None) -> int:
        if log == MARKS:
            self.out.written += 1
            return self.out.written
        return old(self, log, key, weight, value)

    return write


def loses_what_a_lost_puller_held(old: Callable[..., Any]) -> Callable[..., Any]:
    def rows(self: Holder) -> Iterator[tuple[Row, int]]:
        yield from list(old(self))[1:]

    return rows


def keeps_more_than_was_written(old: Callable[..., None]) -> Callable[..., None]:
    def settled(self: PusherCore, settling: Settling, now: float) -> None:
        old(self, settling, now)
        for row, _ in settling.rows.values():
            row.kept = row.all

    return settled


def writes_letters_a_turn_later(old: Callable[..., None]) -> Callable[..., None]:
    def write_settled(self: PusherCore, now: float) -> None:
        later, self._turn.letters = self._turn.letters, self.__dict__.pop("_later_letters", {})
        self.__dict__["_later_letters"] = later
        old(self, now)

    return write_settled


def buries_without_a_reason(old: Callable[..., None]) -> Callable[..., None]:
    def bury(self: PusherCore, row: Row, index: int, reason: str, traceback: str, now: float) -> None:
        old(self, row, index, "", traceback, now)

    return bury


def forgets_what_has_no_room(old: Callable[..., None]) -> Callable[..., None]:
    def stored(self: Backlog, row: Row) -> None:
        before = self._behind
        old(self, row)
        if not before:
            self._behind = 0

    return stored


def knows_no_bounds(old: Callable[..., bool]) -> Callable[..., bool]:
    def has_room(self: PusherCore, pack: Pack, ahead: Any = ()) -> bool:
        return True

    return has_room


def never_gives_up(old: Callable[..., None]) -> Callable[..., None]:
    def failed(
        self: PusherCore, row: Row, index: int, delay: float | None, reason: str, trace: str, now: float
    ) -> None:
        bury, self._bury = self._bury, lambda row, index, *more: self.backlog.later(row, index, now)  # type: ignore[method-assign]
        try:
            old(self, row, index, delay, reason, trace, now)
        finally:
            self._bury = bury  # type: ignore[method-assign]

    return failed


def waits_for_no_delay(old: Callable[..., None]) -> Callable[..., None]:
    def later(self: Backlog, row: Row, index: int, due: float, *, alone: bool = False) -> None:
        old(self, row, index, due - 3600.0, alone=alone)

    return later


def forgets_settles_that_were_not_stored(old: Callable[..., None]) -> Callable[..., None]:
    def absorb(self: Settling, other: Settling) -> None: ...

    return absorb


def finds_nothing_in_the_journal(old: Callable[..., None]) -> Callable[..., None]:
    def found(self: PusherCore, first: int, newest: int, waiting: int) -> None:
        self.unsettled = 0

    return found


def reads_no_marks(old: Callable[..., None]) -> Callable[..., None]:
    def unpack_marks(self: Row, value: bytes) -> None:
        self.marked = True

    return unpack_marks


def ignores_held(old: Callable[..., None]) -> Callable[..., None]:
    def reconcile(self: PusherCore, holder: Holder, message: wire.Held) -> None: ...

    return reconcile


def takes_back_what_is_held(old: Callable[..., Any]) -> Callable[..., Any]:
    def missing(self: Holder, up_to: int, listed: wire.Ranges) -> wire.Ranges:
        found: wire.Ranges = old(self, up_to, listed[2:])
        return found

    return missing


def blames_for_a_release(old: Callable[..., None]) -> Callable[..., None]:
    def settle_other(self: PusherCore, holder: Holder, lot: Lot, bits: int, other: wire.Unsettled, now: float) -> None:
        old(self, holder, lot, bits, other._replace(kind=wire.NACK) if other.kind == wire.RELEASE else other, now)

    return settle_other


def gives_credit_too_early(old: Callable[..., None]) -> Callable[..., None]:
    def received(self: PullerCore, session: Session, frames: Frames, messages: int, now: float) -> None:
        old(self, session, frames, messages, now)
        source = self._sources.get(session.id)
        if messages and source is not None:
            source.released_messages += messages
            self._changed[session.id] = source

    return received


def confirms_acks_at_once(old: Callable[..., None]) -> Callable[..., None]:
    def ack_asking(self: PullerCore, parcel: Parcel, index: int, ticket: Any, now: float) -> None:
        parcel.acked.append(index)
        self.collect(parcel, now)
        self.out.replies.append((ticket, None))

    return ack_asking


def takes_sent_for_received(old: Callable[..., None]) -> Callable[..., None]:
    def lend(self: PusherCore, now: float) -> None:
        old(self, now)
        for holder in self._holders.values():
            for row, bits in holder.rows():
                row.got |= bits

    return lend


def newest_first(old: Callable[..., None]) -> Callable[..., None]:
    def stored(self: Backlog, row: Row) -> None:
        old(self, row)
        if len(self._fresh) > 1:
            self._fresh.rotate(1)

    return stored


def lends_one_too_many(old: Callable[..., Run | None]) -> Callable[..., Run | None]:
    def take(self: Backlog, most: int, most_bytes: int) -> Run | None:
        return old(self, most + 1, most_bytes)

    return take


MUTANTS = [
    Mutant(name, "pipeline", lambda owner=owner, method=method, make=make: replaced(owner, method, make))  # type: ignore[misc]
    for name, owner, method, make in (
        ("gives lease numbers again", PusherCore, "lost", reuses_leases),
        ("says settled before it is stored", StoringCore, "_done", tells_before_the_journal_has_it),
        ("confirms before it is stored", StoringCore, "_admit", confirms_before_the_journal_has_it),
        ("takes settles of another epoch", PusherCore, "_settle", takes_leases_of_any_epoch),
        ("takes settles of another's leases", PusherCore, "_settle", takes_leases_of_any_holder),
        ("writes no marks", StoringCore, "_write", writes_no_marks),
        ("loses what a lost puller held", Holder, "rows", loses_what_a_lost_puller_held),
        ("takes more for settled than was written", StoringCore, "_settled", keeps_more_than_was_written),
        ("writes a dead letter after the delete", StoringCore, "_write_settled", writes_letters_a_turn_later),
        ("writes dead letters without a reason", PusherCore, "_bury", buries_without_a_reason),
        ("forgets what its window has no room for", Backlog, "stored", forgets_what_has_no_room),
        ("knows no bounds", StoringCore, "_has_room", knows_no_bounds),
        ("never gives up on a job", PusherCore, "_failed", never_gives_up),
        ("waits for no delay", Backlog, "later", waits_for_no_delay),
        ("forgets settles that a full disk refused", Settling, "absorb", forgets_settles_that_were_not_stored),
        ("finds nothing in its journal", StoringCore, "found", finds_nothing_in_the_journal),
        ("reads no marks", Row, "unpack_marks", reads_no_marks),
        ("ignores HELD", PusherCore, "_reconcile", ignores_held),
        ("takes back what is held", Holder, "missing", takes_back_what_is_held),
        ("counts a release as a failure", PusherCore, "_settle_other", blames_for_a_release),
        ("gives credit before the job is done", PullerCore, "received", gives_credit_too_early),
        ("confirms an ack that was only sent", PullerCore, "ack_asking", confirms_acks_at_once),
        ("takes sent for received", PusherCore, "_lend", takes_sent_for_received),
        ("delivers the newest first", Backlog, "stored", newest_first),
        ("lends more than the credit", Backlog, "take", lends_one_too_many),
    )
]
