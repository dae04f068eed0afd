"""Connections to the user's own SQLite file, one a thread, checked for what an inbox relies on.

Knows the standard library's sqlite3, no record and no pattern. It is the user's own copy of SQLite on purpose: two
copies in one process do not see each other's locks, and a committed row vanishes without an error.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

from zmqkit.errors import Closed, Forked, JournalBusy, JournalDamaged, JournalError, JournalVersion, UsageError

Connection = sqlite3.Connection

Source = str | os.PathLike[str] | Callable[[], Any]

BUSY_SECONDS: Final = 30.0
"""How long another process may hold the file before we give up."""

FULL: Final = 2
SAFE_MODES: Final = frozenset({"delete", "truncate", "persist", "wal"})
JOURNAL_ID: Final = 0x7A6D716A
"""The application id of zmqkit's journals, which are never opened with this copy of SQLite."""

_FULL_CODES: Final = frozenset({sqlite3.SQLITE_FULL})
_BUSY_CODES: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED_CODES: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def check_source(source: Source | None) -> None:
    """Raises `TypeError` or `UsageError` for what cannot be an inbox, before anything is opened."""
    if isinstance(source, sqlite3.Connection):  # which is callable, too
        raise TypeError(
            "inbox must be a path, or a callable that gives a connection, got a connection: each thread needs its own, "
            "so give the path, or a function that connects"
        )
    if source is None or callable(source):
        return
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"inbox must be a path, or a callable that gives a connection, got {source!r}")
    if os.fspath(source) in ("", ":memory:"):
        raise UsageError("an inbox in memory would forget what was done: give it a file")


class OwnConnection(sqlite3.Connection):
    """A connection that lets nobody end, by a method of its own, a transaction that zmqkit is to end.

    Found out afterwards, as it is of a COMMIT in plain SQL, it would be too late: effects are there already.
    """

    def commit(self) -> None:
        self._leave()
        super().commit()

    def rollback(self) -> None:
        self._leave()
        super().rollback()

    def executescript(self, sql_script: str, /) -> sqlite3.Cursor:
        self._leave("executescript() commits first: say execute() for each statement. ")
        return super().executescript(sql_script)

    def __enter__(self) -> Self:
        self._leave("`with` on a connection commits at its end. ")
        return super().__enter__()

    def _leave(self, why: str = "") -> None:
        if self.in_transaction:
            raise UsageError(
                f"{why}The end of the transaction() block commits, and an exception that leaves it rolls back: leave "
                f"both to it, or effect and record are not one"
            )


class Connections:
    """One connection a thread, each synced at every commit.

    Args:
        source: the path of the file, made if it is not there; or a callable that gives a new `sqlite3.Connection`,
            called once in each thread that uses it.
        prepare: called with the first connection: makes the tables.

    Attributes:
        path: of the file, absolute; None while it is not known (a callable that was not called yet), or in memory.
        writing: held by the thread or task of this process that writes: SQLite lets only one do so at a time.
    """

    def __init__(self, source: Source, prepare: Callable[[sqlite3.Connection], None]) -> None:
        check_source(source)
        self.path: str | None = None if callable(source) else str(Path(source).absolute())
        self.writing = threading.Lock()
        self._source = source
        self._prepare: Callable[[sqlite3.Connection], None] | None = prepare
        self._first = threading.Lock()
        self._here = threading.local()
        self._pid = os.getpid()
        self._closed = False
        self._opened: dict[sqlite3.Connection, threading.Thread] = {}
        """Those that we opened, and for whom. Nobody else closes one while that thread lives: to close a connection
        that is used at that moment crashes the process."""
        self._held: sqlite3.Connection | None = None
        """That on which somebody writes, the owner of `writing`: it is closed by nobody."""
        self._spent: set[sqlite3.Connection] = set()
        """Not to be used again by the thread whose they are: a commit of theirs failed."""
        self._place: tuple[int, int] | None = None
        """Device and inode of the file that was prepared."""

    def here(self) -> sqlite3.Connection:
        """This thread's connection, in autocommit mode. Raises `JournalError`, `Closed`, `Forked`."""
        self.check_process()
        if self._closed:
            self.drop()
            raise Closed(f"the inbox {self.path} is closed")
        connection = self._mine()
        if connection is not None and (connection in self._spent or _is_closed(connection)):
            self._spent.discard(connection)
            self.drop()
            connection = None
        if connection is None:
            with translated(self.path):
                connection = self._open()
            self._here.connection = connection
        return connection

    def _mine(self) -> sqlite3.Connection | None:
        """This thread's connection, if it has one."""
        return getattr(self._here, "connection", None)

    def drop(self) -> None:
        """Close this thread's connection, unless somebody writes on it; the next `here` opens a new one."""
        connection = self._mine()
        if connection is not None and connection is not self._held:
            del self._here.connection
            self._opened.pop(connection, None)
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def spend(self, connection: sqlite3.Connection) -> None:
        """Let nobody ask this connection again, whatever thread's it is."""
        self._spent.add(connection)

    def hold(self, connection: sqlite3.Connection) -> None:
        """Somebody writes on it, who has `writing`."""
        self._held = connection

    def release(self) -> None:
        """That is over."""
        held, self._held = self._held, None
        if held is not None and (self._closed or held in self._spent) and held is self._mine():
            self._spent.discard(held)
            self.drop()
        self.writing.release()

    def close(self) -> None:
        """Close what nobody uses, and let no other be opened.

        A thread that still uses its own closes it when the transaction ends, or when it asks for it again; or it goes
        with the thread, or with us.
        """
        self._closed = True
        if os.getpid() == self._pid:
            self.drop()
            self._leave_dead()
            self._opened.clear()

    def check_place(self) -> None:
        """Raises `JournalDamaged` where the file is no longer that which was opened: what goes there now is lost."""
        assert self.path is not None  # it was opened
        try:
            found = os.stat(self.path)
        except OSError as error:
            why = f"it cannot be found: {error}"
        else:
            if self._place in (None, (found.st_dev, found.st_ino)):
                return
            why = "another file is in its place"
        raise JournalDamaged(
            f"the inbox {self.path} was removed or replaced while it was open ({why}): what was committed to it now "
            "would be lost. Put the file back; or, to go on with what is there, close this peer and open it again"
        )

    def _leave_dead(self) -> None:
        """Close what was opened for threads that have ended, but what another thread is to commit."""
        for connection, thread in list(self._opened.items()):
            if not thread.is_alive() and connection is not self._held:
                self._opened.pop(connection, None)
                self._spent.discard(connection)
                with contextlib.suppress(sqlite3.Error):
                    connection.close()

    def _open(self) -> sqlite3.Connection:
        self._leave_dead()
        if callable(self._source):
            connection: sqlite3.Connection = self._source()
            if not isinstance(connection, sqlite3.Connection):
                raise UsageError(
                    f"the inbox's callable gave {type(connection).__name__}, not a sqlite3.Connection; for another "
                    f"database keep the request's id in a table of your own, in your own transaction"
                )
            if connection.in_transaction:
                raise UsageError("the inbox's callable gave a connection that is within a transaction")
        else:
            connection = sqlite3.connect(
                str(self.path), timeout=BUSY_SECONDS, check_same_thread=False, factory=OwnConnection
            )
        try:
            connection.isolation_level = None  # we say BEGIN and COMMIT ourselves
            check_text(connection)
            self._check(connection)
            with self._first:
                if self._prepare is not None:
                    self._prepare(connection)
                    self._prepare = None
                    assert self.path is not None  # it was checked
                    found = os.stat(self.path)
                    self._place = found.st_dev, found.st_ino
        except BaseException:
            connection.close()
            raise
        if not callable(self._source):
            self._opened[connection] = threading.current_thread()
        return connection

    def check_process(self) -> None:
        """Raises `Forked` in a child: SQLite's connections are the parent's alone."""
        if os.getpid() != self._pid:
            raise Forked(f"the inbox {self.path} belongs to the parent process {self._pid}; open a new one")

    def _check(self, connection: sqlite3.Connection) -> None:
        """Synced at each commit, and read back: a setting that SQLite did not take must not be believed."""
        if _ask(connection, "application_id") == JOURNAL_ID:
            raise UsageError(
                f"{self.path} is a journal of zmqkit: it holds messages, not your effects; choose another file"
            )
        mode = str(_ask(connection, "journal_mode")).lower()
        if mode not in SAFE_MODES:
            raise UsageError(
                f"the inbox is in journal_mode={mode}, in which a crash loses or damages what was committed: "
                f"set it to delete, truncate, persist or wal"
            )
        # With a rollback journal, EXTRA also syncs the folder after the journal's removal; in WAL mode it is FULL.
        connection.execute("pragma synchronous = extra")
        connection.execute("pragma fullfsync = on")
        level = _ask(connection, "synchronous")
        if not isinstance(level, int) or level < FULL:
            raise UsageError(f"the inbox has synchronous={level} though FULL was set: its commits are not safe")
        if self.path is None:
            for _, name, file in ask(connection, "pragma database_list"):
                if name == "main" and file:
                    self.path = file
            if self.path is None:
                raise UsageError("an inbox in memory would forget what was done: give it a file")


def _ask(connection: sqlite3.Connection, pragma: str) -> Any:
    row = ask(connection, f"pragma {pragma}").fetchone()
    return row[0] if row else None


def ask(connection: sqlite3.Connection, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
    """Execute what gives rows, as tuples: whatever ``row_factory`` the user's connection has."""
    cursor = connection.cursor()
    cursor.row_factory = None
    return cursor.execute(statement, values)


def check_text(connection: sqlite3.Connection) -> None:
    """Raises `UsageError` for a connection on which text is something else."""
    if ask(connection, "select 'text'").fetchone() != ("text",):
        raise UsageError("this connection has a text_factory that gives no str: leave it as it is by default")


@contextlib.contextmanager
def translated(path: str | None, what: str = "inbox") -> Iterator[None]:
    """SQLite's errors become `JournalError`s that say what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, path, what) from error


def translate(error: sqlite3.Error, path: str | None, what: str = "inbox") -> JournalError:
    """The `JournalError` for an error of SQLite's before a commit: nothing was stored."""
    where = f"the {what} {path}"
    code = getattr(error, "sqlite_errorcode", None)
    code = code & 0xFF if isinstance(code, int) else None
    if code in _BUSY_CODES:
        return JournalBusy(f"{where} is held by another process for longer than {BUSY_SECONDS:.0f} s: {error}")
    if code in _DAMAGED_CODES:
        return JournalDamaged(f"{where} is not a database, or is damaged: {error}; restore it from a copy")
    if code == sqlite3.SQLITE_CANTOPEN:
        return JournalError(f"{where} cannot be opened: {error}; does its folder exist, may we write there?")
    if code in _FULL_CODES:
        return JournalError(f"no room on the disk for {where}: {error}; nothing was stored")
    if code == sqlite3.SQLITE_READONLY:
        return JournalError(f"{where} cannot be written: {error}; may we write the file and its folder?")
    return JournalError(f"{where}: {error}")


def is_open(connection: sqlite3.Connection) -> bool:
    """Whether a transaction is open there; may be asked from any thread. Not on one that was closed."""
    try:
        return connection.in_transaction
    except sqlite3.ProgrammingError:
        return False


def _is_closed(connection: sqlite3.Connection) -> bool:
    try:
        _ = connection.in_transaction
    except sqlite3.ProgrammingError:
        return True
    return False


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection writes at the moment, or ends a write."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(code, int) and code & 0xFF in _BUSY_CODES


@contextlib.contextmanager
def impatient(connection: sqlite3.Connection) -> Iterator[None]:
    """Within this block nothing waits for another connection: it is busy at once."""
    patience = _ask(connection, "busy_timeout")
    connection.execute("pragma busy_timeout = 0")
    try:
        yield
    finally:
        connection.execute(f"pragma busy_timeout = {int(patience or 0)}")


def wrong_version(path: str | None, version: object, ours: int) -> JournalVersion:
    """The tables in the file are of another version."""
    return JournalVersion(f"the inbox {path} has tables of version {version}; this zmqkit writes version {ours}")


def roll_back(connection: sqlite3.Connection) -> None:
    """Nothing of it happened."""
    with contextlib.suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("rollback")
