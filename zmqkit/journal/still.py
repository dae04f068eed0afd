"""Reads a journal from outside, without a lock and without a change, whoever has it open. Knows nothing of rows.

An owner holds its file by an exclusive lock and keeps the index of its write-ahead log in its own memory, so SQLite
lets nobody else in, not even to read; and who reads by SQLite's rules keeps owners out meanwhile. Here a VFS of our own
takes no locks and refuses every write, and one transaction holds what is seen still: the database, and the log as far
as it had come. That is a true picture as long as nobody carries the log over into the database meanwhile; `Still.moved`
says whether somebody did, and then nothing of what was seen counts.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import urllib.parse
from collections.abc import Iterator

import apsw

from zmqkit.journal.layout import guard, load_schema

_QUIET_S = 0.05
"""Times of files are that coarse at worst: what was written so long ago has another time than what is written now."""
_NS = 1_000_000_000
_WAL_HEADER_BYTES = 32

_numbers = itertools.count()

Stamp = tuple[int, int, bytes]


class Still:
    """A look at a file that another process may write.

    Attributes:
        connection: in a read transaction; valid until it is closed.
    """

    def __init__(
        self, path: str, connection: apsw.Connection, stamp: Stamp | None, schema_error: apsw.CorruptError | None
    ) -> None:
        self.connection = connection
        self.schema_error = schema_error
        self._path = path
        self._stamp = stamp

    def moved(self) -> bool:
        """Whether the owner changed the database since we look: what was seen may be of no time at all."""
        return self._stamp is None or _stamp(self._path) != self._stamp


@contextlib.contextmanager
def look(path: str) -> Iterator[Still]:
    """Look at the file as it is now.

    Raises:
        apsw.Error: it cannot be opened; its owner may have closed it this moment.
    """
    name = f"zmqkit-still-{next(_numbers)}"
    vfs = _Vfs(name)
    try:
        stamp = _quiet_stamp(path)
        if os.path.exists(f"{path}-wal"):
            connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY, vfs=name)
        else:  # SQLite would make a log; but without one the file alone is all there is
            flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
            connection = apsw.Connection(f"file:{urllib.parse.quote(path)}?immutable=1", flags=flags)
        try:
            # Closing must not carry the log over, though nothing could be written anyhow.
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            guard(connection)
            connection.pragma("locking_mode", "exclusive")
            connection.execute("BEGIN")
            yield Still(path, connection, stamp, load_schema(connection))
        finally:
            connection.close(True)
    finally:
        vfs.unregister()


def _quiet_stamp(path: str) -> Stamp | None:
    """The file's stamp once it is old enough to tell; None: it was changed again meanwhile."""
    stamp = _stamp(path)
    age_ns = time.time_ns() - stamp[0]
    if 0 <= age_ns < _QUIET_S * _NS:
        time.sleep(_QUIET_S - age_ns / _NS)
        return stamp if _stamp(path) == stamp else None
    return stamp


def _stamp(path: str) -> Stamp:
    """What changes when the database does, or its log begins anew."""
    log = b""
    with contextlib.suppress(FileNotFoundError), open(f"{path}-wal", "rb") as wal:
        log = wal.read(_WAL_HEADER_BYTES)
    with contextlib.suppress(FileNotFoundError):
        status = os.stat(path)
        return status.st_mtime_ns, status.st_size, log
    return 0, 0, log


class _Vfs(apsw.VFS):
    """The system's VFS, that takes no locks and writes nothing."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _File(name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        raise apsw.ReadOnlyError(f"{filename} belongs to another process")


class _File(apsw.VFSFile):
    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        flags[0] = flags[0] & ~(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE) | apsw.SQLITE_OPEN_READONLY
        super().__init__("", name, flags)

    def xLock(self, level: int) -> None:
        pass

    def xUnlock(self, level: int) -> None:
        pass

    def xCheckReservedLock(self) -> bool:
        return False

    def xWrite(self, data: bytes, offset: int) -> None:
        raise apsw.ReadOnlyError("the file belongs to another process")

    def xTruncate(self, newsize: int) -> None:
        raise apsw.ReadOnlyError("the file belongs to another process")
