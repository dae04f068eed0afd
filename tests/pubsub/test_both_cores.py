"""Both cores of publish-subscribe, with both planes between them, under virtual time."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.pubsub.plane import Plane, Site
from zmqkit.errors import MessagesLost
from zmqkit.events import EpochChanged, FellBehind, GapFound, RecoveryUnreachable
from zmqkit.options import Limits
from zmqkit.patterns.pubsub.parcels import Parcel
from zmqkit.patterns.pubsub.wire import Fence


def made(*, journal: bool = False, publisher: dict[str, Any] | None = None, **settings: object) -> tuple[Plane, Site]:
    plane = Plane(**settings)  # type: ignore[arg-type]
    return plane, plane.add("pub", journal=journal, **(publisher or {}))


def test_what_is_published_after_joining_comes_in_order() -> None:
    plane, site = made()
    assert plane.state(site) == "live"
    sent = plane.publish(site, "a", "a", "b", "a") + plane.publish(site, "b") + plane.publish(site, "a")
    assert plane.offsets == sent
    assert not any(each.replayed for each in plane.took)


def test_only_topics_that_were_asked_for_come() -> None:
    plane, site = made(topics=("prices.*.gold", "news.#", "lone"))
    plane.publish(site, "prices.eu.gold", "prices.eu.tin", "news", "news.a.b", "newsy", "lone", "lone.a")
    assert [each.topic for each in plane.took] == ["prices.eu.gold", "news", "news.a.b", "lone"]


def test_one_who_comes_late_may_begin_with_the_earliest() -> None:
    plane, site = made(start="earliest")
    sent = plane.publish(site, "a", "b", "a")
    plane.restart_subscriber()
    plane.took.clear()
    plane.flow()
    sent += plane.publish(site, "b")
    assert plane.offsets == sent
    assert [each.replayed for each in plane.took] == [True, True, True, False]


def test_one_who_comes_late_begins_with_the_latest_by_himself() -> None:
    plane, site = made()
    plane.publish(site, "a", "b", "a")
    plane.restart_subscriber()
    plane.took.clear()
    plane.flow()
    assert plane.offsets == []
    sent = plane.publish(site, "b")
    assert plane.offsets == sent


def test_a_snapshot_comes_before_what_is_published() -> None:
    plane, site = made(publisher={"last_value": True})
    _, second, third = plane.publish(site, "a", "b", "a")
    plane.restart_subscriber()
    plane.took.clear()
    plane.flow()
    sent = plane.publish(site, "b")
    assert plane.offsets == [second, third, *sent]


def test_a_broken_data_connection_loses_nothing() -> None:
    plane, site = made()
    sent = plane.publish(site, "a")
    plane.cut(site, "data")
    sent += plane.publish(site, "a", "b")
    plane.connect(site)
    sent += plane.publish(site, "b")
    assert plane.offsets == sent
    assert plane.state(site) == "live"
    assert not plane.lost


def test_a_gap_is_filled_before_what_comes_after_it() -> None:
    plane, site = made()
    sent = plane.publish(site, "a")
    plane.drop = lambda frame: True
    sent += plane.publish(site, "a")
    plane.drop = lambda frame: False
    sent += plane.publish(site, "a")
    assert plane.offsets == sent
    assert [(each.topic, each.first, each.last) for each in plane.happened(GapFound)] == [("a", 2, 2)]


def test_a_lost_last_message_is_found_by_comparing() -> None:
    plane, site = made()
    sent = plane.publish(site, "a")
    plane.drop = lambda frame: frame[:1] == b"d"
    sent += plane.publish(site, "a", "b")
    plane.drop = lambda frame: False
    plane.advance(12.0)
    assert plane.offsets == sent
    assert plane.took[-1].replayed
    assert plane.core.counters["comparisons_wrong"] == 1


def test_what_history_let_go_is_told_at_its_place() -> None:
    plane, site = made(publisher={"history": 2})
    plane.publish(site, "a")
    plane.cut(site, "data")
    for _ in range(5):
        plane.publish(site, "a")
    plane.connect(site)
    plane.advance(1.0)
    plane.publish(site, "a")
    assert plane.offsets == [1, 5, 6, 7]
    (lost,) = plane.lost
    assert (lost.first, lost.last, lost.topics) == (2, 4, ("a",))
    assert [each.error is not None for each in plane.took] == [False, True, False, False, False]


def test_what_is_gone_of_other_topics_is_no_loss() -> None:
    plane, site = made(topics=("a",), publisher={"history": 2})
    plane.publish(site, "a")
    plane.cut(site, "data")
    for _ in range(5):
        plane.publish(site, "b")
    plane.connect(site)
    plane.publish(site, "a")
    plane.advance(1.0)
    assert plane.offsets == [1, 7]
    assert not plane.lost


@pytest.mark.parametrize(("mode", "events", "errors"), [("raise", 1, 1), ("report", 1, 0)])
def test_a_gap_is_only_told_where_the_user_wants_it_so(mode: str, events: int, errors: int) -> None:
    plane, site = made(on_gap=mode)
    plane.publish(site, "a")
    plane.drop = lambda frame: True
    plane.publish(site, "a", "a")
    plane.drop = lambda frame: False
    plane.publish(site, "a")
    assert plane.offsets == [1, 4]
    assert len(plane.lost) == errors
    assert len(plane.happened(GapFound)) == events


@pytest.mark.parametrize(("mode", "events", "errors"), [("raise", 1, 2), ("report", 2, 0)])
def test_what_nobody_can_tell_any_more_is_told_as_lost_after_a_gap(mode: str, events: int, errors: int) -> None:
    plane, site = made(on_gap=mode, publisher={"history": 2})
    plane.publish(site, "a")
    plane.drop = lambda frame: frame[:1] == b"d"
    plane.publish(site, "a")
    plane.drop = lambda frame: False
    plane.publish(site, "a", "b")
    plane.drop = lambda frame: frame[:1] == b"d"
    plane.publish(site, "b")
    plane.drop = lambda frame: False
    plane.publish(site, "a")
    plane.cut(site, "data")
    plane.publish(site, "a", "a")
    plane.connect(site)
    plane.advance(1.0)
    assert plane.offsets == [1, 3, 4, 6, 7, 8]
    assert plane.core.counters["gaps_doubtful"] == 1
    assert len(plane.lost) == errors
    assert len(plane.happened(GapFound)) == events


def test_a_restart_without_a_journal_is_told_and_hides_nothing() -> None:
    plane, site = made()
    plane.publish(site, "a")
    plane.kill(site)
    plane.start(site)
    plane.post(site, "a", "b")
    plane.connect(site)
    plane.publish(site, "a")
    assert plane.offsets == [1, 1, 2, 3]
    (event,) = plane.happened(EpochChanged)
    assert (event.last, event.tail_unknown) == (1, True)
    assert event.publisher == plane.took[-1].publisher
    assert len(plane.core.streams) == 1


def test_a_restart_with_a_journal_goes_on_in_the_same_line() -> None:
    plane, site = made(journal=True)
    sent = plane.publish(site, "a")
    plane.cut(site, "data")
    sent += plane.publish(site, "a", "b")
    plane.restart(site)
    sent += plane.publish(site, "a")
    plane.advance(1.0)
    assert plane.offsets == sent
    (event,) = plane.happened(EpochChanged)
    assert (event.last, event.tail_unknown) == (1, False)
    assert len({each.epoch for each in plane.took}) == 2


def test_a_durable_subscriber_lives_on_the_feed() -> None:
    plane, site = made(durable=True, cursor=True, journal=True)
    sent = plane.publish(site, "a", "b")
    assert plane.offsets == sent
    assert plane.state(site) == "feed"
    assert site.prefixes
    assert not any(prefix.startswith(b"d") for prefix in site.prefixes)
    assert site.core is not None
    plane.core.commit(plane.took[0].publisher, plane.took[0].epoch, 1, "ticket", plane.now)
    plane.flow()
    assert plane.replies["ticket"] is None
    plane.restart_subscriber()
    plane.took.clear()
    plane.advance(10.0)
    assert plane.offsets == [2]
    plane.restart(site)
    plane.advance(10.0)
    assert plane.offsets == [2]
    assert plane.publish(site, "a") == plane.offsets[1:]


def test_a_position_from_an_inbox_is_where_it_goes_on() -> None:
    plane, site = made(journal=True)
    plane.publish(site, "a", "b", "a")
    took = plane.took[1]
    plane.restart_subscriber(durable=True, positions={took.publisher: (took.epoch, took.offset)})
    plane.took.clear()
    plane.flow()
    assert plane.offsets == [3]


def test_a_slow_user_gets_all_from_history_and_then_lives_on_the_data_plane_again() -> None:
    plane, site = made(limits=Limits(queued_messages=10), credit=4)
    plane.taking = False
    sent = []
    for _ in range(30):
        sent += plane.publish(site, "a")
    assert plane.state(site) == "feed"
    assert len(plane.happened(FellBehind)) == 1
    assert sum(len(each) for each in plane.waiting if isinstance(each, Parcel)) <= 10 + 1 + 4
    plane.taking = True
    plane.advance(1.0)
    assert plane.offsets == sent
    assert plane.state(site) == "live"
    assert plane.publish(site, "a")[0] == plane.offsets[-1]
    assert not plane.took[-1].replayed


def test_a_slow_user_may_want_only_the_newest_of_each_topic() -> None:
    plane, site = made(limits=Limits(queued_messages=4), on_slow="conflate")
    plane.taking = False
    for _ in range(10):
        plane.publish(site, "a")
        plane.publish(site, "b")
    plane.taking = True
    plane.flow()
    assert plane.offsets == [1, 2, 3, 4, 5, 19, 20]
    assert plane.core.counters["messages_conflated"] == 13


def test_a_slow_user_may_want_to_be_ended() -> None:
    plane, site = made(limits=Limits(queued_messages=4), on_slow="disconnect")
    plane.taking = False
    for _ in range(10):
        plane.publish(site, "a")
    plane.taking = True
    plane.advance(1.0)
    assert plane.offsets == [1, 2, 3, 4, 5]
    assert "too slow" in str(plane.lost[0])
    plane.publish(site, "a")
    assert len(plane.offsets) == 5


def test_what_had_come_before_a_gap_is_not_lost_because_history_has_let_it_go_meanwhile() -> None:
    plane, site = made(topics=("a", "b"), publisher={"history": 6})
    plane.publish(site, "a")
    plane.publish(site, "a")
    plane.drop = lambda frame: frame[:1] == b"d"
    plane.publish(site, "b")
    plane.drop = lambda frame: False
    plane.post(site, "b")
    plane.turn()
    while plane.step(site, "data"):
        pass
    assert plane.happened(GapFound)
    plane.cut(site, "data")  # before the publisher has heard what is missing
    for _ in range(4):
        plane.publish(site, "a")
    plane.connect(site)
    plane.advance(10.0)
    assert not plane.lost
    assert sorted(plane.offsets) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_one_that_was_too_slow_and_ended_follows_nobody_any_more() -> None:
    plane, site = made(limits=Limits(queued_messages=4), on_slow="disconnect")
    plane.taking = False
    for _ in range(10):
        plane.publish(site, "a")
    assert not plane.core.streams
    plane.connect(site)
    link = plane.core._links[site.data]
    # As where it binds, and its publisher comes over a new connection.
    told = Fence(link.private, b"12345678", "a" * 32, "b" * 32, "a" * 32, 10, "")
    plane.core.receive_message(("d", site.data), [told.pack()], plane.now)
    plane.advance(10.0)
    assert not plane.core.streams


def test_topics_come_and_go() -> None:
    plane, site = made(topics=("a",))
    plane.publish(site, "a", "b")
    plane.core.subscribe(["b"], plane.now)
    plane.advance(1.0)
    plane.publish(site, "a", "b")
    plane.advance(1.0)
    plane.core.unsubscribe(["a"], plane.now)
    plane.advance(1.0)
    plane.publish(site, "a", "b")
    assert plane.offsets == [1, 3, 4, 6]
    assert not any(prefix.startswith(b"da") for prefix in site.prefixes)
    plane.cut(site, "data")
    plane.publish(site, "a", "b")
    plane.connect(site)
    plane.advance(12.0)
    assert plane.offsets == [1, 3, 4, 6, 8]
    assert not plane.happened(GapFound)


def test_an_unreachable_recovery_channel_is_told_and_what_is_missing_given_up() -> None:
    plane, site = made(unreachable=5.0)
    plane.publish(site, "a")
    site.blocked = True
    plane.cut(site, "recovery")
    plane.publish(site, "a")
    plane.drop = lambda frame: True
    plane.publish(site, "a")
    plane.drop = lambda frame: False
    plane.publish(site, "a")
    assert plane.offsets == [1, 2]
    plane.advance(30.0)
    (event,) = plane.happened(RecoveryUnreachable)
    assert event.address == site.recovery
    assert plane.lost
    assert site.core is not None
    ident = site.core.settings.publisher
    assert not plane.missing(ident, range(1, 5))
    assert plane.publish(site, "a") == plane.offsets[-1:]


def judge(plane: Plane, ident: str, begun: int, last: int, *, ordered: bool = True) -> None:
    """What one publisher published after `begun` came once, in order, and each hole was told before what follows it."""
    seen: dict[str, int] = {}
    delivered: set[int] = set()
    told: set[int] = set()
    newest = 0
    for each in plane.took:
        if each.publisher != ident:
            continue
        if isinstance(each.error, MessagesLost):
            told.update(range(each.error.first, each.error.last + 1))
            continue
        assert each.offset not in delivered, f"{each.offset} came twice"
        assert not ordered or each.offset > newest, f"{each.offset} came after {newest}"
        newest = each.offset
        before = [
            at
            for at in range(max(begun, seen.get(each.topic, 0)) + 1, each.offset)
            if (ident, at) in plane.published and plane.published[ident, at][0] == each.topic
        ]
        assert all(at in delivered or at in told for at in before), f"{before} are missing before {each.offset}"
        delivered.add(each.offset)
        seen[each.topic] = max(seen.get(each.topic, 0), each.offset)
    wanted = [at for name, at in plane.published if name == ident and begun < at <= last]
    assert not [at for at in wanted if at not in delivered and at not in told]


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_whatever_breaks_all_comes_once_and_in_order(seed: int, journal: bool) -> None:
    dice = random.Random(f"{seed} {journal}")
    small = dice.random() < 0.5
    plane, site = made(
        journal=journal,
        start=dice.choice(["earliest", "latest"]),
        limits=Limits(queued_messages=30) if small else None,
        credit=dice.choice([5, 100]),
        unreachable=1000.0,
        publisher={"history": 100_000} if not journal else None,
    )
    topics = ["a", "b", "c.d", "c.e"]
    begun = site.core.settings.publisher if site.core else ""
    for _ in range(150):
        match dice.randrange(12):
            case 0 | 1 | 2 | 3 | 4:
                plane.post(site, *(dice.choice(topics) for _ in range(dice.choice([1, 1, 3, 12]))))
                plane.turn()
            case 5 | 6:
                for _ in range(dice.randrange(20)):
                    plane.step(site, dice.choice(["data", "subs", "up", "down"]))
            case 7:
                plane.cut(site, dice.choice(["data", "recovery"]))
                if dice.random() < 0.5:
                    plane.connect(site)
            case 8:
                plane.connect(site)
            case 9:
                plane.taking = dice.random() < 0.6
                plane.turn()
            case 10:
                if journal and dice.random() < 0.2:
                    plane.flow()
                    plane.restart(site)
            case _:
                plane.advance(dice.choice([0.01, 0.3, 2.0]))
    plane.taking = True
    plane.connect(site)
    plane.advance(40.0)
    plane.post(site, *topics)
    plane.advance(1.0)
    assert not plane.lost
    assert plane.state(site) == "live"
    judge(plane, begun, 0, site.next - 1)


@pytest.mark.parametrize("seed", range(25))
def test_what_something_between_loses_is_fetched_before_what_follows_it(seed: int) -> None:
    dice = random.Random(f"{seed} losing")
    plane, site = made(
        start="earliest", credit=dice.choice([5, 100]), unreachable=1000.0, publisher={"history": 100_000}
    )
    plane.drop = lambda frame: dice.random() < 0.15
    plane.advance(20.0)
    topics = ["a", "b", "c.d", "c.e"]
    for _ in range(120):
        match dice.randrange(7):
            case 0 | 1 | 2:
                plane.post(site, *(dice.choice(topics) for _ in range(dice.choice([1, 1, 3, 12]))))
                plane.turn()
            case 3 | 4:
                for _ in range(dice.randrange(20)):
                    plane.step(site, dice.choice(["data", "subs", "up", "down"]))
            case 5:
                plane.cut(site, dice.choice(["data", "recovery"]))
                plane.connect(site)
            case _:
                plane.advance(dice.choice([0.01, 0.3, 2.0]))
    plane.advance(40.0)
    plane.drop = lambda frame: False
    plane.post(site, *topics)
    plane.advance(40.0)
    assert site.core is not None
    assert not plane.lost
    judge(plane, site.core.settings.publisher, 0, site.next - 1, ordered=False)
    assert plane.core.counters["messages_recovered"] > 10
