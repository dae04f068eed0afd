"""GONE and LISTEN, in each state and from whom they should not come (docs/protocol.md, section 15.1)."""

from __future__ import annotations

import dataclasses

import pytest

from tests.protocol.bench import Bench, listening, switched
from tests.protocol.pair import BOUND, Pair, Side
from zmqkit.address import nth
from zmqkit.protocol import handshake, wire
from zmqkit.protocol.wire import HELLO, LOST, REFUSED, WELCOME

# ---- GONE ---------------------------------------------------------------------------


def test_gone_before_an_answer_drops_the_connection_and_the_next_one_asks_for_the_same_session() -> None:
    bench = Bench(Side("c"))
    front = bench.dial(bench.sides[0])
    asked = front.hello()
    bench.say(front, wire.gone())
    assert bench.dropped == [front.link]
    bench.advance(60.0)
    assert not front.take()
    asked_again = bench.again(front).hello()
    assert asked_again["session"] == asked["session"]
    assert asked_again["attempt"] > asked["attempt"]
    assert not bench.sides[0].lost


def test_a_session_goes_on_over_the_connection_after_gone() -> None:
    bench, front, back = switched()
    c, b = bench.sides
    bench.part(front)
    bench.tell(c, b"1", b"2")
    bench.tell(b, b"3")
    back.alive = False
    b.sessions.link_down(back.link, bench.now)
    bench.say(front, wire.gone())
    assert bench.dropped == [front.link]
    assert c.session.link is None
    front, back = bench.again(front), bench.reach(b, 2)
    bench.join(front, back)
    bench.tell(c, b"4")
    assert b.got == [b"1", b"2", b"4"]
    assert c.got == [b"3"]
    assert not c.lost
    assert not b.lost
    assert c.kinds().count("PeerResumed") == 1


def test_after_gone_a_peer_that_does_not_answer_is_judged_as_one_without_a_connection() -> None:
    bench, front, _ = switched()
    c = bench.sides[0]
    bench.part(front)
    bench.say(front, wire.gone())
    bench.again(front)
    bench.advance(BOUND - 0.01)
    assert not c.lost
    bench.advance(0.02)
    assert c.reasons == ["silent"]
    assert "PeerBusy" not in c.kinds()


def test_without_gone_the_same_silence_is_that_of_a_busy_peer() -> None:
    bench, front, _ = switched()
    bench.again(front)
    bench.advance(10 * BOUND)
    assert not bench.sides[0].lost
    assert bench.sides[0].kinds().count("PeerBusy") == 1


def test_no_number_of_connections_after_gone_puts_the_judgement_off() -> None:
    bench, front, _ = switched()
    bench.part(front)
    for _ in range(3):
        bench.say(front, wire.gone())
        front = bench.again(front)
        bench.advance(BOUND / 3 + 0.01)
    assert bench.sides[0].reasons == ["silent"]


def test_a_welcome_makes_good_what_gone_said() -> None:
    bench, front, back = switched()
    c = bench.sides[0]
    bench.say(front, wire.gone())
    back.alive = False
    front, back = bench.again(front), bench.reach(bench.sides[1], 2)
    bench.join(front, back)
    assert c.session.link == front.link
    bench.again(front)  # an ordinary break: the peer may be busy
    bench.advance(10 * BOUND)
    assert not c.lost


def test_after_the_end_of_a_session_that_gone_cut_off_another_one_is_asked_for() -> None:
    bench, front, _ = switched()
    old = bench.sides[0].session.id
    bench.part(front)
    bench.say(front, wire.gone())
    front = bench.again(front)
    bench.advance(3 * BOUND)
    asked = front.hello()
    assert asked["replaces"] == old
    assert not asked["resume"]


def test_gone_over_a_connection_that_is_gone_already_is_stray() -> None:
    bench, front, _ = switched()
    c = bench.sides[0]
    bench.say(front, wire.gone(), wire.gone(), wire.listen(), wire.more(5))
    assert bench.dropped == [front.link]
    assert c.counters["frames_stray"] == 3
    assert not c.counters["frames_bad"]
    assert not bench.dials


@pytest.mark.parametrize("said", [wire.gone(), wire.listen(), wire.more(3)], ids=["GONE", "LISTEN", "MORE"])
def test_what_only_a_device_says_is_bad_from_a_side_that_dialled_us(said: bytes) -> None:
    pair = Pair()
    pair.hand(pair.b, 1, [said])
    pair.hand(pair.b, 7, [said])
    pair.say(pair.c, b"1")
    pair.flow()
    assert pair.b.counters["frames_bad"] == 2
    assert pair.b.kinds().count("BadFrame") == 2
    assert pair.b.got == [b"1"]
    assert not pair.b.out.dials
    assert not pair.b.out.disconnects


def test_what_a_device_says_to_a_side_that_is_closed_is_nothing() -> None:
    bench, front, _ = switched()
    c = bench.sides[0]
    c.sessions.close(bench.now)
    bench.say(front, wire.more(3), wire.listen(), wire.gone())
    assert not bench.dials
    assert not bench.dropped
    assert not c.counters["frames_bad"]
    assert c.sessions.next_deadline() is None


# ---- LISTEN -------------------------------------------------------------------------


def test_who_is_told_to_listen_says_no_hello_and_waits_for_one() -> None:
    bench, (back,) = listening(1)
    c, a = bench.sides
    assert a.sessions.next_deadline() is None
    bench.advance(100.0)
    assert not back.take()
    bench.join(bench.dial(c), back)
    bench.tell(c, b"1")
    bench.tell(a, b"2")
    assert (a.got, c.got) == ([b"1"], [b"2"])
    assert a.session.home is None
    assert a.session.link == back.link
    assert c.session.peer.instance == a.sessions.local.instance


def test_to_be_told_again_to_listen_changes_nothing() -> None:
    bench, (back,) = listening(1)
    c, a = bench.sides
    bench.join(bench.dial(c), back)
    bench.say(back, wire.listen())
    bench.tell(c, b"1")
    assert a.got == [b"1"]
    assert not a.counters["frames_bad"]


def test_listen_in_a_session_that_this_side_began_is_bad() -> None:
    bench, front, back = switched()
    c, b = bench.sides
    bench.say(front, wire.listen())
    assert c.counters["frames_bad"] == 1
    bench.tell(c, b"1")
    assert b.got == [b"1"]
    bench.part(front)
    front = bench.again(front)
    bench.say(front, wire.listen())  # it lives, though it has no connection
    assert c.counters["frames_bad"] == 2
    back.alive = False
    bench.join(front, bench.reach(b, 2))
    bench.tell(c, b"2")
    assert b.got == [b"1", b"2"]


def test_an_answer_to_a_hello_said_before_listen_is_stray() -> None:
    bench = Bench(Side("a"), Side("b"))
    a, b = bench.sides
    back = bench.dial(a)
    asked = back.hello()
    bench.say(back, wire.listen())
    peer = wire.Hello(role="echo", instance=b.sessions.local.instance, session=asked["session"])
    bench.say(back, dataclasses.replace(peer, attempt=asked["attempt"]).pack(WELCOME))
    bench.say(back, wire.pack([REFUSED, "full", "no room"]))
    bench.say(back, wire.pack([LOST, asked["session"]]))
    assert not list(a.sessions)
    assert a.counters["frames_stray"] == 3
    assert a.kinds() == []
    bench.advance(100.0)
    assert not back.take()


def test_a_listening_connection_that_breaks_asks_again_before_it_listens() -> None:
    bench, (back,) = listening(1)
    c, a = bench.sides
    bench.join(bench.dial(c), back)
    session = a.session
    back = bench.again(back)
    assert a.session is session
    assert session.link is None
    assert not back.hello()["resume"]  # that session is the other side's to go on with
    bench.say(back, wire.listen())
    front = bench.again(bench.plugs[1])
    bench.join(front, back)
    bench.tell(c, b"1")
    assert a.got == [b"1"]
    assert a.session is session


def test_a_hello_over_a_connection_that_does_not_listen_any_more_is_bad() -> None:
    bench, (back,) = listening(1)
    back = bench.again(back)
    bench.say(back, wire.Hello(role="echo", instance=b"i" * 16, session=b"sessions").pack(HELLO))
    assert bench.sides[1].counters["frames_bad"] == 1
    assert not list(bench.sides[1].sessions)


def test_a_session_goes_on_over_another_listening_connection_and_nothing_comes_twice() -> None:
    bench, (first, second) = listening(1, 2)
    c, a = bench.sides
    front = bench.dial(c)
    bench.join(front, first)
    session = a.session
    bench.part(front)
    bench.tell(c, b"1", b"2")
    bench.tell(a, b"3")
    front = bench.again(front)
    bench.say(first, wire.gone())
    bench.join(front, second)
    bench.tell(c, b"4")
    assert a.session is session
    assert session.link == second.link
    assert a.got == [b"1", b"2", b"4"]
    assert c.got == [b"3"]
    assert bench.dropped == [first.link]


def test_gone_over_a_listening_connection_leaves_the_session_a_bound_to_come_back() -> None:
    bench, (back,) = listening(1)
    c, a = bench.sides
    bench.join(bench.dial(c), back)
    bench.part(back)
    bench.say(back, wire.gone())
    assert bench.dropped == [back.link]
    bench.advance(BOUND - 0.01)
    assert not a.lost
    bench.advance(0.02)
    assert a.reasons == ["silent"]


def test_a_listening_side_that_is_seen_to_return_before_it_was_seen_to_go_is_without_a_connection() -> None:
    bench, (back,) = listening(1)
    c, a = bench.sides
    bench.join(bench.dial(c), back)
    a.sessions.link_up(back.link, bench.now)
    assert a.session.link is None
    bench.drain()
    assert a.counters["links_lost"] == 1
    bench.part(back)
    bench.say(back, wire.Hello(role="echo", instance=b"i" * 16, session=b"sessions").pack(HELLO))
    assert a.counters["frames_bad"] == 1  # it did not say so of this connection


def test_no_session_begins_over_a_connection_that_listened_and_is_gone() -> None:
    bench, (back,) = listening(1)
    hello = wire.Hello(role="echo", instance=b"i" * 16, session=b"sessions").pack(HELLO)
    bench.say(back, wire.gone(), hello)
    assert not list(bench.sides[1].sessions)


def test_another_session_over_a_listening_connection_takes_the_place_of_the_one_before() -> None:
    bench, (back,) = listening(1)
    c, a = bench.sides
    bench.join(bench.dial(c), back)
    bench.part(back)
    bench.say(back, wire.Hello(role="echo", instance=b"i" * 16, session=b"sessions").pack(HELLO))
    assert a.reasons == ["replaced"]
    assert a.session.id == b"sessions"


def test_lost_over_a_listening_connection_ends_its_session() -> None:
    bench, (back,) = listening(1)
    c, a = bench.sides
    bench.join(bench.dial(c), back)
    bench.say(back, wire.pack([LOST, a.session.id]))
    assert a.reasons == [handshake.FORGOTTEN]


def test_a_listening_side_that_closes_says_goodbye_and_refuses_who_comes_after() -> None:
    bench, (first, second) = listening(1, 2)
    c, a = bench.sides
    bench.join(bench.dial(c), first)
    a.sessions.close(bench.now)
    bench.flow()
    assert c.reasons == ["goodbye: closed"]
    bench.say(second, wire.Hello(role="echo", instance=b"i" * 16, session=b"sessions").pack(HELLO))
    assert [header[:2] for header in second.take()] == [[REFUSED, "closed"]]


def test_a_listening_side_that_is_to_leave_the_address_says_goodbye_in_all_its_sessions() -> None:
    bench, (first, second) = listening(1, 2)
    c, a = bench.sides
    bench.join(bench.dial(c), first)
    bench.say(second, wire.Hello(role="echo", instance=b"i" * 16, session=b"sessions").pack(HELLO))
    assert len(a.sessions) == 2
    a.sessions.link_forgotten(("c", "x"), bench.now)
    bench.flow()
    assert a.reasons == ["disconnected", "disconnected"]
    assert c.reasons == ["goodbye: disconnected"]
    assert bench.dials[1:] == [("a", nth("x", 2), False)]
    assert a.sessions.next_deadline() is None


def test_who_is_expelled_over_a_listening_connection_has_it_dropped() -> None:
    bench, (back,) = listening(1)
    for _ in range(100):
        bench.say(back, b"\xc1garbage")
    assert bench.dropped == [back.link]
