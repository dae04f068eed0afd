"""The record of a message in a transaction of the user's own, over any DB-API connection.

The table is that of `zmqkit.inbox.jobs`. Knows PEP 249, and of some drivers and of Django what that leaves open:
whether a transaction is under way, how parameters are marked, how a row is passed over that is there already. Other
databases than SQLite get their table from the user: `DDL` says which.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from typing import Any, Final

from zmqkit.errors import UsageError
from zmqkit.inbox.connections import FULL, ask, check_text
from zmqkit.inbox.jobs import TABLE, JobRecord

DDL: Final = TABLE
"""What makes the table; with MySQL the id is a varchar(700)."""

_ON_CONFLICT: Final = frozenset({"sqlite3", "psycopg", "psycopg2", "pg8000", "postgresql", "sqlite"})
_IGNORE: Final = frozenset({"pymysql", "MySQLdb", "mysql", "mariadb"})

_IDLE: Final = 0
"""libpq's PQTRANS_IDLE: no transaction is under way."""

_MARKS: Final = {"qmark": "?", "format": "%s", "pyformat": "%s"}


class Claimed:
    """A message that was claimed: its ack must come after the commit.

    Args:
        connection: in whose transaction.
        shown: what claimed it, for errors.
    """

    __slots__ = ("_connection", "_shown")

    def __init__(self, connection: Any, shown: str) -> None:
        self._connection = connection
        self._shown = shown

    def check(self, *, ack: bool) -> None:
        """It is to be settled. Raises `UsageError` if that is an ack, and the transaction is seen to be open still."""
        if ack and self._is_open():
            raise UsageError(
                f"{self._shown} is to be acked, but the transaction that claimed it is not committed: commit first"
            )

    def _is_open(self) -> bool:
        try:
            return bool(_under_way(self._connection))
        except Exception:  # drivers raise what they like; one that was closed has no transaction any more
            return False

    def abandon(self) -> None:
        """It is let go. What becomes of the transaction is its owner's business."""


def claim(connection: Any, record: JobRecord) -> bool:
    """Write a record in the transaction of this connection. False: it was there before.

    Raises:
        UsageError: the connection commits each statement by itself, or is none; the message says which.
    """
    if isinstance(connection, sqlite3.Connection):
        return _claim_sqlite(connection, record)
    if not callable(getattr(connection, "cursor", None)):
        raise UsageError(
            f"job.claim() needs a connection of the DB-API (PEP 249) or Django's, got {type(connection).__name__}; "
            "with SQLAlchemy it is connection.connection.driver_connection"
        )
    if _commits_at_once(connection):
        raise UsageError(
            "this connection is in autocommit: the record would be there without the effects. Begin a transaction "
            "first, and claim within it"
        )
    driver, style = _driver_of(connection)
    cursor = connection.cursor()
    try:
        cursor.execute(*_statement(driver, style, record))
        return bool(cursor.rowcount)
    except Exception as error:
        if type(error).__name__ == "IntegrityError" and driver not in _ON_CONFLICT | _IGNORE:
            return False
        if "zmqkit_inbox_jobs" in str(error):
            raise UsageError(f"the database has no table for records; make it once, by: {DDL}") from error
        raise
    finally:
        cursor.close()


def _claim_sqlite(connection: sqlite3.Connection, record: JobRecord) -> bool:
    if _commits_at_once(connection):
        raise UsageError(
            "this connection is in autocommit: the record would be there without the effects. BEGIN a transaction "
            "first, and claim within it"
        )
    check_text(connection)
    (level,) = ask(connection, "pragma synchronous").fetchone()
    if level < FULL:
        raise UsageError(
            f"this connection has synchronous={level}: a commit could be lost after its job was acked. "
            "Set it to FULL (2) or EXTRA (3)"
        )
    if not any(name == "main" and file for _, name, file in ask(connection, "pragma database_list")):
        raise UsageError("a database in memory would forget what was done: claim in one that is a file")
    statement = _statement("sqlite3", "qmark", record)
    try:
        return bool(connection.execute(*statement).rowcount)
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
    if not connection.in_transaction:
        connection.execute("begin immediate")
    connection.execute(TABLE)
    return bool(connection.execute(*statement).rowcount)


def _statement(driver: str, style: str, record: JobRecord) -> tuple[str, Any]:
    values = (record.id, record.origin, time.time_ns() // 1000, record.sent)
    verb, tail = "insert into", ""
    if driver in _IGNORE:
        verb = "insert ignore into"
    elif driver in _ON_CONFLICT:
        tail = " on conflict (id) do nothing"
    names = ("id", "origin", "at", "sent")
    given: Any = values
    if style == "named":
        marks = ", ".join(f":{name}" for name in names)
        given = dict(zip(names, values, strict=True))
    elif style == "numeric":
        marks = ", ".join(f":{number}" for number in range(1, 5))
    else:
        marks = ", ".join([_MARKS[style]] * 4)
    return f"{verb} zmqkit_inbox_jobs (id, origin, at, sent) values ({marks}){tail}", given


def _is_django(connection: Any) -> bool:
    return hasattr(connection, "in_atomic_block") and hasattr(connection, "vendor")


def _driver_of(connection: Any) -> tuple[str, str]:
    """Whose connection it is, and how it marks parameters."""
    if _is_django(connection):
        return str(connection.vendor), "format"
    for kind in type(connection).__mro__:
        top = kind.__module__.partition(".")[0]
        style = getattr(sys.modules.get(top), "paramstyle", None)
        if isinstance(style, str) and (style in _MARKS or style in ("named", "numeric")):
            return top, style
    raise UsageError(f"{type(connection).__module__} does not say its paramstyle: it is no driver of the DB-API")


def _under_way(connection: Any) -> bool | None:
    """Whether a transaction is under way; None: it does not tell."""
    if _is_django(connection):
        return bool(connection.in_atomic_block)
    status = getattr(getattr(connection, "info", None), "transaction_status", None)
    if isinstance(status, int):
        return int(status) != _IDLE
    known = getattr(connection, "in_transaction", None)
    return known if isinstance(known, bool) else None


def _commits_at_once(connection: Any) -> bool:
    """Whether a statement would be committed by itself."""
    if _under_way(connection):
        return False
    if _is_django(connection):
        return True
    if isinstance(connection, sqlite3.Connection):
        mode = getattr(connection, "autocommit", -1)
        return bool(mode is True or (mode is not False and connection.isolation_level is None))
    mode = getattr(connection, "autocommit", None)
    if callable(mode):
        ask = getattr(connection, "get_autocommit", None)
        mode = ask() if callable(ask) else None
    return mode is True or (mode is not None and type(mode) is int and mode == 1)
