"""The learning switch, row by row of the table in docs/protocol.md, section 15.3: no sockets, and time by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from tests.simulation.switched import check_switch
from zmqkit.address import nth
from zmqkit.devices import acceptors, greetings, initiators, ways
from zmqkit.devices.acceptors import FLUSH_SECONDS
from zmqkit.devices.switch import PROBE_DELAYS, SwitchCore
from zmqkit.events import BadFrame, PeerRefused
from zmqkit.protocol import wire
from zmqkit.protocol.core import Frames, Link
from zmqkit.protocol.wire import DATA, GOODBYE, HELLO, LOST, PING, REFUSED, WELCOME, Hello

FRONT, BACK = "tcp://front:1", "tcp://back:1"
ONE, TWO = "tcp://one:1", "tcp://two:1"
BOUND = 3.0


def client(number: int) -> Link:
    """A connection that was made to the frontend."""
    return ("b", FRONT, number)


def server(number: int) -> Link:
    """A connection that was made to the backend."""
    return ("b", BACK, number)


def line(address: str, number: int) -> Link:
    """A connection to an acceptor that is dialled."""
    return ("c", nth(address, number))


class Switch:
    """A core, its clock, and what comes out of it."""

    def __init__(self, *dialled: str, stand: bool = True, listening: bool = False) -> None:
        self.now = 100.0
        self.attempt = 0
        self.core = SwitchCore(
            name="between", sides=("frontend", "backend"), roles=({"client"}, {"server"}), dialled=dialled,
            open_ended=listening, rng=random.Random(1),
        )  # fmt: skip
        self.core.bound_at([FRONT], [BACK] if listening else [], self.now)
        self.dials: list[tuple[str, bool]] = []
        self.disconnects: list[Link] = []
        self.events: list[Any] = []
        if stand:
            for address in dialled:
                self.core.link_up(("c", address), self.now)
        self.take()

    def take(self) -> list[tuple[Link, str]]:
        """What was sent since the last time: to whom, and the kind; or LOST and REFUSED with what they say."""
        return [(link, shown(frames)) for link, frames in self.sent()]

    def sent(self) -> list[tuple[Link, Frames]]:
        """The same, as it is."""
        self.core.end_turn(self.now)
        out = self.core.out
        sends, out.sends = out.sends, []
        dials, out.dials = out.dials, []
        self.dials += dials
        self.disconnects += out.disconnects
        self.events += out.events
        out.disconnects, out.events = [], []
        return sends

    def told(self) -> dict[Link, list[str]]:
        """What was sent, by link."""
        told: dict[Link, list[str]] = {}
        for link, kind in self.take():
            told.setdefault(link, []).append(kind)
        return told

    def receive(self, link: Link, *frames: bytes) -> None:
        self.core.receive_message(link, list(frames), self.now)

    def say(self, link: Link, kind: int, *fields: object) -> None:
        self.receive(link, wire.pack([kind, *fields]))

    def hello(
        self, link: Link, session: bytes = b"session1", *, instance: bytes = b"i" * 16, role: str = "client",
        kind: int = HELLO, attempt: int = 0, **more: Any,
    ) -> bytes:  # fmt: skip
        self.attempt += 1
        made = Hello(
            role=role, instance=instance, session=session, attempt=attempt or self.attempt, interval=BOUND / 3,
            liveness=3, **more,
        ).pack(kind)  # fmt: skip
        self.receive(link, made)
        return made

    def welcome(self, link: Link, session: bytes = b"session1", *, role: str = "server", **more: Any) -> bytes:
        return self.hello(link, session, role=role, kind=WELCOME, instance=b"s" * 16, **more)

    def up(self, link: Link) -> None:
        self.core.link_up(link, self.now)

    def down(self, link: Link) -> None:
        self.core.link_down(link, self.now)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with each timer at its time."""
        end = self.now + seconds
        while (due := self.core.next_deadline()) is not None and due <= end:
            self.now = max(due, self.now)
            self.core.handle_timer(self.now)
            self.core.end_turn(self.now)
        self.now = end

    def pair(self, address: str = ONE, number: int = 2, *, link: Link | None = None, **more: Any) -> Link:
        """Bring a session through; returns the line to the acceptor."""
        self.hello(link or client(1), **more)
        self.take()
        self.up(line(address, number))
        self.welcome(line(address, number), more.get("session", b"session1"))
        self.take()
        return line(address, number)

    def count(self, name: str) -> int:
        self.core.end_turn(self.now)
        return int(self.core.counters[name])


def shown(frames: Frames) -> str:
    """The kind of a message, with what LOST, REFUSED and MORE say."""
    header = wire.unpack(frames[0])
    kind = wire.NAMES[header[0]]
    if header[0] == REFUSED:
        return f"{kind} {header[1]}"
    return f"{kind} {header[1]}" if kind == "MORE" else kind


def data(session: bytes = b"session1", number: int = 1) -> bytes:
    return wire.pack([DATA, session, 0, 0, 0, number, 1, b"body"])


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
