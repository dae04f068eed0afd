"""Publishers and subscribers with ``plain=True`` beside plain pyzmq sockets (docs/protocol.md, section 14.8)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest
import zmq

import zmqkit
from tests.pubsub.faces import PATIENCE_S, Face, bare, bodies, listen, take, there
from zmqkit import Limits, MessagesLost, Retention, WaitTimeout, aio, events
from zmqkit.errors import UsageError

PATIENCE_MS = int(PATIENCE_S * 1000)


class Plain:
    """Plain sockets of one context."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self._all: list[zmq.Socket[bytes]] = []

    def sub(self, address: str, *prefixes: bytes, bind: bool = False, hwm: int | None = None) -> zmq.Socket[bytes]:
        made = self.made(zmq.SUB)
        if hwm is not None:
            made.setsockopt(zmq.RCVHWM, hwm)
        (made.bind if bind else made.connect)(address)
        for each in prefixes:
            made.setsockopt(zmq.SUBSCRIBE, each)
        return made

    def pub(self, address: str = "tcp://127.0.0.1:*") -> tuple[zmq.Socket[bytes], str]:
        """An XPUB, which is a PUB that hears who subscribed."""
        made = self.made(zmq.XPUB)
        made.setsockopt(zmq.SNDHWM, 0)
        made.setsockopt(zmq.XPUB_VERBOSE, 1)
        made.bind(address)
        return made, made.getsockopt_string(zmq.LAST_ENDPOINT)

    def close(self) -> None:
        for each in self._all:
            each.close(0)
        self.context.term()

    def made(self, kind: int) -> zmq.Socket[bytes]:
        made = self.context.socket(kind)
        self._all.append(made)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        made.setsockopt(zmq.SNDTIMEO, PATIENCE_MS)
        return made


@pytest.fixture
def plain() -> Iterator[Plain]:
    made = Plain()
    yield made
    made.close()


# ---- a plain SUB reads us --------------------------------------------------------------------


async def test_a_plain_sub_reads_topic_and_body_one_message_each(face: Face, plain: Plain) -> None:
    async with face.Publisher(plain=True) as pub:
        sub = plain.sub(pub.addresses[0], b"")
        await there(pub)
        assert await pub.publish("a.b", {"n": 1}) == 1
        assert await pub.publish("c", b"raw") == 2
        assert await pub.publish_many((f"t.{n % 3}", n) for n in range(1_000)) == 1_000
        assert sub.recv_multipart() == [b"a.b", msgpack.packb({"n": 1})]
        assert sub.recv_multipart()[0] == b"c"
        found = [sub.recv_multipart() for _ in range(1_000)]
    assert found == [[b"t.%d" % (n % 3), msgpack.packb(n)] for n in range(1_000)]


async def test_a_plain_sub_reads_the_encoding_that_the_publisher_was_told(face: Face, plain: Plain) -> None:
    async with face.Publisher(plain=True, codec="json") as pub:
        sub = plain.sub(pub.addresses[0], b"")
        await there(pub)
        await pub.publish("a", {"n": [1, "ä"]})
        topic, body = sub.recv_multipart()
    assert (topic, json.loads(body)) == (b"a", {"n": [1, "ä"]})


async def test_subscriptions_of_plain_subs_are_prefixes(face: Face, plain: Plain) -> None:
    async with face.Publisher(plain=True) as pub:
        sub = plain.sub(pub.addresses[0], b"data", b"x.")
        await there(pub, topic="x.y")
        for topic in ("data", "data-secret", "other", "x", "x.y", "dat", "end", "data.end"):
            await pub.publish(topic, 0)
        found = [sub.recv_multipart()[0] for _ in range(4)]
    assert found == [b"data", b"data-secret", b"x.y", b"data.end"]


async def test_nothing_but_messages_is_sent_to_plain_subs(face: Face, plain: Plain) -> None:
    async with face.Publisher(plain=True, heartbeat=zmqkit.Heartbeat(interval=0.02)) as pub:
        everything = plain.sub(pub.addresses[0], b"")
        private = b"p" + uuid.uuid4().hex.encode() + b"/1/\0"
        sly = plain.sub(pub.addresses[0], b"b", private)
        await there(pub, 2)
        for n in range(20):
            await pub.publish("a", n)
            assert everything.recv_multipart() == [b"a", msgpack.packb(n)]
        await pub.publish("b", "end")
        assert sly.recv_multipart() == [b"b", msgpack.packb("end")]
    assert pub.stats()["fences"] == pub.stats()["beats"] == 0


async def test_a_plain_publisher_may_connect_to_a_plain_sub_that_binds(face: Face, plain: Plain) -> None:
    sub = plain.sub("tcp://127.0.0.1:*", b"a", bind=True)
    async with face.Publisher(connect=sub.getsockopt_string(zmq.LAST_ENDPOINT), plain=True) as pub:
        # A SUB that binds lets publishers in while it reads.
        await face.until(lambda: not sub.poll(0) and _wanted(pub, "a") == 1, "it did not come")
        await pub.publish("b", 0)
        await pub.publish("a", 1)
        assert sub.recv_multipart() == [b"a", msgpack.packb(1)]


# ---- waiting for plain subs ------------------------------------------------------------------


async def test_connections_that_subscribed_what_a_topic_begins_with_are_waited_for(face: Face, plain: Plain) -> None:
    async with face.Publisher(plain=True) as pub:
        address = pub.addresses[0]
        plain.sub(address, b"a", b"a", b"a.b", b"x")
        await there(pub, topic="x.y")
        with pytest.raises(WaitTimeout, match=r"2 subscribers to .a\.b\.c. did not come"):
            await pub.wait_for_subscribers(2, topic="a.b.c", timeout=0)
        with pytest.raises(WaitTimeout):
            await pub.wait_for_subscribers(2, timeout=0)
        plain.sub(address, b"")
        await there(pub, 2, topic="a.b.c")
        await there(pub, 2)
        with pytest.raises(WaitTimeout):
            await pub.wait_for_subscribers(3, topic="a.b.c", timeout=0)
        assert await pub.subscribers() == []


async def test_plain_subs_that_left_are_not_counted(face: Face, plain: Plain) -> None:
    async with face.Publisher(plain=True) as pub:
        address = pub.addresses[0]
        leaving = plain.sub(address, b"a", b"b")
        await there(pub, topic="a")
        await there(pub, topic="b")
        staying = plain.sub(address, b"a", b"c")  # later: of those who subscribed the same, the first is taken for gone
        await there(pub, 2, topic="a")
        await there(pub, topic="c")
        leaving.close(0)
        await face.until(lambda: _wanted(pub, "a") == _wanted(pub, None) == 1, "who left is still counted")
        assert _wanted(pub, "b") == 0
        staying.setsockopt(zmq.UNSUBSCRIBE, b"a")
        await face.until(lambda: _wanted(pub, "a") == 0, "who unsubscribed is still counted")
        await there(pub, topic="c")


def _wanted(pub: Any, topic: str | None) -> int:
    found: int = bare(pub)._core.listeners.wanted(topic)
    return found


@pytest.mark.parametrize("scheme", ["inproc", "ipc"])
async def test_plain_subscribers_are_waited_for_over_every_transport(face: Face, folder: str, scheme: str) -> None:
    address = f"inproc://{uuid.uuid4()}" if scheme == "inproc" else f"ipc://{folder}/p"
    async with (
        face.Publisher(address, plain=True) as pub,
        face.Subscriber(pub, topics=["a.*.x", "a.*.y"], plain=True) as one,
        face.Subscriber(pub, topics="a.#", plain=True),
        face.Subscriber(pub, topics=["a.*.z"], plain=True) as other,
    ):
        # Over inproc those who subscribed the same are told apart, and nobody else.
        await there(pub, 2 if scheme == "inproc" else 3, topic="a.b.x")
        await face.until(lambda: len(_subscribed(pub)) == 3)
        await pub.publish("a.b.y", 1)
        await pub.publish("a.b.z", 2)
        assert (await take(one)).body == 1
        assert (await take(other)).body == 2


def _subscribed(pub: Any) -> list[tuple[bytes, Any]]:
    holders = bare(pub)._core.listeners._holders
    return [(prefix, name) for (_, prefix), names in list(holders.items()) for name in list(names)]


# ---- we read a plain PUB ---------------------------------------------------------------------


async def test_wildcards_are_filtered_here_and_prefixes_subscribed_there(face: Face, plain: Plain) -> None:
    pub, address = plain.pub()
    async with face.Subscriber(
        address, topics=["prices.*.gold", "alerts.#", "data", "prices.*.tin"], plain=True
    ) as sub:
        await sub.receive(0)
        asked = {pub.recv() for _ in range(3)}
        assert asked == {b"\1prices.", b"\1alerts", b"\1data"}
        published = [
            "prices.eu.gold", "prices.eu.silver", "prices.gold", "alerts", "alerts.fire.now", "alertsx", "data",
            "data-secret", "data.more", "prices.us.tin", "alerts.end",
        ]  # fmt: skip
        for topic in published:
            pub.send_multipart([topic.encode(), msgpack.packb(topic)])
        found = [await take(sub) for _ in range(6)]
        wanted = ["prices.eu.gold", "alerts", "alerts.fire.now", "data", "prices.us.tin", "alerts.end"]
        assert [each.topic for each in found] == [each.body for each in found] == wanted
        assert [each.sequence for each in found] == list(range(1, 7))
        assert abs((found[0].sent_at - datetime.now(UTC)).total_seconds()) < 60
        assert (dict(found[0].headers), found[0].replayed) == ({}, False)

        sub.unsubscribe("prices.*.gold")
        sub.subscribe("more", "#")
        assert {pub.recv(), pub.recv()} == {b"\1more", b"\1"}
        sub.unsubscribe("prices.*.tin")
        assert pub.recv() == b"\0prices."


async def test_bodies_are_read_by_the_codec_and_what_cannot_be_is_told_and_passed_over(
    face: Face, plain: Plain
) -> None:
    pub, address = plain.pub()
    async with face.Subscriber(address, plain=True, codec="json") as sub:
        told = listen(face, sub, events.BadFrame)
        await sub.receive(0)
        assert pub.recv() == b"\1"
        pub.send_multipart([b"a", b'{"n": 1}'])
        pub.send_multipart([b"a", b"\xff no json"])
        pub.send_multipart([b"a", b"2"])
        assert await bodies(sub, 2) == [{"n": 1}, 2]
        assert "cannot be decoded" in (await told.next()).reason
        await face.until(lambda: sub.stats()["messages_undecodable"] == 1)


async def test_what_is_no_topic_and_body_is_told_and_ends_nothing(face: Face, plain: Plain) -> None:
    pub, address = plain.pub()
    async with face.Subscriber(address, plain=True) as sub:
        told = listen(face, sub, events.BadFrame)
        await sub.receive(0)
        assert pub.recv() == b"\1"
        pub.send(b"topic and body in one")
        pub.send_multipart([b"\xff\xfe", b"\1"])
        pub.send_multipart([b"x" * 5_000, b"\1"])
        pub.send_multipart([b"a", msgpack.packb(1), b"more", b"and more"])
        pub.send_multipart([b"", msgpack.packb(2)])
        pub.send_multipart([b"topics of others..", msgpack.packb(3)])
        found = [await take(sub) for _ in range(3)]
        assert [(each.topic, each.body) for each in found] == [("a", 1), ("", 2), ("topics of others..", 3)]
        reasons = [(await told.next()).reason for _ in range(3)]
        assert "single frame" in reasons[0]
        assert "UTF-8" in reasons[1]
        assert "4096 bytes" in reasons[2]
        assert sub.stats()["frames_bad"] == 3


async def test_a_plain_pub_that_comes_again_is_subscribed_again_and_counts_anew(face: Face, plain: Plain) -> None:
    pub, address = plain.pub()
    async with face.Subscriber(address, topics=["a", "b"], plain=True) as sub:
        await sub.receive(0)
        assert {pub.recv(), pub.recv()} == {b"\1a", b"\1b"}
        pub.send_multipart([b"a", msgpack.packb(1)])
        first = await take(sub)
        pub.close(0)
        again = await _bound_again(face, plain, address)
        assert {again.recv(), again.recv()} == {b"\1a", b"\1b"}
        again.send_multipart([b"b", msgpack.packb(2)])
        second = await take(sub)
    assert (first.body, second.body) == (1, 2)
    assert first.publisher == second.publisher
    assert first.epoch != second.epoch
    assert first.id != second.id


async def _bound_again(face: Face, plain: Plain, address: str) -> zmq.Socket[bytes]:
    found: list[zmq.Socket[bytes]] = []

    def bind() -> bool:
        try:
            found.append(plain.pub(address)[0])
        except zmq.ZMQError:
            return False  # closed sockets give their port back a moment later
        return True

    await face.until(bind, "the port never became free")
    return found[0]


async def test_a_subscriber_that_binds_reads_all_plain_pubs_that_connect(face: Face, plain: Plain) -> None:
    async with face.Subscriber(bind="tcp://127.0.0.1:*", topics="a.#", plain=True) as sub:
        await sub.receive(0)
        for n in range(2):
            pub = plain.made(zmq.XPUB)
            pub.connect(sub.addresses[0])
            assert pub.recv() == b"\1a"
            pub.send_multipart([b"ab", b"not this"])
            pub.send_multipart([b"a.b", msgpack.packb(n)])
        assert sorted(await bodies(sub, 2)) == [0, 1]


async def test_plain_publishers_and_subscribers_read_each_other(face: Face) -> None:
    async with (
        face.Publisher(plain=True) as pub,
        face.Subscriber(pub, topics="t.*", plain=True) as some,
        face.Subscriber(pub, plain=True) as every,
    ):
        await there(pub, 2, topic="t.1")
        for n in range(1_000):
            await pub.publish(f"t.{n % 7}" if n % 2 else f"t.{n % 7}.more", n)
        assert await bodies(some, 500) == list(range(1, 1_000, 2))
        assert await bodies(every, 1_000) == list(range(1_000))


# ---- who is slow -----------------------------------------------------------------------------


async def test_libzmq_drops_for_a_slow_plain_sub_and_for_no_other(face: Face, plain: Plain) -> None:
    async with face.Publisher(plain=True, limits=Limits(queued_messages=100), codec="raw") as pub:
        slow = plain.sub(pub.addresses[0], b"", hwm=1)
        quick = plain.sub(pub.addresses[0], b"a", b"end", hwm=0)
        await there(pub, 2, topic="a")
        body, count = b"x" * 100_000, 400  # more than sockets of the system hold
        for n in range(0, count, 20):
            assert await pub.publish_many(("a", b"%d " % each + body) for each in range(n, n + 20)) == 20
            assert [int(quick.recv_multipart()[1].split(b" ")[0]) for _ in range(20)] == list(range(n, n + 20))
        slow.setsockopt(zmq.RCVTIMEO, 0)
        found: list[list[bytes]] = []
        ends = 0
        while not found or found[-1][0] != b"end":  # it reads again: some end comes through
            await pub.publish("end", b"")
            ends += 1
            assert ends < 1_000, "it gets nothing any more"
            while slow.poll(10):
                found.append(slow.recv_multipart())
        numbers = [int(body.split(b" ")[0]) for topic, body in found if topic == b"a"]
        assert 0 < len(numbers) < count, "nothing was dropped"
        assert numbers == sorted(set(numbers)), "what is not dropped comes once, in its order"
        assert numbers[0] == 0
        assert [quick.recv_multipart()[0] for _ in range(ends)] == [b"end"] * ends


async def test_what_a_slow_subscriber_has_no_room_for_is_named(face: Face) -> None:
    async with (
        face.Publisher(plain=True) as pub,
        face.Subscriber(pub, plain=True, limits=Limits(queued_messages=100)) as sub,
    ):
        await there(pub)
        for n in range(1_000):
            await pub.publish("a", n)
        await pub.publish("a", "end")
        await face.until(lambda: _arrived(sub) == 1_001)
        dropped = sub.stats()["messages_dropped"]
        assert 0 < dropped <= 900
        kept = 1_001 - dropped
        assert await bodies(sub, kept) == list(range(kept))
        with pytest.raises(MessagesLost, match="too slow") as caught:
            await take(sub)
        assert (caught.value.first, caught.value.last) == (kept + 1, 1_001)
        await pub.publish("a", "after")
        after = await take(sub)
        assert (after.body, after.sequence) == ("after", 1_002)


async def test_a_slow_subscriber_may_keep_the_newest_of_each_topic(face: Face) -> None:
    async with (
        face.Publisher(plain=True) as pub,
        face.Subscriber(pub, plain=True, on_slow="conflate", limits=Limits(queued_messages=100)) as sub,
    ):
        await there(pub)
        for n in range(1_000):
            await pub.publish(f"t.{n % 3}", n)
        await face.until(lambda: _arrived(sub) == 1_000 - 3)
        kept = 1_000 - 3 - sub.stats()["messages_conflated"]
        assert await bodies(sub, kept) == list(range(kept))
        assert await bodies(sub, 3) == [997, 998, 999]


async def test_a_slow_subscriber_may_end(face: Face) -> None:
    async with (
        face.Publisher(plain=True) as pub,
        face.Subscriber(pub, plain=True, on_slow="disconnect", limits=Limits(queued_messages=100)) as sub,
    ):
        await there(pub)
        for n in range(1_000):
            await pub.publish("a", n)
        await face.until(lambda: sub.stats()["losses_told"] == 1)
        kept = sub.stats()["messages_received"]
        assert await bodies(sub, kept) == list(range(kept))
        for _ in range(2):
            with pytest.raises(MessagesLost, match="too slow"):
                await take(sub)


def _arrived(sub: Any) -> int:
    stats = sub.stats()
    return int(stats["messages_received"] + stats["messages_dropped"] + stats["messages_conflated"])


# ---- what plain refuses ----------------------------------------------------------------------

FACES = pytest.mark.parametrize("module", [zmqkit, aio], ids=["sync", "async"])


@FACES
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"start": "earliest"}, "a plain PUB has no history: plain=True goes without start="),
        ({"start": datetime.now(UTC)}, "without start="),
        ({"cursor": "a"}, "keeps no position: plain=True goes without cursor="),
        ({"inbox": "b.db"}, "without inbox="),
        ({"max_age": 1.0}, "stamps nothing: plain=True goes without max_age="),
        ({"on_gap": "raise"}, "no gap is noticed: plain=True goes without on_gap="),
        ({"on_gap": "report"}, "without on_gap="),
        ({"recovery": "tcp://127.0.0.1:*", "bind": "tcp://127.0.0.1:*"}, "no recovery channel"),
    ],
)
def test_a_plain_subscriber_refuses_what_plain_publishers_cannot_give(
    module: Any, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        module.Subscriber("tcp://127.0.0.1:1", plain=True, **given)


@FACES
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"journal": "a.db"}, "leave journal= out"),
        ({"last_value": True}, "leave last_value= out"),
        ({"retention": Retention(count=3)}, "leave retention= out"),
        ({"history": 5}, "leave history= out"),
        ({"history": 5, "last_value": True}, "leave last_value= and history= out"),
        ({"recovery": "tcp://127.0.0.1:*"}, "no recovery channel"),
    ],
)
def test_a_plain_publisher_refuses_what_plain_subscribers_cannot_ask_for(
    module: Any, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        module.Publisher("tcp://127.0.0.1:*", plain=True, **given)


async def test_plain_frames_have_no_room_for_headers(face: Face) -> None:
    async with face.Publisher(plain=True, history=0) as pub:
        with pytest.raises(UsageError, match="leave headers= out"):
            await pub.publish("a", 1, headers={"k": "v"})
        assert await pub.publish("a", 1, headers={}) == 1
        with pytest.raises(ValueError, match="wildcard"):
            await pub.publish("a.*", 1)


async def test_messages_of_plain_publishers_have_no_position_to_keep(face: Face) -> None:
    async with face.Publisher(plain=True) as pub, face.Subscriber(pub, plain=True, start="latest") as sub:
        await there(pub)
        await pub.publish("a", 1)
        message = await take(sub)
        with pytest.raises(UsageError, match="cursor= or inbox="):
            await message.commit()
        async with message:
            pass  # it needs none
