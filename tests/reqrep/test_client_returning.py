"""What becomes of a client's calls whose server is lost or refuses them: where they may be sent again."""

from __future__ import annotations

import pytest

from tests.reqrep.scripted import Net
from zmqkit.events import CallRetried, ServerBack
from zmqkit.patterns.reqrep import wire
from zmqkit.patterns.reqrep.calls import Kind
from zmqkit.protocol.handshake import WENT_BACK
from zmqkit.protocol.wire import LOST, pack

R = Kind


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


def test_a_journal_does_not_know_of_what_is_idempotent() -> None:
    net = Net("s", window=b"w" * 16, journal=True, methods=("read",))
    call = net.call("read")
    again = net.restart("s")
    assert again.numbers == [call.number]
    net.refuse("s", call, "arguments")
    assert net.kind(call) is R.UNKNOWN, "it may have been executed before the restart"


def test_a_refusal_under_a_new_number_says_nothing_of_the_earlier_one() -> None:
    net = Net("s", "t", methods=("read",))
    call = net.call("read")
    first = call.number
    name, other = ("s", "t") if net.servers["s"].got else ("t", "s")
    epoch = net.servers[name].local.about["epoch"]
    net.crash(name)
    net.advance(3.5)
    assert net.servers[other].numbers == [first]
    again = net.start(name, epoch=epoch, methods=("read",))
    net.connect(name)
    net.flow()
    for _ in range(3):
        net.result(name, net.call())  # the floor there passes it
    net.crash(other)
    net.advance(3.5)
    assert call.number == again.numbers[-1] != first
    net.refuse(name, call, "arguments")
    assert net.kind(call) is R.UNKNOWN


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
