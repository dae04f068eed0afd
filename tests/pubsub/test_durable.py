"""Subscribers that go on where they were: by a cursor at the publisher, or by an inbox of their own."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import zmqkit
from tests.pipeline.processes import program
from tests.pubsub.faces import LOCAL, PATIENCE_S, QUICK, Face, bare, bodies, take, there
from zmqkit import CursorInUse, CursorNotMoved, Duplicate, Subscriber, UsageError
from zmqkit.inbox import Inbox, Position, Positions

PROGRAMS = "tests.pubsub.programs"

# ---- cursors -----------------------------------------------------------------------


async def test_a_cursor_goes_on_after_what_was_committed(face: Face, tmp_path: Path) -> None:
    async with face.Publisher(journal=tmp_path / "p.db") as pub:
        for n in range(10):
            await pub.publish("a", n)
        async with face.Subscriber(pub, cursor="reader") as sub:
            for n in range(4):
                async with await take(sub) as message:
                    assert message.body == n
            await message.commit()
            assert (await take(sub)).body == 4, "taken, and not dealt with"
        async with face.Subscriber(pub, cursor="reader") as sub:
            assert await bodies(sub, 6) == [4, 5, 6, 7, 8, 9]


async def test_a_cursor_is_kept_by_the_publishers_journal(face: Face, tmp_path: Path) -> None:
    journal = tmp_path / "p.db"
    async with face.Publisher(journal=journal) as pub:
        await pub.publish_many(("a", n) for n in range(10))
        async with face.Subscriber(pub, cursor="reader") as sub:
            for _ in range(3):
                message = await take(sub)
            await message.commit()
    async with face.Publisher(journal=journal) as pub, face.Subscriber(pub, cursor="reader") as sub:
        await pub.publish("a", 10)
        assert await bodies(sub, 8) == list(range(3, 11))


async def test_asking_for_the_next_message_deals_with_the_one_before(face: Face) -> None:
    async with face.Publisher() as pub:
        for n in range(10):
            await pub.publish("a", n)
        async with face.Subscriber(pub, cursor="reader") as sub:
            found = []
            async for message in sub:
                found.append(message.body)
                if message.body == 5:
                    break
            assert (await take(sub)).body == 6
            await face.until(lambda: committed(pub) == 6, "the message before was not committed")
        async with face.Subscriber(pub, cursor="reader") as sub:
            assert (await take(sub)).body == 6


def committed(pub: Any) -> int | None:
    """Where the one cursor of a publisher is."""
    core = bare(pub)._core
    position = core.cursors.position("reader")
    return None if position is None else int(position.offset)


async def test_a_message_whose_handling_raised_is_not_committed_and_comes_again(face: Face) -> None:
    async with face.Publisher() as pub:
        for n in range(3):
            await pub.publish("a", n)
        async with face.Subscriber(pub, cursor="reader") as sub:
            with pytest.raises(RuntimeError, match="no luck"):
                async with await take(sub):
                    raise RuntimeError("no luck")
            assert await bodies(sub, 3) == [0, 1, 2]
        async with face.Subscriber(pub, cursor="reader") as sub:
            assert (await take(sub)).body == 2


async def test_a_commit_at_a_publisher_that_is_gone_with_its_cursors_says_so(face: Face) -> None:
    async with face.Publisher(heartbeat=QUICK) as pub:
        address = pub.addresses[0]
        await pub.publish("a", 1)
        async with face.Subscriber(address, cursor="reader", heartbeat=QUICK) as sub, await take(sub) as first:
            await pub.close()
            async with face.Publisher(address, heartbeat=QUICK) as other:
                await other.publish("a", 2)
                assert (await take(sub)).body == 2
                with pytest.raises(CursorNotMoved, match="is gone"):
                    await first.commit()


async def test_two_subscribers_cannot_hold_one_cursor(face: Face) -> None:
    async with face.Publisher(heartbeat=QUICK) as pub:
        await pub.publish("a", 1)
        async with face.Subscriber(pub, cursor="reader", heartbeat=QUICK) as one:
            assert (await take(one)).body == 1
            async with face.Subscriber(pub, cursor="reader", heartbeat=QUICK) as other:
                with pytest.raises(CursorInUse, match="reader"):
                    await other.receive(PATIENCE_S)
                await one.close()
                assert (await take(other)).body == 1, "it takes over when the holder is gone"


async def test_a_new_cursor_begins_with_the_earliest(face: Face) -> None:
    async with face.Publisher() as pub:
        for n in range(5):
            await pub.publish("a", n)
        async with face.Subscriber(pub, cursor="reader") as sub:
            assert await bodies(sub, 5) == list(range(5)), "a publisher that the cursor does not know: all"


async def test_a_start_before_all_times_is_the_earliest(face: Face) -> None:
    async with face.Publisher() as pub:
        await pub.publish("a", 1)
        async with face.Subscriber(pub, start=datetime.min.replace(tzinfo=UTC)) as sub:
            assert (await take(sub)).body == 1


@pytest.mark.parametrize("start", ["latest", datetime.now(UTC)])
@pytest.mark.parametrize("durable", [{"cursor": "reader"}, {"inbox": "state.db"}])
def test_a_start_that_a_position_would_overrule_is_refused(durable: dict[str, Any], start: Any) -> None:
    with pytest.raises(UsageError, match="leave start= out"):
        Subscriber("tcp://127.0.0.1:5556", start=start, **durable)


# ---- inboxes -----------------------------------------------------------------------


def rows(path: Path) -> list[int]:
    db = sqlite3.connect(path)
    try:
        return [n for (n,) in db.execute("select n from effects order by rowid")]
    finally:
        db.close()


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    path = tmp_path / "state.db"
    db = sqlite3.connect(path)
    db.execute("create table effects (n integer)")
    db.commit()
    db.close()
    return path


async def test_effects_and_position_are_one_commit(face: Face, inbox: Path) -> None:
    async with face.Publisher() as pub:
        for n in range(6):
            await pub.publish("a", n)
        async with face.Subscriber(pub, inbox=inbox) as sub:
            for _ in range(3):
                async with await take(sub) as message, message.transaction() as db:
                    db.execute("insert into effects values (?)", (message.body,))
            with pytest.raises(ZeroDivisionError):
                async with await take(sub) as message, message.transaction() as db:
                    db.execute("insert into effects values (?)", (message.body / 0,))
        assert rows(inbox) == [0, 1, 2]
        async with face.Subscriber(pub, inbox=inbox) as sub:
            for _ in range(3):
                async with await take(sub) as message, message.transaction() as db:
                    db.execute("insert into effects values (?)", (message.body,))
    assert rows(inbox) == [0, 1, 2, 3, 4, 5]


async def test_a_transaction_that_was_rolled_back_is_no_dealing_with_its_message(face: Face, inbox: Path) -> None:
    async with face.Publisher() as pub:
        for n in range(4):
            await pub.publish("a", n)
        failed: list[int] = []
        async with face.Subscriber(pub, inbox=inbox) as sub:
            message = None
            while message is None or message.body < 3:
                message = await take(sub)
                try:
                    async with message.transaction() as db:
                        db.execute("insert into effects values (?)", (message.body,))
                        if message.body == 1 and len(failed) < 2:
                            raise ZeroDivisionError
                except ZeroDivisionError:
                    failed.append(message.body)
                    if len(failed) == 2:  # a second try on the spot counts as well
                        async with message.transaction() as db:
                            db.execute("insert into effects values (?)", (message.body,))
        assert failed == [1, 1]
        assert rows(inbox) == [0, 1, 2, 3]


async def test_what_a_transaction_cannot_do_may_be_passed_over_by_a_word(face: Face, inbox: Path) -> None:
    async with face.Publisher() as pub:
        for n in range(3):
            await pub.publish("a", n)
        async with face.Subscriber(pub, inbox=inbox) as sub:
            message = await take(sub)
            with pytest.raises(ZeroDivisionError):
                async with message.transaction():
                    raise ZeroDivisionError
            await message.commit()
            assert (await take(sub)).body == 1


async def test_what_is_at_or_below_the_position_is_never_given(face: Face, inbox: Path) -> None:
    async with face.Publisher() as pub:
        for n in range(6):
            await pub.publish("a", n)
        async with face.Subscriber(pub, inbox=inbox) as sub:
            message = await take(sub)
            publisher, epoch = message.publisher, message.epoch
        known = Inbox(inbox)
        Positions(known).store(Position(publisher, epoch, 4), "id")
        known.close()
        async with face.Subscriber(pub, inbox=inbox) as sub:
            assert await bodies(sub, 2) == [4, 5]


async def test_commit_and_a_clean_block_keep_the_position_in_the_inbox(face: Face, inbox: Path) -> None:
    async with face.Publisher() as pub:
        for n in range(6):
            await pub.publish("a", n)
        async with face.Subscriber(pub, inbox=inbox) as sub:
            message = await take(sub)
            await message.commit()
            await message.commit()  # once is enough
            async with await take(sub):
                pass
            known = Inbox(inbox)
            assert [each.offset for each in Positions(known).all()] == [2]
            known.close()


async def test_what_was_passed_over_without_a_transaction_is_kept_at_the_end(face: Face, inbox: Path) -> None:
    async with face.Publisher() as pub:
        for n in range(6):
            await pub.publish("a", n)
        async with face.Subscriber(pub, inbox=inbox) as sub:
            assert await bodies(sub, 5) == list(range(5))
        async with face.Subscriber(pub, inbox=inbox) as sub:
            assert (await take(sub)).body == 4


async def test_another_that_shares_the_inbox_makes_it_a_duplicate_which_a_block_swallows(
    face: Face, inbox: Path
) -> None:
    async with face.Publisher() as pub:
        await pub.publish("a", 1)
        await pub.publish("a", 2)
        async with face.Subscriber(pub, inbox=inbox) as one, face.Subscriber(pub, inbox=inbox) as other:
            mine, theirs = await take(one), await take(other)
            async with mine, mine.transaction() as db:
                db.execute("insert into effects values (?)", (mine.body,))
            with pytest.raises(Duplicate):
                async with theirs.transaction():
                    raise AssertionError
            async with theirs, theirs.transaction():
                raise AssertionError
            theirs = await take(other)
            assert theirs.body == 2
            async with theirs, theirs.transaction() as db:
                db.execute("insert into effects values (?)", (theirs.body,))
    assert rows(inbox) == [1, 2]


async def test_a_younger_message_cannot_pass_over_an_older_one_in_hand(face: Face, inbox: Path) -> None:
    async with face.Publisher() as pub:
        await pub.publish("a", 1)
        await pub.publish("a", 2)
        async with face.Subscriber(pub, inbox=inbox) as sub, await take(sub) as old:
            async with await take(sub) as young:
                with pytest.raises(UsageError, match="an older message"):
                    async with young.transaction():
                        raise AssertionError
            async with old.transaction() as db:
                db.execute("insert into effects values (?)", (old.body,))
    assert rows(inbox) == [1]


async def test_an_inbox_goes_on_over_a_restart_of_the_publisher(face: Face, inbox: Path, tmp_path: Path) -> None:
    journal = tmp_path / "p.db"
    async with face.Publisher(journal=journal, heartbeat=QUICK) as pub:
        address = pub.addresses[0]
        sub = face.Subscriber(address, inbox=inbox, heartbeat=QUICK)
        await sub.open()
        await pub.publish("a", 1)
        async with await take(sub) as message, message.transaction() as db:
            db.execute("insert into effects values (?)", (message.body,))
    async with face.Publisher(address, journal=journal, heartbeat=QUICK) as pub:
        await pub.publish("a", 2)
        async with await take(sub) as message, message.transaction() as db:
            db.execute("insert into effects values (?)", (message.body,))
        await sub.close()
    assert rows(inbox) == [1, 2]


def test_effects_are_there_once_across_crashes_of_the_subscriber(inbox: Path, tmp_path: Path) -> None:
    count = 300
    with zmqkit.Publisher(LOCAL, journal=tmp_path / "p.db", heartbeat=QUICK) as pub:
        pub.publish_many((f"t.{n % 3}", n) for n in range(count))
        lives = 0
        while len(done := rows(inbox)) < count:
            lives += 1
            assert lives < 100
            with program("apply", pub.addresses[0], inbox, module=PROGRAMS) as running:
                for _ in range(lives * 20):
                    if running.heard() == count - 1:
                        break
                running.kill()
    assert done == list(range(count))
    assert lives > 3, "it was never killed"


# ---- failing -----------------------------------------------------------------------


async def test_retry_gives_the_same_message_again_before_the_next_one(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub, on_error="retry") as sub:
        await there(pub)
        await pub.publish("a", 1)
        await pub.publish("a", 2)
        found = []
        async for message in sub:
            async with message:
                found.append(message.body)
                if found.count(1) < 3:
                    raise RuntimeError("not yet")
                if message.body == 2:
                    break
    assert found == [1, 1, 1, 2]


async def test_skip_logs_counts_and_goes_on(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub, on_error="skip", cursor="reader") as sub:
        await pub.publish("a", 1)
        await pub.publish("a", 2)
        async with await take(sub):
            raise RuntimeError("never")
        async with await take(sub) as message:
            assert message.body == 2
        await face.until(lambda: sub.stats()["messages_skipped"] == 1)
        await face.until(lambda: committed(pub) == 2)


async def test_raise_lets_it_through_and_without_a_position_it_does_not_come_again(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub) as sub:
        await there(pub)
        await pub.publish("a", 1)
        await pub.publish("a", 2)
        with pytest.raises(RuntimeError):
            async with await take(sub):
                raise RuntimeError
        assert (await take(sub)).body == 2


async def test_stop_ends_the_wait_for_a_message_that_is_to_come_again(face: Face) -> None:
    async with face.Publisher() as pub, face.Subscriber(pub, on_error="retry") as sub:
        bare(sub)._backoff = zmqkit.Backoff(first=3_000.0, cap=3_000.0)
        await there(pub)
        await pub.publish("a", 1)
        async with await take(sub):
            raise RuntimeError
        async with face.together() as start:

            async def wait() -> None:
                async for _ in sub:
                    raise AssertionError("it came")

            start(wait)
            await face.until(lambda: bare(sub)._sleepers)
            sub.stop()
