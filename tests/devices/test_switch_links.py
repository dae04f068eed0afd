"""The learning switch, row by row of the table in docs/protocol.md, section 15.3: messages, and what breaks."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tests.devices.switched import BACK, FRONT, ONE, TWO, Switch, client, data, line, server
from tests.simulation.switched import check_switch
from zmqkit.address import nth
from zmqkit.devices import acceptors, initiators, ways
from zmqkit.devices.acceptors import FLUSH_SECONDS
from zmqkit.devices.switch import PROBE_DELAYS
from zmqkit.events import BadFrame
from zmqkit.protocol import wire
from zmqkit.protocol.wire import DATA, GOODBYE, HELLO, LOST, PING, REFUSED, WELCOME

# ---- messages -----------------------------------------------------------------------------


def test_messages_pass_untouched_and_are_counted() -> None:
    switch = Switch(ONE)
    at = switch.pair()
    before = {name: switch.count(name) for name in switch.core.counters}
    there = [wire.pack([DATA, b"session1", 0, 0, 0, 1, 1]), b"", b"x" * 1000]
    back = [wire.pack([wire.STATE, b"session1", 1, 0, 0])]
    switch.receive(client(1), *there)
    switch.receive(at, *back)
    assert switch.sent() == [(at, there), (client(1), back)]
    grown = {name: switch.count(name) - before[name] for name in before if switch.count(name) != before[name]}
    sizes = sum(map(len, there)), len(back[0])
    assert grown == {
        "frontend_messages_received": 1, "backend_messages_sent": 1, "frontend_bytes_received": sizes[0],
        "backend_bytes_sent": sizes[0], "backend_messages_received": 1, "frontend_messages_sent": 1,
        "backend_bytes_received": sizes[1], "frontend_bytes_sent": sizes[1],
    }  # fmt: skip


def test_a_header_in_a_longer_form_passes_too() -> None:
    switch = Switch(ONE)
    at = switch.pair()
    body = data()[1:]
    long = b"\xdc\x00\x08" + body
    assert wire.unpack(long) == wire.unpack(data())
    switch.receive(client(1), long)
    switch.receive(at, long)
    assert switch.sent() == [(at, [long]), (client(1), [long])]


def test_a_goodbye_passes_and_the_pair_stays() -> None:
    switch = Switch(ONE)
    at = switch.pair()
    switch.say(at, GOODBYE, b"session1", 0, 0, 0, "closed", 0)
    assert switch.take() == [(client(1), "GOODBYE")]
    assert switch.count("sessions") == 1
    switch.receive(client(1), data())
    assert switch.take() == [(at, "DATA")]


def test_messages_without_a_pair_are_dropped_and_nothing_is_said() -> None:
    switch = Switch(ONE)
    for link in (client(1), line(ONE, 2), ("c", ONE)):
        switch.receive(link, data())
    assert switch.take() == []
    assert switch.count("frames_dropped") == 3


def test_what_breaks_the_protocol_is_counted_and_without_end_the_connection_closed() -> None:
    switch = Switch(ONE)
    bad = [[b""], [], [b"\x91"], [wire.pack([HELLO, {}])], [wire.pack([WELCOME, {}])], [wire.pack([99, 1])], [b"\x90"]]
    bad += [[wire.gone()], [wire.listen()], [wire.more(2)], [b"x" * 70_000], [wire.pack([HELLO])]]
    for frames in bad:
        switch.receive(client(1), *frames)
    assert switch.take() == []
    assert switch.count("frames_bad") == len(bad) == len(switch.events)
    assert {type(event) for event in switch.events} == {BadFrame}
    assert not switch.disconnects
    for _ in range(100):
        switch.receive(client(1), b"garbage")
    switch.take()
    assert switch.disconnects == [client(1)]


def test_who_sends_for_no_session_without_end_is_disconnected() -> None:
    switch = Switch(ONE)
    for _ in range(ways.MAX_OFFENCES):
        switch.receive(client(1), data())
    switch.take()
    assert switch.disconnects == [client(1)]


def test_nobody_can_have_offences_of_more_connections_remembered_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "MAX_SESSIONS", 10)
    switch = Switch(ONE)
    for number in range(100):
        switch.receive(client(number), b"garbage")
    assert len(switch.core._offences) <= 10


def test_garbage_never_raises_and_leaves_the_books_in_order() -> None:
    rng = random.Random(7)
    switch = Switch(ONE, TWO, listening=True)
    links = [*map(client, range(4)), *map(server, range(4)), *(line(at, n) for at in (ONE, TWO) for n in range(1, 5))]
    sessions = [b"session%d" % number for number in range(4)]
    for _ in range(20_000):
        link, session = rng.choice(links), rng.choice(sessions)
        which = rng.randrange(9)
        if which == 0:
            role = rng.choice(["client", "server"])
            instance = bytes([rng.randrange(3)]) * 16
            switch.hello(link, session, role=role, instance=instance, resume=rng.random() < 0.5)
        elif which == 1:
            switch.welcome(link, session)
        elif which == 2:
            kind = rng.choice([LOST, REFUSED, DATA, PING, GOODBYE, 11, 12, 13, 99])
            switch.say(link, kind, rng.choice([session, "role", 3, 0, None]), 0, 0, 0, 1, 1)
        elif which == 3:
            switch.receive(link, rng.randbytes(rng.randrange(20)))
        elif which == 4:
            switch.up(link if link[0] == "c" else ("c", ONE))  # type: ignore[index]
        elif which == 5:
            switch.down(link)
        elif which == 6:
            switch.core.links_disturbed(link[:2], switch.now)  # type: ignore[index]
        elif which == 7:
            switch.pass_time(rng.random())
        else:
            (switch.core.pause if rng.random() < 0.3 else switch.core.resume)(None, switch.now)
            switch.core.out.replies.clear()
        switch.take()
        check_switch(switch.core)


# ---- connections that break ------------------------------------------------------------------


@pytest.mark.parametrize("how", ["down", "GONE", "up again"])
def test_where_an_acceptor_is_cut_off_the_initiator_is_told(how: str) -> None:
    switch = Switch(ONE)
    at = switch.pair()
    if how == "down":
        switch.down(at)
    elif how == "GONE":
        switch.receive(at, wire.gone())
    else:
        switch.up(at)
    assert switch.take() == [(client(1), "GONE")]
    assert switch.dials[-1] == (at[1], False)  # type: ignore[index]
    assert switch.count("routes_lost") == 1
    assert switch.count("sessions") == 0
    switch.receive(client(1), data())
    assert switch.take() == []
    assert len(switch.core.initiators) == 0


def test_where_an_initiator_is_gone_what_it_said_last_gets_out_before_its_line_is_closed() -> None:
    switch = Switch(ONE)
    at = switch.pair()
    switch.down(client(1))
    assert switch.take() == []
    dialled = list(switch.dials)
    switch.pass_time(FLUSH_SECONDS - 0.01)
    switch.receive(at, data())
    switch.take()
    assert switch.dials == dialled
    switch.pass_time(0.02)
    switch.take()
    assert switch.dials == [*dialled, (at[1], False)]  # type: ignore[index]


def test_a_line_that_breaks_while_it_is_flushed_is_closed_once() -> None:
    switch = Switch(ONE)
    at = switch.pair()
    switch.down(client(1))
    switch.down(at)
    switch.pass_time(1.0)
    switch.take()
    assert switch.dials == [(at[1], True), (at[1], False)]  # type: ignore[index]


def test_an_address_that_does_not_stand_any_more_is_not_waited_for() -> None:
    switch = Switch(ONE, TWO)
    switch.hello(client(1))
    switch.take()
    ((address, _),) = switch.dials
    base = address.partition("\t")[0]
    switch.down(("c", base))
    switch.take()
    other = TWO if base == ONE else ONE
    assert switch.dials[1:] == [(address, False), (nth(other, 2), True)]


def test_a_connection_that_breaks_before_it_is_answered_has_another_asked() -> None:
    switch = Switch(ONE)
    switch.hello(client(1))
    switch.take()
    switch.up(line(ONE, 2))
    switch.take()
    switch.down(line(ONE, 2))
    switch.take()
    assert switch.dials == [(nth(ONE, 2), True), (nth(ONE, 2), False), (nth(ONE, 2), True)]
    switch.down(line(ONE, 2))  # news of the old one, late
    switch.up(line(ONE, 2))
    assert switch.take() == [(line(ONE, 2), "HELLO")]


def test_an_acceptor_that_is_not_dialled_any_more_is_cut_off() -> None:
    switch = Switch(ONE)
    at = switch.pair()
    assert switch.core.uses(ONE)
    switch.core.link_forgotten(("c", ONE), switch.now)
    assert switch.take() == [(client(1), "GONE")]
    assert switch.dials[-1] == (at[1], False)  # type: ignore[index]
    assert not switch.core.uses(ONE)


def test_an_address_that_is_dialled_again_begins_anew() -> None:
    switch = Switch(ONE, TWO)
    switch.hello(client(1))
    switch.take()
    ((address, _),) = switch.dials
    base = address.partition("\t")[0]
    switch.up(("c", address))
    switch.down(client(1))
    switch.core.link_forgotten(("c", base), switch.now)
    switch.up(("c", base))  # news that come late
    switch.take()
    assert switch.dials == [(address, True), (address, False)]
    assert [acceptor.address for acceptor in switch.core.acceptors] == [TWO if base == ONE else ONE]
    switch.down(("c", TWO if base == ONE else ONE))
    switch.core.expect(base, switch.now)
    switch.up(("c", base))
    switch.hello(client(2), b"session2")
    switch.take()
    switch.up(("c", address))
    assert switch.take() == [(("c", address), "HELLO")]


def test_links_of_a_disturbed_socket_are_asked_and_asked_again() -> None:
    switch = Switch(ONE, listening=True)
    switch.hello(server(1), b"wanted01", role="server", instance=b"1" * 16)
    switch.hello(client(1))
    switch.take()
    switch.core.links_disturbed(("b", FRONT), switch.now)
    assert switch.take() == [(client(1), "MORE 2")]
    switch.core.links_disturbed(("b", BACK), switch.now)
    assert switch.take() == [(server(1), "LISTEN")]
    switch.pass_time(PROBE_DELAYS[0])
    assert {(client(1), "MORE 2"), (server(1), "LISTEN")} <= set(switch.take())
    switch.pass_time(sum(PROBE_DELAYS))
    assert switch.take().count((server(1), "LISTEN")) == len(PROBE_DELAYS) - 1
    switch.pass_time(60.0)
    assert (server(1), "LISTEN") not in switch.take()


# ---- acceptors that dial -------------------------------------------------------------------------


def test_an_acceptor_that_dials_is_told_to_listen_and_gets_hello() -> None:
    switch = Switch(listening=True)
    switch.hello(server(1), b"wanted01", role="server")
    assert switch.told() == {server(1): ["LISTEN", "MORE 1"]}
    said = switch.hello(client(1))
    assert (server(1), [said]) in switch.sent()
    switch.welcome(server(1))
    # One spare connection is wanted, and asked for again as long as there is none.
    assert switch.told() == {client(1): ["WELCOME"], server(1): ["MORE 2"]}
    switch.pass_time(1.0)
    assert switch.take() == [(server(1), "MORE 2")]
    switch.hello(server(2), b"wanted02", role="server")
    assert switch.told() == {server(2): ["LISTEN"]}
    switch.receive(server(1), data())
    assert switch.take() == [(client(1), "DATA")]


def test_its_link_is_let_go_by_gone_until_it_is_closed() -> None:
    switch = Switch(listening=True)
    for number in (1, 2):
        switch.hello(server(number), b"wanted0%d" % number, role="server")
    switch.hello(client(1))
    used = next(link for link, kind in switch.take() if kind == "HELLO")
    switch.welcome(used)
    switch.take()
    switch.down(client(1))
    assert (used, "GONE") in switch.take()
    switch.core.links_disturbed(("b", BACK), switch.now)
    assert (used, "GONE") in switch.take()
    switch.down(used)
    switch.core.links_disturbed(("b", BACK), switch.now)
    assert (used, "GONE") not in switch.take()


def test_not_more_closed_links_are_remembered_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptors, "MAX_GONE", 3)
    switch = Switch(listening=True)
    for number in range(10):
        switch.hello(server(number), b"wanted0%d" % number, role="server")
        switch.welcome(server(number))
    switch.take()
    switch.core.links_disturbed(("b", BACK), switch.now)
    assert switch.take() == [(server(number), "GONE") for number in (7, 8, 9)]


def test_a_wrong_role_is_refused_there_too() -> None:
    switch = Switch(listening=True)
    switch.hello(server(1), role="client")
    ((_, frames),) = switch.sent()
    assert wire.unpack(frames[0])[1:] == ["role", "the device between takes server at its backend, not client"]
    switch.hello(server(2), role="server", versions=(4, 5))
    assert switch.take() == [(server(2), "REFUSED version")]


def test_a_session_that_an_acceptor_began_itself_is_lost() -> None:
    switch = Switch(listening=True)
    switch.hello(server(1), role="server", resume=True)
    assert switch.take() == [(server(1), "LOST")]
    switch.hello(server(1), b"wanted01", role="server")
    assert (server(1), "LISTEN") in switch.take()


def test_more_acceptors_than_allowed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptors, "MAX_ACCEPTORS", 1)
    switch = Switch(listening=True)
    switch.hello(server(1), role="server", instance=b"1" * 16)
    switch.hello(server(2), role="server", instance=b"2" * 16)
    assert switch.told()[server(2)] == ["REFUSED full"]


# ---- how many connections ---------------------------------------------------------------------------


def test_initiators_are_told_when_acceptors_come_and_go() -> None:
    switch = Switch(ONE, listening=True)
    switch.pair()
    switch.hello(server(1), b"wanted01", role="server", instance=b"1" * 16)
    assert (client(1), "MORE 2") in switch.take()
    switch.down(server(1))
    assert (client(1), "MORE 1") in switch.take()


def test_a_switch_behind_an_address_counts_for_as_many_as_it_says() -> None:
    switch = Switch(ONE)
    at = switch.pair()
    switch.receive(at, wire.more(3))
    assert switch.take() == [(client(1), "MORE 3")]
    switch.hello(client(2), b"session2")
    switch.hello(client(3), b"session3")
    switch.hello(client(4), b"session4")
    switch.take()
    assert [each for each in switch.dials if each[1]] == [(nth(ONE, number), True) for number in (2, 3, 4)]


def test_what_a_switch_behind_tells_one_instance_is_of_that_instance() -> None:
    switch = Switch(ONE)
    at = switch.pair()
    switch.pair(number=3, link=client(2), instance=b"x" * 16, session=b"session2")
    switch.receive(line(ONE, 3), wire.more(2))
    switch.receive(at, wire.more(3))  # it has two sessions with one of them, there
    assert switch.told() == {client(1): ["MORE 3"], client(2): ["MORE 2"]}
    switch.hello(client(3), b"session3", instance=b"x" * 16)
    switch.hello(client(4), b"session4", instance=b"x" * 16)
    switch.hello(client(5), b"session5")
    switch.hello(client(6), b"session6")
    switch.take()
    assert len([address for address, wanted in switch.dials if wanted]) == 5
    switch.hello(client(7), b"session7", instance=b"z" * 16)
    assert (client(7), "MORE 2") in switch.take()
    for number in (1, 5, 6):
        switch.down(client(number))
    switch.take()
    assert all((b"i" * 16) not in acceptor.more for acceptor in switch.core.acceptors)


def test_an_instance_that_has_two_sessions_at_one_acceptor_is_told_to_have_one_connection_more() -> None:
    switch = Switch(ONE, TWO)
    switch.down(("c", TWO))
    switch.hello(client(1))
    switch.hello(client(2), b"session2", resume=True)
    switch.take()
    switch.up(line(ONE, 2))
    switch.up(line(ONE, 3))
    switch.welcome(line(ONE, 2))
    switch.welcome(line(ONE, 3), b"session2")
    assert switch.take()[-2:] == [(client(1), "MORE 3"), (client(2), "MORE 3")]


def test_who_has_fewer_connections_is_told_again_and_ever_more_seldom() -> None:
    switch = Switch(ONE, TWO)
    switch.hello(client(1))
    switch.take()
    switch.pass_time(3600.0)
    repeated = switch.take().count((client(1), "MORE 2"))
    assert 100 <= repeated <= 140
    switch.hello(client(2), b"session2")
    switch.take()
    switch.pass_time(60.0)
    assert not [each for each in switch.take() if each[1].startswith("MORE")]


def test_a_device_that_takes_this_one_for_an_acceptor_is_named() -> None:
    switch = Switch(ONE)
    switch.hello(client(1))
    switch.take()
    switch.up(line(ONE, 2))
    switch.take()
    switch.receive(line(ONE, 2), wire.listen())
    assert switch.take() == [(client(1), "REFUSED role")]
    (event,) = switch.events
    assert event.reason.startswith(f"{ONE} is the side of a device")


# ---- paused --------------------------------------------------------------------------------------


def test_paused_it_passes_nothing_on_and_dissolves_nothing() -> None:
    switch = Switch(ONE)
    at = switch.pair()
    switch.core.pause("ticket", switch.now)
    assert switch.core.out.replies == [("ticket", None)]
    for link in (client(1), at):
        switch.receive(link, data())
        switch.say(link, LOST, b"session1")
    switch.hello(client(1))
    switch.hello(client(2), b"session2")
    switch.welcome(at)
    assert switch.take() == []
    assert switch.count("frames_dropped") == 7
    assert (switch.count("paused"), switch.count("sessions")) == (1, 1)
    switch.core.resume("ticket", switch.now)
    switch.receive(client(1), data())
    switch.receive(at, data())
    assert switch.take() == [(at, "DATA"), (client(1), "DATA")]
    assert switch.count("paused") == 0


def test_a_hello_that_waited_goes_on_after_a_pause() -> None:
    switch = Switch(ONE, stand=False)
    switch.hello(client(1))
    switch.core.pause(None, switch.now)
    switch.up(("c", ONE))
    switch.take()
    assert not switch.dials
    switch.core.resume(None, switch.now)
    switch.take()
    assert switch.dials == [(nth(ONE, 2), True)]


def test_connections_that_break_while_it_is_paused_are_told_of() -> None:
    switch = Switch(ONE)
    at = switch.pair()
    switch.core.pause(None, switch.now)
    switch.receive(at, wire.gone())
    assert switch.take() == [(client(1), "GONE")]


def test_closing_is_soon_over() -> None:
    switch = Switch(ONE)
    assert not switch.core.finished
    switch.core.close(switch.now)
    assert switch.core.finished


def test_what_is_remembered_of_sessions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initiators, "MAX_TRACES", 5)
    switch = Switch(ONE)
    names: Sequence[bytes] = [b"%08d" % number for number in range(20)]
    for number, name in enumerate(names):
        switch.hello(client(number), name, resume=True, instance=b"%016d" % number)
    assert len(switch.core.initiators.traces) == 5
