"""docs/protocol.md, section 6: who is alive, busy or dead, and how sessions end."""

from __future__ import annotations

import pytest

from tests.protocol.pair import BOUND, GROUP, INTERVAL, LINK, Pair, Side, bodies, frame, only
from zmqkit.events import PeerBusy
from zmqkit.options import Heartbeat
from zmqkit.protocol import handshake, liveness
from zmqkit.protocol.core import Probe
from zmqkit.protocol.session import MAX_PINGS_OUT
from zmqkit.protocol.wire import GOODBYE, PING, PONG


def owing(pair: Pair) -> Pair:
    """Both beat at full rate."""
    for side in (pair.c, pair.b):
        side.sessions.owe(side.session, True, pair.now)
    return pair


def busy_events(side: Side) -> int:
    return sum(isinstance(event, PeerBusy) for event in side.events)


def test_an_idle_pair_beats_slowly_and_a_busy_one_at_full_rate() -> None:
    pair = Pair()
    pair.advance(100 * INTERVAL)
    assert 19 <= pair.count("up", "PING") <= 21
    assert 19 <= pair.count("down", "PING") <= 21
    owing(pair)
    pair.advance(100 * INTERVAL)
    assert 115 <= pair.count("up", "PING") <= 122
    assert not pair.c.lost
    assert not pair.b.lost


def test_a_message_quickens_the_next_beat() -> None:
    pair = Pair()
    pair.advance(0.5)
    pair.say(pair.c, b"1")
    pair.up[1].clear()
    pair.advance(INTERVAL + 0.05)
    assert pair.count("up", "PING") == 1


def test_each_is_asked_and_judged_by_the_interval_that_it_announced() -> None:
    pair = owing(Pair(b=Side("b", heartbeat=Heartbeat(10.0, 2))))
    pair.advance(100.0)
    assert 9 <= pair.count("up", "PING") <= 11
    assert 95 <= pair.count("down", "PING") <= 101
    pair.b.paused = True
    pair.disconnect(tell="c")
    pair.advance(10.0)
    assert not pair.c.lost
    pair.advance(11.0)
    assert pair.c.reasons == ["silent"]


@pytest.mark.parametrize("direction", ["up", "down"])
def test_loss_in_one_direction_is_loss(direction: str) -> None:
    """Pings prove both directions: what is heard from a peer does not prove that it hears us."""
    pair = owing(Pair())
    pair.advance(5.0)
    pair.lose = lambda way, kind, frames: way == direction
    pair.advance(BOUND + 2 * INTERVAL)
    assert pair.c.session.busy
    assert pair.b.session.busy
    pair.disconnect()  # the hop's own heartbeats notice it too
    pair.advance(INTERVAL + 0.1)
    assert pair.c.reasons == ["silent"]
    assert pair.b.reasons == ["silent"]


def test_pongs_alone_do_not_prove_that_we_are_heard_now() -> None:
    pair = owing(Pair())
    pair.advance(5.0)
    old = frame(PONG, pair.c.session.id, 0, 0, 0, pair.c.session.ping, 0)
    pair.lose = only(PING, direction="up")
    for _ in range(10):
        pair.advance(INTERVAL)
        pair.hand(pair.c, 1, old)  # an answer to an old ping, over and over
    assert pair.c.session.busy


def test_a_silent_peer_whose_connection_stands_is_busy_and_not_dead() -> None:
    pair = owing(Pair())
    pair.say(pair.c, b"1")
    pair.flow()
    pair.b.paused = True
    pair.advance(BOUND + 2 * INTERVAL)
    assert pair.c.session.busy
    assert busy_events(pair.c) == 1
    pair.advance(600.0)
    assert busy_events(pair.c) == 1
    assert not pair.c.lost
    assert len(pair.c.session.pings_out) <= MAX_PINGS_OUT
    pair.say(pair.c, b"2")
    pair.b.paused = False
    pair.advance(INTERVAL)
    assert not pair.c.session.busy
    assert pair.b.got == [b"1", b"2"]
    assert not pair.b.lost
    assert pair.b.counters["overslept"] == 1


def test_the_pattern_is_told_when_a_connection_goes_or_comes_and_when_the_peer_is_busy() -> None:
    pair = owing(Pair())
    assert not pair.c.changed
    pair.disconnect()
    assert pair.c.changed == [(False, False)]
    pair.connect()
    pair.flow()
    assert pair.c.changed[1:] == [(True, False)]
    pair.b.paused = True
    pair.advance(BOUND + 2 * INTERVAL)
    assert pair.c.changed[2:] == [(True, True)]
    pair.b.paused = False
    pair.advance(2 * INTERVAL)
    assert pair.c.changed[3:] == [(True, False)]


def test_a_peer_that_is_busy_for_too_long_is_told_goodbye() -> None:
    pair = owing(Pair(b=Side("b", busy_bound=20.0)))
    session = pair.c.session
    pair.b.paused = True
    pair.advance(BOUND + 20.0)
    assert not pair.c.lost
    pair.advance(2.1)
    assert pair.c.lost == [(session, "busy for too long")]
    pair.b.paused = False
    pair.flow()
    assert pair.b.reasons == ["goodbye: busy for too long"]
    pair.advance(BOUND + 1.0)
    assert len(pair.c.sessions) == len(pair.b.sessions) == 1


def test_the_shorter_of_both_busy_bounds_holds() -> None:
    pair = owing(Pair(Side("c", busy_bound=5.0)))
    pair.b.paused = True
    pair.advance(BOUND + 5.0 + INTERVAL + 0.1)
    assert pair.c.reasons == ["busy for too long"]


def test_a_disconnect_alone_is_not_death_for_one_bound() -> None:
    pair = Pair()
    pair.disconnect()
    pair.advance(BOUND - 0.01)
    assert not pair.c.lost
    assert not pair.b.lost
    pair.advance(0.02)
    assert pair.c.reasons == ["silent"]
    assert pair.b.reasons == ["silent"]


def test_who_was_silent_before_the_connection_broke_has_less_grace() -> None:
    pair = owing(Pair())
    pair.advance(5.0)
    pair.b.paused = True
    pair.advance(0.9 * BOUND)
    pair.disconnect(tell="c")
    pair.advance(INTERVAL - 0.01)
    assert not pair.c.lost
    pair.advance(INTERVAL)
    assert pair.c.reasons == ["silent"]


def test_a_peer_that_is_busy_keeps_its_session_when_its_connection_is_made_anew() -> None:
    """Its zmq thread answers, its loop does not: WELCOME has to wait, and that is no death."""
    pair = owing(Pair())
    pair.b.paused = True
    pair.advance(2 * BOUND)
    pair.disconnect(tell="c")
    pair.advance(0.2)
    pair.connect()
    pair.say(pair.c, b"1")
    pair.advance(20 * BOUND)
    assert not pair.c.lost
    assert pair.c.session.busy
    pair.b.paused = False
    pair.flow()
    assert not pair.c.session.busy  # its WELCOME came: the loop turns
    pair.advance(1.0)
    assert pair.b.got == [b"1"]
    assert not pair.c.lost
    assert not pair.b.lost


def test_a_connection_that_stands_without_a_welcome_is_not_waited_for_beyond_the_busy_bound() -> None:
    pair = Pair(Side("c", busy_bound=10.0))
    pair.b.paused = True
    pair.disconnect(tell="c")
    pair.connect()
    pair.advance(BOUND + 9.0)
    assert not pair.c.lost
    pair.advance(2.0)
    assert pair.c.reasons == ["busy for too long"]


def test_a_connection_that_stood_without_a_welcome_and_broke_gives_a_new_grace() -> None:
    pair = Pair()
    pair.b.paused = True
    pair.disconnect(tell="c")
    pair.connect()
    pair.advance(BOUND - 0.5)
    pair.disconnect(tell="c")
    pair.advance(BOUND - 0.1)
    assert not pair.c.lost
    pair.advance(0.2)
    assert pair.c.reasons == ["silent"]


def test_a_connection_that_comes_and_goes_without_a_welcome_ends_too() -> None:
    pair = Pair(Side("c", busy_bound=10.0))
    pair.b.paused = True
    for _ in range(30):
        pair.disconnect(tell="c")
        pair.advance(0.5)
        pair.connect()
        pair.advance(0.5)
    assert pair.c.reasons[0] in ("silent", "busy for too long")


def test_a_side_that_was_taken_for_another_connection_is_heard_again_within_a_bound() -> None:
    """Should both ends disagree on the connection, the connecting side greets again when it is not answered."""
    pair = owing(Pair())
    pair.b.sessions._attach(pair.b.session, pair.binder_link(77), pair.now)
    pair.alive.add(77)
    pair.up[77], pair.down[77] = type(pair.up[1])(), type(pair.up[1])()
    pair.say(pair.c, b"1")
    pair.advance(BOUND + 2 * INTERVAL)
    assert pair.b.session.link == pair.binder_link(1)
    assert pair.b.got == [b"1"]
    assert not pair.c.lost
    assert not pair.b.lost


def test_goodbye_ends_both_sides_at_once_and_says_why() -> None:
    pair = Pair()
    one, other = pair.c.session, pair.b.session
    pair.say(pair.b, *bodies(1, 3))
    pair.b.sessions.goodbye(other, "enough", pair.now)
    pair.flow()
    assert pair.b.lost == [(other, "enough")]
    assert pair.c.lost == [(one, "goodbye: enough")]
    assert pair.c.got == bodies(1, 3)
    assert pair.c.kinds()[-1] == "PeerLost"


def test_after_a_goodbye_the_connecting_side_greets_anew_when_a_bound_has_passed() -> None:
    pair = Pair()
    pair.b.sessions.goodbye(pair.b.session, "enough", pair.now)
    pair.advance(BOUND - 0.1)
    assert len(pair.c.opened) == 1
    pair.advance(0.2)
    assert len(pair.c.opened) == 2


def test_closing_says_goodbye_to_all_and_leaves_no_timer() -> None:
    pair = Pair()
    pair.c.sessions.close(pair.now)
    pair.flow()
    assert pair.c.reasons == ["closed"]
    assert pair.b.reasons == ["goodbye: closed"]
    assert pair.c.sessions.next_deadline() is None
    pair.c.sessions.link_up(LINK, pair.now)
    pair.flow()
    assert pair.count("up", "HELLO") == 1


@pytest.mark.parametrize("how", ["closed", "disconnected"])
def test_who_goes_before_the_welcome_came_says_so_in_the_session_that_was_asked_for(how: str) -> None:
    pair = Pair(connect=False)
    pair.connect()
    pair.hand(pair.b, 1, pair.up[1].popleft())
    begun = pair.b.session
    if how == "closed":
        pair.c.sessions.close(pair.now)
    else:
        pair.c.sessions.link_forgotten(LINK, pair.now)
    pair.flow()
    assert pair.b.lost == [(begun, f"goodbye: {how}")]
    assert not pair.c.opened
    assert pair.c.sessions.next_deadline() is None


def test_a_goodbye_to_a_session_that_is_not_known_is_not_answered() -> None:
    pair = Pair()
    pair.hand(pair.b, 1, frame(GOODBYE, b"nosuchid", 0, 0, 0, "bye", 0))
    assert pair.count("down", "LOST") == 0
    assert pair.b.counters["frames_stray"] == 1


def test_a_process_that_is_proved_dead_ends_its_session_at_once() -> None:
    pair = Pair(Side("c", host="here", pid=7, started="then"), Side("b", host="here", pid=8, started="now"))
    pair.disconnect(tell="both")
    pair.advance(0.0)
    assert pair.b.out.probes == [Probe(pair.b.session.id, "here", 7, "then")]
    pair.b.sessions.process_gone(pair.b.session.id, pair.now)
    pair.drain()
    assert pair.b.reasons == ["process gone"]


def test_a_process_is_asked_for_several_times_and_then_no_more() -> None:
    pair = Pair(Side("c", host="here", pid=7), Side("b", host="here", pid=8))
    pair.disconnect()
    pair.advance(2.0)
    assert len(pair.b.out.probes) == len(liveness.PROBE_DELAYS)
    pair.connect()
    pair.flow()
    pair.advance(20.0)
    assert len(pair.b.out.probes) == len(liveness.PROBE_DELAYS)


def test_a_proof_of_death_that_comes_after_the_resumption_changes_nothing() -> None:
    pair = Pair(Side("c", host="here", pid=7), Side("b", host="here", pid=8))
    session = pair.b.session
    pair.disconnect()
    pair.connect()
    pair.flow()
    pair.b.sessions.process_gone(session.id, pair.now)
    pair.b.sessions.process_gone(b"nosuchid", pair.now)
    pair.b.sessions.process_gone(("other", "key"), pair.now)
    assert not session.ended


@pytest.mark.parametrize(("host", "pid"), [("elsewhere", 7), ("", 7), ("here", 0)])
def test_nobody_is_probed_on_another_host(host: str, pid: int) -> None:
    pair = Pair(Side("c", host=host, pid=pid), Side("b", host="here", pid=8))
    pair.disconnect()
    pair.advance(1.0)
    assert not pair.b.out.probes


def test_a_disturbed_bound_socket_finds_out_whose_connection_broke() -> None:
    pair = Pair()
    pair.connect()
    other = Side("d")
    other.sessions.link_up(LINK, pair.now)
    ((_, hello),) = other.out.sends
    pair.hand(pair.b, 2, hello)
    assert len(pair.b.sessions) == 2
    pair.alive.discard(1)
    before = pair.count("down", "PING")
    pair.b.sessions.links_disturbed(GROUP, pair.now)
    pair.b.sessions.links_disturbed(("b", "another"), pair.now)
    pair.drain()
    assert pair.count("down", "PING") == before + 1
    assert sorted(session.link is None for session in pair.b.sessions) == [False, True]


def test_a_socket_that_is_disturbed_for_ever_fills_no_memory() -> None:
    pair = Pair()
    pair.lose = only(PONG)
    for _ in range(5000):
        pair.b.sessions.links_disturbed(GROUP, pair.now)
        pair.now += 0.05
        pair.drain()
        pair.up[1].clear()
        pair.down[1].clear()
    assert len(pair.b.session.pings_out) <= MAX_PINGS_OUT


def test_a_driver_that_stood_still_condemns_nobody() -> None:
    pair = owing(Pair())
    pair.advance(5.0)
    pair.disconnect(tell="both")
    pair.b.paused = pair.c.paused = True  # the whole host sleeps
    pair.advance(600.0)
    pair.b.paused = pair.c.paused = False
    pair.advance(0.1)
    assert pair.b.counters["overslept"] == 1
    assert not pair.b.lost
    assert not pair.c.lost
    pair.connect()
    pair.flow()
    assert pair.c.counters["sessions_resumed"] == 1


def test_a_driver_that_stood_still_asks_again_before_it_calls_anybody_busy() -> None:
    pair = owing(Pair())
    pair.advance(5.0)
    pair.lose = only(PONG, direction="up")
    pair.advance(INTERVAL)  # a ping is out when it falls asleep
    pair.lose = lambda *_: False
    pair.b.paused = True
    pair.advance(60.0)
    pair.b.paused = False
    pair.up[1].clear()  # the queue was full, or the answers were not read yet
    pair.advance(5.0)
    assert busy_events(pair.b) == 0
    assert not pair.b.lost


def test_a_driver_that_is_a_little_late_still_judges() -> None:
    pair = Pair()
    pair.disconnect()
    due = pair.b.sessions.timers.due(("dead", pair.b.session.id))
    assert due is not None
    pair.now = due + 0.5 * INTERVAL
    pair.b.sessions.timers.cancel(("beat", pair.b.session.id))
    pair.b.sessions.handle_timer(pair.now)
    pair.drain()
    assert pair.b.reasons == ["silent"]


def test_an_announced_bound_makes_nobody_immortal() -> None:
    pair = Pair(Side("c", heartbeat=Heartbeat(3600.0, 1000)))
    pair.disconnect()
    pair.advance(3601.0)
    assert pair.b.reasons == ["silent"]


def test_a_broken_connection_is_counted_and_a_dead_one_is_dialled_anew_by_the_same_link() -> None:
    pair = Pair()
    pair.disconnect()
    pair.advance(BOUND + 1.0)
    pair.connect()
    pair.flow()
    assert pair.c.counters["links_lost"] == 1
    assert pair.c.counters["sessions_opened"] == 2
    assert pair.b.reasons == ["silent"]
    assert handshake.FORGOTTEN not in pair.c.reasons
