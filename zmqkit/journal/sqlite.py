"""The embedded journal: SQLite through apsw, one connection, one owner. Knows no sockets and no pattern.

A commit that fails leaves three possibilities, and this file is about telling them apart. After any error of the
disk the connection is not believed any more, because a second fsync on the same handle says that all is well when
it is not (PostgreSQL's "fsyncgate"). The file is opened afresh, and the number of the last commit in it tells:

- it is there: it is carried over into the database and synced through the new handle, and so confirmed;
- it is not there: it is not stored, and the caller is told why (`JournalFull`, `JournalError`);
- neither can be established: `CommitIndeterminate`, and the journal is of no more use.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import logging
import os
import socket
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from itertools import chain
from struct import error as struct_error
from typing import NoReturn, Self

import apsw

from zmqkit import checks
from zmqkit.errors import CommitIndeterminate, Forked, JournalDamaged, JournalError, JournalFull, JournalVersion
from zmqkit.journal import forks, layout, sidecar
from zmqkit.journal.changes import Change, plan
from zmqkit.journal.failures import FULL_ERRNOS, errors_of, no_room
from zmqkit.journal.layout import LogState, State
from zmqkit.journal.lock import OwnerLock, busy, inspect
from zmqkit.journal.reserve import Reserve
from zmqkit.journal.store import HIGHEST_KEY, Totals, checksum
from zmqkit.journal.tail import Watermark
from zmqkit.options import Durability
from zmqkit.protocol.core import Read, Row, Write

_log = logging.getLogger("zmqkit.journal")

COUNT_UP_TO = 1_000_000
"""Logs of up to so many rows are counted at open (about 0.05 s), to see whether some went missing."""
_FREE_PAGES = 1024
"""Free pages that stay in the file for the next commits (4 MB) ..."""
_FREE_SHARE = 4
"""... or a quarter of it, if that is more; what is above is given back."""
_VACUUM_PAGES = 128
"""How many pages a commit gives back at least, while there are too many."""
_RELIEF_BYTES = 256 * 1024
"""How much a commit that deletes may put, and still use the reserve."""

_ROWS_A_STATEMENT = 64
_MANY_ROWS = ", ".join(["(?, ?, ?, ?)"] * _ROWS_A_STATEMENT)
_SET_STATE = "UPDATE state SET commits = ?, logs = ?, crc = ? WHERE id = 1"


class SqliteJournal:
    """A `Journal` in one file; opened when it is made, made if it is not there.

    The directory needs to be there. Beside the file lie ``-wal`` (while it is open, or after a crash), ``.lock`` (who
    holds it, and how far it has come; see `lock` and `tail`) and ``-reserve`` (see `reserve`).

    Args:
        path: of the file.
        durability: `power` syncs each commit; `process` survives the death of the process, not a power cut.
        logs: the logs to work with; those that are missing in the file are made. When only reading: None, for those
            that are there.
        kind: what the journal is for; a file of another kind is refused. None takes any that exists.
        read_only: look, and change nothing. Takes no lock, works only while nobody else holds the journal, and
            refuses commits. Each call opens the file for itself, so an owner may come at any time: then the next
            call raises `JournalBusy`.
        owner: what we call ourselves, for those who are refused meanwhile; default: the program's name.
        reserve_bytes: room kept for deletes on a full disk; 0 for none.
        vfs: the name of an apsw VFS, for tests that let the disk fail.

    Raises:
        JournalBusy: somebody holds it; the message says who.
        JournalVersion: not a journal, or of another format or kind. It was left as it is.
        JournalDamaged: not what was written; `JournalRolledBack`: less than was confirmed, see `sidecar`.
        JournalFull: no room to open it in.
        JournalError: no such directory, no permission, an error of the disk.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "power",
        logs: Sequence[str] | None = ("messages", "marks", "dead"),
        kind: str | None = "pipeline",
        read_only: bool = False,
        owner: str | None = None,
        reserve_bytes: int = 8 << 20,
        vfs: str | None = None,
    ) -> None:
        if durability not in ("power", "process"):
            raise ValueError(f"a journal in a file is as durable as 'power' or 'process', not {durability!r}")
        for log in logs or ():
            layout.table_of(log)
        self.path = checks.file_path("path", os.path.realpath(checks.file_path("path", path)))
        self.durability: Durability = durability
        self.epoch = uuid.uuid4().hex
        self.read_only = read_only
        self._vfs = vfs
        self._lock = threading.RLock()
        self._connection: apsw.Connection | None = None
        self._owner_lock: OwnerLock | None = None
        self._sidecar: sidecar.Sidecar | None = None
        self._reserve = Reserve(self.path + "-reserve", 0 if read_only else reserve_bytes)
        self._state = State(0, {})
        self._names: tuple[str, ...] = tuple(logs or ())
        self._place = (0, 0)
        """Device and inode of the file."""
        self._wal_pages = 0
        self._vacuuming = False
        self._over: tuple[type[Exception], str] | None = None
        """Why the journal is of no more use."""
        if not os.path.isdir(os.path.dirname(self.path)):
            raise JournalError(f"{self.path}: there is no directory {os.path.dirname(self.path)}; make it first")
        if os.path.isdir(self.path):
            raise JournalError(f"{self.path} is a directory; a journal is a file")
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            # It has no size, as if it were empty: a journal made there would take its place, and /dev/null be gone.
            raise JournalError(
                f"{self.path} is a device, a pipe or a socket; a journal is a file. It was left as it is"
            )
        with errors_of(self.path, "opening"):
            if read_only:
                with self._view() as connection:
                    self._admit(connection, kind, logs)
                    self._names = tuple(self._names or self._state.logs)
            else:
                self._open(kind, owner if owner is not None else os.path.basename(sys.argv[0]) or "python")

    # ---- opening -----------------------------------------------------------------

    def _open(self, kind: str | None, owner: str) -> None:
        if not os.path.exists(self.path + ".lock") and not layout.is_missing(self.path, was_ours=False):
            # Beside a stranger's file we leave no lock file.
            layout.check_header(self.path, was_ours=False, upgrade=True)
        self._owner_lock = OwnerLock(self.path + ".lock", journal_path=self.path, owner=owner)
        try:
            mark = self._owner_lock.watermark()
            if layout.is_missing(self.path, was_ours=mark is not None):
                if kind is None or not self._names:
                    raise JournalError(f"{self.path}: there is no journal, and of what kind to make it was not said")
                layout.create(self.path, kind=kind, logs=self._names, vfs=self._vfs)
            layout.check_header(self.path, was_ours=mark is not None, upgrade=True)
            self._connect()
            self._place = layout.place_of(self.path)
            self._admit(self._connection_now(), kind, self._names, mark)
            self._owner_lock.claim(self.uuid, self.path)
            opening = self._begin_epoch()
            assert self._sidecar is not None
            self._sidecar.begin(opening, self.epoch, self._state, sync=self.durability == "power")
            self._reserve.fill()
            forks.watch(self)
        except BaseException:
            self._drop_connection()
            self._owner_lock.release()
            raise

    def _connect(self) -> None:
        self._connection = layout.connect(self.path, durability=self.durability, vfs=self._vfs)
        self._connection.set_wal_hook(self._note_wal_pages)
        self._wal_pages = 0

    def _note_wal_pages(self, connection: apsw.Connection, database: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _admit(
        self, connection: apsw.Connection, kind: str | None, logs: Sequence[str] | None, mark: Watermark | None = None
    ) -> None:
        """Check what is in the file against what is wanted and what was confirmed."""
        self._state, about = layout.check_content(connection, self.path, count_up_to=COUNT_UP_TO)
        self.uuid, self.kind = about.uuid, about.kind
        if kind not in (None, about.kind):
            raise JournalVersion(
                f"{self.path} is a journal of kind {about.kind!r}, not {kind!r}; it was left as it is. "
                "Use another path."
            )
        if mark is None and self.read_only:
            mark = inspect(self.path + ".lock")[1]
        excused = sidecar.compare(self.path, mark, self.uuid, self._state, layout.openings(connection))
        if self._owner_lock is not None:
            self._sidecar = sidecar.Sidecar(self._owner_lock, self.durability, self.uuid, mark)
            if excused:
                # Synced first: numbers that are used again must not be held against what is gone.
                self._sidecar.begin(0, "", self._state, sync=True)
        for log in logs or ():
            if log not in self._state.logs and self.read_only:
                raise ValueError(f"{self.path} has no log {log!r}, only {', '.join(self._state.logs)}")

    def _begin_epoch(self) -> int:
        """Note in the file that we own it, and with it sync all that a killed owner left; this opening's number."""
        for remedy in (None, self._reserve.give_back):
            if remedy is not None and not remedy():
                continue
            try:
                return self._store_epoch()
            except apsw.FullError as error:
                full = error
                self._drop_connection()
                self._connect()
        raise no_room(self.path, "opening it") from full

    def _store_epoch(self) -> int:
        connection = self._connection_now()
        opened = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        state = State(self._state.commits + 1, dict(self._state.logs))
        connection.execute("BEGIN IMMEDIATE")
        for log in self._names:
            if log not in state.logs:
                layout.add_log(connection, log)
                state.logs[log] = LogState(0, 0, 0)
        connection.execute(
            "INSERT INTO epochs(epoch, opened, durability, pid, host) VALUES(?, ?, ?, ?, ?)",
            (self.epoch, opened, self.durability, os.getpid(), socket.gethostname()),
        )
        opening = connection.last_insert_rowid()
        connection.execute("DELETE FROM epochs WHERE number <= ? - 32", (opening,))
        connection.execute(_SET_STATE, layout.state_row(*state))
        connection.execute("COMMIT")
        self._state = state
        return opening

    # ---- asking ------------------------------------------------------------------

    def totals(self, log: str) -> Totals:
        """See `Journal.totals`."""
        with self._lock, errors_of(self.path, "reading"), self._view() as connection:
            state = self._log(log)
            if not state.rows:
                return Totals(0, 0, 0, 0)
            table = layout.table_of(log)
            first = connection.execute(f"SELECT min(key) FROM {table}").get
            last = connection.execute(f"SELECT max(key) FROM {table}").get
            if first is None or last is None:
                raise layout.damaged(self.path, f"log {log} is empty, and should hold {state.rows} rows")
            return Totals(state.rows, state.weight, first, last)

    def highest(self, log: str) -> int:
        """See `Journal.highest`."""
        with self._lock, errors_of(self.path, "reading"), self._view():
            return self._log(log).highest

    def has(self, log: str) -> bool:
        """Whether there is a log of that name: one that was last written by an older version lacks some."""
        return log in self._names

    def read(self, request: Read) -> list[Row]:
        """See `Journal.read`."""
        log, first, last, limit = request
        found: list[Row] = []
        size_bytes = 0
        with self._lock, errors_of(self.path, "reading"), self._view() as connection:
            self._log(log)
            cursor = connection.execute(
                f"SELECT key, weight, crc, value FROM {layout.table_of(log)} WHERE key BETWEEN ? AND ? ORDER BY key",
                (first, last),
            )
            before = first - 1
            try:
                for key, weight, crc, value in cursor:
                    if checksum(key, weight, value) != crc or not before < key <= last:
                        raise layout.damaged(self.path, f"row {key} of log {log} is not what was written")
                    found.append(Row(key, weight, value))
                    before = key
                    size_bytes += len(value) or 1
                    if size_bytes >= limit:
                        break
            except (TypeError, UnicodeDecodeError, struct_error) as error:
                raise layout.damaged(self.path, f"a row after {before} of log {log} has the wrong types") from error
            finally:
                cursor.close(True)
        return found

    def verify(self) -> int:
        """Read all rows of all logs, hold them against their checksums and the totals, and return their number.

        Raises:
            JournalDamaged: something is not what was written.
        """
        total = 0
        for log in self._names:
            with self._lock:
                rows = weight = 0
                first = 1
                while found := self.read(Read(log, first, HIGHEST_KEY, 1 << 20)):
                    rows += len(found)
                    weight += sum([row.weight for row in found])
                    first = found[-1].key + 1
                expected = self._log(log)
                if (rows, weight) != expected[:2]:
                    raise layout.damaged(self.path, f"log {log} holds {rows} rows, not {expected.rows}")
                total += rows
        return total

    def check_place(self) -> None:
        """Raises `JournalDamaged` if the file was removed or replaced since it was opened: then it keeps nothing."""
        layout.check_place(self.path, self._place)

    def _log(self, name: str) -> LogState:
        if name not in self._names:
            raise ValueError(f"no log is named {name!r}; this journal was opened with {', '.join(self._names)}")
        return self._state.logs[name]

    def _connection_now(self) -> apsw.Connection:
        if self._over is not None:
            kind, message = self._over
            raise kind(message)
        if self._connection is None:
            raise JournalError(f"{self.path} was closed")
        return self._connection

    @contextlib.contextmanager
    def _view(self) -> Iterator[apsw.Connection]:
        """A connection to read through: the owner's, or a reader's for this once."""
        if not self.read_only:
            yield self._connection_now()
            return
        if self._over is not None:
            self._connection_now()
        holder, mark = inspect(self.path + ".lock")
        if holder is not None:
            raise busy(self.path, holder)
        if not os.path.exists(self.path):
            layout.is_missing(self.path, was_ours=mark is not None)
            raise JournalError(f"{self.path}: there is no such journal")
        layout.check_header(self.path, was_ours=mark is not None)
        connection = layout.connect_to_read(self.path, vfs=self._vfs)
        try:
            self._state = layout.load_state(connection, self.path)
            yield connection
        finally:
            connection.close(True)

    # ---- committing --------------------------------------------------------------

    def commit(self, writes: Sequence[Write]) -> None:
        """See `Journal.commit`. What is deleted is gone for good, what is put replaces the row of that key."""
        if self.read_only:
            raise JournalError(f"{self.path} was opened for reading only")
        with self._lock:
            self._connection_now()
            if not writes:
                return
            layout.check_place(self.path, self._place)
            changes = plan(writes, self._log)
            full: JournalFull | None = None
            for remedy in (None, self._restart_wal, self._spend_reserve):
                if remedy is not None and not remedy(changes):
                    continue
                try:
                    self._store(changes, vacuum=remedy is None)
                except JournalFull as error:
                    full = error
                else:
                    break
            else:
                assert full is not None
                raise full
            assert self._sidecar is not None
            self._sidecar.commit(self._state)
            if self._wal_pages >= layout.WAL_PAGES:
                self._checkpoint()
                self._reserve.fill()

    def sync(self) -> None:
        """See `Journal.sync`. At durability `power` each commit does it."""
        with self._lock:
            self._connection_now()
            if self.durability != "power" and not self.read_only and not self._checkpoint():
                raise JournalError(f"{self.path}: what was committed could not be synced. Look after the disk")

    def _store(self, changes: list[Change], *, vacuum: bool) -> None:
        """One try at a commit; returns when it is stored, and else says for certain that it is not, or cannot say."""
        state = State(self._state.commits + 1, self._state.logs.copy())
        try:
            self._transact(changes, state, vacuum)
        except (apsw.FullError, apsw.IOError, apsw.CantOpenError) as error:
            connection = self._connection_now()
            full = isinstance(error, apsw.FullError) or connection.system_errno in FULL_ERRNOS
            if not self._reconcile(state.commits, error, full):
                if full:
                    raise no_room(self.path, "storing") from error
                raise JournalError(f"{self.path}: not stored, the disk failed ({error})") from error
        except (apsw.CorruptError, apsw.NotADBError) as error:
            self._give_up(JournalDamaged, str(layout.damaged(self.path, str(error))), error)
        except BaseException as error:
            # A Ctrl-C, no memory: the connection is sound, only whether the commit was made is not known.
            self._roll_back()
            if isinstance(error, apsw.Error):
                raise JournalError(f"{self.path}: not stored ({error})") from error
            raise
        else:
            self._state = state

    def _transact(self, changes: list[Change], state: State, vacuum: bool) -> None:
        execute = self._connection_now().execute
        execute("BEGIN IMMEDIATE")
        freeing = False
        for log, cleared, puts, heavier, highest, _, _ in changes:
            table = layout.table_of(log)
            rows, weight, _ = state.logs[log]
            for span in cleared:
                ((gone, lighter),) = execute(
                    f"SELECT count(*), coalesce(sum(weight), 0) FROM {table} WHERE key BETWEEN ? AND ?", span
                )
                if gone:
                    execute(f"DELETE FROM {table} WHERE key BETWEEN ? AND ?", span)
                    rows -= gone
                    weight -= lighter
                    freeing = True
            insert = f"INSERT INTO {table}(key, weight, crc, value) VALUES"
            if len(puts) == 1:
                execute(f"{insert}(?, ?, ?, ?)", puts[0])
            else:
                # Many rows a statement spare two calls a row into SQLite: a third of the time.
                whole = len(puts) - len(puts) % _ROWS_A_STATEMENT
                for start in range(0, whole, _ROWS_A_STATEMENT):
                    block = puts[start : start + _ROWS_A_STATEMENT]
                    execute(insert + _MANY_ROWS, tuple(chain.from_iterable(block)))
                self._connection_now().executemany(f"{insert}(?, ?, ?, ?)", puts[whole:])
            state.logs[log] = LogState(rows + len(puts), weight + heavier, highest)
        execute(_SET_STATE, layout.state_row(*state))
        if vacuum and (freeing or self._vacuuming):
            self._vacuum()
        execute("COMMIT")

    def _vacuum(self) -> None:
        """Give free pages back, inside a transaction; in proportion to what there is, so that it keeps up."""
        connection = self._connection_now()
        surplus = connection.pragma("freelist_count") - max(_FREE_PAGES, connection.pragma("page_count") // _FREE_SHARE)
        self._vacuuming = surplus > 0
        if surplus > 0:
            pages = max(_VACUUM_PAGES, surplus // 8)
            connection.execute(f"PRAGMA incremental_vacuum({1 << pages.bit_length()})").fetchall()

    # ---- when it fails -----------------------------------------------------------

    def _roll_back(self) -> None:
        connection = self._connection_now()
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._state = layout.load_state(connection, self.path)
        except (apsw.Error, JournalError) as error:
            self._reconcile(self._state.commits + 1, error, False)

    def _reconcile(self, number: int, cause: Exception, full: bool) -> bool:
        """After an error of the disk: is the commit of this number in the file? True and synced, or False.

        Raises:
            CommitIndeterminate: cannot be said; the journal is of no more use.
        """
        self._drop_connection()
        try:
            self._connect()
            connection = self._connection_now()
            state = layout.load_state(connection, self.path)
            newest = connection.execute("SELECT epoch FROM epochs ORDER BY number DESC LIMIT 1").get
            if newest != self.epoch or state.commits not in (number - 1, number):
                raise JournalError(f"it is at commit {state.commits} of epoch {newest}, not {number} of {self.epoch}")
            stored = state.commits == number
            # Present may mean: in the page cache only. Through the new handle it is written and synced anew. And a
            # commit that is not there must not come back from a half-written tail. A full disk has no such tails.
            if stored or not full:
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                self._wal_pages = 0
        except (apsw.Error, OSError, JournalError) as error:
            message = (
                f"{self.path}: a commit failed ({cause}), and looking whether it is stored failed too ({error}). "
                "Look after the disk, then open the journal again: what is in it then is stored."
            )
            self._give_up(CommitIndeterminate, message, cause)
        self._state = state
        _log.warning("%s: a commit failed (%s); it is %s", self.path, cause, "stored" if stored else "not stored")
        return stored

    def _give_up(self, kind: type[JournalError], message: str, cause: BaseException) -> NoReturn:
        self._drop_connection()
        self._over = (kind, message)
        raise kind(message) from cause

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            layout.abandon(connection)

    def _checkpoint(self) -> bool:
        """Carry the write-ahead log over into the database; True if all of it was. It can wait if it fails."""
        try:
            pages, done = self._connection_now().wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as error:
            # The log keeps what is in it. The next try comes when it has grown as much again.
            _log.warning("%s: the write-ahead log could not be carried over (%s); it grows", self.path, error)
            self._wal_pages = 0
            return False
        if pages == done and self._sidecar is not None:
            self._sidecar.checkpoint(self._state)
        return pages == done

    def _restart_wal(self, changes: list[Change]) -> bool:
        """The disk is full. If the log can be carried over, its own room can be used again."""
        return self._checkpoint()

    def _spend_reserve(self, changes: list[Change]) -> bool:
        """The disk is full, but this commit deletes: it may use the reserve."""
        deleted = sum([change.deleted for change in changes])
        new = sum([change.new for change in changes])
        put_bytes = sum([len(put[3]) for change in changes for put in change.puts])
        if not deleted or new > deleted or put_bytes > _RELIEF_BYTES or not self._reserve.give_back():
            return False
        self._checkpoint()
        return True

    # ---- closing -----------------------------------------------------------------

    def close(self) -> None:
        """Give the file back, and the room it no longer needs. Closing twice is harmless.

        Raises:
            JournalError: the disk failed at it; what was confirmed is safe in the write-ahead log all the same.
        """
        with self._lock:
            if self._over is not None and self._over[0] is Forked:
                return
            connection, self._connection = self._connection, None
            if self._over is None:
                self._over = (JournalError, f"{self.path} was closed")
            forks.forget(self)
            try:
                if connection is not None:
                    with errors_of(self.path, "closing"):
                        self._tidy(connection)
            finally:
                if self._owner_lock is not None:
                    self._owner_lock.release()

    def _tidy(self, connection: apsw.Connection) -> None:
        try:
            with contextlib.suppress(apsw.Error):  # room that cannot be given back now is given back next time
                connection.execute("PRAGMA incremental_vacuum").fetchall()
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                assert self._sidecar is not None
                self._sidecar.checkpoint(self._state)
        finally:
            connection.close(True)
            # Readers leave it behind; we ourselves need none.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path + "-shm")
            # The next to open needs the reserve if there is something to be deleted.
            if any(log.rows for log in self._state.logs.values()):
                self._reserve.fill()
            else:
                self._reserve.give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ---- forking -----------------------------------------------------------------

    def before_fork(self, timeout_s: float) -> bool:
        """Let no thread be inside SQLite; see `forks`."""
        return self._lock.acquire(timeout=timeout_s)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Never touch the connection again: even closing it would write into the parent's file."""
        if self._connection is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
            self._connection = None
        self._lock = threading.RLock()
        self._over = (Forked, f"{self.path} is open in the parent process; open a journal of your own here")
