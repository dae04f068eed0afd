"""Durable calls of the client's core: stored before they are handed over, and taken up again after a crash."""

from __future__ import annotations

from tests.reqrep.scripted import Net
from zmqkit.errors import CommitIndeterminate, JournalFull
from zmqkit.events import JournalRecovered, JournalTrouble
from zmqkit.options import Limits
from zmqkit.patterns.reqrep import wire
from zmqkit.patterns.reqrep.calls import Kind as R
from zmqkit.patterns.reqrep.rows import NOWHERE, Mark, read_request
from zmqkit.protocol.core import Row


def test_a_durable_call_is_handed_over_only_when_it_is_stored() -> None:
    net = Net("s", durable=True)
    net.storing = False
    call = net.call(durable=True, headers={"a": "b"}, request_id="mine", retries=3, body=b"args")
    assert not net.servers["s"].got
    net.storing = True
    net.flow()
    assert net.servers["s"].numbers == [call.number]
    assert net.servers["s"].got[0][1].remaining is None
    again = read_request(Row(call.number, 1, net.rows[call.number]))
    epoch = net.servers["s"].local.about["epoch"]
    assert again.core == Mark(epoch, False, False)
    assert (again.method, again.body, again.headers, again.request_id, again.retries) == (
        "work", b"args", {"a": "b"}, "mine", 3,
    )  # fmt: skip
    net.result("s", call)
    assert net.kind(call) is R.RESULT
    assert not net.rows


def test_one_commit_is_enough_when_a_server_is_there() -> None:
    net = Net("s", durable=True)
    net.call(durable=True)
    assert net.core.out.written == 1


def test_without_a_server_it_is_stored_all_the_same_and_waits() -> None:
    net = Net(durable=True)
    call = net.call(durable=True)
    assert read_request(Row(1, 1, net.rows[call.number])).core == NOWHERE
    net.advance(100.0)
    assert not call.done, "it has no deadline"
    server = net.start("s")
    net.connect("s")
    net.flow()
    assert server.numbers == [call.number]
    assert read_request(Row(1, 1, net.rows[call.number])).core.window == server.local.about["epoch"]


def test_durable_calls_that_wait_are_bounded_too() -> None:
    net = Net(durable=True, limits=Limits(queued_messages=2))
    calls = [net.call(durable=True) for _ in range(3)]
    assert [net.kind(call) for call in calls] == [None, None, R.NOT_SENT]
    assert len(net.rows) == 2


def test_what_cannot_be_stored_is_not_sent() -> None:
    net = Net("s", durable=True)
    net.storing = False
    call, other = net.call(durable=True), net.call(durable=True)
    full = JournalFull("no room")
    net.refuse_store(full)
    assert net.kind(call) is net.kind(other) is R.STORE_FAILED
    assert net.answers[call.ticket].error is full
    net.storing = True
    later = net.call(durable=True)
    net.result("s", later)
    assert net.kind(later) is R.RESULT
    assert net.servers["s"].numbers == [later.number]


def test_a_journal_that_broke_takes_no_more_calls_and_others_go_on() -> None:
    net = Net("s", durable=True)
    handed = net.call(durable=True)
    net.storing = False
    call = net.call(durable=True)
    net.refuse_store(CommitIndeterminate("who knows"))
    assert net.kind(call) is R.STORE_FAILED
    net.storing = True
    assert net.kind(net.call(durable=True)) is R.STORE_FAILED
    assert len(net.happened(JournalTrouble)) == 1
    plain = net.call()
    net.result("s", plain)
    net.result("s", handed)
    assert net.kind(plain) is net.kind(handed) is R.RESULT


def test_a_row_that_a_full_journal_kept_goes_later() -> None:
    net = Net("s", durable=True)
    call = net.call(durable=True)
    net.storing = False
    net.result("s", call)
    assert net.kind(call) is R.RESULT
    net.refuse_store(JournalFull("no room"))
    assert net.rows
    net.storing = True
    net.advance(1.5)
    assert not net.rows
    assert len(net.happened(JournalTrouble)) == len(net.happened(JournalRecovered)) == 1
    assert net.core.next_deadline() is not None


def test_a_call_for_another_window_is_stored_again_first() -> None:
    net = Net("s", "t", durable=True, methods=("read",))
    call = net.call("read", durable=True)
    name, other = ("s", "t") if net.servers["s"].got else ("t", "s")
    net.storing = False
    net.crash(name)
    net.advance(3.5)
    assert not net.servers[other].got
    net.refuse_store(JournalFull("no room"))
    assert not call.done, "its row stands as it was"
    net.storing = True
    net.advance(1.5)
    assert net.servers[other].numbers == [call.number]
    mark = read_request(Row(1, 1, net.rows[call.number])).core
    assert mark == Mark(net.servers[other].local.about["epoch"], False, True, exposed=True)


def test_a_fresh_number_is_a_fresh_row() -> None:
    net = Net("s", durable=True)
    call = net.call(durable=True)
    net.unknown("s", call, "expired")
    assert list(net.rows) == [2]
    assert net.servers["s"].numbers == [1, 2]
    net.result("s", call)
    assert not net.rows


def test_a_cancelled_durable_call_leaves_no_row() -> None:
    net = Net("s", durable=True)
    handed = net.call(durable=True)
    net.storing = False
    storing = net.call(durable=True)
    net.do(net.core.cancel, handed)
    net.do(net.core.cancel, storing)
    net.storing = True
    net.flow()
    assert net.kind(handed) is net.kind(storing) is R.CANCELLED
    assert not net.rows
    assert net.servers["s"].numbers == [handed.number]


def test_an_overloaded_server_is_asked_for_as_long_as_it_takes() -> None:
    net = Net("s", durable=True)
    call = net.call(durable=True)
    for count in range(1, 20):
        assert len(net.servers["s"].got) == count
        net.refuse("s", call, "overloaded")
        net.advance(5.1)
    net.result("s", call)
    assert net.kind(call) is R.RESULT


def test_an_abandoned_call_goes_on_and_its_outcome_can_be_had() -> None:
    net = Net("s", durable=True)
    call = net.call(durable=True)
    net.do(net.core.abandon, call, call.ticket)
    net.result("s", call)
    ((of, answer),) = net.unclaimed
    assert of is call
    assert answer.kind == R.RESULT
    assert call.done
    assert not net.rows


# ---- close and resume ------------------------------------------------------------------


def test_close_leaves_durable_calls_in_the_journal() -> None:
    net = Net("s", durable=True, credit=1, grants=False)
    handed, held = net.call(durable=True), net.call(durable=True)
    net.storing = False
    storing = net.call(durable=True)
    net.core.close(net.now)
    net.flow()
    assert net.kind(handed) is net.kind(held) is R.CLOSED
    assert not storing.done
    assert not net.core.finished
    net.storing = True
    net.flow()
    assert net.kind(storing) is R.CLOSED
    assert net.core.finished
    assert list(net.rows) == [1, 2, 3]


def test_close_says_what_could_not_be_stored() -> None:
    net = Net("s", durable=True)
    net.storing = False
    call = net.call(durable=True)
    net.core.close(net.now)
    net.flow()
    net.refuse_store(JournalFull("no room"))
    assert net.kind(call) is R.STORE_FAILED
    assert net.core.finished


def test_what_was_handed_nowhere_is_sent_after_a_crash() -> None:
    net = Net(durable=True)
    net.call(durable=True, body=b"args")
    calls = net.begin_again()
    net.do(net.core.resume, calls)
    server = net.start("s")
    net.connect("s")
    net.flow()
    assert [(number, body, fields.attempt) for number, fields, body in server.got] == [(1, b"args", 1)]
    net.result("s", 1)
    assert net.unclaimed[0][1].kind == R.RESULT
    assert not net.rows


def test_what_was_handed_goes_only_to_the_same_window_after_a_crash() -> None:
    net = Net("s", durable=True)
    net.call(durable=True)
    epoch = net.servers["s"].local.about["epoch"]
    calls = net.begin_again()
    net.do(net.core.resume, calls)
    server = net.start("s", epoch=epoch)
    net.connect("s")
    net.flow()
    assert [(number, fields.attempt) for number, fields, _ in server.got] == [(1, 2)]
    net.result("s", 1)
    assert net.unclaimed[0][1].kind == R.RESULT


def test_what_was_handed_to_a_server_that_is_gone_is_unknown_after_a_crash() -> None:
    net = Net("s", durable=True)
    net.call(durable=True)
    calls = net.begin_again()
    net.do(net.core.resume, calls)
    net.advance(100.0)
    assert not net.unclaimed, "nobody was there to ask"
    server = net.start("s")
    net.connect("s")
    net.advance(3.5)
    assert not server.got
    assert [answer.kind for _, answer in net.unclaimed] == [R.LOST]
    assert not net.rows


def test_what_a_journalled_server_took_waits_for_it_after_a_crash() -> None:
    net = Net("s", durable=True, journal=True, window=b"journal")
    net.call(durable=True)
    calls = net.begin_again()
    net.do(net.core.resume, calls)
    net.start("t", answers=True)
    net.connect("t")
    net.advance(100.0)
    assert not net.unclaimed
    server = net.start("s", journal=True, window=b"journal")
    net.connect("s")
    net.flow()
    assert server.numbers == [1]


def test_what_is_idempotent_goes_anywhere_after_a_crash() -> None:
    net = Net("s", durable=True, methods=("read",))
    net.call("read", durable=True)
    calls = net.begin_again()
    net.do(net.core.resume, calls)
    server = net.start("t", answers=True)
    net.connect("t")
    net.flow()
    assert server.numbers == [1]
    assert [answer.kind for _, answer in net.unclaimed] == [R.RESULT]


def test_what_may_have_been_executed_before_a_crash_is_not_denied_after_it() -> None:
    net = Net("s", durable=True, methods=("read",))
    net.call("read", durable=True)
    server = net.restart("s")
    assert server.numbers == [1]
    calls = net.begin_again()
    net.do(net.core.resume, calls)
    net.connect("s")
    net.flow()
    assert server.numbers == [1, 1]
    net.refuse("s", calls[0], "method")
    assert [answer.kind for _, answer in net.unclaimed] == [R.UNKNOWN]


def test_what_may_not_be_sent_twice_is_not_after_a_crash() -> None:
    net = Net("s", durable=True)
    net.call(durable=True, retries=0)
    calls = net.begin_again()
    net.do(net.core.resume, calls)
    assert [answer.kind for _, answer in net.unclaimed] == [R.LOST]
    assert not net.rows


def test_calls_can_be_resumed_when_servers_are_there_already() -> None:
    net = Net("s", durable=True, journal=True, window=b"journal")
    net.call(durable=True)
    calls = net.begin_again()
    net.connect("s")
    net.advance(10.0)
    net.do(net.core.resume, calls)
    assert net.servers["s"].numbers == [1, 1]
    assert net.servers["s"].others == []
    net.say("s", [wire.RESULT, 1, 0, None], b"kept")
    assert net.unclaimed[0][1].body == b"kept"


def test_a_row_goes_after_the_answer_and_never_with_it() -> None:
    net = Net("s", durable=True)
    call = net.call(durable=True)
    core, server = net.core, net.servers["s"]
    server.say([wire.RESULT, call.number, 0, None], b"value", now=net.now)
    server.end_turn(net.now)
    for _, frames in server.out.sends:
        core.receive_message(("c", "s"), frames, net.now)
    server.out.sends = []
    core.end_turn(net.now)
    assert core.out.replies, "the answer goes out in this turn"
    assert not core.out.writes, "a crash before it is out would leave nobody who knows"
    due = core.next_deadline()
    assert due is not None
    assert due <= net.now, "and there is a next turn"
    net.turn()
    assert net.kind(call) is R.RESULT
    assert not net.rows


def test_no_floor_passes_a_call_whose_row_is_still_there() -> None:
    net = Net("s", durable=True)
    call = net.call(durable=True)
    net.storing = False
    net.result("s", call)
    assert net.kind(call) is R.RESULT
    assert call.number in net.rows
    later = net.call()
    net.result("s", later)
    net.result("s", net.call())
    assert net.servers["s"].floor <= call.number, "the server must know it if we crash now, and ask again"
    net.refuse_store(JournalFull("no room"))
    net.result("s", net.call())
    assert net.servers["s"].floor <= call.number
    net.storing = True
    net.advance(2.0)
    assert not net.rows
    net.result("s", net.call())
    net.result("s", net.call())
    assert net.servers["s"].floor > later.number


def test_where_a_row_is_left_for_good_the_floor_stays() -> None:
    net = Net("s", durable=True)
    call = net.call(durable=True)
    net.storing = False
    net.result("s", call)
    net.refuse_store(CommitIndeterminate("who knows"))
    net.restart("s")
    for _ in range(3):
        net.result("s", net.call())
    window = net.core.balance.windows[net.core._held[call.number].id]
    assert window.floor() <= call.number


def test_the_floor_does_not_pass_what_a_close_leaves_in_the_journal() -> None:
    net = Net("s", durable=True)
    call, other = net.call(durable=True), net.call()
    net.core.close(net.now)
    net.flow()
    assert net.kind(call) is R.CLOSED
    assert net.kind(other) is R.LOST
    assert net.servers["s"].floor <= call.number
    (window,) = net.core.balance.windows.values()
    assert window.floor() <= call.number
