"""docs/protocol.md, section 4: numbering, holes, RESUME, and sessions that go on over new connections."""

from __future__ import annotations

import random

import pytest

from tests.protocol.pair import BOUND, INTERVAL, Pair, bodies, frame, header, only
from zmqkit.protocol import session as session_module
from zmqkit.protocol.wire import DATA, HELLO, PING, RESUME, STATE, WELCOME


def test_messages_arrive_in_order_and_once_both_ways() -> None:
    pair = Pair()
    pair.say(pair.c, *bodies(1, 50))
    pair.say(pair.b, *bodies(1, 30))
    pair.flow()
    assert pair.b.got == bodies(1, 50)
    assert pair.c.got == bodies(1, 30)


def test_what_was_lost_both_ways_comes_after_a_reconnect() -> None:
    pair = Pair()
    pair.say(pair.c, *bodies(1, 4))
    pair.say(pair.b, *bodies(1, 3))
    pair.flow()
    pair.say(pair.c, *bodies(5, 9))
    pair.say(pair.b, *bodies(4, 6))
    pair.up[1].pop()
    pair.up[1].pop()
    pair.hand(pair.b, 1, pair.up[1].popleft())
    pair.disconnect()
    pair.say(pair.c, *bodies(10, 11))  # while there is no connection
    pair.say(pair.b, *bodies(7, 8))
    pair.advance(1.0)
    pair.connect()
    pair.flow()
    assert pair.b.got == bodies(1, 11)
    assert pair.c.got == bodies(1, 8)
    assert len(pair.c.opened) == len(pair.b.opened) == 1
    assert pair.c.kinds() == pair.b.kinds() == ["PeerFound", "PeerResumed"]
    assert pair.b.counters["messages_repeated"] == 0  # HELLO and WELCOME had said what was heard


def test_only_what_is_not_known_to_be_heard_is_sent_again() -> None:
    pair = Pair()
    pair.say(pair.c, *bodies(1, 10))
    pair.advance(0.1)
    assert pair.c.session.unheard == 0
    pair.say(pair.c, *bodies(11, 13))
    pair.lose = only(STATE)
    pair.flow()
    pair.disconnect()
    pair.connect()
    pair.lose = lambda *_: False
    sent = pair.count("up", "DATA")
    pair.flow()
    assert pair.count("up", "DATA") == sent  # WELCOME said that 13 were heard


def test_a_session_survives_many_reconnects_within_the_grace() -> None:
    pair = Pair()
    for number in range(1, 30):
        pair.say(pair.c, b"%d" % number)
        pair.disconnect(lose=number % 2 == 0)
        pair.advance(BOUND * 0.9)
        pair.connect()
        pair.flow()
    assert pair.b.got == bodies(1, 29)
    assert not pair.c.lost
    assert not pair.b.lost


def test_a_number_heard_before_is_dropped_and_counted() -> None:
    pair = Pair()
    pair.say(pair.c, b"1")
    double = pair.up[1][0]
    pair.flow()
    pair.hand(pair.b, 1, double)
    assert pair.b.got == [b"1"]
    assert pair.b.counters["messages_repeated"] == 1


def test_messages_that_overtake_are_discarded_and_asked_for_again() -> None:
    pair = Pair()
    pair.say(pair.c, *bodies(1, 3))
    pair.up[1].rotate(1)
    pair.flow()
    assert pair.b.got == bodies(1, 3)
    assert pair.b.counters["messages_missed"] == 1
    assert pair.b.counters["resumes_asked"] == 1
    assert pair.count("down", "RESUME") == 1


def test_a_hole_is_asked_for_once_an_interval() -> None:
    pair = Pair()
    pair.lose = only(RESUME)
    pair.say(pair.c, *bodies(1, 10))
    pair.up[1].popleft()
    pair.flow()
    assert pair.b.counters["messages_missed"] == 9
    assert pair.count("down", "RESUME") == 1
    pair.advance(INTERVAL * 2)
    assert 1 < pair.count("down", "RESUME") <= 3


def test_a_second_hole_after_progress_is_asked_for_at_once() -> None:
    pair = Pair()
    pair.say(pair.c, *bodies(1, 5))
    pair.up[1].popleft()
    losing = iter([True])
    pair.lose = lambda way, kind, frames: kind == DATA and header(frames)[5] == 3 and next(losing, False)
    pair.flow()
    assert pair.b.got == bodies(1, 5)
    assert pair.b.counters["resumes_asked"] == 2


def test_a_lost_resume_is_made_good_by_the_next_ping() -> None:
    pair = Pair()
    lost = iter([True])
    pair.lose = lambda way, kind, frames: kind == RESUME and next(lost, False)
    pair.say(pair.c, *bodies(1, 3))
    pair.up[1].popleft()
    pair.flow()
    assert pair.b.got == []
    pair.advance(INTERVAL * 2 + 0.1)
    assert pair.b.got == bodies(1, 3)


def test_a_lost_last_message_is_found_by_the_ping_that_follows() -> None:
    pair = Pair()
    pair.say(pair.c, b"1")
    pair.up[1].clear()
    pair.advance(INTERVAL + 0.1)
    assert pair.b.got == [b"1"]


def test_a_lost_last_message_is_found_by_the_answer_to_a_ping() -> None:
    pair = Pair()
    pair.say(pair.c, b"1")
    pair.up[1].clear()
    pair.lose = only(PING, direction="up")
    pair.b.sessions.owe(pair.b.session, True, pair.now)
    pair.advance(INTERVAL + 0.1)
    assert pair.b.got == [b"1"]


def test_resumes_that_are_repeated_are_not_all_answered() -> None:
    """A few bytes must not fetch megabytes each time."""
    pair = Pair()
    pair.say(pair.c, *bodies(1, 5))
    pair.lose = only(DATA)
    name = pair.c.session.id
    for _ in range(100):
        pair.hand(pair.c, 1, frame(RESUME, name, 0, 0, 0))
    assert pair.count("up", "DATA") == 10
    pair.hand(pair.c, 1, frame(RESUME, name, 2, 0, 0))  # it heard more since: that is progress
    assert pair.count("up", "DATA") == 13
    pair.now += INTERVAL
    pair.hand(pair.c, 1, frame(RESUME, name, 2, 0, 0))
    assert pair.count("up", "DATA") == 16
    for attempt in range(50, 150):
        hello = header([pair.c.sessions._hello(pair.c.session, name, attempt, resume=True, replaces=b"").pack(HELLO)])
        pair.hand(pair.b, 1, frame(*hello))
    assert pair.count("down", "DATA") == 0


def test_the_state_is_told_after_a_short_delay() -> None:
    pair = Pair()
    pair.say(pair.c, b"1")
    pair.flow()
    assert pair.count("down", "STATE") == 0
    assert pair.c.session.unheard == 1
    pair.advance(0.019)
    assert pair.count("down", "STATE") == 0
    pair.advance(0.002)
    assert pair.count("down", "STATE") == 1
    assert (pair.c.session.heard_by_peer, pair.c.session.unheard) == (1, 0)
    assert pair.c.heard[-1] is pair.c.session


def test_the_state_rides_on_what_is_sent_anyway() -> None:
    pair = Pair()
    pair.say(pair.c, b"1")
    pair.flow()
    pair.say(pair.b, b"answer")
    pair.flow()
    assert pair.c.session.heard_by_peer == 1
    pair.advance(0.5)
    assert pair.count("down", "STATE") == 0


@pytest.mark.parametrize(("count", "size"), [(session_module.STATE_EVERY, 1), (2, session_module.STATE_BYTES // 2)])
def test_the_state_is_told_at_once_after_so_many_messages_or_bytes(count: int, size: int) -> None:
    pair = Pair()
    pair.b.sessions.grant(pair.b.session, 10_000, 1 << 40)
    pair.flow()
    before = pair.count("down", "STATE")
    for _ in range(count):
        pair.say(pair.c, b"." * size)
    pair.flow()
    assert pair.count("down", "STATE") == before + 1
    assert pair.c.session.unheard == 0


def test_a_peer_that_claims_to_have_heard_what_was_never_said_is_not_believed() -> None:
    pair = Pair()
    pair.say(pair.c, b"1")
    pair.hand(pair.c, 1, frame(STATE, pair.c.session.id, 2, 0, 0))
    assert pair.c.session.heard_by_peer == 0
    assert pair.c.counters["frames_bad"] == 1
    assert pair.c.session.unheard == 1


def test_the_pattern_is_told_what_was_heard_when_a_session_is_lost() -> None:
    pair = Pair()
    pair.say(pair.c, *bodies(1, 3))
    pair.advance(0.1)
    pair.say(pair.c, *bodies(4, 5))
    pair.disconnect()
    pair.advance(BOUND + 0.1)
    ((session, reason),) = pair.c.lost
    assert reason == "silent"
    assert (session.sent, session.heard_by_peer) == (5, 3)


def test_nothing_is_sent_in_a_session_that_ended() -> None:
    pair = Pair()
    session = pair.c.session
    pair.c.sessions.goodbye(session, "done", pair.now)
    before = len(pair.seen)
    pair.c.sessions.send(session, [b"late"], 1, pair.now)
    pair.c.sessions.grant(session, 5000, 1 << 30)
    pair.c.sessions.owe(session, True, pair.now)
    pair.c.sessions.goodbye(session, "again", pair.now)
    pair.drain()
    assert pair.seen[before:] == [("up", "GOODBYE")]
    pair.advance(30.0)
    assert pair.b.got == []
    assert len(pair.c.lost) == 1


def test_frames_left_over_on_an_old_connection_are_not_heard_twice() -> None:
    pair = Pair()
    pair.say(pair.c, *bodies(1, 3))
    pair.disconnect(lose=False)
    pair.connect()
    late = pair.up[1].copy()
    pair.up[1].clear()
    pair.flow()
    for frames in late:
        pair.hand(pair.b, 1, frames)
    assert pair.b.got == bodies(1, 3)
    assert pair.b.counters["frames_stray"] == 3
    pair.say(pair.c, b"4")
    pair.flow()
    assert pair.b.got == bodies(1, 4)


def test_messages_of_several_frames_keep_their_boundaries_when_they_are_sent_again() -> None:
    pair = Pair()
    pair.c.sessions.send(pair.c.session, [b"1", b"", b"two"], 1, pair.now)
    pair.c.sessions.send(pair.c.session, [], 0, pair.now)
    pair.drain()
    pair.disconnect()
    pair.connect()
    pair.hand(pair.b, 2, pair.up[2].popleft())
    pair.hand(pair.c, 2, pair.down[2].popleft())
    assert [list(frames[1:]) for frames in pair.up[2]] == [[b"1", b"", b"two"], []]
    pair.flow()
    assert pair.b.got == [b"1", b""]


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_whatever_breaks_nothing_is_lost_doubled_or_turned_round(first: int) -> None:
    """Loss, doubling and reordering of every kind of frame, and connections that break at any moment."""
    for seed in range(first, first + 10):
        break_everything(seed)


def break_everything(seed: int) -> None:
    rng = random.Random(seed)
    pair = Pair()
    said: dict[str, list[bytes]] = {"c": [], "b": []}
    pair.lose = lambda way, kind, frames: rng.random() < 0.15
    for _ in range(300):
        act = rng.randrange(10)
        side = rng.choice((pair.c, pair.b))
        if act < 4 and len(side.sessions) and side.session.room_messages > 0:
            body = b"%d" % len(said[side.name])
            said[side.name].append(body)
            pair.say(side, body)
        elif act == 4 and pair.connection is not None:
            pair.disconnect(tell=rng.choice(("both", "c")), lose=rng.random() < 0.5)
        elif act == 5 and pair.connection is None:
            pair.connect()
        elif act == 6:
            for way in [*pair.up.values(), *pair.down.values()]:
                if len(way) > 1 and rng.random() < 0.5:
                    way.rotate(rng.randrange(3))
                if way and rng.random() < 0.3:
                    way.append(rng.choice(list(way)))
        else:
            pair.advance(rng.random() * 0.2)
        if pair.connection is None:
            pair.connect()
    pair.lose = lambda *_: False
    pair.advance(10.0)
    assert not pair.c.lost, f"seed {seed}"
    assert not pair.b.lost, f"seed {seed}"
    assert pair.b.got == said["c"], f"seed {seed}"
    assert pair.c.got == said["b"], f"seed {seed}"


def test_the_frames_of_a_resumption_come_in_the_documented_order() -> None:
    pair = Pair()
    pair.say(pair.c, b"1")
    pair.say(pair.b, b"2")
    pair.disconnect()
    del pair.seen[:]
    pair.connect()
    pair.flow()
    assert pair.seen == [("up", "HELLO"), ("down", "WELCOME"), ("down", "DATA"), ("up", "DATA")]
    assert WELCOME == 2
