"""Threads that send one message after another share commits; who sends alone is not kept waiting for others."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import pytest

from tests.transport.raw import PATIENCE_S, MemoryStore, RawCore, unstarted
from zmqkit.protocol.core import Write
from zmqkit.transport import iothread
from zmqkit.transport.gathering import GATHER_SECONDS, MOST_SKIPPED, PAUSE_SECONDS, Gathering
from zmqkit.transport.iothread import IoThread
from zmqkit.transport.tickets import Ticket, wait


class Crowd:
    """What comes in each pause, on a clock of its own."""

    def __init__(self, *comers: int, here: int = 0, pause_seconds: float = PAUSE_SECONDS) -> None:
        self.commands = list(range(here))
        self.comers = list(comers)
        self.pauses = 0
        self.now = 7.0
        self.pause_seconds = pause_seconds
        self.gathering = Gathering(self.commands, lambda: self.now, self._pause)

    def _pause(self, seconds: float) -> None:
        assert seconds == PAUSE_SECONDS
        self.pauses += 1
        self.now += self.pause_seconds
        self.commands += range(self.comers.pop(0) if self.comers else 0)

    def gather(self, told: int) -> int:
        """Returns how many pauses that took."""
        before = self.pauses
        self.gathering.gather(told)
        return self.pauses - before


@pytest.mark.parametrize(("told", "here"), [(0, 0), (1, 0), (0, 1)])
def test_nobody_waits_for_one_who_is_alone(told: int, here: int) -> None:
    assert Crowd(1, here=here).gather(told) == 0


def test_it_ends_when_all_who_were_told_have_come_again() -> None:
    crowd = Crowd(5, 10, 1, 1)
    assert crowd.gather(16) == 3
    assert len(crowd.commands) == 16


def test_those_who_came_meanwhile_are_counted_with_those_who_were_told() -> None:
    crowd = Crowd(1, here=1)
    assert crowd.gather(1) == 1
    assert len(crowd.commands) == 2


def test_it_ends_with_the_first_pause_that_brings_nobody() -> None:
    assert Crowd(3, 3, 0, 3).gather(16) == 3


def test_it_ends_after_some_time_however_many_are_still_to_come() -> None:
    crowd = Crowd(*[1] * 1000)
    assert crowd.gather(1000) == pytest.approx(GATHER_SECONDS / PAUSE_SECONDS, abs=1)
    slow = Crowd(*[1] * 1000, pause_seconds=GATHER_SECONDS)
    assert slow.gather(1000) == 1


def test_where_nobody_comes_fewer_and_fewer_chances_are_taken_until_somebody_does() -> None:
    crowd = Crowd()
    taken = [at for at in range(400) if crowd.gather(2)]
    assert taken[:5] == [0, 2, 6, 14, 30]
    assert {after - before for before, after in itertools.pairwise(taken[6:])} == {MOST_SKIPPED + 1}
    crowd.comers = [2]
    while not crowd.gather(2):
        pass
    crowd.commands.clear()
    assert crowd.gather(2) == 1, "somebody had come: the next chance is taken"


class Gate(MemoryStore):
    """A journal whose first commit takes until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()
        self.shares: list[list[int]] = []

    def commit(self, writes: object) -> None:
        assert isinstance(writes, list)
        self.shares.append([write.key for write in writes if isinstance(write, Write)])
        self.entered.set()
        assert self.go.wait(PATIENCE_S)
        super().commit(writes)


def started(store: MemoryStore, pause: Callable[[float], object], monkeypatch: pytest.MonkeyPatch) -> IoThread:
    """A driver that pauses in this way."""
    monkeypatch.setattr(iothread, "Gathering", lambda commands, clock, _: Gathering(commands, clock, pause))
    io = unstarted(RawCore(), name="raw", journal=store)
    assert isinstance(io, IoThread)
    io.start()
    return io


def test_a_thread_that_was_told_shares_the_next_commit_with_one_that_came_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, again = Gate(), threading.Event()
    io = started(store, lambda _: again.wait(PATIENCE_S), monkeypatch)
    core = io.core
    assert isinstance(core, RawCore)

    def one_then_another() -> None:
        io.wait(first, PATIENCE_S)
        second = io.ticket()
        io.submit(core.store, 3, b"x", second)
        again.set()
        io.wait(second, PATIENCE_S)

    try:
        first, other = io.ticket(), io.ticket()
        threads = [threading.Thread(target=one_then_another), threading.Thread(target=wait, args=(other, PATIENCE_S))]
        io.submit(core.store, 1, b"x", first)
        assert store.entered.wait(PATIENCE_S)
        io.submit(core.store, 2, b"x", other)
        for thread, ticket in zip(threads, (first, other), strict=True):
            thread.start()
            is_awaited(ticket)
        store.go.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert store.shares == [[1], [2, 3]]
    finally:
        store.go.set()
        again.set()
        io.close(0)


@pytest.mark.parametrize("waits", [True, False])
def test_nobody_pauses_for_those_who_do_not_wait_or_have_not_waited_for_a_commit(
    waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    store = Gate()
    io = started(store, pauses.append, monkeypatch)
    core = io.core
    assert isinstance(core, RawCore)
    try:
        if waits:  # for what needs no commit
            for number in range(3):
                ticket = io.ticket()
                io.submit(core.answer, ticket, number)
                io.submit(core.give, [number])
                assert io.wait(ticket, PATIENCE_S) == number
        else:
            store.go.set()
            tickets = [io.ticket() for _ in range(3)]
            for key, ticket in enumerate(tickets):
                io.post(core.store, key, b"x", ticket)
            store.entered.wait(PATIENCE_S)
            ended = io.ticket()
            io.submit(core.answer, ended, "after them")
            io.wait(ended, PATIENCE_S)
            assert all(ticket.done for ticket in tickets)
        assert pauses == []
    finally:
        store.go.set()
        io.close(0)


def is_awaited(ticket: Ticket) -> None:
    """Return when somebody waits for it."""
    turn = threading.Event()
    for _ in range(int(PATIENCE_S * 1000)):
        if ticket.awaited:
            return
        turn.wait(0.001)
    raise AssertionError("nobody waits for it")


def test_what_is_told_and_is_no_ticket_is_told_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Custodian:
        """Told as a ticket is; nobody waits for it."""

        def __init__(self) -> None:
            self.told = threading.Event()

        def resolve(self, result: object) -> None:
            self.told.set()

    pauses: list[float] = []
    store, custodian = Gate(), Custodian()
    store.go.set()
    io = started(store, pauses.append, monkeypatch)
    core = io.core
    assert isinstance(core, RawCore)
    try:
        io.post(core.store, 1, b"x", custodian)
        assert custodian.told.wait(PATIENCE_S)
        ticket = io.ticket()
        io.submit(core.answer, ticket, "after it")
        assert io.wait(ticket, PATIENCE_S) == "after it"
        assert pauses == []
    finally:
        io.close(0)
