"""How many connections devices ask for (docs/protocol.md, section 15.2), and all that they say, in any order."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.protocol.bench import Bench, Plug, listening, switched
from tests.protocol.pair import BOUND, Side
from zmqkit.address import nth
from zmqkit.protocol import links, wire
from zmqkit.protocol.core import Frames
from zmqkit.protocol.wire import GONE, HELLO, LISTEN, LOST, MORE, WELCOME


def further(*numbers: int, wanted: bool = True) -> list[tuple[str, str, bool]]:
    return [("c", nth("x", number), wanted) for number in numbers]


def test_more_connections_are_links_of_their_own_with_sessions_of_their_own() -> None:
    bench = Bench(Side("c"), Side("b"), Side("d"))
    c, b, d = bench.sides
    front = bench.dial(c)
    bench.say(front, wire.more(2))
    assert bench.dials == further(2)
    other = bench.dial(c, 2)
    assert front.said[0] != other.said[0]
    bench.join(front, bench.reach(b, 1))
    bench.join(other, bench.reach(d, 1))
    assert [session.peer.instance for session in c.sessions] == [b.sessions.local.instance, d.sessions.local.instance]
    for session in c.sessions:
        c.sessions.send(session, [session.peer.name.encode()], 1, bench.now)
    bench.flow()
    assert (b.got, d.got) == ([b"b"], [b"d"])
    assert {event.address for event in c.events if hasattr(event, "address")} == {"x"}


def test_more_is_said_as_often_as_one_likes_and_over_whichever_connection() -> None:
    bench = Bench(Side("c"))
    front = bench.dial(bench.sides[0])
    bench.say(front, wire.more(3), wire.more(3))
    other = bench.dial(bench.sides[0], 3)
    bench.say(other, wire.more(3), wire.more(4))
    assert bench.dials == further(2, 3, 4)


def test_a_connection_of_no_more_use_is_left_after_a_while() -> None:
    bench = Bench(Side("c"))
    c = bench.sides[0]
    front = bench.dial(c)
    bench.say(front, wire.more(3))
    others = [bench.dial(c, number) for number in (2, 3)]
    bench.say(front, wire.more(1))
    bench.advance(links.FEWER_DELAY - 0.01)
    assert bench.dials == further(2, 3)
    bench.advance(0.02)
    assert bench.dials == further(2, 3) + further(2, 3, wanted=False)
    for plug in others:
        plug.take()
    bench.advance(60.0)
    assert [len(plug.take()) for plug in others] == [0, 0]


def test_a_connection_above_the_total_stays_until_its_session_has_ended() -> None:
    bench = Bench(Side("c"), Side("b"))
    c, b = bench.sides
    front = bench.dial(c)
    bench.say(front, wire.more(3))
    bench.dial(c, 2)
    other = bench.dial(c, 3)
    bench.join(other, bench.reach(b, 1))
    bench.say(front, wire.more(1))
    bench.advance(100.0)
    assert bench.dials == further(2, 3) + further(2, wanted=False)
    bench.tell(c, b"1")
    assert b.got == [b"1"]
    b.sessions.close(bench.now)
    bench.advance(2 * links.FEWER_DELAY)
    assert bench.dials[3:] == further(3, wanted=False)


def test_a_session_that_has_lost_its_connection_keeps_its_place_above_the_total() -> None:
    bench = Bench(Side("c"), Side("b"))
    c, b = bench.sides
    front = bench.dial(c)
    bench.say(front, wire.more(2))
    other = bench.dial(c, 2)
    back = bench.reach(b, 1)
    bench.join(other, back)
    bench.say(front, wire.more(1))
    bench.advance(links.FEWER_DELAY - 1.0)
    bench.cut(other)
    bench.advance(1.5)
    assert bench.dials == further(2)
    back.alive = False
    bench.join(bench.dial(c, 2), bench.reach(b, 2))
    assert c.counters["sessions_resumed"] == 1


def test_a_listening_connection_above_the_total_is_left_when_nothing_runs_over_it() -> None:
    bench, (first, second) = listening(1, 2)
    c = bench.sides[0]
    bench.join(bench.dial(c), second)
    bench.say(first, wire.more(1))
    bench.advance(3 * links.FEWER_DELAY)
    assert bench.dials == [("a", nth("x", 2), True)]
    c.sessions.close(bench.now)
    bench.advance(2 * links.FEWER_DELAY)
    assert bench.dials[1:] == [("a", nth("x", 2), False)]


def test_fewer_and_then_more_again_moves_nothing() -> None:
    bench = Bench(Side("c"))
    front = bench.dial(bench.sides[0])
    bench.say(front, wire.more(4), wire.more(2))
    bench.advance(links.FEWER_DELAY / 2)
    bench.say(front, wire.more(4))
    bench.advance(60.0)
    assert bench.dials == further(2, 3, 4)


def test_to_waver_does_not_put_off_that_connections_are_left() -> None:
    bench = Bench(Side("c"))
    front = bench.dial(bench.sides[0])
    bench.say(front, wire.more(2), wire.more(1))
    for _ in range(6):
        bench.advance(links.FEWER_DELAY / 5)
        if bench.dials == further(2):
            bench.say(front, wire.more(2), wire.more(1))
    assert bench.dials == further(2) + further(2, wanted=False)


@pytest.mark.parametrize("total", [257, 10**9, wire.MAX_NUMBER - 1])
def test_more_than_256_connections_count_as_256(total: int) -> None:
    bench = Bench(Side("c"))
    bench.say(bench.dial(bench.sides[0]), wire.pack([MORE, total]))
    assert bench.dials == further(*range(2, 257))


def test_a_device_that_says_many_and_few_in_turn_has_us_dial_each_connection_once() -> None:
    bench = Bench(Side("c"))
    front = bench.dial(bench.sides[0])
    for _ in range(100):
        bench.say(front, wire.more(256), wire.more(1))
    assert len(bench.dials) == 255
    bench.advance(links.FEWER_DELAY + 0.1)
    assert len(bench.dials) == 510
    assert not [name for name, _, wanted in bench.dials[255:] if wanted]


@pytest.mark.parametrize("said", [[MORE], [MORE, 0], [MORE, -1], [MORE, True], [MORE, 2.0], [MORE, "2"], [MORE, 2**63]])
def test_more_without_a_number_of_connections_is_bad(said: list[object]) -> None:
    bench = Bench(Side("c"))
    bench.say(bench.dial(bench.sides[0]), wire.pack(said))
    assert bench.sides[0].counters["frames_bad"] == 1
    assert not bench.dials


def test_what_a_later_version_adds_is_skipped() -> None:
    bench = Bench(Side("c"))
    front = bench.dial(bench.sides[0])
    bench.say(front, wire.pack([MORE, 2, {"later": 1}]), wire.pack([LISTEN, "later"]), wire.pack([GONE, 1, 2]))
    assert bench.dials == further(2)
    assert bench.dropped == [front.link]
    assert not bench.sides[0].counters["frames_bad"]


def test_news_of_a_connection_that_was_left_comes_too_late() -> None:
    bench = Bench(Side("c"))
    c = bench.sides[0]
    front = bench.dial(c)
    bench.say(front, wire.more(2), wire.more(1))
    bench.advance(2 * links.FEWER_DELAY)
    late = bench.dial(c, 2)
    bench.advance(60.0)
    assert not late.said
    bench.say(late, wire.more(9), wire.gone())
    assert bench.dials == further(2) + further(2, wanted=False)
    assert not bench.dropped


def test_gone_over_a_further_connection_drops_that_one_alone() -> None:
    bench = Bench(Side("c"))
    c = bench.sides[0]
    front = bench.dial(c)
    bench.say(front, wire.more(2))
    other = bench.dial(c, 2)
    bench.say(other, wire.gone())
    assert bench.dropped == [other.link]
    bench.again(other)
    bench.say(front, wire.more(2))
    assert bench.dials == further(2)


def test_to_leave_an_address_is_to_leave_all_connections_to_it() -> None:
    bench = Bench(Side("c"), Side("b"))
    c, b = bench.sides
    front = bench.dial(c)
    bench.say(front, wire.more(3))
    other = bench.dial(c, 2)
    bench.join(other, bench.reach(b, 1))
    c.sessions.link_forgotten(("c", "x"), bench.now)
    bench.flow()
    assert b.reasons == ["goodbye: disconnected"]
    assert bench.dials == further(2, 3) + further(2, 3, wanted=False)
    assert c.sessions.next_deadline() is None


def test_an_address_that_is_left_or_a_side_that_is_closed_has_nothing_more_to_do() -> None:
    for close in (False, True):
        bench, front, _ = switched()
        c = bench.sides[0]
        bench.say(front, wire.more(2), wire.more(1), wire.gone())
        if close:
            c.sessions.close(bench.now)
        else:
            c.sessions.link_forgotten(front.link, bench.now)
        bench.drain()
        dials = list(bench.dials)
        assert c.sessions.next_deadline() is None
        assert not c.sessions._astray
        bench.advance(2 * links.FEWER_DELAY)
        assert bench.dials == dials


def test_what_a_pattern_dials_is_counted_and_goes_with_all_its_connections() -> None:
    bench = Bench(Side("c"), Side("b"))
    c, b = bench.sides
    c.sessions.dial("x")
    c.sessions.dial("x")
    front = bench.dial(c)
    bench.say(front, wire.more(2))
    other = bench.dial(c, 2)
    bench.join(other, bench.reach(b, 1))
    c.sessions.hang_up("x")
    bench.drain()
    assert bench.dials == [("c", "x", True), ("c", "x", True), *further(2), ("c", "x", False)]
    c.sessions.hang_up("x")
    bench.drain()
    assert bench.dials[4:] == [("c", "x", False), *further(2, wanted=False)]
    bench.cut(front)
    bench.cut(other)
    bench.advance(BOUND + 0.1)
    assert c.reasons == ["silent"]  # time to go on over another connection, had there been one
    assert c.sessions.next_deadline() is None
    assert not c.sessions._dials  # or the addresses that a publisher tells would pile up


def test_what_a_pattern_dials_again_before_its_session_has_ended_goes_on() -> None:
    bench = Bench(Side("c"), Side("b"))
    c, b = bench.sides
    c.sessions.dial("x")
    front, back = bench.dial(c), bench.reach(b, 1)
    bench.join(front, back)
    c.sessions.hang_up("x")
    bench.cut(front)
    back.alive = False
    c.sessions.dial("x")
    bench.join(bench.dial(c), bench.reach(b, 2))
    assert c.counters["sessions_resumed"] == 1
    bench.advance(10 * BOUND)
    assert not c.lost
    b.sessions.close(bench.now)
    bench.flow()
    front = bench.plugs[2]
    bench.part(front)
    front.take()
    bench.advance(BOUND + 0.1)
    assert not front.hello()["resume"]  # that address is wanted as it ever was


def test_a_peer_is_known_again_by_its_address_but_behind_a_device_by_its_instance() -> None:
    bench, front, _ = switched()
    c, b = bench.sides
    assert c.sessions.place(c.session) == front.link
    assert b.sessions.place(b.session) == c.sessions.local.instance
    bench.say(front, wire.more(1))
    assert c.sessions.place(c.session) == b.sessions.local.instance


# ---- all of it ----------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["gone", "listen", "more", "hello", "up", "down", "time", "welcome", "lost", "forget"]),
            st.integers(1, 4),
            st.integers(1, 4),
        ),
        max_size=40,
    )
)
@example(
    [("up", 1, 1), ("more", 1, 4), ("up", 2, 1), ("listen", 2, 1), ("hello", 2, 1), ("more", 1, 1), ("time", 1, 4)]
)
@example([("up", 1, 1), ("welcome", 1, 1), ("gone", 1, 1), ("up", 1, 1), ("gone", 1, 1), ("forget", 1, 1)])
@example([("up", 1, 1), ("welcome", 1, 1), ("more", 1, 2), ("forget", 1, 1), ("up", 1, 1), ("listen", 1, 1)])
def test_whatever_a_device_says_each_connection_is_dialled_once_and_left_once(acts: list[tuple[str, int, int]]) -> None:
    """`Bench.advance` checks after every timer that the next deadline is later than now."""
    bench = Bench(Side("c"))
    c = bench.sides[0]
    plugs: dict[int, Plug] = {}
    for at, (act, number, amount) in enumerate(acts):
        link = ("c", nth("x", number))
        if act == "up":
            plugs[number] = bench.dial(c, number)
        elif act == "down":
            c.sessions.link_down(link, bench.now)
        elif act == "forget":
            c.sessions.link_forgotten(("c", "x"), bench.now)
        elif act == "time":
            bench.advance(amount * 2.0)
        elif number in plugs:
            bench.say(plugs[number], answer(act, plugs[number], at, amount))
        bench.drain()
    bench.advance(2 * links.FEWER_DELAY)
    standing: set[str] = set()
    for _, address, wanted in bench.dials:
        assert (address in standing) is not wanted
        (standing.add if wanted else standing.remove)(address)
    assert not [event for event in c.kinds() if event == "BadFrame"] or any(
        act in ("listen", "hello", "welcome") for act, _, _ in acts
    )


def answer(act: str, plug: Plug, at: int, amount: int) -> bytes:
    """What a device, or the peer behind it, says."""
    if act == "gone":
        return wire.gone()
    if act == "listen":
        return wire.listen()
    if act == "more":
        return wire.more(amount)
    peer = wire.Hello(role="echo", instance=b"%016d" % amount, session=b"%08d" % at, credit_messages=10)
    if act == "hello":
        return peer.pack(HELLO)
    asked: list[Frames] = [frames for frames in plug.said if wire.unpack(frames[0])[0] == HELLO]
    said = wire.read_hello(wire.unpack(asked[-1][0])[1]) if asked else peer
    if act == "lost":
        return wire.pack([LOST, said.session])
    return dataclasses.replace(peer, session=said.session, attempt=said.attempt).pack(WELCOME)
