"""Where a subscriber begins, what it makes up for, what it says when messages are gone, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import zmqkit
from tests.pubsub.faces import LOCAL, PATIENCE_S, QUICK, Face, bare, bodies, listen, take, there
from zmqkit import Closed, Limits, MessagesLost, Retention, events


async def left(face: Face, pub: Any, count: int) -> None:
    """Wait until so many messages have left the caller's hands: who subscribes then does not hear them live."""
    await face.until(lambda: pub.stats()["published"] == count)


# ---- where it begins ---------------------------------------------------------------


async def test_a_subscriber_begins_with_what_is_published_from_now_on(face: Face) -> None:
    async with face.Publisher() as pub:
        await pub.publish("a", "before")
        await left(face, pub, 1)
        async with face.Subscriber(pub) as sub:
            await there(pub)
            await pub.publish("a", "after")
            assert await bodies(sub, 1) == ["after"]


async def test_earliest_brings_all_that_is_there_and_then_what_comes(face: Face) -> None:
    async with face.Publisher() as pub:
        for n in range(100):
            await pub.publish(f"t.{n % 3}", n)
        await left(face, pub, 100)
        async with face.Subscriber(pub, topics=["t.0", "t.1"], start="earliest") as sub:
            await there(pub)
            for n in range(100, 110):
                await pub.publish(f"t.{n % 3}", n)
            found = [await take(sub) for _ in range(74)]
    assert [each.body for each in found] == [n for n in range(110) if n % 3 < 2]
    assert all(each.replayed for each in found[:60])
    assert not found[-1].replayed


async def test_history_keeps_the_newest_messages_only_and_who_begins_there_is_not_told_of_losses(face: Face) -> None:
    async with face.Publisher(history=10) as pub:
        for n in range(100):
            await pub.publish("a", n)
        await left(face, pub, 100)
        async with face.Subscriber(pub, start="earliest") as sub:
            first = await take(sub)
            assert 0 < first.body <= 90
            assert await bodies(sub, 99 - first.body) == list(range(first.body + 1, 100))


async def test_a_time_brings_what_was_published_since(face: Face) -> None:
    async with face.Publisher() as pub:
        await pub.publish("a", "old")
        await left(face, pub, 1)
        await face.until(passed(timedelta(milliseconds=5)))
        since = datetime.now(UTC)
        await pub.publish("a", "new")
        async with face.Subscriber(pub, start=since) as sub:
            assert await bodies(sub, 1) == ["new"]


def passed(time: timedelta) -> Callable[[], bool]:
    """Whether so much time is over."""
    end = datetime.now(UTC) + time
    return lambda: datetime.now(UTC) > end


async def test_last_values_come_first_each_topic_once_and_then_what_is_published(face: Face) -> None:
    async with face.Publisher(last_value=True) as pub:
        for n in range(30):
            await pub.publish(f"t.{n % 3}", n)
        await left(face, pub, 30)
        async with face.Subscriber(pub, topics=["t.0", "t.2"]) as sub:
            await there(pub)
            assert sorted(await bodies(sub, 2)) == [27, 29]
            await pub.publish("t.1", "not this")
            await pub.publish("t.0", "next")
            assert await bodies(sub, 1) == ["next"]


async def test_last_values_of_a_journal_are_there_after_a_restart(face: Face, tmp_path: Path) -> None:
    journal = tmp_path / "p.db"
    async with face.Publisher(journal=journal, last_value=True) as pub:
        for n in range(10):
            await pub.publish(f"t.{n % 2}", n)
    async with face.Publisher(journal=journal, last_value=True) as pub, face.Subscriber(pub) as sub:
        assert sorted(await bodies(sub, 2)) == [8, 9]


# ---- journal -----------------------------------------------------------------------


async def test_a_journal_serves_what_was_published_in_earlier_lives(face: Face, tmp_path: Path) -> None:
    journal = tmp_path / "p.db"
    async with face.Publisher(journal=journal) as pub:
        for n in range(20):
            await pub.publish("a", n)
    async with face.Publisher(journal=journal) as pub, face.Subscriber(pub, start="earliest") as sub:
        await pub.publish("a", 20)
        found = [await take(sub) for _ in range(21)]
    assert [each.body for each in found] == list(range(21))
    assert len({each.publisher for each in found}) == 1
    assert len({each.epoch for each in found}) == 2
    numbers = [each.sequence for each in found]
    assert numbers == sorted(set(numbers)), "numbers go on rising over a restart"


async def test_a_subscriber_lives_through_a_restart_of_a_journalled_publisher(face: Face, tmp_path: Path) -> None:
    journal = tmp_path / "p.db"
    async with face.Publisher(journal=journal, heartbeat=QUICK) as pub:
        address = pub.addresses[0]
        sub = face.Subscriber(address, heartbeat=QUICK)
        changed = listen(face, sub, events.EpochChanged)
        await sub.open()
        await there(pub)
        await pub.publish("a", 1)
        assert await bodies(sub, 1) == [1]
    async with face.Publisher(address, journal=journal, heartbeat=QUICK) as pub:
        await pub.publish("a", 2)  # before the subscriber is back
        assert await bodies(sub, 1) == [2]
        await there(pub)
        await pub.publish("a", 3)
        assert await bodies(sub, 1) == [3]
        event = await changed.next()
        assert (event.last, event.tail_unknown) == (1, False)
        await sub.close()


async def test_a_restart_without_a_journal_is_told_and_hides_nothing_of_the_new_life(face: Face) -> None:
    async with face.Publisher(heartbeat=QUICK) as pub:
        address = pub.addresses[0]
        sub = face.Subscriber(address, heartbeat=QUICK)
        changed = listen(face, sub, events.EpochChanged)
        await sub.open()
        await there(pub)
        await pub.publish("a", "first life")
        assert await bodies(sub, 1) == ["first life"]
    async with face.Publisher(address, heartbeat=QUICK) as pub:
        await pub.publish("a", "second life")
        message = await take(sub)
        assert (message.body, message.sequence) == ("second life", 1)
        assert (await changed.next()).tail_unknown
        await sub.close()


async def test_retention_bounds_what_a_journal_serves(face: Face, tmp_path: Path) -> None:
    journal = tmp_path / "p.db"
    async with face.Publisher(journal=journal, retention=Retention(count=1_000)) as pub:
        await pub.publish_many(("a", n) for n in range(5_000))
        async with face.Subscriber(pub, start="earliest") as sub:
            first = await take(sub)
            assert 3_000 <= first.body <= 4_000
            assert await bodies(sub, 4_999 - first.body) == list(range(first.body + 1, 5_000))


# ---- messages that are gone --------------------------------------------------------


async def lose(face: Face, pub: Any, cursor: str, count: int = 50) -> None:
    """A subscriber with a cursor comes and goes, and then more is published than history holds."""
    async with face.Subscriber(pub, cursor=cursor) as sub:
        await there(pub)
        await pub.publish("a", "seen")
        async with await take(sub) as message:
            assert message.body == "seen"
            await message.commit()
    for n in range(count):
        await pub.publish("a", n)


async def test_what_is_gone_is_raised_at_its_place_and_iteration_goes_on(face: Face) -> None:
    async with face.Publisher(history=10) as pub:
        await lose(face, pub, "c")
        async with face.Subscriber(pub, cursor="c") as sub:
            messages = aiter(sub)
            with pytest.raises(MessagesLost) as caught:
                await anext(messages)
            lost = caught.value
            first = await anext(messages)
            assert lost.last + 1 == first.sequence
            assert lost.first == 2
            assert lost.publisher == first.publisher
            assert lost.epoch == first.epoch
            rest = [(await anext(messages)).body for _ in range(49 - first.body)]
            assert rest == list(range(first.body + 1, 50))


async def test_receive_raises_what_is_gone_once_and_goes_on(face: Face) -> None:
    async with face.Publisher(history=10) as pub:
        await lose(face, pub, "c")
        async with face.Subscriber(pub, cursor="c") as sub:
            with pytest.raises(MessagesLost):
                await sub.receive(PATIENCE_S)
            assert (await take(sub)).body > 0


# ---- slow subscribers --------------------------------------------------------------

SMALL = Limits(queued_messages=100, queued_bytes=1 << 20)


async def test_a_slow_subscriber_recovers_what_it_could_not_take(face: Face) -> None:
    async with face.Publisher(history=100_000) as pub, face.Subscriber(pub, limits=SMALL) as sub:
        await there(pub)
        for n in range(5_000):
            await pub.publish("a", n)
        assert await bodies(sub, 5_000) == list(range(5_000))


async def test_conflation_keeps_the_newest_of_each_topic(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub, limits=SMALL, on_slow="conflate") as sub:
        await there(pub)
        for n in range(5_000):
            await pub.publish(f"t.{n % 5}", n)
        await pub.publish("end", "end")
        newest: dict[str, Any] = {}
        while (message := await take(sub)).body != "end":
            assert message.body > newest.get(message.topic, -1)
            newest[message.topic] = message.body
    assert newest == {f"t.{n % 5}": n for n in range(4_995, 5_000)}


async def test_a_slow_subscriber_may_rather_end(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub, limits=SMALL, on_slow="disconnect") as sub:
        await there(pub)
        for n in range(5_000):
            await pub.publish("a", n)
        found: list[Any] = []

        async def read() -> None:
            while True:
                found.append((await take(sub)).body)

        with pytest.raises(MessagesLost, match="slow"):
            await read()
        assert found == list(range(len(found)))


async def test_what_is_too_old_is_dropped_and_counted(face: Face) -> None:
    async with face.Publisher() as pub:
        for n in range(10):
            await pub.publish("a", n)
        await left(face, pub, 10)
        await face.until(passed(timedelta(milliseconds=5)))
        async with face.Subscriber(pub, start="earliest", max_age=1e-4) as sub:
            await face.until(lambda: sub.stats().get("messages_expired") == 10)
            assert await sub.receive(0) is None


# ---- how it ends -------------------------------------------------------------------


async def test_receive_returns_none_when_its_time_is_over(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub) as sub:
        assert await sub.receive(0) is None
        assert await sub.receive(0.01) is None


async def test_stop_ends_a_loop_and_close_ends_receive(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub) as sub:
        await there(pub)
        await pub.publish("a", 1)
        async for message in sub:
            assert message.body == 1
            sub.stop()
        with pytest.raises(Closed, match="stopped"):
            await sub.receive()
    with pytest.raises(Closed, match="was closed"):
        await sub.receive()


async def test_a_loop_that_waits_is_ended_by_close(face: Face) -> None:
    async with face.Publisher() as pub:
        sub = face.Subscriber(pub)
        await sub.open()
        await there(pub)
        async with face.together() as start:
            ended = []

            async def read() -> None:
                async for _ in sub:
                    raise AssertionError("there is nothing")
                ended.append(True)

            start(read)
            await face.until(lambda: bare(sub)._driver.mailbox.waiters)
            await sub.close()
        assert ended == [True]


async def test_nothing_is_opened_before_it_is_used(face: Face) -> None:
    pub, sub = face.Publisher(), face.Subscriber("tcp://127.0.0.1:1")
    assert pub.addresses == () == sub.addresses
    assert pub.stats() == {} == sub.stats()
    await pub.publish("a", 1)
    assert pub.addresses
    await pub.close()
    await sub.close()


async def test_a_publisher_that_closes_at_once_loses_nothing_of_what_it_published(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub) as sub:
        await there(pub)
        for n in range(3_000):
            await pub.publish("a", n)
        await pub.close()
        assert await bodies(sub, 3_000) == list(range(3_000))


def test_threads_share_a_subscriber_and_each_message_comes_to_one() -> None:
    with zmqkit.Publisher(LOCAL) as pub, zmqkit.Subscriber(pub.addresses[0]) as sub:
        pub.wait_for_subscribers(1, timeout=PATIENCE_S)
        found: list[int] = []

        def read() -> None:
            for message in sub:
                found.append(message.body)
                if len(found) >= 2_000:
                    sub.stop()

        threads = [threading.Thread(target=read, daemon=True) for _ in range(4)]
        for each in threads:
            each.start()
        for n in range(2_000):
            pub.publish("a", n)
        for each in threads:
            each.join(PATIENCE_S)
            assert not each.is_alive()
    assert sorted(found) == list(range(2_000))


def test_leaving_a_loop_and_coming_back_loses_nothing() -> None:
    with zmqkit.Publisher(LOCAL) as pub, zmqkit.Subscriber(pub.addresses[0]) as sub:
        pub.wait_for_subscribers(1, timeout=PATIENCE_S)
        pub.publish_many(("a", n) for n in range(1_000))
        found: list[int] = []
        for size in (1, 7, 300, 692):
            found += [message.body for message in islice(sub, size)]
    assert found == list(range(1_000))


async def test_plain_subscribers_read_plain_publishers(face: Face) -> None:
    stop = threading.Event()
    async with (
        face.Publisher(plain=True) as pub,
        face.Subscriber(pub, topics="a.#", plain=True) as sub,
        face.together() as start,
    ):

        async def publish() -> None:
            while not stop.is_set():
                await pub.publish("b", "not this")
                await pub.publish("a.x", {"n": 1})
                await face.pause()

        start(publish)
        message = await take(sub)
        stop.set()
    assert (message.topic, message.body) == ("a.x", {"n": 1})
