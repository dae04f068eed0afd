"""The publisher's core, with a subscriber that does as it is told."""

from __future__ import annotations

from typing import Literal

import pytest

from tests.pubsub.listening import DATA, EPOCH, PUBLISHER, STREAM, TOKEN, Scene, opened, pack, unpacked
from zmqkit.options import Heartbeat, Limits
from zmqkit.patterns.pubsub import talk, wire
from zmqkit.patterns.pubsub.talk import Begun, Checked, Committed, Done, Hole, Leave, Refused
from zmqkit.patterns.pubsub.topics import private_topic, wire_topic

# ---- the data plane --------------------------------------------------------------


def test_neighbours_of_one_topic_share_a_frame_that_says_what_was_before_them():
    scene = Scene()
    scene.publish(("a", b"1"), ("a", b"2"))
    scene.publish(("a", b"3"))
    first, second = scene.read()
    assert (list(first.offsets), first.previous, first.group_last, first.blob) == ([1, 2], 0, 2, b"12")
    assert (list(second.offsets), second.previous, second.group_last, second.stream) == ([3], 2, 3, STREAM)


def test_several_topics_of_a_turn_are_one_group_that_a_beat_ends():
    scene = Scene()
    scene.subscribe(wire_topic("a"))
    scene.publish(("a", b"1"), ("b", b"2"), ("a", b"3"), headers={2: {"k": "v"}})
    a, b, beat = scene.read()
    assert (a.topic, list(a.offsets), a.previous, a.group_last, a.headers) == ("a", [1, 3], 0, 3, {1: {"k": "v"}})
    assert (b.topic, list(b.offsets), b.previous, b.group_last) == ("b", [2], 0, 3)
    assert (beat.stream, beat.offset, beat.number) == (STREAM, 3, 1)


def test_several_topics_share_a_frame_where_all_subscribe_all_of_them():
    scene = Scene()
    scene.subscribe(b"dprices.")
    scene.publish(("prices.x", b"1"), ("prices.y", b"2"))
    (mixed,) = scene.read()
    assert isinstance(mixed, wire.Mixed)
    assert unpacked([mixed]) == [(1, "prices.x", b"1"), (2, "prices.y", b"2")]
    scene.subscribe(wire_topic("prices.x"))
    scene.publish(("prices.x", b"3"), ("prices.y", b"4"))
    assert [type(each) for each in scene.read()[1:]] == [wire.Data, wire.Data, wire.Beat]


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_large_group_is_split_in_the_order_of_first_offsets(size):
    scene = Scene()
    scene.subscribe(wire_topic("a"))
    many = [("a" if at % 3 else "b", bytes([at % 256]) * size) for at in range(40)]
    scene.publish(*many)
    frames = [each for each in scene.read() if isinstance(each, wire.Data)]
    assert unpacked(frames) == [(at + 1, topic, body) for at, (topic, body) in enumerate(many)]
    firsts = [each.offsets[0] for each in frames]
    assert firsts == sorted(firsts)
    assert all(len(each.blob) <= max(wire.FRAME_BYTES, size) for each in frames)
    for topic in "ab":
        last = 0
        for each in (each for each in frames if each.topic == topic):
            assert each.previous == last
            last = each.offsets[-1]


def test_a_fence_answers_a_private_subscription_at_once_and_tells_where_recovery_is():
    scene = Scene()
    scene.publish(("a", b"1"))
    private = scene.join()
    fence = scene.read()[-1]
    assert fence == wire.Fence(private, STREAM, PUBLISHER, EPOCH, scene.b.core.local.instance.hex(), 1, ":5557")


def test_a_fence_waits_until_it_is_known_where_recovery_is():
    scene = Scene()
    scene.b.core._told = None
    scene.join()
    assert scene.read() == []
    scene.call(scene.b, "recovery_at", {DATA[1]: ":1"})
    assert [each.recovery for each in scene.read()] == [":1"]


def test_a_publisher_that_connected_connects_to_the_recovery_channel_too():
    scene = Scene(bound=False)
    private = wire.private_name(b"i" * 16, 1, ":7001")
    scene.subscribe(private_topic(private))
    assert scene.dials == [("tcp://127.0.0.1:7001", True)]
    assert scene.read()[-1].recovery == ""
    scene.subscribe(private_topic(wire.private_name(b"i" * 16, 2, "inproc://elsewhere")))
    assert len(scene.dials) == 1, "a stranger's word for another kind of address is not followed"
    scene.b.core.link_forgotten(DATA, scene.now)
    scene.flow()
    assert scene.dials[-1] == ("tcp://127.0.0.1:7001", False)


def test_over_a_connection_that_it_made_nothing_goes_before_the_first_fence():
    scene = Scene(bound=False)
    private = private_topic(wire.private_name(b"i" * 16, 1, ":7001"))
    for life in range(2):
        scene.subscribe(wire_topic("a"))
        scene.publish(("a", b"missed"))
        scene.advance(2.0)
        assert scene.read() == [], "whoever binds may take it for what comes over the connection before"
        scene.subscribe(private)
        scene.publish(("a", b"whole"))
        fence, data = scene.read()
        assert (fence.offset, list(data.offsets), data.previous) == (2 * life + 1, [2 * life + 2], 2 * life + 1)
        scene.b.core.link_down(DATA, scene.now)
        scene.b.core.link_up(DATA, scene.now)
        scene.frames.clear()


def test_a_beat_follows_what_was_published_soon_and_once():
    scene = Scene()
    scene.publish(("a", b"1"))
    assert len(scene.frames) == 1
    scene.advance(0.3)
    assert [type(each) for each in scene.read()] == [wire.Data, wire.Beat]
    scene.advance(2.0)
    beats = [each for each in scene.read() if isinstance(each, wire.Beat)]
    assert 2 <= len(beats) <= 4
    assert {each.offset for each in beats} == {1}


def test_what_is_sent_plain_is_topic_and_body():
    scene = Scene(plain=True)
    scene.b.core.publish([pack(("a", b"1"), ("b", b"2"))], 1, None, scene.now)
    scene.b.core.end_turn(scene.now)
    sent = [list(frames) for link, frames in scene.b.core.out.sends if link == DATA]
    assert sent == [[b"a", b"1"], [b"b", b"2"]]
    scene.join()
    assert scene.b.core.counters["fences"] == 0


# ---- feeds -----------------------------------------------------------------------


def test_a_feed_gives_what_was_published_to_its_topics_and_then_says_so():
    scene = Scene()
    for at in range(6):
        scene.publish(("a" if at % 2 else "b.c", b"%d" % at))
    scene.topics("b.#")
    scene.feed(after=1, until=6)
    assert scene.got[0] == Begun(1, EPOCH, 1)
    assert scene.fed() == [(3, "b.c", b"2"), (5, "b.c", b"4")]
    assert scene.got[-1] == Done(1, EPOCH, 6)


def test_an_open_feed_goes_on_with_what_is_published():
    scene = Scene()
    scene.topics("a")
    scene.feed(kind="earliest", until=None)
    assert scene.said(Done) == [Done(1, EPOCH, 0)]
    scene.publish(("a", b"1"), ("b", b"2"))
    scene.publish(("a", b"3"))
    assert scene.fed() == [(1, "a", b"1"), (3, "a", b"3")]
    assert len(scene.said(Done)) == 1
    scene.say(talk.Stop(1))
    scene.publish(("a", b"4"))
    assert len(scene.fed()) == 2


def test_a_feed_keeps_to_its_credit():
    scene = Scene(credit=0)
    scene.publish(*[("a", b"x")] * 20)
    scene.topics("a")
    scene.feed(kind="earliest", until=20)
    assert scene.fed() == []
    scene.grant(7)
    assert len(scene.fed()) == 7
    scene.grant(100)
    assert [offset for offset, *_ in scene.fed()] == list(range(1, 21))


def test_a_hole_is_told_only_where_a_message_of_the_topics_is_gone():
    scene = Scene(history=3)
    scene.publish(("b", b"0"))
    for _ in range(9):
        scene.publish(("a", b"x"))
    scene.topics("a")
    scene.feed(1, after=0, until=10)
    assert scene.said(Hole) == [Hole(1, EPOCH, 1, 7, ["a"])]
    assert [offset for offset, *_ in scene.fed(1)] == [8, 9, 10]
    scene.topics("b")
    scene.feed(2, after=1, until=10)
    assert len(scene.said(Hole)) == 1
    scene.topics("c", "b")
    scene.feed(3, after=0, until=10)
    assert scene.said(Hole)[1:] == [Hole(3, EPOCH, 1, 7, ["b"])]
    counters = scene.b.core.counters
    assert (counters["holes_told"], counters["fed"], counters["published"]) == (2, 3, 10)


def test_a_position_of_another_publisher_is_refused():
    scene = Scene()
    scene.topics("a")
    scene.say(talk.Feed(4, "b2" * 16, EPOCH, 0, None, "after"))
    (refused,) = scene.said(Refused)
    assert (refused.code, refused.feed) == ("publisher", 4)


def test_a_request_for_more_than_there_is_ends_where_there_is_no_more():
    scene = Scene()
    scene.publish(("a", b"1"))
    scene.topics("a")
    scene.feed(1, after=0, until=(1 << 63) - 1)
    assert scene.said(Done) == [Done(1, EPOCH, 1)]
    scene.feed(2, after=(1 << 63) - 1, until=None)
    assert scene.said(Begun)[-1] == Begun(2, EPOCH, 1)


def test_too_many_feeds_are_refused():
    scene = Scene()
    for number in range(1, 10):
        scene.feed(number, kind="earliest", until=None)
    (refused,) = scene.said(Refused)
    assert (refused.code, refused.feed) == ("too many feeds", 9)


def test_headers_and_times_of_single_messages_survive_a_feed():
    scene = Scene()
    scene.publish(("a", b"1"))
    scene.publish(("a", b"2"), headers={0: {"k": "v"}})
    scene.topics("#")
    scene.feed(kind="earliest", until=2)
    (block,) = scene.blocks()
    assert block.headers == {1: {"k": "v"}}
    assert (block.sent_at, block.later) == (1, [0, 1])


# ---- last values -----------------------------------------------------------------


def test_last_values_are_those_up_to_the_fence():
    scene = Scene(last_value=True)
    scene.publish(("a", b"1"), ("b", b"2"), ("a", b"3"))
    scene.publish(("b", b"4"))
    scene.topics("#")
    scene.say(talk.Values(1, 3))
    assert scene.fed() == [(3, "a", b"3")]
    scene.say(talk.Values(2, 4))
    assert scene.fed(2) == [(3, "a", b"3"), (4, "b", b"4")]
    assert scene.said(Done)[-1] == Done(2, EPOCH, 4)


def test_without_last_values_they_are_refused():
    scene = Scene()
    scene.say(talk.Values(1, 3))
    assert [each.code for each in scene.said(Refused)] == ["no values"]


def test_many_last_values_come_by_and_by_and_wholly():
    scene = Scene(last_value=True, credit=0)
    for first in range(0, 7_000, 500):
        scene.publish(*[(f"t.{at}", b"x") for at in range(first, first + 500)])
    scene.topics("#")
    scene.say(talk.Values(1, scene.next - 1))
    for _ in range(30):
        scene.grant(500)
        scene.advance(0.01)
    assert [topic for _, topic, _ in scene.fed()] == [f"t.{at}" for at in range(7_000)]


# ---- checks ----------------------------------------------------------------------


def test_a_check_tells_whether_that_was_all():
    scene = Scene()
    for at in range(10):
        scene.publish(("a" if at % 2 else "b", b"x"))
    scene.topics("a")
    right = [offset for offset in range(1, 11) if not offset % 2]
    scene.say(talk.Check(1, 0, 10, len(right), sum(right)))
    scene.advance(1.0)
    scene.say(talk.Check(2, 2, 9, 3, 4 + 6 + 8))
    scene.advance(1.0)
    scene.say(talk.Check(3, 0, 10, 4, sum(right[1:])))
    assert scene.said(Checked) == [Checked(1, talk.RIGHT), Checked(2, talk.RIGHT), Checked(3, talk.WRONG)]


def test_a_check_of_what_is_gone_cannot_be_told():
    scene = Scene(history=2)
    scene.publish(*[("a", b"x")] * 5)
    scene.topics("a")
    scene.say(talk.Check(1, 0, 5, 5, 15))
    assert scene.said(Checked) == [Checked(1, talk.UNKNOWN)]


# ---- cursors ---------------------------------------------------------------------


def test_a_cursor_resumes_where_it_was_committed():
    scene = Scene(about={"cursor": "audit"})
    scene.publish(*[("a", b"%d" % at) for at in range(5)])
    scene.topics("a")
    scene.feed(1, kind="resume", until=5)
    assert len(scene.fed(1)) == 5
    scene.say(talk.Commit(EPOCH, 3, 9), talk.Commit(EPOCH, 2, 10))
    assert scene.said(Committed) == [Committed(9), Committed(10)]
    scene.feed(2, kind="resume", until=5)
    assert [offset for offset, *_ in scene.fed(2)] == [4, 5]


def test_a_commit_of_what_was_never_published_moves_nothing():
    scene = Scene(about={"cursor": "audit"})
    scene.publish(("a", b"1"))
    scene.say(talk.Commit(EPOCH, 77, 1), talk.Commit("77" * 16, 1, 2))
    assert [bool(each.trouble) for each in scene.said(Committed)] == [True, True]
    assert scene.b.core.cursors.position("audit") is None


def test_who_holds_no_cursor_commits_nothing():
    scene = Scene()
    scene.say(talk.Commit(EPOCH, 0, 1))
    assert [each.code for each in scene.said(Refused)] == ["no cursor"]


@pytest.mark.parametrize("kind", ["resume", "earliest"])  # a position of its own entitles nobody
def test_a_cursor_that_a_living_subscriber_holds_is_refused_to_another(kind: Literal["resume", "earliest"]):
    scene = Scene(about={"cursor": "audit"})
    scene.publish(("a", b"1"))
    second = scene.second({"cursor": "audit"})
    second.core.say(talk.Feed(1, "", "", 0, None, kind), scene.now)
    scene.flow_second(second)
    assert second.core.got == [], "the one who holds it may be dead: he has his time to show up"
    for _ in range(5):
        scene.advance(1.0)
        scene.flow_second(second)
    assert [(each.code, each.feed) for each in second.core.got] == [("cursor in use", 0), ("cursor in use", 1)]
    scene.say(talk.Commit(EPOCH, 1, 5))
    assert scene.said(Committed) == [Committed(5)]


def test_a_cursor_goes_to_who_waits_for_it_when_its_holder_is_dead():
    scene = Scene(about={"cursor": "audit"})
    scene.publish(("a", b"1"), ("a", b"2"))
    scene.say(talk.Commit(EPOCH, 1, 5))
    second = scene.second({"cursor": "audit"})
    second.core.grant(10)
    second.core.say(talk.Topics(True, ["a"], [], True), scene.now)
    second.core.say(talk.Feed(1, "", "", 0, None, "resume"), scene.now)
    scene.flow_second(second)
    scene.b.core.sessions.goodbye(next(iter(scene.b.core.sessions)), "dead", scene.now)
    scene.b.core.end_turn(scene.now)
    scene.flow_second(second)
    assert [type(each) for each in second.core.got] == [Begun, talk.Block, Done]
    assert list(second.core.got[1].offsets) == [2]


# ---- who listens -----------------------------------------------------------------


def test_subscribers_are_waited_for_until_they_have_joined():
    scene = Scene()
    scene.call(scene.b, "wait_for_subscribers", 1, "a.b", "waits")
    scene.topics("a.*")
    assert "waits" not in scene.b.replies
    scene.say(talk.Joined(1, 0))
    assert scene.b.replies == {"waits": None}
    scene.call(scene.b, "wait_for_subscribers", 1, "c", "other")
    scene.call(scene.b, "forget_subscribers", "other", "forgotten")
    scene.topics("c")
    assert scene.b.replies == {"waits": None, "forgotten": None}


def test_a_publisher_sees_its_subscribers():
    scene = Scene()
    scene.topics("a", "b")
    scene.publish(("a", b"1"))
    scene.feed(kind="earliest", until=None)
    scene.publish(("a", b"2"))
    scene.call(scene.b, "subscribers", "view")
    (view,) = scene.b.replies["view"]
    assert (view.name, view.topics, view.first_topics, view.mode, view.behind) == ("c", 2, ("a", "b"), "feed", 0)


def test_whoever_does_not_keep_up_is_told_to_leave_and_its_connection_is_closed():
    scene = Scene(limits=Limits(queued_bytes=100_000))
    scene.topics("a")
    scene.subscribe(wire_topic("a"))
    scene.join()
    scene.say(talk.Joined(1, 0))
    for _ in range(3):
        scene.publish(("a", b"x" * 60_000))
        scene.advance(0.3)
    assert len(scene.said(Leave)) == 1
    assert scene.disconnects == [(*DATA, TOKEN)]
    scene.call(scene.b, "subscribers", "view")
    assert [each.mode for each in scene.b.replies["view"]] == ["joining"]


def test_whoever_sees_the_beats_stays():
    scene = Scene(limits=Limits(queued_bytes=100_000))
    scene.topics("a")
    scene.subscribe(wire_topic("a"))
    scene.join()
    scene.say(talk.Joined(1, 0))
    for _ in range(5):
        scene.publish(("a", b"x" * 60_000))
        scene.advance(0.3)
        beats = [each for each in scene.read() if isinstance(each, wire.Beat)]
        scene.say(talk.Seen(beats[-1].number))
    assert scene.said(Leave) == []
    assert scene.disconnects == []


def test_a_connection_that_nobody_answers_for_is_closed_in_the_end():
    scene = Scene(limits=Limits(queued_bytes=100_000))
    scene.subscribe(b"d", token=b"silent")
    for _ in range(3):
        scene.publish(("a", b"x" * 60_000))
        scene.advance(0.3)
    assert scene.disconnects == [(*DATA, b"silent")]


def test_a_lost_subscriber_loses_its_data_connection_too():
    scene = Scene()
    scene.topics("a")
    scene.join()
    scene.disconnect()
    scene.c.paused = True
    scene.advance(60.0)
    assert scene.disconnects == [(*DATA, TOKEN)]
    assert not scene.b.core.audience.members


def test_a_flood_of_subscriptions_ends_with_its_connection(monkeypatch):
    monkeypatch.setattr("zmqkit.patterns.pubsub.audience.MAX_SUBSCRIPTIONS", 10)
    scene = Scene()
    for at in range(12):
        scene.subscribe(wire_topic(f"t{at}"))
    assert scene.disconnects == [(*DATA, TOKEN)]
    assert scene.b.core.counters["subscriptions_refused"] == 1


@pytest.mark.parametrize("frame", [b"", b"\2x", b"\1p", b"\1pzz/1/\0", b"\1p" + b"00" * 16 + b"/x/\0"])
def test_bad_subscriptions_are_counted_and_harm_nobody(frame):
    scene = Scene()
    before = scene.b.core.counters["frames_bad"]
    scene.b.core.receive_message(DATA, [frame, b"t"], scene.now)
    assert scene.b.core.counters["frames_bad"] == before + 1
    scene.publish(("a", b"1"))
    assert len(scene.frames) == 1


def test_private_topics_of_nobody_are_forgotten():
    scene = Scene()
    scene.subscribe(private_topic(wire.private_name(b"n" * 16, 1)), token=b"other")
    assert scene.b.core.audience.has_private
    scene.advance(4 * Heartbeat().bound + 1)
    assert not scene.b.core.audience.has_private


# ---- the end ---------------------------------------------------------------------


def test_what_was_published_is_sent_before_goodbye_is_said():
    scene = Scene()
    scene.b.core.publish([pack(("a", b"1"))], 1, "t", scene.now)
    scene.b.core.close(scene.now)
    scene.turn()
    assert [type(each) for each in scene.read()] == [wire.Data, wire.Beat]
    assert scene.b.core.finished
    assert scene.b.replies == {"t": None}


def test_drained_is_said_when_all_was_got():
    scene = Scene()
    scene.topics("a")
    scene.join()
    scene.say(talk.Joined(1, 0))
    scene.publish(("a", b"1"))
    scene.call(scene.b, "wait_drained", "drained")
    scene.advance(1.0)
    assert "drained" not in scene.b.replies
    beats = [each for each in scene.read() if isinstance(each, wire.Beat)]
    scene.say(talk.Seen(beats[-1].number))
    assert "drained" in scene.b.replies


def test_a_seen_beat_that_was_never_sent_is_a_bad_frame():
    scene = Scene()
    scene.say(talk.Seen(99))
    assert scene.b.core.counters["frames_bad"] == 1


def test_blocks_keep_to_their_size():
    count = 2_000
    scene = Scene(history=count)
    for first in range(0, count, 500):
        scene.publish(*[(f"t{at % 7}", b"%d" % at) for at in range(first, first + 500)])
    scene.topics("#")
    scene.feed(kind="earliest", until=count)
    blocks = scene.blocks()
    assert max(len(each.lengths) for each in blocks) <= talk.BLOCK_MESSAGES
    assert [offset for block in blocks for offset, *_ in opened(block)] == list(range(1, count + 1))
