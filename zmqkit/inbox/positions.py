"""How far a subscriber has come with each publisher, in the user's own database: one number, committed with effects.

A table of our own stands beside the user's::

    zmqkit_inbox_positions(publisher text primary key, epoch text, offset integer, at integer)

All of a publisher's messages up to ``offset`` were dealt with. A position never steps back: the row decides who was
first, between any number of processes that share the file. Knows sqlite3; no message, no subscriber.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from zmqkit.errors import Duplicate
from zmqkit.inbox.connections import translated
from zmqkit.inbox.inbox import Inbox, Transaction

_TABLE: Final = (
    "create table if not exists zmqkit_inbox_positions"
    " (publisher text primary key, epoch text not null, offset integer not null, at integer not null) without rowid"
)
_ADVANCE: Final = (
    "insert into zmqkit_inbox_positions values (?, ?, ?, ?) on conflict (publisher) do update"
    " set epoch = excluded.epoch, offset = excluded.offset, at = excluded.at where offset < excluded.offset"
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
                transaction.connection.execute(_TABLE)
            transaction.commit()
        finally:
            transaction.rollback()  # nothing happens if it was committed

    def all(self) -> list[Position]:
        """Every position, in no order."""
        with translated(self._inbox.path):
            rows = self._inbox.connection().execute("select publisher, epoch, offset from zmqkit_inbox_positions")
            return [Position(*row) for row in rows]

    def find(self, publisher: str) -> Position | None:
        """How far we have come with this publisher; None: it is not known here."""
        with translated(self._inbox.path):
            row = (
                self._inbox.connection()
                .execute(
                    "select publisher, epoch, offset from zmqkit_inbox_positions where publisher = ?", (publisher,)
                )
                .fetchone()
            )
        return None if row is None else Position(*row)

    def advance(self, transaction: Transaction, position: Position, id: str) -> None:
        """Move on over the message of this id, within a transaction: effects and position are kept, or neither.

        Raises:
            Duplicate: another who shares the inbox has come so far already; roll back.
        """
        transaction.prove(id, lambda: self._reached(position))
        with translated(self._inbox.path):
            moved = transaction.connection.execute(_ADVANCE, (*position, int(self._clock() * 1e6))).rowcount
        if not moved:
            raise Duplicate(
                f"message {position.offset} of publisher {position.publisher[:8]} was dealt with before, by another "
                f"that shares the inbox {self._inbox.path}"
            )

    def _reached(self, position: Position) -> bool:
        found = self.find(position.publisher)
        return found is not None and found.offset >= position.offset

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
