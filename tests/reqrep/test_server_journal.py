"""The server's journal: what is stored before a handler runs, what a restart knows, and journals that fail."""

from __future__ import annotations

import random

import pytest

from tests.reqrep.serving import Serving
from zmqkit.errors import CommitIndeterminate, JournalDamaged, JournalFull
from zmqkit.events import JournalRecovered, JournalTrouble
from zmqkit.options import Window
from zmqkit.patterns.reqrep import calls, wire
from zmqkit.patterns.reqrep.calls import Execution
from zmqkit.patterns.reqrep.rows import CALLS, read_call
from zmqkit.protocol.core import Row


def durable(**more: object) -> Serving:
    return Serving(durable=True, **more)  # type: ignore[arg-type]


def kinds(serving: Serving) -> list[tuple[str, int]]:
    """What the journal holds: (kind, number)."""
    rows = serving.server.rows.get(CALLS, {})
    found = [read_call(Row(key, weight, value)) for key, (weight, value) in sorted(rows.items())]
    return [(each.kind, each.number) for each in found]


def fail(serving: Serving, error: Exception) -> None:
    """The commit of what is being written fails."""
    core = serving.core
    core.end_turn(serving.pair.now)
    assert core.out.writes
    core.out.writes.clear()
    core.store_failed(core.out.written, error, serving.pair.now)
    serving.server.storing = True
    serving.pair.flow()


def test_a_call_is_started_only_when_that_is_stored() -> None:
    serving = durable()
    serving.server.storing = False
    serving.call(1)
    assert serving.items() == []
    serving.server.storing = True
    serving.pair.flow()
    execution = serving.item()
    assert kinds(serving) == [("started", 1)]
    serving.finish(execution)
    assert kinds(serving) == [("done", 1)]


def test_what_is_idempotent_needs_no_journal() -> None:
    serving = durable()
    serving.server.storing = False
    serving.call(1, "look")
    serving.finish(serving.item())
    assert serving.take() == [("RESULT", 1, None, b"result")]
    assert kinds(serving) == []


def test_a_call_that_waits_to_be_stored_counts_as_running() -> None:
    serving = durable(capacity=1)
    serving.server.storing = False
    serving.call(1)
    serving.call(2)
    serving.server.storing = True
    serving.pair.flow()
    assert serving.item().number == 1


@pytest.mark.parametrize("end", ["cancel", "lost", "drain", "late"])
def test_a_call_that_ends_while_its_start_is_stored_is_never_started(end: str) -> None:
    serving = durable(capacity=1)
    serving.server.storing = False
    serving.call(1, remaining=1.0)
    if end == "cancel":
        serving.send([[wire.CANCEL, 1, None]])
    elif end == "lost":
        serving.pair.disconnect()
        serving.pair.advance(20.0)
    elif end == "drain":
        serving.do("drain")
    else:
        serving.pair.now += 2.0
    serving.server.storing = True
    serving.pair.flow()
    assert serving.items() == []
    assert serving.core.running == 0
    if end != "lost":
        assert serving.take()[-1][:2] == ("REFUSED", 1)
    if end == "drain":
        assert kinds(serving) == []
    elif end != "lost":
        serving.call(1)
        assert serving.item().number == 1
        assert kinds(serving) == [("started", 1)]


def test_the_start_of_what_its_handler_refused_is_taken_back_at_once() -> None:
    serving = durable()
    serving.call(1, id="order-1")
    serving.finish(serving.item(), b"", calls.REFUSED, code="arguments")
    assert kinds(serving) == []
    again = serving.restart()
    again.call(2, id="order-1")
    assert again.item().number == 2


def test_what_was_closed_is_deleted_in_company() -> None:
    serving = durable()
    for number in (1, 2, 3):
        serving.floor = number
        serving.call(number)
        serving.finish(serving.item())
    assert kinds(serving) == [("done", 3)]
    serving.floor = 4
    serving.call(4, "look")
    assert kinds(serving) == [("done", 3)]
    serving.do("drain")
    assert kinds(serving) == []


# ---- restarts --------------------------------------------------------------------


def test_a_reply_survives_a_restart() -> None:
    serving = durable()
    serving.call(1, id="order-1")
    serving.finish(serving.item(), b"done")
    again = serving.restart()
    again.call(1, attempt=2)
    again.call(8, id="order-1")
    assert again.take() == [("RESULT", 1, None, b"done"), ("RESULT", 8, None, b"done")]
    assert again.items() == []


def test_a_call_that_was_started_before_a_crash_is_unknown_for_ever() -> None:
    serving = durable()
    serving.call(1, id="order-1")
    again = serving.restart()
    for number, id in ((1, ""), (2, "order-1"), (1, "order-1")):
        again.call(number, id=id)
        assert again.take()[0][:3] == ("UNKNOWN", number, "started")
    assert again.items() == []
    assert kinds(again) == [("started", 1)]
    again.do("drain")
    again.call(1)
    assert again.take()[-1][:3] == ("UNKNOWN", 1, "started")


def test_a_started_call_may_be_looked_up() -> None:
    serving = durable()
    serving.call(1)
    again = serving.restart(looks_up=True)
    again.call(1, attempt=2)
    execution = again.item()
    assert execution.only_look_up
    again.finish(execution, b"", calls.UNKNOWN, code="started", message="not found")
    assert again.take() == [("UNKNOWN", 1, "started", "not found", b"")]
    again.call(1)
    execution = again.item()
    assert execution.only_look_up
    again.finish(execution, b"found")
    again.call(1)
    assert again.take() == [("RESULT", 1, None, b"found")] * 2
    assert kinds(again) == [("done", 1)]


@pytest.mark.parametrize("end", ["late", "cancel", "drain", "refused"])
def test_a_look_up_that_does_not_happen_never_says_that_nothing_was_executed(end: str) -> None:
    serving = durable()
    serving.call(1)
    again = serving.restart(looks_up=True, capacity=1)
    if end != "refused":
        again.call(5)
    again.call(1, remaining=1.0)
    running = again.item()
    if end == "late":
        again.pair.advance(2.0)
        again.finish(running)
    elif end == "cancel":
        again.send([[wire.CANCEL, 1, None]])
    elif end == "drain":
        again.do("drain")
    else:
        again.finish(running, b"", calls.REFUSED, code="overloaded")
    assert [each[:3] for each in again.take() if each[1] == 1] == [("UNKNOWN", 1, "started")]
    assert ("started", 1) in kinds(again)
    assert again.core.window.clients[b"k" * 16].entries[1].answer.code == "dropped"
    again.call(1)


def test_what_was_evicted_is_expired_after_a_restart_too() -> None:
    serving = durable(window=Window(count=2))
    for number in range(1, 6):
        serving.call(number)
        serving.finish(serving.item())
    serving.do("drain")  # nothing waits for company any more
    again = serving.restart()
    assert [each for each in kinds(again) if each[0] != "floor"] == [("done", 4), ("done", 5)]
    for number in range(1, 6):
        again.call(number)
    assert [(each[0], each[1]) for each in again.take()] == [
        ("UNKNOWN", 1), ("UNKNOWN", 2), ("UNKNOWN", 3), ("RESULT", 4), ("RESULT", 5),
    ]  # fmt: skip
    once_more = again.restart()
    once_more.call(3)
    assert once_more.take()[0][:3] == ("UNKNOWN", 3, "expired")


def test_a_tombstone_survives_a_restart() -> None:
    serving = durable(window=Window(size_bytes=50_000))
    for number in (1, 2, 3):
        serving.call(number)
        serving.finish(serving.item(), b"x" * 20_000)
    again = serving.restart()
    again.call(1)
    again.call(2)
    assert [each[:3] for each in again.take()] == [("UNKNOWN", 1, "dropped"), ("RESULT", 2, None)]


def test_what_the_journal_knows_is_forgotten_after_the_windows_seconds() -> None:
    serving = durable(window=Window(seconds=10.0))
    serving.call(1)
    serving.call(2)
    serving.finish(serving.items()[1])
    again = serving.restart()
    again.pair.advance(20.0)
    again.call(3)
    assert again.core.window.count == 0
    assert [each for each in kinds(again) if each[0] != "started"] == [("floor", 2)]
    again.call(1)
    assert again.take()[-1][:3] == ("UNKNOWN", 1, "expired")


@pytest.mark.parametrize("value", [b"", b"\0\0\0\1\x90", b"garbage" * 3])
def test_a_row_that_cannot_be_read_is_damage(value: bytes) -> None:
    with pytest.raises(JournalDamaged):
        Serving(durable=True, rows=[Row(1, 1, value)])


# ---- journals that fail ----------------------------------------------------------


def test_a_full_journal_refuses_calls_and_is_tried_again() -> None:
    serving = durable()
    serving.server.storing = False
    serving.call(1)
    fail(serving, JournalFull("the disk is full"))
    ((op, number, code, message, _),) = serving.take()
    assert (op, number, code) == ("REFUSED", 1, "journal")
    assert "full" in message
    assert serving.items() == []
    serving.call(2)
    assert serving.take()[0][:3] == ("REFUSED", 2, "journal")
    serving.call(3, "look")
    serving.finish(serving.item())
    serving.take()
    serving.pair.advance(1.1)
    serving.call(1)
    assert serving.item().number == 1
    assert [type(each) for each in serving.server.events if isinstance(each, JournalTrouble | JournalRecovered)] == [
        JournalTrouble, JournalRecovered,
    ]  # fmt: skip


def test_a_reply_that_a_full_journal_did_not_take_is_written_later() -> None:
    serving = durable()
    serving.call(1)
    execution = serving.item()
    serving.server.storing = False
    serving.finish(execution)
    fail(serving, JournalFull("the disk is full"))
    assert serving.take() == [("RESULT", 1, None, b"result")]
    assert kinds(serving) == [("started", 1)]
    serving.pair.advance(1.1)
    assert kinds(serving) == [("done", 1)]


def test_after_a_commit_whose_outcome_is_unknown_only_what_is_idempotent_goes_on() -> None:
    serving = durable()
    serving.call(1)
    running = serving.item()
    serving.server.storing = False
    serving.call(2)
    fail(serving, CommitIndeterminate("who knows"))
    assert serving.take()[0][:3] == ("REFUSED", 2, "journal")
    serving.pair.advance(5.0)
    serving.call(3)
    assert serving.take()[0][:3] == ("REFUSED", 3, "journal")
    serving.call(4, "look")
    serving.finish(serving.item())
    serving.finish(running, b"from memory")
    serving.call(1)
    assert [each[-1] for each in serving.take()] == [b"result", b"from memory", b"from memory"]
    assert serving.core.running == 0
    assert not serving.core.out.writes


def test_a_call_is_executed_at_most_once_a_journal_whatever_crashes() -> None:
    """Random calls, repeats, closes, crashes and full disks, in windows so small that much is evicted."""
    for seed in range(40):
        rng = random.Random(seed)
        window = Window(count=rng.choice([2, 5, 50]), size_bytes=rng.choice([500, 60_000]), seconds=rng.choice([1, 60]))
        serving = durable(window=window, capacity=2)
        started: dict[int, int] = {}
        results: dict[int, set[bytes]] = {}
        running: list[Execution] = []
        floor, number = 1, 0
        for _ in range(100):
            dice = rng.random()
            if dice < 0.35:
                number += 1
                serving.call(number)
            elif dice < 0.5 and floor <= number:
                serving.call(rng.randint(floor, number), attempt=2)
            elif dice < 0.55:
                floor = serving.floor = rng.randint(floor, number + 1)
            elif dice < 0.62:
                serving = serving.restart(capacity=2)
                serving.floor = floor
                running = []
            elif dice < 0.66:
                serving.server.storing = False
                serving.call(number + 1)
                serving.core.end_turn(serving.pair.now)
                if serving.core.out.writes:
                    fail(serving, JournalFull("full"))
                serving.server.storing = True
                number += 1
            elif dice < 0.9 and running:
                execution = running.pop(rng.randrange(len(running)))
                serving.finish(execution, b"%d" % execution.number + b"x" * rng.choice([0, 300, 20_000]))
            serving.pair.advance(rng.choice([0.01, 0.01, 0.5]))
            for execution in serving.items():
                started[execution.number] = started.get(execution.number, 0) + 1
                running.append(execution)
            for each in serving.take():
                if each[0] == "RESULT":
                    results.setdefault(each[1], set()).add(each[-1])
        assert started, seed
        assert set(started.values()) == {1}, f"seed {seed}: {started}"
        assert all(len(each) == 1 for each in results.values()), seed
        assert serving.count("frames_bad") == 0
