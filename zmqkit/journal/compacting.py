"""Gives the room back that a closed journal no longer needs. Changes nothing of what is in it.

A journal in use gives free pages back by itself, but pages stay that are only partly filled. Here the file is written
anew, page after page full, beside its place, synced, and then renamed: whatever happens meanwhile, one of the two is
there, whole. Where the disk has no room for a second file, free pages are given back in place.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NamedTuple

import apsw

from zmqkit.errors import JournalError
from zmqkit.journal import layout, sidecar
from zmqkit.journal.failures import errors_of
from zmqkit.journal.lock import OwnerLock
from zmqkit.journal.reserve import Reserve


class Compacted(NamedTuple):
    """What became of the size of a journal's file and its write-ahead log."""

    before_bytes: int
    after_bytes: int
    in_place: bool
    """There was no room for a second file: pages that are only partly filled are as they were."""


def compact(path: str | os.PathLike[str], *, vfs: str | None = None) -> Compacted:
    """Make the file as small as it can be.

    Args:
        path: of the file.
        vfs: the name of an apsw VFS, for tests that let the disk fail.

    Raises:
        JournalBusy: somebody has it open.
        DuplicateInstance: a copy of it is open.
        JournalVersion: it is no journal, or of another version.
        JournalDamaged: it is not what was written. It was left as it is.
        JournalFull, JournalError: the disk refused; the journal is as it was.
    """
    name = os.path.realpath(path)
    if os.path.isdir(name):
        raise JournalError(f"{name} is a directory; a journal is a file")
    if not os.path.exists(name):
        raise JournalError(f"{name}: there is no such journal")
    if not os.path.exists(f"{name}.lock"):
        layout.check_header(name, was_ours=False, upgrade=True)  # beside a stranger's file we leave no lock file
    lock = OwnerLock(f"{name}.lock", journal_path=name, owner=os.path.basename(sys.argv[0]) or "python")
    try:
        with errors_of(name, "compacting"):
            before = _size(name)
            in_place = _compact(name, lock, vfs)
            return Compacted(before, _size(name), in_place)
    finally:
        lock.release()


def _compact(path: str, lock: OwnerLock, vfs: str | None) -> bool:
    mark = lock.watermark()
    layout.check_header(path, was_ours=mark is not None, upgrade=True)
    connection = layout.connect(path, durability="power", vfs=vfs)
    draft = f"{path}-new"
    try:
        state, about = layout.check_content(connection, path, count_up_to=sys.maxsize)
        lock.claim(about.uuid, path)
        sidecar.compare(path, mark, about.uuid, state, layout.openings(connection))
        # A write-ahead log with anything in it must not stand beside another database, not even for a moment.
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        if os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal"):
            raise JournalError(f"{path}: its write-ahead log could not be carried over; it is as it was")
        in_place = not _has_room(path)
        if in_place:
            connection.execute("PRAGMA incremental_vacuum").fetchall()
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        else:
            _write_anew(connection, draft, vfs)
    except BaseException:
        layout.abandon(connection)
        layout.remove_draft(draft)
        raise
    connection.close(True)
    if not in_place:
        os.rename(draft, path)
        layout.sync(os.path.dirname(path))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{path}-shm")
    if not any(log.rows for log in state.logs.values()):
        Reserve(f"{path}-reserve", 1).give_back()
    return in_place


def _write_anew(connection: apsw.Connection, draft: str, vfs: str | None) -> None:
    layout.remove_draft(draft)
    connection.execute("VACUUM INTO ?", (draft,))
    copy = apsw.Connection(draft, flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    try:
        copy.pragma("locking_mode", "exclusive")
        copy.pragma("journal_mode", "wal")
        layout.check_content(copy, draft, count_up_to=sys.maxsize)
    finally:
        copy.close(True)
    layout.check_header(draft, was_ours=True)
    layout.sync(draft)


def _has_room(path: str) -> bool:
    room = os.statvfs(os.path.dirname(path))
    return room.f_bavail * room.f_frsize > os.path.getsize(path)


def _size(path: str) -> int:
    found = 0
    for suffix in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            found += os.path.getsize(path + suffix)
    return found
