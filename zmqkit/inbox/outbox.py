"""Messages that are to be sent, in the user's own database: they are there if and only if the user's rows are.

A table of our own stands beside the user's::

    zmqkit_outbox(n integer primary key, pusher text, id text, codec text, sent_at integer, options text,
                  body blob, unique (pusher, id))

``pusher`` is the uuid of the journal that the messages are for, ``options`` a JSON object. A row is deleted once that
journal holds its message; until then whoever opens the journal sends it, under its id. See C. Richardson,
"Microservices Patterns" (2018), the transactional outbox. Knows sqlite3; no pusher.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from zmqkit.errors import JournalDamaged, JournalError, UsageError
from zmqkit.inbox import connections as shared
from zmqkit.inbox.connections import BUSY_SECONDS, impatient, is_busy
from zmqkit.inbox.connections import is_open as is_open
from zmqkit.inbox.connections import roll_back as roll_back

_TABLE: Final = (
    "create table if not exists zmqkit_outbox (n integer primary key autoincrement, pusher text not null,"
    " id text not null, codec text not null, sent_at integer not null, options text not null,"
    " body blob not null, unique (pusher, id))"
)
_COLUMNS: Final = ["n", "pusher", "id", "codec", "sent_at", "options", "body"]
_READ: Final = (
    "select n, id, codec, sent_at, options, body from zmqkit_outbox where pusher = ? and n > ? order by n limit ?"
)
_PUT: Final = (
    "insert or ignore into zmqkit_outbox (pusher, id, codec, sent_at, options, body) values (?, ?, ?, ?, ?, ?)"
)
AT_ONCE: Final = 1000
"""So many rows are read together."""


ENDED: Final = (
    "the transaction was ended by a COMMIT or ROLLBACK within the block: leave both to zmqkit, or begin it before"
)


def translated(path: str | None) -> contextlib.AbstractContextManager[None]:
    """SQLite's errors become `JournalError`s that say what to do."""
    return shared.translated(path, "outbox")


class Outgone(NamedTuple):
    """A message in an outbox."""

    n: int
    id: str
    codec: str
    sent_at: int
    options: Mapping[str, Any]
    body: bytes


def file_of(connection: sqlite3.Connection) -> str:
    """The file that a connection works on. Raises `UsageError` for a database in memory, `JournalError`."""
    with translated(None):
        shared.check_text(connection)
        for _, name, file in shared.ask(connection, "pragma database_list"):
            if name == "main" and file:
                return str(file)
    raise UsageError("messages in a database in memory could not be found again: give a connection to a file")


def connect(path: str | os.PathLike[str]) -> sqlite3.Connection:
    """A connection to a file of the user's that may be used in one thread after the other. Raises `JournalError`."""
    with translated(os.fspath(path)):
        return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def begin(connection: sqlite3.Connection, path: str, *, wait: bool) -> bool:
    """Begin a transaction that will write. False: others write now, and `wait` is False. Raises `JournalError`."""
    with translated(path):
        if wait:
            connection.execute("begin immediate")
            return True
        with impatient(connection):
            try:
                connection.execute("begin immediate")
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                return False
            return True


def make_table(connection: sqlite3.Connection, path: str) -> None:
    """Make the table, within the transaction that is open. Raises `UsageError` if it is another, `JournalError`."""
    with translated(path):
        connection.execute(_TABLE)
        columns = [name for _, name, *_ in shared.ask(connection, "pragma table_info(zmqkit_outbox)")]
    if columns != _COLUMNS:
        raise UsageError(f"{path} has a table zmqkit_outbox that is not one of zmqkit's: rename it")


def put(connection: sqlite3.Connection, path: str, pusher: str, message: Outgone) -> None:
    """Write a message down, within the transaction that is open; its `n` is not looked at. One whose id waits there
    already is not written twice. Raises `UsageError` if none is open, `JournalError`."""
    if not is_open(connection):
        raise UsageError(ENDED)  # in autocommit it would be sent at once, whatever becomes of the block
    _, id, codec, sent_at, options, body = message
    shown = json.dumps(options, ensure_ascii=False, separators=(",", ":")) if options else "{}"
    try:
        connection.execute(_PUT, (pusher, id, codec, sent_at, shown, body))
    except sqlite3.Error as error:  # as `translated`, which costs as much as this whole function
        raise shared.translate(error, path, "outbox") from error


def commit(connection: sqlite3.Connection, path: str) -> None:
    """End the transaction that is open. Raises `JournalError`: nothing of it is there."""
    with translated(path):
        try:
            connection.execute("commit")
        except sqlite3.Error:
            roll_back(connection)
            raise


def moves(connection: sqlite3.Connection) -> bool:
    """Whether this thread may use a connection that was made in another."""
    try:
        connection.execute("select 1")
    except sqlite3.ProgrammingError:
        return False
    return True


class OutboxFile:
    """What waits in one file for one journal, read over a connection of its own: what is committed, and nothing else.

    Args:
        path: of the file, which is there.
        pusher: the journal's uuid.
    """

    def __init__(self, path: str, pusher: str) -> None:
        self.path = path
        self._pusher = pusher
        self._connection: sqlite3.Connection | None = None
        self._which: tuple[int, int] | None = None
        """Device and inode of the file that the connection is to."""

    def read(self, after: int = 0) -> list[Outgone]:
        """The oldest messages behind that row, up to one that is none. Raises `JournalError`."""
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            self.close()
            return []
        except OSError as error:
            raise JournalError(f"the outbox {self.path} cannot be reached: {error}") from error
        if self._which != (there.st_dev, there.st_ino):
            self.close()  # another file was put in its place
            self._which = there.st_dev, there.st_ino
        with translated(self.path):
            connection = self._connected()
            there = connection.execute("select 1 from sqlite_master where name = 'zmqkit_outbox'").fetchone()
            if there is None:
                return []
            rows = connection.execute(_READ, (self._pusher, after, AT_ONCE)).fetchall()
        found: list[Outgone] = []
        for row in rows:
            try:
                found.append(self._sound(row))
            except JournalDamaged:
                if found:
                    break  # these first
                raise
        return found

    def _sound(self, row: tuple[Any, ...]) -> Outgone:
        """A row as it was written down. Raises `JournalDamaged`."""
        n, id, codec, at, options, body = row
        try:
            found = {} if options == "{}" else json.loads(options)
        except (TypeError, ValueError, RecursionError) as error:
            raise self._unsound(n, f"its options are not JSON: {error}") from error
        if not (type(id) is str and type(codec) is str and type(at) is int and type(found) is dict):
            raise self._unsound(n, "its columns are not of the kinds that zmqkit writes")
        if type(body) is not bytes:
            raise self._unsound(n, f"its body is {type(body).__name__}, not bytes")
        return Outgone(n, id, codec, at, found, body)

    def _unsound(self, n: int, why: str) -> JournalDamaged:
        return JournalDamaged(
            f"the outbox in {self.path} has a row that is none, number {n}: {why}. Mend or delete it; what stands "
            "behind it waits"
        )

    def remove(self, messages: Sequence[Outgone]) -> None:
        """They are in the journal. Raises `JournalError`: they will be sent once more, under the same ids."""
        with translated(self.path):
            connection = self._connected()
            connection.execute("begin immediate")
            try:
                # By the id, too: the file may have been replaced since they were read.
                connection.executemany(
                    "delete from zmqkit_outbox where n = ? and id = ?", [(each.n, each.id) for each in messages]
                )
                connection.execute("commit")
            except BaseException:
                roll_back(connection)
                raise

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        self._which = None

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            # Not to be made anew where it was removed.
            address = f"file:{urllib.parse.quote(self.path)}?mode=rw"
            self._connection = sqlite3.connect(
                address, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        return self._connection


# ---- which files -----------------------------------------------------------------------


def files_beside(journal: str) -> list[str]:
    """In which files messages for this journal may wait: ``<journal>-outboxes`` names them, as a JSON list."""
    try:
        found = json.loads(Path(f"{journal}-outboxes").read_text())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise JournalDamaged(
            f"{journal}-outboxes cannot be read: {error}. It lists the files of the outboxes; remove it, and what "
            "is left in them is sent when push.transaction() is entered with them"
        ) from error
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise JournalDamaged(f"{journal}-outboxes is not a list of paths; remove it")
    return found


def remember_files(journal: str, files: Iterable[str]) -> None:
    """Name these files there, synced, before the first message waits in a new one. Raises `OSError`."""
    path = Path(f"{journal}-outboxes")
    beside = path.with_name(f"{path.name}.new")
    with beside.open("w") as file:
        json.dump(sorted(files), file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
