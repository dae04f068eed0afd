"""Bugs planted into what goes on when a pusher is opened anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.simulation.mutants import Mutant, replaced
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.entries import Entry
from zmqkit.patterns.pipeline.kept import Keeping
from zmqkit.patterns.pipeline.lanes import Lanes
from zmqkit.patterns.pipeline.leases import Holder
from zmqkit.patterns.pipeline.parcels import Asked
from zmqkit.patterns.pipeline.returning import Returning
from zmqkit.patterns.pipeline.rows import Row
from zmqkit.patterns.pipeline.runs import Run


def holds_nothing_back(old: Callable[..., int]) -> Callable[..., int]:
    def hold(self: Returning, row: Row, bits: int) -> int:
        return bits

    return hold


def holds_back_for_ever(old: Callable[..., None]) -> Callable[..., None]:
    def turn(self: Returning, now: float) -> None: ...

    return turn


def takes_what_is_settled(old: Callable[..., int]) -> Callable[..., int]:
    def hold(self: Returning, row: Row, bits: int) -> int:
        left = old(self, row, bits)
        if row.key in self._rows:
            self._rows[row.key] = row, row.all
        return left

    return hold


def lends_again_what_went_on(old: Callable[..., Run]) -> Callable[..., Run]:
    def take(self: Returning, run: Run) -> Run:
        old(self, run)
        if not run.row.special:
            self._rows[run.row.key] = run.row, self._rows.get(run.row.key, (run.row, 0))[1] | run.bits
        return run

    return take


def keeps_what_it_let_go(old: Callable[..., None]) -> Callable[..., None]:
    def let_go(self: Returning) -> None:
        rows = dict(self._rows)
        old(self)
        self._rows.update(rows)
        self.taking, self.due = True, None

    return let_go


def knows_every_epoch(old: Callable[..., None]) -> Callable[..., None]:
    def present(self: Returning, holder: Holder, message: wire.Present, now: float) -> None:
        self._epochs.append(message.epoch)
        old(self, holder, message, now)

    return present


@contextmanager
def too_late() -> Iterator[None]:
    """A PRESENT takes what was lent anew."""
    with replaced(Returning, "_let_go", keeps_what_it_let_go), replaced(Returning, "present", knows_every_epoch):
        yield


def confirms_what_waits(old: Callable[..., bool]) -> Callable[..., bool]:
    def ask(self: Keeping, asked: Asked) -> bool:
        self._puller.out.replies.append((asked.ticket, None))
        return True

    return ask


def holds_no_lanes_back(old: Callable[..., None]) -> Callable[..., None]:
    def release(self: Lanes, entry: Entry, bits: int) -> None:
        self.held_up_to = 0
        old(self, entry, bits)

    return release


def forgets_lanes_it_held_back(old: Callable[..., None]) -> Callable[..., None]:
    def let_go(self: Lanes) -> None:
        self.held_up_to = 0

    return let_go


def lends_lanes_again_that_went_on(old: Callable[..., None]) -> Callable[..., None]:
    def take_back(self: Lanes, key: int, bits: int) -> None: ...

    return take_back


MUTANTS = [
    Mutant(name, scenario, lambda owner=owner, method=method, make=make: replaced(owner, method, make))  # type: ignore[misc]
    for name, scenario, owner, method, make in (
        ("holds nothing back", "pipeline", Returning, "_hold", holds_nothing_back),
        ("holds back for ever", "pipeline", Returning, "turn", holds_back_for_ever),
        ("lets what is settled go on", "pipeline", Returning, "_hold", takes_what_is_settled),
        ("lends again what went on", "pipeline", Returning, "_take", lends_again_what_went_on),
        ("confirms an ack that waits for its pusher", "pipeline", Keeping, "ask", confirms_what_waits),
        ("holds nothing back that has a key", "scheduled", Lanes, "_release", holds_no_lanes_back),
        ("forgets what it held back in lanes", "scheduled", Lanes, "let_go", forgets_lanes_it_held_back),
        ("lends lanes again that went on", "scheduled", Lanes, "take_back", lends_lanes_again_that_went_on),
    )
] + [Mutant("takes from its new holder what comes too late", "pipeline", too_late)]
