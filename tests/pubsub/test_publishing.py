"""What is published arrives: by topics, in order, with what belongs to it, from either side that binds."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

import zmqkit
from tests.pubsub.faces import LOCAL, PATIENCE_S, Face, bare, bodies, listen, take, there
from zmqkit import EncodeError, WaitTimeout, codec, events


async def test_a_message_brings_its_topic_body_headers_number_and_time(face: Face) -> None:
    before = datetime.now(UTC)
    async with face.Publisher() as pub, face.Subscriber(pub) as sub:
        await there(pub)
        assert await pub.publish("prices.eu.gold", {"bid": 1.0}, headers={"source": "x"}) == 1
        assert await pub.publish("alerts", b"raw") == 2
        first, second = await take(sub), await take(sub)
    assert (first.topic, first.body, first.sequence, dict(first.headers)) == (
        "prices.eu.gold", {"bid": 1.0}, 1, {"source": "x"},
    )  # fmt: skip
    assert (second.topic, second.body, second.sequence, dict(second.headers)) == ("alerts", b"raw", 2, {})
    assert before - timedelta(milliseconds=1) <= first.sent_at <= second.sent_at <= datetime.now(UTC)
    assert (first.publisher, first.epoch) == (second.publisher, second.epoch)
    assert (len(first.publisher), len(first.epoch)) == (32, 32)
    assert first.id == f"{first.publisher[:16]}-{first.epoch[:8]}-1"
    assert first.id != second.id
    assert not first.replayed


async def test_topics_with_wildcards_let_in_what_they_say_and_nothing_else(face: Face) -> None:
    async with (
        face.Publisher() as pub,
        face.Subscriber(pub, topics=["prices.*.gold", "alerts.#", "data"]) as sub,
    ):
        await there(pub)
        published = [
            "prices.eu.gold", "prices.eu.silver", "prices.us.gold", "prices.gold", "prices.eu.gold.spot", "alerts",
            "alerts.fire", "alerts.fire.now", "alertsx", "data", "data-secret", "data.more",
        ]  # fmt: skip
        for topic in published:
            await pub.publish(topic, topic)
        await pub.publish("alerts.end", "end")
        found = []
        while (body := (await take(sub)).body) != "end":
            found.append(body)
    assert found == ["prices.eu.gold", "prices.us.gold", "alerts", "alerts.fire", "alerts.fire.now", "data"]


async def test_many_messages_of_many_topics_come_in_the_order_of_their_numbers(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub) as sub:
        await there(pub)
        for n in range(2_000):
            await pub.publish(f"t.{n % 37}", n)
        found = [await take(sub) for _ in range(2_000)]
    assert [each.body for each in found] == list(range(2_000))
    assert [each.sequence for each in found] == list(range(1, 2_001))
    assert [each.topic for each in found] == [f"t.{n % 37}" for n in range(2_000)]


async def test_publish_many_publishes_pairs_and_says_how_many(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub) as sub:
        await there(pub)
        assert await pub.publish_many((f"t.{n % 3}", n) for n in range(3_000)) == 3_000
        assert await pub.publish("t.last", "last") == 3_001
        assert await bodies(sub, 3_001) == [*range(3_000), "last"]


async def test_one_body_that_cannot_travel_ends_publish_many_and_what_was_before_is_published(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub) as sub:
        await there(pub)
        given = [("a", n) for n in range(600)] + [("a", object())]
        with pytest.raises(zmqkit.PartlySent) as caught:
            await pub.publish_many(given)
        assert isinstance(caught.value.__cause__, EncodeError)
        assert caught.value.confirmed == 64 + 512  # two runs
        assert await bodies(sub, 576) == list(range(576))


async def test_every_subscriber_gets_every_message_of_its_topics(face: Face) -> None:
    async with (
        face.Publisher() as pub,
        face.Subscriber(pub, topics="a") as one,
        face.Subscriber(pub, topics="b") as other,
        face.Subscriber(pub) as both,
    ):
        await there(pub, 3)
        for n in range(50):
            await pub.publish("ab"[n % 2], n)
        assert await bodies(one, 25) == list(range(0, 50, 2))
        assert await bodies(other, 25) == list(range(1, 50, 2))
        assert await bodies(both, 50) == list(range(50))


async def test_a_subscriber_of_several_publishers_gets_each_ones_messages_in_order(face: Face) -> None:
    async with face.Publisher() as one, face.Publisher() as other, face.Subscriber(one, other) as sub:
        await there(one)
        await there(other)
        for n in range(100):
            await one.publish("one", n)
            await other.publish("other", n)
        found: dict[str, list[Any]] = {"one": [], "other": []}
        publishers = set()
        for _ in range(200):
            message = await take(sub)
            found[message.topic].append(message.body)
            publishers.add(message.publisher)
    assert found == {"one": list(range(100)), "other": list(range(100))}
    assert len(publishers) == 2


async def test_a_subscriber_may_bind_and_publishers_connect(face: Face) -> None:
    async with (
        face.Subscriber(bind=LOCAL) as sub,
        face.Publisher(connect=sub.addresses[0]) as one,
        face.Publisher(connect=sub.addresses[0]) as other,
    ):
        await there(one)
        await there(other)
        await one.publish("a", 1)
        await other.publish("b", 2)
        assert sorted([(await take(sub)).body, (await take(sub)).body]) == [1, 2]


@pytest.mark.parametrize("scheme", ["ipc", "inproc"])
async def test_it_goes_over_every_transport(face: Face, scheme: str, folder: str) -> None:
    address = f"ipc://{folder}/pub" if scheme == "ipc" else f"inproc://{folder}"
    async with face.Publisher(address) as pub, face.Subscriber(address) as sub:
        assert pub.addresses == (address,)
        await there(pub)
        await pub.publish("a", 1)
        assert (await take(sub)).body == 1


async def test_recovery_is_one_port_above_the_data(face: Face) -> None:
    async with face.Publisher() as free:
        port = int(free.addresses[0].rpartition(":")[2])
    async with face.Publisher(f"tcp://127.0.0.1:{port}") as pub:
        assert pub.addresses == (f"tcp://127.0.0.1:{port}",)
        (recovery,) = bare(pub).recovery_addresses
        assert recovery.startswith("tcp://127.0.0.1:")
        assert recovery != pub.addresses[0]


async def test_recovery_goes_where_the_user_says(face: Face, folder: str) -> None:
    async with (
        face.Publisher(f"ipc://{folder}/d", recovery=f"ipc://{folder}/r") as pub,
        face.Subscriber(pub, start="earliest") as sub,
    ):
        assert bare(pub).recovery_addresses == (f"ipc://{folder}/r",)
        await pub.publish("a", 1)
        assert (await take(sub)).body == 1


async def test_wait_for_subscribers_counts_those_whom_a_topic_would_reach(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub, topics="prices.#") as sub:
        await there(pub, topic="prices.gold")
        with pytest.raises(WaitTimeout, match="1 subscriber to 'alerts' did not come"):
            await pub.wait_for_subscribers(1, topic="alerts", timeout=0)
        with pytest.raises(WaitTimeout, match="2 subscribers did not come"):
            await pub.wait_for_subscribers(2, timeout=0)
        bare(sub).subscribe("alerts")
        await there(pub, topic="alerts")


async def test_topics_are_added_and_removed_while_it_runs(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub, topics="a") as sub:
        await there(pub, topic="a")
        await pub.publish("b", 0)
        bare(sub).subscribe("b", "c.#")
        await there(pub, topic="b")
        await there(pub, topic="c.x")
        for topic in ("a", "b", "c.x"):
            await pub.publish(topic, topic)
        assert await bodies(sub, 3) == ["a", "b", "c.x"]
        bare(sub).unsubscribe("a", "c.#")
        await face.until(lambda: pub_count(pub, "a") == 0)
        for topic in ("a", "c.x", "b"):
            await pub.publish(topic, f"{topic} again")
        assert await bodies(sub, 1) == ["b again"]


def pub_count(pub: Any, topic: str) -> int:
    """How many subscribers a topic reaches, as the core knows."""
    core = bare(pub)._core
    return int(core.audience.wanted(topic))


async def test_a_publisher_without_subscribers_publishes_to_nobody_and_counts_on(face: Face) -> None:
    async with face.Publisher() as pub:
        assert [await pub.publish("a", n) for n in range(5)] == [1, 2, 3, 4, 5]


async def test_threads_that_publish_at_once_get_numbers_of_their_own(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub) as sub:
        await there(pub)
        async with face.together() as start:
            numbers: list[int] = []

            async def publish(who: int) -> None:
                numbers.extend([await pub.publish(f"t.{who}", (who, n)) for n in range(100)])

            for who in range(4):
                start(publish, who)
        found = await bodies(sub, 400)
    assert sorted(numbers) == list(range(1, 401))
    for who in range(4):
        assert [n for each, n in found if each == who] == list(range(100))


def test_threads_of_one_publisher_and_one_subscriber_share_them() -> None:
    with zmqkit.Publisher(LOCAL) as pub, zmqkit.Subscriber(pub.addresses[0]) as sub:
        pub.wait_for_subscribers(1, timeout=PATIENCE_S)
        found: list[Any] = []

        def publish(who: int) -> None:
            for n in range(500):
                pub.publish("t", (who, n))

        def read() -> None:
            found.extend(message.body for message in islice(sub, 500))

        threads = [threading.Thread(target=publish, args=(who,), daemon=True) for who in range(3)]
        threads += [threading.Thread(target=read, daemon=True) for _ in range(3)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(PATIENCE_S)
            assert not each.is_alive()
    assert sorted(map(tuple, found)) == [(who, n) for who in range(3) for n in range(500)]


def _encode(body: object) -> bytes:
    return b"\xc1"


def _decode(data: bytes) -> object:
    raise ValueError("no body")


async def test_what_cannot_be_decoded_is_passed_over_and_told(face: Face) -> None:
    codec.register("tests.pubsub", _encode, _decode)
    async with face.Publisher(codec="tests.pubsub") as pub, face.Subscriber(pub) as sub:
        box = listen(face, sub, events.BadFrame)
        await there(pub)
        await pub.publish("a", 1)
        await face.until(lambda: sub.stats()["messages_received"], "it never came")
        assert await sub.receive(0.01) is None
        assert "cannot be decoded" in str(await box.next())
        assert sub.stats()["messages_undecodable"] == 1


async def test_the_publisher_sees_its_subscribers(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub, topics=["a", "b.#"], name="reader") as sub:
        await there(pub)
        await pub.publish("a", 1)
        assert (await take(sub)).body == 1
        (found,) = await pub.subscribers()
        assert (found.name, found.topics, found.first_topics, found.mode) == ("reader", 2, ("a", "b.#"), "live")
