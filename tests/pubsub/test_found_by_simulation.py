"""What the simulation found in the cores of publish-subscribe: each with the fewest steps that show it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pubsub.listening import EPOCH, Scene
from tests.pubsub.plane import Plane
from tests.pubsub.test_history import EPOCH2, Durable, reopened
from zmqkit.events import FellBehind, PeerLost
from zmqkit.options import Limits, Retention
from zmqkit.patterns.pubsub import talk, wire
from zmqkit.patterns.pubsub.history import History
from zmqkit.patterns.pubsub.rows import Pack, merge
from zmqkit.patterns.pubsub.settings import stream_name
from zmqkit.patterns.pubsub.topics import Filter


def test_a_feed_behind_all_that_the_journal_has_of_an_earlier_opening_reads_it_once():
    scene = Durable()
    scene.publish(("a", b"1"))
    scene.publish(("a", b"2"))
    scene = reopened(scene)
    scene.topics("a")
    scene.feed(after=2)  # no row says that 2 is the last of its row
    (done,) = scene.said(talk.Done)
    assert done.epoch == EPOCH2
    first = scene.publish(("a", b"3"))
    assert scene.fed() == [(first, "a", b"3")]


def test_last_values_are_told_in_the_epochs_that_they_are_of():
    scene = Durable(last_value=True)
    scene.publish(("a", b"1"), ("b", b"2"))
    scene = reopened(scene, last_value=True)
    last = scene.publish(("b", b"3"))
    scene.topics("#")
    scene.say(talk.Values(1, last))
    assert [(block.epoch, list(block.offsets)) for block in scene.blocks()] == [(EPOCH, [1]), (EPOCH2, [last])]


def test_what_a_publisher_let_go_since_it_began_is_told_to_those_who_listened_to_the_one_before():
    plane = Plane()
    site = plane.add("pub", history=0)
    plane.publish(site, "a")
    plane.kill(site)
    plane.start(site)
    plane.publish(site, "a")
    plane.connect(site)
    plane.flow()
    (lost,) = plane.lost
    assert (lost.first, lost.last) == (1, 1)


def test_publishers_with_journals_that_change_places_are_known_again():
    plane = Plane()
    one, two = plane.add("one", 7000, journal=True), plane.add("two", 7010, journal=True)
    sent = [*plane.publish(one, "a"), *plane.publish(two, "a")]
    for site in (one, two):
        plane.kill(site)
    one.data, two.data, one.recovery, two.recovery = two.data, one.data, two.recovery, one.recovery
    one.wanted, two.wanted = two.wanted, one.wanted
    for site in (one, two):
        plane.start(site)
        plane.connect(site)
    plane.flow()
    assert plane.offsets == sent, "nothing comes twice"


@pytest.mark.parametrize("kind", ["after", "resume"])
def test_what_went_since_a_position_of_an_epoch_that_is_forgotten_is_a_hole(kind):
    keeps_one: dict[str, Any] = {"retention": Retention(count=1), "about": {"cursor": "mine"}}
    scene = Durable(**keeps_one)
    scene.publish(("a", b"1"))
    scene.say(talk.Commit(EPOCH, 1, 0))
    scene.publish(("a", b"2"))
    scene = reopened(scene, **keeps_one)
    first = scene.publish(("a", b"3"))
    scene.publish(("a", b"4"))
    scene.advance(1.0)
    assert scene.b.core.history.epochs.clamp(EPOCH, 1) is None
    scene.topics("a")
    scene.feed(after=1 if kind == "after" else 0, kind=kind)
    assert scene.said(talk.Hole) == [talk.Hole(1, EPOCH2, 2, first, ["a"])]
    assert scene.fed() == [(first + 1, "a", b"4")]


def test_a_row_of_which_only_a_part_is_gone_tells_what_of_each_topic_is():
    scene = Scene(history=3)
    scene.publish(("a", b"1"), ("a", b"2"), ("a", b"3"), ("a", b"4"), ("b", b"5"))
    scene.topics("a")
    scene.feed(after=1)
    assert scene.said(talk.Hole) == [talk.Hole(1, EPOCH, 2, 2, ["a"])]


def test_a_position_in_an_epoch_that_never_was_stored_goes_on_with_the_next_one():
    scene = Durable()
    scene.publish(("a", b"1"))
    scene = reopened(scene)
    last = scene.b.core.sent_up_to
    first = scene.publish(("a", b"2"))
    scene.topics("a")
    scene.feed(after=last, epoch="ee" * 16)
    scene.feed(2, after=last + 5, epoch="ee" * 16)
    assert scene.fed(1) == scene.fed(2) == [(first, "a", b"2")]


def test_offsets_that_are_used_again_after_a_power_failure_are_new():
    plane = Plane()
    site = plane.add("pub", journal=True)
    plane.publish(site, "a", "b", "a")
    plane.kill(site)
    assert site.rows is not None
    site.rows.clear()
    plane.start(site)
    plane.post(site, "a", "b", "b", "a", "a")
    plane.connect(site)
    plane.flow()
    assert plane.offsets == [1, 2, 3, 1, 2, 3, 4, 5]
    assert not plane.lost


def test_what_a_feed_had_read_keeps_its_epoch_when_that_is_forgotten_meanwhile():
    scene = Durable()
    for body in (b"1", b"2", b"3"):
        scene.publish(("a", body))
    scene = reopened(scene, credit=1, retention=Retention(count=2))
    scene.topics("a")
    scene.feed()
    first = scene.publish(("a", b"4"))
    scene.publish(("a", b"5"))
    scene.publish(("a", b"6"))
    scene.advance(1.0)
    assert scene.b.core.history.epochs.clamp(EPOCH, 1) is None
    scene.grant(100)
    held = [(block.epoch, offset) for block in scene.blocks() for offset in block.offsets]
    assert held == [(EPOCH, 2), (EPOCH, 3), *[(EPOCH2, first + at) for at in range(3)]]


def test_offsets_that_were_used_again_and_have_gone_are_a_hole_from_where_they_began_anew():
    scene = Durable(epoch=EPOCH2, retention=Retention(count=1))
    for body in (b"1", b"2", b"3", b"4"):
        scene.publish(("a", body))
    scene.advance(1.0)
    scene.topics("a")
    scene.feed(after=2, epoch=EPOCH)  # of a journal that was cut to nothing
    assert scene.said(talk.Begun) == [talk.Begun(1, EPOCH2, 0)]
    assert scene.said(talk.Hole) == [talk.Hole(1, EPOCH2, 1, 3, ["a"])]
    assert scene.fed() == [(4, "a", b"4")]


@pytest.mark.parametrize("on_slow", ["disconnect", "recover"])
def test_of_two_groups_that_end_together_the_second_does_not_come_after_the_user_was_too_slow(on_slow):
    plane = Plane(topics=("a", "b", "c"), on_slow=on_slow, limits=Limits(queued_messages=2))
    site = plane.add("pub")
    plane.taking = False
    plane.drop = lambda frame: frame[:1] == b"b"
    plane.publish(site, "a", "b", "a")
    plane.publish(site, "a")
    plane.take()
    if on_slow == "disconnect":
        assert plane.offsets == [1, 2, 3]
        assert [each.first for each in plane.lost] == [4]
        assert plane.took[-1].error is not None
    else:
        assert not plane.core.held_messages
        plane.taking = True
        plane.flow()
        assert plane.offsets == [1, 2, 3, 4]


def test_a_hole_that_an_earlier_opening_began_names_no_topics_for_it_does_not_know_all():
    keeps_one: dict[str, Any] = {"retention": Retention(count=1)}
    scene = Durable(**keeps_one)
    scene.publish(("a", b"1"))
    scene.publish(("b", b"2"))
    scene.advance(1.0)
    scene = reopened(scene, **keeps_one)
    gone = scene.b.core.history.gone
    scene.publish(("b", b"3"))
    scene.advance(1.0)
    assert scene.b.core.history.gone > gone == 1, "of a something went in the first opening, of b in the second"
    scene.topics("a", "b")
    scene.feed(after=0)
    (hole,) = scene.said(talk.Hole)
    assert hole.topics == [], "b alone would say that nothing of a is gone"


def test_the_frames_of_two_openings_bear_different_names_even_if_the_same_bytes_were_drawn():
    fresh = b"8 bytes!"
    assert len(stream_name(fresh, EPOCH)) == 8
    assert stream_name(fresh, EPOCH) != stream_name(fresh, EPOCH2)
    assert stream_name(fresh, EPOCH) != stream_name(b"others!!", EPOCH)


def test_last_values_come_first_also_where_too_much_is_published_until_they_can_be_asked_for():
    plane = Plane(topics=("a", "b"), limits=Limits(queued_messages=2))
    site = plane.add("pub", last_value=True)
    plane.publish(site, "a")
    site.blocked = True
    plane.took.clear()
    plane.restart_subscriber()
    plane.flow()
    sent = plane.publish(site, "b", "b", "b")
    assert plane.happened(FellBehind)
    site.blocked = False
    plane.connect(site)
    plane.flow()
    assert plane.offsets == [1, *sent]


def test_what_comes_does_not_wait_for_last_values_that_nobody_can_tell():
    plane = Plane(topics=("a",), unreachable=1.0)
    site = plane.add("pub", last_value=True)
    site.blocked = True
    plane.restart_subscriber()
    plane.flow()
    plane.cut(site, "data")
    plane.advance(2.0)
    plane.connect(site)
    plane.flow()
    assert plane.publish(site, "a") == plane.offsets


def test_last_values_that_are_asked_for_after_a_power_failure_do_not_stand_for_what_was_published_since():
    plane = Plane(topics=("a",))
    site = plane.add("pub", journal=True, last_value=True)
    plane.publish(site, "a", "a")
    site.blocked = True
    plane.took.clear()
    plane.restart_subscriber()
    plane.flow()
    plane.kill(site)
    assert site.rows is not None
    site.rows.clear()
    plane.start(site)
    again = plane.post(site, "a", "a")
    plane.turn()
    site.blocked = False
    plane.connect(site)
    plane.flow()
    assert plane.offsets == again == [1, 2]


@pytest.mark.parametrize("asks", [False, True])
def test_what_comes_while_a_publisher_seems_to_be_an_earlier_opening_costs_no_credit(asks):
    plane = Plane(topics=("a",), start="earliest", credit=4)
    site = plane.add("pub", journal=True)
    assert site.core is not None
    before = site.core.settings
    plane.restart(site)
    plane.flow()
    plane.cut(site, "data")
    sent = plane.post(site, *"a" * 10)
    plane.connect(site)
    while not any(len(frames) > 1 for frames in site.ways["down"]):
        assert any(plane.step(site, way) for way in ("subs", "data", "up"))
    # A fence of the opening before, which lay in another connection, overtakes what was asked for.
    private = plane.core._links[site.data].private
    port = site.recovery.rpartition(":")[2]
    late = wire.Fence(private, before.stream, before.publisher, before.epoch, before.publisher, 0, f":{port}")
    plane.core.receive_message(("d", site.data), [late.pack()], plane.now)
    plane.flow()
    if asks:
        plane.advance(3.0)  # the session of the present opening has no stream: another fence is asked for
    else:
        plane.cut(site, "data")
        plane.connect(site)
        plane.flow()
    assert plane.offsets == sent


def test_a_subscriber_that_stood_still_tries_to_reach_its_publisher_before_it_gives_up_what_is_missing():
    plane = Plane(topics=("a",), unreachable=100.0)
    site = plane.add("pub")
    site.blocked = True
    plane.cut(site, "recovery")
    plane.advance(50.0)
    assert plane.happened(PeerLost)
    plane.cut(site, "data")
    sent = plane.post(site, "a", "a")
    plane.connect(site)
    plane.flow()
    plane.now += 200.0
    plane.core.handle_timer(plane.now)
    site.blocked = False
    plane.connect(site)
    plane.flow()
    assert plane.offsets == sent
    assert not plane.lost


def test_last_values_of_a_publisher_that_is_met_while_the_user_is_slow_come_before_what_follows_them():
    plane = Plane(topics=("a", "b"), limits=Limits(queued_messages=2))
    one, two = plane.add("one", 7000), plane.add("two", 7010, last_value=True)
    plane.publish(two, "a")
    plane.took.clear()
    plane.taking = False
    plane.restart_subscriber()
    while any(plane.step(one, way) for way in one.ways):
        pass
    plane.post(one, "a", "b", "a")
    plane.turn()
    while any(plane.step(one, way) for way in one.ways):
        pass
    assert plane.happened(FellBehind)
    plane.flow()
    plane.taking = True
    plane.flow()
    later = plane.publish(two, "b")
    assert two.core is not None
    ident = two.core.settings.publisher
    assert [each.offset for each in plane.took if each.publisher == ident] == [1, *later]


@pytest.mark.parametrize("breaks", [False, True])
def test_what_goes_between_the_first_fence_and_the_first_feed_is_handed_on_or_told(breaks):
    plane = Plane(topics=("a",), start="earliest")
    site = plane.add("pub", history=1)
    site.blocked = True
    plane.restart_subscriber()
    plane.flow()
    sent = plane.publish(site, "a", "a", "a")
    if breaks:
        plane.cut(site, "data")
    site.blocked = False
    plane.connect(site)
    plane.flow()
    assert plane.offsets == (sent[-1:] if breaks else sent)
    assert [(each.first, each.last) for each in plane.lost] == ([(1, 2)] if breaks else [])


def test_a_comparison_of_the_newest_part_hides_nothing_that_is_missing_before_it(monkeypatch):
    plane = Plane(topics=("a", "b"))
    site = plane.add("pub")
    assert site.core is not None
    history = site.core.history
    counted = history.counted
    monkeypatch.setattr(history, "counted", lambda *span: counted(*span) if span[1] >= 64 else None)
    plane.drop = lambda frame: frame[:2] == b"db"
    plane.publish(site, "a")
    (lost,) = plane.publish(site, "b")
    plane.drop = lambda frame: False
    for _ in range(200):
        plane.publish(site, "a")
    plane.advance(40.0)
    assert site.core.counters["checks"] > 1
    last = plane.publish(site, "b")
    assert plane.offsets[-2:] == [lost, *last]


def test_what_was_published_since_an_opening_that_refused_at_first_can_be_compared():
    held = History(0, 0, Retention())
    held.begin(1, EPOCH)
    held.add(merge([Pack("raw", 1, ["a"], None, [1], b"x")], 5, 0))
    assert held.counted(Filter(["a"]), 0, 5) == (1, 5)


def test_a_refusal_of_the_cursor_that_comes_before_the_fence_is_heard():
    plane = Plane(topics=("a",), durable=True, cursor=True, start="resume")
    site = plane.add("pub", journal=True)
    plane.kill(site)
    plane.start(site)
    core: Any = site.core
    opened = core.opened
    refused: list[Any] = []

    def refuse(session: Any, now: float) -> None:
        opened(session, now)
        if not refused:
            core.sessions.send(session, talk.Refused("cursor in use", "by somebody").pack(), 0, now)
        refused.append(session)

    core.opened = refuse
    plane._dial(site)  # the data connection, and the fence with it, comes later
    plane.flow()
    plane.advance(30.0)
    assert len(refused) > 1, "it asked again, in a new session"
    plane.connect(site)
    assert plane.publish(site, "a") == plane.offsets
