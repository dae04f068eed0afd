"""Reads what can be read of a journal in whatever state it is, row by row, and says what cannot. Changes nothing.

Where `SqliteJournal` refuses a file at the first thing that is not as it was written, this goes on: past rows whose
checksums are wrong, and past pages that SQLite cannot read. Knows no pattern: what rows mean is asked of a `Judge`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, Protocol

import apsw

from zmqkit.errors import JournalDamaged, JournalError
from zmqkit.journal import layout, still, tail
from zmqkit.journal.layout import About, LogState, State
from zmqkit.journal.lock import Holder, boot_id, busy, inspect
from zmqkit.journal.store import HIGHEST_KEY, checksum
from zmqkit.protocol.core import Row

_STEPS: Final = 2_000
"""So many keys of a hole are tried one by one, ..."""
_PROBES: Final = 10_000
"""... then so many in steps of about a row; then each step is twice as long."""
_LINES: Final = 100
"""So many complaints of SQLite are listed at most."""

NO_KEYS: Final = (0, 0)


class Damage(NamedTuple):
    """Something that is not as it should be.

    Attributes:
        log: where; empty: in the file itself.
        first: the first key that it concerns, 0 if it is no matter of keys.
        last: the last one.
        what: in words.
        rows: how many rows it concerns; None: nobody knows.
    """

    log: str
    first: int
    last: int
    what: str
    rows: int | None = 0

    def __str__(self) -> str:
        if not self.log:
            return self.what
        if not self.first:
            return f"log {self.log}: {self.what}"
        keys = f"key {self.first}" if self.first == self.last else f"keys {self.first} to {self.last}"
        if self.last == HIGHEST_KEY:
            keys = f"all keys from {self.first} on"
        return f"log {self.log}, {keys}: {self.what}"


Get = Callable[[str, int], Row | None]
"""Another row, by log and key; None if it is not there, or cannot be read."""


class Judge(Protocol):
    """Knows what rows mean. One is asked about one file, log by log, each in the order of its keys."""

    def __call__(self, log: str, row: Row, get: Get) -> str | None:
        """What is wrong with a row that is what was written; None: nothing."""


class Source:
    """A journal's file, open to be looked at; see `opened`.

    Attributes:
        path: absolute.
        holder: who has it open; None: nobody.
        connection: in a transaction that holds it still.
        damages: of the file as a whole.
        state: the state row; None if it cannot be read.
        about: kind and uuid; None likewise.
        logs: the names of the logs that there are.
        mark: what the sidecar says.
    """

    def __init__(self, path: str, holder: Holder | None, mark: tail.Watermark | None) -> None:
        self.path = path
        self.holder = holder
        self.mark = mark
        self.connection: apsw.Connection | None = None
        self.damages: list[Damage] = []
        self.state: State | None = None
        self.about: About | None = None
        self.logs: list[str] = []
        self._moved: Callable[[], bool] = lambda: False

    # ---- the file as a whole -----------------------------------------------------

    def _attach(self, connection: apsw.Connection, moved: Callable[[], bool]) -> None:
        self.connection, self._moved = connection, moved
        if not self.damages:
            layout.check_version(self.path, connection.pragma("user_version"))
        with self._noting("its state row"):
            self.state = layout.load_state(connection, self.path)
        with self._noting("what it says about itself"):
            self.about = layout.load_about(connection, self.path)
        with self._noting("the list of its tables"):
            found = {str(name) for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            self.logs = sorted(name.removeprefix("log_") for name in found if layout.is_log_table(name))
            self._compare_tables()
        if self.state is not None:
            listed = list(self.state.logs)
            self.logs.sort(key=lambda name: listed.index(name) if name in listed else len(listed))
            self._compare_mark(self.state)

    def _compare_tables(self) -> None:
        assert self.connection is not None
        if self.state is None:
            return
        strange = layout.tables_of(self.connection) ^ layout.expected_tables(self.state)
        for log in sorted(self.state.logs.keys() - set(self.logs)):
            self.damages.append(Damage(log, *NO_KEYS, "its table is not to be found", self.state.logs[log].rows))
        for sql in sorted(strange)[:_LINES]:
            self.damages.append(Damage("", *NO_KEYS, f"its tables are not those of its logs: {sql[:100]}"))

    def _compare_mark(self, state: State) -> None:
        if self.mark is tail.UNREADABLE:
            self.damages.append(Damage("", *NO_KEYS, "its sidecar (.lock) is not what was written"))
        if self.mark is None or self.about is None or self.mark.journal != self.about.uuid:
            return
        lost = tail.lost(self.mark, state.commits, {name: log.highest for name, log in state.logs.items()}, boot_id())
        if lost is not None and self.holder is None:  # an owner writes its mark after the commit: it is never ahead
            self.damages.append(Damage("", *NO_KEYS, f"it has lost {lost}", None))

    @contextlib.contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        try:
            yield
        except (apsw.Error, JournalDamaged, UnicodeDecodeError) as error:
            self.damages.append(Damage("", *NO_KEYS, f"{what} cannot be read: {_reason(error)}"))

    def structure(self, tick: Callable[[], object]) -> list[Damage]:
        """What SQLite finds when it goes through all pages of the file.

        Args:
            tick: called now and then; what it raises ends the search.
        """
        if self.connection is None:
            return []
        tick()
        # Many steps of SQLite's machine a call, so that it is called some hundred times a second.
        self.connection.set_progress_handler(lambda: bool(tick() and False), 100_000)
        found = []
        try:
            for (line,) in self.connection.execute(f"PRAGMA integrity_check({_LINES})"):
                if line != "ok":
                    found.append(Damage("", *NO_KEYS, f"SQLite: {' '.join(str(line).split())}"))
        except apsw.Error as error:
            found.append(Damage("", *NO_KEYS, f"SQLite: {_reason(error)}"))
        finally:
            self.connection.set_progress_handler(None)
        self.look_again()
        return found

    def look_again(self) -> None:
        """Raises `Moved` if the owner changed the file meanwhile."""
        if self._moved():
            raise Moved

    # ---- its rows ----------------------------------------------------------------

    def expected(self, log: str) -> LogState | None:
        """What the state row says of a log."""
        return self.state.logs.get(log) if self.state is not None else None

    def rows(self, log: str) -> Iterator[Row | Damage]:
        """The rows of a log that are what was written, in the order of their keys, and the damage between them."""
        assert self.connection is not None
        statement = f"SELECT key, weight, crc, value FROM {layout.table_of(log)} WHERE key >= ? ORDER BY key"
        start = 1
        while start:
            try:
                for key, weight, crc, value in self.connection.execute(statement, (start,)):
                    if type(key) is not int or key < start:
                        yield Damage(log, *NO_KEYS, "a key comes out of turn", 1)
                        continue
                    start = key + 1
                    if type(value) is bytes and type(weight) is int and _sum(key, weight, value) == crc:
                        yield Row(key, weight, value)
                    else:
                        yield Damage(log, key, key, "the row is not what was written", 1)
                return
            except (apsw.Error, UnicodeDecodeError) as error:
                after = self._next_readable(statement, start, self._gap(log))
                yield Damage(log, start, (after or HIGHEST_KEY + 1) - 1, f"cannot be read: {_reason(error)}", None)
                start = after

    def _gap(self, log: str) -> int:
        """How far apart the keys of a log are, about."""
        expected = self.expected(log)
        return max(1, expected.weight // expected.rows) if expected is not None and expected.rows else 1

    def _next_readable(self, statement: str, bad: int, gap: int) -> int:
        """The first key after `bad`, which cannot be read, from which rows can be read again; 0: there is none."""
        step = 1
        for probe in itertools.count():
            if probe == _STEPS:
                step = gap
            elif probe > _STEPS + _PROBES:
                step *= 2
            if bad + step > HIGHEST_KEY:
                return 0
            found = self._probe(statement, bad + step)
            if found is not None:
                break
            bad += step
        good = bad + step
        while found and good - bad > 1:
            middle = (bad + good) // 2
            if self._probe(statement, middle) is None:
                bad = middle
            else:
                good = middle
        return good if found else 0

    def _probe(self, statement: str, start: int) -> bool | None:
        """Whether there are rows from this key on; None if that cannot be read."""
        assert self.connection is not None
        try:
            return self.connection.execute(f"{statement} LIMIT 1", (start,)).fetchone() is not None
        except (apsw.Error, UnicodeDecodeError):
            return None

    def get(self, log: str, key: int) -> Row | None:
        """One row, if it is there and is what was written."""
        assert self.connection is not None
        if log not in self.logs:
            return None
        try:
            statement = f"SELECT key, weight, crc, value FROM {layout.table_of(log)} WHERE key = ?"
            found: Any = self.connection.execute(statement, (key,)).fetchone()
            if found and type(found[3]) is bytes and _sum(found[0], found[1], found[3]) == found[2]:
                return Row(found[0], found[1], found[3])
        except (apsw.Error, UnicodeDecodeError):
            return None
        return None


class Moved(Exception):
    """The owner changed the file while it was looked at."""


def _sum(key: int, weight: int, value: bytes) -> int:
    return checksum(key, weight, value) if -HIGHEST_KEY <= weight <= HIGHEST_KEY else -1


def _reason(error: Exception) -> str:
    text = str(error)
    return text.partition(" is damaged: ")[2].partition(". It was left")[0] or text


@contextlib.contextmanager
def opened(path: str, *, live: bool = True) -> Iterator[Source]:
    """A journal's file, to be looked at.

    Args:
        path: of the file.
        live: look at it from outside, whoever has it open or opens it meanwhile; see `still`. False: keep owners out.

    Raises:
        JournalBusy: somebody has it open, and `live` is false, or it is this very process.
        JournalVersion: it is no journal, or of another version.
        JournalError: it is not there, or the system does not let us read it.
        Moved: raised by `Source.look_again`; try again.
    """
    path = os.path.realpath(path)
    holder, mark = inspect(f"{path}.lock")
    if holder is not None and not live:
        raise busy(path, holder)
    if holder is not None and holder.pid == os.getpid() and holder.host == socket.gethostname():
        raise busy(path, holder)  # a POSIX lock of ours would go with any handle of the file that we close
    if os.path.isdir(path):
        raise JournalError(f"{path} is a directory; a journal is a file")
    if not os.path.exists(path):
        raise JournalError(f"{path}: there is no such journal")
    source = Source(path, holder, mark)
    with contextlib.ExitStack() as stack:
        try:
            layout.check_header(path, was_ours=mark is not None)
        except JournalDamaged as error:
            source.damages.append(Damage("", *NO_KEYS, _reason(error), None))
        except OSError as error:
            raise JournalError(f"{path} cannot be read: {error.strerror}") from error
        try:
            if live:
                look = stack.enter_context(still.look(path))
                if look.schema_error is not None:
                    source.damages.append(Damage("", *NO_KEYS, _reason(look.schema_error), None))
                source._attach(look.connection, look.moved)
            else:
                connection = layout.connect_to_read(path, vfs=None)
                stack.callback(connection.close, True)
                connection.execute("BEGIN")
                schema_error = layout.load_schema(connection)
                if schema_error is not None:
                    source.damages.append(Damage("", *NO_KEYS, _reason(schema_error), None))
                source._attach(connection, lambda: False)
        except (apsw.BusyError, apsw.LockedError) as error:
            raise JournalError(f"{path}: another program has it open with SQLite ({error}); close it there") from error
        except apsw.CantOpenError as error:
            if live:  # its log was there a moment ago: an owner has just closed it
                raise Moved from error
            raise JournalError(f"{path}: it cannot be opened ({error})") from error
        except apsw.Error as error:
            source.damages.append(Damage("", *NO_KEYS, f"nothing of it can be read: {_reason(error)}", None))
        yield source
