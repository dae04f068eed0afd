"""Both drivers: commands, timers, the journal, callbacks, and cores that break the contract."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
import threading
import time

import pytest

from tests.transport.raw import (
    PATIENCE_S,
    AnyDriver,
    Gone,
    Heard,
    MemoryStore,
    RawCore,
    driver,
    raw,
    sleeps,
    take,
    take_until,
    unstarted,
    until,
    waiting,
)
from zmqkit.errors import Closed, CommitIndeterminate, JournalDamaged, JournalFull
from zmqkit.events import BadFrame, Event, PeerLost
from zmqkit.protocol.core import Probe, Read, Row
from zmqkit.transport import base, hosts, iothread, pump
from zmqkit.transport.iothread import IoThread
from zmqkit.transport.tickets import Ticket, WaitExpired, wait
from zmqkit.transport.waiters import ThreadWaiter

pytestmark = pytest.mark.usefixtures("tested")

WAKERS = ["auto", "eventfd", "pipe"]


def ask(io: AnyDriver, result: object) -> object:
    """A round trip through the I/O thread."""
    ticket = io.ticket()
    io.submit(raw(io).answer, ticket, result)
    return io.wait(ticket, PATIENCE_S)


@pytest.mark.parametrize("waker", WAKERS)
def test_a_call_is_run_and_its_ticket_resolved(waker: str) -> None:
    with driver(waker=waker) as io:
        assert [ask(io, n) for n in range(100)] == list(range(100))


@pytest.mark.parametrize("call", ["post", "submit"])
def test_a_call_between_the_last_look_at_the_queue_and_sleep_is_not_slept_over(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop asks for the deadline just there; whoever calls at that moment sees it awake, and does not wake it."""
    monkeypatch.setattr(iothread, "DOZE_SECONDS", 0.0)
    called: list[Ticket] = []

    class CalledThere(RawCore):
        def next_deadline(self) -> float | None:
            if called == [] and asked:
                called.append(io.ticket())
                getattr(io, call)(self.answer, called[0], "there")
            return None

    asked = False
    with driver(CalledThere()) as io:
        ask(io, 1)
        asked = True
        ask(io, 2)
        until(lambda: called)
        assert io.wait(called[0], PATIENCE_S) == "there"


@pytest.mark.parametrize("call", ["post", "submit"])
@pytest.mark.parametrize("waker", WAKERS)
def test_no_wake_up_is_lost_at_any_moment_of_falling_asleep(waker: str, call: str) -> None:
    """Calls arrive while the thread is awake, dozes, is about to sleep, or sleeps; a lost one would wait 30 seconds."""
    assert iothread.SLEEP_SECONDS > PATIENCE_S
    pauses = [0.0, 0.0, 0.0003, 0.0011, iothread.DOZE_SECONDS, iothread.DOZE_SECONDS + 0.0011]
    with driver(waker=waker) as io:

        def work() -> None:
            for n in range(60):
                ticket = io.ticket()
                getattr(io, call)(raw(io).answer, ticket, n)
                assert io.wait(ticket, PATIENCE_S) == n
                ThreadWaiter().wait(pauses[n % len(pauses)])

        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(2 * PATIENCE_S)
            assert not worker.is_alive()
        before = io.stats()["io_wakeups"]
        for n in range(3):
            until(lambda: sleeps(io))
            ticket = io.ticket()
            getattr(io, call)(raw(io).answer, ticket, n)
            assert io.wait(ticket, PATIENCE_S) == n
        if isinstance(io, IoThread):
            assert io.stats()["io_wakeups"] >= before + 3


def test_calls_of_many_threads_are_run_once_each_in_the_order_of_each_thread() -> None:
    with driver() as io:

        def work(who: int) -> None:
            for n in range(2000):
                io.post(raw(io).give, [(who, n)])

        workers = [threading.Thread(target=work, args=(who,)) for who in range(4)]
        for worker in workers:
            worker.start()
        got = [take(io) for _ in range(8000)]
        for worker in workers:
            worker.join(PATIENCE_S)
        for who in range(4):
            assert [n for w, n in got if w == who] == list(range(2000))
        assert len(io.mailbox) == 0


def test_a_deadline_fires_when_it_comes_and_not_before() -> None:
    with driver() as io:
        for delay in (0.05, 0.0, 0.01):
            when = time.monotonic() + delay
            io.submit(raw(io).wake_at, when)
            assert take(io) == "fired"
            assert raw(io).fired[-1] >= when


def test_a_core_that_leaves_its_deadline_in_the_past_does_not_take_the_processor(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stuck(RawCore):
        def handle_timer(self, now: float) -> None:
            self.fired.append(now)

    core = Stuck()
    with driver(core) as io:
        io.submit(core.wake_at, time.monotonic() - 1)
        turns, begun = core.turns, time.monotonic()
        io.wait_items(0.2)
        assert core.turns - turns <= 5 + 2 * (time.monotonic() - begun) / base.STUCK_SECONDS
        assert ask(io, "alive") == "alive"
    assert "left its deadline" in caplog.text


def test_a_deadline_that_comes_due_while_a_turn_lasts_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    class Slow(RawCore):
        def handle_timer(self, now: float) -> None:
            first = not self.fired
            super().handle_timer(now)
            if first:
                self.deadline = now + 0.001

        def end_turn(self, now: float) -> None:
            super().end_turn(now)
            while self.fired and self.deadline and time.monotonic() <= self.deadline + 2 * base.STUCK_SECONDS:
                time.sleep(0.001)

    core = Slow()
    with driver(core) as io:
        io.submit(core.wake_at, time.monotonic())
        assert [take(io) for _ in range(2)] == ["fired", "fired"]
        assert ask(io, "alive") == "alive"
    assert "left its deadline" not in caplog.text


def test_an_idle_driver_sleeps() -> None:
    with driver(binds=["tcp://127.0.0.1:0"]) as io:
        ask(io, "awake")
        until(lambda: sleeps(io))
        turns = io.stats()["io_turns"]
        io.wait_items(0.3)
        assert io.stats()["io_turns"] == turns


# ---- the journal -------------------------------------------------------------------


def test_writes_are_committed_before_they_count_as_stored_and_are_read_back() -> None:
    store = MemoryStore()
    with driver(journal=store) as io:
        tickets = []
        for key in (1, 2, 3):
            tickets.append(io.ticket())
            io.post(raw(io).store, key, b"%d" % key, tickets[-1])
        assert [io.wait(ticket, PATIENCE_S) for ticket in tickets] == [1, 2, 3]
        assert sorted(store.rows) == [1, 2, 3]
        ticket = io.ticket()
        io.post(raw(io).store, 2, None, ticket)
        io.wait(ticket, PATIENCE_S)
        rows = io.ticket()
        io.post(raw(io).load, Read("rows", 1, 99, 1000), rows)
        assert io.wait(rows, PATIENCE_S) == [Row(1, 1, b"1"), Row(3, 1, b"3")]
        assert io.stats()["io_commits"] == store.commits
    assert store.closed == 1


def test_without_a_journal_writes_count_as_stored_at_once_and_reads_find_nothing() -> None:
    with driver() as io:
        ticket = io.ticket()
        io.post(raw(io).store, 1, b"x", ticket)
        assert io.wait(ticket, PATIENCE_S) == 1
        rows = io.ticket()
        io.post(raw(io).load, Read("rows", 1, 99, 1000), rows)
        assert io.wait(rows, PATIENCE_S) == []


@pytest.mark.parametrize("error", [JournalFull("no room"), CommitIndeterminate("who knows"), OSError("a broken disk")])
def test_a_failed_commit_is_told_to_the_core_and_the_next_one_is_tried(error: Exception) -> None:
    store = MemoryStore(errors=[error])
    with driver(journal=store) as io:
        ticket = io.ticket()
        io.submit(raw(io).store, 1, b"x", ticket)
        with pytest.raises(type(error), match=str(error)):
            io.wait(ticket, PATIENCE_S)
        assert not store.rows
        again = io.ticket()
        io.submit(raw(io).store, 1, b"x", again)
        assert io.wait(again, PATIENCE_S) == 2
        assert io.stats()["io_commit_failures"] == 1


def test_a_journal_that_cannot_be_read_ends_the_driver_and_everybody_is_told(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore(read_error=JournalDamaged("row 7"))
    with driver(journal=store) as io:
        other, ticket = io.ticket(), io.ticket()
        io.submit(raw(io).load, Read("rows", 1, 99, 1000), ticket)
        for waiting in (ticket, other):
            with pytest.raises(JournalDamaged, match="row 7"):
                io.wait(waiting, PATIENCE_S)
        assert not io.wait_items(PATIENCE_S)
        assert io.mailbox.closed
        assert io.mailbox.failure is io.failure
        assert isinstance(io.failure, JournalDamaged)
        with pytest.raises(JournalDamaged):
            io.post(raw(io).give, [1])
        assert wait(io.ended, PATIENCE_S) is False
        assert store.closed == 1
        assert not io.close(1)
    assert "the driver ends" in caplog.text


# ---- what goes wrong ----------------------------------------------------------------


def test_callbacks_get_their_events_and_one_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with driver() as io:
        got: list[tuple[str, Event]] = []
        done = ThreadWaiter()

        def broken(event: Event) -> None:
            got.append(("broken", event))
            raise RuntimeError("planted in a callback")

        def last(event: BadFrame) -> None:
            got.append(("last", event))
            if event.reason == "end":
                done.wake()

        remove = io.on(Event, broken)
        io.on(PeerLost, broken)
        io.on(BadFrame, last)
        io.submit(raw(io).tell, "one")
        ask(io, None)
        remove()
        remove()  # twice does no harm
        io.submit(raw(io).tell, "end")
        assert done.wait(PATIENCE_S)
        assert got == [
            ("broken", BadFrame("raw", "one")),
            ("last", BadFrame("raw", "one")),
            ("last", BadFrame("raw", "end")),
        ]
        assert io.stats()["io_callback_errors"] == 1
    assert "planted in a callback" in caplog.text


def test_a_callback_may_use_and_close_its_driver() -> None:
    with driver() as io:
        answers: list[object] = []

        def callback(event: BadFrame) -> None:
            io.post(raw(io).give, ["from a callback"])
            answers.append(io.close(5))

        io.on(BadFrame, callback)
        io.submit(raw(io).tell, "now")
        assert wait(io.ended, PATIENCE_S) is True
        assert answers == [False]
        assert io.mailbox.take() == "from a callback"


INPUTS = ["receive_message", "link_up", "link_down", "links_disturbed", "stored", "store_failed", "end_turn"]


@pytest.mark.parametrize("name", INPUTS)
def test_a_core_that_raises_once_is_logged_and_survived(name: str, caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore(errors=[JournalFull("no room")] if name == "store_failed" else [])
    core = RawCore()
    with driver(core, binds=["tcp://127.0.0.1:0"], journal=store) as io:
        core.raises[name] = 1
        with driver(connects=io.addresses) as peer:
            peer.submit(raw(peer).say, take(peer).link, [b"1"], None)
            peer.submit(raw(peer).say, ("c", io.addresses[0]), [b"2"], None)
            assert take_until(io, lambda item: isinstance(item, Heard) and item.frames == [b"2"])
            for _ in range(2):
                io.connect(io.addresses[0])
                until(lambda: io.stats()["io_connections"] == 1)
                io.disconnect(io.addresses[0])
                until(lambda: io.stats()["io_connections"] == 0)
            io.submit(raw(io).store, 1, b"x", io.ticket())
        assert ask(io, "alive") == "alive"
        until(lambda: not core.raises[name])
        assert io.stats()["io_core_errors"] == 1
        assert io.failure is None
    assert f"planted in {name}" in caplog.text


@pytest.mark.parametrize("name", ["end_turn", "handle_timer"])
def test_a_core_that_cannot_move_ends_the_driver_and_everybody_is_told(name: str) -> None:
    core = RawCore()
    store = MemoryStore()
    with driver(core, journal=store) as io:
        ticket = io.ticket()
        core.raises[name] = 2
        for _ in range(2):
            io.submit(core.wake_at, time.monotonic())
        with pytest.raises(pump.Broken, match=f"{name} raised twice") as caught:
            io.wait(ticket, PATIENCE_S)
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert wait(io.ended, PATIENCE_S) is False
        assert isinstance(io.mailbox.failure, pump.Broken)
        assert store.closed == 1


def test_a_step_that_raised_is_tried_again_though_nothing_else_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iothread, "DOZE_SECONDS", 0.0)
    core = RawCore()
    with driver(core) as io:
        ticket = io.ticket()
        core.raises["end_turn"] = 2
        io.submit(raw(io).wake_at, time.monotonic() + 2 * iothread.SLEEP_SECONDS)
        with pytest.raises(pump.Broken, match="end_turn raised twice"):
            io.wait(ticket, PATIENCE_S)


def test_a_verb_that_raises_gives_its_error_to_its_ticket() -> None:
    with driver() as io:
        ticket = io.ticket()
        io.submit(raw(io).fail, ticket)
        with pytest.raises(RuntimeError, match="planted in a verb"):
            io.wait(ticket, PATIENCE_S)
        assert ask(io, 1) == 1
        assert io.stats()["io_core_errors"] == 1


def test_a_send_of_nonsense_is_a_bug_of_the_core_and_spoils_no_other_message(caplog: pytest.LogCaptureFixture) -> None:
    with driver(binds=["tcp://127.0.0.1:0"]) as bound, driver(connects=bound.addresses) as io:
        link = take(io).link
        for frames in ([b"good", "bad", b"good"], [], ["bad"], [None, b"good"]):
            io.submit(raw(io).say, link, frames, None)
        for unknown in (("c", "tcp://nobody:1"), ("b", "tcp://nobody:1", b"id"), "what", None, 7):
            io.submit(raw(io).say, unknown, [b"x"], None)
        io.submit(raw(io).say, link, [b"fine"], None)
        assert take_until(bound, lambda item: item.frames == [b"fine"]).link[0] == "b"
        back = ("b", bound.addresses[0], b"")
        bound.submit(raw(bound).say, back, [b"x"], None)
        assert ask(io, 1) == 1
        assert ask(bound, 1) == 1


# ---- the end -----------------------------------------------------------------------


def test_close_waits_for_the_core_and_delivers_what_it_says_last() -> None:
    core = RawCore()
    with driver(binds=["tcp://127.0.0.1:0"]) as bound, driver(core, connects=bound.addresses) as io:
        core.finish_at_once = False
        core.goodbyes = [(take(io).link, [b"bye", b"x" * 100_000])] * 20
        io.begin_close(None)
        for _ in range(20):
            assert take(bound).frames[0] == b"bye"
        assert not io.ended.done
        io.submit(core.finish)
        assert io.close(PATIENCE_S)


def test_close_is_bounded_when_the_core_never_finishes() -> None:
    core = RawCore()
    core.finish_at_once = False
    store = MemoryStore()
    with driver(core, journal=store) as io:
        assert io.close(0.01) is False
        assert store.closed == 1
        assert io.close(0.01) is False


def test_the_shortest_of_several_timeouts_counts() -> None:
    core = RawCore()
    core.finish_at_once = False
    with driver(core) as io:
        waiting = threading.Thread(target=io.close)  # would wait for ever
        waiting.start()
        io.begin_close(1000)
        assert io.close(0) is False
        waiting.join(PATIENCE_S)
        assert not waiting.is_alive()


def test_close_is_idempotent_from_any_thread_and_every_use_after_it_says_closed() -> None:
    store = MemoryStore()
    with driver(journal=store, binds=["tcp://127.0.0.1:0"]) as io:
        answers: list[bool] = []
        closers = [threading.Thread(target=lambda: answers.append(io.close(5))) for _ in range(5)]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join(PATIENCE_S)
        assert answers == [True] * 5
        assert io.close() is True
        assert store.closed == 1
        for use in (
            lambda: io.post(print),
            lambda: io.submit(print),
            lambda: io.connect("tcp://127.0.0.1:1"),
            lambda: io.disconnect("tcp://127.0.0.1:1"),
            lambda: io.wait(io.ticket(), 5),
            io.start,
        ):
            with pytest.raises(Closed, match="raw"):
                use()
        assert not io.wait_items(5)
        assert isinstance(io.mailbox.failure, Closed)


def test_who_waits_when_it_closes_is_told() -> None:
    with driver() as io:
        errors: list[BaseException] = []

        def waits(patience_s: float) -> None:
            try:
                io.wait(io.ticket(), patience_s)
            except Closed as error:
                errors.append(error)

        threads = [threading.Thread(target=waits, args=(PATIENCE_S,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: waiting(io) == 3)
        io.close(1)
        for thread in threads:
            thread.join(PATIENCE_S)
        assert len(errors) == 3


def test_one_that_was_never_started_closes_and_gives_the_journal_back() -> None:
    store = MemoryStore()
    io = unstarted(RawCore(), journal=store, name="idle", binds=["tcp://127.0.0.1:0"])
    with pytest.raises(WaitExpired):
        io.ended.result()
    assert io.close(1)
    assert io.close(1)
    assert store.closed == 1
    with pytest.raises(Closed):
        io.start()


def test_a_driver_is_started_once() -> None:
    with driver() as io:
        with pytest.raises(Closed, match="started before"):
            io.start()
        assert ask(io, 1) == 1


def test_a_close_during_a_long_commit_is_bounded(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(base, "FLUSH_SECONDS", 0.05)
    release, begun = ThreadWaiter(), ThreadWaiter()

    @dataclasses.dataclass
    class Slow(MemoryStore):
        def commit(self, writes: object) -> None:
            begun.wake()
            release.wait(PATIENCE_S)

    with driver(journal=Slow()) as io, caplog.at_level(logging.WARNING):
        # In a thread of its own: with one driver the caller's commits.
        caller = threading.Thread(target=io.submit, args=(raw(io).store, 1, b"x", io.ticket()))
        caller.start()
        assert begun.wait(PATIENCE_S)
        assert io.close(0) is False
        assert "left behind" in caplog.text
        release.wake()
        assert wait(io.ended, PATIENCE_S) is True
        caller.join(PATIENCE_S)


def test_a_core_that_raises_in_close_is_closed_all_the_same() -> None:
    core = RawCore()
    core.raises["close"] = 1
    with driver(core) as io:
        assert io.close(None) is False


def test_a_probe_of_a_live_process_is_answered_when_it_dies() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with child, driver() as io:
        stat = hosts._stat(child.pid)
        assert stat is not None
        probe = Probe("key", hosts.host_id(), child.pid, stat.started)
        elsewhere = Probe("elsewhere", "another-host", child.pid, "1")
        io.submit(raw(io).probe, elsewhere)
        io.submit(raw(io).probe, probe)
        assert ask(io, 1) == 1
        assert len(io.mailbox) == 0
        child.kill()
        assert take(io) == Gone("key")
