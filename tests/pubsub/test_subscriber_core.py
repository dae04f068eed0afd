"""The subscriber's core where it stands apart from one publisher that it connects to."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.protocol.pair import local
from tests.pubsub.plane import Plane, Site
from tests.pubsub.test_both_cores import judge, made
from zmqkit.address import nth
from zmqkit.errors import CursorInUse, MessagesLost
from zmqkit.events import EpochChanged, MessagesExpired
from zmqkit.patterns.pubsub import joining, living, wire
from zmqkit.patterns.pubsub.parcels import Gone
from zmqkit.patterns.pubsub.seen import FLOOR_SPAN, Seen
from zmqkit.patterns.pubsub.subscriber import SubscriberCore, SubscriberSettings
from zmqkit.patterns.pubsub.talk import Refused
from zmqkit.protocol import wire as session_wire
from zmqkit.protocol.local import Local
from zmqkit.protocol.session import Session

BOUND = "tcp://127.0.0.1:6000"


def subscriber(**settings: Any) -> SubscriberCore:
    said: Local = local("sub", role="subscribe", accepts=frozenset({"publish"}), about={"cursor": "", "durable": False})
    return SubscriberCore(said, random.Random("sub"), SubscriberSettings(**settings))


def subscribed(core: SubscriberCore) -> list[bytes]:
    """What the core subscribes since it was asked last."""
    sends, core.out.sends = core.out.sends, []
    return [frames[0] for link, frames in sends if link[0] == "d"]  # type: ignore[index]


def fence(core: SubscriberCore, address: str, name: str, offset: int = 0, recovery: str = "") -> wire.Fence:
    private, ident = core._links[address].private, name.encode().hex().ljust(32, "0")
    return wire.Fence(private, name.encode().ljust(8, b"-"), ident, ident, ident, offset, recovery)


def data(name: str, offset: int, topic: str = "a") -> bytes:
    stream = name.encode().ljust(8, b"-")
    return wire.Data(topic, stream, [offset], offset - 1, offset, 1, "raw", [1], b"x").pack()


# ---- one that binds ----------------------------------------------------------------


def test_a_bound_subscriber_says_where_its_recovery_channel_is_and_dials_nobody() -> None:
    core = subscriber(topics=("a",))
    core.tell_recovery({BOUND: ":6001"}, 1.0)
    core.link_up(("d", BOUND), 1.0)
    said = subscribed(core)
    assert said[:2] == [b"\1da\0", b"\1b"]
    assert said[-1].endswith(b"/:6001\0")
    core.receive_message(("d", BOUND), [fence(core, BOUND, "one", recovery=":22").pack()], 1.0)
    assert core.out.dials == [], "who connects to us is not trusted to say whom we should connect to"
    assert [each.link.address for each in core.streams.values() if each.link] == [BOUND]


def test_a_bound_subscriber_that_reads_an_old_fence_late_still_fetches_all_up_to_the_newest() -> None:
    core = subscriber(topics=("a",), unreachable=1.0)
    core.tell_recovery({BOUND: ":6001"}, 1.0)
    core.link_up(("d", BOUND), 1.0)
    for offset in (0, 9, 4):
        core.receive_message(("d", BOUND), [fence(core, BOUND, "one", offset=offset).pack()], 1.0)
    core.handle_timer(2.5)  # there is no recovery channel: what is missing is told at once
    core.end_turn(2.5)
    losses = [item.error for item in core.out.items if isinstance(item, Gone)]
    assert [(each.first, each.last) for each in losses if isinstance(each, MessagesLost)] == [(1, 9)]


@pytest.mark.parametrize("before", [2, 3], ids=["behind the fence", "at the fence"])
def test_a_bound_subscriber_does_not_trust_that_a_fence_for_other_topics_came_over_the_same_connection(before) -> None:
    core = subscriber(topics=("a",), unreachable=1.0)
    core.tell_recovery({BOUND: ":6001"}, 1.0)
    core.link_up(("d", BOUND), 1.0)
    core.receive_message(("d", BOUND), [fence(core, BOUND, "one").pack()], 1.0)
    core.handle_timer(2.5)  # there is no recovery channel: what is missing is told at once
    for offset in range(1, before + 1):
        core.receive_message(("d", BOUND), [data("one", offset)], 2.5)
    core.end_turn(2.5)
    # Its connection breaks, 3 is lost with it; over the next one the publisher is told of topics that were added then.
    core.subscribe(["b"], 3.0)
    core.end_turn(3.0)
    core.receive_message(("d", BOUND), [fence(core, BOUND, "one", offset=3).pack()], 3.1)
    core.end_turn(3.1)
    losses = [item.error for item in core.out.items if isinstance(item, Gone)]
    told = [(error.first, error.last) for error in losses if isinstance(error, MessagesLost)]
    assert told == ([(3, 3)] if before == 2 else [])
    (stream,) = core.streams.values()
    assert set(stream.filter) == {"a", "b"}, "and the new topics are in force"


def test_many_publishers_come_to_one_bound_subscriber() -> None:
    core = subscriber()
    core.tell_recovery({BOUND: ":6001"}, 1.0)
    core.link_up(("d", BOUND), 1.0)
    for name in ("one", "two"):
        core.receive_message(("d", BOUND), [fence(core, BOUND, name).pack()], 1.0)
    for stream in core.streams.values():
        assert stream.state == "feeding", "it asks for last values first"
    assert len(core._links[BOUND].streams) == 2


def test_a_bound_subscriber_that_hears_its_place_late_asks_for_another_fence() -> None:
    core = subscriber()
    core.link_up(("d", BOUND), 1.0)
    first = core._links[BOUND].private
    subscribed(core)
    core.tell_recovery({BOUND: ":6001"}, 1.0)
    said = subscribed(core)
    assert core._links[BOUND].private != first
    assert said[-1] == b"\0p" + first.encode() + b"\0", "the old one is taken back last"


# ---- two links to one publisher ----------------------------------------------------


def test_what_comes_over_two_links_is_taken_from_one_and_from_the_other_when_that_breaks() -> None:
    plane, site = made()
    second = "tcp://127.0.0.1:7777"
    plane.core.link_up(("d", second), plane.now)
    assert site.core is not None
    private, settings = plane.core._links[second].private, site.core.settings
    told = wire.Fence(
        private, settings.stream, settings.publisher, settings.epoch, site.core.local.instance.hex(), 0, ":7001"
    )
    plane.core.receive_message(("d", second), [told.pack()], plane.now)
    plane.core.out.sends = [each for each in plane.core.out.sends if each[0] != ("d", second)]
    (stream,) = plane.core.streams.values()
    assert stream.link is not None
    assert stream.link.address == site.data
    assert list(plane.core._links[second].spare) == [settings.stream]
    sent = plane.publish(site, "a")
    frame = wire.Data("a", settings.stream, [1], 0, 1, 1, "raw", [5], b"pub-1").pack()
    plane.core.receive_message(("d", second), [frame], plane.now)
    plane.turn()
    assert plane.offsets == sent, "it comes once"
    plane.core.link_down(("d", site.data), plane.now)
    asked = [frames[0] for link, frames in plane.core.out.sends if link == ("d", second)]
    assert any(each[:2] == b"\1p" for each in asked), "the other link is asked for a fence"


# ---- cursors -----------------------------------------------------------------------


def test_a_cursor_in_use_is_told_once_and_asked_for_again() -> None:
    plane, site = made(durable=True, cursor=True, journal=True)
    sent = plane.publish(site, "a")
    assert site.core is not None
    core: Any = site.core
    opened = core.opened

    def refuse(session: Session, now: float) -> None:
        opened(session, now)
        core.sessions.send(session, Refused("cursor in use", "by somebody").pack(), 0, now)

    core.opened = refuse
    plane.restart_subscriber()
    plane.took.clear()
    plane.advance(30.0)
    (told,) = [each.error for each in plane.took if each.error is not None]
    assert isinstance(told, CursorInUse)
    assert "by somebody" in str(told)
    core.opened = opened
    plane.advance(30.0)
    sent += plane.publish(site, "a")
    plane.advance(2.0)
    assert plane.offsets == sent, "then it is free"


# ---- age ---------------------------------------------------------------------------


def test_what_is_too_old_is_dropped_and_counted_live_and_replayed() -> None:
    plane, site = made(max_age=5.0, start="earliest")
    plane.post(site, "a", "b")
    plane.advance(0.0)
    plane.turn()
    fresh = plane.offsets
    assert fresh == [1, 2]
    plane.cut(site, "data")
    plane.post(site, "a", "a", "a")
    plane.turn()
    plane.advance(6.0)
    last = plane.post(site, "b")
    plane.connect(site)
    plane.advance(1.0)
    assert plane.offsets == [1, 2, *last]
    assert plane.core.counters["messages_expired"] == 3
    assert sum(each.count for each in plane.happened(MessagesExpired)) == 3
    assert not plane.lost


# ---- more topics than are remembered -----------------------------------------------


def test_a_topic_that_was_forgotten_is_compared_before_a_gap_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(living, "FLOOR_SPAN", 20)
    plane, site = made(publisher={"history": 10_000})
    (stream,) = plane.core.streams.values()
    stream.seen.generation = 10
    sent = plane.publish(site, "first")
    for at in range(100):
        sent += plane.publish(site, f"t{at}")
    assert not stream.seen.knows("first")
    sent += plane.publish(site, "first")
    plane.drop = lambda frame: True
    sent += plane.publish(site, "t0")
    plane.drop = lambda frame: False
    sent += plane.publish(site, "t0")
    plane.advance(15.0)
    assert sorted(plane.offsets) == sent
    assert len(set(plane.offsets)) == len(sent)
    assert FLOOR_SPAN > 20


def test_the_floor_rises_with_what_is_forgotten_and_never_above_it() -> None:
    seen = Seen(generation=3)
    for offset, topic in enumerate("abcdefghi", start=1):
        seen.put(topic, offset)
        assert all(seen.of(each) >= at for at, each in enumerate("abcdefghi"[:offset], start=1))
        assert seen.floor < offset
    assert len(seen) <= 6


# ---- what is between loses frames, and more happens at once --------------------------


@pytest.mark.parametrize("seed", range(20))
def test_frames_are_lost_while_a_journalled_publisher_is_restarted(seed: int) -> None:
    dice = random.Random(f"{seed} losing and restarting")
    plane, site = made(journal=True, start="earliest", credit=dice.choice([5, 100]), unreachable=1000.0)
    ident = site.core.settings.publisher if site.core else ""
    plane.drop = lambda frame: dice.random() < 0.1
    plane.advance(20.0)
    busy(plane, site, dice, restarts=True)
    assert plane.happened(EpochChanged)
    assert not plane.lost
    judge(plane, ident, 0, site.next - 1, ordered=False)


@pytest.mark.parametrize("seed", range(20))
def test_frames_are_lost_while_topics_change(seed: int) -> None:
    dice = random.Random(f"{seed} losing and changing")
    plane, site = made(
        topics=("a", "b"), start="earliest", credit=dice.choice([5, 100]), unreachable=1000.0,
        publisher={"history": 100_000},
    )  # fmt: skip
    plane.drop = lambda frame: dice.random() < 0.1
    plane.advance(20.0)
    busy(plane, site, dice, changes=True)
    assert not plane.lost
    steady = [each.offset for each in plane.took if each.topic == "a"]
    wanted = [at for (_, at), (topic, _) in plane.published.items() if topic == "a"]
    assert sorted(steady) == wanted, "a topic that was wanted all the time is whole"
    offsets = plane.offsets
    assert len(set(offsets)) == len(offsets)


def busy(plane: Plane, site: Site, dice: random.Random, *, restarts: bool = False, changes: bool = False) -> None:
    """Much happens; then all comes to rest, and each topic gets one more message."""
    restarted = False
    for step in range(100):
        match dice.randrange(7):
            case 0 | 1 | 2:
                plane.post(site, *(dice.choice(["a", "b", "c"]) for _ in range(dice.choice([1, 3, 12]))))
                plane.turn()
            case 3:
                for _ in range(dice.randrange(20)):
                    plane.step(site, dice.choice(["data", "subs", "up", "down"]))
            case 4 if restarts and (dice.random() < 0.3 or (step > 60 and not restarted)):
                plane.flow()
                plane.restart(site)
                restarted = True
            case 5 if changes:
                change = dice.choice([plane.core.subscribe, plane.core.unsubscribe])
                change([dice.choice(["b", "c"])], plane.now)
                plane.turn()
            case _:
                plane.advance(dice.choice([0.01, 0.3, 2.0]))
    if restarts and not restarted:
        plane.flow()
        plane.restart(site)
    plane.advance(40.0)
    plane.drop = lambda frame: False
    plane.post(site, "a", "b", "c")
    plane.advance(40.0)


# ---- several publishers behind one recovery address ------------------------------------

DATA = "tcp://127.0.0.1:7000"
RECOVERY = "tcp://127.0.0.1:7001"


def meets(core: SubscriberCore, number: int, name: str, now: float) -> Session:
    """The number-th connection to the recovery address stands, and leads to this publisher."""
    link = ("c", nth(RECOVERY, number))
    core.out.sends.clear()
    core.link_up(link, now)
    ((_, said),) = [sent for sent in core.out.sends if sent[0] == link]
    hello = session_wire.read_hello(session_wire.unpack(said[0])[1])
    peer = session_wire.Hello(
        role="publish", instance=name.encode().ljust(16, b"-"), session=hello.session, attempt=hello.attempt,
        credit_messages=1000, credit_bytes=1 << 20, about={"stream": name.encode().ljust(8, b"-")},
    )  # fmt: skip
    core.receive_message(link, [peer.pack(session_wire.WELCOME)], now)
    return next(each for each in core.sessions if each.home == link)


def behind_a_device(*names: str) -> SubscriberCore:
    core = subscriber(topics=("a",))
    core.link_up(("d", DATA), 1.0)
    for name in names:
        core.receive_message(("d", DATA), [fence(core, DATA, name, recovery=":7001").pack()], 1.0)
    return core


def test_sessions_behind_one_recovery_address_are_matched_by_what_their_publishers_say() -> None:
    core = behind_a_device("one", "two")
    first = meets(core, 1, "two", 1.0)
    core.receive_message(("c", RECOVERY), [session_wire.more(2)], 1.0)
    assert core.out.dials == [(RECOVERY, True), (RECOVERY, True), (nth(RECOVERY, 2), True)]
    second = meets(core, 2, "one", 1.0)
    one, two = (core._by_name[name.encode().ljust(8, b"-")] for name in ("one", "two"))
    assert (one.session, two.session) == (second, first)
    # The connections change places, as they may when the device begins anew.
    for link in (first.home, second.home):
        core.link_down(link, 2.0)
    while (due := core.next_deadline()) is not None and due < 20.0:
        core.handle_timer(due)
    assert (one.session, two.session) == (None, None)
    assert meets(core, 1, "one", 20.0) is one.session
    assert meets(core, 2, "two", 20.0) is two.session


def test_an_address_is_left_with_the_last_publisher_behind_it_and_all_connections_to_it_with_it() -> None:
    core = behind_a_device("one", "two")
    meets(core, 1, "one", 1.0)
    core.receive_message(("c", RECOVERY), [session_wire.more(2)], 1.0)
    meets(core, 2, "two", 1.0)
    core.out.dials.clear()
    one, two = list(core.streams.values())
    core._forget(one, "gone", 2.0)
    assert core.out.dials == [(RECOVERY, False)]
    assert two.session is not None
    core._forget(two, "gone", 2.0)
    assert core.out.dials == [(RECOVERY, False), (RECOVERY, False), (nth(RECOVERY, 2), False)]


def test_publishers_behind_one_recovery_address_are_one_to_connect_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "MAX_DIALS_OF_LINK", 2)
    core = behind_a_device("one", "two", "three", "four")
    assert [each.address for each in core.streams.values()] == [RECOVERY] * 4
    for at, name in enumerate(("five", "six")):
        core.receive_message(("d", DATA), [fence(core, DATA, name, recovery=f":{7002 + at}").pack()], 1.0)
    assert [each.address for each in core.streams.values()][4:] == ["tcp://127.0.0.1:7002", ""]
    assert core.counters["publishers_refused"] == 1
