"""Effects once: what jobs change in the user's database, and that they were done, in one commit.

Knows the inbox, and jobs by what they tell of themselves; no core. An ack follows the commit, never goes before it: a
job whose puller dies in between comes again, and is known.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Protocol

from zmqkit.errors import (
    Closed,
    CommitIndeterminate,
    Duplicate,
    Forked,
    JournalBusy,
    JournalError,
    LeaseLost,
    Reject,
    UsageError,
)
from zmqkit.inbox import Connection, Inbox, JobRecord, JobRecords, Known, Source
from zmqkit.inbox import Transaction as Commit
from zmqkit.inbox.connections import BUSY_SECONDS
from zmqkit.inbox.jobs import NOTHING

PAUSES: Final = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02)
"""Seconds between two looks of a coroutine whether the inbox is free."""

FORGOTTEN: Final = "it is older than what the inbox remembers: whether it was done before cannot be known"


class Effects:
    """A puller's inbox.

    Args:
        source: see `Inbox`.
        keep: see `JobRecords`.

    Attributes:
        dropped: jobs that were known to be done before they were handed out.
        late: those that were found out in their transaction.
    """

    def __init__(self, source: Source, keep: float | None) -> None:
        self._inbox = Inbox(source)
        try:
            self._records = JobRecords(self._inbox, keep=keep)
        except BaseException:
            self._inbox.close()
            raise
        self.dropped = 0
        self.late = 0

    @property
    def uuid(self) -> bytes:
        """The inbox's own id."""
        return bytes.fromhex(self._inbox.uuid)

    @property
    def commits(self) -> int:
        """So many commits at least the inbox has, as far as was seen here."""
        return max(self._inbox.committed, self._records.seen)

    def look(self, *, wait: bool) -> int | None:
        """How many commits it has now; None: somebody writes, and `wait` is False."""
        return self._inbox.commits if wait else self._inbox.look()

    @property
    def path(self) -> str | None:
        """The file."""
        return self._inbox.path

    def look_up(self, records: Sequence[JobRecord], *, wait: bool) -> Known:
        """What is known of these. Busy for too long is no reason to stop: it is found out in the transaction."""
        try:
            return self._records.look_up(records, wait=wait)
        except JournalBusy:
            return NOTHING

    def begin(self, *, wait: bool) -> Commit | None:
        """A transaction; None: somebody else writes now, and `wait` is False."""
        return self._inbox.begin() if wait else self._inbox.try_begin()

    def record(self, commit: Commit, records: Sequence[JobRecord]) -> Known:
        """See `JobRecords.record`."""
        return self._records.record(commit, records)

    def close(self) -> None:
        """Let go of the file."""
        self._inbox.close()


class Owner(Protocol):
    """A job, or a batch of them."""

    _held: Any

    def _records(self) -> list[JobRecord]: ...
    def _note(self, commits: int) -> None: ...
    def _doubts(self, doubt: bool) -> None: ...
    def _ack(self) -> None: ...
    def _found(self, known: Known, records: list[JobRecord]) -> None: ...


class Transaction:
    """What ``with job.transaction() as db:`` enters; coroutines say ``async with``."""

    __slots__ = ("_commit", "_effects", "_owner", "_waits")

    def __init__(self, effects: Effects | None, owner: Owner, *, waits: bool) -> None:
        if effects is None:
            raise UsageError("transaction() needs a puller with inbox=, as in Puller(..., inbox='state.db')")
        self._effects = effects
        self._owner = owner
        self._waits = waits
        self._commit: Commit | None = None

    # ---- what a job that is held asks of it --------------------------------------------

    def check(self, *, ack: bool) -> None:
        """The job is to be settled. Raises `UsageError`: not within the block."""
        raise UsageError(
            f"{self._owner} is within its transaction: the commit acks it. To let it fail, raise: that rolls back"
        )

    def abandon(self) -> None:
        """The job is let go, whatever became of the block: nothing of it happened, unless it is committed."""
        commit, self._commit = self._commit, None
        self._owner._held = None
        if commit is not None:
            commit.rollback()

    # ---- the block -------------------------------------------------------------------

    def _try_begin(self, *, wait: bool) -> Connection | None:
        owner = self._owner
        if self._commit is not None or owner._held is not None:
            raise UsageError(f"a transaction of {owner} is open already")
        records = owner._records()
        commit = self._effects.begin(wait=wait)
        if commit is None:
            return None
        try:
            known = self._effects.record(commit, records)
            if known is not NOTHING:
                owner._note(self._effects.commits)
                commit.rollback()
                self._refuse(known, records)
            self._commit = commit
            owner._held = self
        except BaseException:
            self._commit = owner._held = None
            commit.rollback()
            raise
        return commit.connection

    def _refuse(self, known: Known, records: list[JobRecord]) -> None:
        self._effects.late += len(known.done)
        if known.done:
            self._owner._found(known, records)
            raise Duplicate(
                f"{self._owner} was done before, here or by another that shares the inbox {self._effects.path}"
            )
        raise Reject(FORGOTTEN)

    def _end(self) -> Commit:
        commit, self._commit = self._commit, None
        self._owner._held = None
        if commit is None:
            raise UsageError(f"the transaction of {self._owner} has ended")
        return commit

    def _commit_it(self, commit: Commit) -> None:
        # Whatever comes between the commit and the ack, the pusher must not give this job to another inbox.
        owner = self._owner
        owner._doubts(True)
        try:
            commit.commit()
        except CommitIndeterminate:
            raise
        except (JournalError, UsageError):
            owner._doubts(False)  # nothing was stored
            raise

    def _committed(self) -> None:
        self._owner._note(self._effects.commits)
        try:
            self._owner._ack()
        except (Closed, Forked, LeaseLost):
            # It is done and recorded: it comes again, and is known. Whoever leaves the job's own block hears of it.
            return

    def __enter__(self) -> Connection:
        if not self._waits:
            raise UsageError("to wait for the inbox would stop the loop: say `async with`")
        connection = self._try_begin(wait=True)
        assert connection is not None  # it waits
        return connection

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        if t is not None:
            self.abandon()
            return
        self._commit_it(self._end())
        self._committed()

    async def __aenter__(self) -> Connection:
        if self._waits:
            return self.__enter__()
        import anyio  # the sync face does without

        deadline = time.monotonic() + BUSY_SECONDS
        tries = 0
        while (connection := self._try_begin(wait=False)) is None:
            if time.monotonic() > deadline:
                raise JournalBusy(
                    f"others write to the inbox {self._effects.path} for longer than {BUSY_SECONDS:.0f} s"
                )
            await anyio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
            tries += 1
        return connection

    async def __aexit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        if t is not None or self._waits:
            self.__exit__(t, v, tb)
            return
        from zmqkit.peer.aio import to_the_end

        # Not to be cancelled halfway: what is committed is acked, too.
        await to_the_end(self._commit_and_ack, self._end())

    async def _commit_and_ack(self, commit: Commit) -> None:
        from zmqkit.peer.aio import in_thread

        if not await in_thread(self._commit_elsewhere, commit):
            self._commit_it(commit)
        self._committed()

    def _commit_elsewhere(self, commit: Commit) -> bool:
        """In a worker thread: a sync takes its time. False: the user's connection is tied to its thread."""
        if not commit.moves():
            return False
        self._commit_it(commit)
        return True
