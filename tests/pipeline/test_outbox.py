"""Messages that are sent if and only if a transaction of the user's is committed."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import zmqkit
from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, bare, handle, take
from tests.pipeline.processes import program
from zmqkit import Closed, EncodeError, JournalDamaged, JournalError, Pusher, UsageError

PROGRAMS = "tests.pipeline.effects_programs"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A file of the user's with one table."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("create table orders (body)")
    return path


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "j.db"


def orders(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return [body for (body,) in db.execute("select body from orders order by body")]


def waiting(path: Path) -> list[str]:
    """The ids in the outbox."""
    with closing(sqlite3.connect(path)) as db:
        return [id for (id,) in db.execute("select id from zmqkit_outbox order by n")]


async def test_rows_and_messages_are_one_commit(face: Face, shop: Path, journal: Path) -> None:
    async with face.Pusher(LOCAL, journal=journal) as push, face.Puller(push.addresses[0]) as pull:
        with closing(sqlite3.connect(shop)) as db:
            async with push.transaction(db) as outbox:
                db.execute("insert into orders values ('a')")
                ids = [outbox.send("a", headers={"k": "v"}), outbox.send("b")]
                assert orders(shop) == []
            assert orders(shop) == ["a"]
            jobs = [await take(pull), await take(pull)]
            assert [(job.id, job.body, dict(job.headers)) for job in jobs] == [
                (ids[0], "a", {"k": "v"}),
                (ids[1], "b", {}),
            ]
            for job in jobs:
                await job.ack()
            assert (await push.flush(PATIENCE_S)).acked == 2
            assert waiting(shop) == []


async def test_an_outbox_takes_all_that_send_takes(face: Face, shop: Path, journal: Path) -> None:
    async with face.Pusher(LOCAL, journal=journal, linger=0) as push:
        async with push.transaction(shop) as outbox:
            outbox.send("later", delay=1e6)
            outbox.send("low")
            assert outbox.send("high", id="mine", priority=7, ttl=1e6) == "mine"
            assert outbox.send("again", id="mine") == "mine"
            outbox.send("keyed", key="k", headers={"h": "v"})
            outbox.send("gone", ttl=1e-9)
            with pytest.raises(ValueError, match="delay"):
                outbox.send("x", delay=-1)
        async with push.transaction(shop) as outbox:
            outbox.send("once more", id="mine")
        await push.flush(PATIENCE_S, until="journalled")
        async with face.Puller(push.addresses[0], prefetch=1) as pull:
            jobs = []
            for _ in range(3):
                job = await take(pull)
                jobs.append((job.body, job.id if job.id == "mine" else None, job.key, dict(job.headers)))
                await job.ack()
            assert jobs == [("high", "mine", None, {}), ("low", None, None, {}), ("keyed", None, "k", {"h": "v"})]
            done = await push.flush(PATIENCE_S)
            assert (done.acked, done.expired, len(done.not_due)) == (3, 1, 1)
        with pytest.warns(RuntimeWarning, match="1 message not settled"):
            await push.close()


async def test_an_exception_takes_both_back(face: Face, shop: Path, journal: Path) -> None:
    async with face.Pusher(LOCAL, journal=journal) as push, face.Puller(push.addresses[0]) as pull:
        with closing(sqlite3.connect(shop)) as db:
            with contextlib.suppress(ZeroDivisionError):
                async with push.transaction(db) as outbox:
                    db.execute("insert into orders values ('a')")
                    outbox.send("a")
                    raise ZeroDivisionError
            assert not db.in_transaction
            async with push.transaction(db) as outbox:
                outbox.send("b")
        assert await handle(pull, 1) == ["b"]
        assert (await push.flush(PATIENCE_S)).acked == 1
    assert orders(shop) == []


async def test_flush_counts_what_was_committed_before(face: Face, shop: Path, journal: Path) -> None:
    async with face.Pusher(LOCAL, journal=journal, linger=0) as push:
        async with push.transaction(shop) as outbox:
            for n in range(2500):
                outbox.send(n)
        await push.flush(PATIENCE_S, until="journalled")
        assert push.stats()["waiting"] == 2500
        async with face.Puller(push.addresses[0]) as pull:
            assert await handle(pull, 2500) == list(range(2500))
            await push.flush(PATIENCE_S)


async def test_a_path_gives_a_connection_for_the_block(face: Face, shop: Path, journal: Path) -> None:
    async with face.Pusher(LOCAL, journal=journal) as push, face.Puller(push.addresses[0]) as pull:
        async with push.transaction(str(shop)) as outbox:
            outbox.connection.execute("insert into orders values ('a')")
            outbox.send("a")
        with pytest.raises(UsageError, match="has ended"):
            outbox.send("late")
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            outbox.connection.execute("select 1")
        assert await handle(pull, 1) == ["a"]
        await push.flush(PATIENCE_S)
    assert orders(shop) == ["a"]


async def test_in_a_transaction_that_is_open_its_owner_commits(face: Face, shop: Path, journal: Path) -> None:
    async with face.Pusher(LOCAL, journal=journal) as push, face.Puller(push.addresses[0]) as pull:
        with closing(sqlite3.connect(shop)) as db:
            for word, ends in (("rolled back", db.rollback), ("committed", db.commit)):
                db.execute("insert into orders values (?)", (word,))
                async with push.transaction(db) as outbox:
                    outbox.send(word)
                assert db.in_transaction
                assert orders(shop) == []
                ends()
            assert await handle(pull, 1) == ["committed"]
            await push.flush(PATIENCE_S)
    assert orders(shop) == ["committed"]
    assert waiting(shop) == []


async def test_effects_and_what_comes_of_them_are_one_commit(face: Face, shop: Path, journal: Path) -> None:
    """An inbox and an outbox in one transaction: a stage that does everything once."""
    async with (
        face.Pusher(LOCAL) as push,
        face.Puller(push.addresses[0], inbox=shop) as pull,
        face.Pusher(LOCAL, journal=journal) as onward,
        face.Puller(onward.addresses[0]) as sink,
    ):
        await push.send_many(range(5))
        for _ in range(5):
            async with await take(pull) as job, job.transaction() as db, onward.transaction(db) as outbox:
                db.execute("insert into orders values (?)", (job.body,))
                outbox.send(10 * job.body)
        assert await handle(sink, 5) == [0, 10, 20, 30, 40]
        await onward.flush(PATIENCE_S)
        await push.flush(PATIENCE_S)
    assert orders(shop) == list(range(5))


async def test_what_was_left_is_sent_by_the_next_opening(face: Face, shop: Path, journal: Path) -> None:
    with program("leave_outbox", journal, shop, module=PROGRAMS) as running:
        left = running.heard()
        running.kill()
    assert waiting(shop) == left
    async with face.Puller(bind=LOCAL) as pull, face.Pusher(connect=pull.addresses[0], journal=journal) as push:
        jobs = [await take(pull) for _ in left]
        assert [job.id for job in jobs] == left
        for job in jobs:
            await job.ack()
        await push.flush(PATIENCE_S)
    assert waiting(shop) == []


async def test_messages_for_another_journal_are_left_alone(face: Face, shop: Path, journal: Path) -> None:
    with program("leave_outbox", journal, shop, module=PROGRAMS) as running:
        left = running.heard()
        running.kill()
    async with (
        face.Pusher(LOCAL, journal=journal.with_name("other.db")) as push,
        face.Puller(push.addresses[0]) as pull,
    ):
        async with push.transaction(shop) as outbox:
            outbox.send("mine")
        assert await handle(pull, 1) == ["mine"]
        await push.flush(PATIENCE_S)
    assert waiting(shop) == left


async def test_cancelled_in_the_block_nothing_is_sent(async_face: Face, shop: Path, journal: Path) -> None:
    import anyio

    async with async_face.Pusher(LOCAL, journal=journal) as push:
        with anyio.CancelScope() as scope:
            async with push.transaction(shop) as outbox:
                outbox.send("a")
                scope.cancel()
                await anyio.sleep(PATIENCE_S)
        assert (await push.flush(PATIENCE_S)).acked == 0
        assert push.stats()["waiting"] == 0
    assert orders(shop) == []


async def test_a_loop_goes_on_while_another_writes_there(async_face: Face, shop: Path, journal: Path) -> None:
    face = async_face
    async with face.Pusher(LOCAL, journal=journal) as push, face.Puller(push.addresses[0]) as pull:
        with closing(sqlite3.connect(shop, isolation_level=None)) as other:
            other.execute("begin immediate")
            done: list[str] = []

            async def work() -> None:
                async with push.transaction(shop) as outbox:
                    done.append(outbox.send("a"))

            async with face.together() as start:
                start(work)
                for _ in range(50):
                    await face.pause()
                assert not done
                other.execute("rollback")
        assert await handle(pull, 1) == ["a"]
        await push.flush(PATIENCE_S)


async def test_no_room_at_the_end_leaves_the_rest_for_the_next_opening(face: Face, shop: Path, journal: Path) -> None:
    push = await face.Pusher(LOCAL, journal=journal, max_waiting=1, linger=0.2).open()
    for n in range(3):
        async with push.transaction(shop) as outbox:
            outbox.send(n)
    with pytest.warns(RuntimeWarning, match="not settled"):
        await push.close()
    async with face.Puller(bind=LOCAL) as pull, face.Pusher(connect=pull.addresses[0], journal=journal) as push:
        found: dict[str, int] = {}
        while len(found) < 3:
            async with await take(pull) as job:
                found[job.id] = job.body
        bare(push)._drain_outbox(PATIENCE_S)
        async with face.together() as start:

            async def rest() -> None:
                while (job := await pull.receive(0.3)) is not None:
                    async with job:
                        found[job.id] = job.body

            start(rest)
            await push.flush(PATIENCE_S)
    assert sorted(found.values()) == [0, 1, 2]
    assert waiting(shop) == []


# ---- what is refused -------------------------------------------------------------------


def test_without_a_journal_there_is_nowhere_to_send_from(shop: Path) -> None:
    with Pusher(LOCAL) as push, pytest.raises(UsageError, match="journal="):
        push.transaction(shop)


def test_plain_pullers_know_no_ids(shop: Path, journal: Path) -> None:
    with pytest.raises(UsageError, match="plain=True"):
        Pusher("tcp://127.0.0.1:9", journal=journal, plain=True).transaction(shop)


@pytest.mark.parametrize("wrong", [None, 7, object(), "", ":memory:"])
def test_what_is_no_database_is_refused(journal: Path, wrong: Any) -> None:
    with Pusher(LOCAL, journal=journal) as push, pytest.raises(UsageError):
        push.transaction(wrong)


def test_a_database_in_memory_is_refused(journal: Path) -> None:
    with (
        Pusher(LOCAL, journal=journal) as push,
        closing(sqlite3.connect(":memory:")) as db,
        pytest.raises(UsageError, match="in memory"),
        push.transaction(db),
    ):
        raise AssertionError("it was begun")


def test_a_table_of_that_name_that_is_another_is_told(shop: Path, journal: Path) -> None:
    with closing(sqlite3.connect(shop)) as db:
        db.execute("create table zmqkit_outbox (n)")
        with (
            Pusher(LOCAL, journal=journal) as push,
            pytest.raises(UsageError, match="not one of zmqkit's"),
            push.transaction(db),
        ):
            raise AssertionError("it was begun")
        assert not db.in_transaction


def test_a_connection_of_another_thread_is_told(shop: Path, journal: Path) -> None:
    made: list[sqlite3.Connection] = []
    thread = threading.Thread(target=lambda: made.append(sqlite3.connect(shop)))
    thread.start()
    thread.join()
    with Pusher(LOCAL, journal=journal) as push, pytest.raises(JournalError, match="thread"), push.transaction(made[0]):
        raise AssertionError("it was begun")


def test_a_file_that_cannot_be_written_is_told(shop: Path, journal: Path) -> None:
    with (
        closing(sqlite3.connect(f"file:{shop}?mode=ro", uri=True)) as db,
        Pusher(LOCAL, journal=journal) as push,
        pytest.raises(JournalError, match="cannot be written"),
        push.transaction(db),
    ):
        raise AssertionError("it was begun")


def test_what_cannot_travel_takes_the_transaction_back(shop: Path, journal: Path) -> None:
    with Pusher(LOCAL, journal=journal) as push:
        with pytest.raises(EncodeError):
            send_what_cannot_travel(push, shop)
        assert push.flush(PATIENCE_S).acked == 0
    with pytest.raises(Closed), push.transaction(shop):
        raise AssertionError("it was begun")


def send_what_cannot_travel(push: Pusher, shop: Path) -> None:
    with push.transaction(shop) as outbox:
        outbox.send("a")
        outbox.send(object())


def test_a_commit_within_the_block_is_found_out(shop: Path, journal: Path) -> None:
    with (
        Pusher(LOCAL, journal=journal) as push,
        closing(sqlite3.connect(shop)) as db,
        pytest.raises(UsageError, match="leave both to zmqkit"),
        push.transaction(db),
    ):
        db.commit()


@pytest.mark.parametrize("wrong", ["no json", "{}", "[1]"])
def test_a_list_of_outboxes_that_is_none_is_told(journal: Path, wrong: str) -> None:
    journal.with_name("j.db-outboxes").write_text(wrong)
    with pytest.raises(JournalDamaged, match="remove it"):
        Pusher(LOCAL, journal=journal).open()


def test_a_row_that_is_none_is_told_and_the_others_wait(
    shop: Path, journal: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with program("leave_outbox", journal, shop, module=PROGRAMS) as running:
        left = running.heard()
        running.kill()
    with closing(sqlite3.connect(shop)) as db, db:
        db.execute("update zmqkit_outbox set options = 'no json' where id = ?", (left[0],))
    with Pusher(LOCAL, journal=journal, linger=0) as push:
        assert not push._outbox_relay().drain(0.1)
        assert "a row that is none" in caplog.text
    assert waiting(shop) == left


def test_a_database_that_was_removed_is_passed_over(shop: Path, journal: Path) -> None:
    journal.with_name("j.db-outboxes").write_text(json.dumps([str(shop), str(shop.with_name("gone.db"))]))
    with Pusher(LOCAL, journal=journal) as push:
        assert push.flush(PATIENCE_S).acked == 0
    assert not shop.with_name("gone.db").exists()


# ---- those who die ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("at", ["before commit", "after commit", "stored", "deleted"])
def test_each_committed_order_is_announced_and_no_other(shop: Path, journal: Path, tmp_path: Path, at: str) -> None:
    """The sender is killed at each step; an inbox at the other end counts what came."""
    sink = tmp_path / "sink.db"
    with closing(sqlite3.connect(sink)) as db:
        db.execute("create table effects (body)")
    lives = 6
    with zmqkit.Puller(bind=LOCAL, inbox=sink, heartbeat=zmqkit.Heartbeat(0.2)) as pull:
        for life in range(lives):
            with program("order", pull.addresses[0], journal, shop, at, life, module=PROGRAMS) as running:
                assert running.end() == -signal.SIGKILL, running.errors
        with zmqkit.Pusher(connect=pull.addresses[0], journal=journal) as push:
            told = threading.Event()

            def settle() -> None:
                push.flush(PATIENCE_S)
                told.set()

            thread = threading.Thread(target=settle)
            thread.start()
            while not told.is_set():
                job = pull.receive(0.1)
                if job is not None:
                    with job, job.transaction() as db:
                        db.execute("insert into effects values (?)", (job.body,))
            thread.join()
    with closing(sqlite3.connect(sink)) as db:
        came = [body for (body,) in db.execute("select body from effects order by body")]
    assert came == orders(shop)
    assert len(came) >= lives, "too little was ordered"
    assert waiting(shop) == []
