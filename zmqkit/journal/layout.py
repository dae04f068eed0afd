"""The journal's file: what is in it, how it is made, opened and checked. Keeps no state of its own.

An SQLite database in WAL mode, ``application_id`` "zmqj", ``user_version`` the format's version:

``log_<name>``
    one table a log: ``key`` (primary), ``weight``, ``crc`` (see `store.checksum`), ``value``.
``state``
    one row: ``commits``, the number of the last commit; ``logs``, a line ``name rows weight highest`` a log; ``crc``,
    the CRC-32 of both. Each commit rewrites it in its own transaction, so totals are known at open without counting,
    and whether a commit is in the file can be told by its number.
``about``
    name and value: ``kind``, ``uuid``, ``created``, and ``crc``, the CRC-32 of the three with line ends between.
``epochs``
    who opened it: epoch, time, durability, pid, host; the last 32.

Only apsw opens it: another copy of SQLite in one process would not see its locks.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import sys
import urllib.parse
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

import apsw

from zmqkit.errors import JournalDamaged, JournalError, JournalVersion

APPLICATION_ID = 0x7A6D716A  # "zmqj"
FORMAT_VERSION = 1
UPGRADES: dict[int, Callable[[apsw.Connection], object]] = {}
"""What makes of a file of this version one of the next, inside a transaction; see docs/journal-format.md, section 8."""
PAGE_BYTES = 4096
WAL_PAGES = 1000
"""The write-ahead log is carried over into the database when it has so many pages (4 MB)."""
WAL_LIMIT_BYTES = 16 << 20
"""What a large commit made it grow beyond this is given back to the disk."""
READERS_WAIT_MS = 5000
"""How long an owner waits for a reader of another process to finish one read."""

WALK_PAGES = 4096
"""Files of up to so many pages (16 MB) are looked through page by page when they are opened."""

_HEADER_BYTES = 100
_INCREMENTAL = 2
_LOG_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")


class LogState(NamedTuple):
    """The running totals of one log."""

    rows: int
    weight: int
    highest: int


class State(NamedTuple):
    """The ``state`` row."""

    commits: int
    logs: dict[str, LogState]


class About(NamedTuple):
    """The ``about`` table."""

    kind: str
    uuid: str


def table_of(log: str) -> str:
    """The table of a log.

    Raises:
        ValueError: not a name that a log can have.
    """
    if not _LOG_NAME.fullmatch(log):
        raise ValueError(f"a log is named by up to 31 small letters, digits and _, got {log!r}")
    return f"log_{log}"


def is_log_table(name: str) -> bool:
    """Whether a table is named as that of a log."""
    return name.startswith("log_") and _LOG_NAME.fullmatch(name.removeprefix("log_")) is not None


def _schema_of_log(log: str) -> str:
    return (
        f"CREATE TABLE {table_of(log)}"
        "(key INTEGER PRIMARY KEY, weight INTEGER NOT NULL, crc INTEGER NOT NULL, value BLOB NOT NULL) STRICT"
    )


_SCHEMA = (
    "CREATE TABLE state(id INTEGER PRIMARY KEY, commits INTEGER NOT NULL, logs TEXT NOT NULL, crc INTEGER NOT NULL)"
    " STRICT",
    "CREATE TABLE about(name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE epochs(number INTEGER PRIMARY KEY, epoch TEXT NOT NULL, opened TEXT NOT NULL,"
    " durability TEXT NOT NULL, pid INTEGER NOT NULL, host TEXT NOT NULL) STRICT",
)


# ---- the state row ---------------------------------------------------------------


def state_row(commits: int, logs: Mapping[str, LogState]) -> tuple[int, str, int]:
    """The columns commits, logs and crc."""
    text = "\n".join([f"{name} {rows} {weight} {highest}" for name, (rows, weight, highest) in logs.items()])
    return commits, text, zlib.crc32(b"%d\n%s" % (commits, text.encode()))


def load_state(connection: apsw.Connection, path: str) -> State:
    """The state row, checked.

    Raises:
        JournalDamaged: it is missing or is not what was written.
    """
    rows: list[tuple[Any, ...]] = connection.execute("SELECT commits, logs, crc FROM state WHERE id = 1").fetchall()
    try:
        ((commits, text, crc),) = rows
        if zlib.crc32(b"%d\n%s" % (commits, text.encode())) != crc:
            raise ValueError("checksum")
        logs = {}
        for line in text.splitlines():
            name, *numbers = line.split(" ")
            logs[name] = LogState(*map(int, numbers))
    except (TypeError, ValueError, AttributeError) as error:
        raise damaged(path, "its state row is not what was written") from error
    return State(commits, logs)


# ---- making and opening ----------------------------------------------------------


def create(
    path: str,
    *,
    kind: str,
    logs: Sequence[str],
    vfs: str | None,
    uuid: str | None = None,
    fill: Callable[[apsw.Connection], object] | None = None,
) -> None:
    """Make a new journal, whole or not at all: it is made beside its place and then renamed.

    Args:
        path: of the file; what is there is replaced.
        kind: what it is for.
        logs: the names of its logs.
        vfs: the name of an apsw VFS.
        uuid: its own; None draws one.
        fill: puts in what it is to hold from the beginning, the state row included, in transactions of its own.

    Raises:
        apsw.Error, OSError: it could not be made.
    """
    draft = path + "-new"
    remove_draft(draft)
    try:
        connection = apsw.Connection(draft, vfs=vfs)
        try:
            _pragma(connection, "locking_mode", "exclusive")
            _pragma(connection, "page_size", PAGE_BYTES)
            _pragma(connection, "auto_vacuum", "incremental")
            _pragma(connection, "synchronous", "full")
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                connection.execute(statement)
            for log in logs:
                connection.execute(_schema_of_log(log))
            created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            about = {"kind": kind, "uuid": uuid or uuid4().hex, "created": created}
            about["crc"] = _crc_of(about)
            connection.executemany("INSERT INTO about VALUES(?, ?)", list(about.items()))
            connection.execute(
                "INSERT INTO state(id, commits, logs, crc) VALUES(1, ?, ?, ?)",
                state_row(0, {log: LogState(0, 0, 0) for log in logs}),
            )
            _pragma(connection, "application_id", APPLICATION_ID)
            _pragma(connection, "user_version", FORMAT_VERSION)
            connection.execute("COMMIT")
            if fill is not None:
                fill(connection)
            _pragma(connection, "journal_mode", "wal")
        finally:
            connection.close(True)
        sync(draft)
        os.rename(draft, path)
        sync(os.path.dirname(path))
    except BaseException:
        remove_draft(draft)
        raise


def remove_draft(draft: str) -> None:
    """Remove what is left of a file that was being made, if anything is."""
    for leftover in (draft, draft + "-wal", draft + "-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(leftover)


def sync(path: str) -> None:
    """Write a file, or the names in a folder, to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def add_log(connection: apsw.Connection, log: str) -> None:
    """A table for a log that the file does not have yet; inside the caller's transaction."""
    connection.execute(_schema_of_log(log))


def _pragma(connection: apsw.Connection, name: str, value: str | int) -> object:
    return connection.pragma(name, value)


def connect(path: str, *, durability: str, vfs: str | None) -> apsw.Connection:
    """The owner's one connection; every setting that durability rests on is read back.

    Raises:
        apsw.Error: it cannot be opened.
        JournalError: the file system does not bear it.
    """
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    try:
        connection.set_busy_timeout(READERS_WAIT_MS)
        guard(connection)
        synchronous = {"power": 2, "process": 1}[durability]
        # Exclusive before anything is read: then there is no shared memory, and no one else can write.
        wanted: list[tuple[str, str | int]] = [("locking_mode", "exclusive"), ("journal_mode", "wal")]
        wanted += [("synchronous", synchronous), ("journal_size_limit", WAL_LIMIT_BYTES)]
        if sys.platform == "darwin" and durability == "power":
            wanted += [("fullfsync", 1), ("checkpoint_fullfsync", 1)]
        for name, value in wanted:
            connection.pragma(name, value)
            found = connection.pragma(name)
            if found != value:
                raise JournalError(
                    f"{path}: SQLite answers {name} = {found} where {value} was asked for; "
                    "this file system cannot hold a journal, use a local one"
                )
        connection.pragma("wal_autocheckpoint", 0)
        _upgrade(connection, path)
    except BaseException:
        abandon(connection)
        raise
    return connection


def _upgrade(connection: apsw.Connection, path: str) -> None:
    """Make a file of an older version one of this version: all of it or nothing."""
    version = connection.pragma("user_version")
    if version == FORMAT_VERSION:
        return
    check_version(path, version, upgrade=True)
    connection.pragma("synchronous", "full")
    with connection:
        for older in range(version, FORMAT_VERSION):
            UPGRADES[older](connection)
        connection.pragma("user_version", FORMAT_VERSION)
    # An older library looks at the header in the database first: it should see at once that this is not for it.
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def connect_to_read(path: str, *, vfs: str | None) -> apsw.Connection:
    """A connection that only reads, for as short as can be: it keeps an owner from opening.

    It leaves an empty -wal and a -shm behind, which the next owner removes; a reader may not, an owner may be coming.
    Where it may not even make those, it can still read a journal that was closed in good order.

    Raises:
        apsw.Error: it cannot be opened.
    """
    if os.access(os.path.dirname(path), os.W_OK) or _has_content(path + "-wal"):
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY, vfs=vfs)
    else:
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(f"file:{urllib.parse.quote(path)}?immutable=1", flags=flags, vfs=vfs)
    try:
        connection.set_busy_timeout(READERS_WAIT_MS)
        guard(connection)
        connection.pragma("query_only", 1)
    except BaseException:
        connection.close(True)
        raise
    return connection


def guard(connection: apsw.Connection) -> None:
    """The file may be damaged, or a stranger's: nothing in it is to be run, and pages are checked as they come."""
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.pragma("trusted_schema", 0)
    connection.pragma("cell_size_check", 1)
    connection.pragma("temp_store", "memory")


def load_schema(connection: apsw.Connection) -> apsw.CorruptError | None:
    """Have SQLite read its schema, in a transaction of a connection that writes nothing.

    Returns what is wrong with it, or with the file's length; the tables of which it makes sense can be read even so.

    Raises:
        apsw.Error: none of it can be read.
    """
    read = "SELECT 1 FROM sqlite_schema LIMIT 1"
    try:
        connection.execute(read).fetchall()
    except apsw.CorruptError as error:
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)  # under which the next one is not taken
        connection.pragma("writable_schema", 1)  # SQLite goes on past what it cannot make sense of
        connection.execute(read).fetchall()
        return error
    return None


def abandon(connection: apsw.Connection) -> None:
    """Close without writing anything more: what the log holds stays for the next to open it."""
    # What it says at closing does not matter: it is no longer believed.
    with contextlib.suppress(apsw.Error):
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    with contextlib.suppress(apsw.Error):
        connection.close(True)


# ---- checking --------------------------------------------------------------------


def check_version(path: str, version: int, *, upgrade: bool = False) -> None:
    """Raises `JournalVersion` for a file of a version that cannot be read; with `upgrade`, nor be brought to ours."""
    if version == FORMAT_VERSION:
        return
    if 0 < version < FORMAT_VERSION and all(older in UPGRADES for older in range(version, FORMAT_VERSION)):
        if upgrade:
            return
        what_to_do = "Open it once by a peer, or by zmqkit journal serve or compact: that makes it one of ours."
    else:
        what_to_do = "Open it with the zmqkit that wrote it."
    raise JournalVersion(
        f"{path} is a journal of format {version}, and this zmqkit reads format {FORMAT_VERSION}; "
        f"it was left as it is. {what_to_do}"
    )


def check_header(path: str, *, was_ours: bool, upgrade: bool = False) -> None:
    """Look at the file's first bytes before SQLite does, so that nobody else's file is ever touched.

    Args:
        path: of the file, which exists.
        was_ours: something beside the file says that a journal was here.
        upgrade: its version may be one that `connect` brings to ours.

    Raises:
        JournalVersion: not a journal, or of another version.
        JournalDamaged: it was one.
        JournalError: it is no file.
        OSError: it cannot be read.
    """
    if not os.path.isfile(path) and os.path.exists(path) and not os.path.isdir(path):
        # To open a pipe would wait for whoever writes to it.
        raise JournalError(f"{path} is a device, a pipe or a socket; a journal is a file. It was left as it is")
    with open(path, "rb") as file:
        header = file.read(_HEADER_BYTES)
        size_bytes = file.seek(0, os.SEEK_END)
    number = int.from_bytes
    ours = header[:16] == b"SQLite format 3\0" and number(header[68:72], "big") == APPLICATION_ID
    if len(header) < _HEADER_BYTES or not ours:
        if was_ours:
            raise damaged(path, "it is empty" if not header else "its header is not that of a journal")
        raise JournalVersion(f"{path} is not a zmqkit journal; it was left as it is. Use another path.")
    check_version(path, number(header[60:64], "big"), upgrade=upgrade)
    page_bytes = number(header[16:18], "big")
    if page_bytes != PAGE_BYTES:
        raise damaged(path, f"its header says pages of {page_bytes} bytes")
    if not _has_content(path + "-wal") and size_bytes < number(header[28:32], "big") * PAGE_BYTES:
        raise damaged(path, f"it ends after {size_bytes} bytes of {number(header[28:32], 'big') * PAGE_BYTES}")


def place_of(path: str) -> tuple[int, int]:
    """Which file has this name: device and inode. Raises OSError if none has."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def check_place(path: str, place: tuple[int, int]) -> None:
    """Look that an open journal still has its name: what is stored in a file without one is gone when it is closed.

    Raises:
        JournalDamaged: it was removed or replaced.
    """
    try:
        if place_of(path) == place:
            return
        what = "another file is in its place"
    except OSError as error:
        what = f"it is not there ({error.strerror})"
    raise JournalDamaged(
        f"{path} was removed or replaced while it was open: {what}. Nothing more is stored until the very file is "
        "back at its place; else close this journal, put back a good copy, and open it again."
    )


def _has_content(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except FileNotFoundError:
        return False


def is_missing(path: str, *, was_ours: bool) -> bool:
    """True if there is nothing at the path, so that a journal may be made there.

    An empty file counts as nothing, unless a journal was there.

    Raises:
        JournalDamaged: the journal's write-ahead log is there, and may hold confirmed messages, but not the journal.
    """
    missing = not os.path.exists(path)
    if missing or (os.stat(path).st_size == 0 and not was_ours):
        if _has_content(path + "-wal"):
            raise damaged(path, f"it is {'missing' if missing else 'empty'}, but {path}-wal is there")
        return True
    return False


def check_content(connection: apsw.Connection, path: str, *, count_up_to: int) -> tuple[State, About]:
    """What must be true of any journal before its rows are read: schema, state, and the logs' totals.

    Args:
        connection: to the file.
        path: for messages.
        count_up_to: logs of up to so many rows are counted, to see whether some went missing.

    Raises:
        JournalDamaged: something is not what was written.
        apsw.Error: the same, found by SQLite.
    """
    if connection.pragma("page_count") <= WALK_PAGES:
        verdict = connection.execute("PRAGMA quick_check(1)").get
        if verdict != "ok":
            raise damaged(path, str(verdict))
    check_version(path, connection.pragma("user_version"))  # what the header says may be older than the log
    if connection.pragma("auto_vacuum") != _INCREMENTAL:
        raise damaged(path, "its header is not that of a journal")
    state = load_state(connection, path)
    if tables_of(connection) != expected_tables(state):
        raise damaged(path, "its tables are not those of its logs")
    for log, (rows, weight, highest) in state.logs.items():
        table = table_of(log)
        last = connection.execute(f"SELECT max(key) FROM {table}").get
        if (last or 0) > highest or (last is None) != (rows == 0):
            raise damaged(path, f"log {log} ends at key {last}, and should hold {rows} rows up to {highest}")
        if rows <= count_up_to:
            counted = connection.execute(f"SELECT count(*), coalesce(sum(weight), 0) FROM {table}").fetchone()
            if counted != (rows, weight):
                raise damaged(path, f"log {log} holds rows and messages {counted}, not {(rows, weight)}")
    return state, load_about(connection, path)


def tables_of(connection: apsw.Connection) -> set[str]:
    """All that is in the schema, in SQLite's words."""
    return {str(sql) for (sql,) in connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")}


def expected_tables(state: State) -> set[str]:
    """All that should be."""
    return {*_SCHEMA, *(_schema_of_log(log) for log in state.logs)}


def load_about(connection: apsw.Connection, path: str) -> About:
    """The ``about`` table, checked.

    Raises:
        JournalDamaged: it is not what was written.
    """
    about: dict[str, object] = dict(connection.execute("SELECT name, value FROM about").fetchall())  # type: ignore[arg-type]
    if about.keys() != {"kind", "uuid", "created", "crc"} or about["crc"] != _crc_of(about):
        raise damaged(path, "what it says about itself is not what was written")
    return About(str(about["kind"]), str(about["uuid"]))


def openings(connection: apsw.Connection) -> dict[int, str]:
    """Number and epoch of the openings that the file remembers."""
    found: list[tuple[Any, ...]] = connection.execute("SELECT number, epoch FROM epochs").fetchall()
    return {int(number): str(epoch) for number, epoch in found}


def _crc_of(about: Mapping[str, object]) -> str:
    return str(zlib.crc32(f"{about['kind']}\n{about['uuid']}\n{about['created']}".encode()))


def damaged(path: str, what: str) -> JournalDamaged:
    """The refusal, with what to do."""
    return JournalDamaged(
        f"{path} is damaged: {what}. It was left as it is. Put back a good copy of it (with its -wal file, if there is "
        "one), or move all files of that name aside to begin with an empty journal."
    )
