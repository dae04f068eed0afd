"""Taking and settling, as the sync and the async face share it: everything of a puller that does not wait.

Knows the puller's core and its verbs, and codecs; no event loop.
"""

from __future__ import annotations

import inspect
import logging
import traceback as tracebacks
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Generic, Literal, get_type_hints

from typing_extensions import TypeVar

from zmqkit import codec as codecs
from zmqkit.errors import (
    AlreadySettled,
    Closed,
    DecodeError,
    Reject,
    Retry,
    UsageError,
)
from zmqkit.options import OnError
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.puller import Parcel, PullerCore
from zmqkit.peer.base import Common, PeerBase
from zmqkit.transport.tickets import Ticket

T = TypeVar("T", default=Any)

Headers = Mapping[str, str]
Outcome = Literal["acked", "nacked", "rejected", "released"]

log = logging.getLogger("zmqkit.pipeline")

PREFETCH: Final = 256
PREFETCH_BYTES: Final = 64 * 1024 * 1024

LOOK_ROUND: Final = 5.0
"""Seconds after which a waiting puller looks whether it waits for itself."""


class JobBase(Generic[T]):
    """One delivered message.

    Attributes:
        body: what was sent.
        outcome: how it was settled here; None while it is not.
    """

    __slots__ = ("_index", "_parcel", "_puller", "body", "outcome")

    def __init__(self, puller: Any, parcel: Parcel, index: int, body: T) -> None:
        self._puller = puller
        self._parcel = parcel
        self._index = index
        self.body = body
        self.outcome: Outcome | None = None

    @property
    def id(self) -> str:
        """The message's id: the same at each delivery."""
        delivery = self._parcel.delivery
        return delivery.ids.get(self._index) or f"{delivery.origin}-{delivery.sequence + self._index}"

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

    def _check(self) -> None:
        if self.outcome is not None:
            raise AlreadySettled(f"job {self.id} was {self.outcome} before: the first outcome counts")

    def _ack(self) -> None:
        self._check()
        parcel = self._parcel
        parcel.acked.append(self._index)
        self.outcome = "acked"
        if not parcel.told:
            parcel.told = True
            self._puller._collect(parcel)

    def _ack_asking(self) -> Ticket:
        self._check()
        ticket: Ticket = self._puller._ask(_with_ticket, self._puller._core, self._parcel, self._index)
        self.outcome = "acked"
        return ticket

    def _settle(self, outcome: Outcome, kind: int, delay: float | None, reason: str, traceback: str = "") -> None:
        self._check()
        if delay is not None and not 0 <= delay < 1e9:
            raise ValueError(f"delay must be 0 or more seconds, got {delay!r}")
        self._puller._settle(self._parcel, self._index, kind, delay, reason, traceback)
        self.outcome = outcome

    def _nack(self, delay: float | None, reason: str | None) -> None:
        self._settle("nacked", wire.NACK, delay, reason or "")

    def _reject(self, reason: str) -> None:
        self._settle("rejected", wire.REJECT, None, reason)

    def _release(self) -> None:
        self._settle("released", wire.RELEASE, None, "")

    def _isolate(self) -> None:
        self._settle("released", wire.ISOLATE, None, "")

    def _leave(self, error: BaseException | None) -> bool:
        """The end of a with-block. True contains the exception."""
        if error is None:
            if self.outcome is None:
                self._ack()
            return False
        if not isinstance(error, Exception):
            # Cancelled, interrupted, exiting: nobody's failure.
            if self.outcome is None:
                self._release()
            return False
        return self._failed(error)

    def _failed(self, error: Exception) -> bool:
        """A handler raised. True contains it."""
        policy: OnError = self._puller._on_error
        shown = "".join(tracebacks.format_exception(error))
        reason = str(error) if isinstance(error, Retry | Reject) else f"{type(error).__name__}: {error}"
        if self.outcome is not None:
            log.error("job %s was %s, then its handler raised:\n%s", self.id, self.outcome, shown)
        elif isinstance(error, Reject) or (policy == "reject" and not isinstance(error, Retry)):
            log.warning("job %s is rejected: %s", self.id, reason if isinstance(error, Reject) else shown)
            self._settle("rejected", wire.REJECT, None, reason, shown)
        else:
            delay = error.delay if isinstance(error, Retry) else None
            log.warning("job %s failed and is tried again: %s", self.id, reason if isinstance(error, Retry) else shown)
            self._settle("nacked", wire.NACK, delay, reason, shown)
        return policy != "raise" or isinstance(error, Retry | Reject)


def _with_ticket(core: PullerCore, parcel: Parcel, index: int, ticket: Ticket, now: float) -> None:
    core.ack_asking(parcel, index, ticket, now)


class BatchBase(Generic[T]):
    """Jobs that are handled together.

    Attributes:
        bodies: theirs.
        outcome: how the batch was settled; None while it is not.
    """

    __slots__ = ("_jobs", "_puller", "bodies", "outcome")

    def __init__(self, puller: Any, jobs: list[Any]) -> None:
        self._puller = puller
        self._jobs = jobs
        self.bodies: list[T] = [job.body for job in jobs]
        self.outcome: Outcome | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} jobs {self.outcome or 'not settled'}>"

    def _check(self) -> None:
        if self.outcome is not None:
            raise AlreadySettled(f"this batch was {self.outcome} before: the first outcome counts")

    def _ack(self) -> None:
        self._check()
        for job in self._jobs:
            if job.outcome is None:
                job._ack()
        self.outcome = "acked"

    def _nack(self, delay: float | None, reason: str = "", traceback: str = "") -> None:
        """One job alone is to blame; of several, each is delivered again alone, and blamed only then."""
        self._check()
        if delay is not None and not 0 <= delay < 1e9:
            raise ValueError(f"delay must be 0 or more seconds, got {delay!r}")
        left = [job for job in self._jobs if job.outcome is None]
        for job in left:
            if len(left) == 1:
                job._settle("nacked", wire.NACK, delay, reason, traceback)
            else:
                job._isolate()
        self.outcome = "nacked"

    def _leave(self, error: BaseException | None) -> bool:
        if error is None:
            if self.outcome is None:
                self._ack()
            return False
        if not isinstance(error, Exception):
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
            contained: bool = left[0]._failed(error)
            return contained
        shown = "".join(tracebacks.format_exception(error))
        if not left:
            log.error("a batch was %s, then its handler raised:\n%s", self.outcome, shown)
        else:
            log.warning("a batch of %d jobs failed; each is delivered again alone:\n%s", len(left), shown)
            delay = error.delay if isinstance(error, Retry) else None
            self._nack(delay)
        return bool(self._puller._on_error != "raise") or isinstance(error, Retry | Reject)


class Aside:
    """One job of a parcel that was taken and given back: interrupted, or not for this batch."""

    __slots__ = ("end", "next", "parcel")

    def __init__(self, parcel: Parcel, index: int) -> None:
        self.parcel = parcel
        self.next = index
        self.end = index + 1


class PullerBase(PeerBase):
    """A puller without the waiting."""

    _role: ClassVar[str] = "pull"
    _accepts: ClassVar[frozenset[str]] = frozenset({"push"})
    _binds: ClassVar[bool] = False
    _core: PullerCore
    _job: ClassVar[type[Any]]
    _batch: ClassVar[type[Any]]

    def __init__(
        self, addresses: Sequence[str], prefetch: int | None, on_error: OnError, max_lease: float, common: Common
    ) -> None:
        super().__init__(addresses, common)
        if prefetch is not None and (not isinstance(prefetch, int) or prefetch < 1):
            raise ValueError(f"prefetch must be a whole number of 1 or more, or None, got {prefetch!r}")
        if on_error not in ("nack", "reject", "raise"):
            raise ValueError(f'on_error must be "nack", "reject" or "raise", got {on_error!r}')
        if not 0 < max_lease < 1e9:
            raise ValueError(f"max_lease must be a positive number of seconds, got {max_lease!r}")
        self._prefetch = PREFETCH if prefetch is None else prefetch
        self._on_error: OnError = on_error
        self._max_lease = max_lease
        self._warned = False

    def _build(self) -> tuple[PullerCore, Any]:
        local = self._local(
            credit_messages=self._prefetch, credit_bytes=PREFETCH_BYTES, busy_bound=float(self._max_lease)
        )
        return PullerCore(local, self._random()), None

    # ---- taking --------------------------------------------------------------------

    def _take(self) -> Any | None:
        """The next job that is here, None if none is. Whatever interrupts it, no job is lost or handed out twice."""
        mailbox = self._open_driver.mailbox
        taken = False
        parcel: Any = None
        index = 0
        try:
            with mailbox.lock:
                while True:
                    item = mailbox.peek()
                    if item is None:
                        return None
                    parcel, index = item.parcel, item.next
                    if parcel.lost or index >= item.end:
                        mailbox.pop()
                        continue
                    if parcel.bodies is None:
                        self._decode(parcel)
                    body = parcel.bodies[index]
                    job = self._job(self, parcel, index, body)
                    # No call between these two, so no interrupt: the job is still there, or it is `taken`.
                    item.next = index + 1
                    taken = True
                    if item.next >= item.end:
                        mailbox.pop()
                    if type(body) is not DecodeError:
                        break
                    taken = False
                    job._settle("rejected", wire.REJECT, None, f"DecodeError: {body}")
            return job
        except BaseException:
            if taken:
                mailbox.put_back([Aside(parcel, index)])
            raise

    def _decode(self, parcel: Parcel) -> None:
        delivery = parcel.delivery
        try:
            parcel.bodies = codecs.decode_many(delivery.lengths, delivery.blob, delivery.codec, limits=self._limits)
        except DecodeError as error:
            parcel.bodies = [error] * len(parcel)
        except UsageError as error:
            parcel.bodies = [DecodeError(str(error))] * len(parcel)

    def _take_more(self, jobs: list[Any], most: int) -> bool:
        """Add jobs that are here, up to `most`. True when the batch must not grow further."""
        while len(jobs) < most:
            job = self._take()
            if job is None:
                # All credit is in our own hands: more can only come after these are settled.
                return self._core.held <= len(jobs) and len(jobs) >= self._prefetch
            if job._parcel.delivery.alone:
                if jobs:
                    self._give_back([job])
                else:
                    jobs.append(job)
                return True
            jobs.append(job)
        return True

    def _give_back(self, jobs: list[Any]) -> None:
        """Jobs that were taken and reached nobody."""
        self._open_driver.mailbox.put_back([Aside(job._parcel, job._index) for job in jobs])

    def _warn_of_credit(self) -> None:
        """Nothing comes, and all that may come was handed out and not settled: say so, once."""
        if not self._warned and self._core.held >= self._prefetch:
            self._warned = True
            log.warning(
                "%s waits for a job, but all %d that it may hold were handed out and not settled: ack them, or use "
                '"with job:"; a larger prefetch= only hides it',
                self.name,
                self._core.held,
            )

    # ---- settling ------------------------------------------------------------------

    def _collect(self, parcel: Parcel) -> None:
        self._usable().post(self._core.collect, parcel)

    def _settle(self, parcel: Parcel, index: int, kind: int, delay: float | None, reason: str, traceback: str) -> None:
        self._usable().post(self._core.settle, parcel, index, kind, delay, reason, traceback)

    def _usable(self) -> Any:
        driver = self._driver
        if driver is None or self._closed:
            raise Closed(f"{self.name} was closed, and gave back the jobs that were not settled")
        return driver


def takes(handler: Callable[..., object], kind: type[Any]) -> bool:
    """Whether a handler's first parameter is annotated as this class (or a generic of it)."""
    try:
        parameters = list(inspect.signature(handler).parameters.values())
        hints = get_type_hints(handler) if not inspect.isclass(handler) else {}
    except (TypeError, ValueError, NameError):
        return False
    if not parameters:
        return False
    hint = hints.get(parameters[0].name, parameters[0].annotation)
    hint = getattr(hint, "__origin__", hint)
    return inspect.isclass(hint) and issubclass(hint, kind)


def outputs_of(result: object) -> Iterator[Any]:
    """What a worker's handler returned, as messages: nothing for None, each of an iterator, else one."""
    if result is None:
        return iter(())
    if isinstance(result, Iterator):
        return result
    return iter((result,))
