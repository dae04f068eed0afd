"""What a pipeline's journal holds, read from the closed file. Changes nothing, prints nothing.

Reads a stretch at a time, so that memory stays flat whatever waits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from zmqkit import codec
from zmqkit.errors import DecodeError, JournalBusy, JournalError, JournalVersion
from zmqkit.journal import Holder, SqliteJournal
from zmqkit.journal.layout import APPLICATION_ID
from zmqkit.journal.lock import inspect
from zmqkit.journal.store import Totals
from zmqkit.options import Limits
from zmqkit.patterns.pipeline.doubt import INBOXES, Doubt
from zmqkit.patterns.pipeline.rows import DEAD, MARKS, MESSAGES, DeadRow, Row
from zmqkit.patterns.pipeline.walltime import STATE
from zmqkit.protocol.core import Read
from zmqkit.protocol.core import Row as StoredRow

READ_BYTES = 1 << 20
LAST_KEY = 2**63 - 1
PIPELINE = "pipeline"

NOT_FOR_JOBS = {
    "publisher": "is the journal of a publisher: it holds what was published, and where its subscribers are; no jobs "
    "wait in it, for nothing is settled. To read it, run its program, or `zmqkit publish ADDRESS TOPIC --journal "
    "{path}`, and `zmqkit subscribe ADDRESS --from earliest`; `zmqkit journal check {path}` says whether it is sound",
    "server": "is the journal of a server: it holds which calls were executed, and their results; there are no jobs in "
    "it. Its server reads it when it is opened again; `zmqkit journal check {path}` says whether it is sound",
    "client": "is the journal of a client: it holds calls whose outcome is not known yet, and no jobs. Its client goes "
    "on with them when it is opened again; `zmqkit journal check {path}` says whether it is sound",
}
"""What journals of other kinds are, and what to do, for those who look for jobs in them."""

ANY_LIMITS = Limits(frame_bytes=1 << 40, nesting=500)
"""What is in a journal was checked when it was sent, perhaps by looser limits than the default ones."""


class Readable(Protocol):
    """A journal that can be looked into, wherever it is."""

    @property
    def path(self) -> str:
        """Of the file."""

    def has(self, log: str) -> bool:
        """Whether there is a log of that name."""

    def totals(self, log: str) -> Totals:
        """Of one log."""

    def read(self, request: Read) -> Sequence[StoredRow]:
        """Rows in the order of their keys."""


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """One line of a listing.

    Attributes:
        path: of the file.
        size_bytes: of the file and its write-ahead log.
        holder: who has it open, if anybody: then little more is known, unless he tells.
        error: why it could not be read, else None.
        kind: what it is for.
        uuid: its own.
        waiting: messages that are not settled; None in journals of other kinds.
        dead: dead letters; likewise.
    """

    path: str
    size_bytes: int
    holder: Holder | None = None
    error: JournalError | None = None
    kind: str | None = None
    uuid: str | None = None
    waiting: int | None = None
    dead: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Waiting:
    """One message that is not settled."""

    id: str
    body: Any
    headers: dict[str, str]
    failures: int
    sent_at: int
    """Microseconds since 1970, as all times here."""
    key: str | None = None
    priority: int = 0
    due: int = 0
    """It is not delivered before; 0: at once."""
    expires: int = 0
    """Nor after; 0: it is."""
    inbox: str = ""
    """The id of the only inbox that knows whether its effects are there; empty: it may go to anybody."""


@dataclasses.dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter; times in microseconds since 1970."""

    id: str
    body: Any
    headers: dict[str, str]
    reason: str
    traceback: str
    failures: int
    sent_at: int
    at: int
    key: str | None = None
    priority: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a body that cannot be decoded here, such as one of a codec that is registered elsewhere."""

    codec: str
    why: str
    data: bytes


@contextlib.contextmanager
def opened(path: Path, *, kind: str | None = PIPELINE) -> Iterator[SqliteJournal]:
    """A journal that nobody holds, for looking only.

    Raises:
        JournalError: there is none, somebody holds it, it is damaged, it is for something else...
    """
    try:
        journal = SqliteJournal(path, kind=None, logs=None, read_only=True)
    except ValueError as error:  # of what a folder holds by an odd name
        raise JournalError(f"{path} cannot be a journal: {error}") from None
    try:
        if kind is not None and journal.kind != kind:
            unknown = f"is a journal of kind {journal.kind!r}, which this command cannot read"
            what = NOT_FOR_JOBS.get(journal.kind, unknown)
            raise JournalVersion(f"{path} {what.format(path=path)}. Nothing was changed")
        yield journal
    finally:
        journal.close()


def count_waiting(journal: Readable) -> int:
    """How many messages are not settled."""
    return journal.totals(MESSAGES).weight - journal.totals(MARKS).weight


def count_dead(journal: Readable) -> int:
    """How many dead letters there are."""
    return journal.totals(DEAD).weight


def summary(path: Path) -> Summary:
    """What a listing says of a file, whatever state it is in."""
    size_bytes = sum([os.path.getsize(each) for each in (path, f"{path}-wal") if os.path.isfile(each)])
    try:
        with opened(path, kind=None) as journal:
            found = Summary(str(path), size_bytes, kind=journal.kind, uuid=journal.uuid)
            if journal.kind != PIPELINE:
                return found
            return dataclasses.replace(found, waiting=count_waiting(journal), dead=count_dead(journal))
    except JournalBusy as error:
        holder, mark = inspect(f"{os.path.realpath(path)}.lock")
        return Summary(str(path), size_bytes, holder, error, uuid=mark.journal if mark is not None else None)
    except JournalError as error:
        return Summary(str(path), size_bytes, error=error)


def journals_in(folder: Path) -> list[Path]:
    """The files of a folder that are journals, of whatever version and state, by name."""
    return sorted([path for path in folder.iterdir() if path.is_file() and _is_journal(path)])


def _is_journal(path: Path) -> bool:
    if path.name.endswith("-new"):
        return False  # one that was being made when its maker died
    try:
        with path.open("rb") as file:
            header = file.read(72)
    except OSError:
        return False
    return header.startswith(b"SQLite format 3\0") and header[68:72] == APPLICATION_ID.to_bytes(4, "big")


def waiting(journal: Readable) -> Iterator[Waiting]:
    """The messages that are not settled, in the order in which they were sent.

    Raises:
        JournalError: a row is damaged, or of another format.
    """
    doubt = doubt_of(journal)
    for row in rows(journal, doubt):
        left = row.all & ~row.done
        for index in range(row.count):
            if left >> index & 1:
                body = _decoded(row.codec, row.body(index))
                headers = dict(row.headers.get(index, {}))
                inbox = doubt.of(row.inbox_of(index))
                yield Waiting(
                    row.id(index), body, headers, row.failures.get(index, 0), row.sent_at, row.keys.get(index),
                    row.lane, row.due, row.expires, "" if inbox is None else inbox.id.hex(),
                )  # fmt: skip


def doubt_of(journal: Readable) -> Doubt:
    """Which messages go only to one inbox, as the next opening would find them. Raises `JournalVersion`."""
    doubt = Doubt(durable=True)
    with _format_of(journal):
        known, state = (
            journal.read(Read(log, 1, LAST_KEY, LAST_KEY)) if journal.has(log) else [] for log in (INBOXES, STATE)
        )
        doubt.restore(known, state, count_waiting(journal))
    doubt.opened_at(LAST_KEY)
    return doubt


def in_doubt(journal: Readable) -> Counter[str]:
    """How many messages wait for which inbox; looks through all, if there is any."""
    if not journal.has(INBOXES) or not journal.totals(INBOXES).rows:
        return Counter()
    return Counter(each.inbox for each in waiting(journal) if each.inbox)


def rows(journal: Readable, doubt: Doubt) -> Iterator[Row]:
    """All rows, with what is known of their messages."""
    first = 1
    while found := journal.read(Read(MESSAGES, first, LAST_KEY, READ_BYTES)):
        marks = {row.key: row.value for row in journal.read(Read(MARKS, found[0].key, found[-1].key, LAST_KEY))}
        for each in found:
            with _format_of(journal):
                row = Row.unpack(each.key, each.value)
                if each.key in marks:
                    row.unpack_marks(marks[each.key])
            doubt.found(row)
            yield row
        first = found[-1].key + 1


def letters(journal: Readable) -> Iterator[Letter]:
    """The dead letters, in the order in which their messages were sent.

    Raises:
        JournalError: a row is damaged, or of another format.
    """
    first = 1
    while found := journal.read(Read(DEAD, first, LAST_KEY, READ_BYTES)):
        for each in found:
            with _format_of(journal):
                row = DeadRow.unpack(each.value)
            body = _decoded(row.codec, row.body)
            yield Letter(
                row.id, body, dict(row.headers), row.reason, row.traceback, row.failures, row.sent_at, row.at, row.key,
                row.priority,
            )  # fmt: skip
        first = found[-1].key + 1


@contextlib.contextmanager
def _format_of(journal: Readable) -> Iterator[None]:
    """A row is what was written, its checksum says so: what cannot be read in it is of another version."""
    try:
        yield
    except DecodeError as error:
        raise JournalVersion(f"{journal.path}: {error}; look into it with the zmqkit that wrote it") from error


def _decoded(name: str, data: bytes) -> Any:
    try:
        return codec.decode(data, name, limits=ANY_LIMITS)
    except DecodeError as error:
        return Unreadable(name, str(error), data)
