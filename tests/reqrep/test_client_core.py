"""The client's core among scripted servers: every way in which a call ends."""

from __future__ import annotations

import pytest

from tests.reqrep.scripted import Net
from zmqkit.events import ServerBack, ServerOut
from zmqkit.options import Limits
from zmqkit.patterns.reqrep import wire
from zmqkit.patterns.reqrep.calls import Kind, ServerState
from zmqkit.patterns.reqrep.deadlines import TICK

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
