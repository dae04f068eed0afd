"""Bugs planted into how long jobs are held, who gives them back, and who is suspected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation.mutants import Mutant, replaced
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.holding import Held, Holding
from zmqkit.patterns.pipeline.leases import Holder
from zmqkit.patterns.pipeline.prefetching import Prefetch
from zmqkit.patterns.pipeline.puller import Parcel, PullerCore
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.patterns.pipeline.suspects import Suspects
from zmqkit.protocol.session import Session


def takes_back_too_early(old: Callable[..., int]) -> Callable[..., int]:
    def late(self: Holding, parcel: Parcel, held: Held, now: float) -> int:
        return old(self, parcel, held, now + self.max_lease / 2)

    return late


def knows_no_extension(old: Callable[..., float]) -> Callable[..., float]:
    def extend(self: Holding, parcel: Parcel, index: int, seconds: float | None, now: float) -> float:
        return now

    return extend


def recalls_what_is_started(old: Callable[..., None]) -> Callable[..., None]:
    def recalled(self: PullerCore, source: Any, count: int, now: float) -> None:
        old(self, source, count, now)
        for parcel in list(source.parcels.values())[:1]:
            self.settle(parcel, parcel.open.bit_length() - 1, wire.RELEASE, None, "", "", now)

    return recalled


def forgets_what_it_kept(old: Callable[..., None]) -> Callable[..., None]:
    def recalled(self: PullerCore, source: Any, count: int, now: float) -> None:
        old(self, source, count, now)
        for parcel in source.parcels.values():
            parcel.claims = iter(())

    return recalled


def allows_more_than_it_grants(old: Callable[..., None]) -> Callable[..., None]:
    def settled(self: Prefetch, count: int, trip: float, now: float) -> None:
        old(self, count, trip, now)
        self.target = 0

    return settled


def suspects_nobody(old: Callable[..., bool]) -> Callable[..., bool]:
    def alone(self: Suspects, sequence: int) -> bool:
        return False

    return alone


def blames_who_held_more(old: Callable[..., None]) -> Callable[..., None]:
    def lost(self: PusherCore, session: Session, reason: str, now: float) -> None:
        holder = self._holders[session.id]
        held, holder.held = holder.held, min(1, holder.held)
        lots = dict(holder.lots)
        if held > 1:
            for first in list(holder.lots)[1:]:
                del holder.lots[first]
        old(self, session, reason, now)
        for lot in list(lots.values())[1:]:
            self._put_back(lot.row, lot.row_bits)

    return lost


def lends_suspects_to_the_busy(old: Callable[..., list[Holder]]) -> Callable[..., list[Holder]]:
    def lendings(self: Suspects, holders: Any) -> list[Holder]:
        able = [each for each in holders if each.session.link is not None and each.session.room_messages > 0]
        return able[: min(1, len(self.waiting))]

    return lendings


MUTANTS = [
    Mutant(name, "pipeline", lambda owner=owner, method=method, make=make: replaced(owner, method, make))  # type: ignore[misc]
    for name, owner, method, make in (
        ("takes a job back before its time", Holding, "_late", takes_back_too_early),
        ("knows no extension", Holding, "extend", knows_no_extension),
        ("gives back what is started", PullerCore, "_recalled", recalls_what_is_started),
        ("forgets what it did not give back", PullerCore, "_recalled", forgets_what_it_kept),
        ("shrinks its prefetch to nothing", Prefetch, "settled", allows_more_than_it_grants),
    )
] + [
    Mutant(name, "suspects", lambda owner=owner, method=method, make=make: replaced(owner, method, make))  # type: ignore[misc]
    for name, owner, method, make in (
        ("suspects nobody", Suspects, "alone", suspects_nobody),
        ("blames one of several that a dead puller held", PusherCore, "lost", blames_who_held_more),
        ("lends a suspect beside others", Suspects, "lendings", lends_suspects_to_the_busy),
    )
]
