"""Effect and record are one commit, whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from zmqkit.errors import Closed, CommitIndeterminate, JournalDamaged, JournalError, JournalVersion, UsageError
from zmqkit.inbox import Inbox, Transaction
from zmqkit.journal import SqliteJournal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as db:
        db.execute("create table totals (n integer)")
        db.execute("insert into totals values (0)")
    db.close()
    return path


def total(path: Path) -> int:
    db = sqlite3.connect(path)
    try:
        return int(db.execute("select n from totals").fetchone()[0])
    finally:
        db.close()


def begin(inbox: Inbox) -> Transaction:
    transaction = inbox.begin()
    assert transaction is not None
    return transaction


def add(inbox: Inbox, id: str, outcome: bytes | None = None) -> bool:
    transaction = begin(inbox)
    if not transaction.record(id, "origin", outcome):
        transaction.rollback()
        return False
    transaction.connection.execute("update totals set n = n + 1")
    transaction.commit()
    return True


def test_effect_and_record_are_there_together(path: Path) -> None:
    inbox = Inbox(path)
    assert inbox.find("a") is None
    assert add(inbox, "a", b"reply")
    record = inbox.find("a")
    assert record is not None
    assert (record.id, record.origin, record.outcome) == ("a", "origin", b"reply")
    assert total(path) == 1
    inbox.close()


def test_an_id_is_recorded_once(path: Path) -> None:
    inbox = Inbox(path)
    assert [add(inbox, "a") for _ in range(3)] == [True, False, False]
    assert total(path) == 1
    inbox.close()


def test_a_rollback_leaves_neither(path: Path) -> None:
    inbox = Inbox(path)
    transaction = begin(inbox)
    transaction.record("a", "origin")
    transaction.connection.execute("update totals set n = 7")
    transaction.rollback()
    transaction.rollback()
    assert total(path) == 0
    assert inbox.find("a") is None
    assert add(inbox, "a")
    inbox.close()


def test_the_answer_may_be_set_later_in_the_same_commit(path: Path) -> None:
    inbox = Inbox(path)
    transaction = begin(inbox)
    transaction.record("a", "origin")
    transaction.answer("a", b"42")
    transaction.commit()
    record = inbox.find("a")
    assert record is not None
    assert record.outcome == b"42"
    inbox.close()


def test_records_and_the_uuid_outlive_the_object(path: Path) -> None:
    first = Inbox(path)
    add(first, "a")
    first.close()
    second = Inbox(path)
    assert second.uuid == first.uuid
    assert second.find("a") is not None
    assert second.commits == 1
    second.close()


def test_each_commit_raises_the_counter_by_one(path: Path) -> None:
    inbox = Inbox(path)
    for number in range(5):
        add(inbox, str(number))
        assert inbox.commits == number + 1
    inbox.close()


def test_threads_share_an_inbox(path: Path) -> None:
    inbox = Inbox(path)
    firsts: list[bool] = []

    def work() -> None:
        firsts.extend(add(inbox, str(number)) for number in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert sum(firsts) == 20
    assert total(path) == 20
    inbox.close()


def test_another_inbox_on_the_same_file_sees_what_is_committed(path: Path) -> None:
    one, other = Inbox(path), Inbox(path)
    assert add(one, "a")
    assert not add(other, "a")
    assert total(path) == 1
    one.close()
    other.close()


def test_who_does_not_wait_is_told_that_another_writes(path: Path) -> None:
    inbox = Inbox(path)
    transaction = begin(inbox)
    assert inbox.begin(wait=False) is None
    with pytest.raises(UsageError, match="nested"):
        inbox.begin()
    transaction.rollback()
    again = inbox.begin(wait=False)
    assert again is not None
    again.rollback()
    inbox.close()


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_handler_that_ends_the_transaction_itself_is_told(path: Path, ending: str) -> None:
    inbox = Inbox(path)
    transaction = begin(inbox)
    transaction.record("a", "origin")
    transaction.connection.execute(ending)
    with pytest.raises(UsageError, match="leave both to zmqkit"):
        transaction.commit()
    assert add(inbox, "b")  # and the inbox goes on
    inbox.close()


@pytest.mark.parametrize(
    "end",
    [
        lambda db: db.commit(),
        lambda db: db.rollback(),
        lambda db: db.executescript("create table t (x)"),
        lambda db: db.__enter__(),
    ],
    ids=["commit", "rollback", "executescript", "with"],
)
def test_a_method_that_would_end_the_transaction_is_refused_before_it_does(
    path: Path, end: Callable[[sqlite3.Connection], object]
) -> None:
    inbox = Inbox(path)
    transaction = begin(inbox)
    transaction.record("a", "origin")
    db = transaction.connection
    with pytest.raises(UsageError, match=r"transaction\(\) block commits"):
        end(db)
    assert db.in_transaction
    transaction.commit()
    assert inbox.find("a") is not None
    db.commit()  # outside of a transaction it is as ever
    inbox.close()


def test_a_callable_gives_the_connections(path: Path) -> None:
    made: list[sqlite3.Connection] = []

    def connect() -> sqlite3.Connection:
        made.append(sqlite3.connect(path))
        return made[-1]

    inbox = Inbox(connect)
    assert inbox.path == str(path)
    assert add(inbox, "a")
    thread = threading.Thread(target=add, args=(inbox, "b"))
    thread.start()
    thread.join(60)
    assert total(path) == 2
    assert len(made) == 2
    inbox.close()


def test_every_connection_is_synced_at_each_commit(path: Path) -> None:
    inbox = Inbox(path)
    transaction = begin(inbox)
    assert transaction.connection.execute("pragma synchronous").fetchone()[0] >= 2
    transaction.rollback()
    inbox.close()


def test_old_records_are_removed(path: Path) -> None:
    now = [1000.0]
    inbox = Inbox(path, keep=60.0, clock=lambda: now[0])
    for number in range(99):
        add(inbox, f"old {number}")
    now[0] += 61
    add(inbox, "new")
    assert inbox.find("old 0") is None
    assert inbox.find("new") is not None
    inbox.close()


# ---- what is refused ---------------------------------------------------------------


def test_an_inbox_in_memory_is_refused() -> None:
    with pytest.raises(UsageError, match="memory"):
        Inbox(":memory:")
    with pytest.raises(UsageError, match="memory"):
        Inbox(lambda: sqlite3.connect(":memory:"))


def test_what_is_no_source_is_refused() -> None:
    with pytest.raises(TypeError, match="path, or a callable"):
        Inbox(5)  # type: ignore[arg-type]
    with contextlib.closing(sqlite3.connect(":memory:")) as connection, pytest.raises(TypeError, match="a function"):
        Inbox(connection)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"not a sqlite3\.Connection"):
        Inbox(lambda: object())


def test_a_connection_that_would_lose_commits_is_refused(path: Path) -> None:
    def careless() -> sqlite3.Connection:
        connection = sqlite3.connect(path)
        connection.execute("pragma journal_mode = off")
        return connection

    with pytest.raises(UsageError, match="journal_mode"):
        Inbox(careless)


def test_a_journal_of_ours_is_refused(tmp_path: Path) -> None:
    SqliteJournal(tmp_path / "jobs.db").close()
    with pytest.raises(UsageError, match="a journal of zmqkit"):
        Inbox(tmp_path / "jobs.db")


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("Dear Sir, " * 1000)
    with pytest.raises(JournalDamaged, match="not a database"):
        Inbox(file)
    with pytest.raises(JournalError, match="folder"):
        Inbox(tmp_path / "nowhere" / "state.db")


def test_tables_of_another_version_are_refused(path: Path) -> None:
    Inbox(path).close()
    with sqlite3.connect(path) as db:
        db.execute("update zmqkit_inbox_state set value = 99 where name = 'version'")
    db.close()
    with pytest.raises(JournalVersion, match="version 99"):
        Inbox(path)


def test_a_closed_inbox_says_so(path: Path) -> None:
    inbox = Inbox(path)
    inbox.close()
    inbox.close()
    with pytest.raises(Closed):
        inbox.find("a")


# ---- what fails in the midst -------------------------------------------------------


class Failing(sqlite3.Connection):
    """Its COMMIT fails: before it does anything, or after it was carried out."""

    fail = ""

    def execute(self, sql: str, *args: object) -> sqlite3.Cursor:
        if sql == "commit" and Failing.fail:
            how, Failing.fail = Failing.fail, ""
            if how == "after":
                super().execute(sql)
            if how == "lost":
                super().execute("rollback")
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *args)  # type: ignore[arg-type]


@pytest.fixture
def failing(path: Path) -> Inbox:
    return Inbox(lambda: sqlite3.connect(path, factory=Failing))


@pytest.mark.parametrize("how", ["before", "lost"])
def test_a_commit_that_did_not_happen_is_said_as_such(failing: Inbox, path: Path, how: str) -> None:
    Failing.fail = how
    with pytest.raises(JournalError) as caught:
        add(failing, "a")
    assert not isinstance(caught.value, CommitIndeterminate)
    assert total(path) == 0
    assert add(failing, "a")
    failing.close()


def test_a_commit_that_the_disk_did_not_confirm_is_in_doubt(failing: Inbox) -> None:
    Failing.fail = "after"
    with pytest.raises(CommitIndeterminate) as caught:
        add(failing, "a")
    assert caught.value.id == "a"
    assert add(failing, "b")
    failing.close()


VICTIM = """
import os, signal, sys
from zmqkit.inbox import Inbox
inbox = Inbox(sys.argv[1])
number = 0
while True:
    transaction = inbox.begin()
    transaction.record(str(number), "victim")
    transaction.connection.execute("update totals set n = n + 1")
    transaction.commit()
    number += 1
    os.write(1, b"%d\\n" % number)
"""


def test_a_killed_process_leaves_as_many_effects_as_records(path: Path) -> None:
    program = [sys.executable, "-c", VICTIM, str(path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, cwd=path.parent) as victim:
        assert victim.stdout is not None
        try:
            for _ in range(20):
                told = int(victim.stdout.readline())
        finally:
            os.kill(victim.pid, signal.SIGKILL)
    inbox = Inbox(path)
    records = sum(inbox.find(str(number)) is not None for number in range(told + 1000))
    assert records == total(path) == inbox.commits
    assert records >= told
    inbox.close()


def test_who_closes_leaves_the_connections_that_other_threads_use_alone(path: Path) -> None:
    """SQLite crashes the process when a connection is closed at the moment it is used."""
    inbox = Inbox(path)
    begun, closed = threading.Event(), threading.Event()
    told: list[object] = []

    def work() -> None:
        transaction = inbox.begin()
        assert transaction is not None
        connection = transaction.connection
        begun.set()
        closed.wait(30.0)
        transaction.record("a", "origin")
        transaction.commit()
        for ask in (lambda: inbox.find("a"), lambda: connection.execute("select 1")):
            try:
                told.append(ask())
            except (Closed, sqlite3.ProgrammingError) as error:
                told.append(type(error))

    worker = threading.Thread(target=work)
    worker.start()
    assert begun.wait(30.0)
    inbox.close()
    closed.set()
    worker.join(30.0)
    assert told == [Closed, sqlite3.ProgrammingError], "it was closed by its own thread, at the end of its transaction"
    again = Inbox(path)
    assert again.find("a") is not None
    again.close()
