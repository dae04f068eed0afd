"""What a forwarder rewrites, without sockets: private subscriptions and fences (docs/protocol.md, 14.3)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqkit.devices import fences as module
from zmqkit.devices.fences import FADE_SECONDS, Fences, Place
from zmqkit.patterns.pubsub import topics, wire

FRONT = ("d", "tcp://127.0.0.1:5000")
BOUND_FRONT = ("d", "tcp://127.0.0.1:6000")
BACK = ("d", "tcp://127.0.0.1:6100")
DIALLED_BACK = ("d", "tcp://127.0.0.1:9000")
SUBSCRIBER = bytes(range(16))
OURS = ":6101"
"""Where subscribers find the forwarder's recovery channel."""


def dialling(*, back: bool = True) -> Fences:
    """One that connects to a publisher, and to whose other side subscribers connect."""
    made = Fences()
    made.add_inlet(FRONT, FRONT[1], dialled=True)
    if back:
        made.add_outlet(BACK, BACK[1], dialled=False, hint=OURS)
    return made


def mirrored() -> Fences:
    """One to which publishers connect, and that connects to a subscriber."""
    made = Fences()
    made.add_inlet(BOUND_FRONT, BOUND_FRONT[1], dialled=False, hint=":6001")
    made.add_outlet(DIALLED_BACK, DIALLED_BACK[1], dialled=True)
    return made


def private(number: int = 1, hint: str = "", instance: bytes = SUBSCRIBER) -> bytes:
    return topics.private_topic(wire.private_name(instance, number, hint))


def fence(name: bytes, recovery: str = ":5001") -> wire.Fence:
    return wire.Fence(name[1:-1].decode(), b"stream01", "ab" * 16, "cd" * 16, "ef" * 16, 41, recovery)


def take(found: list[Any]) -> list[Any]:
    taken = list(found)
    found.clear()
    return taken


def on(made: Fences, link: tuple[str, str], *prefixes: bytes, token: bytes = b"a", now: float = 0.0) -> list[bytes]:
    """Subscribe. Returns what goes up."""
    for prefix in prefixes:
        made.subscription(link, wire.subscription(prefix), token, now)
    return [frame for _, frame in take(made.up)]


def told(made: Fences) -> list[tuple[Any, Any]]:
    """The fences that go down, without their seats."""
    return [(link, wire.read(frame)._replace(seat="")) for link, frame in take(made.down)]  # type: ignore[call-arg]


def off(made: Fences, link: tuple[str, str], *prefixes: bytes, token: bytes = b"a") -> list[bytes]:
    for prefix in prefixes:
        made.subscription(link, wire.subscription(prefix, False), token, 0.0)
    return [frame for _, frame in take(made.up)]


# ---- subscriptions ---------------------------------------------------------------


def test_a_subscription_of_several_goes_up_once_and_ends_with_the_last() -> None:
    made = dialling()
    other = ("d", "ipc:///tmp/other")
    made.add_outlet(other, other[1], dialled=False)
    assert on(made, BACK, b"da\0", b"da\0") == [b"\1da\0"]
    assert on(made, other, b"da\0") == []
    assert off(made, BACK, b"da\0") == []
    assert off(made, BACK, b"da\0") == []
    assert off(made, other, b"da\0") == [b"\0da\0"]


def test_an_endpoint_that_comes_later_is_told_all_subscriptions_topics_before_private_ones() -> None:
    made = dialling()
    on(made, BACK, private(3), b"b", b"dx\0")
    later = ("d", "tcp://127.0.0.1:5050")
    made.add_inlet(later, later[1], dialled=False, hint=":5051")
    assert made.up == [(later, b"\1b"), (later, b"\1dx\0"), (later, b"\1" + private(3, ":5051"))]


def test_an_endpoint_behind_that_goes_takes_its_subscriptions_with_it() -> None:
    made = dialling()
    on(made, BACK, b"da\0", private(1))
    made.remove(BACK)
    assert sorted(frame for _, frame in made.up) == [b"\0da\0", b"\0" + private(1)]
    take(made.up)
    assert off(made, BACK, b"da\0") == []


def test_plain_subscriptions_that_look_a_little_like_private_ones_are_left_as_they_are() -> None:
    made = dialling()
    plain = [b"", b"p", b"prices.", b"p" + b"0" * 32 + b"/1/", b"p" + b"0" * 31 + b"/1/\0"]
    assert on(made, BACK, *plain) == [b"\1" + each for each in plain]


def test_what_is_no_subscription_is_counted_and_dropped() -> None:
    made = dialling()
    for frame in (b"", b"\2da\0", b"hello"):
        made.subscription(BACK, frame, b"a", 0.0)
    assert made.up == []
    assert made.counters["hints_bad"] == 3


def test_a_connection_that_subscribes_too_much_is_cut_and_the_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SUBSCRIPTIONS_OF_ONE", 3)
    made = dialling()
    on(made, BACK, *(b"da%d\0" % at for at in range(4)), token=b"greedy")
    on(made, BACK, *(b"db%d\0" % at for at in range(3)), token=b"modest")
    assert made.cuts == [(BACK, b"greedy")]
    assert made.counters["subscriptions_refused"] == 1


def test_all_connections_together_subscribe_no_more_than_a_publisher_bears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SUBSCRIPTIONS", 5)
    made = dialling()
    up = [on(made, BACK, b"d%d\0" % at, token=b"%d" % (at // 2)) for at in range(8)]
    assert sum(map(len, up)) == 5
    assert (BACK, b"2") in made.cuts
    assert on(made, BACK, b"d0\0", token=b"late") == []  # one that goes up anyway costs nothing


# ---- fences ----------------------------------------------------------------------


def test_a_fence_names_the_recovery_channel_of_the_forwarder_and_the_forwarder_goes_to_the_publishers() -> None:
    made = dialling()
    assert on(made, BACK, private(7)) == [b"\1" + private(7)]
    assert made.fence(FRONT, fence(private(7)).pack(), 0.0)
    assert told(made) == [(BACK, fence(private(7), OURS))]
    assert made.places == [Place(front=True, address="tcp://127.0.0.1:5001", wanted=True)]


def test_where_publishers_come_and_subscribers_bind_the_hints_are_exchanged() -> None:
    made = mirrored()
    assert on(made, DIALLED_BACK, private(2, ":9001")) == [b"\1" + private(2, ":6001")]
    assert made.places == [Place(front=False, address="tcp://127.0.0.1:9001", wanted=True)]
    assert made.fence(BOUND_FRONT, fence(private(2, ":6001"), "").pack(), 0.0)
    assert told(made) == [(DIALLED_BACK, fence(private(2, ":9001"), ""))]


def test_the_page_of_the_protocol_is_kept_to_the_byte() -> None:
    # 14.3: private = "p" name 0; name: instance "/" number "/" hint; fence = private msgpack [1, stream, ...]
    made = mirrored()
    name = b"p000102030405060708090a0b0c0d0e0f/12/"
    on(made, DIALLED_BACK, name + b":9001\0")
    rest = (
        b"\x97\x01\xc4\x08stream01\xd9\x20"
        + b"ab" * 16
        + b"\xd9\x20"
        + b"cd" * 16
        + b"\xd9\x20"
        + b"ef" * 16
        + b"\x29\xa0"
    )
    made.fence(BOUND_FRONT, name + b":6001\0" + rest, 0.0)
    seat = b"\xd9\x20" + b"ab" * 16  # 15.4: the publisher's id, where it connected
    assert made.down == [(DIALLED_BACK, name + b":9001\0\x98" + rest[1:] + seat)]


@pytest.mark.parametrize(
    "elsewhere", ["tcp://127.0.0.2.example:5001", "tcp://198.51.100.1:5001", "ipc:///tmp/x", "junk"]
)
def test_a_fence_that_names_another_host_is_passed_on_and_not_followed(elsewhere: str) -> None:
    made = dialling()
    on(made, BACK, private(1))
    made.fence(FRONT, fence(private(1), elsewhere).pack(), 0.0)
    assert made.places == []
    assert made.counters["fences_bad"] == 1
    assert told(made) == [(BACK, fence(private(1), OURS))]


def test_who_connects_to_a_forwarder_may_not_say_whom_it_should_connect_to() -> None:
    made = Fences()
    made.add_inlet(BOUND_FRONT, BOUND_FRONT[1], dialled=False, hint=":6001")
    made.add_outlet(BACK, BACK[1], dialled=False, hint=OURS)
    on(made, BACK, private(1, ":9001"))
    made.fence(BOUND_FRONT, fence(private(1, ":6001"), ":5001").pack(), 0.0)
    assert len(made.down) == 1
    assert made.places == []


def test_a_fence_that_nobody_asked_for_goes_nowhere_and_nothing_is_connected_to() -> None:
    made = dialling()
    assert made.fence(FRONT, fence(private(1)).pack(), 0.0)
    on(made, BACK, private(1))
    off(made, BACK, private(1))
    assert made.fence(FRONT, fence(private(1)).pack(), 0.0)
    assert not made.down
    assert not made.places


def test_a_fence_that_cannot_be_read_is_dropped_and_counted() -> None:
    made = dialling()
    on(made, BACK, private(1))
    for rest in (
        b"",
        b"\x90",
        b"\xc1",
        b"\x97\x01\xa0\xa0\xa0\xa0\xa0\xa0",
        fence(private(1)).pack()[len(private(1)) : -1],
    ):
        assert made.fence(FRONT, private(1) + rest, 0.0)
    assert made.down == []
    assert made.counters["fences_bad"] == 5


def test_a_fence_of_a_later_version_gets_only_its_name_back() -> None:
    made = mirrored()
    on(made, DIALLED_BACK, private(1, ":9001"))
    made.fence(BOUND_FRONT, private(1, ":6001") + b"\x92\x02\xa3new", 0.0)
    assert made.down == [(DIALLED_BACK, private(1, ":9001") + b"\x92\x02\xa3new")]


def test_what_only_begins_as_a_fence_does_is_somebodys_message() -> None:
    made = dialling()
    for frame in (b"p", b"prices.gold\0body", b"p" + b"x" * 400, b"p\0"):
        assert not made.fence(FRONT, frame, 0.0)
    assert made.counters["fences"] == 0


def test_streams_are_known_by_their_fences() -> None:
    made = dialling()
    made.fence(FRONT, fence(private(1)).pack(), 0.0)
    assert list(made.streams) == [b"stream01"]


def seat_of(made: Fences, link: Any, publisher: str, seat: str = "") -> str:
    made.fence(link, fence(private(1))._replace(publisher=publisher, seat=seat).pack(), 0.0)
    [(_, frame)] = take(made.down)
    found = wire.read(frame)
    assert isinstance(found, wire.Fence)
    return found.seat


def test_at_an_address_that_it_dials_there_is_one_seat_and_who_dials_in_has_a_seat_of_his_own() -> None:
    made = dialling()
    made.add_inlet(BOUND_FRONT, BOUND_FRONT[1], dialled=False, hint=":6001")
    on(made, BACK, private(1))
    one, other = "aa" * 16, "bb" * 16
    seat = seat_of(made, FRONT, one)
    assert 0 < len(seat) <= wire.MAX_SEAT
    assert seat_of(made, FRONT, other) == seat
    assert seat_of(dialling_with(private(1)), FRONT, one) == seat, "after a restart it is the same"
    assert len({seat, seat_of(made, BOUND_FRONT, one), seat_of(made, BOUND_FRONT, other)}) == 3
    # Behind another forwarder there are as many as it tells of.
    assert len({seat, seat_of(made, FRONT, one, "x"), seat_of(made, FRONT, one, "y")}) == 3


def dialling_with(*prefixes: bytes) -> Fences:
    made = dialling()
    on(made, BACK, *prefixes)
    return made


# ---- places ----------------------------------------------------------------------


def test_a_place_of_which_several_tell_is_connected_to_once_and_left_with_the_last() -> None:
    made = dialling()
    other = ("d", "tcp://localhost:5000")
    made.add_inlet(other, "tcp://127.0.0.1:5500", dialled=True)
    on(made, BACK, private(1))
    made.fence(FRONT, fence(private(1)).pack(), 0.0)
    made.fence(other, fence(private(1)).pack(), 0.0)
    made.remove(FRONT)
    assert take(made.places) == [Place(front=True, address="tcp://127.0.0.1:5001", wanted=True)]
    made.remove(other)
    assert made.places == [Place(front=True, address="tcp://127.0.0.1:5001", wanted=False)]


def test_what_an_older_connection_told_is_left_some_time_after_the_newer_one_told_otherwise() -> None:
    made = dialling()
    on(made, BACK, private(1))
    made.fence(FRONT, fence(private(1), ":5001").pack(), 0.0)
    made.broken(FRONT)
    assert made.next_deadline() is None
    made.fence(FRONT, fence(private(1), ":5003").pack(), 100.0)
    take(made.places)
    assert made.next_deadline() == 100.0 + FADE_SECONDS
    made.handle_timer(100.0 + FADE_SECONDS)
    assert made.places == [Place(front=True, address="tcp://127.0.0.1:5001", wanted=False)]
    assert made.next_deadline() is None


def test_a_new_connection_that_tells_the_same_keeps_it() -> None:
    made = dialling()
    on(made, BACK, private(1))
    made.fence(FRONT, fence(private(1)).pack(), 0.0)
    made.broken(FRONT)
    made.fence(FRONT, fence(private(1)).pack(), 100.0)
    assert made.next_deadline() is None
    assert len(made.places) == 1


def test_a_stranger_cannot_make_it_connect_to_any_number_of_places() -> None:
    made = dialling()
    on(made, BACK, private(1))
    for port in range(1, module.MAX_PLACES + 50):
        made.fence(FRONT, fence(private(1), f":{port}").pack(), 0.0)
    assert len(made.places) == module.MAX_PLACES
    assert made.counters["places_refused"] == 49


# ---- whatever comes ----------------------------------------------------------------

FEW = [b"", b"b", b"da\0", b"p" * 40 + b"\0", *(private(number, hint) for number in (1, 2) for hint in ("", ":1", "x"))]
PREFIXES = st.one_of(st.sampled_from(FEW), st.sampled_from(FEW), st.binary(max_size=60))
FRAMES = st.one_of(
    st.builds(
        lambda name, recovery, cut: fence(name, recovery).pack()[: cut or None],
        st.builds(private, st.integers(0, 3), st.sampled_from(["", ":6001", ":7"])),
        st.sampled_from(["", ":1", ":2", "tcp://198.51.100.1:9", "inproc://x", "\n"]),
        st.sampled_from([0, 0, 0, 30, 60, 80]),
    ),
    st.binary(max_size=200).map(lambda rest: b"p" + rest),
)
SUBSCRIPTIONS = st.tuples(
    st.just("subscription"), st.sampled_from([BACK, DIALLED_BACK]), st.sampled_from([b"\0", b"\1"]), PREFIXES
)
FENCES = st.tuples(st.just("fence"), st.sampled_from([FRONT, BOUND_FRONT]), FRAMES)
HARM = st.tuples(
    st.sampled_from(["broken"] * 4 + ["remade"] * 4 + ["remove"]), st.sampled_from([FRONT, BACK, DIALLED_BACK])
)
STEPS = st.lists(st.one_of(*[SUBSCRIPTIONS] * 6, *[FENCES] * 2, HARM), min_size=20, max_size=60)


@given(STEPS)
def test_whatever_comes_is_survived_and_what_goes_up_is_what_is_subscribed(steps: list[Any]) -> None:
    made = dialling()
    made.add_inlet(BOUND_FRONT, BOUND_FRONT[1], dialled=False, hint=":6001")
    made.add_outlet(DIALLED_BACK, DIALLED_BACK[1], dialled=True)
    above: set[bytes] = set()
    dialled: set[tuple[bool, str]] = set()
    for now, (what, link, *rest) in enumerate(steps):
        if what == "subscription":
            made.subscription(link, rest[0] + rest[1], b"token", now)
        elif what == "fence":
            made.fence(link, rest[0], now)
        else:
            getattr(made, what)(link)
        made.handle_timer(now)
        for place in take(made.places):
            assert ((place.front, place.address) in dialled) is not place.wanted
            (dialled.add if place.wanted else dialled.discard)((place.front, place.address))
            assert "198.51" not in place.address
        for to, frame in take(made.up):
            if to == BOUND_FRONT:
                assert what == "remade" or (frame[1:] in above) is (frame[:1] == b"\0")
                (above.add if frame[0] else above.discard)(frame[1:])
        for to, frame in take(made.down):
            found = wire.read(frame)
            assert isinstance(found, wire.Fence)
            assert found.recovery == (OURS if to == BACK else "")
    wanted = {prefix for outlet in made._outlets.values() for prefix in outlet.prefixes}
    plain = {prefix for prefix in wanted if module._private(prefix) is None}
    assert plain <= above
    assert len(above - plain) == len({key for outlet in made._outlets.values() for key in outlet.privates})
    for outlet in list(made._outlets):
        made.remove(outlet)
    for to, frame in made.up:
        if to == BOUND_FRONT:
            above.remove(frame[1:])
    assert not above
    assert made._size == 0
