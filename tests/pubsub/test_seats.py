"""Publishers behind a forwarder, as a subscriber's core tells them apart: by their seats (docs/protocol.md, 15)."""

from __future__ import annotations

from tests.pubsub.test_subscriber_core import fence, subscriber
from zmqkit.events import EpochChanged
from zmqkit.patterns.pubsub.subscriber import SubscriberCore

FORWARDER = "tcp://127.0.0.1:7100"


def connected() -> SubscriberCore:
    core = subscriber()
    core.link_up(("d", FORWARDER), 1.0)
    return core


def comes(core: SubscriberCore, name: str, seat: str, now: float = 2.0) -> list[EpochChanged]:
    """A publisher's fence comes through the forwarder. Returns what the user is told of it."""
    found = fence(core, FORWARDER, name, 7, ":7101")._replace(seat=seat)
    core.receive_message(("d", FORWARDER), [found.pack()], now)
    core.end_turn(now)
    events, core.out.events = core.out.events, []
    return [event for event in events if isinstance(event, EpochChanged)]


def ident(name: str) -> str:
    return name.encode().hex().ljust(32, "0")


def test_who_comes_with_the_seat_of_another_came_in_its_place_and_is_read_from_its_beginning() -> None:
    core = connected()
    assert comes(core, "old", "s1") == comes(core, "other", "s2") == []
    core.streams[ident("old")].position = 40
    [changed] = comes(core, "new", "s1")
    assert (changed.publisher, changed.last, changed.tail_unknown) == (ident("new"), 40, True)
    assert set(core.streams) == {ident("other"), ident("new")}
    assert core.streams[ident("new")].anew
    assert len(core._links[FORWARDER].streams) == 2


def test_who_comes_with_a_seat_of_his_own_came_beside_the_others() -> None:
    core = connected()
    for name in ("one", "two", "three"):
        assert comes(core, name, name) == []
    assert len(core.streams) == 3
    assert not any(stream.anew for stream in core.streams.values())


def test_after_the_forwarder_was_away_seats_are_what_they_were() -> None:
    core = connected()
    comes(core, "old", "s1")
    core.link_down(("d", FORWARDER), 3.0)
    core.link_up(("d", FORWARDER), 4.0)
    assert comes(core, "beside", "s2", 5.0) == [], "it took nobody's place, although there was one before"
    assert len(comes(core, "new", "s1", 5.0)) == 1
    assert set(core.streams) == {ident("beside"), ident("new")}


def test_the_same_publisher_in_its_seat_is_nobody_new() -> None:
    core = connected()
    comes(core, "old", "s1")
    assert comes(core, "old", "s1", 3.0) == []
    assert list(core.streams) == [ident("old")]
