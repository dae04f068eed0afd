"""Jobs and batches, as the sync and the async face share them: all of settling that does not wait.

Knows the puller's core and its verbs, and codecs; no event loop.
"""

from __future__ import annotations

import contextlib
import logging
import traceback as tracebacks
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Generic, Literal, NamedTuple

from typing_extensions import TypeVar

from zmqkit import checks
from zmqkit.errors import AlreadySettled, Closed, Duplicate, Forked, LeaseLost, Reject, Retry, UsageError
from zmqkit.inbox import Claimed, JobRecord, Known, claim, record_of
from zmqkit.options import OnError
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.children import NotTried
from zmqkit.patterns.pipeline.effects import Transaction
from zmqkit.patterns.pipeline.puller import Parcel, PullerCore
from zmqkit.transport.tickets import Ticket

T = TypeVar("T", default=Any)

Headers = Mapping[str, str]
Outcome = Literal["acked", "nacked", "rejected", "released"]

log = logging.getLogger("zmqkit.pipeline")


class JobBase(Generic[T]):
    """One delivered message.

    Attributes:
        body: what was sent.
        outcome: how it was settled here; None while it is not.
    """

    __slots__ = ("_held", "_index", "_parcel", "_puller", "body", "outcome")

    def __init__(self, puller: Any, parcel: Parcel, index: int, body: T) -> None:
        self._puller = puller
        self._parcel = parcel
        self._index = index
        self.body = body
        self.outcome: Outcome | None = None
        self._held: Any = None
        """Its transaction, or what it was claimed in."""

    @property
    def id(self) -> str:
        """The message's id: the same at each delivery."""
        return _id(self._parcel, self._index)

    @property
    def key(self) -> str | None:
        """The key within which the pusher keeps order; None: it has none."""
        return self._parcel.delivery.keys.get(self._index)

    @property
    def headers(self) -> Headers:
        """What the sender attached."""
        return self._parcel.delivery.headers.get(self._index, {})

    @property
    def failures(self) -> int:
        """How often a handler failed on it before."""
        return self._parcel.delivery.failures.get(self._index, 0)

    @property
    def deliveries(self) -> int:
        """How often it was delivered, as far as the pusher remembers; this time included."""
        return self._parcel.delivery.deliveries.get(self._index, 0) + 1

    @property
    def sent_at(self) -> datetime:
        """When it was sent, by the sender's clock; UTC."""
        return datetime.fromtimestamp(self._parcel.delivery.sent_at / 1e6, UTC)

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.outcome or 'not settled'}>"

    # ---- settling ------------------------------------------------------------------

    def _check(self, *, ack: bool = False) -> None:
        if self.outcome is not None:
            raise AlreadySettled(f"job {self.id} was {self.outcome} before: the first outcome counts")
        if self._parcel.overdue >> self._index & 1:
            self._overdue()
        if self._held is not None:
            self._held.check(ack=ack)

    def _ack(self) -> None:
        if self.outcome is not None or self._held is not None:
            self._check(ack=True)
        parcel = self._parcel
        parcel.acked.append(self._index)
        self.outcome = "acked"
        if not parcel.told:
            if parcel.overdue >> self._index & 1:
                self._overdue()
            try:
                self._puller._collect(parcel)
            except UsageError:  # closed, or forked: nothing happened
                self.outcome = None
                raise

    def _overdue(self) -> None:
        """It was held for too long: what it is settled with changes nothing any more."""
        self.outcome = "released"
        raise LeaseLost(
            f"job {self.id} was held longer than max_lease={self._puller._max_lease:g} s, and given back as failed: "
            "what it did may be done once more. Call extend() while it goes on, or raise max_lease="
        )

    def _extend(self, seconds: float | None) -> None:
        if seconds is not None:
            seconds = checks.seconds("seconds", seconds)
        if self.outcome is not None or self._parcel.overdue >> self._index & 1:
            self._check()
        if self._parcel.lost or self._parcel.gone >> self._index & 1:
            raise LeaseLost(f"job {self.id} was given to another puller: its pusher was lost, or has lost us")
        self._puller._extend(self._parcel, self._index, seconds)

    def _ack_asking(self) -> Ticket:
        self._check(ack=True)
        ticket: Ticket = self._puller._ask(_with_ticket, self._puller._core, self._parcel, self._index)
        self.outcome = "acked"
        return ticket

    def _settle(self, outcome: Outcome, kind: int, delay: float | None, reason: str, traceback: str = "") -> None:
        self._check()
        if delay is not None:
            delay = checks.delay(delay)
        self._puller._settle(self._parcel, self._index, kind, delay, checks.text("reason", reason), traceback)
        self.outcome = outcome

    def _nack(self, delay: float | None, reason: str | None) -> None:
        self._settle("nacked", wire.NACK, delay, "" if reason is None else reason)

    def _reject(self, reason: str) -> None:
        self._settle("rejected", wire.REJECT, None, reason)

    def _release(self) -> None:
        self._settle("released", wire.RELEASE, None, "")

    def _isolate(self) -> None:
        self._settle("released", wire.ISOLATE, None, "")

    # ---- effects -------------------------------------------------------------------

    def claim(self, connection: Any, /) -> bool:
        """Record this job in a transaction of yours: its effects are there if and only if the record is.

        The ack must come after the commit: begin the transaction within ``with job:``, and let it end there.

        Args:
            connection: one of the DB-API (PEP 249), or Django's, within a transaction or about to begin one. The table
                ``zmqkit_inbox_jobs`` is made in SQLite; elsewhere by you, see the documentation.

        Returns:
            False: it was done before; do nothing, and let it be acked.

        Raises:
            UsageError: the connection is in autocommit, or no connection.
            AlreadySettled: it was settled before.
        """
        self._check()
        if self._puller._plain:
            raise UsageError("jobs of plain pushers have no ids that come again: there is nothing to claim")
        if not claim(connection, *records_of(self._parcel, [self._index])):
            return False
        self._held = Claimed(connection, str(self))
        return True

    def transaction(self) -> Transaction:
        """Effects and their record in one commit, in the inbox: ``with job.transaction() as db: ...``.

        With `zmqkit.aio` it is ``async with``; the commit runs in a worker thread.

        The commit acks the job. An exception rolls back, and what comes of it is said by ``with job:`` around it.

        Raises:
            UsageError: the puller has no ``inbox=``.
            JournalError: the inbox cannot be written; the subclass and the message say why.
            Duplicate: it was done before; it is acked, and ``with job:`` swallows this.
            Reject: it is older than what the inbox remembers, see ``inbox_keep=``.
        """
        self._check()
        return Transaction(self._puller._effects, self, waits=self._puller._waits)

    def _records(self) -> list[JobRecord]:
        self._check()
        return records_of(self._parcel, [self._index])

    def _found(self, known: Known, records: list[JobRecord]) -> None:
        """It was done before."""
        self._ack()

    def _note(self, commits: int) -> None:
        """The inbox has so many commits, this job's among them."""
        note(self._parcel, commits)

    def _doubts(self, doubt: bool) -> None:
        """From now on, its commit may be in the inbox or not; or, False, it is certainly not."""
        doubts(self._parcel, [self._index], doubt)

    def _let_go(self) -> None:
        """It failed, or is given back: nothing of a transaction that is open still happened."""
        held, self._held = self._held, None
        if held is not None:
            held.abandon()

    def _leave(self, error: BaseException | None) -> bool:
        """The end of a with-block. True contains the exception."""
        if error is None:
            if self.outcome is None:
                try:
                    self._ack()
                except LeaseLost as late:  # no reason to end the loop around the block
                    log.warning("%s", late)
            return False
        if self._held is not None:
            self._let_go()
        if isinstance(error, Duplicate) and self.outcome == "acked":
            log.info("%s", error)
            return True
        if self.outcome is None and self._parcel.overdue >> self._index & 1:
            self.outcome = "released"  # as failed, when its time was over
        if not isinstance(error, Exception) or isinstance(error, NotTried):
            # Cancelled, interrupted, exiting, or not begun: nobody's failure.
            if self.outcome is None:
                self._release()
            return False
        return self._failed(error)

    def _failed(self, error: Exception) -> bool:
        """A handler raised. True contains it."""
        policy: OnError = self._puller._on_error
        trace = shown(error)
        reason = line_of(error)
        if self.outcome is not None:
            log.error("job %s was %s, then its handler raised:\n%s", self.id, self.outcome, trace)
        else:
            with _logs_loss(f"job {self.id}", trace):
                if isinstance(error, Reject) or (policy == "reject" and not isinstance(error, Retry)):
                    self._settle("rejected", wire.REJECT, None, reason, trace)
                    log.warning("job %s is rejected: %s", self.id, reason if isinstance(error, Reject) else trace)
                else:
                    delay, said = (error.delay, reason) if isinstance(error, Retry) else (None, trace)
                    self._settle("nacked", wire.NACK, delay, reason, trace)
                    log.warning("job %s failed: %s", self.id, said)  # again or dead: its pusher decides
        return contained(policy, error)


def note(parcel: Parcel, commits: int) -> None:
    """The inbox has so many commits; said before an ack that relies on them."""
    parcel.commits = max(parcel.commits, commits)


def doubts(parcel: Parcel, indexes: Iterable[int], doubt: bool) -> None:
    """Whether the commit of these may be in the inbox, though nobody says so."""
    if parcel.doubted is None:
        parcel.doubted = set()
    if doubt:
        parcel.doubted.update(indexes)
    else:
        parcel.doubted.difference_update(indexes)


def _id(parcel: Parcel, index: int) -> str:
    delivery = parcel.delivery
    return delivery.ids.get(index) or f"{delivery.origin}-{delivery.sequence + index}"


def records_of(parcel: Parcel, indexes: Iterable[int]) -> list[JobRecord]:
    """What an inbox would keep of these jobs."""
    delivery = parcel.delivery
    return [record_of(_id(parcel, index), delivery.origin, delivery.sent_at) for index in indexes]


def shown(error: Exception) -> str:
    """A handler's exception in a form that a log and a frame can carry, whatever it says."""
    return wire.sendable("".join(tracebacks.format_exception(error)))


def line_of(error: Exception) -> str:
    """What a handler's exception says, likewise. One that cannot say it is a failure as any other."""
    try:
        told = str(error)
    except Exception as another:
        told = f"and str() of it raises {type(another).__name__}"
    if isinstance(error, Retry | Reject):
        return wire.sendable(told or ("rejected" if isinstance(error, Reject) else "its handler asked for another try"))
    return wire.sendable(f"{type(error).__name__}: {told}" if told else type(error).__name__)


def contained(policy: OnError, error: Exception) -> bool:
    """Whether an exception that a job or a batch has answered ends there."""
    return policy != "raise" or isinstance(error, Retry | Reject)


@contextlib.contextmanager
def _logs_loss(what: str, trace: str) -> Iterator[None]:
    """What failed cannot be settled any more, because the puller is closed: say what becomes of it."""
    try:
        yield
    except (Closed, Forked) as error:
        log.warning("%s failed, but %s; this failure is not counted:\n%s", what, error, trace)
        raise


def _with_ticket(core: PullerCore, parcel: Parcel, index: int, ticket: Ticket, now: float) -> None:
    core.ack_asking(parcel, index, ticket, now)


class Run(NamedTuple):
    """Jobs of one parcel that were taken together."""

    parcel: Parcel
    indexes: list[int]


class BatchBase(Generic[T]):
    """Jobs that are handled together.

    Attributes:
        bodies: theirs.
        outcome: how the batch was settled; None while it is not.
    """

    __slots__ = ("_held", "_made", "_puller", "_runs", "bodies", "outcome")

    def __init__(self, puller: Any, taken: list[Run]) -> None:
        self._puller = puller
        self._runs = taken
        self._made: list[Any] | None = None
        self._held: Any = None
        """Its transaction."""
        self.bodies: list[T] = []
        for parcel, indexes in taken:
            bodies = parcel.bodies
            assert bodies is not None
            first, last = indexes[0], indexes[-1]
            if last - first + 1 == len(indexes):
                self.bodies += bodies[first : last + 1]
            else:
                self.bodies += [bodies[index] for index in indexes]
        self.outcome: Outcome | None = None

    @property
    def _jobs(self) -> list[Any]:
        """The jobs one by one, made when somebody asks for them."""
        if self._made is None:
            make = self._puller._job
            self._made = [
                make(self._puller, parcel, index, parcel.bodies[index])
                for parcel, indexes in self._runs
                for index in indexes
                if parcel.bodies is not None
            ]
        return self._made

    def __len__(self) -> int:
        return len(self.bodies)

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} jobs {self.outcome or 'not settled'}>"

    def _check(self, *, ack: bool = False) -> None:
        if self._held is not None:
            self._held.check(ack=ack)
        if self.outcome is not None:
            raise AlreadySettled(f"this batch was {self.outcome} before: the first outcome counts")

    def _ack(self) -> None:
        self._check(ack=True)
        if self._made is None and not any(parcel.overdue for parcel, _ in self._runs):
            for parcel, indexes in self._runs:
                parcel.acked.extend(indexes)
                if not parcel.told:
                    self._puller._collect(parcel)
        else:
            late: LeaseLost | None = None
            for job in self._jobs:
                if job.outcome is None:
                    try:
                        job._ack()
                    except LeaseLost as error:
                        late = error
            if late is not None:
                self.outcome = "released"
                raise late
        self.outcome = "acked"

    def _nack(self, delay: float | None, reason: str = "", traceback: str = "") -> None:
        """One job alone is to blame; of several, each is delivered again alone, and blamed only then."""
        self._check()
        if delay is not None:
            delay = checks.delay(delay)
        left = [job for job in self._jobs if job.outcome is None]
        for job in left:
            if len(left) == 1:
                job._settle("nacked", wire.NACK, delay, reason, traceback)
            else:
                job._isolate()
        self.outcome = "nacked"

    # ---- effects -------------------------------------------------------------------

    def transaction(self) -> Transaction:
        """The effects of all and their records in one commit: ``with batch.transaction() as db: ...``.

        The commit acks the batch.

        Raises:
            Duplicate: some were done before; these are acked, the others come again without them, and ``with batch:``
                swallows this. All else is as in ``job.transaction()``.
        """
        self._check()
        return Transaction(self._puller._effects, self, waits=self._puller._waits)

    def _records(self) -> list[JobRecord]:
        self._check()
        if self._made is not None and any(job.outcome is not None or job._held is not None for job in self._made):
            raise UsageError("some jobs of this batch were settled one by one: give each of them its own transaction")
        return [each for parcel, indexes in self._runs for each in records_of(parcel, indexes)]

    def _found(self, known: Known, records: list[JobRecord]) -> None:
        """Some were done before: these are acked, and the others come again, without them."""
        times = Counter(record.id for record in records)
        for job, record in zip(self._jobs, records, strict=True):
            if times[record.id] > 1:
                job._isolate()  # one message twice: alone, the one that is done first makes the other a duplicate
            elif record.id in known.done:
                job._ack()
            else:
                job._release()
        self.outcome = "acked" if all(job.outcome == "acked" for job in self._jobs) else "released"

    def _note(self, commits: int) -> None:
        for parcel, _ in self._runs:
            note(parcel, commits)

    def _doubts(self, doubt: bool) -> None:
        for parcel, indexes in self._runs:
            doubts(parcel, indexes, doubt)

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.abandon()

    def _leave(self, error: BaseException | None) -> bool:
        if error is None:
            if self.outcome is None:
                try:
                    self._ack()
                except LeaseLost as late:
                    log.warning("of a batch: %s", late)
            return False
        self._let_go()
        if any(parcel.overdue for parcel, _ in self._runs):
            for job in self._jobs:
                if job.outcome is None and job._parcel.overdue >> job._index & 1:
                    job.outcome = "released"
        if isinstance(error, Duplicate) and self.outcome is not None:
            log.info("%s", error)
            return True
        if not isinstance(error, Exception) or isinstance(error, NotTried):
            for job in self._jobs:
                if job.outcome is None:
                    job._release()
            self.outcome = self.outcome or "released"
            return False
        return self._failed(error)

    def _failed(self, error: Exception) -> bool:
        left = [job for job in self._jobs if job.outcome is None]
        if len(left) == 1:
            self.outcome = self.outcome or "nacked"
            return bool(left[0]._failed(error))
        if not left:
            log.error("a batch was %s, then its handler raised:\n%s", self.outcome, shown(error))
        else:
            trace = shown(error)
            with _logs_loss(f"a batch of {len(left)} jobs", trace):
                self._nack(error.delay if isinstance(error, Retry) else None)
            log.warning("a batch of %d jobs failed; each is delivered again alone:\n%s", len(left), trace)
        return contained(self._puller._on_error, error)
