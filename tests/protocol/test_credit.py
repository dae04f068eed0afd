"""docs/protocol.md, section 5: credit in messages and bytes."""

from __future__ import annotations

import pytest

from tests.protocol.pair import INTERVAL, Pair, Side, bodies, frame, only
from zmqkit.protocol.wire import DATA, PING, PONG, STATE


def small(messages: int = 10, size_bytes: int = 100) -> Pair:
    return Pair(b=Side("b", credit_messages=messages, credit_bytes=size_bytes))


def test_the_first_credit_comes_with_the_handshake() -> None:
    pair = small(7, 70)
    assert (pair.c.session.room_messages, pair.c.session.room_bytes) == (7, 70)
    assert pair.b.session.room_messages == 1000


def test_messages_use_up_the_credit_and_control_does_not() -> None:
    pair = small()
    pair.say(pair.c, b"....", b"....")
    pair.say(pair.c, b"control", messages=0)
    assert (pair.c.session.room_messages, pair.c.session.room_bytes) == (8, 92)


def test_credit_is_an_absolute_limit_so_that_a_lost_grant_is_nothing() -> None:
    pair = small()
    pair.lose = only(STATE, PING, PONG)
    pair.b.sessions.grant(pair.b.session, 15, 150)
    pair.flow()
    assert pair.c.session.room_messages == 10
    pair.lose = lambda *_: False
    pair.b.sessions.grant(pair.b.session, 20, 200)
    pair.flow()
    assert (pair.c.session.room_messages, pair.c.session.room_bytes) == (20, 200)
    assert pair.c.heard


def test_a_lost_last_grant_is_told_by_the_next_ping() -> None:
    pair = small()
    pair.lose = only(STATE)
    pair.b.sessions.grant(pair.b.session, 20, 200)
    pair.b.sessions.owe(pair.b.session, True, pair.now)
    pair.advance(INTERVAL + 0.1)
    assert pair.c.session.room_messages == 20


def test_a_grant_that_is_given_without_a_connection_comes_with_the_next() -> None:
    pair = small()
    pair.disconnect()
    pair.b.sessions.grant(pair.b.session, 30, 300)
    pair.c.sessions.grant(pair.c.session, 3000, 1 << 21)
    pair.drain()
    pair.connect()
    pair.flow()
    assert pair.c.session.room_messages == 30
    assert pair.b.session.room_messages == 3000


def test_limits_only_ever_rise() -> None:
    pair = small()
    pair.b.sessions.grant(pair.b.session, 5, 50)
    pair.flow()
    pair.hand(pair.c, 1, frame(STATE, pair.c.session.id, 0, 1, 1))
    assert (pair.c.session.room_messages, pair.c.session.room_bytes) == (10, 100)


def test_a_grant_is_told_once_at_the_end_of_the_turn() -> None:
    pair = small()
    before = pair.count("down", "STATE")
    for more in range(1, 50):
        pair.b.sessions.grant(pair.b.session, 10 + more, 100 + more)
    pair.flow()
    assert pair.count("down", "STATE") == before + 1
    pair.b.sessions.grant(pair.b.session, 59, 149)
    pair.b.sessions.send(pair.b.session, [b"x"], 1, pair.now)
    pair.flow()
    assert pair.count("down", "STATE") == before + 1  # the DATA told it


@pytest.mark.parametrize("sent", [b".", b"." * 50])
def test_more_messages_than_granted_end_the_session(sent: bytes) -> None:
    pair = small(3, 100)
    pair.c.session.peer_messages = 1000
    pair.c.session.peer_bytes = 1 << 30
    session = pair.c.session
    pair.say(pair.c, sent, sent, sent, sent)
    pair.flow()
    assert pair.b.reasons == ["credit exceeded"]
    assert pair.b.got == [sent] * (3 if len(sent) == 1 else 2)
    assert pair.b.counters["credit_exceeded"] == 1
    assert pair.c.lost == [(session, "goodbye: credit exceeded")]


def test_one_message_may_pass_the_limit_in_bytes_once() -> None:
    pair = small(10, 100)
    pair.say(pair.c, b"." * 99)
    assert pair.c.session.room_messages == 9
    pair.say(pair.c, b"." * 5000)
    assert (pair.c.session.room_messages, pair.c.session.room_bytes) == (0, 0)
    pair.flow()
    assert len(pair.b.got) == 2
    assert not pair.b.lost
    pair.b.sessions.grant(pair.b.session, 10, 5099)
    pair.flow()
    assert pair.c.session.room_messages == 0  # exactly used up
    pair.b.sessions.grant(pair.b.session, 10, 5100)
    pair.flow()
    assert pair.c.session.room_messages == 8


def test_a_message_counts_for_as_many_as_it_says() -> None:
    pair = small(10)
    pair.say(pair.c, b"six", messages=6)
    assert pair.c.session.room_messages == 4
    pair.flow()
    pair.hand(pair.b, 1, frame(DATA, pair.b.session.id, 0, 1000, 1 << 20, 2, 5, more=[b"five more"]))
    assert pair.b.reasons == ["credit exceeded"]


def test_credit_goes_on_where_it_was_after_a_resumption() -> None:
    pair = small(10)
    pair.say(pair.c, *bodies(1, 8))
    pair.disconnect()
    pair.connect()
    pair.flow()
    assert pair.b.got == bodies(1, 8)
    assert pair.c.session.room_messages == 2
    pair.say(pair.c, *bodies(9, 10))
    pair.flow()
    assert not pair.b.lost
