"""Inboxes that are not as they should be, or are used as nobody should."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, bare, take
from zmqkit import Heartbeat, JournalDamaged, Puller, Pusher, UsageError


@pytest.fixture(params=["delete", "wal"])
def inbox(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of the user's with one table, in each kind of journal that is usual."""
    return make(tmp_path / "state.db", request.param)


def make(path: Path, mode: str = "wal") -> Path:
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"pragma journal_mode = {mode}")
        db.execute("create table effects (body)")
        db.commit()
    return path


def effects(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return [body for (body,) in db.execute("select body from effects order by body")]


def take_away(path: Path, replace: bool) -> Path:
    away = path.rename(path.with_name("away.db"))
    if replace:
        path.write_bytes(away.read_bytes())
    return away


def do(pull: Puller[Any]) -> Any:
    """Take a job, and have its effect."""
    job = pull.receive(PATIENCE_S)
    assert job is not None, "none came"
    with job.transaction() as db:
        db.execute("insert into effects values (?)", (job.body,))
    return job


def in_a_thread(step: Callable[[], Any]) -> None:
    thread = threading.Thread(target=step)
    thread.start()
    thread.join()


@pytest.mark.parametrize("then", ["removed", "replaced"])
async def test_in_a_file_that_was_taken_away_nothing_is_done(face: Face, inbox: Path, then: str) -> None:
    async with face.Pusher(LOCAL, linger=0) as push, face.Puller(push.addresses[0], inbox=inbox) as pull:
        await push.send_many(["a", "b"])
        async with await take(pull) as job, job.transaction() as db:
            db.execute("insert into effects values (?)", (job.body,))
        away = take_away(inbox, then == "replaced")
        job = await take(pull)
        with pytest.raises(JournalDamaged, match="removed or replaced while it was open"):
            async with job.transaction():
                raise AssertionError("it was begun")
        await job.release()
        away.rename(inbox)
        async with await take(pull) as job, job.transaction() as db:
            db.execute("insert into effects values (?)", (job.body,))
        assert (await push.flush(PATIENCE_S)).acked == 2
    assert effects(inbox) == ["a", "b"]


def test_threads_that_have_ended_leave_no_connection_behind(inbox: Path) -> None:
    with Pusher(LOCAL) as push, Puller(push.addresses[0], inbox=inbox) as pull:
        push.send_many(range(20))
        for _ in range(20):
            in_a_thread(lambda: do(pull))
        effects_of: Any = bare(pull)._effects
        assert len(effects_of._inbox._connections._opened) <= 3  # this thread's, that of the last one, of one before
        push.flush(PATIENCE_S)
    assert effects(inbox) == list(range(20))


def test_what_a_thread_that_has_ended_began_can_be_committed(inbox: Path) -> None:
    with Pusher(LOCAL) as push, Puller(push.addresses[0], inbox=inbox) as pull:
        push.send("a")
        job = pull.receive()
        transaction = job.transaction()

        def begin() -> None:
            transaction.__enter__().execute("insert into effects values (?)", (job.body,))

        in_a_thread(begin)
        in_a_thread(lambda: bare(pull)._effects._inbox.commits)  # a connection of its own
        transaction.__exit__(None, None, None)
        assert push.flush(PATIENCE_S).acked == 1
    assert effects(inbox) == ["a"]


def test_a_thread_that_comes_after_a_change_of_directory_has_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = make(tmp_path / "state.db")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    with Pusher(LOCAL) as push, Puller(push.addresses[0], inbox="state.db") as pull:
        pull.open()
        monkeypatch.chdir(elsewhere)
        push.send("a")
        in_a_thread(lambda: do(pull))
        assert push.flush(PATIENCE_S).acked == 1
    assert effects(inbox) == ["a"]
    assert not list(elsewhere.iterdir())


def test_a_connection_that_a_handler_closed_is_made_anew(inbox: Path) -> None:
    with Pusher(LOCAL) as push, Puller(push.addresses[0], inbox=inbox) as pull:
        push.send_many(["a", "b"])

        def close(job: Any) -> None:
            with job.transaction() as db:
                db.close()

        job = pull.receive()
        with pytest.raises(UsageError, match="was ended"):
            close(job)
        job.release()
        do(pull)
        do(pull)
        assert push.flush(PATIENCE_S).acked == 2
    assert effects(inbox) == ["a", "b"]


def test_a_job_can_be_extended_within_its_transaction(inbox: Path) -> None:
    with (
        Pusher(LOCAL, heartbeat=Heartbeat(0.2)) as push,
        Puller(push.addresses[0], inbox=inbox, heartbeat=Heartbeat(0.2), max_lease=60) as pull,
    ):
        push.send("a")
        with pull.receive() as job, job.transaction() as db:
            db.execute("insert into effects values (?)", (job.body,))
            job.extend(120)
        assert push.flush(PATIENCE_S).acked == 1
    assert effects(inbox) == ["a"]


def as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def test_connections_may_have_rows_of_any_kind(inbox: Path, tmp_path: Path) -> None:
    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(inbox)
        connection.row_factory = as_dict
        return connection

    with (
        closing(connect()) as own,
        Pusher(LOCAL, journal=tmp_path / "j.db") as push,
        Puller(push.addresses[0]) as pull,
        Pusher(LOCAL) as other,
        Puller(other.addresses[0], inbox=connect) as sink,
    ):
        with push.transaction(own) as outbox:
            outbox.send("a")
        job = pull.receive()
        with own:
            assert job.claim(own)
            own.execute("insert into effects values (?)", (job.body,))
        job.ack()
        other.send("b")
        job = sink.receive()
        with job.transaction() as db:
            db.execute("insert into effects values (?)", (job.body,))
            assert db.execute("select body from effects where body = 'b'").fetchall() == [{"body": "b"}]
        assert other.flush(PATIENCE_S).acked == push.flush(PATIENCE_S).acked == 1
    assert effects(inbox) == ["a", "b"]


def test_a_connection_on_which_text_is_bytes_is_refused(inbox: Path, tmp_path: Path) -> None:
    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(inbox)
        connection.text_factory = bytes
        return connection

    with closing(connect()) as own, Pusher(LOCAL, journal=tmp_path / "j.db") as push:
        with pytest.raises(UsageError, match="text_factory"), push.transaction(own):
            raise AssertionError("it was begun")
        with pytest.raises(UsageError, match="text_factory"):
            Puller(push.addresses[0], inbox=connect).open()
        with Puller(push.addresses[0]) as pull:
            push.send("a")
            job = pull.receive()
            with own, pytest.raises(UsageError, match="text_factory"):
                job.claim(own)
            job.ack()
            push.flush(PATIENCE_S)
