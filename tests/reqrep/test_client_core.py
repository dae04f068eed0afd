"""The client's core among scripted servers: every way in which a call ends, and where it may be sent again."""

from __future__ import annotations

import pytest

from tests.reqrep.scripted import Net
from zmqkit.events import CallRetried, ServerBack, ServerOut
from zmqkit.options import Limits
from zmqkit.patterns.reqrep import wire
from zmqkit.patterns.reqrep.calls import Kind, ServerState
from zmqkit.patterns.reqrep.deadlines import TICK
from zmqkit.protocol.handshake import WENT_BACK
from zmqkit.protocol.wire import LOST, pack

R = Kind


# ---- outcomes --------------------------------------------------------------------------


def test_a_call_goes_out_and_its_result_comes_back() -> None:
    net = Net("s")
    call = net.call("add", b"args", request_id="mine", headers={"a": "b"}, codec="json")
    ((number, fields, body),) = net.servers["s"].got
    assert (number, body) == (call.number, b"args")
    assert fields == wire.CallFields("add", 10.0, net.now, "mine", 1, {"a": "b"}, "json", None, ())
    net.say("s", [wire.RESULT, call.number, 0, "json"], b"sum")
    answer = net.answers[call.ticket]
    assert (answer.kind, answer.body, answer.codec) == (R.RESULT, b"sum", "json")


def test_calls_of_one_turn_share_a_message_and_count_against_the_credit() -> None:
    net = Net("s", grants=False)
    for _ in range(10):
        net.core.call(net.make(body=b"x"), net.now)
    net.core.call(net.make(body=b"y" * wire.LARGE), net.now)
    net.flow()
    server = net.servers["s"]
    assert len(server.got) == 11
    assert len(server.epochs) == 1
    (session,) = net.core.sessions
    assert session.used_messages == 11
    assert server.epochs == [server.local.about["epoch"]]


def test_an_error_of_the_handler_comes_with_its_body() -> None:
    net = Net("s")
    call = net.call()
    net.say("s", [wire.ERROR, call.number, 0], b"map")
    answer = net.answers[call.ticket]
    assert (answer.kind, answer.body, answer.server) == (R.ERROR, b"map", net.servers["s"].local.name)


@pytest.mark.parametrize("code", ["method", "arguments", "authorised", "made up"])
def test_a_refusal_that_nobody_else_can_mend_goes_to_the_caller(code: str) -> None:
    net = Net("s", "t")
    call = net.call()
    name = "s" if net.servers["s"].got else "t"
    net.refuse(name, call, code)
    assert net.kind(call) is R.REFUSED
    assert net.code(call) == code


def test_late_and_cancelled_say_so() -> None:
    net = Net("s")
    late, endless, cancelled = net.call(), net.call(timeout=None), net.call()
    net.refuse("s", late, "late")
    net.refuse("s", endless, "late")
    net.refuse("s", cancelled, "cancelled")
    assert net.kind(late) is R.NOT_SENT_IN_TIME
    assert net.kind(endless) is R.REFUSED
    assert net.kind(cancelled) is R.CANCELLED


@pytest.mark.parametrize("code", ["started", "dropped", "made up"])
def test_what_the_server_does_not_know_is_unknown(code: str) -> None:
    net = Net("s")
    call = net.call()
    net.unknown("s", call, code)
    assert net.kind(call) is R.UNKNOWN
    assert net.code(call) == code


def test_an_answer_that_cannot_be_read_ends_its_call_and_spoils_no_other() -> None:
    net = Net("s")
    first, second = net.call(), net.call()
    net.say("s", [wire.RESULT, first.number, 0, 17], b"what")
    assert net.kind(first) is R.UNKNOWN
    assert net.core.counters["frames_bad"] == 1
    net.result("s", second)
    assert net.kind(second) is R.RESULT


def test_a_server_without_an_epoch_is_left() -> None:
    net = Net()
    server = net.start("s")
    server.local.about["epoch"] = b"short"  # type: ignore[index]
    net.connect("s")
    call = net.call(timeout=1.0)
    net.advance(2.0)
    assert not server.got
    assert net.kind(call) is R.NOT_SENT_IN_TIME


# ---- deadlines -------------------------------------------------------------------------


def test_a_held_call_ends_at_its_deadline_and_was_never_sent() -> None:
    net = Net()
    call = net.call(timeout=1.0)
    net.advance(0.999)
    assert not call.done
    net.advance(TICK + 0.002)
    assert net.kind(call) is R.NOT_SENT_IN_TIME
    assert net.core.next_deadline() is None


def test_a_handed_call_ends_at_its_deadline_and_its_server_is_told() -> None:
    net = Net("s")
    call = net.call(timeout=1.0)
    net.advance(1.0 + TICK)
    assert net.kind(call) is R.NO_REPLY_IN_TIME
    assert net.servers["s"].others == [[wire.CANCEL, call.number, None]]
    net.result("s", call)
    assert net.core.counters["replies_late"] == 1


def test_a_call_that_comes_too_late_is_not_sent() -> None:
    net = Net("s")
    call = net.call(timeout=0.0)
    assert net.kind(call) is R.NOT_SENT_IN_TIME
    assert not net.servers["s"].got


def test_a_deadline_that_came_while_it_waited_is_seen_before_it_is_handed() -> None:
    net = Net()
    call = net.call(timeout=0.5)
    net.now += 0.6
    net.late = True  # the process stood still, and what came in is dealt with before its timers
    net.start("s")
    net.connect("s")
    net.flow()
    assert net.kind(call) is R.NOT_SENT_IN_TIME
    assert not net.servers["s"].got


# ---- waiting and credit ----------------------------------------------------------------


def test_calls_wait_for_a_server_first_in_first_out() -> None:
    net = Net()
    calls = [net.call() for _ in range(5)]
    net.start("s")
    net.connect("s")
    net.flow()
    assert net.servers["s"].numbers == [call.number for call in calls]


def test_no_more_is_sent_than_the_credit_allows() -> None:
    net = Net("s", credit=3, grants=False)
    calls = [net.call() for _ in range(5)]
    server = net.servers["s"]
    assert server.numbers == [1, 2, 3]
    net.result("s", calls[0])
    assert len(server.got) == 3, "an answer is no credit"
    assert server.session is not None
    server.sessions.grant(server.session, 4, 1 << 20)
    net.flow()
    assert server.numbers == [1, 2, 3, 4]


def test_the_credit_in_bytes_holds_too() -> None:
    net = Net("s", credit_bytes=50_000, grants=False)
    for _ in range(10):
        net.core.call(net.make(body=b"x" * 20_000), net.now)
    net.flow()
    assert len(net.servers["s"].got) == 3


def test_too_many_waiting_calls_are_refused() -> None:
    net = Net(limits=Limits(queued_messages=2, queued_bytes=1000))
    first, second, third = net.call(), net.call(), net.call()
    assert not first.done
    assert not second.done
    assert net.kind(third) is R.NOT_SENT
    assert net.code(third) == "full"
    net.do(net.core.cancel, first)
    assert net.kind(net.call(body=b"x" * 1001)) is R.NOT_SENT
    assert net.call().done is False


# ---- balance ---------------------------------------------------------------------------


def test_the_one_with_the_fewest_outstanding_gets_the_next() -> None:
    net = Net("s", "t")
    calls = [net.call() for _ in range(6)]
    s, t = net.servers["s"], net.servers["t"]
    assert (len(s.got), len(t.got)) == (3, 3)
    for call in calls:
        if call.number in s.numbers:
            net.result("s", call)
    for _ in range(3):
        net.call()
    assert (len(s.got), len(t.got)) == (6, 3)


def test_equals_take_turns() -> None:
    net = Net("s", "t", "u", answers=True)
    for _ in range(9):
        net.call()
    assert [len(server.got) for server in net.servers.values()] == [3, 3, 3]


def test_a_server_whose_connection_is_gone_gets_nothing() -> None:
    net = Net("s", "t")
    net.disconnect("s")
    for _ in range(4):
        net.call()
    assert len(net.servers["t"].got) == 4
    assert ServerState.SUSPECT in net.core.balance.states().values()
    net.connect("s")
    net.flow()
    net.call()
    assert len(net.servers["s"].got) == 1


def test_a_silent_server_gets_nothing_until_it_answers() -> None:
    net = Net("s")
    first = net.call(timeout=60.0)
    net.paused.add("s")
    net.lose.add("s")
    net.advance(10.0)
    held = net.call(timeout=60.0)
    assert net.core.balance.states() == {net.servers["s"].local.name: ServerState.SUSPECT}
    assert net.servers["s"].numbers == [first.number]
    net.paused.clear()
    net.lose.clear()
    net.advance(5.0)
    assert net.servers["s"].numbers == [first.number, held.number]


def test_a_server_that_was_out_proves_itself_with_one_call_at_a_time() -> None:
    net = Net("s")
    net.restart("s")
    server = net.servers["s"]
    calls = [net.call() for _ in range(3)]
    assert server.numbers == [calls[0].number]
    assert list(net.core.balance.states().values()) == [ServerState.PROBING]
    assert len(net.happened(ServerOut)) == 1
    assert not net.happened(ServerBack)
    net.result("s", calls[0])
    assert len(server.got) == 3
    assert len(net.happened(ServerBack)) == 1


def test_a_slow_first_call_does_not_hold_up_the_others_for_ever() -> None:
    net = Net("s")
    net.restart("s")
    calls = [net.call(timeout=60.0) for _ in range(3)]
    net.advance(3.1)
    assert net.servers["s"].numbers == [call.number for call in calls]


def test_a_server_that_was_out_gets_its_chance_beside_one_that_is_up() -> None:
    net = Net("s", "t", answers=True)
    net.restart("s")
    for _ in range(4):
        net.call()
    assert len(net.servers["s"].got) == 2


# ---- a lost server ---------------------------------------------------------------------


def test_a_call_whose_server_is_lost_is_unknown() -> None:
    net = Net("s")
    call = net.call()
    net.crash("s")
    net.advance(3.5)
    assert net.kind(call) is R.LOST
    assert net.code(call) == "silent"


def test_a_disconnect_loses_nothing() -> None:
    net = Net("s")
    call = net.call()
    net.disconnect("s")
    net.advance(1.0)
    net.connect("s")
    net.flow()
    net.result("s", call)
    assert net.kind(call) is R.RESULT
    assert net.servers["s"].numbers == [call.number]


def test_an_idempotent_call_goes_to_another_server() -> None:
    net = Net("s", "t", methods=("read",))
    call = net.call("read", timeout=60.0)
    name, other = ("s", "t") if net.servers["s"].got else ("t", "s")
    net.crash(name)
    net.advance(3.5)
    ((number, fields, _),) = net.servers[other].got
    assert (number, fields.attempt) == (call.number, 2)
    assert net.happened(CallRetried) == [CallRetried("client", str(call.number), "silent")]
    net.result(other, call)
    assert net.kind(call) is R.RESULT


@pytest.mark.parametrize(("retries", "sent"), [(0, 1), (1, 2), (2, 3), (None, 4)])
def test_retries_are_counted(retries: int | None, sent: int) -> None:
    net = Net("s", methods=("read",))
    call = net.call("read", timeout=60.0, retries=retries)
    count = 1
    for _ in range(3):
        server = net.restart("s")
        net.advance(0.1)
        count += len(server.got)
    assert count == sent
    assert net.kind(call) is (None if retries is None else R.LOST)


def test_a_retried_call_that_runs_out_of_time_may_have_been_executed() -> None:
    net = Net("s", methods=("read",))
    call = net.call("read", timeout=5.0)
    net.crash("s")
    net.advance(5.1)
    assert net.kind(call) is R.NO_REPLY_IN_TIME


def test_a_retried_call_that_is_refused_may_have_been_executed() -> None:
    net = Net("s", "t", methods=("read",))
    call = net.call("read")
    name, other = ("s", "t") if net.servers["s"].got else ("t", "s")
    net.crash(name)
    net.advance(3.5)
    net.refuse(other, call, "arguments")
    assert net.kind(call) is R.UNKNOWN
    assert net.code(call) == "arguments"


def test_a_new_server_in_the_place_of_one_that_forgot_makes_calls_unknown_at_once() -> None:
    net = Net("s")
    call = net.call()
    server = net.restart("s")
    assert net.kind(call) is R.LOST
    assert not server.got


def test_the_same_server_that_forgot_a_session_is_asked_again_under_the_same_number() -> None:
    net = Net("s")
    call = net.call()
    epoch = net.servers["s"].local.about["epoch"]
    server = net.restart("s", epoch=epoch)
    assert server.numbers == [call.number]
    assert server.got[0][1].attempt == 2
    net.result("s", call)
    assert net.kind(call) is R.RESULT


def test_limbo_ends_after_a_bound_when_the_server_is_not_seen_again() -> None:
    net = Net("s")
    call = net.call(timeout=60.0)
    session = next(iter(net.core.sessions))
    net.lose.add("s")
    net.core.receive_message(("c", "s"), [pack([LOST, session.id])], net.now)
    net.flow()
    assert not call.done
    net.advance(3.1)
    assert net.kind(call) is R.LOST


def test_a_journalled_server_is_waited_for() -> None:
    net = Net("s", journal=True, window=b"journal")
    call, short = net.call(timeout=60.0), net.call(timeout=5.0)
    net.crash("s")
    net.advance(10.0)
    assert not call.done
    assert net.kind(short) is R.NO_REPLY_IN_TIME
    server = net.start("s", journal=True, window=b"journal")
    net.connect("s")
    net.flow()
    assert server.numbers == [call.number]
    net.unknown("s", call, "started")
    assert net.kind(call) is R.UNKNOWN


def test_limbo_does_not_go_to_a_server_with_another_journal() -> None:
    net = Net("s", journal=True, window=b"journal")
    call = net.call(timeout=20.0)
    server = net.restart("s", window=b"another")
    net.advance(10.0)
    assert not server.got
    assert not call.done
    net.advance(11.0)
    assert net.kind(call) is R.NO_REPLY_IN_TIME


def test_a_window_that_two_addresses_lead_to_is_asked_over_the_other() -> None:
    net = Net("s", "t", window=b"same")
    call = net.call(timeout=60.0)
    name, other = ("s", "t") if net.servers["s"].got else ("t", "s")
    net.crash(name)
    net.advance(3.5)
    assert net.servers[other].numbers == [call.number]


def test_limbo_that_waited_for_room_at_one_address_goes_over_the_other() -> None:
    net = Net("s", "t", window=b"same", credit=1, grants=False)
    calls = [net.call(timeout=60.0) for _ in range(2)]
    assert len(net.servers["s"].got) == len(net.servers["t"].got) == 1
    net.crash("s")
    net.advance(3.5)
    moved = next(call for call in calls if call.number not in net.servers["t"].numbers)
    net.start("u", window=b"same", credit=2)
    net.connect("u")
    net.flow()
    net.crash("t")
    net.advance(3.5)
    assert sorted(net.servers["u"].numbers) == [1, 2]
    net.result("u", moved)
    assert net.kind(moved) is R.RESULT


def test_a_server_that_falls_silent_while_it_proves_itself_has_not_proved_itself() -> None:
    net = Net("s")
    net.restart("s")
    net.disconnect("s")
    net.advance(2.9)
    net.connect("s")
    net.flow()
    net.disconnect("s")
    net.advance(0.5)
    assert not net.happened(ServerBack)
    net.connect("s")
    net.advance(6.0)
    assert len(net.happened(ServerBack)) == 1


def test_what_was_gathered_and_never_sent_goes_elsewhere() -> None:
    net = Net("s", "t")
    calls = [net.make() for _ in range(2)]
    for call in calls:
        net.core.call(call, net.now)
    for session in list(net.core.sessions):
        if session.home == ("c", "s"):
            net.core.sessions.goodbye(session, "made up", net.now)
    net.core._rise(net.now)
    net.flow()
    assert sorted(net.servers["t"].numbers) == [1, 2]
    assert all(fields.attempt == 1 for _, fields, _ in net.servers["t"].got)


def test_a_server_restored_from_an_earlier_state_is_not_asked_again() -> None:
    net = Net("s", journal=True, window=b"journal", methods=("read",))
    call, read = net.call(timeout=60.0), net.call("read", timeout=60.0)
    (session,) = net.core.sessions
    net.core.sessions._end(session, WENT_BACK, net.now)
    net.core._rise(net.now)
    net.advance(0.1)
    assert net.kind(call) is R.LOST
    assert not read.done


# ---- refusals that go elsewhere --------------------------------------------------------


def test_an_overloaded_server_makes_each_other_be_asked_once() -> None:
    net = Net("s", "t", "u")
    call = net.call()
    asked = []
    for _ in range(3):
        name = next(name for name, server in net.servers.items() if server.got and name not in asked)
        asked.append(name)
        assert not call.done
        net.refuse(name, call, "overloaded")
    assert sorted(asked) == ["s", "t", "u"]
    assert net.kind(call) is R.REFUSED
    assert net.code(call) == "overloaded"


def test_overloaded_rounds_are_repeated_as_often_as_was_asked() -> None:
    net = Net("s")
    call = net.call(retries=2)
    server = net.servers["s"]
    for round_ in range(1, 4):
        assert len(server.got) == round_
        net.refuse("s", call, "overloaded")
        net.advance(0.3)
    assert net.kind(call) is R.REFUSED


def test_a_call_between_two_rounds_can_be_cancelled_and_runs_out_of_time() -> None:
    net = Net("s")
    calls = [net.call(timeout=5.0, retries=9), net.call(timeout=5.0, retries=9)]
    for call in calls:
        net.refuse("s", call, "overloaded")
    net.do(net.core.cancel, calls[0])
    assert net.kind(calls[0]) is R.CANCELLED
    net.disconnect("s")
    net.advance(5.1)
    assert net.kind(calls[1]) is R.NOT_SENT_IN_TIME


def test_a_draining_server_gets_no_more_and_what_it_refuses_goes_elsewhere() -> None:
    net = Net("s", "t")
    calls = [net.call() for _ in range(4)]
    held = [call for call in calls if call.number in net.servers["s"].numbers]
    net.say("s", [wire.DRAINING, 0, None])
    net.call()
    assert len(net.servers["s"].got) == 2
    net.refuse("s", held[0], "draining")
    assert held[0].number in net.servers["t"].numbers
    net.result("s", held[1])
    assert net.kind(held[1]) is R.RESULT


def test_a_call_that_only_a_draining_server_could_take_waits() -> None:
    net = Net("s")
    call = net.call(timeout=60.0)
    net.refuse("s", call, "draining")
    assert not call.done
    server = net.restart("s")
    assert server.numbers == [call.number]


def test_another_epoch_sends_it_back() -> None:
    net = Net("s", "t")
    call = net.call()
    name, other = ("s", "t") if net.servers["s"].got else ("t", "s")
    net.refuse(name, call, "epoch")
    assert net.servers[other].numbers == [call.number]


def test_an_expired_number_that_was_never_there_before_is_replaced() -> None:
    net = Net("s")
    call = net.call()
    net.unknown("s", call, "expired")
    assert call.number == 2
    assert net.servers["s"].numbers == [1, 2]
    net.result("s", 1)
    assert not call.done, "the old number's reply is nobody's"
    net.result("s", call)
    assert net.kind(call) is R.RESULT


def test_an_expired_number_that_was_there_before_is_unknown() -> None:
    net = Net("s")
    call = net.call()
    net.restart("s", epoch=net.servers["s"].local.about["epoch"])
    net.unknown("s", call, "expired")
    assert net.kind(call) is R.UNKNOWN


def test_a_server_to_which_every_number_is_expired_is_given_up() -> None:
    net = Net("s")
    call = net.call()
    for _ in range(4):
        net.unknown("s", call, "expired")
    assert net.kind(call) is R.REFUSED


# ---- floors ----------------------------------------------------------------------------


def test_the_floor_follows_the_answers_and_never_passes_an_open_call() -> None:
    net = Net("s")
    server = net.servers["s"]
    stays = net.call(timeout=600.0)
    for _ in range(20):
        net.result("s", net.call())
    assert server.floor <= stays.number
    net.result("s", stays)
    for _ in range(3):
        net.result("s", net.call())
    assert server.floor >= stays.number + 20


def test_a_call_in_limbo_holds_the_floor() -> None:
    net = Net("s", journal=True, window=b"journal", credit=2, grants=False)
    calls = [net.call(timeout=60.0) for _ in range(2)]
    server = net.restart("s")
    net.result("s", calls[1])
    assert sorted(server.numbers) == [1, 2]
    assert server.floor <= calls[0].number


def test_a_number_below_the_floor_is_replaced_before_it_is_handed() -> None:
    net = Net("s")
    early = net.make()
    for _ in range(5):
        net.result("s", net.call())
    floor = net.servers["s"].floor
    assert floor > early.number
    net.do(net.core.call, early)
    assert early.number > floor
    net.result("s", early)
    assert net.kind(early) is R.RESULT


def test_a_floor_is_remembered_when_its_server_is_away() -> None:
    net = Net("s", answers=True)
    for _ in range(5):
        net.call()
    early = net.servers["s"].floor - 1
    epoch = net.servers["s"].local.about["epoch"]
    net.restart("s", epoch=epoch)
    late = net.make()
    late.number = early
    net.do(net.core.call, late)
    assert late.number > early


# ---- streams and uploads ---------------------------------------------------------------


def test_a_stream_brings_items_within_its_credit() -> None:
    net = Net("s")
    call = net.call("rows", items=2)
    assert net.servers["s"].got[0][1].items == 2
    for index in range(2):
        net.say("s", [wire.ITEM, call.number, 0, index, None], b"%d" % index)
    net.do(net.core.grant, call, 4)
    assert net.servers["s"].others == [[wire.GRANT, call.number, None, 4]]
    net.say("s", [wire.ITEM, call.number, 0, 2, "json"], b"2")
    net.say("s", [wire.END, call.number, None, 3])
    assert [(item.body, item.codec) for item in net.items[call.ticket]] == [
        (b"0", "msgpack"), (b"1", "msgpack"), (b"2", "json"),
    ]  # fmt: skip
    assert net.kind(call) is R.DONE
    assert call.received == 3


@pytest.mark.parametrize("record", [[wire.ITEM, 1, 0, 1, None], [wire.END, 1, None, 5], [wire.ITEM, 1, 0, "x", None]])
def test_a_stream_that_breaks_the_protocol_ends_as_unknown(record: list[object]) -> None:
    net = Net("s")
    call = net.call("rows", items=2)
    net.say("s", list(record), b"" if record[2] == 0 else None)
    assert net.kind(call) is R.UNKNOWN
    assert not net.items


def test_more_items_than_were_granted_break_the_stream() -> None:
    net = Net("s")
    call = net.call("rows", items=1)
    net.say("s", [wire.ITEM, call.number, 0, 0, None], b"0")
    net.say("s", [wire.ITEM, call.number, 0, 1, None], b"1")
    assert net.kind(call) is R.UNKNOWN
    assert call.received == 1


def test_a_stream_is_never_sent_twice() -> None:
    net = Net("s", "t", methods=("rows",), journal=True)
    call = net.call("rows", items=5)
    name, other = ("s", "t") if net.servers["s"].got else ("t", "s")
    net.say(name, [wire.ITEM, call.number, 0, 0, None], b"0")
    net.crash(name)
    net.advance(3.5)
    assert net.kind(call) is R.LOST
    assert call.received == 1
    assert not net.servers[other].got


def test_a_stream_that_was_refused_goes_elsewhere_with_its_newest_credit() -> None:
    net = Net("s")
    call = net.call("rows", items=5)
    net.refuse("s", call, "draining")
    net.do(net.core.grant, call, 9)
    server = net.restart("s")
    assert server.got[0][1].items == 9


def test_a_stream_ends_at_its_deadline_and_its_items_are_dropped() -> None:
    net = Net("s")
    call = net.call("rows", timeout=1.0, items=5)
    net.advance(1.1)
    assert net.kind(call) is R.NO_REPLY_IN_TIME
    net.say("s", [wire.ITEM, call.number, 0, 0, None], b"0")
    assert not net.items


def test_an_upload_waits_for_credit() -> None:
    net = Net("s")
    call = net.call("store", uploads=(0,))
    assert net.servers["s"].got[0][1].uploads == (0,)
    net.do(net.core.await_upload, call, 0, "first")
    net.do(net.core.await_upload, call, 2, "later")
    assert net.told == []
    net.say("s", [wire.GRANT, call.number, None, 2])
    assert net.told == ["first"]
    assert call.upload_limit == 2
    net.do(net.core.upload, call, [(b"a", "msgpack"), (b"b", "json")])
    net.say("s", [wire.GRANT, call.number, None, 1])
    assert call.upload_limit == 2
    net.say("s", [wire.GRANT, call.number, None, 3])
    assert net.told == ["first", "later"]
    net.do(net.core.upload, call, [(b"c" * wire.LARGE, "msgpack")])
    net.do(net.core.upload_end, call)
    server = net.servers["s"]
    assert [record[3:] for record in server.others] == [[0, None], [1, "json"], [2, None], [3]]
    assert server.bodies == [b"a", b"b", b"c" * wire.LARGE, b""]
    net.result("s", call)
    net.do(net.core.await_upload, call, 99, "never")
    assert net.told[-1] == "never"


def test_an_upload_is_broken_off() -> None:
    net = Net("s")
    call = net.call("store", uploads=("rows",))
    net.do(net.core.await_upload, call, 0, "waits")
    net.do(net.core.upload_abort, call, "why")
    assert net.servers["s"].others == [[wire.ABORT, call.number, None, "why"]]
    net.do(net.core.cancel, call)
    assert net.told == ["waits"]
    net.do(net.core.upload, call, [(b"a", "msgpack")])
    net.do(net.core.upload_end, call)
    assert net.servers["s"].others[1:] == [[wire.CANCEL, call.number, None]]


def test_a_refusal_after_credit_for_an_upload_is_final() -> None:
    net = Net("s", "t")
    call = net.call("store", uploads=(0,))
    name = "s" if net.servers["s"].got else "t"
    net.say(name, [wire.GRANT, call.number, None, 2])
    net.refuse(name, call, "draining")
    assert net.kind(call) is R.REFUSED


# ---- cancelling and closing ------------------------------------------------------------


def test_a_cancelled_call_is_answered_at_once_and_its_server_is_told() -> None:
    net = Net("s")
    call = net.call()
    net.do(net.core.cancel, call)
    net.do(net.core.cancel, call)
    assert net.kind(call) is R.CANCELLED
    assert net.servers["s"].others == [[wire.CANCEL, call.number, None]]
    waiting = Net()
    held = waiting.call()
    waiting.do(waiting.core.cancel, held)
    assert waiting.kind(held) is R.CANCELLED


def test_close_ends_every_call() -> None:
    net = Net("s", credit=3, grants=False, journal=True, window=b"w")
    limbo = net.call(timeout=60.0)
    net.restart("s", window=b"other")
    handed, held = net.call(), net.call()
    paused = net.call(retries=3)
    net.refuse("s", handed, "made up")
    net.result("s", held)
    net.refuse("s", paused, "overloaded")
    handed, held = net.call(), net.call()
    net.do(net.core.close)
    assert [net.kind(call) for call in (limbo, handed, held, paused)] == [R.LOST, R.NOT_SENT, R.NOT_SENT, R.NOT_SENT]
    assert net.core.finished
    assert net.kind(net.call()) is R.NOT_SENT
    assert net.core.next_deadline() is None


def test_close_says_of_handed_calls_that_they_may_be_executed() -> None:
    net = Net("s")
    call = net.call()
    net.do(net.core.close)
    assert net.kind(call) is R.LOST
    assert net.code(call) == "closed"
    assert not net.happened(ServerOut), "it is we who went"
    assert not net.servers["s"].sessions._by_id


def test_replies_never_meet_another_call() -> None:
    net = Net("s", "t")
    first = net.call(timeout=1.0)
    name, other = ("s", "t") if net.servers["s"].got else ("t", "s")
    net.advance(1.1)
    second = net.call()
    net.result(name, first, b"old")
    assert not second.done
    net.result(other if net.servers[other].got else name, second, b"new")
    assert net.answers[second.ticket].body == b"new"
    third = net.call()
    wrong = "s" if third.number in net.servers["t"].numbers else "t"
    net.result(wrong, third, b"of another server")
    assert not third.done
    assert net.core.counters["replies_late"] == 2
