"""One owner a journal: a lock file beside it that says who, and how far the journal had come. Knows no SQLite.

A file may be copied, or be renamed while it is open. So its uuid is claimed too: in this process by a table, and on
Linux, for all processes that share its network namespace, by an abstract Unix socket of that name. No file is left
behind, and the kernel frees the name when its owner dies.

The lock is on a file of its own, because a POSIX lock is dropped when any handle of its file is closed, and it is
an open file description lock where there are such (Linux), so that it holds between the threads and objects of one
process too. The kernel drops it when its owner dies: there are no stale locks. The file itself stays.

The lock file is text of fixed width, rewritten in place so that it needs no room on a full disk::

    bytes 0-511      pid=4711 host=calc since=2026-11-20T10:00:00+00:00 owner=push.py
    bytes 512-1023   the watermark of the journal's sidecar, see `tail`
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import glob
import os
import socket
import struct
import sys
import threading

from zmqkit.errors import DuplicateInstance, JournalBusy, JournalError
from zmqkit.journal import tail
from zmqkit.journal.tail import Watermark

_HOLDER_BYTES = 512
_READS = 3
_sync_file = getattr(os, "fdatasync", os.fsync)

_SETLK: int | None = getattr(fcntl, "F_OFD_SETLK", None)
_GETLK: int | None = getattr(fcntl, "F_OFD_GETLK", None)
_FLOCK = struct.Struct("hhqqi4x")
"""Linux's struct flock, on every 64-bit machine; OFD locks want its l_pid to be 0."""

_held: dict[tuple[int, int], OwnerLock] = {}
"""The locks that this process holds, by device and inode: what POSIX locks would not tell us."""
_held_lock = threading.Lock()


@dataclasses.dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a journal.

    Attributes:
        pid: its process; 0 if it could not leave its name.
        host: its host.
        since: when it took the journal, as ISO 8601 text.
        owner: what it calls itself.
    """

    pid: int
    host: str
    since: str
    owner: str

    def __str__(self) -> str:
        if not self.pid:
            return "a process that could not leave its name"
        here = ", this very process," if self.pid == os.getpid() and self.host == socket.gethostname() else ""
        return f"process {self.pid}{here} on {self.host} ({self.owner}) since {self.since}"


def boot_id() -> str:
    """What tells one run of this machine's kernel from the next; empty where the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _read_holder(fd: int) -> Holder:
    fields = tail.fields(os.pread(fd, _HOLDER_BYTES, 0))
    pid = fields.get("pid", "")
    return Holder(
        int(pid) if pid.isdecimal() else 0, fields.get("host", ""), fields.get("since", ""), fields.get("owner", "")
    )


def _read_watermark(fd: int) -> Watermark | None:
    found = tail.unpack(os.pread(fd, tail.SECTOR, _HOLDER_BYTES))
    for _ in range(_READS):
        if found is not tail.UNREADABLE:
            break
        # Its owner may have been writing it at this very moment.
        found = tail.unpack(os.pread(fd, tail.SECTOR, _HOLDER_BYTES))
    return found


def inspect(path: str) -> tuple[Holder | None, Watermark | None]:
    """Who holds the lock file, if anybody, and its watermark. Takes no lock.

    Raises:
        JournalError: the file is there and cannot be read.
    """
    try:
        status = os.stat(path)
        with _held_lock:
            mine = _held.get((status.st_dev, status.st_ino))
            if mine is not None:
                # Not through a handle of our own: closing it would drop a POSIX lock.
                return mine.holder(), mine.watermark()
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None, None
    except OSError as error:
        raise JournalError(f"cannot look at the lock file {path}: {error.strerror}") from error
    try:
        return (_read_holder(fd) if _is_locked(fd) else None), _read_watermark(fd)
    finally:
        os.close(fd)


def _is_locked(fd: int) -> bool:
    if _GETLK is not None:
        asked = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        kind: int = _FLOCK.unpack(fcntl.fcntl(fd, _GETLK, asked))[0]
        return kind != fcntl.F_UNLCK
    try:
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.lockf(fd, fcntl.LOCK_UN)
    return False


class OwnerLock:
    """Holds the lock file until `release`, or until the process dies. A forked child does not hold it.

    Args:
        path: of the lock file; it is made if need be.
        journal_path: of what it guards, for messages.
        owner: what we call ourselves, for whoever is refused.

    Raises:
        JournalBusy: somebody holds it; the message says who.
        JournalError: the file cannot be opened or locked.
    """

    def __init__(self, path: str, *, journal_path: str, owner: str) -> None:
        self.path = path
        self._fd = -1
        self._key = (0, 0)
        self._uuid = ""
        self._name: socket.socket | None = None
        self._name_synced = False
        # Somebody may remove the file between our open and our lock: then we hold a lock on nothing.
        while not self._take(path, journal_path):
            self.release()
        since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._write(
            tail.padded(f"pid={os.getpid()} host={socket.gethostname()} since={since} owner={owner}", _HOLDER_BYTES), 0
        )

    def _take(self, path: str, journal_path: str) -> bool:
        """Open and lock the file; False if the name means another file by now."""
        with _held_lock:
            try:
                status = os.stat(path)
            except OSError:
                mine = None
            else:
                mine = _held.get((status.st_dev, status.st_ino))
            if mine is not None:
                raise busy(journal_path, mine.holder())
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise JournalError(f"cannot make the lock file {path}: {error.strerror}") from error
            try:
                if _SETLK is not None:
                    fcntl.fcntl(fd, _SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
                else:
                    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _read_holder(fd)
                os.close(fd)
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    raise busy(journal_path, holder) from None
                raise JournalError(f"cannot lock {path}: {error.strerror}") from error
            status = os.fstat(fd)
            self._fd, self._key = fd, (status.st_dev, status.st_ino)
            _held[self._key] = self
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self._key

    def claim(self, uuid: str, journal_path: str) -> None:
        """Hold the journal's uuid as well.

        Raises:
            DuplicateInstance: a copy of it, or itself under another name, is open; the message says where.
        """
        with _held_lock:
            other = next((each for each in _held.values() if each._uuid == uuid), None)
            if other is None:
                self._uuid = uuid
        if other is not None:
            raise _duplicate(journal_path, f"{other.path.removesuffix('.lock')} in this very process")
        if sys.platform == "linux":
            name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                name.bind(f"\0zmqkit-journal-{uuid}")
                name.listen(1)
            except OSError as error:
                name.close()
                if error.errno == errno.EADDRINUSE:
                    raise _duplicate(journal_path, _where(uuid)) from None
            else:  # where there are no such sockets, in a strict sandbox say, there is nothing to hold
                self._name = name

    def _write(self, text: bytes, offset: int) -> None:
        # On a full disk the name, or the mark, is missing; the lock holds all the same.
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, text, offset)

    def holder(self) -> Holder:
        """Ourselves, as others see us."""
        return _read_holder(self._fd)

    def watermark(self) -> Watermark | None:
        """What the last owner left, or we since; None if nobody did."""
        return _read_watermark(self._fd)

    def write_mark(self, record: bytes) -> None:
        """Rewrite the watermark (see `tail.pack`) in place."""
        self._write(record, _HOLDER_BYTES)

    def sync(self) -> None:
        """Write the file, and its name, to the disk; as far as the disk can do it."""
        with contextlib.suppress(OSError):
            _sync_file(self._fd)
            if not self._name_synced:
                folder = os.open(os.path.dirname(os.path.abspath(self.path)), os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
                self._name_synced = True

    def release(self) -> None:
        """Let go. Releasing twice is harmless."""
        if self._fd < 0:
            return
        self._write(tail.padded("", _HOLDER_BYTES), 0)
        self._unclaim()
        with _held_lock:
            _held.pop(self._key, None)
            fd, self._fd = self._fd, -1
            os.close(fd)

    def abandon(self) -> None:
        """In a forked child: close the inherited handles, which else would keep the parent's locks alive."""
        self._unclaim()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _unclaim(self) -> None:
        name, self._name = self._name, None
        if name is not None:
            name.close()


def _duplicate(journal_path: str, where: str) -> DuplicateInstance:
    return DuplicateInstance(
        f"{journal_path} is the same journal as {where}: a copy of it, or the same file under another name. Both would "
        "give out the same ids, and each other's messages. Close the other one first, or begin with an empty journal."
    )


def _where(uuid: str) -> str:
    """Which open file claims this uuid: what can be found out about it."""
    pid = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking, contextlib.suppress(OSError):
        asking.setblocking(False)
        asking.connect(f"\0zmqkit-journal-{uuid}")
        pid = struct.unpack("iII", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    for link in glob.glob(f"/proc/{pid}/fd/*") if pid else ():
        with contextlib.suppress(OSError, JournalError):
            path = os.readlink(link)
            if path.endswith(".lock"):
                mark = inspect(path)[1]
                if mark is not None and mark.journal == uuid:
                    return f"{path.removesuffix('.lock')} in process {pid}"
    return f"one that process {pid} has open" if pid else "one that another process has open"


def busy(journal_path: str, holder: Holder) -> JournalBusy:
    """The refusal, with what to do."""
    return JournalBusy(f"{journal_path} is in use by {holder}. Close it there, wait for it, or use another path.")


def _after_fork_in_child() -> None:
    global _held_lock
    _held_lock = threading.Lock()  # another thread of the parent may have held it
    for lock in list(_held.values()):
        lock.abandon()
    _held.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
