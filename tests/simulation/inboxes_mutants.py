"""Bugs planted into what a pusher knows of inboxes, and what a puller tells of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation.mutants import Mutant, replaced
from zmqkit.patterns.pipeline import doubt, wire
from zmqkit.patterns.pipeline.backlog import Backlog
from zmqkit.patterns.pipeline.doubt import Doubt, Inbox
from zmqkit.patterns.pipeline.leases import Holder, Lot
from zmqkit.patterns.pipeline.puller import PullerCore
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.patterns.pipeline.rows import Row
from zmqkit.patterns.pipeline.runs import Run


def binds_nothing(old: Callable[..., None]) -> Callable[..., None]:
    def bind(self: Doubt, inbox: Inbox, row: Row, bits: int) -> None:
        pass

    return bind


def hears_of_no_doubt(old: Callable[..., Any]) -> Callable[..., Any]:
    def other(value: Any) -> wire.Unsettled:
        found: wire.Unsettled = old(value)
        return found._replace(doubt=False)

    return other


def forgets_what_was_lent(old: Callable[..., None]) -> Callable[..., None]:
    def found(self: Doubt, row: Row) -> None:
        pass

    return found


def lends_before_that_is_stored(old: Callable[..., bool]) -> Callable[..., bool]:
    def covers(self: Doubt, inbox: Inbox, run: Run) -> bool:
        old(self, inbox, run)
        return True

    return covers


def takes_one_number_for_all(old: Callable[..., bool]) -> Callable[..., bool]:
    def covers(self: Doubt, inbox: Inbox, run: Run) -> bool:
        mixed, default, self._mixed, self._default = self._mixed, self._default, False, inbox.number
        covered: bool = old(self, inbox, run)
        self._mixed, self._default = mixed, default
        return covered

    return covers


def reserves_what_it_has_lent(old: Callable[..., bool]) -> Callable[..., bool]:
    def covers(self: Doubt, inbox: Inbox, run: Run) -> bool:
        covered: bool = old(self, inbox, run)
        self._up_to = min(self._up_to, self._safe)
        return covered or not (self._mixed or run.row.special or self._default != inbox.number)

    return covers


def hears_no_commits(old: Callable[..., None]) -> Callable[..., None]:
    def heard(self: Doubt, inbox: Inbox, commits: int) -> None:
        pass

    return heard


def forgets_the_commits(old: Callable[..., Any]) -> Callable[..., Any]:
    def unpack(value: bytes) -> tuple[bytes, int]:
        return old(value)[0], 0

    return unpack


def says_what_it_is_told(old: Callable[..., None]) -> Callable[..., None]:
    def received(self: PullerCore, session: Any, frames: Any, messages: int, now: float) -> None:
        message = wire.read(frames)
        if isinstance(message, wire.Known):
            self._about["commits"] = max(self._commits, message.commits)
        old(self, session, frames, messages, now)

    return received


def takes_a_nack_for_an_answer(old: Callable[..., None]) -> Callable[..., None]:
    def settle_other(self: PusherCore, holder: Holder, lot: Lot, bits: int, other: wire.Unsettled, now: float) -> None:
        if not other.doubt:
            lot.row.bound &= ~(bits << lot.index)
        old(self, holder, lot, bits, other, now)

    return settle_other


def gives_back_what_was_begun(old: Callable[..., None]) -> Callable[..., None]:
    def give_back(self: PullerCore, source: Any, now: float) -> None:
        for parcel in source.parcels.values():
            parcel.claims = iter(range(len(parcel)))
        old(self, source, now)

    return give_back


def lends_keyed_ones_to_anybody(old: Callable[..., Any]) -> Callable[..., Any]:
    def take_free(self: Backlog, most: int, most_bytes: int) -> Run | None:
        return self.lanes.take(most, most_bytes)

    return take_free


def frees_who_waits_alone(old: Callable[..., Any]) -> Callable[..., Any]:
    def leave(self: Doubt, inbox: Inbox | None) -> list[Run]:
        found: list[Run] = old(self, inbox)
        if inbox is not None and not inbox.sessions:
            found += self._drained(inbox)
        return found

    return leave


def frees_the_wrong_inbox(old: Callable[..., Any]) -> Callable[..., Any]:
    def again(self: Doubt, row: Row, bits: int, *, alone: bool) -> int:
        there = [inbox for inbox in self.inboxes.values() if inbox.sessions]
        mine = bits & row.bound
        if not there or not mine:
            left: int = old(self, row, bits, alone=alone)
            return left
        self.keep(there[0], row, mine, alone=alone)
        return bits & ~mine

    return again


SETTINGS: dict[str, dict[str, object]] = {
    "takes a nack for an answer": {"patterns": ("II-",), "keeps": 0.12},
    "gives back what was begun": {"patterns": ("II-",), "closes": 0.1},
}

MUTANTS = [
    Mutant(
        name,
        "inboxes",
        lambda owner=owner, method=method, make=make: replaced(owner, method, make),  # type: ignore[misc]
        settings=SETTINGS.get(name, {}),
    )
    for name, owner, method, make in (
        ("binds nothing to an inbox", Doubt, "bind", binds_nothing),
        ("does not hear that a commit is in doubt", wire, "_other", hears_of_no_doubt),
        ("forgets when it restarts what it had lent", Doubt, "found", forgets_what_was_lent),
        ("lends before the journal has the mark", Doubt, "covers", lends_before_that_is_stored),
        ("takes one inbox for all when there are more", Doubt, "covers", takes_one_number_for_all),
        ("reserves nothing ahead", Doubt, "covers", reserves_what_it_has_lent),
        ("hears of no commits", Doubt, "heard", hears_no_commits),
        ("forgets the commits when it restarts", doubt, "unpack_inbox", forgets_the_commits),
        ("says it has the commits that it is told", PullerCore, "received", says_what_it_is_told),
        ("takes a nack for an answer", PusherCore, "_settle_other", takes_a_nack_for_an_answer),
        ("gives back what was begun", PullerCore, "_give_back", gives_back_what_was_begun),
        ("lends keyed ones that are bound to anybody", Backlog, "_take_free", lends_keyed_ones_to_anybody),
        ("frees what is in doubt when its inbox leaves", Doubt, "leave", frees_who_waits_alone),
        ("gives what is in doubt to another inbox", Doubt, "again", frees_the_wrong_inbox),
    )
]
