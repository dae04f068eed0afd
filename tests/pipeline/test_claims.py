"""Jobs that are claimed in a transaction of the user's own."""

from __future__ import annotations

import sqlite3
import sys
import types
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import zmqkit
from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, bare, take
from tests.pipeline.test_effects import apply, ids, inbox, rows
from zmqkit import Puller, UsageError

__all__ = ["inbox"]


async def test_a_claim_is_part_of_the_users_transaction(face: Face, inbox: Path) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        with closing(sqlite3.connect(inbox)) as db:
            await push.send("a")
            async with await take(pull) as job, within(db):
                assert job.claim(db) is True
                await apply(db, job.body)
            assert ids(inbox) == [job.id]
            await push.flush(PATIENCE_S)
            assert job.outcome == "acked"
    assert rows(inbox) == ["a"]


class within:
    """What ``with db:`` is, for an ``async with`` that has other things to enter as well."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    async def __aenter__(self) -> None:
        self._db.__enter__()

    async def __aexit__(self, *raised: Any) -> None:
        self._db.__exit__(*raised)


async def test_what_is_claimed_twice_is_told(face: Face, inbox: Path) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        with closing(sqlite3.connect(inbox)) as db:
            for pack in bare(push)._pack_many(["a", "a"], ["1", "1"]):
                bare(push)._append(pack, None, wait=True)
            told = []
            for _ in range(2):
                async with await take(pull) as job, within(db):
                    told.append(job.claim(db))
                    if told[-1]:
                        await apply(db, job.body)
            assert told == [True, False]
            assert (await push.flush(PATIENCE_S)).acked == 2
    assert rows(inbox) == ["a"]


async def test_an_ack_before_the_commit_is_refused(face: Face, inbox: Path) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        with closing(sqlite3.connect(inbox)) as db:
            await push.send("a")
            job = await take(pull)
            assert job.claim(db)
            with pytest.raises(UsageError, match="commit first"):
                await job.ack()
            db.commit()
            await job.ack()
            await push.flush(PATIENCE_S)


async def test_a_claim_that_is_rolled_back_never_was(face: Face, inbox: Path) -> None:
    quick = zmqkit.Backoff(first=0.001)
    async with face.Pusher(LOCAL, backoff=quick) as push, face.Puller(push.addresses[0]) as pull:
        with closing(sqlite3.connect(inbox)) as db:
            await push.send("a")
            async with await take(pull) as job, within(db):
                assert job.claim(db)
                await apply(db, job.body)
                raise RuntimeError("no luck")
            assert job.outcome == "nacked"
            async with await take(pull) as job, within(db):
                assert job.claim(db)
                await apply(db, job.body)
            await push.flush(PATIENCE_S)
    assert rows(inbox) == ["a"]


@pytest.fixture
def job() -> Iterator[Any]:
    """A job of the sync face."""
    with zmqkit.Pusher(LOCAL, linger=0) as push, Puller(push.addresses[0]) as pull:
        push.send("a")
        job = pull.receive(PATIENCE_S)
        assert job is not None
        yield job
        job.ack()
        push.flush(PATIENCE_S)


def test_a_connection_in_autocommit_cannot_claim(job: Any, inbox: Path) -> None:
    with closing(sqlite3.connect(inbox, isolation_level=None)) as db:
        with pytest.raises(UsageError, match="autocommit"):
            job.claim(db)
        db.execute("begin")
        assert job.claim(db)
        db.execute("commit")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 has autocommit= since Python 3.12")
def test_a_connection_with_autocommit_true_cannot_claim(job: Any, inbox: Path) -> None:
    given: Any = {"autocommit": True}
    with closing(sqlite3.connect(inbox, **given)) as db, pytest.raises(UsageError, match="autocommit"):
        job.claim(db)


def test_a_connection_whose_commits_are_not_synced_cannot_claim(job: Any, inbox: Path) -> None:
    with closing(sqlite3.connect(inbox)) as db:
        db.execute("pragma synchronous = normal")
        with pytest.raises(UsageError, match="synchronous=1"):
            job.claim(db)


def test_a_database_in_memory_cannot_claim(job: Any) -> None:
    with closing(sqlite3.connect(":memory:")) as db, pytest.raises(UsageError, match="would forget"):
        job.claim(db)


@pytest.mark.parametrize("wrong", [None, "state.db", 7, object()])
def test_what_is_no_connection_cannot_claim(job: Any, wrong: Any) -> None:
    with pytest.raises(UsageError, match="PEP 249"):
        job.claim(wrong)


class Driver:
    """A connection of the DB-API that is none of sqlite3's, over one that is."""

    autocommit = False

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def cursor(self) -> Any:
        return Cursor(self.db.cursor())


class Cursor:
    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor

    def execute(self, statement: str, given: Any) -> None:
        self._cursor.execute(statement.replace("%s", "?"), given)

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount

    def close(self) -> None:
        self._cursor.close()


@pytest.mark.parametrize("style", ["qmark", "format", "pyformat", "named", "numeric"])
@pytest.mark.parametrize("name", ["psycopg", "another"])
def test_any_driver_can_claim(job: Any, inbox: Path, name: str, style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(name)
    module.paramstyle = style  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(Driver, "__module__", f"{name}.connections")
    with closing(sqlite3.connect(inbox)) as db:
        with pytest.raises(UsageError, match="create table if not exists zmqkit_inbox_jobs"):
            job.claim(Driver(db))
        db.execute("create table zmqkit_inbox_jobs (id text primary key, origin text, at bigint, sent bigint)")
        assert job.claim(Driver(db)) is True
        job._let_go()
        assert job.claim(Driver(db)) is False
        db.commit()
    assert ids(inbox) == [job.id]
    connection: Any = Driver(db)
    connection.autocommit = True
    with pytest.raises(UsageError, match="autocommit"):
        job.claim(connection)


def test_a_job_of_a_puller_without_an_inbox_has_no_transaction(job: Any) -> None:
    with pytest.raises(UsageError, match="inbox="):
        job.transaction()
