"""Bugs to plant: each of them a crash at the right moment must bring to light, or these tests see nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from tests.crashpoints.taps import TappedJournal, replaced
from zmqkit.inbox import JobRecords, Transaction
from zmqkit.inbox.jobs import NOTHING
from zmqkit.patterns.pipeline import effects, outbox
from zmqkit.patterns.pipeline.dedupe import IDS
from zmqkit.patterns.pipeline.lanes import LANES
from zmqkit.patterns.pipeline.rows import DEAD, MARKS
from zmqkit.protocol.core import Write

Mutant = contextlib.AbstractContextManager[Any]
Commits = Callable[[Sequence[Write]], list[list[Write]]]


def _committing(commits: Commits) -> Mutant:
    """Each commit of the journal is made as several, or not as it should be."""

    def commit(self: TappedJournal, writes: Sequence[Write]) -> None:
        for each in commits(writes):
            with self._tap.around("journal.commit"):
                self._journal.commit(each)

    return replaced(TappedJournal, "commit", commit)


def _apart(first: Callable[[Write], bool]) -> Mutant:
    """Some of the writes of a commit go in one of their own, before the others."""
    return _committing(lambda writes: [[w for w in writes if first(w)], [w for w in writes if not first(w)]])


def _without(log: str) -> Mutant:
    return _committing(lambda writes: [[each for each in writes if each.log != log]])


def _late() -> Mutant:
    """Each commit is made with the next one."""
    kept: list[Write] = []

    def commits(writes: Sequence[Write]) -> list[list[Write]]:
        now, kept[:] = list(kept), writes
        return [now]

    return _committing(commits)


@contextlib.contextmanager
def _record_first() -> Iterator[None]:
    """The record of a job is committed before its effect."""
    record = JobRecords.record

    def apart(self: JobRecords, transaction: Any, records: Any) -> Any:
        known = record(self, transaction, records)
        transaction.connection.execute("commit")
        transaction.connection.execute("begin immediate")
        return known

    with replaced(JobRecords, "record", apart):
        yield


@contextlib.contextmanager
def _effect_first() -> Iterator[None]:
    """The effect of a job is committed before its record."""

    commit, record = Transaction.commit, JobRecords.record
    late: dict[int, Callable[[], Any]] = {}

    def kept(self: JobRecords, transaction: Any, records: Any) -> Any:
        late[id(transaction)] = lambda: record(self, transaction, records)
        return NOTHING

    def committed(self: Any) -> None:
        recorded = late.pop(id(self), None)
        if recorded is not None:
            self.connection.execute("commit")
            self.connection.execute("begin immediate")
            recorded()
        commit(self)

    with (
        replaced(JobRecords, "record", kept),
        replaced(Transaction, "commit", committed),
    ):
        yield


@contextlib.contextmanager
def _ack_first() -> Iterator[None]:
    """A job is acked before its effect is committed."""

    def leave(self: Any, t: Any, v: Any, tb: Any) -> None:
        if t is not None:
            self.abandon()
            return
        commit = self._end()
        self._committed()
        commit.commit()

    with replaced(effects.Transaction, "__exit__", leave):
        yield


@contextlib.contextmanager
def _removed_first() -> Iterator[None]:
    """A message leaves the outbox before the journal has it."""

    def move(self: Any, file: Any) -> int:
        while messages := file.read():
            file.remove(messages)
            self._hand_over(messages)
        return 0

    with replaced(outbox.Relay, "_move", move):
        yield


MUTANTS: Final[dict[str, Callable[[], Mutant]]] = {
    "confirmed before it is stored": _late,
    "a dead letter and its message in two commits": lambda: _apart(lambda write: write.log == DEAD),
    "a message goes before its letter is there": lambda: _apart(lambda write: write.log != DEAD),
    "what settled of a row is not written": lambda: _without(MARKS),
    "what is special of a row is not written": lambda: _without(LANES),
    "ids are not written": lambda: _without(IDS),
    "the record before its effect": _record_first,
    "the effect before its record": _effect_first,
    "the ack before the effect": _ack_first,
    "out of the outbox before it is in the journal": _removed_first,
}
