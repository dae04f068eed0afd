"""Which messages of pipelines were dealt with, in the user's own database: one row each, committed with the effects.

A table of our own stands beside the user's::

    zmqkit_inbox_jobs(id text primary key, origin text, at bigint, sent bigint)    microseconds since 1970

The primary key decides who was first, between any number of threads and processes. ``sent`` is when the message was
sent, by its sender's clock, if its id is derived from a pusher's journal and number: such an id is that of one message
for all time, so its record may be removed once nobody may deal with it any more, see `JobRecords`. Ids that users
chose, and those of a worker's outputs, can come again with a later time: their ``sent`` is null, and they stay.

Knows sqlite3; no job, no puller.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from zmqkit.errors import UsageError
from zmqkit.inbox.connections import ask, impatient, is_busy, translated
from zmqkit.inbox.inbox import Inbox, Transaction, count_commits

TABLE: Final = (
    "create table if not exists zmqkit_inbox_jobs"
    " (id text primary key, origin text not null, at bigint not null, sent bigint)"
)
"""For a database of any kind."""

_TABLES: Final = (TABLE + " without rowid",)
_INDEX: Final = "create index if not exists zmqkit_inbox_jobs_sent on zmqkit_inbox_jobs (sent) where sent is not null"

_INSERT: Final = "insert or ignore into zmqkit_inbox_jobs values (?, ?, ?, ?)"

AT_ONCE: Final = 500
"""So many ids are looked for by one statement."""
PRUNE_EVERY: Final = 100
"""After so many records old ones are looked for..."""
PRUNE_AT_ONCE: Final = 500
"""...and at most so many removed with the commit."""

_DERIVED: Final = re.compile(r"[0-9a-f]{16}-(?:[0-9a-f]{8}-[0-9]{1,20}|[0-9a-f]{24})\Z")
"""From a pusher's journal and number, or from its outbox."""
_HORIZON: Final = "jobs_horizon"


class JobRecord(NamedTuple):
    """What is written of one message."""

    id: str
    origin: str
    sent: int | None
    """See above; None: its record stays for ever."""


def record_of(id: str, origin: str, sent_at: int) -> JobRecord:
    """The record of a message that was sent then, in microseconds since 1970."""
    return JobRecord(id, origin, sent_at if _DERIVED.match(id) else None)


class Known(NamedTuple):
    """What an inbox knows of some messages, by their ids."""

    done: frozenset[str]
    """They were dealt with."""
    forgotten: frozenset[str]
    """They are so old that nobody can tell."""


NOTHING: Final = Known(frozenset(), frozenset())


class JobRecords:
    """The records of jobs in one inbox.

    Args:
        inbox: whose file; this object's methods work in the calling thread's connection.
        keep: seconds after which the record of a message with a derived id may be removed, counted from when it was
            sent; None: never. What was sent before the newest that was removed is `Known.forgotten`, so that nothing is
            done twice, whatever the clocks say.
        clock: wall time in seconds.

    Attributes:
        seen: how many commits the inbox had when something was looked up last, about; 0: nothing was.

    Raises:
        UsageError: the table there is not ours.
        JournalError: the table cannot be made or read; the subclass and the message say why.
    """

    def __init__(self, inbox: Inbox, *, keep: float | None = None, clock: Callable[[], float] = time.time) -> None:
        self._inbox = inbox
        self._keep = keep
        self._clock = clock
        self._until_pruning = 1
        self.seen = 0
        wanted = ["zmqkit_inbox_jobs"] if keep is None else ["zmqkit_inbox_jobs", "zmqkit_inbox_jobs_sent"]
        with translated(inbox.path):
            found = ask(inbox.connection(), "select name from sqlite_master where name glob 'zmqkit_inbox_jobs*'")
            names = {name for (name,) in found}
        if not names.issuperset(wanted):
            self._make()
        self._check()

    def _make(self) -> None:
        transaction = self._inbox.begin()
        assert transaction is not None  # it waits
        try:
            with translated(self._inbox.path):
                for table in _TABLES:
                    transaction.connection.execute(table)
            self._check()
            if self._keep is not None:
                with translated(self._inbox.path):
                    transaction.connection.execute(_INDEX)
            transaction.commit()
        finally:
            transaction.rollback()  # nothing happens if it was committed

    def _check(self) -> None:
        with translated(self._inbox.path):
            columns = ask(self._inbox.connection(), "pragma table_info(zmqkit_inbox_jobs)").fetchall()
        if [(name, key) for _, name, _, _, _, key in columns] != [("id", 1), ("origin", 0), ("at", 0), ("sent", 0)]:
            raise UsageError(
                f"{self._inbox.path} has a table zmqkit_inbox_jobs that is not one of zmqkit's: rename it, or choose "
                "another file as the inbox"
            )

    def look_up(self, records: Sequence[JobRecord], *, wait: bool = True) -> Known:
        """What is known of these messages.

        Args:
            wait: for a process that ends a commit; False: know `NOTHING` instead, which is no harm: `record` finds it.
        """
        connection = self._inbox.connection()
        if connection.in_transaction:
            return NOTHING  # what is not committed must not be taken for done
        with translated(self._inbox.path):
            if wait:
                return self._look_up(connection, records)
            with impatient(connection):
                try:
                    return self._look_up(connection, records)
                except sqlite3.OperationalError as error:
                    if not is_busy(error):
                        raise
                    return NOTHING

    def _look_up(self, connection: sqlite3.Connection, records: Sequence[JobRecord]) -> Known:
        done: set[str] = set()
        for at in range(0, len(records), AT_ONCE):
            ids = [each.id for each in records[at : at + AT_ONCE]]
            marks = ",".join("?" * len(ids))
            found = ask(connection, f"select id from zmqkit_inbox_jobs where id in ({marks})", ids)
            done.update(id for (id,) in found)
        self.seen = count_commits(connection, self._inbox.path)
        horizon = self._horizon(connection)
        forgotten = {each.id for each in records if each.sent is not None and each.sent < horizon} - done
        return Known(frozenset(done), frozenset(forgotten))

    @staticmethod
    def _horizon(connection: sqlite3.Connection) -> int:
        """Records of what was sent before may have been removed."""
        row = ask(connection, "select value from zmqkit_inbox_state where name = ?", (_HORIZON,)).fetchone()
        return 0 if row is None else int(row[0])

    def record(self, transaction: Transaction, records: Iterable[JobRecord]) -> Known:
        """Write these down, within a transaction. If that returns anything but `NOTHING`, roll back."""
        connection, now = transaction.connection, int(self._clock() * 1e6)
        forgotten: set[str] = set()
        fresh: list[tuple[str, str, int, int | None]] = []
        with translated(self._inbox.path):
            horizon = self._horizon(connection)
            for each in records:
                if each.sent is not None and each.sent < horizon:
                    forgotten.add(each.id)
                else:
                    fresh.append((each.id, each.origin, now, each.sent))
            done = _write(connection, fresh)
            if forgotten:
                done |= self._look_up(connection, [JobRecord(id, "", None) for id in forgotten]).done
            if not (done or forgotten) and self._keep is not None:
                self._prune(connection)
        if fresh:
            first = fresh[0][0]
            transaction.prove(first, lambda: self._is_there(first))
        return Known(frozenset(done), frozenset(forgotten - done)) if done or forgotten else NOTHING

    def _is_there(self, id: str) -> bool:
        with translated(self._inbox.path):
            found = ask(self._inbox.connection(), "select 1 from zmqkit_inbox_jobs where id = ?", (id,))
            return found.fetchone() is not None

    def _prune(self, connection: sqlite3.Connection) -> None:
        self._until_pruning -= 1
        if self._until_pruning:
            return
        self._until_pruning = PRUNE_EVERY
        assert self._keep is not None
        before = int((self._clock() - self._keep) * 1e6)
        old = ask(
            connection,
            "select id, sent from zmqkit_inbox_jobs where sent is not null and sent < ? order by sent limit ?",
            (before, PRUNE_AT_ONCE),
        ).fetchall()
        if not old:
            return
        connection.executemany("delete from zmqkit_inbox_jobs where id = ?", [(id,) for id, _ in old])
        horizon = max(self._horizon(connection), old[-1][1] + 1)
        connection.execute("insert or replace into zmqkit_inbox_state values (?, ?)", (_HORIZON, horizon))


def _write(connection: sqlite3.Connection, rows: Sequence[tuple[str, str, int, int | None]]) -> set[str]:
    """Write these down. Returns the ids of those that were there before; then it is the same for all others."""
    if len(rows) > 1:
        connection.execute("savepoint zmqkit_inbox_jobs")
        written = connection.executemany(_INSERT, rows).rowcount
        if written != len(rows):  # which of them is not told
            connection.execute("rollback to zmqkit_inbox_jobs")
        connection.execute("release zmqkit_inbox_jobs")
        if written == len(rows):
            return set()
    return {row[0] for row in rows if not connection.execute(_INSERT, row).rowcount}
