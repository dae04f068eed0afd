"""The server's core under virtual time: calls that come once, twice, late, too many."""

from __future__ import annotations

import random

import pytest

from tests.reqrep.serving import Serving, refused
from zmqkit.options import Limits
from zmqkit.patterns.reqrep import calls, wire
from zmqkit.patterns.reqrep.calls import Answer, Eaten, Execution

# ---- one call --------------------------------------------------------------------


def test_a_call_is_executed_and_answered() -> None:
    serving = Serving()
    serving.call(1, "add", b"1+1")
    (execution,) = serving.items()
    assert (execution.method, execution.body, execution.number, execution.deadline) == ("add", b"1+1", 1, None)
    assert serving.take() == []
    serving.finish(execution, b"2")
    assert serving.take() == [("RESULT", 1, None, b"2")]
    assert serving.server.rows == {}


def test_an_execution_knows_what_its_call_said() -> None:
    serving = Serving()
    serving.call(7, remaining=5.0, id="order-1", headers={"a": "b"}, attempt=3, codec="json")
    execution = serving.item()
    assert (execution.id, execution.headers, execution.attempt, execution.codec) == ("order-1", {"a": "b"}, 3, "json")
    assert (execution.client, execution.number, execution.deadline) == (b"k" * 16, 7, serving.pair.now + 5.0)
    assert execution.session in list(serving.core.sessions)


def test_a_client_is_told_which_methods_are_idempotent() -> None:
    serving = Serving()
    serving.client(b"z" * 16)
    session = next(iter(serving.core.sessions))
    caller = serving.core._callers[session.id]
    serving.core.opened(session, serving.pair.now)
    serving.pair.flow()
    (told,) = [each for each in serving.hand.core.got if each[0] == "METHODS"]
    assert wire.names(told[-1]) == {"look"}
    assert caller.client.key == b"z" * 16


@pytest.mark.parametrize("kind", [calls.ERROR, calls.UNKNOWN])
def test_other_ends_are_told_and_kept(kind: int) -> None:
    serving = Serving()
    serving.call(1)
    serving.finish(serving.item(), b"why", kind, code="c", message="m")
    (first,) = serving.take()
    assert first == (("ERROR", 1, b"why") if kind == calls.ERROR else ("UNKNOWN", 1, "c", "m", b""))
    serving.call(1)
    assert serving.take() == [first]
    assert serving.items() == []


def test_what_a_handler_refuses_was_not_executed_and_may_be_called_again() -> None:
    serving = Serving()
    serving.call(1, id="x")
    serving.finish(serving.item(), b"", calls.REFUSED, code="arguments", message="two, not one")
    assert serving.take() == [("REFUSED", 1, "arguments", "two, not one", b"")]
    assert serving.count("calls_refused_arguments") == 1
    serving.call(1, id="x")
    assert serving.item().number == 1


def test_finishing_twice_or_after_a_repeated_call_changes_nothing() -> None:
    serving = Serving()
    serving.call(1)
    execution = serving.item()
    serving.finish(execution)
    serving.finish(execution, b"other")
    assert serving.take() == [("RESULT", 1, None, b"result")]
    assert serving.core.running == 0


def test_a_reply_that_its_client_cannot_take_is_an_error_that_says_so() -> None:
    serving = Serving()
    (caller,) = serving.core._callers.values()
    caller.largest = 100
    serving.call(1)
    serving.finish(serving.item(), b"x" * 101)
    ((op, number, body),) = serving.take()
    assert (op, number) == ("ERROR", 1)
    assert b"executed" in body


def test_small_replies_share_a_frame_that_the_client_takes() -> None:
    serving = Serving(capacity=1000)
    (caller,) = serving.core._callers.values()
    caller.most = 10_000
    serving.send([serving.record(number) for number in range(1, 31)])
    for execution in serving.items():
        serving.core.finish(execution, Answer(calls.RESULT, b"x" * 1000), serving.pair.now)
    serving.core.end_turn(serving.pair.now)
    sizes = [sum(map(len, frames)) for _, frames in serving.core.out.sends]
    assert len(sizes) >= 3
    assert max(sizes) <= 10_000 + 1_000
    serving.pair.flow()
    assert len(serving.take()) == 30


# ---- calls that come again -------------------------------------------------------


def test_a_call_that_is_repeated_is_answered_again_and_not_executed() -> None:
    serving = Serving()
    serving.call(1)
    (execution,) = serving.items()
    serving.call(1)
    assert serving.items() == []
    serving.finish(execution)
    assert serving.take() == [("RESULT", 1, None, b"result")]
    serving.call(1)
    assert serving.items() == []
    assert serving.take() == [("RESULT", 1, None, b"result")]


def test_a_call_repeated_in_a_new_session_is_answered_there_when_it_ends() -> None:
    serving = Serving()
    serving.call(1)
    execution = serving.item()
    serving.client()
    serving.call(1, attempt=2)
    assert serving.items() == []
    assert not execution.cancelled
    serving.finish(execution)
    assert serving.take() == [("RESULT", 1, None, b"result")]


def test_a_call_that_ended_while_its_client_was_away_is_answered_when_it_asks() -> None:
    serving = Serving()
    serving.call(1)
    execution = serving.item()
    serving.pair.disconnect()
    serving.pair.advance(20.0)
    serving.finish(execution)
    serving.client()
    serving.call(1, attempt=2)
    assert serving.take() == [("RESULT", 1, None, b"result")]
    assert serving.items() == []


def test_a_call_of_another_client_is_another_call() -> None:
    serving = Serving()
    serving.call(1)
    serving.finish(serving.item())
    serving.client(b"other-----------")
    serving.call(1)
    assert serving.item().client == b"other-----------"


def test_a_number_that_is_that_of_another_method_is_refused() -> None:
    serving = Serving()
    serving.call(1, "add")
    serving.finish(serving.item())
    serving.take()
    serving.call(1, "look")
    assert refused("id", serving) == [1]


def test_a_number_that_is_in_use_for_another_method_is_bad() -> None:
    serving = Serving()
    serving.call(1, "add")
    serving.call(1, "look")
    assert serving.take() == []
    assert serving.count("frames_bad") == 1
    serving.finish(serving.item())
    assert serving.take() == [("RESULT", 1, None, b"result")]


def test_a_call_for_another_epoch_is_refused_and_changes_nothing() -> None:
    serving = Serving()
    serving.send([serving.record(1)], epoch=b"f" * 16)
    assert refused("epoch", serving) == [1]
    assert serving.items() == []


def test_a_closed_call_is_forgotten_and_its_number_never_executed() -> None:
    serving = Serving()
    serving.call(1)
    serving.finish(serving.item())
    serving.floor = 2
    serving.call(2)
    assert serving.core.window.count == 0
    serving.take()
    serving.call(1)
    assert serving.take()[0][:3] == ("UNKNOWN", 1, "expired")


def test_a_call_that_ends_after_its_client_closed_it_is_not_kept() -> None:
    serving = Serving()
    serving.call(1)
    execution = serving.item()
    serving.floor = 5
    serving.call(5)
    serving.finish(execution)
    assert serving.core.window.count == 0
    assert next(iter(serving.core._callers.values())).client.entries.keys() == {5}


# ---- request ids -----------------------------------------------------------------


def test_a_request_id_is_looked_up_whoever_asks() -> None:
    serving = Serving()
    serving.call(1, id="order-1")
    serving.finish(serving.item(), b"done")
    serving.floor = 9
    serving.call(9, id="order-1")
    assert [each[1] for each in serving.take()] == [1, 9]
    serving.client(b"other-----------")
    serving.call(3, id="order-1")
    assert serving.take() == [("RESULT", 3, None, b"done")]
    assert serving.items() == []


def test_all_who_ask_for_an_id_while_it_runs_are_answered() -> None:
    serving = Serving()
    serving.call(1, id="order-1")
    execution = serving.item()
    serving.call(2, id="order-1")
    serving.call(2, id="order-1")
    assert serving.items() == []
    serving.finish(execution, b"done")
    assert sorted(serving.take()) == [("RESULT", 1, None, b"done"), ("RESULT", 2, None, b"done")]
    (caller,) = serving.core._callers.values()
    assert not caller.open
    assert caller.client.entries.keys() == {1}
    serving.pair.advance(1.0)
    assert caller.open_calls == 0


def test_an_id_of_another_method_is_refused() -> None:
    serving = Serving()
    serving.call(1, "add", id="order-1")
    serving.call(2, "look", id="order-1")
    assert refused("id", serving) == [2]


def test_a_call_runs_as_long_as_anybody_waits_for_its_id() -> None:
    serving = Serving()
    serving.call(1, id="x")
    execution = serving.item()
    serving.call(2, id="x")
    serving.send([[wire.CANCEL, 1, None]])
    assert not execution.cancelled
    serving.send([[wire.CANCEL, 2, None]])
    assert execution.cancelled
    assert refused("cancelled", serving) == [2]


def test_who_cancels_and_asks_again_waits_again() -> None:
    serving = Serving()
    serving.call(1, id="x")
    execution = serving.item()
    serving.call(2, id="x")
    serving.send([[wire.CANCEL, 1, None]])
    serving.client()
    serving.call(1, id="x", attempt=2)
    serving.call(2, id="x", attempt=2)
    serving.send([[wire.CANCEL, 2, None]])
    assert not execution.cancelled
    assert refused("cancelled", serving) == [2]
    serving.finish(execution)
    assert serving.take() == [("RESULT", 1, None, b"result")]


def test_too_many_who_ask_for_one_id_are_never_told_that_nothing_was_executed() -> None:
    serving = Serving()
    serving.call(1, id="x")
    serving.send([serving.record(number, id="x") for number in range(2, 200)])
    got = serving.take()
    assert len(got) == 98
    assert {each[0] for each in got} == {"UNKNOWN"}


# ---- time ------------------------------------------------------------------------


def test_a_call_whose_time_is_over_when_it_comes_is_refused() -> None:
    serving = Serving()
    serving.call(1, remaining=0.0)
    assert refused("late", serving) == [1]
    assert serving.items() == []


def test_a_call_whose_time_was_eaten_on_the_way_is_refused() -> None:
    serving = Serving()
    serving.call(1)
    stamp = serving.pair.now
    serving.server.paused = True
    serving.send([serving.record(2, remaining=1.0), serving.record(3, remaining=5.0)])
    serving.pair.now += 2.0  # a stopped process: its clock goes on
    serving.server.paused = False
    serving.pair.flow()
    assert refused("late", serving) == [2]
    assert serving.items()[1].deadline == pytest.approx(stamp + 5.0, abs=0.01)


def test_a_call_that_waited_too_long_for_its_turn_is_refused() -> None:
    serving = Serving(capacity=1)
    serving.call(1)
    first = serving.item()
    serving.call(2, remaining=1.0)
    serving.pair.advance(1.5)
    serving.finish(first)
    assert serving.items() == []
    assert [each[:3] for each in serving.take()] == [("RESULT", 1, None), ("REFUSED", 2, "late")]


def test_clocks_that_drift_apart_eat_no_time() -> None:
    eaten = Eaten()
    worst = max(eaten.of(stamp=at * (1 - 400e-6), now=at) for at in map(float, range(0, 1_000_000, 100)))
    assert worst < 1e-6
    assert eaten.of(stamp=1_000_000 * (1 - 400e-6) - 5.0, now=1_000_000.0) == pytest.approx(5.0, abs=0.2)


def test_a_clock_that_leaps_eats_time_for_a_minute_at_most() -> None:
    eaten = Eaten()
    assert eaten.of(stamp=0.0, now=100.0) == 0.0
    assert eaten.of(stamp=1.0, now=101.0 + 5.0) == pytest.approx(5.0, abs=0.01)
    found = [eaten.of(stamp=float(at), now=100.0 + at + 5.0) for at in range(2, 70)]
    assert found[0] == pytest.approx(5.0, abs=0.01)
    assert found[60:] == [0.0] * 8
    assert eaten.of(stamp=70.0, now=100.0 + 70.0 + 5.0 + 2.0) == pytest.approx(2.0, abs=0.01)


# ---- the queue -------------------------------------------------------------------


def test_no_more_than_the_capacity_run_and_others_follow_in_order() -> None:
    serving = Serving(capacity=2)
    serving.send([serving.record(number) for number in range(1, 6)])
    running = serving.items()
    assert [each.number for each in running] == [1, 2]
    serving.finish(running[1])
    serving.finish(running[0])
    assert [each.number for each in serving.items()] == [3, 4]


def test_a_method_takes_no_more_at_once_than_it_says() -> None:
    serving = Serving(capacity=5)
    serving.call(1, "one")
    serving.call(2, "one")
    assert refused("overloaded", serving) == [2]
    serving.call(3, "add")
    first, _ = serving.items()
    serving.finish(first)
    serving.take()
    serving.call(2, "one")
    assert serving.item().number == 2
    assert serving.take() == []


def test_a_full_queue_refuses_by_count_and_by_bytes() -> None:
    serving = Serving(capacity=1, limits=Limits(queued_messages=2))
    serving.send([serving.record(number) for number in (1, 2, 3, 4)])
    assert refused("overloaded", serving) == [4]
    serving = Serving(capacity=1, limits=Limits(queued_bytes=1000))
    for number in (1, 2, 3):
        serving.call(number, body=b"x" * 600)
    assert refused("overloaded", serving) == [3]
    assert (serving.core.waiting, serving.core.waiting_bytes) == (1, 600)


def test_headers_count_as_bytes() -> None:
    serving = Serving(capacity=1, limits=Limits(queued_bytes=1000))
    serving.call(1)
    serving.call(2, headers={"a": "x" * 900})
    serving.call(3)
    assert refused("overloaded", serving) == [3]


def test_an_unknown_method_is_refused_by_name() -> None:
    serving = Serving()
    serving.call(1, "nothing")
    ((_, _, code, message, _),) = serving.take()
    assert code == "method"
    assert "nothing" in message


def test_credit_comes_back_when_answers_are_heard_and_is_never_exceeded() -> None:
    serving = Serving(capacity=3, credit=10, credit_bytes=4096)
    (session,) = serving.hand.core.sessions
    number = 0
    rng = random.Random(1)
    running: list[Execution] = []
    for _ in range(400):
        room = session.room_messages
        for _ in range(min(room, rng.randint(1, 5))):
            number += 1
            serving.call(number, body=b"x" * rng.randint(0, 300))
        running += serving.items()
        rng.shuffle(running)
        while running and rng.random() < 0.8:
            serving.finish(running.pop())
            running += serving.items()
        serving.pair.advance(0.05)
        serving.take()
    while running:
        serving.finish(running.pop())
        running += serving.items()
        serving.pair.advance(0.05)
    assert serving.count("credit_exceeded") == 0
    assert number > 300
    serving.call(number + 1, "nothing")
    serving.pair.advance(1.0)
    assert session.room_messages >= 7
    (caller,) = serving.core._callers.values()
    assert (caller.open_calls, caller.open_bytes) == (0, 0)


def test_a_message_with_more_calls_than_it_counts_is_bad() -> None:
    serving = Serving()
    serving.send([serving.record(1), serving.record(2)], messages=1)
    assert serving.items() == []
    assert serving.count("frames_bad") == 1


def test_a_client_that_takes_no_answers_gets_no_more_executed() -> None:
    serving = Serving(capacity=1, limits=Limits(queued_bytes=10_000))
    serving.call(1)
    serving.call(2)
    serving.pair.connected = False  # and nobody has noticed
    serving.finish(serving.item(), b"x" * 20_000)
    assert serving.items() == []
    serving.pair.connected = True
    serving.pair.advance(3.0)
    assert [each[:3] for each in serving.take()] == [("RESULT", 1, None), ("REFUSED", 2, "overloaded")]
    serving.call(3)
    assert serving.item().number == 3


def test_what_a_lost_client_did_not_take_holds_nobody_up() -> None:
    serving = Serving(capacity=1, limits=Limits(queued_bytes=10_000))
    serving.call(1)
    serving.pair.connected = False
    serving.finish(serving.item(), b"x" * 20_000)
    serving.client(b"other-----------")
    serving.call(1)
    assert serving.item().client == b"other-----------"


def test_what_a_client_of_which_too_much_is_forgotten_repeats_is_expired() -> None:
    serving = Serving()
    serving.core.window._forgot = True  # as after very many clients
    serving.client(b"other-----------")
    serving.call(4, attempt=2)
    assert serving.take()[0][:3] == ("UNKNOWN", 4, "expired")
    serving.call(5)
    assert serving.item().number == 5
