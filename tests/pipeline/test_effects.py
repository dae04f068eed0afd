"""Effects of jobs: there if and only if their record is, and once, whoever dies and whenever."""

from __future__ import annotations

import signal
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

import zmqkit
from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, bare, take
from tests.pipeline.processes import program
from zmqkit import AlreadySettled, Duplicate, JournalDamaged, JournalError, Puller, UsageError, aio

QUICK = zmqkit.Heartbeat(0.2)
PROGRAMS = "tests.pipeline.effects_programs"


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """A file of the user's with one table."""
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("create table effects (body)")
    return path


def rows(path: Path) -> list[Any]:
    """The effects."""
    with closing(sqlite3.connect(path)) as db:
        return [body for (body,) in db.execute("select body from effects order by body")]


def ids(path: Path) -> list[str]:
    """The records."""
    with closing(sqlite3.connect(path)) as db:
        return [id for (id,) in db.execute("select id from zmqkit_inbox_jobs")]


def done_elsewhere(path: Path, *done: str) -> None:
    """Another puller that shares the inbox was first."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("begin immediate")
        db.executemany("insert into zmqkit_inbox_jobs values (?, 'x', 0, null)", [(id,) for id in done])
        db.execute("commit")


async def apply(db: sqlite3.Connection, body: object) -> None:
    db.execute("insert into effects values (?)", (body,))


# ---- one commit ----------------------------------------------------------------------


async def test_the_commit_of_effect_and_record_acks_the_job(face: Face, inbox: Path) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], inbox=inbox) as pull:
        receipt = await push.send("a")
        async with await take(pull) as job:
            async with job.transaction() as db:
                assert job.outcome is None
                await apply(db, job.body)
            assert job.outcome == "acked"
        assert (await push.flush(PATIENCE_S)).acked == 1
    assert rows(inbox) == ["a"]
    assert ids(inbox) == [receipt.id]


async def test_an_exception_leaves_neither_and_the_job_comes_again(face: Face, inbox: Path) -> None:
    quick = zmqkit.Backoff(first=0.001)
    async with face.Pusher(LOCAL, backoff=quick) as push, face.Puller(push.addresses[0], inbox=inbox) as pull:
        await push.send("a")
        async with await take(pull) as job, job.transaction() as db:
            await apply(db, job.body)
            raise RuntimeError("no luck")
        assert (job.outcome, rows(inbox), ids(inbox)) == ("nacked", [], [])
        async with await take(pull) as job, job.transaction() as db:
            await apply(db, job.body)
        await push.flush(PATIENCE_S)
    assert rows(inbox) == ["a"]


async def test_what_was_done_before_is_acked_and_not_handed_out(face: Face, inbox: Path) -> None:
    async with face.Puller(bind=LOCAL, inbox=inbox) as pull:
        sent = await left_waiting(face, inbox.with_name("j.db"), 6)
        done_elsewhere(inbox, sent[0], sent[3], sent[4])
        async with face.Pusher(connect=pull.addresses[0], journal=inbox.with_name("j.db")) as push:
            jobs = [await take(pull) for _ in range(3)]
            assert [job.body for job in jobs] == [1, 2, 5]
            await face.until(lambda: push.stats()["acked"] == 3, "duplicates were not acked")
            assert pull.stats()["duplicates_dropped"] == 3
            for job in jobs:
                await job.ack()
            assert (await push.flush(PATIENCE_S)).acked == 6


async def left_waiting(face: Face, journal: Path, count: int) -> list[str]:
    """The ids of so many messages that wait in a closed journal."""
    with pytest.warns(RuntimeWarning, match="not settled"):
        async with face.Pusher(LOCAL, journal=journal, linger=0) as push:
            return [(await push.send(n)).id for n in range(count)]


async def test_duplicates_are_not_in_batches_either(face: Face, inbox: Path) -> None:
    async with face.Puller(bind=LOCAL, inbox=inbox) as pull:
        sent = await left_waiting(face, inbox.with_name("k.db"), 6)
        done_elsewhere(inbox, sent[0], sent[3])
        async with face.Pusher(connect=pull.addresses[0], journal=inbox.with_name("k.db")) as push:
            found: list[int] = []
            async for batch in pull.batches(10, 0.0):
                async with batch, batch.transaction() as db:
                    for body in batch.bodies:
                        await apply(db, body)
                    found += batch.bodies
                if len(found) == 4:
                    break
            await push.flush(PATIENCE_S)
    assert rows(inbox) == [1, 2, 4, 5]


@pytest.mark.parametrize("on_error", ["nack", "reject", "raise"])
async def test_a_late_duplicate_is_acked_and_the_block_swallows_it(face: Face, inbox: Path, on_error: str) -> None:
    async with (
        face.Pusher(LOCAL) as push,
        face.Puller(push.addresses[0], inbox=inbox, on_error=on_error) as pull,
    ):
        await push.send("a")
        async with await take(pull) as job:
            done_elsewhere(inbox, job.id)
            async with job.transaction():
                raise AssertionError("it was begun")
        assert job.outcome == "acked"
        assert (await push.flush(PATIENCE_S)).acked == 1
        assert pull.stats()["duplicates_late"] == 1
    assert rows(inbox) == []


async def test_outside_of_a_block_a_late_duplicate_is_raised(face: Face, inbox: Path) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], inbox=inbox) as pull:
        await push.send("a")
        job = await take(pull)
        done_elsewhere(inbox, job.id)
        with pytest.raises(Duplicate, match="was done before"):
            async with job.transaction():
                raise AssertionError("it was begun")
        await push.flush(PATIENCE_S)


async def test_of_a_batch_the_duplicates_are_acked_and_the_others_come_again(face: Face, inbox: Path) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], inbox=inbox) as pull:
        await push.send_many(range(5))
        late = True
        found = 0
        async for batch in pull.batches(5, 1.0):
            async with batch:
                if late:
                    done_elsewhere(inbox, batch[1].id, batch[2].id)
                    late = False
                async with batch.transaction() as db:
                    for body in batch.bodies:
                        await apply(db, body)
                    found += len(batch)
            if found == 3:
                break
        assert (await push.flush(PATIENCE_S)).acked == 5
    assert rows(inbox) == [0, 3, 4]


async def test_one_message_twice_in_a_batch_is_done_once(face: Face, inbox: Path) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], inbox=inbox) as pull:
        for pack in bare(push)._pack_many(["a", "b", "a"], ["1", "2", "1"]):
            bare(push)._append(pack, None, wait=True)
        found = 0
        async for batch in pull.batches(3, 1.0):
            async with batch, batch.transaction() as db:
                for body in batch.bodies:
                    await apply(db, body)
                found += len(batch)
            if found == 2:
                break
        assert await pull.receive(0.2) is None, "the other one is known now"
        assert (await push.flush(PATIENCE_S)).acked == 3
    assert rows(inbox) == ["a", "b"]


async def test_within_its_transaction_a_job_is_not_settled_otherwise(face: Face, inbox: Path) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], inbox=inbox) as pull:
        await push.send("a")
        async with await take(pull) as job:
            async with job.transaction() as db:
                for settle in (job.ack, job.nack, job.release, lambda: job.reject("no")):
                    with pytest.raises(UsageError, match="the commit acks it"):
                        await settle()
                with pytest.raises(UsageError, match="within its transaction"):
                    async with job.transaction():
                        raise AssertionError("it was begun")
                await apply(db, job.body)
            with pytest.raises(AlreadySettled):
                job.transaction()
        await push.flush(PATIENCE_S)
    assert rows(inbox) == ["a"]


async def test_a_commit_of_the_handlers_own_is_found_out(face: Face, inbox: Path) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], inbox=inbox) as pull:
        await push.send("a")
        job = await take(pull)
        with pytest.raises(UsageError, match="leave both to zmqkit"):
            async with job.transaction() as db:
                db.execute("commit")
        await job.release()
        assert await pull.receive(0.2) is None, "its record is there: it comes again, and is known"
        assert (await push.flush(PATIENCE_S)).acked == 1


async def test_one_after_the_other_writes(face: Face, inbox: Path) -> None:
    """Tasks, or threads, that want their transactions at the same time."""
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], inbox=inbox) as pull:
        await push.send_many(range(20))

        async def work() -> None:
            for _ in range(5):
                async with await take(pull) as job, job.transaction() as db:
                    (before,) = db.execute("select count(*) from effects").fetchone()
                    await face.pause()
                    await apply(db, job.body)
                    assert db.execute("select count(*) from effects").fetchone() == (before + 1,)

        async with face.together() as start:
            for _ in range(4):
                start(work)
        await push.flush(PATIENCE_S)
    assert rows(inbox) == list(range(20))


async def test_a_handler_gets_the_job_for_its_transaction(face: Face, inbox: Path) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], inbox=inbox) as pull:
        await push.send_many(range(10))

        if face.name == "sync":

            def handle(job: Any) -> None:
                with job.transaction() as db:
                    db.execute("insert into effects values (?)", (job.body,))
                    last = db.execute("select count(*) from effects").fetchone() == (10,)
                if last:
                    pull.stop()
        else:

            async def handle(job: Any) -> None:  # type: ignore[misc]
                async with job.transaction() as db:
                    await apply(db, job.body)
                    last = db.execute("select count(*) from effects").fetchone() == (10,)
                if last:
                    pull.stop()

        await pull.run(face.wants("Job", handle))
        await push.flush(PATIENCE_S)
    assert rows(inbox) == list(range(10))


# ---- whose time it takes -------------------------------------------------------------


async def test_a_loop_goes_on_while_another_process_writes(async_face: Face, inbox: Path) -> None:
    face = async_face
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], inbox=inbox) as pull:
        await push.send("a")
        job = await take(pull)
        with closing(sqlite3.connect(inbox, isolation_level=None)) as other:
            other.execute("begin immediate")

            async def work() -> None:
                async with job, job.transaction() as db:
                    await apply(db, job.body)

            async with face.together() as start:
                start(work)
                for _ in range(50):
                    await face.pause()
                assert job.outcome is None
                assert rows(inbox) == []
                other.execute("rollback")
        await push.flush(PATIENCE_S)
    assert rows(inbox) == ["a"]


async def test_cancelled_in_the_middle_neither_is_there(async_face: Face, inbox: Path) -> None:
    face = async_face
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], inbox=inbox) as pull:
        await push.send("a")
        with anyio.CancelScope() as scope:
            async with await take(pull) as job, job.transaction() as db:
                await apply(db, job.body)
                scope.cancel()
                await anyio.sleep(PATIENCE_S)
        assert (job.outcome, rows(inbox), ids(inbox)) == ("released", [], [])
        async with await take(pull) as job, job.transaction() as db:
            await apply(db, job.body)
        await push.flush(PATIENCE_S)
    assert rows(inbox) == ["a"]


async def test_cancelled_during_the_commit_both_are_there_and_the_job_is_acked(async_face: Face, inbox: Path) -> None:
    face = async_face
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], inbox=inbox) as pull:
        await push.send("a")
        with anyio.CancelScope() as scope:

            def cancel(statement: str) -> None:
                if statement.lower() == "commit":  # in the worker thread, just before it is executed
                    anyio.from_thread.run_sync(scope.cancel)

            async with await take(pull) as job:
                async with job.transaction() as db:
                    await apply(db, job.body)
                    db.set_trace_callback(cancel)
                await anyio.sleep(PATIENCE_S)
        assert scope.cancelled_caught
        assert job.outcome == "acked"
        assert (await push.flush(PATIENCE_S)).acked == 1
    assert rows(inbox) == ["a"]


async def test_a_connection_that_is_tied_to_its_thread_serves_a_loop_too(async_face: Face, inbox: Path) -> None:
    face = async_face
    given = lambda: sqlite3.connect(inbox)  # noqa: E731
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], inbox=given) as pull:
        await push.send("a")
        async with await take(pull) as job, job.transaction() as db:
            await apply(db, job.body)
        await push.flush(PATIENCE_S)
    assert rows(inbox) == ["a"]


async def test_a_plain_with_on_a_loop_says_what_to_do(async_face: Face, inbox: Path) -> None:
    async with async_face.Pusher(LOCAL) as push, async_face.Puller(push.addresses[0], inbox=inbox) as pull:
        await push.send("a")
        job = await take(pull)
        with pytest.raises(UsageError, match="say `async with`"), job.transaction():
            raise AssertionError("it was begun")
        await job.ack()
        await push.flush(PATIENCE_S)


# ---- what is no inbox ----------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["", ":memory:"])
def test_an_inbox_in_memory_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="in memory"):
        Puller("tcp://127.0.0.1:9", inbox=wrong)


@pytest.mark.parametrize("wrong", [7, b"x", object()])
def test_an_inbox_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="inbox must be"):
        Puller("tcp://127.0.0.1:9", inbox=wrong)


def test_how_long_an_inbox_remembers_needs_an_inbox_and_a_number(inbox: Path) -> None:
    with pytest.raises(UsageError, match="give inbox="):
        Puller("tcp://127.0.0.1:9", inbox_keep=3.0)
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="inbox_keep"):
            Puller("tcp://127.0.0.1:9", inbox=inbox, inbox_keep=wrong)


def test_a_file_that_is_no_database_is_refused_when_opened(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("this is no database, and long enough to be seen as none" * 100)
    with pytest.raises(JournalDamaged, match="not a database"):
        Puller("tcp://127.0.0.1:9", inbox=path).open()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="does its folder exist"):
        Puller("tcp://127.0.0.1:9", inbox=tmp_path / "none" / "x.db").open()


def test_a_file_that_cannot_be_written_is_told(inbox: Path) -> None:
    with pytest.raises(JournalError, match="cannot be written"):
        Puller("tcp://127.0.0.1:9", inbox=lambda: sqlite3.connect(f"file:{inbox}?mode=ro", uri=True)).open()


def test_a_table_of_that_name_that_is_another_is_told(inbox: Path) -> None:
    with closing(sqlite3.connect(inbox)) as db:
        db.execute("create table zmqkit_inbox_jobs (id integer primary key, name text)")
    with pytest.raises(UsageError, match="not one of zmqkit's"):
        Puller("tcp://127.0.0.1:9", inbox=inbox).open()


def test_a_journal_is_no_inbox(tmp_path: Path) -> None:
    with zmqkit.Pusher(LOCAL, journal=tmp_path / "j.db"):
        pass
    with pytest.raises(UsageError, match="is a journal"):
        Puller("tcp://127.0.0.1:9", inbox=tmp_path / "j.db").open()


def test_a_connection_of_another_thread_is_told(inbox: Path) -> None:
    made: list[sqlite3.Connection] = []
    thread = threading.Thread(target=lambda: made.append(sqlite3.connect(inbox)))
    thread.start()
    thread.join()
    with pytest.raises(JournalError, match="thread"):
        Puller("tcp://127.0.0.1:9", inbox=lambda: made[0]).open()


@pytest.mark.parametrize("kind", [zmqkit, aio])
def test_a_worker_takes_no_puller_with_an_inbox(kind: Any, inbox: Path) -> None:
    with pytest.raises(UsageError, match="a Worker keeps no records"):
        kind.Worker(print, source=kind.Puller("tcp://127.0.0.1:9", inbox=inbox))


def test_plain_pushers_have_no_ids_to_remember(inbox: Path) -> None:
    with pytest.raises(UsageError, match="without inbox="):
        Puller("tcp://127.0.0.1:9", inbox=inbox, plain=True)


def test_a_handler_that_gets_no_job_is_refused(inbox: Path) -> None:
    with pytest.raises(UsageError, match="annotate its parameter"):
        Puller("tcp://127.0.0.1:9", inbox=inbox).run(print)


# ---- those who die -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("at", ["within", "before commit", "after commit", "after ack"])
def test_effects_are_there_once_whenever_a_puller_is_killed(inbox: Path, tmp_path: Path, at: str) -> None:
    count = 30
    with zmqkit.Pusher(LOCAL, journal=tmp_path / "j.db", heartbeat=QUICK, max_failures=1000) as push:
        push.send_many(range(count))
        lives = 0
        while len(rows(inbox)) < count:
            lives += 1
            assert lives < 3 * count
            with program("apply", push.addresses[0], inbox, at, 1 + lives % 7, module=PROGRAMS) as running:
                assert running.end() in (0, -signal.SIGKILL), running.errors
        with program("apply", push.addresses[0], inbox, "never", 0, module=PROGRAMS) as running:
            settled = push.flush(PATIENCE_S)
            running.kill()
        assert (settled.acked, settled.dead) == (count, 0)
    assert rows(inbox) == list(range(count))
    assert len(ids(inbox)) == count
    assert lives > 3, "it was never killed"


@pytest.mark.slow
def test_several_processes_share_one_inbox(inbox: Path, tmp_path: Path) -> None:
    count = 200
    with zmqkit.Pusher(LOCAL, journal=tmp_path / "j.db", heartbeat=QUICK) as push:
        for pack in push._pack_many([n // 2 for n in range(count)], [f"id {n // 2}" for n in range(count)]):
            push._append(pack, None, wait=True)
        with (
            program("apply", push.addresses[0], inbox, "never", 0, module=PROGRAMS) as one,
            program("apply", push.addresses[0], inbox, "never", 0, module=PROGRAMS) as two,
            program("apply", push.addresses[0], inbox, "within", 20, module=PROGRAMS) as three,
        ):
            settled = push.flush(2 * PATIENCE_S)
            for each in (one, two, three):
                each.kill()
    assert settled.acked == count
    assert rows(inbox) == list(range(count // 2))


def test_a_child_that_is_forked_in_the_middle_touches_nothing(inbox: Path) -> None:
    with program("fork", inbox, module=PROGRAMS) as running:
        assert running.heard() == {"commit": "Forked", "begin": "Forked", "rollback": "Forked"}
        assert running.heard() == ["child", 5]
        assert running.heard() == ["acked", 1]
        assert running.end() == 0, running.errors
    assert rows(inbox) == ["a"]


@pytest.mark.slow
def test_interrupted_anywhere_effects_are_there_once(inbox: Path) -> None:
    with program("interrupted", inbox, 60, module=PROGRAMS) as running:
        told = running.heard()
        assert running.end() == 0, running.errors
    assert told["interrupts"] >= 60
    assert told["dead"] == 0
    assert rows(inbox) == list(range(told["sent"]))
    assert len(ids(inbox)) == told["sent"]
