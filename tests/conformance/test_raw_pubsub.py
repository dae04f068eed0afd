"""A subscriber and a publisher written from docs/protocol.md alone (pubsub_peer.py) with the real other side."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import zmqkit
from tests.conformance import pubsub_peer as raw
from tests.conformance.peer import pack
from tests.conformance.pubsub_peer import RawPublisher, RawSubscriber
from zmqkit import Heartbeat, MessagesLost

PATIENCE_S = 20.0
QUICK = Heartbeat(interval=0.05, liveness=400)


@pytest.fixture
def pub(tmp_path: Path) -> Iterator[zmqkit.Publisher]:
    with zmqkit.Publisher(
        "tcp://127.0.0.1:*", journal=tmp_path / "j.db", durability="process", last_value=True, heartbeat=QUICK, linger=0
    ) as made:
        yield made


def joined(pub: zmqkit.Publisher, *patterns: str, **more: Any) -> RawSubscriber:
    sub = RawSubscriber(pub.addresses[0], *patterns, **more)
    sub.join()
    return sub


# ---- a raw subscriber -----------------------------------------------------------------------


def test_a_raw_subscriber_joins_and_reads_what_is_published(pub: zmqkit.Publisher) -> None:
    with joined(pub, "a.*", "b.#") as sub:
        # It is there when its JOINED is: a publish before that may, or may not, be waited for.
        sub.until(lambda: not sub.kept)
        pub.wait_for_subscribers(1, topic="a.x", timeout=PATIENCE_S)
        (told,) = pub.subscribers()
        assert (told.instance, told.mode) == (sub.instance.hex(), "live")
        meant = [(topic, n) for n in range(50) for topic in ("a.x", "b", "a.y", "c", "a.x.y", "b.c.d")]
        assert pub.publish_many(meant) == 300
        wanted = [(n, topic, body) for n, (topic, body) in enumerate(meant, 1) if topic not in ("c", "a.x.y")]
        sub.until(lambda: len(sub.live) == len(wanted))
        assert sorted(sub.live) == wanted
        assert sub.gaps == []
        sub.until(lambda: bool(sub.beats) and sub.beats[-1][0] == 300)
        numbers = [number for _, number in sub.beats]
        assert numbers == sorted(set(numbers))
        sub.until(lambda: not sub.kept)
        sub.say_goodbye("done")


def test_frames_of_several_topics_are_read_by_who_subscribes_all(pub: zmqkit.Publisher) -> None:
    with joined(pub, "#") as sub:
        sub.until(lambda: not sub.kept)
        meant = [(f"t.{n % 7}", {"n": n}) for n in range(500)]
        pub.publish_many(meant)
        sub.until(lambda: len(sub.live) == 500)
        assert sub.live == [(n, topic, body) for n, (topic, body) in enumerate(meant, 1)]


def test_a_raw_subscriber_notices_a_gap_and_fills_it_by_a_feed(pub: zmqkit.Publisher) -> None:
    with joined(pub, "a", "b") as sub:
        sub.until(lambda: not sub.kept)
        pub.publish("a", 1)
        sub.until(lambda: len(sub.live) == 1)
        sub.lose = ["a", "b"]
        pub.publish("a", 2)
        pub.publish("b", 3)
        sub.until(lambda: not sub.lose)
        pub.publish("a", 4)
        sub.until(lambda: len(sub.live) == 2)
        assert sub.gaps == [("a", 2, 2)]
        sub.feed(1, "after", 1, 3)
        assert sub.fed[1] == [(2, "a", 2), (3, "b", 3)]
        assert sub.heard_of(raw.BEGUN, 1) == [raw.BEGUN, 1, sub.epoch, 1]
        assert sub.heard_of(raw.DONE, 1) == [raw.DONE, 1, sub.epoch, 3]


def test_a_feed_gives_what_was_published_before_and_goes_on(pub: zmqkit.Publisher) -> None:
    pub.publish_many((f"t.{n % 3}", n) for n in range(1_000))
    with joined(pub, "t.1", credit=(10, 1 << 20), durable=True) as sub:
        sub.begin(1, "earliest")
        sub.until(lambda: sub.heard_of(raw.DONE, 1) is not None)
        assert [body for _, _, body in sub.fed[1]] == list(range(1, 1_000, 3))
        assert sub.heard_of(raw.DONE, 1) == [raw.DONE, 1, sub.epoch, 1_000]
        pub.publish("t.1", "more")
        pub.publish("t.2", "not this")
        pub.publish("t.1", "and more")
        sub.until(lambda: len(sub.fed[1]) == 335)
        assert sub.fed[1][-2:] == [(1_001, "t.1", "more"), (1_003, "t.1", "and more")]
        sub.say(raw.STOP, 1)
        sub.say(raw.TOPICS, False, ["t.2"], ["t.1"], True)
        sub.feed(2, "after", 1_000, 1_003)
        assert sub.fed[2] == [(1_002, "t.2", "not this")]
        assert sub.live == []
    assert pub.stats()["credit_exceeded"] == 0


def test_a_feed_may_begin_at_a_time(pub: zmqkit.Publisher) -> None:
    pub.publish("a", "old")
    with joined(pub, "#") as sub:
        sub.feed(1, "time", 0, 1)
        assert [body for *_, body in sub.fed[1]] == ["old"]
        sub.feed(2, "time", 4_000_000_000_000_000, 1)
        assert sub.fed[2] == []


def test_a_raw_subscriber_asks_whether_that_was_all() -> None:
    with (
        zmqkit.Publisher("tcp://127.0.0.1:*", heartbeat=QUICK, linger=0) as pub,
        joined(pub, "a") as sub,
    ):
        for topic in ("a", "b", "a", "a"):
            pub.publish(topic, 0)
        asks = iter(range(1, 1_000_000))
        deadline = time.monotonic() + PATIENCE_S

        def verdict(count: int, total: int) -> int:
            """What is answered, at last: 2 says that it was asked too often (14.7)."""
            while time.monotonic() < deadline:
                ask = next(asks)
                sub.say(raw.CHECK, ask, 0, 4, count, total)
                sub.until(functools.partial(sub.heard_of, raw.CHECKED, ask))
                if (found := sub.said[-1][2]) != 2:
                    return int(found)
            raise AssertionError("it was never told")

        assert [verdict(3, 8), verdict(2, 8), verdict(3, 7)] == [1, 0, 0]


def test_a_raw_subscriber_gets_the_last_values(pub: zmqkit.Publisher) -> None:
    pub.publish_many((f"t.{n % 3}", n) for n in range(10))
    with joined(pub, "t.0", "t.1") as sub:
        assert sub.other["about"]["last_value"] is True
        sub.fed[1] = []
        sub.say(raw.VALUES, 1, 10)
        sub.until(lambda: sub.heard_of(raw.DONE, 1))
        assert sorted(sub.fed[1]) == [(8, "t.1", 7), (10, "t.0", 9)]


def test_a_raw_subscriber_keeps_a_cursor_and_resumes_there(pub: zmqkit.Publisher) -> None:
    pub.publish_many(("a", n) for n in range(10))
    with joined(pub, "#", cursor="mine", durable=True) as sub:
        sub.feed(1, "resume", 0, 10)
        assert [body for *_, body in sub.fed[1]] == list(range(10))
        sub.say(raw.COMMIT, sub.epoch, 4, 7)
        sub.until(lambda: sub.heard_of(raw.COMMITTED, 7))
        assert sub.heard_of(raw.COMMITTED, 7) == [raw.COMMITTED, 7, ""]
        sub.say_goodbye("done")
        with joined(pub, "#", cursor="mine", durable=True) as again:
            again.feed(1, "resume", 0, 10)
            assert [body for *_, body in again.fed[1]] == list(range(4, 10))


def test_what_history_does_not_hold_is_told_as_a_hole() -> None:
    with zmqkit.Publisher("tcp://127.0.0.1:*", history=5, heartbeat=QUICK, linger=0) as pub:
        for n in range(1, 21):
            pub.publish("a", n)
        with joined(pub, "a") as sub:
            sub.feed(1, "after", 0, 20)
            hole = sub.heard_of(raw.HOLE, 1)
            assert hole is not None
            first, last = hole[3:5]
            assert (first, hole[2]) == (1, sub.epoch)
            assert set(hole[5]) <= {"a"}
            assert [offset for offset, *_ in sub.fed[1]] == list(range(last + 1, 21))
            assert len(sub.fed[1]) >= 5


def test_what_cannot_be_given_is_refused(pub: zmqkit.Publisher) -> None:
    with joined(pub, "#") as sub:
        sub.say(raw.FEED, 1, "0" * 32, "0" * 32, 0, None, "after")
        sub.until(lambda: any(each[0] == raw.REFUSED for each in sub.said))
        refused = next(each for each in sub.said if each[0] == raw.REFUSED)
        assert refused[3] == 1
        assert refused[1]
        for message in ([raw.FEED, 0], [99], [raw.SEEN, 1 << 40]):
            sub.send([pack(message)], 0)
        pub.publish("a", 1)
        sub.feed(2, "earliest", 0, 1)
        assert sub.fed[2] == [(1, "a", 1)]
    assert pub.stats()["frames_bad"] == 3


# ---- a raw publisher ------------------------------------------------------------------------


class Reader:
    """What a real subscriber takes, while the raw publisher lives."""

    def __init__(self, pub: RawPublisher, *patterns: str, **options: Any) -> None:
        self.pub = pub
        self.sub = zmqkit.Subscriber(pub.data_address, topics=patterns or "#", heartbeat=QUICK, **options)
        self.taken: list[zmqkit.Message[Any]] = []
        self.lost: list[MessagesLost] = []

    def __enter__(self) -> Reader:
        self.sub.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self.sub.close()

    def until(self, done: Callable[[], object]) -> None:
        def look() -> bool:
            try:
                message = self.sub.receive(0)
            except MessagesLost as error:
                self.lost.append(error)
            else:
                if message is not None:
                    self.taken.append(message)
            return bool(done())

        self.pub.until(look, PATIENCE_S)

    @property
    def bodies(self) -> list[Any]:
        return [message.body for message in self.taken]


@pytest.fixture
def raw_pub() -> Iterator[RawPublisher]:
    with RawPublisher() as made:
        yield made


def test_a_subscriber_joins_a_raw_publisher_and_reads_it(raw_pub: RawPublisher) -> None:
    with Reader(raw_pub, "a.*", "b.#", "c") as reader:
        reader.until(lambda: raw_pub.joined)
        assert raw_pub.patterns == {"a.*", "b.#", "c"}
        assert {each for each in raw_pub.subscriptions if each[:1] != b"p"} == {
            b"b", b"da.", b"db\0", b"db.", b"dc\0",
        }  # fmt: skip
        (private,) = (each for each in raw_pub.subscriptions if each[:1] == b"p")
        assert re.fullmatch(rb"p[0-9a-f]{32}/\d+/\0", private)
        assert raw_pub.other["role"] == "subscribe"
        raw_pub.publish(("a.x", 1), ("c", 2), ("a.x", 3), ("a.x.y", 4), ("b", 5), ("c", 6))
        raw_pub.publish(("cd", 7))
        raw_pub.publish(("b.c", 8))
        reader.until(lambda: len(reader.taken) == 6)
        assert reader.bodies == [1, 2, 3, 5, 6, 8]
        assert [message.sequence for message in reader.taken] == [1, 2, 3, 5, 6, 8]
        assert {(message.publisher, message.epoch) for message in reader.taken} == {(raw_pub.publisher, raw_pub.epoch)}
        reader.until(lambda: any(each[0] == raw.SEEN for each in raw_pub.said))
        assert [raw.SEEN, 1] in raw_pub.said


def test_a_subscriber_fills_a_gap_of_a_raw_publisher_by_a_feed(raw_pub: RawPublisher) -> None:
    with Reader(raw_pub, "a", "b") as reader:
        reader.until(lambda: raw_pub.joined)
        raw_pub.publish(("a", 1))
        raw_pub.publish(("a", 2), ("b", 3), lost=True)
        raw_pub.publish(("a", 4))
        reader.until(lambda: len(reader.taken) >= 3 and reader.bodies[-1] == 4)
        assert [body for body in reader.bodies if body != 3] == [1, 2, 4]
        assert [message.replayed for message in reader.taken if message.body in (1, 2, 4)] == [False, True, False]
        # Of the other topic only a question tells (14.4).
        reader.until(lambda: 3 in reader.bodies)
        assert reader.lost == []
        assert any(each[0] == raw.FEED for each in raw_pub.said)


def test_a_subscriber_from_the_beginning_reads_history_and_then_what_comes(raw_pub: RawPublisher) -> None:
    for n in range(100):
        raw_pub.publish((f"t.{n % 2}", n))
    with Reader(raw_pub, "t.1", start="earliest", limits=zmqkit.Limits(queued_messages=20)) as reader:
        reader.until(lambda: len(reader.taken) == 50)
        reader.until(lambda: raw_pub.joined)
        raw_pub.publish(("t.1", 101), ("t.0", 102))
        raw_pub.publish(("t.1", 103))
        reader.until(lambda: len(reader.taken) == 52)
        assert reader.bodies == [*range(1, 100, 2), 101, 103]
        assert [message.replayed for message in reader.taken] == [True] * 50 + [False] * 2


def test_a_durable_subscriber_lives_on_the_feed_of_a_raw_publisher_and_commits(raw_pub: RawPublisher) -> None:
    for n in range(1, 6):
        raw_pub.publish(("a", n))
    raw_pub.cursor = (raw_pub.epoch, 2)
    with Reader(raw_pub, "a", cursor="mine") as reader:
        reader.until(lambda: len(reader.taken) == 3)
        raw_pub.publish(("a", 6))
        reader.until(lambda: len(reader.taken) == 4)
        assert reader.bodies == [3, 4, 5, 6]
        assert raw_pub.other["about"] == {"cursor": "mine", "durable": True}
        assert not any(each[:1] == b"d" for each in raw_pub.subscriptions)
        reader.until(lambda: raw_pub.cursor == (raw_pub.epoch, 6))


def test_a_hole_of_a_raw_publisher_is_named(raw_pub: RawPublisher) -> None:
    with Reader(raw_pub, "a") as reader:
        reader.until(lambda: raw_pub.joined)
        raw_pub.publish(("a", 1))
        raw_pub.publish(("a", 2), ("a", 3), lost=True)
        raw_pub.gone = 3
        raw_pub.publish(("a", 4))
        reader.until(lambda: len(reader.taken) == 2)
        assert reader.bodies == [1, 4]
        (lost,) = reader.lost
        assert (lost.publisher, lost.epoch, lost.first, lost.last) == (raw_pub.publisher, raw_pub.epoch, 2, 3)


def test_the_raw_peers_import_nothing_of_ours() -> None:
    source = Path(raw.__file__).read_text()
    assert not re.search(r"^\s*(?:from|import) (?!tests\.conformance\.peer)(?:zmqkit|patterns|tests)", source, re.M)
