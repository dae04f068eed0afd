"""Reads the journal of a live owner from outside, without a lock and without a change. Knows nothing of rows.

The owner holds its file by an exclusive lock and keeps the index of its write-ahead log in its own memory, so SQLite
lets nobody else in, not even to read. Here a VFS of our own takes no locks and refuses every write, and one transaction
holds what is seen still: the database, and the log as far as it had come. That is a true picture as long as the owner
does not carry its log over into the database meanwhile; `Still.moved` says whether it did, and then nothing of what was
seen counts.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator

import apsw

from zmqkit.journal.layout import guard

_QUIET_S = 0.05
"""Times of files are that coarse at worst: what was written so long ago has another time than what is written now."""
_WAL_HEADER_BYTES = 32

_numbers = itertools.count()

Stamp = tuple[int, int, bytes]


class Still:
    """A look at a file that another process writes.

    Attributes:
        connection: in a read transaction; valid until it is closed.
    """

    def __init__(self, path: str, connection: apsw.Connection) -> None:
        self.connection = connection
        self._path = path
        self._stamp: Stamp | None = _stamp(path)

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
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY, vfs=name)
        try:
            # Closing must not carry the log over, though nothing could be written anyhow.
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            guard(connection)
            connection.pragma("locking_mode", "exclusive")
            still = Still(path, connection)
            if still._stamp is not None and time.time_ns() - still._stamp[0] < _QUIET_S * 1e9:
                still._stamp = None
            connection.execute("BEGIN")
            connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
            yield still
        finally:
            connection.close(True)
    finally:
        vfs.unregister()


def _stamp(path: str) -> Stamp | None:
    """What changes when the database does, or its log begins anew; None if that cannot be told."""
    try:
        status = os.stat(path)
        with open(f"{path}-wal", "rb") as wal:
            return status.st_mtime_ns, status.st_size, wal.read(_WAL_HEADER_BYTES)
    except OSError:
        return None


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
