"""How far a subscriber has come with each publisher, in the user's own database: one number, committed with effects.

Two tables of our own stand beside the user's::

    zmqkit_inbox_positions(publisher text primary key, epoch text, offset integer, at integer)
    zmqkit_inbox_epochs(publisher text, epoch text)     epochs of a publisher that are over

All of a publisher's messages up to ``offset`` of this epoch, and all of the epochs before it, were dealt with. A
position never steps back: the rows decide who was first, between any number of processes that share the file. A later
epoch is further, whatever its offsets: a publisher whose journal lost its tail uses some again. Knows sqlite3; no
message, no subscriber.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from zmqkit.errors import Duplicate
from zmqkit.inbox.connections import ask, translated
from zmqkit.inbox.inbox import Inbox, Transaction

_TABLES: Final = (
    "create table if not exists zmqkit_inbox_positions"
    " (publisher text primary key, epoch text not null, offset integer not null, at integer not null) without rowid",
    "create table if not exists zmqkit_inbox_epochs"
    " (publisher text not null, epoch text not null, primary key (publisher, epoch)) without rowid",
)


class Position(NamedTuple):
    """How far a subscriber has come with one publisher."""

    publisher: str
    epoch: str
    offset: int


class Positions:
    """The positions in one inbox.

    Args:
        inbox: whose file; this object's methods work in the calling thread's connection.
        clock: wall time in seconds.

    Raises:
        JournalError: the table cannot be made or read; the subclass and the message say why.
    """

    def __init__(self, inbox: Inbox, *, clock: Callable[[], float] = time.time) -> None:
        self._inbox = inbox
        self._clock = clock
        transaction = inbox.begin()
        assert transaction is not None  # it waits
        try:
            with translated(inbox.path):
                for table in _TABLES:
                    transaction.connection.execute(table)
            transaction.commit()
        finally:
            transaction.rollback()  # nothing happens if it was committed

    def all(self) -> list[Position]:
        """Every position, in no order."""
        with translated(self._inbox.path):
            rows = ask(self._inbox.connection(), "select publisher, epoch, offset from zmqkit_inbox_positions")
            return [Position(*row) for row in rows]

    def find(self, publisher: str) -> Position | None:
        """How far we have come with this publisher; None: it is not known here."""
        with translated(self._inbox.path):
            statement = "select publisher, epoch, offset from zmqkit_inbox_positions where publisher = ?"
            row = ask(self._inbox.connection(), statement, (publisher,)).fetchone()
        return None if row is None else Position(*row)

    def advance(self, transaction: Transaction, position: Position, id: str) -> None:
        """Move on over the message of this id, within a transaction: effects and position are kept, or neither.

        Raises:
            Duplicate: another who shares the inbox has come so far already; roll back.
        """
        transaction.prove(id, lambda: self._reached(position))
        with translated(self._inbox.path):
            known = self.find(position.publisher)
            if known is not None and self._is_over(known, position):
                raise Duplicate(
                    f"message {position.offset} of publisher {position.publisher[:8]} was dealt with before, by "
                    f"another that shares the inbox {self._inbox.path}"
                )
            execute = transaction.connection.execute
            if known is not None and known.epoch != position.epoch:
                execute("insert or ignore into zmqkit_inbox_epochs values (?, ?)", known[:2])
            execute(
                "insert or replace into zmqkit_inbox_positions values (?, ?, ?, ?)",
                (*position, int(self._clock() * 1e6)),
            )

    def _reached(self, position: Position) -> bool:
        found = self.find(position.publisher)
        return found is not None and self._is_over(found, position)

    def _is_over(self, known: Position, position: Position) -> bool:
        """Whether a position is not further than what is known."""
        if known.epoch == position.epoch:
            return position.offset <= known.offset
        with translated(self._inbox.path):
            statement = "select 1 from zmqkit_inbox_epochs where publisher = ? and epoch = ?"
            return ask(self._inbox.connection(), statement, position[:2]).fetchone() is not None

    def store(self, position: Position, id: str) -> None:
        """Move on, in a transaction of its own. Where another was further already, nothing changes.

        Raises `JournalError`, or `CommitIndeterminate`.
        """
        transaction = self._inbox.begin()
        assert transaction is not None  # it waits
        try:
            with contextlib.suppress(Duplicate):
                self.advance(transaction, position, id)
                transaction.commit()
        finally:
            transaction.rollback()
