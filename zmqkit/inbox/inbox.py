"""The inbox: what was done, recorded in the same commit as its effects, in the user's own database.

"Done" is then a fact that survives every crash: either effect and record are there, or neither. A record is keyed by
the id of the message or request, and the primary key decides who was first, between any number of threads and
processes. See P. Helland, "Life beyond Distributed Transactions" (2007), and the idempotent receiver of Hohpe and
Woolf, "Enterprise Integration Patterns" (2003).

Two tables of our own stand beside the user's::

    zmqkit_inbox(id text primary key, origin text, at integer, outcome blob)     at: microseconds since 1970
    zmqkit_inbox_state(name text primary key, value)      version, uuid, commits

``commits`` rises by one with each commit: a copy that was put back is noticed by who saw a higher one.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from zmqkit.errors import CommitIndeterminate, JournalError, UsageError, ZmqkitError
from zmqkit.inbox.connections import (
    Connections,
    Source,
    ask,
    impatient,
    is_busy,
    is_open,
    roll_back,
    translate,
    translated,
    wrong_version,
)

VERSION: Final = 1
PRUNE_EVERY: Final = 100
"""After so many commits old records are looked for..."""
PRUNE_AT_ONCE: Final = 500
"""...and at most so many removed with the commit: no handler waits long for it."""

_TABLES: Final = (
    "create table if not exists zmqkit_inbox"
    " (id text primary key, origin text not null, at integer not null, outcome blob) without rowid",
    "create index if not exists zmqkit_inbox_at on zmqkit_inbox (at)",
    "create table if not exists zmqkit_inbox_state (name text primary key, value) without rowid",
)


Proof = tuple[str, Callable[[], bool]]
"""The id of a message, and what tells whether its record is there."""


class Record(NamedTuple):
    """What the inbox knows of one id."""

    id: str
    origin: str
    at: int
    """Microseconds since 1970."""
    outcome: bytes | None
    """What was answered, where that was recorded."""


class Inbox:
    """Effects and their records, in one file of the user's.

    Args:
        source: the path of the SQLite file (made if it is not there), or a callable that gives a new
            `sqlite3.Connection`; it is called once in each thread.
        keep: seconds after which a record may be removed; None: never. Whoever may ask again must do so before.
        clock: wall time in seconds.

    Raises:
        UsageError: the file is no place for an inbox (in memory, not synced, a journal); the message says why.
        JournalError: it cannot be opened; the subclass and the message say why.

    Attributes:
        uuid: 32 hex digits, drawn when the tables were made.
        committed: how many commits the file had after the last one that was made here; 0: none was.
    """

    def __init__(self, source: Source, *, keep: float | None = None, clock: Callable[[], float] = time.time) -> None:
        self.uuid = ""
        self._keep = keep
        self._clock = clock
        self.committed = 0
        self._connections = Connections(source, self._prepare)
        self._connections.here()

    @property
    def path(self) -> str | None:
        """The file, absolute."""
        return self._connections.path

    @property
    def commits(self) -> int:
        """How many commits were made in it, ever."""
        with translated(self.path):
            return count_commits(self._connections.here(), self.path)

    def look(self) -> int | None:
        """The same, without waiting for another process that writes; None: it must be asked again later."""
        connection = self._connections.here()
        with translated(self.path), impatient(connection):
            try:
                return count_commits(connection, self.path)
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                return None

    def find(self, id: str) -> Record | None:
        """The record of this id; None: nothing with it was committed."""
        with translated(self.path):
            statement = "select id, origin, at, outcome from zmqkit_inbox where id = ?"
            row = ask(self._connections.here(), statement, (id,)).fetchone()
        return None if row is None else Record(*row)

    def begin(self, *, wait: bool = True) -> Transaction | None:
        """Begin a transaction in this thread's connection, once no other thread of this process writes.

        Args:
            wait: block until then; False: return None if another writes now.

        Raises:
            UsageError: this thread is within one already.
            JournalBusy: another process writes for too long.
        """
        connection = self._connections.here()
        if wait and connection.in_transaction:
            raise UsageError("a transaction of this inbox is open in this thread already: it cannot be nested")
        self._connections.check_place()
        if not self._connections.writing.acquire(blocking=wait):
            return None
        try:
            self._connections.hold(connection)
            with translated(self.path):
                connection.execute("begin immediate")
            return Transaction(self, connection)
        except BaseException:
            roll_back(connection)  # Ctrl-C may come between the statement and us
            self._connections.release()
            raise

    def try_begin(self) -> Transaction | None:
        """Begin a transaction, if nobody writes now: no other thread or task here, and no other process.

        Waits for nobody, so that an event loop may call it. Its `Transaction.commit` may wait.
        """
        connection = self._connections.here()
        self._connections.check_place()
        if not self._connections.writing.acquire(blocking=False):
            return None
        begun = False
        try:
            self._connections.hold(connection)
            with translated(self.path), impatient(connection):
                try:
                    connection.execute("begin immediate")
                except sqlite3.OperationalError as error:
                    if not is_busy(error):
                        raise
                else:
                    begun = True
            return Transaction(self, connection) if begun else None
        except BaseException:
            begun = False
            roll_back(connection)
            raise
        finally:
            if not begun:
                self._connections.release()

    def connection(self) -> sqlite3.Connection:
        """This thread's connection, for looking things up."""
        return self._connections.here()

    def leave(self) -> None:
        """This thread ends: close its connection."""
        self._connections.drop()

    def close(self) -> None:
        """Let go of the file."""
        self._connections.close()

    # ---- for transactions ----------------------------------------------------------

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("begin immediate")
        try:
            for table in _TABLES:
                connection.execute(table)
            connection.executemany(
                "insert or ignore into zmqkit_inbox_state values (?, ?)",
                [("version", VERSION), ("uuid", os.urandom(16).hex()), ("commits", 0)],
            )
            state = dict(ask(connection, "select name, value from zmqkit_inbox_state"))
            if state["version"] != VERSION:
                raise wrong_version(self.path, state["version"], VERSION)
            self.uuid = state["uuid"]
            connection.execute("commit")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("rollback")
            raise

    def _recorded(self, id: str) -> bool:
        return self.find(id) is not None

    def _commit(self, connection: sqlite3.Connection, proofs: list[Proof]) -> None:
        """Commit; what that leaves open is looked up."""
        connection.execute("update zmqkit_inbox_state set value = value + 1 where name = 'commits'")
        commits = count_commits(connection, self.path)
        if self._keep is not None and commits % PRUNE_EVERY == 0:
            before = int((self._clock() - self._keep) * 1e6)
            connection.execute(
                "delete from zmqkit_inbox where id in (select id from zmqkit_inbox where at < ? order by at limit ?)",
                (before, PRUNE_AT_ONCE),
            )
        try:
            connection.execute("commit")
        except sqlite3.Error as error:
            if connection.in_transaction:
                # Refused before anything was written: busy, or no room.
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("rollback")
                raise translate(error, self.path) from error
            # A failed sync: what the file holds now may be in memory only. Never ask the same connection again.
            self._connections.spend(connection)
            if proofs and not all(shows() for _, shows in proofs):
                raise translate(error, self.path) from error
            raise CommitIndeterminate(
                f"the inbox {self.path} may or may not keep what was just committed: {error}; "
                f"it shows now, but the disk did not confirm it",
                id=proofs[0][0] if proofs else None,
            ) from error
        self.committed = commits

    def _ended(self) -> None:
        self._connections.release()


class Transaction:
    """The user's effects and our records, to be committed as one.

    Attributes:
        connection: for the user's own statements. Its COMMIT and ROLLBACK are ours.
    """

    def __init__(self, inbox: Inbox, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._inbox = inbox
        self._proofs: list[Proof] = []
        self._open = True

    def __del__(self) -> None:
        # Ctrl-C came between its making and its keeping, or between its end and its commit: nobody can end it any more.
        if self._open:
            with contextlib.suppress(ZmqkitError, sqlite3.Error):  # a forked child must leave it alone
                self.rollback()

    def moves(self) -> bool:
        """Whether this thread may commit what another began: not with a connection that SQLite's module ties to one."""
        try:
            self.connection.execute("select 1")
        except sqlite3.ProgrammingError:
            return False
        return True

    def prove(self, id: str, shows: Callable[[], bool]) -> None:
        """Something was written for the message of this id; `shows` looks, after a failed commit, whether it is there.

        Raises `UsageError` if the transaction has ended.
        """
        self._check()
        self._proofs.append((id, shows))

    def record(self, id: str, origin: str, outcome: bytes | None = None) -> bool:
        """Record this id. False: it was recorded before, so its effects are there already; roll back."""
        self._check()
        with translated(self._inbox.path):
            done = self.connection.execute(
                "insert or ignore into zmqkit_inbox values (?, ?, ?, ?)",
                (id, origin, int(self._inbox._clock() * 1e6), outcome),
            ).rowcount
        if done:
            self._proofs.append((id, partial(self._inbox._recorded, id)))
        return bool(done)

    def answer(self, id: str, outcome: bytes) -> None:
        """Set the outcome of an id that was recorded in this transaction."""
        self._check()
        with translated(self._inbox.path):
            self.connection.execute("update zmqkit_inbox set outcome = ? where id = ?", (outcome, id))

    def commit(self) -> None:
        """Effects and records are there from now on, synced.

        Raises:
            UsageError: the user's own statements ended the transaction; what they did before is committed without
                its record, or rolled back, whichever they asked for.
            JournalError: nothing was stored; the subclass and the message say why.
            CommitIndeterminate: it cannot be known.
        """
        self._check()
        self._open = False
        try:
            if is_open(self.connection):
                with translated(self._inbox.path):
                    self._inbox._commit(self.connection, self._proofs)
                return
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._inbox._ended()
        raise UsageError(_ENDED)

    def rollback(self) -> None:
        """Nothing of it happened. After a commit or a rollback: nothing more happens."""
        if self._open:
            self._inbox._connections.check_process()  # a child must touch nothing: the transaction is its parent's
            self._open = False
            try:
                self._roll_back()
            finally:
                self._inbox._ended()

    def _roll_back(self) -> None:
        try:
            if self.connection.in_transaction:
                self.connection.execute("rollback")
        except sqlite3.Error:
            # Whatever it was, the file is as it was before: a connection that is closed rolls back.
            self._inbox._connections.spend(self.connection)

    def _check(self) -> None:
        if not self._open:
            raise UsageError("this transaction has ended")
        self._inbox._connections.check_process()
        if not is_open(self.connection):
            self._open = False
            self._inbox._ended()
            raise UsageError(_ENDED)


def count_commits(connection: sqlite3.Connection, path: str | None) -> int:
    """How many commits an inbox has had. Raises `JournalError` if that is not there any more."""
    row = ask(connection, "select value from zmqkit_inbox_state where name = 'commits'").fetchone()
    if row is None or not isinstance(row[0], int):
        raise JournalError(f"the inbox {path} has lost what zmqkit_inbox_state held; restore it from a copy")
    return int(row[0])


_ENDED = (
    "the transaction was ended by a COMMIT or ROLLBACK of the handler's own: leave both to zmqkit, or effect and "
    "record are not one"
)
