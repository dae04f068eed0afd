"""The server's core under virtual time: cancels, clients that go and come back, draining, closing, garbage."""

from __future__ import annotations

import random
from typing import Any

from tests.reqrep.serving import EPOCH, METHODS, Serving, Upload, refused
from zmqkit.patterns.reqrep import calls, wire
from zmqkit.patterns.reqrep.calls import Answer, Execution
from zmqkit.protocol import wire as protocol

# ---- cancelling ------------------------------------------------------------------


def test_a_waiting_call_that_is_cancelled_is_never_started() -> None:
    serving = Serving(capacity=1)
    serving.call(1)
    first = serving.item()
    serving.call(2)
    serving.send([[wire.CANCEL, 2, None]])
    assert refused("cancelled", serving) == [2]
    serving.finish(first)
    assert serving.items() == []
    assert serving.core.waiting == 0


def test_a_running_call_that_is_cancelled_is_told_and_its_end_still_answered() -> None:
    serving = Serving()
    serving.call(1)
    execution = serving.item()
    serving.do("watch", execution, "ticket")
    assert "ticket" not in serving.server.replies
    serving.send([[wire.CANCEL, 1, None], [wire.CANCEL, 1, None]])
    assert execution.cancelled
    assert serving.server.replies["ticket"] is None
    serving.do("watch", execution, "later")
    assert serving.server.replies["later"] is None
    serving.finish(execution)
    assert serving.take() == [("RESULT", 1, None, b"result")]
    serving.send([[wire.CANCEL, 1, None], [wire.CANCEL, 77, None]])


def test_calls_and_cancels_by_the_thousand_leave_nothing_behind() -> None:
    serving = Serving(capacity=1)
    serving.call(1)
    for number in range(2, 8000, 2):
        serving.send([serving.record(number), [wire.CANCEL, number, None]])
    assert serving.core.waiting == 0
    assert len(serving.core._queue) < 1200
    (caller,) = serving.core._callers.values()
    assert len(caller.client.entries) == 1


# ---- clients that are lost -------------------------------------------------------


def test_waiting_calls_of_a_lost_client_are_dropped_and_running_ones_go_on() -> None:
    serving = Serving(capacity=1)
    serving.call(1)
    first = serving.item()
    serving.call(2)
    serving.pair.disconnect()
    serving.pair.advance(20.0)
    assert not first.cancelled
    assert serving.core.waiting == 0
    serving.finish(first)
    assert serving.items() == []
    assert serving.count("calls_dropped") == 1


def test_nothing_of_a_lost_client_is_started_in_the_place_of_what_was_dropped() -> None:
    serving = Serving(capacity=1, durable=True)
    serving.server.storing = False
    for number in (1, 2, 3):
        serving.call(number)
    serving.pair.disconnect()
    serving.pair.advance(20.0)
    serving.server.storing = True
    serving.pair.flow()
    assert serving.items() == []
    assert (serving.core.running, serving.core.waiting) == (0, 0)


def test_a_call_that_was_dropped_with_its_client_is_executed_when_it_comes_again() -> None:
    serving = Serving(capacity=1)
    serving.call(1)
    first = serving.item()
    serving.call(2)
    serving.client()
    serving.finish(first)
    serving.call(2, attempt=2)
    assert serving.item().number == 2


def test_a_client_that_closes_for_good_leaves_nothing() -> None:
    serving = Serving(key=b"client----------")  # its instance
    serving.call(1)
    serving.finish(serving.item())
    serving.call(2)
    second = serving.item()
    serving.hand.core.close(serving.pair.now)
    serving.pair.flow()
    assert serving.core.window.count == 0
    serving.finish(second)
    assert not serving.core.window.clients


# ---- draining and closing --------------------------------------------------------


def test_a_draining_server_finishes_what_runs_and_refuses_the_rest() -> None:
    serving = Serving(capacity=1)
    serving.call(1)
    first = serving.item()
    serving.call(2)
    serving.do("drain")
    serving.do("drain")
    assert [each[:3] for each in serving.take()] == [("DRAINING", 0, b""), ("REFUSED", 2, "draining")]
    serving.call(3)
    assert refused("draining", serving) == [3]
    serving.finish(first)
    assert serving.take() == [("RESULT", 1, None, b"result")]
    serving.call(1)
    assert serving.take() == [("RESULT", 1, None, b"result")]


def test_a_new_client_of_a_draining_server_is_told() -> None:
    serving = Serving()
    serving.do("drain")
    serving.take()
    serving.pair.disconnect()
    serving.pair.advance(20.0)
    serving.pair.connect()
    serving.pair.advance(1.0)
    assert ("DRAINING", 0, b"") in serving.take()


def test_close_waits_for_what_runs_and_for_its_answers() -> None:
    serving = Serving()
    serving.call(1)
    first = serving.item()
    serving.pair.call(serving.server, "close")
    assert not serving.core.finished
    serving.finish(first)
    serving.pair.advance(1.0)
    assert serving.core.finished
    assert ("RESULT", 1, None, b"result") in serving.take()
    assert serving.hand.core.counters["sessions_lost"] == 1


def test_close_ends_although_a_client_hears_nothing() -> None:
    serving = Serving()
    serving.call(1)
    first = serving.item()
    serving.hand.paused = True
    serving.pair.call(serving.server, "close")
    serving.core.finish(first, Answer(calls.RESULT), serving.pair.now)
    serving.pair.turn()
    assert not serving.core.finished
    serving.pair.advance(3.1)
    assert serving.core.finished


def test_close_with_nothing_running_ends_and_a_second_close_ends_at_once() -> None:
    idle = Serving()
    idle.pair.advance(1.0)
    idle.pair.call(idle.server, "close")
    idle.pair.advance(0.1)
    assert idle.core.finished
    busy = Serving()
    busy.call(1)
    busy.pair.call(busy.server, "close")
    assert not busy.core.finished
    busy.pair.call(busy.server, "close")
    assert busy.core.finished


# ---- garbage ---------------------------------------------------------------------


def test_a_bad_record_spoils_only_itself() -> None:
    serving = Serving(capacity=5)
    bad: list[wire.Record] = [
        [wire.CALL, 2, None, 7, None, 0.0, None],
        [wire.CALL, 3, None, "add", "soon", 0.0, None],
        [wire.CALL, 4, None, "add", None, 0.0, {"headers": 5}],
        [wire.CALL, 0, None, "add", None, 0.0, None],
        [wire.GRANT, 1, None, "many"],
    ]
    serving.send([serving.record(1, items=3), *bad, serving.record(5)])
    assert [each.number for each in serving.items()] == [1, 5]
    assert sorted(refused("record", serving)) == [0, 2, 3, 4]
    assert serving.count("frames_bad") == 5
    assert len(serving.core.sessions) == 1


def test_a_bad_record_of_a_running_call_does_not_say_that_nothing_was_executed() -> None:
    serving = Serving()
    serving.call(1)
    serving.send([[wire.CALL, 1, None, 7, None, 0.0, None]])
    assert serving.take() == []
    serving.finish(serving.item())
    assert serving.take() == [("RESULT", 1, None, b"result")]


def test_garbage_of_any_kind_is_counted_and_the_session_goes_on() -> None:
    rng = random.Random(5)
    serving = Serving(capacity=100, make_upload=Upload)
    values: list[Any] = [None, 0, 1, -1, 2**62, 1.5, "", "add", b"", [], {}, {"items": -1}, {"id": "x"}, True]
    for _ in range(3000):
        count = rng.randint(0, 8)
        record = [rng.choice([*range(14), *values]), rng.choice([*range(5), *values]), None]
        record += [rng.choice(values) for _ in range(count)]
        (session,) = serving.hand.core.sessions
        head = protocol.pack([rng.choice([EPOCH, b""]), rng.choice([0, 1, 3, 2**40]), [record]])
        serving.hand.core.sessions.send(session, [head, rng.choice([b"", b"x"])], 1, serving.pair.now)
        serving.pair.flow()
        serving.core.out.disconnects.clear()
        for execution in serving.items():
            serving.finish(execution)
    assert serving.count("frames_bad") > 1000
    serving.floor = 2**41
    serving.call(2**41)
    assert serving.item().number == 2**41


def test_calls_are_executed_at_most_once_whatever_breaks() -> None:
    """Random calls, repeats, cancels, breaks and ends: one execution a number, one answer a sending at most."""
    for seed in range(30):
        rng = random.Random(seed)
        serving = Serving(capacity=2, methods={**METHODS})
        done: dict[int, bytes] = {}
        started: set[int] = set()
        answered: dict[int, tuple[Any, ...]] = {}
        running: list[Execution] = []
        number = 0
        for step in range(120):
            dice = rng.random()
            if dice < 0.4:
                number += 1
                serving.call(number)
            elif dice < 0.55 and number:
                serving.call(rng.randint(max(1, number - 5), number))
            elif dice < 0.6 and number:
                serving.send([[wire.CANCEL, number, None]])
            elif dice < 0.65:
                serving.client(name=f"client {step}")
            elif dice < 0.9 and running:
                execution = running.pop(rng.randrange(len(running)))
                done[execution.number] = b"%d" % execution.number
                serving.finish(execution, done[execution.number])
            serving.pair.advance(0.01)
            for execution in serving.items():
                assert execution.number not in started, f"seed {seed}: {execution.number} was executed twice"
                started.add(execution.number)
                running.append(execution)
            for each in serving.take():
                if each[0] == "RESULT":
                    assert each[-1] == done[each[1]]
                    answered[each[1]] = each
        assert serving.core.running == len(running)
        assert serving.count("frames_bad") == 0
