"""``zmqkit journal release``: give jobs that are in doubt to anybody, on the word of an operator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zmqkit.cli import closed, live, options
from zmqkit.cli.outcome import Code, Failed, command, say
from zmqkit.journal import SqliteJournal
from zmqkit.patterns.pipeline.doubt import INBOXES, LENT, pack_lent, unpack_inbox, unpack_lent
from zmqkit.patterns.pipeline.rows import MARKS
from zmqkit.patterns.pipeline.sending import LOGS
from zmqkit.patterns.pipeline.walltime import STATE
from zmqkit.protocol.core import Read, Write

if TYPE_CHECKING:
    from zmqkit.patterns.pipeline.steering_sync import LiveJournal

AT_ONCE = 1000
"""So many rows are rewritten in one commit."""


@command
def release(
    path: options.JournalFile,
    inbox: Annotated[
        str | None,
        typer.Option("--inbox", metavar="ID", show_default=False, help="All that is in doubt at this inbox."),
    ] = None,
    ids: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", show_default=False, help="Only these messages.")
    ] = None,
) -> int:
    """Let jobs that are in doubt go to any puller. `zmqkit journal show` says which they are.

    Their effects may be in the inbox: only release them if it will never answer, or if done twice is better than not
    at all. With --inbox the journal forgets the inbox, and so does not mind that an older copy of it was put back.
    """
    if bool(inbox) == bool(ids):
        raise Failed("give --inbox ID, or --id ID for each message", Code.USAGE)
    with live.opened(path) as found:  # it is there, and a pipeline's
        if not isinstance(found, SqliteJournal):
            if not inbox:
                raise Failed(f"{path} is open in a running program, which releases whole inboxes: give --inbox ID")
            _, wanted = _inbox_of(found, path, inbox)
            return _told(found.release(wanted), inbox)
    journal = SqliteJournal(path, durability="power", logs=LOGS, owner="zmqkit journal release")
    try:
        if inbox:
            return _release_inbox(journal, path, inbox)
        return _release_messages(journal, path, set(ids or ()))
    finally:
        journal.close()


def _inbox_of(journal: SqliteJournal | LiveJournal, path: Path, wanted: str) -> tuple[int, bytes]:
    """The number and the id of the one inbox whose id begins so."""
    rows = journal.read(Read(INBOXES, 1, closed.LAST_KEY, closed.LAST_KEY))
    known = [(row.key, unpack_inbox(row.value)[0]) for row in rows]
    found = [each for each in known if each[1].hex().startswith(wanted.lower())]
    if len(found) != 1:
        what = "no inbox" if not found else "several inboxes"
        raise Failed(f"{path} knows {what} {wanted}: `zmqkit journal show {path}` says of which it waits")
    return found[0]


def _release_inbox(journal: SqliteJournal, path: Path, wanted: str) -> int:
    number, inbox = _inbox_of(journal, path, wanted)
    count = sum(each.inbox == inbox.hex() for each in closed.waiting(journal))
    journal.commit([Write(INBOXES, number, 0, None), *_forgotten(journal, number)])
    return _told(count, wanted)


def _told(count: int, inbox: str) -> int:
    say(f"{count} {'jobs' if count != 1 else 'job'} may go to anybody; the inbox {inbox} is forgotten")
    return Code.OK


def _forgotten(journal: SqliteJournal, number: int) -> Iterator[Write]:
    """What says of rows without marks that they were lent: not to this inbox any more."""
    for row in journal.read(Read(STATE, LENT, LENT, 1)):
        up_to, default, mixed, after = unpack_lent(row.value)
        if default == number:
            up_to, default, mixed = 0, 0, 1
        yield Write(STATE, LENT, 0, pack_lent(up_to, default, bool(mixed), max(after, number + 1)))


def _release_messages(journal: SqliteJournal, path: Path, ids: set[str]) -> int:
    doubt = closed.doubt_of(journal)
    writes: list[Write] = []
    done: set[str] = set()
    for row in closed.rows(journal, doubt):
        bits = 0
        for index in range(row.count):
            if row.bound >> index & 1 and row.id(index) in ids:
                bits |= 1 << index
                done.add(row.id(index))
        if bits:
            row.lend_to(0, bits)
            writes.append(Write(MARKS, row.key, *row.pack_marks()))
    for at in range(0, len(writes), AT_ONCE):
        journal.commit(writes[at : at + AT_ONCE])
    say(f"{len(done)} {'jobs' if len(done) != 1 else 'job'} may go to anybody")
    if ids - done:
        say(f"{len(ids - done)} of the ids are of no job in doubt in {path}")
    return Code.FAILED if ids - done else Code.OK
