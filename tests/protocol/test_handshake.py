"""docs/protocol.md, section 3: every row of its tables."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.protocol.pair import BOUND, LINK, Pair, Side, bodies, frame, header, local, only
from zmqkit.events import PeerRefused
from zmqkit.protocol import handshake, wire
from zmqkit.protocol.wire import DATA, HELLO, LOST, PING, REFUSED, RESUME, WELCOME


def hello(side: Side, **more: Any) -> wire.Hello:
    said = side.sessions.local
    return wire.Hello(role=said.role, instance=said.instance, **{"session": b"stranger", **more})


def test_two_sides_open_one_session_and_know_each_other() -> None:
    pair = Pair(Side("c", host="here", pid=7, started="then", about={"epoch": b"e" * 16}), Side("b", busy_bound=60.0))
    assert pair.c.opened == [pair.c.session]
    assert pair.b.opened == [pair.b.session]
    assert pair.c.session.id == pair.b.session.id
    assert pair.c.session.home == LINK
    assert pair.b.session.home is None
    assert pair.b.session.peer.instance == b"c---------------"
    assert pair.b.session.peer.about == {"epoch": b"e" * 16}
    assert (pair.b.session.peer.host, pair.b.session.peer.pid, pair.b.session.peer.started) == ("here", 7, "then")
    assert pair.c.session.peer.busy_bound == 60.0
    assert pair.seen == [("up", "HELLO"), ("down", "WELCOME")]
    assert pair.c.kinds() == pair.b.kinds() == ["PeerFound"]


def test_a_welcome_repeats_the_attempt_that_it_answers() -> None:
    pair = Pair(connect=False)
    pair.lose = only(WELCOME)
    pair.connect()
    pair.advance(1.0)
    assert pair.count("up", "HELLO") > 1
    pair.lose = lambda *_: False
    pair.advance(1.0, flow=False)
    last = [header(frames) for frames in pair.up[1] if header(frames)[0] == HELLO][-1]
    pair.flow()
    assert pair.c.session.attempt == last[1]["attempt"]


def test_another_version_is_refused_and_named_and_asked_again_slowly() -> None:
    pair = Pair(connect=False)
    pair.connect()
    said = header(pair.up[1].popleft())
    said[1]["zmqkit"] = [2, 3]
    pair.up[1].append(frame(*said))
    pair.flow()
    assert not list(pair.b.sessions)
    for side in (pair.b, pair.c):
        (event,) = side.events
        assert isinstance(event, PeerRefused)
        assert event.code == "version"
        assert "version 1" in event.reason
        assert "2 to 3" in event.reason
        assert side.counters["handshakes_refused"] == 1
    pair.advance(12.4)
    assert pair.count("up", "HELLO") == 1
    pair.advance(12.7)
    assert pair.count("up", "HELLO") == 2
    assert len(pair.c.opened) == 1  # another program had come to be there


def test_a_wider_range_of_versions_that_holds_ours_is_welcome() -> None:
    pair = Pair(connect=False)
    pair.connect()
    said = header(pair.up[1].popleft())
    said[1]["zmqkit"] = [1, 7]
    said[1]["a field of later days"] = {"is": "skipped"}
    pair.up[1].append(frame(*said, "so is", "this"))
    pair.flow()
    assert pair.c.opened
    assert pair.b.opened


def test_a_wrong_role_is_refused_and_named() -> None:
    pair = Pair(Side("c", role="pull", accepts=frozenset({"push"})), Side("b", accepts=frozenset({"sub", "req"})))
    assert not list(pair.b.sessions)
    assert not list(pair.c.sessions)
    event = pair.c.events[0]
    assert isinstance(event, PeerRefused)
    assert event.code == "role"
    assert event.reason == "this side is echo and works with req or sub, not pull"


def test_a_role_that_only_the_connecting_side_minds_ends_the_session_at_both() -> None:
    pair = Pair(Side("c", accepts=frozenset({"other"})))
    assert not list(pair.c.sessions)
    assert pair.b.reasons == [handshake.FORGOTTEN]
    assert pair.c.kinds() == ["PeerRefused"]


def test_a_welcome_of_another_version_is_turned_away() -> None:
    pair = Pair(connect=False)
    pair.connect()
    (said,) = [header(frames) for frames in pair.up[1]]
    welcome = dataclasses.replace(hello(pair.b, session=said[1]["session"]), versions=(2, 2))
    pair.hand(pair.c, 1, [welcome.pack(WELCOME)])
    assert not list(pair.c.sessions)
    assert pair.c.kinds() == ["PeerRefused"]


def test_a_closing_side_refuses() -> None:
    pair = Pair(connect=False)
    pair.b.sessions.close(pair.now)
    pair.connect()
    pair.flow()
    event = pair.c.events[0]
    assert isinstance(event, PeerRefused)
    assert event.code == "closed"


def test_more_peers_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "MAX_SESSIONS", 1)
    pair = Pair()
    other = wire.Hello(role="echo", instance=b"o" * 16, session=b"otherone")
    pair.connect()
    pair.hand(pair.b, 2, [other.pack(HELLO)])
    assert len(pair.b.sessions) == 1
    assert header(pair.down[2][-1])[:2] == [REFUSED, "full"]


def test_hello_is_said_again_with_growing_pauses_until_it_is_answered() -> None:
    pair = Pair(connect=False)
    pair.lose = only(HELLO)
    pair.connect()
    pair.advance(60.0)
    said = pair.count("up", "HELLO")
    assert 12 <= said <= 30
    pair.lose = lambda *_: False
    pair.advance(5.0)
    assert pair.c.opened
    assert pair.b.opened
    pair.advance(20.0)
    assert pair.count("up", "HELLO") <= said + 1


def test_a_hundred_that_reconnect_at_once_ask_again_at_times_that_are_spread() -> None:
    dues = []
    for number in range(100):
        side = Side(f"side-{number}")
        side.sessions.link_up(LINK, 100.0)
        for _ in range(5):
            due = side.sessions.next_deadline() or 0.0
            assert due > 100.0
            side.sessions.handle_timer(due)
        dues.append(due - 100.0)
    assert len({round(due, 3) for due in dues}) > 90
    assert max(dues) - min(dues) > 0.2 * max(dues)


def test_a_lost_welcome_and_what_followed_it_come_again() -> None:
    pair = Pair(connect=False)
    pair.lose = only(WELCOME, DATA, direction="down")
    pair.connect()
    pair.flow()
    assert pair.b.opened
    pair.say(pair.b, b"1", b"2")
    pair.advance(0.1)
    assert not pair.c.opened
    pair.lose = lambda *_: False
    pair.advance(0.5)
    assert pair.c.got == [b"1", b"2"]
    assert pair.b.opened == [pair.b.session]
    assert pair.c.session.id == pair.b.session.id


def test_a_hello_that_comes_again_is_followed_by_what_is_not_heard() -> None:
    pair = Pair()
    pair.say(pair.b, b"1", b"2")
    pair.down[1].clear()
    pair.hand(pair.b, 1, [hello(pair.c, session=pair.b.session.id, attempt=99, resume=True).pack(HELLO)])
    assert [header(frames)[0] for frames in pair.down[1]] == [WELCOME, DATA, DATA]


def test_a_first_welcome_that_tells_of_messages_is_followed_by_resume() -> None:
    pair = Pair(connect=False)
    pair.connect()
    said = header(pair.up[1].popleft())[1]
    late = hello(pair.b, session=said["session"], attempt=said["attempt"], resume=True, sent=2)
    pair.hand(pair.c, 1, [late.pack(WELCOME)])
    assert [header(frames)[0] for frames in pair.up[1]] == [RESUME]


def test_data_that_overtakes_its_welcome_ends_nothing() -> None:
    pair = Pair(connect=False)
    pair.connect()
    pair.hand(pair.b, 1, pair.up[1].popleft())
    pair.say(pair.b, b"1")
    pair.down[1].reverse()
    pair.flow()
    pair.advance(2.0)
    assert pair.c.got == [b"1"]
    assert not pair.b.lost
    assert pair.count("up", "LOST") == 0


def test_a_hello_that_comes_twice_changes_nothing() -> None:
    pair = Pair(connect=False)
    pair.connect()
    pair.up[1].append(pair.up[1][0])
    pair.flow()
    assert pair.count("down", "WELCOME") == 1
    assert pair.b.counters["frames_stray"] == 1
    assert len(pair.b.opened) == len(pair.c.opened) == 1


def test_a_hello_of_a_dead_connection_that_is_read_last_does_not_take_the_session_there() -> None:
    """A stopped binder that wakes finds a HELLO a connection, and libzmq deals them in any order."""
    pair = Pair()
    pair.say(pair.c, b"1")
    pair.flow()
    pair.b.paused = True
    for _ in range(3):
        pair.disconnect(lose=False)
        pair.connect()
    pair.b.paused = False
    for number in (4, 3, 2):
        while pair.up[number]:
            pair.hand(pair.b, number, pair.up[number].popleft())
    pair.flow()
    assert pair.b.session.link == pair.binder_link(4)
    pair.say(pair.c, b"2")
    pair.say(pair.b, b"3")
    pair.advance(20.0)
    assert pair.b.got == [b"1", b"2"]
    assert pair.c.got == [b"3"]
    assert not pair.b.lost
    assert not pair.c.lost


def test_a_session_that_was_forgotten_is_replaced_by_a_fresh_one_at_once() -> None:
    pair = Pair()
    pair.say(pair.c, b"1", b"2")
    pair.flow()
    first = pair.c.session
    pair.disconnect()
    pair.b = Side("b", instance=b"another instance")
    pair.connect()
    pair.flow()
    assert pair.c.lost == [(first, handshake.FORGOTTEN)]
    assert first.heard_by_peer == 0  # what the restarted side had heard of it is not known: nobody said so
    assert pair.c.session is not first
    assert pair.c.session.id != first.id
    assert (pair.c.session.sent, pair.c.session.heard) == (0, 0)
    pair.say(pair.c, b"3")
    pair.flow()
    assert pair.b.got == [b"3"]


def test_a_session_that_the_other_side_gave_up_is_replaced_before_it_is_silent() -> None:
    pair = Pair()
    old = pair.b.session
    pair.disconnect(tell="nobody")
    pair.connection = None
    pair.c.sessions.link_down(LINK, pair.now)
    pair.c.sessions._end(pair.c.session, "silent", pair.now)
    pair.c.take_ups()
    pair.connect()
    pair.flow()
    assert pair.b.lost == [(old, "replaced")]
    assert pair.b.session.id == pair.c.session.id != old.id


def test_nobody_replaces_the_session_of_another_instance() -> None:
    pair = Pair()
    other = wire.Hello(role="echo", instance=b"o" * 16, session=b"otherone", replaces=pair.b.session.id)
    pair.connect()
    pair.hand(pair.b, 2, [other.pack(HELLO)])
    assert not pair.b.lost
    assert len(pair.b.sessions) == 2


def test_a_session_that_replaces_itself_is_just_resumed() -> None:
    pair = Pair()
    session = pair.b.session
    again = hello(pair.c, session=session.id, replaces=session.id, attempt=99)
    for number in (pair.connect(), 1):
        pair.hand(pair.b, number, [again.pack(HELLO)])
        again = dataclasses.replace(again, attempt=again.attempt + 1)
    pair.advance(30.0)
    assert session in [*pair.b.sessions, *(lost for lost, _ in pair.b.lost)]


def test_nobody_takes_over_the_session_of_another_instance() -> None:
    pair = Pair()
    thief = wire.Hello(role="echo", instance=b"t" * 16, session=pair.b.session.id, attempt=99, resume=True)
    pair.connect()
    pair.hand(pair.b, 2, [thief.pack(HELLO)])
    assert header(pair.down[2][-1])[:2] == [REFUSED, "session"]
    assert pair.b.session.link == pair.binder_link(1)


def test_a_session_id_that_is_taken_is_not_tried_twice() -> None:
    pair = Pair(connect=False)
    taken = pair.connect()
    first = header(pair.up[taken][0])[1]["session"]
    other = wire.Hello(role="echo", instance=b"o" * 16, session=first)
    pair.alive.add(9)
    pair.up[9] = pair.down[9] = type(pair.up[taken])()
    pair.hand(pair.b, 9, [other.pack(HELLO)])
    pair.flow()
    assert not pair.c.opened
    pair.advance(30.0)
    assert pair.c.session.id != first


def test_an_id_whose_session_ended_never_begins_again() -> None:
    pair = Pair(connect=False)
    pair.lose = only(WELCOME)
    pair.connect()
    pair.flow()
    old = pair.b.session
    pair.b.sessions._end(old, "silent", pair.now)
    pair.lose = lambda *_: False
    pair.advance(2.0)
    assert pair.c.session.id == pair.b.session.id != old.id
    stale = hello(pair.c, session=old.id, attempt=1)
    pair.connect()
    pair.hand(pair.b, 2, [stale.pack(HELLO)])
    assert header(pair.down[2][-1]) == [LOST, old.id]


def test_only_so_many_ended_sessions_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "MAX_PAST", 3)
    pair = Pair()
    for _ in range(6):
        pair.b.sessions.goodbye(pair.b.session, "go", pair.now)
        pair.advance(BOUND + 1.0)
    assert len(pair.b.sessions._past) == 3


def test_a_refused_resumption_ends_the_session() -> None:
    pair = Pair()
    pair.disconnect()
    pair.b.sessions._closed = True
    pair.connect()
    pair.flow()
    assert pair.c.reasons == ["refused: closed"]


def test_a_refusal_that_comes_late_does_not_end_what_was_welcomed() -> None:
    pair = Pair()
    pair.hand(pair.c, 1, frame(REFUSED, "closed", "an old one"))
    assert not pair.c.lost
    assert pair.c.counters["frames_stray"] == 1


def test_a_welcome_of_an_earlier_connection_is_stray() -> None:
    pair = Pair(connect=False)
    pair.connect()
    pair.hand(pair.b, 1, pair.up[1].popleft())
    old = pair.down[1].popleft()
    pair.disconnect()
    pair.connect()
    pair.hand(pair.c, 2, old)
    assert not pair.c.opened
    pair.flow()
    assert len(pair.c.opened) == 1


def test_a_peer_that_was_set_back_to_an_earlier_state_is_not_resumed_by_its_binder() -> None:
    pair = Pair()
    pair.say(pair.c, *bodies(1, 5))
    pair.flow()
    back = hello(pair.c, session=pair.b.session.id, attempt=99, resume=True, sent=3)
    pair.disconnect()
    pair.connect()
    pair.up[2].clear()
    pair.hand(pair.b, 2, [back.pack(HELLO)])
    assert pair.count("down", "WELCOME") == 1
    pair.lose = only(HELLO)
    pair.advance(BOUND + 0.1)
    assert pair.b.reasons == ["silent"]


@pytest.mark.parametrize("what", [{"sent": 1}, {"heard": 1, "sent": 9}, {"instance": b"n" * 16, "heard": 9, "sent": 9}])
def test_a_peer_that_was_set_back_to_an_earlier_state_is_not_resumed_by_its_dialler(what: dict[str, Any]) -> None:
    pair = Pair()
    pair.say(pair.c, *bodies(1, 5))
    pair.say(pair.b, *bodies(1, 5))
    pair.advance(0.1)
    session = pair.c.session
    pair.disconnect()
    pair.connect()
    attempt = header(pair.up[2][0])[1]["attempt"]
    welcome = hello(pair.b, session=session.id, attempt=attempt)
    pair.hand(pair.c, 2, [dataclasses.replace(welcome, **{"heard": 5, **what}).pack(WELCOME)])
    assert pair.c.lost == [(session, handshake.WENT_BACK)]
    assert header(pair.up[2][-1])[1]["replaces"] == session.id


@pytest.mark.parametrize("shown", ["by what it says of itself", "by what came in the session"])
def test_a_peer_that_was_restored_before_it_was_welcomed_is_another_one(shown: str) -> None:
    pair = Pair()
    old = pair.b.session
    back = hello(pair.c, session=old.id, attempt=99)
    if shown == "by what it says of itself":
        back = dataclasses.replace(back, about={"opening": 2})
    else:
        pair.hand(pair.b, 1, frame(PING, old.id, 0, 0, 0, 1, 0))
    pair.disconnect()
    pair.connect()
    pair.up[2].clear()
    pair.hand(pair.b, 2, [back.pack(HELLO)])
    assert pair.b.lost == [(old, handshake.WENT_BACK)]
    assert header(pair.down[2][-1])[:2] == [LOST, old.id]


def test_a_hello_that_was_said_before_welcome_came_and_is_late_ends_nothing() -> None:
    pair = Pair()
    session = pair.b.session
    pair.hand(pair.b, 1, frame(PING, session.id, 0, 0, 0, 1, 0))
    pair.hand(pair.b, 1, [hello(pair.c, session=session.id, attempt=99).pack(HELLO)])
    assert not pair.b.lost
    assert pair.b.session is session


def test_a_hello_that_claims_the_impossible_is_bad() -> None:
    pair = Pair()
    claims = hello(pair.c, session=pair.b.session.id, attempt=99, resume=True, heard=7)
    pair.hand(pair.b, 1, [claims.pack(HELLO)])
    fresh = hello(pair.c, session=b"freshone", attempt=100, heard=7)
    pair.hand(pair.b, 1, [fresh.pack(HELLO)])
    assert pair.b.counters["frames_bad"] == 2
    assert not pair.b.lost


def test_a_side_that_we_dialled_may_not_greet_us() -> None:
    pair = Pair()
    pair.hand(pair.c, 1, [hello(pair.b).pack(HELLO)])
    assert pair.c.counters["frames_bad"] == 1


def test_a_new_session_on_a_connection_ends_the_one_before() -> None:
    pair = Pair()
    old = pair.b.session
    pair.hand(pair.b, 1, [hello(pair.c, session=b"another1", attempt=99).pack(HELLO)])
    assert pair.b.lost == [(old, "replaced")]


def test_a_forgotten_link_says_goodbye_and_dials_no_more() -> None:
    pair = Pair()
    pair.c.sessions.link_forgotten(LINK, pair.now)
    pair.flow()
    assert pair.b.reasons == ["goodbye: disconnected"]
    assert pair.c.sessions.next_deadline() is None
    pair.c.sessions.link_forgotten(LINK, pair.now)  # twice is nothing


def test_a_connection_that_is_seen_to_return_before_it_was_seen_to_go_resumes() -> None:
    pair = Pair()
    pair.say(pair.c, b"1")
    pair.up[1].clear()
    pair.connect()
    pair.flow()
    assert pair.b.got == [b"1"]
    assert pair.c.counters["links_lost"] == 1
    assert pair.c.counters["sessions_resumed"] == 1


def test_frames_of_a_session_that_nobody_knows_are_answered_so() -> None:
    pair = Pair()
    session = pair.c.session
    pair.b.sessions._end(pair.b.session, "gone", pair.now)
    pair.say(pair.c, b"1")
    pair.flow()
    assert pair.c.lost == [(session, handshake.FORGOTTEN)]
    assert pair.c.session.id == pair.b.session.id  # begun again at once
    pair.hand(pair.b, 1, frame(PING, b"nosuchid", 0, 0, 0, 1, 0))
    assert pair.b.counters["frames_stray"] == 2


def test_what_a_hello_says_is_bounded() -> None:
    side = Side("b")
    large = wire.Hello(role="echo", instance=b"i" * 16, session=b"sessions", about={"x": b"." * 70_000})
    side.sessions.receive_message(("b", "x", 1), [large.pack(HELLO)], 0.0)
    assert not list(side.sessions)
    assert side.counters["frames_bad"] == 1


def test_the_local_fields_are_those_of_the_hello() -> None:
    names = {field.name for field in dataclasses.fields(wire.Hello)}
    ours = {field.name for field in dataclasses.fields(local("x"))}
    assert ours - {"accepts", "heartbeat"} <= names
