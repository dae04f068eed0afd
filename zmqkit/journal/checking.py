"""Checks a whole journal, and saves what is sound of a damaged one into a new file. Changes nothing in the old one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import apsw

from zmqkit.errors import JournalBusy, JournalDamaged, JournalError, JournalFull
from zmqkit.journal import layout, salvage
from zmqkit.journal.layout import LogState
from zmqkit.journal.lock import Holder, inspect
from zmqkit.journal.salvage import NO_KEYS, Damage, Judge, Moved, Source
from zmqkit.journal.store import HIGHEST_KEY, checksum
from zmqkit.protocol.core import Row

Tell = Callable[[str, int, int], object]
"""Told how far the work is: what is being done, how much of it, and of how much (0: nobody knows)."""

TRIES: Final = 5
"""How often a live journal is looked at when its owner is in the way..."""
_PAUSE_S: Final = 0.2
"""...and how long between."""
MOST_DAMAGES: Final = 1000
"""So many findings are listed; the others are counted."""
_TELL_ROWS: Final = 1000
_ROWS_A_TRANSACTION: Final = 10_000
_MARGIN: Final = 1 << 32
"""How far above the keys that were found new ones begin, where the highest one is not known."""


@dataclasses.dataclass(slots=True)
class Report:
    """What a check found.

    Attributes:
        path: of the file, absolute.
        kind: what the journal is for; None: that cannot be read, as with `uuid`.
        uuid: its own.
        holder: who had it open meanwhile; None: nobody.
        rows: sound rows, by log.
        weight: the sum of their weights, by log: how many messages they stand for.
        unsound: how many rows are there and make no sense, by log; rows that cannot be read at all are not counted.
        damages: what was found, the first `MOST_DAMAGES` of it.
        more: how much was found besides.
    """

    path: str
    kind: str | None
    uuid: str | None
    holder: Holder | None
    rows: dict[str, int] = dataclasses.field(default_factory=dict)
    weight: dict[str, int] = dataclasses.field(default_factory=dict)
    unsound: dict[str, int] = dataclasses.field(default_factory=dict)
    damages: list[Damage] = dataclasses.field(default_factory=list)
    more: int = 0

    @property
    def sound(self) -> bool:
        """Nothing was found."""
        return not self.damages

    def add(self, damage: Damage) -> None:
        """Note a finding."""
        if damage.first and damage.rows:
            self.unsound[damage.log] = self.unsound.get(damage.log, 0) + damage.rows
        if len(self.damages) < MOST_DAMAGES:
            self.damages.append(damage)
        else:
            self.more += 1


def check(path: str | os.PathLike[str], judge_of: Callable[[str | None], Judge], tell: Tell) -> Report:
    """Go through all of a journal: its pages, its tables, each row's checksum and meaning, its totals.

    A journal that somebody has open is looked at from outside, as it was at one moment.

    Args:
        path: of the file.
        judge_of: makes who knows what the rows of this kind of journal mean.
        tell: is told how far it is.

    Raises:
        JournalBusy: somebody has it open, and changes it too fast to be looked at.
        JournalVersion: it is no journal, or of another version.
        JournalError: it is not there, or cannot be read by us.
    """
    name = os.path.realpath(path)
    for _ in range(TRIES):
        try:
            with salvage.opened(name) as source:
                return _check(source, judge_of, tell)
        except Moved:
            time.sleep(_PAUSE_S)
    holder = inspect(f"{name}.lock")[0]
    raise JournalBusy(
        f"{name} is in use by {holder or 'somebody'}, who changed it each of the {TRIES} times that it was looked at. "
        "Check it when less goes on, or when it is closed."
    )


def _check(source: Source, judge_of: Callable[[str | None], Judge], tell: Tell) -> Report:
    about = source.about
    report = Report(source.path, about and about.kind, about and about.uuid, source.holder)
    for damage in [*source.damages, *source.structure(lambda: tell("pages", 0, 0))]:
        report.add(damage)
    if source.connection is not None:
        judge = judge_of(report.kind)
        for log in source.logs:
            for each in _rows(source, log, judge, report, tell):
                if isinstance(each, Damage):
                    report.add(each)
    # What was read while the owner carried its log over may be of no time at all: then none of it counts.
    source.look_again()
    return report


def _rows(source: Source, log: str, judge: Judge, report: Report, tell: Tell) -> Iterator[Row | Damage]:
    """A log's sound rows, and all that is wrong with the others and the whole; counts them in the report."""
    expected = source.expected(log)
    total = expected.rows if expected is not None else 0
    rows = weight = 0
    for each in source.rows(log):
        if isinstance(each, Damage):
            yield each
            continue
        wrong = judge(log, each, source.get)
        if wrong is None and expected is not None and each.key > expected.highest:
            wrong = f"the highest key that was ever used is said to be {expected.highest}"
        if wrong is not None:
            yield Damage(log, each.key, each.key, wrong, 1)
            continue
        rows += 1
        weight += each.weight
        yield each
        if not rows % _TELL_ROWS:
            tell(log, rows, total)
            source.look_again()
    report.rows[log], report.weight[log] = rows, weight
    if expected is None:
        if source.state is not None:
            yield Damage(log, *NO_KEYS, "its state row knows no such log", rows)
    elif (rows, weight) != expected[:2]:
        told = f"holds {rows} sound rows for {weight} messages, and should hold {expected.rows} for {expected.weight}"
        yield Damage(log, *NO_KEYS, told, max(0, expected.rows - rows))


# ---- repair ----------------------------------------------------------------------


def repair(
    path: str | os.PathLike[str],
    to: str | os.PathLike[str],
    judge_of: Callable[[str | None], Judge],
    tell: Tell,
    *,
    keep_uuid: bool | None,
) -> tuple[Report, str]:
    """Copy what is sound of a journal into a new file.

    Args:
        path: of the damaged one, which stays as it is.
        to: of the new one; nothing may be there.
        judge_of: as with `check`.
        tell: likewise.
        keep_uuid: the copy takes the journal's uuid over, and with it its place in the world; False: it is another
            journal. None: False, but where that could do harm, see below.

    Returns:
        What a check of the old file says, where rows are those that were copied; and the uuid of the copy.

    Raises:
        ValueError: a client's journal, and `keep_uuid` was not said. Servers know its calls by its uuid: under another
            one they would execute again what they were handed before.
        JournalBusy: somebody has the old one open.
        JournalVersion: it is no journal, or of another version.
        JournalDamaged: not even its kind can be read.
        JournalFull, JournalError: the copy cannot be written.
    """
    target = os.path.realpath(to)
    for suffix in ("", "-wal", ".lock"):
        if os.path.lexists(target + suffix):
            raise JournalError(f"{target}{suffix} is there already: name a file that is not")
    if not os.path.isdir(os.path.dirname(target)):
        raise JournalError(f"{target}: there is no directory {os.path.dirname(target)}; make it first")
    with salvage.opened(os.path.realpath(path), live=False) as source:
        about = source.about
        if about is None or source.connection is None:
            raise JournalDamaged(
                f"{source.path} is damaged beyond repair: {'; '.join(map(str, source.damages))}. Put back a good copy"
            )
        if about.kind == "client" and keep_uuid is None:
            raise ValueError(
                "servers know a client's calls by the journal's uuid: say --keep-uuid, and never open the damaged one "
                "again; or --new-uuid, and what was handed to a server before may be executed again"
            )
        uuid = about.uuid if keep_uuid else None
        report = Report(source.path, about.kind, about.uuid, None)
        for damage in [*source.damages, *source.structure(lambda: tell("pages", 0, 0))]:
            report.add(damage)
        copy = _Copy(source, judge_of(about.kind), report, tell, epochs=bool(keep_uuid))
        try:
            layout.create(target, kind=about.kind, logs=source.logs, vfs=None, uuid=uuid, fill=copy.fill)
        except apsw.FullError as error:
            raise JournalFull(f"{target}: no room on the disk for the copy; nothing was left there") from error
        except apsw.Error as error:
            raise JournalError(f"{target}: the copy could not be written ({error}); nothing was left there") from error
        connection = layout.connect_to_read(target, vfs=None)
        try:
            made = layout.load_about(connection, target)
        finally:
            connection.close(True)
    return report, made.uuid


class _Copy:
    """Puts what is sound of one journal into another one that is being made."""

    def __init__(self, source: Source, judge: Judge, report: Report, tell: Tell, *, epochs: bool) -> None:
        self._source, self._judge, self._report, self._tell = source, judge, report, tell
        self._epochs = epochs

    def fill(self, connection: apsw.Connection) -> None:
        """Copy all. Until the file gets its name nobody relies on it: it is synced once, at the end."""
        connection.pragma("synchronous", "off")
        source, mark = self._source, self._source.mark
        logs = {log: self._copy(connection, log) for log in source.logs}
        commits = source.state.commits if source.state is not None else 0
        if mark is not None and mark.journal == self._report.uuid:
            commits = max(commits, mark.commits)  # under the old one's name it must not look like an older copy
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "UPDATE state SET commits = ?, logs = ?, crc = ? WHERE id = 1", layout.state_row(commits + 1, logs)
        )
        if self._epochs and source.connection is not None:
            with contextlib.suppress(apsw.CorruptError, apsw.SQLError):  # they tell of the past only
                found: list[tuple[Any, ...]] = source.connection.execute("SELECT * FROM epochs").fetchall()
                connection.executemany("INSERT INTO epochs VALUES(?, ?, ?, ?, ?, ?)", found)
        connection.execute("COMMIT")

    def _copy(self, connection: apsw.Connection, log: str) -> LogState:
        statement = f"INSERT INTO {layout.table_of(log)}(key, weight, crc, value) VALUES(?, ?, ?, ?)"
        highest = 0
        written = 0
        connection.execute("BEGIN IMMEDIATE")
        for each in _rows(self._source, log, self._judge, self._report, self._tell):
            if isinstance(each, Damage):
                self._report.add(each)
                continue
            connection.execute(statement, (each.key, each.weight, checksum(*each), each.value))
            highest = each.key
            written += 1
            if not written % _ROWS_A_TRANSACTION:
                connection.execute("COMMIT")
                connection.execute("BEGIN IMMEDIATE")
        connection.execute("COMMIT")
        return LogState(self._report.rows[log], self._report.weight[log], self._highest(log, highest))

    def _highest(self, log: str, found: int) -> int:
        """The highest key that was ever used: no number may be given twice, also not of a row that is gone."""
        expected, mark = self._source.expected(log), self._source.mark
        if self._source.state is None:
            found += _MARGIN
        if mark is not None and mark.journal == self._report.uuid:
            found = max(found, mark.highest.get(log, 0))
        return min(HIGHEST_KEY, max(found, expected.highest if expected is not None else 0))
