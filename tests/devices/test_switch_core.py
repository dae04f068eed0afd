"""The learning switch, row by row of the table in docs/protocol.md, section 15.3: how sessions begin and go on."""

from __future__ import annotations

import pytest

from tests.devices.switched import BOUND, ONE, TWO, Switch, client, data, line, server
from zmqkit.address import nth
from zmqkit.devices import greetings
from zmqkit.devices.acceptors import FLUSH_SECONDS
from zmqkit.events import PeerRefused
from zmqkit.protocol import wire
from zmqkit.protocol.wire import HELLO, LOST, PING, REFUSED, WELCOME

# ---- HELLO ----------------------------------------------------------------------------


def test_a_hello_of_a_wrong_role_is_refused_and_the_device_named() -> None:
    switch = Switch(ONE)
    switch.hello(client(1), role="push")
    ((link, frames),) = switch.sent()
    assert link == client(1)
    reason = "the device between takes client at its frontend, not push"
    assert wire.unpack(frames[0]) == [REFUSED, "role", reason]
    assert switch.events == [PeerRefused("between", (b"i" * 16).hex(), "role", reason)]
    assert not switch.dials


def test_another_version_is_the_ends_affair() -> None:
    switch = Switch(ONE)
    said = switch.hello(client(1), versions=(7, 9), role="something new")
    switch.up(line(ONE, 2))
    assert (line(ONE, 2), [said]) in switch.sent()


def test_another_version_that_cannot_be_read_is_refused() -> None:
    switch = Switch(ONE)
    switch.say(client(1), HELLO, {"zmqkit": [7, 9]})
    assert switch.take() == [(client(1), "REFUSED version")]


def test_a_new_session_gets_a_connection_of_its_own_and_the_newest_hello() -> None:
    switch = Switch(ONE)
    switch.hello(client(1))
    assert switch.take() == [(client(1), "MORE 1")]
    assert switch.dials == [(nth(ONE, 2), True)]
    newest = switch.hello(client(1))
    assert switch.sent() == []
    switch.up(line(ONE, 2))
    assert switch.sent() == [(line(ONE, 2), [newest])]
    said = switch.welcome(line(ONE, 2))
    assert switch.sent() == [(client(1), [said])]
    assert switch.count("sessions") == switch.count("sessions_opened") == 1


def test_a_hello_waits_for_an_acceptor_that_stands() -> None:
    switch = Switch(ONE, stand=False)
    switch.hello(client(1))
    newest = switch.hello(client(1))
    switch.take()
    assert not switch.dials
    switch.up(("c", ONE))
    switch.take()
    switch.up(line(ONE, 2))
    assert switch.sent() == [(line(ONE, 2), [newest])]


def test_a_hello_that_comes_again_is_passed_on_again() -> None:
    switch = Switch(ONE)
    at = switch.pair()
    again = switch.hello(client(1))
    assert switch.sent() == [(at, [again])]


def test_an_older_hello_is_dropped() -> None:
    switch = Switch(ONE)
    switch.pair(attempt=7)
    switch.hello(client(1), attempt=7)
    switch.hello(client(1), attempt=6)
    assert switch.take() == []
    assert switch.count("frames_stray") == 2


def test_a_hello_for_another_session_ends_the_pair() -> None:
    switch = Switch(ONE)
    old = switch.pair()
    switch.hello(client(1), b"session2")
    switch.take()
    assert switch.dials[-1] == (nth(ONE, 3), True)
    switch.receive(client(1), data())
    assert switch.take() == []
    switch.pass_time(FLUSH_SECONDS)
    switch.take()
    assert switch.dials[-1] == (old[1], False)  # type: ignore[index]
    switch.up(line(ONE, 3))
    assert switch.take() == [(line(ONE, 3), "HELLO")]
    switch.hello(client(1), b"session1", attempt=1)
    assert switch.take() == []
    assert switch.count("frames_stray") == 1


def test_an_instance_gets_one_session_with_each_acceptor() -> None:
    switch = Switch(ONE, TWO)
    switch.hello(client(1), b"session1")
    switch.hello(client(2), b"session2")
    switch.hello(client(3), b"session3")
    assert switch.told() == {client(1): ["MORE 2"], client(2): ["MORE 2"], client(3): ["MORE 2"]}
    assert sorted(switch.dials) == [(nth(ONE, 2), True), (nth(TWO, 2), True)]
    switch.core.expect("tcp://three:1", switch.now)
    switch.up(("c", "tcp://three:1"))
    assert set(switch.told()) == {client(1), client(2), client(3)}
    assert switch.dials[-1] == (nth("tcp://three:1", 2), True)


def test_of_several_acceptors_the_one_with_fewest_sessions_is_taken() -> None:
    switch = Switch(ONE, TWO)
    for number in range(1, 7):
        switch.hello(client(number), b"session%d" % number, instance=b"%016d" % number)
    switch.take()
    assert sorted(address for address, _ in switch.dials) == sorted(
        nth(address, number) for address in (ONE, TWO) for number in (2, 3, 4)
    )


def test_a_session_of_another_instance_is_refused() -> None:
    switch = Switch(ONE)
    switch.pair()
    switch.hello(client(2), instance=b"x" * 16)
    assert switch.take() == [(client(2), "REFUSED session")]
    assert switch.count("sessions") == 1


def test_a_session_that_comes_over_another_connection_leaves_the_old_one() -> None:
    switch = Switch(ONE)
    switch.pair(attempt=5)
    switch.hello(client(2), resume=True, attempt=4)
    assert switch.take() == []  # it was said before
    switch.hello(client(2), resume=True, attempt=6)
    switch.take()
    switch.up(line(ONE, 3))
    assert switch.take() == [(line(ONE, 3), "HELLO")]
    switch.receive(client(1), data())
    assert switch.take() == []
    switch.welcome(line(ONE, 3))
    switch.receive(client(2), data())
    assert switch.take() == [(client(2), "WELCOME"), (line(ONE, 3), "DATA")]


def test_more_connections_than_allowed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greetings, "MAX_SESSIONS", 2)
    switch = Switch(ONE)
    for number in range(3):
        switch.hello(client(number), b"session%d" % number)
    assert "REFUSED full" in switch.told()[client(2)]


def test_more_hellos_than_allowed_are_not_kept_and_served_when_they_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(greetings, "MAX_WAITING", 1)
    switch = Switch(ONE, stand=False)
    switch.hello(client(1), b"session1", instance=b"1" * 16)
    switch.hello(client(2), b"session2", instance=b"2" * 16)
    switch.up(("c", ONE))
    switch.take()
    switch.up(line(ONE, 2))
    assert switch.take() == [(line(ONE, 2), "HELLO")]
    switch.welcome(line(ONE, 2))
    switch.hello(client(2), b"session2", instance=b"2" * 16)
    switch.take()
    switch.up(line(ONE, 3))
    assert switch.take() == [(line(ONE, 3), "HELLO")]


def test_a_connection_may_be_used_for_another_instance_by_a_switch_in_front() -> None:
    switch = Switch(ONE)
    switch.pair()
    switch.hello(client(1), b"session2", instance=b"x" * 16)
    switch.take()
    switch.up(line(ONE, 3))
    assert switch.take() == [(line(ONE, 3), "HELLO")]


# ---- sessions that go on ------------------------------------------------------------------


def test_a_resumed_session_is_asked_for_everywhere_and_welcome_decides() -> None:
    switch = Switch(ONE, TWO)
    switch.hello(client(1), resume=True, heard=3, sent=2)
    switch.take()
    assert sorted(switch.dials) == [(nth(ONE, 2), True), (nth(TWO, 2), True)]
    switch.up(line(ONE, 2))
    switch.up(line(TWO, 2))
    newest = switch.hello(client(1), resume=True, heard=3, sent=2)
    assert [each for each in switch.sent() if each[1] == [newest]] == [
        (line(ONE, 2), [newest]),
        (line(TWO, 2), [newest]),
    ]
    switch.welcome(line(TWO, 2), resume=True)
    switch.receive(line(TWO, 2), data())
    assert switch.take() == [(client(1), "WELCOME"), (client(1), "DATA")]
    assert switch.count("sessions_resumed") == 1
    assert switch.count("sessions_opened") == 0
    # The other's answer is none of the client's business, and its connection serves the next session.
    switch.say(line(ONE, 2), LOST, b"session1")
    assert switch.take() == []
    switch.dials.clear()
    switch.hello(client(2), b"session2")
    assert (line(ONE, 2), "HELLO") in switch.take()
    assert not switch.dials


def test_a_session_that_nobody_has_is_lost() -> None:
    switch = Switch(ONE, TWO)
    switch.hello(client(1), resume=True)
    switch.take()
    for address in (ONE, TWO):
        switch.up(line(address, 2))
        switch.say(line(address, 2), LOST, b"another1")
        assert switch.take() == [(line(address, 2), "HELLO")]
        switch.say(line(address, 2), LOST, b"session1")
    assert switch.take() == [(client(1), "LOST")]
    assert switch.count("sessions_lost") == 1


def test_while_an_acceptor_cannot_be_asked_nothing_is_answered_for_a_bound() -> None:
    switch = Switch(ONE, TWO)
    switch.down(("c", TWO))
    switch.hello(client(1), resume=True)
    switch.take()
    switch.up(line(ONE, 2))
    switch.say(line(ONE, 2), LOST, b"session1")
    assert switch.take() == [(line(ONE, 2), "HELLO")]
    switch.pass_time(BOUND - 0.01)
    assert "LOST" not in dict(switch.take()).values()
    switch.pass_time(0.02)
    assert (client(1), "LOST") in switch.take()


def test_an_acceptor_that_comes_in_time_is_asked() -> None:
    switch = Switch(ONE, TWO)
    switch.down(("c", TWO))
    switch.hello(client(1), resume=True)
    switch.take()
    switch.up(line(ONE, 2))
    switch.say(line(ONE, 2), LOST, b"session1")
    switch.pass_time(BOUND / 2)
    switch.up(("c", TWO))
    switch.take()
    switch.up(line(TWO, 2))
    assert switch.take() == [(line(TWO, 2), "HELLO")]
    switch.pass_time(BOUND)
    assert "LOST" not in dict(switch.take()).values()
    switch.welcome(line(TWO, 2))
    assert switch.take() == [(client(1), "WELCOME")]


def test_where_a_session_was_last_seen_it_is_asked_for_first_and_believed() -> None:
    switch = Switch(ONE, TWO)
    switch.hello(client(1))
    switch.take()
    ((address, _),) = switch.dials
    base = address.partition("\t")[0]
    switch.up(("c", address))
    switch.welcome(("c", address))
    switch.down(client(1))
    switch.dials.clear()
    switch.take()
    switch.hello(client(2), resume=True)
    switch.take()
    assert [each for each in switch.dials if each[1]] == [(nth(base, 3), True)]
    switch.down(("c", TWO if base == ONE else ONE))
    switch.up(line(base, 3))
    switch.say(line(base, 3), LOST, b"session1")
    assert (client(2), "LOST") in switch.take()


def test_a_session_of_the_same_id_at_another_acceptor_is_not_taken_for_it() -> None:
    switch = Switch(ONE, TWO)
    switch.hello(client(1))
    switch.take()
    ((address, _),) = switch.dials
    base = address.partition("\t")[0]
    switch.up(("c", address))
    switch.welcome(("c", address))
    switch.down(("c", base))
    switch.down(("c", address))
    switch.take()
    switch.hello(client(2), resume=True)
    switch.take()
    (other, _) = switch.dials[-1]
    assert other.partition("\t")[0] != base
    switch.up(("c", other))
    switch.take()
    switch.hello(("c", other), kind=WELCOME, role="server", instance=b"another instance")
    assert switch.take() == []
    switch.up(("c", base))
    switch.take()
    switch.up(("c", address))
    switch.welcome(("c", address), resume=True)
    assert switch.take() == [(("c", address), "HELLO"), (client(2), "WELCOME")]


def test_acceptors_that_dial_have_a_bound_to_come_before_a_session_is_lost() -> None:
    switch = Switch(listening=True)
    switch.hello(server(1), b"wanted01", role="server", instance=b"1" * 16)
    switch.hello(client(1), resume=True)
    switch.take()
    switch.say(server(1), LOST, b"session1")
    assert switch.take() == []
    switch.hello(server(2), b"wanted02", role="server", instance=b"2" * 16)
    assert (server(2), "HELLO") in switch.take()
    switch.welcome(server(2))
    assert switch.take()[0] == (client(1), "WELCOME")


def test_when_those_had_time_to_come_a_session_that_none_has_is_lost_at_once() -> None:
    switch = Switch(listening=True)
    switch.hello(server(1), b"wanted01", role="server", instance=b"1" * 16)
    switch.take()
    switch.pass_time(BOUND)
    switch.hello(client(1), resume=True)
    switch.take()
    switch.say(server(1), LOST, b"session1")
    assert (client(1), "LOST") in switch.take()


def test_an_acceptor_is_asked_for_so_many_sessions_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greetings, "ASKS", 2)
    switch = Switch(ONE)
    for number in range(3):
        switch.hello(client(number), b"session%d" % number, resume=True, instance=b"%016d" % number)
    switch.take()
    assert len(switch.dials) == 2
    switch.up(line(ONE, 2))
    switch.take()
    switch.say(line(ONE, 2), LOST, b"session0")
    assert set(switch.take()) == {(client(0), "LOST"), (line(ONE, 2), "HELLO")}


# ---- what acceptors answer ------------------------------------------------------------------


@pytest.mark.parametrize("code", ["closed", "full", "session", "role", "version"])
def test_who_refuses_a_new_session_is_not_the_last_to_be_asked(code: str) -> None:
    switch = Switch(ONE, TWO)
    switch.hello(client(1))
    switch.take()
    ((first, _),) = switch.dials
    switch.up(("c", first))
    switch.say(("c", first), REFUSED, code, "because")
    switch.take()
    (_, (second, _)) = switch.dials
    assert second.partition("\t")[0] != first.partition("\t")[0]
    switch.up(("c", second))
    assert switch.take() == [(("c", second), "HELLO")]
    switch.say(("c", second), REFUSED, code, "because")
    assert switch.take() == [(client(1), f"REFUSED {code}")]
    assert len(switch.events) == (2 if code == "role" else 0)
    # It asks again after a while, and so does the switch.
    switch.hello(client(1))
    assert "HELLO" in dict(switch.take()).values()


def test_an_id_that_was_used_up_is_told() -> None:
    switch = Switch(ONE)
    switch.hello(client(1))
    switch.take()
    switch.up(line(ONE, 2))
    switch.say(line(ONE, 2), LOST, b"session1")
    assert switch.take() == [(line(ONE, 2), "HELLO"), (client(1), "LOST")]


def test_a_welcome_of_a_wrong_role_is_none() -> None:
    switch = Switch(ONE)
    switch.hello(client(1))
    switch.take()
    switch.up(line(ONE, 2))
    switch.take()
    switch.welcome(line(ONE, 2), role="pull")
    assert switch.take() == [(client(1), "REFUSED role")]
    (event,) = switch.events
    assert event.reason == "the device between takes server at its backend, not pull"
    assert switch.count("sessions") == 0


def test_a_welcome_for_who_is_gone_ends_its_connection() -> None:
    switch = Switch(listening=True)
    switch.hello(server(1), b"wanted01", role="server")
    switch.take()
    switch.welcome(server(1))
    assert switch.take() == [(server(1), "GONE")]


def test_a_session_that_nobody_asked_for_any_more_ends_with_its_connection() -> None:
    switch = Switch(listening=True)
    switch.hello(server(1), b"wanted01", role="server")
    switch.take()
    switch.say(server(1), PING, b"session1", 0, 0, 0, 1, 0)
    assert switch.take() == [(server(1), "GONE")]
    assert switch.count("frames_dropped") == 1


def test_lost_and_refused_pass_through_a_pair() -> None:
    switch = Switch(ONE)
    at = switch.pair()
    switch.say(at, LOST, b"session1")
    switch.say(at, REFUSED, "closed", "because")
    switch.say(client(1), LOST, b"session1")
    assert switch.take() == [(client(1), "LOST"), (client(1), "REFUSED closed"), (at, "LOST")]
    assert switch.count("sessions") == 1
