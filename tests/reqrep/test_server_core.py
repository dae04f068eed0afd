"""The server's core under virtual time: calls that come once, twice, late, too many; clients that go and come back."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.reqrep.serving import EPOCH, METHODS, Serving, Upload
from zmqkit.options import Limits
from zmqkit.patterns.reqrep import calls, wire
from zmqkit.patterns.reqrep.calls import Answer, Eaten, Execution, Item
from zmqkit.patterns.reqrep.streams import AHEAD
from zmqkit.protocol import wire as protocol


def refused(code: str, serving: Serving) -> list[int]:
    """The numbers that were refused so; nothing else came."""
    got = serving.take()
    assert [each[0] for each in got] == ["REFUSED"] * len(got), got
    assert {each[2] for each in got} <= {code}, got
    return [each[1] for each in got]


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
    sent = [frames for _, frames in serving.core.out.sends if len(frames) > 1]
    assert max(len(frames[2]) for frames in sent) <= 10_000
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


# ---- streams ---------------------------------------------------------------------


def emit(serving: Serving, execution: Execution, *bodies: bytes) -> None:
    serving.do("emit", execution, [(body, "msgpack") for body in bodies])


def test_a_stream_is_numbered_counted_and_not_kept() -> None:
    serving = Serving()
    serving.call(1, items=2)
    execution = serving.item()
    assert (execution.items, execution.limit) == (2, 2)
    emit(serving, execution, b"a", b"b")
    serving.do("await_limit", execution, 1, "there")
    serving.do("await_limit", execution, 2, "more")
    assert serving.server.replies == {"there": None}
    serving.send([[wire.GRANT, 1, None, 5]])
    assert execution.limit == 5
    assert "more" in serving.server.replies
    emit(serving, execution, b"c")
    serving.finish(execution, b"", calls.DONE)
    assert serving.take() == [
        ("ITEM", 1, 0, None, b"a"), ("ITEM", 1, 1, None, b"b"), ("ITEM", 1, 2, None, b"c"), ("END", 1, 3, b""),
    ]  # fmt: skip
    serving.call(1, items=2)
    assert serving.take()[0][:3] == ("UNKNOWN", 1, "dropped")
    assert serving.items() == []


def test_a_stream_that_nobody_waits_for_is_cancelled_and_its_waiters_wake() -> None:
    for end in ("cancel", "lost"):
        serving = Serving()
        serving.call(1, items=1)
        execution = serving.item()
        serving.do("await_limit", execution, 1, "ticket")
        if end == "cancel":
            serving.send([[wire.CANCEL, 1, None]])
        else:
            serving.pair.disconnect()
            serving.pair.advance(20.0)
        assert execution.cancelled
        assert "ticket" in serving.server.replies
        emit(serving, execution, b"late")
        serving.finish(execution, b"", calls.DONE)
        assert serving.core.running == 0


def test_a_stream_is_not_far_ahead_of_a_client_that_grants_without_end() -> None:
    serving = Serving(limits=Limits(queued_bytes=100_000))
    serving.call(1, items=1 << 40)
    execution = serving.item()
    assert execution.limit == AHEAD
    serving.pair.connected = False  # nothing arrives, and nobody has noticed
    sent = 0
    while sent < execution.limit and sent < 10_000:
        serving.core.emit(execution, [(b"x" * 1000, "msgpack")], serving.pair.now)
        serving.pair.turn()
        sent += 1
    assert sent < 60 + AHEAD
    assert execution.limit == sent
    serving.core.await_limit(execution, sent, "ticket", serving.pair.now)
    serving.pair.connected = True
    serving.pair.advance(3.0)
    assert "ticket" in serving.server.replies
    assert execution.limit > sent


def test_an_item_that_its_client_cannot_take_ends_the_stream() -> None:
    serving = Serving()
    (caller,) = serving.core._callers.values()
    caller.largest = 100
    serving.call(1, items=5)
    execution = serving.item()
    emit(serving, execution, b"a", b"x" * 101, b"b")
    assert execution.cancelled
    serving.finish(execution, b"", calls.DONE)
    got = serving.take()
    assert [each[0] for each in got] == ["ITEM", "ERROR"]


# ---- uploads ---------------------------------------------------------------------


def uploading(**more: Any) -> tuple[Serving, Execution, Upload]:
    serving = Serving(make_upload=Upload)
    serving.call(1, uploads=[0], **more)
    execution = serving.item()
    assert isinstance(execution.upload, Upload)
    assert execution.uploads == (0,)
    serving.do("grant_upload", execution, 2)
    assert serving.take() == [("GRANT", 1, 2, b"")]
    return serving, execution, execution.upload


def item(number: int, index: int) -> wire.Record:
    return [wire.ITEM, number, None, index, None]


def test_an_upload_comes_in_order_and_ends() -> None:
    serving, execution, upload = uploading()
    serving.send([item(1, 0), item(1, 1)], [b"a", b"b"])
    serving.do("grant_upload", execution, 1)
    serving.do("grant_upload", execution, 4)
    serving.send([item(1, 2), [wire.END, 1, None, 3]], [b"c", None])
    assert upload.got == [Item(b"a", "msgpack"), Item(b"b", "msgpack"), Item(b"c", "msgpack"), Answer(calls.DONE)]
    serving.finish(execution)
    assert serving.take() == [("GRANT", 1, 4, b""), ("RESULT", 1, None, b"result")]
    serving.send([item(1, 3)], [b"late"])
    assert serving.count("frames_bad") == 0


@pytest.mark.parametrize(
    "records",
    [
        [item(1, 0), item(1, 1), item(1, 2)],
        [item(1, 1)],
        [item(1, 0), [wire.END, 1, None, 2]],
        [[wire.ITEM, 1, None, 0, 7]],
        [[wire.ABORT, 1, None, 7]],
    ],
    ids=["beyond the credit", "a hole", "a wrong count", "no codec", "no reason"],
)
def test_an_upload_that_breaks_the_rules_is_broken_and_nothing_else(records: list[wire.Record]) -> None:
    serving, execution, upload = uploading()
    serving.send(records)
    assert isinstance(upload.got[-1], Answer)
    assert (upload.got[-1].kind, upload.got[-1].code) == (calls.UNKNOWN, "broken")
    assert serving.count("frames_bad") == 1
    serving.send([item(1, 9)])
    assert serving.count("frames_bad") == 1
    serving.finish(execution)
    assert serving.take() == [("RESULT", 1, None, b"result")]


def test_an_upload_that_is_aborted_cancelled_or_lost_ends_so() -> None:
    serving, execution, upload = uploading()
    serving.send([[wire.ABORT, 1, None, "the disk is gone"]])
    assert upload.got == [Answer(calls.UNKNOWN, code="aborted", message="the disk is gone")]
    assert not execution.cancelled
    serving, execution, upload = uploading()
    serving.send([[wire.CANCEL, 1, None]])
    assert (upload.got[-1].code, execution.cancelled) == ("cancelled", True)
    serving, execution, upload = uploading()
    serving.pair.disconnect()
    serving.pair.advance(20.0)
    assert (upload.got[-1].code, execution.cancelled) == ("cancelled", True)


def test_an_upload_to_a_server_that_takes_none_is_refused() -> None:
    serving = Serving()
    serving.call(1, uploads=[0])
    assert refused("arguments", serving) == [1]


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
