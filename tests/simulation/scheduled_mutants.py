"""Bugs planted into keys, priorities, delays, times to live and the window of ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation.mutants import Mutant, replaced
from zmqkit.patterns.pipeline import storing
from zmqkit.patterns.pipeline.dedupe import Dedupe
from zmqkit.patterns.pipeline.entries import Entry
from zmqkit.patterns.pipeline.lanes import Lanes
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.patterns.pipeline.rows import Row
from zmqkit.patterns.pipeline.storing import StoringCore
from zmqkit.patterns.pipeline.walltime import WallTime
from zmqkit.protocol import core


def keeps_no_order_of_keys(old: Callable[..., None]) -> Callable[..., None]:
    def release_all(self: Lanes, entry: Entry) -> None:
        self._release(entry, entry.held)

    return release_all


def lends_the_next_before_the_first_is_stored(old: Callable[..., None]) -> Callable[..., None]:
    def done(self: StoringCore, row: Row, bits: int, outcome: Any, reason: str) -> None:
        old(self, row, bits, outcome, reason)
        if row.special:
            entry = self.backlog.lanes.entries[row.key]
            entry.kept |= bits
            for index, hash in enumerate(entry.hashes):
                if hash in self.backlog.lanes._queues and bits >> index & 1:
                    self.backlog.lanes._advance(hash)

    return done


def passes_a_key_that_failed(old: Callable[..., None]) -> Callable[..., None]:
    def failed(self: Any, row: Row, index: int, *more: Any) -> None:
        old(self, row, index, *more)
        entry = self.backlog.lanes.entries.get(row.key) if row.special else None
        if entry is not None and entry.hashes and entry.hashes[index]:
            queue = self.backlog.lanes._queues[entry.hashes[index]][1]
            if len(queue) > 1:
                queue.rotate(-1)
                self.backlog.lanes._advance(entry.hashes[index])

    return failed


def knows_no_priority(old: Callable[..., bool]) -> Callable[..., bool]:
    def goes_before(self: Lanes, plain: int | None, behind: bool) -> bool:
        return plain is None and self._top() is not None

    return goes_before


def lowest_lane_first(old: Callable[..., None]) -> Callable[..., None]:
    def offer(self: Lanes, entry: Entry, bits: int) -> None:
        entry.lane = -abs(entry.lane)
        old(self, entry, bits)

    return offer


def waits_for_no_delay(old: Callable[..., Any]) -> Callable[..., Any]:
    def times(plan: Any, wall_us: int) -> tuple[int, int]:
        due, expires = old(plan, wall_us)
        return due and due - 150_000, expires

    return times


def names_nobody(old: Callable[..., Any]) -> Callable[..., Any]:
    def not_due(self: Lanes, entry: Entry) -> int:
        return entry.held | entry.ready

    return not_due


def forgets_ids_that_settled(old: Callable[..., None]) -> Callable[..., None]:
    def settled(self: StoringCore, settling: Any, now: float) -> None:
        old(self, settling, now)
        for key, bits, _, _ in settling.ended:
            for index in range(bits.bit_length()):
                if bits >> index & 1:
                    self.dedupe.forget(key + index)

    return settled


def restores_no_ids(old: Callable[..., Any]) -> Callable[..., Any]:
    def restore(self: Dedupe, rows: Any) -> list[int]:
        return []

    return restore


def delivers_what_expired(old: Callable[..., Any]) -> Callable[..., Any]:
    def expired(self: Lanes, now: float) -> list[tuple[Row, int]]:
        found: list[tuple[Row, int]] = old(self, now)
        for row, bits in found:
            entry = self.entries[row.key]
            entry.held |= bits
            self.waiting += bits.bit_count()
            entry.late = False
            self._release(entry, bits)
        return found

    return expired


def counts_the_expired_twice(old: Callable[..., Any]) -> Callable[..., Any]:
    def expired(self: Lanes, now: float) -> list[tuple[Row, int]]:
        found: list[tuple[Row, int]] = old(self, now)
        return found + found

    return expired


def expires_what_is_leased(old: Callable[..., Any]) -> Callable[..., Any]:
    def expired(self: Lanes, now: float) -> list[tuple[Row, int]]:
        due = [key for at, key in self._ends if at <= now]
        found: list[tuple[Row, int]] = old(self, now)
        for key in due:
            entry = self.entries.get(key)
            if entry is not None and entry.row is not None and entry.out:
                found.append((entry.row, entry.out & ~entry.row.done))
        return found

    return expired


def lets_go_of_what_was_done(old: Callable[..., None]) -> Callable[..., None]:
    def make_room(self: Lanes, needed: set[int]) -> None:
        old(self, needed)
        for entry in self.entries.values():
            entry.saved = None

    return make_room


def forgets_rows_on_disk(old: Callable[..., int]) -> Callable[..., int]:
    def restore(self: Lanes, rows: Any, marks: Any) -> int:
        found: int = old(self, list(rows)[:-1], marks)
        return found

    return restore


def reads_no_marks(old: Callable[..., int]) -> Callable[..., int]:
    def restore(self: Lanes, rows: Any, marks: Any) -> int:
        found: int = old(self, rows, {})
        return found

    return restore


def loads_only_what_is_near(old: Callable[..., list[core.Read]]) -> Callable[..., list[core.Read]]:
    def wanted(self: Lanes) -> list[core.Read]:
        return [] if self._full else old(self)

    return wanted


def mixes_up_a_key(old: Callable[..., None]) -> Callable[..., None]:
    def advance(self: Lanes, hash: bytes, *more: Any) -> None:
        queue = self._queues[hash][1]
        if len(queue) > 2:
            queue[1], queue[-1] = queue[-1], queue[1]
        old(self, hash, *more)

    return advance


def believes_no_clock(old: Callable[..., Any]) -> Callable[..., Any]:
    def look(self: WallTime, now: float) -> float | None:
        return 100.0

    return look


def confirms_together_too_early(old: Callable[..., None]) -> Callable[..., None]:
    def admit_together(self: StoringCore, arrival: Any, now: float) -> None:
        old(self, arrival._replace(ticket=None), now)
        self.out.replies.append((arrival.ticket, None))

    return admit_together


MUTANTS = [
    Mutant(name, "scheduled", lambda owner=owner, method=method, make=make: replaced(owner, method, make))  # type: ignore[misc]
    for name, owner, method, make in (
        ("keeps no order of keys", Lanes, "_release_all", keeps_no_order_of_keys),
        ("lends the next of a key too early", StoringCore, "_done", lends_the_next_before_the_first_is_stored),
        ("passes a message of a key that failed", PusherCore, "_failed", passes_a_key_that_failed),
        ("mixes up those that wait of a key", Lanes, "_advance", mixes_up_a_key),
        ("knows no priority", Lanes, "goes_before", knows_no_priority),
        ("lends the lowest lane first", Lanes, "_offer", lowest_lane_first),
        ("cuts delays short", storing, "times", waits_for_no_delay),
        ("waits for none that is ready", Lanes, "_not_due", names_nobody),
        ("forgets ids of what settled", StoringCore, "_settled", forgets_ids_that_settled),
        ("forgets ids when it restarts", Dedupe, "restore", restores_no_ids),
        ("delivers what has expired", Lanes, "expired", delivers_what_expired),
        ("counts twice what has expired", Lanes, "expired", counts_the_expired_twice),
        ("expires what is leased", Lanes, "expired", expires_what_is_leased),
        ("forgets marks of what it let go", Lanes, "_make_room", lets_go_of_what_was_done),
        ("forgets the last row when it restarts", Lanes, "restore", forgets_rows_on_disk),
        ("reads no marks of lanes", Lanes, "restore", reads_no_marks),
        ("loads nothing while its window is full", Lanes, "wanted", loads_only_what_is_near),
        ("confirms what comes together too early", StoringCore, "_admit_together", confirms_together_too_early),
        ("believes no clock", WallTime, "look", believes_no_clock),
    )
]
