"""A subscriber that asks for too much, or for what is not its own: refused, bounded, told; another one is served."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pubsub.listening import DATA, EPOCH, TOKEN, Scene
from zmqkit.events import BadFrame, SubscriberSlow, SubscriptionsRefused
from zmqkit.options import Limits
from zmqkit.patterns.pubsub import audience, coverage, cursors, talk, wire
from zmqkit.patterns.pubsub.talk import Checked, Done, Refused
from zmqkit.patterns.pubsub.topics import private_topic, wire_topic

ENDLESS = (1 << 63) - 1


class Beside(Scene):
    """A scene with an honest subscriber beside the bad one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.honest = self.second({})
        self.honest.core.say(talk.Topics(True, ["fair"], [], True), self.now)
        self.honest.core.say(talk.Feed(1, "", "", self.next - 1, None, "earliest"), self.now)
        self.flow_second(self.honest)
        self.sent: list[int] = []

    def go_on(self) -> None:
        """The honest one gets what is published to its topic."""
        self.sent.append(self.publish(("fair", b"f"), ("other", b"o")))
        self.flow_second(self.honest)
        blocks = [each for each in self.honest.core.got if isinstance(each, talk.Block)]
        assert [offset for each in blocks for offset in each.offsets] == self.sent

    def told(self, kind: type[Any]) -> list[Any]:
        return [each for each in self.b.events if isinstance(each, kind)]


# ---- subscriptions -----------------------------------------------------------------


def test_subscriptions_of_too_many_bytes_end_with_their_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audience, "MAX_SUBSCRIBED_BYTES", 10_000)
    scene = Beside()
    scene.topics("a")
    scene.join()
    for at in range(50):
        scene.subscribe(wire_topic(f"{at:0250}"))
    assert scene.disconnects == [(*DATA, TOKEN)]
    assert scene.b.core.counters["subscriptions_refused"] == 1
    (event,) = scene.told(SubscriptionsRefused)
    assert (event.peer, event.subscriber) == ("b", "c")
    scene.go_on()


def test_who_takes_subscriptions_back_may_change_them_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audience, "MAX_SUBSCRIBED_BYTES", 1_000)
    monkeypatch.setattr(audience, "MAX_SUBSCRIPTIONS", 5)
    scene = Beside()
    for at in range(100):
        scene.subscribe(wire_topic(f"t{at}"))
        scene.subscribe(wire_topic(f"t{at}"), on=False)
    assert scene.disconnects == []
    scene.go_on()


def test_subscriptions_of_many_words_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "MAX_SHORTER", 500)
    scene = Beside()
    for at in range(300):
        scene.subscribe(b"d" + b".".join(b"%d" % (at * 7 + word) for word in range(40)))
        scene.subscribe(b"d" + b"." * 1000 + b"%d" % at)
    assert len(scene.b.core.coverage._longer) <= 500 + coverage.MAX_WORDS
    scene.go_on()


def test_topics_share_a_frame_for_eight_words_at_most() -> None:
    many = [".".join(["w"] * 20 + [last]) for last in "xy"]
    assert coverage.in_common(many) == "w." * coverage.MAX_WORDS


def test_more_subscriptions_than_are_known_only_cost_the_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "MAX_PREFIXES", 10)
    scene = Beside()
    for at in range(20):
        scene.subscribe(wire_topic(f"t{at}"))
    scene.publish(("p.x", b"1"), ("p.y", b"2"))
    assert [type(each) for each in scene.read()] == [wire.Data, wire.Data, wire.Beat]
    scene.sent.clear()
    scene.go_on()


@pytest.mark.parametrize("hint", ["tcp://10.0.0.1:22", "ipc:///var/run/x", ":0", ":99999", "nonsense"])
def test_a_hint_sends_no_publisher_to_another_host(hint: str) -> None:
    scene = Scene(bound=False)
    scene.subscribe(private_topic(wire.private_name(b"i" * 16, 1, hint)))
    assert scene.dials == []
    assert [type(each) for each in scene.read()] == [wire.Fence]
    (event,) = [each for each in scene.b.events if isinstance(each, BadFrame)]
    assert "no address there" in event.reason


# ---- topics ------------------------------------------------------------------------


def test_topics_that_are_never_done_are_refused_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audience, "MAX_TOPICS", 100)
    scene = Beside()
    for _ in range(150):
        scene.say(talk.Topics(False, [], [], False))
        scene.say(talk.Topics(False, ["x"], [], False))
    (member,) = [each for each in scene.b.core.audience.members.values() if not each.settled]
    assert len(member._changes) <= 200
    assert scene.said(Refused)[0].code == "too many topics"
    assert len(scene.told(SubscriptionsRefused)) == 2
    scene.go_on()


@pytest.mark.parametrize("bound", ["MAX_TOPICS", "MAX_TOPICS_BYTES", "MAX_WORDS"])
def test_too_many_patterns_are_refused_and_told(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(audience, bound, 1_000)
    scene = Beside()
    for at in range(0, 2_000, 500):
        scene.say(talk.Topics(False, [f"*.t{at + each}.x" for each in range(500)], [], True))
    refused = scene.said(Refused)
    assert refused
    assert {each.code for each in refused} == {"too many topics"}
    assert {each.subscriber for each in scene.told(SubscriptionsRefused)} == {"c"}
    (_, bad) = sorted(scene.b.core.audience.members.values(), key=lambda each: len(each.filter))
    assert len(bad.filter) <= 1_000
    scene.go_on()


def test_patterns_that_are_taken_back_count_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audience, "MAX_TOPICS_BYTES", 200)
    monkeypatch.setattr(audience, "MAX_WORDS", 20)
    scene = Beside()
    for at in range(100):
        scene.say(talk.Topics(False, [f"a.*.{at}"], [f"a.*.{at - 1}"], True))
    scene.topics("fair")
    assert scene.said(Refused) == []
    scene.go_on()


def test_history_gives_only_what_the_session_subscribes() -> None:
    scene = Beside(last_value=True)
    scene.publish(("secret", b"s"), ("open", b"o"))
    scene.sent.clear()
    scene.feed(1, kind="earliest", until=None)
    scene.say(talk.Values(2, 99))
    scene.say(talk.Check(3, 0, 2, 1, 1))
    assert (scene.fed(1), scene.fed(2)) == ([], [])
    assert scene.said(Checked) == [Checked(3, talk.UNKNOWN)], "who has told no topics is told nothing"
    scene.topics("open")
    scene.feed(4, kind="earliest", until=2)
    assert scene.fed(4) == [(2, "open", b"o")]


# ---- feeds, checks, cursors --------------------------------------------------------


@pytest.mark.parametrize("kind", ["after", "earliest", "time"])
def test_a_recovery_request_for_2_to_the_63_messages_ends_where_history_ends(kind: str) -> None:
    scene = Beside()
    scene.go_on()
    scene.topics("other")
    scene.feed(1, kind=kind, until=ENDLESS)
    assert scene.said(Done) == [Done(1, EPOCH, 2)]
    assert [offset for offset, *_ in scene.fed(1)] == [2]
    scene.go_on()


@pytest.mark.parametrize(("after", "up_to"), [(0, ENDLESS), (ENDLESS - 1, ENDLESS), (0, 200_000)])
def test_a_check_over_an_absurd_range_cannot_be_told(after: int, up_to: int) -> None:
    scene = Beside()
    scene.go_on()
    scene.topics("other")
    scene.say(talk.Check(1, after, up_to, 0, 0))
    (answer,) = scene.said(Checked)
    assert answer.verdict in ((talk.UNKNOWN,) if up_to - after > 100_000 else (talk.UNKNOWN, talk.RIGHT))
    scene.go_on()


def test_checks_that_come_too_fast_are_not_worked_on() -> None:
    scene = Beside()
    scene.go_on()
    scene.topics("other")
    scene.say(*[talk.Check(at, 0, 2, 1, 2) for at in range(1, 101)])
    verdicts = [each.verdict for each in scene.said(Checked)]
    assert (verdicts.count(talk.RIGHT), verdicts.count(talk.UNKNOWN)) == (1, 99)
    scene.go_on()


def test_more_cursors_than_may_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursors, "MAX_CURSORS", 1)
    scene = Scene(about={"cursor": "one"})
    other = scene.second({"cursor": "two"})
    scene.flow_second(other)
    (refused,) = [each for each in other.core.got if isinstance(each, Refused)]
    assert (refused.code, "1 cursors" in refused.text) == ("no cursor", True)
    assert scene.b.core.counters["cursors_refused"] == 1


@pytest.mark.parametrize("name", [3, b"x", ["x"], "x" * 201, {}])
def test_a_cursor_whose_name_cannot_be_one_is_held_by_nobody(name: object) -> None:
    scene = Beside(about={"cursor": name})
    scene.go_on()
    scene.say(talk.Commit(EPOCH, 1, 1))
    assert scene.said(Refused)[-1].code == "no cursor"
    scene.go_on()


def test_one_feed_number_for_two_feeds_is_a_bad_frame() -> None:
    scene = Beside()
    scene.feed(1, kind="earliest", until=None)
    scene.feed(1, kind="earliest", until=None)
    assert scene.b.core.counters["frames_bad"] == 1
    scene.go_on()


# ---- slow ones ---------------------------------------------------------------------


def test_a_subscriber_that_does_not_keep_up_is_told_by_name() -> None:
    scene = Beside(limits=Limits(queued_bytes=100_000))
    scene.topics("a")
    scene.subscribe(wire_topic("a"))
    scene.join()
    scene.say(talk.Joined(1, 0))
    for _ in range(4):
        scene.publish(("a", b"x" * 60_000))
        scene.advance(0.3)
    (event,) = scene.told(SubscriberSlow)
    assert (event.peer, event.subscriber) == ("b", "c")
    assert 1 <= event.behind <= 4
    assert "is too slow" in str(event)
    scene.sent.clear()
    scene.go_on()


def test_a_connection_that_nobody_answers_for_is_told_without_a_name() -> None:
    scene = Beside(limits=Limits(queued_bytes=100_000))
    scene.subscribe(b"d", token=b"silent")
    for _ in range(4):
        scene.publish(("a", b"x" * 60_000))
        scene.advance(0.3)
    assert {each.subscriber for each in scene.told(SubscriberSlow)} == {""}
    assert "answers nothing" in str(scene.told(SubscriberSlow)[0])


def test_a_feed_of_rare_topics_hears_how_far_it_has_come_once_a_heartbeat_interval() -> None:
    scene = Scene()
    scene.topics("rare")
    scene.feed(1, kind="earliest", until=None)
    for _ in range(30):
        scene.publish(("often", b"x"))
    scene.advance(1.1)
    assert scene.said(Done) == [Done(1, EPOCH, 0), Done(1, EPOCH, 30)]
    scene.advance(10.0)
    assert len(scene.said(Done)) == 2, "nothing moved"
    scene.publish(("rare", b"r"))
    scene.advance(10.0)
    assert len(scene.said(Done)) == 2, "it knows by the message"
