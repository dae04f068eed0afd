"""What the sync and the async face of the pipeline share: everything that does not wait.

Knows the cores' verbs, codecs and the peer base; no event loop.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import os
import time
import traceback as tracebacks
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from os import PathLike, fspath
from typing import Any, ClassVar, Final, Generic, Literal, get_type_hints

from typing_extensions import TypeVar

from zmqkit import codec as codecs
from zmqkit.errors import (
    AlreadySettled,
    Closed,
    DecodeError,
    EncodeError,
    Full,
    PartlySent,
    Reject,
    Retry,
    UsageError,
    WaitTimeout,
)
from zmqkit.journal import SqliteJournal
from zmqkit.options import Backoff, Durability, OnError, Point
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.puller import Parcel, PullerCore
from zmqkit.patterns.pipeline.pusher import PusherCore, PusherSettings
from zmqkit.patterns.pipeline.rows import DEAD, MARKS, MESSAGES, Pack
from zmqkit.peer.base import Common, PeerBase
from zmqkit.transport.tickets import Ticket

T = TypeVar("T", default=Any)

Headers = Mapping[str, str]
Path = str | PathLike[str]
Outcome = Literal["acked", "nacked", "rejected", "released"]

log = logging.getLogger("zmqkit.pipeline")

CHUNK_MESSAGES: Final = 256
CHUNK_BYTES: Final = 1 << 20
"""Bodies are packed, journalled and sent in runs of at most so many messages or bytes; a larger body goes alone."""

WINDOW: Final = 16
"""So many chunks of send_many may be on their way to the journal."""

PREFETCH: Final = 256
PREFETCH_BYTES: Final = 64 * 1024 * 1024
MAX_HEADERS_BYTES: Final = 8192
RESERVED: Final = "zmqkit-"

_POINTS: Final = ("accepted", "journalled", "received", "settled")


# ---- sending -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Settled:
    """How many messages have settled since this pusher was opened, those it found in its journal included.

    Attributes:
        acked: a handler succeeded.
        dead: they became dead letters.
        expired: their time to live ran out.
        not_due: ids of messages whose delay has not run out.
    """

    acked: int = 0
    dead: int = 0
    expired: int = 0
    not_due: tuple[str, ...] = ()


class Outgoing(Generic[T]):
    """A body with more than a body: for `send_many`, and as a result of a worker's handler.

    Args:
        body: what is sent.
        headers: text to text, for the receiver; names beginning with ``zmqkit-`` are reserved.
    """

    __slots__ = ("body", "headers")

    def __init__(self, body: T, *, headers: Headers | None = None) -> None:
        self.body = body
        self.headers = headers

    def __repr__(self) -> str:
        return f"Outgoing({self.body!r}, headers={self.headers!r})"


class ReceiptBase:
    """One message on its way.

    Attributes:
        id: of the message; it survives redelivery.
        outcome: "acked" or "dead", once `wait` has found it settled; None before.
    """

    __slots__ = ("_pusher", "_sequence", "_ticket", "id", "outcome")

    def __init__(self, pusher: Any, id: str, sequence: int, ticket: Ticket) -> None:  # noqa: A002 - the face's name
        self.id = id
        self.outcome: Literal["acked", "dead", "expired"] | None = None
        self._pusher = pusher
        self._sequence = sequence
        self._ticket = ticket

    def __repr__(self) -> str:
        return f"<Receipt {self.id} {self.outcome or 'on its way'}>"


class PusherBase(PeerBase):
    """A pusher without the waiting."""

    _role: ClassVar[str] = "push"
    _accepts: ClassVar[frozenset[str]] = frozenset({"pull"})
    _binds: ClassVar[bool] = True
    _core: PusherCore

    def __init__(
        self, addresses: Sequence[str], journal: Path | None, durability: Durability, max_failures: int,
        backoff: Backoff | None, max_waiting: int | None, common: Common,
    ) -> None:  # fmt: skip
        super().__init__(addresses, common)
        if durability not in ("power", "process", "memory"):
            raise ValueError(f'durability must be "power", "process" or "memory", got {durability!r}')
        for name, value in (("max_failures", max_failures), ("max_waiting", max_waiting)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number of 1 or more, got {value!r}")
        # Without a journal durability is memory, whatever was asked; "memory" needs no journal.
        self._journal_path = fspath(journal) if journal is not None and durability != "memory" else None
        self._durability = durability
        self._max_failures = max_failures
        self._backoff = backoff or Backoff()
        self._max_waiting = max_waiting
        self._sequence = 1
        self._handed_bytes = 0

    def _build(self) -> tuple[PusherCore, Any]:
        journal = None
        epoch = os.urandom(16)
        uuid = os.urandom(16).hex()
        if self._journal_path is not None:
            journal = SqliteJournal(
                self._journal_path, durability=self._durability, logs=(MESSAGES, MARKS, DEAD), owner=self.name
            )
            uuid, epoch = journal.uuid, bytes.fromhex(journal.epoch)
        settings = PusherSettings(
            origin=f"{uuid[:16]}-{epoch.hex()[:8]}",
            epoch=epoch,
            durable=journal is not None,
            wall=time.time() - time.monotonic(),
            max_failures=self._max_failures,
            backoff=self._backoff,
            max_waiting=self._max_waiting,
            limits=self._limits,
        )
        core = PusherCore(self._local(about={"epoch": epoch}), settings, self._random())
        if journal is not None:
            messages, marks = journal.totals(MESSAGES), journal.totals(MARKS)
            core.found(messages.first_key, messages.last_key, messages.weight - marks.weight)
            # A row's key is its first message's sequence; sequences within rows may be higher than any key.
            self._sequence = journal.highest(MESSAGES) + _LARGEST_ROW
        core.opened_at(self._sequence)
        return core, journal

    # ---- sending -------------------------------------------------------------------

    def _pack_one(self, body: object, headers: Headers | None) -> Pack:
        data = codecs.encode(body, self._codec, limits=self._limits)
        kept = {0: check_headers(headers)} if headers else {}
        return Pack(self._codec, time.time_ns() // 1000, [len(data)], data, {}, kept)

    def _pack_many(self, bodies: list[Any], ids: list[str] | None = None) -> list[Pack]:
        """Encode bodies, `Outgoing` ones among them, into packs that keep to the limits of a chunk."""
        headers: dict[int, dict[str, str]] = {}
        if Outgoing in set(map(type, bodies)):
            for at, each in enumerate(bodies):
                if type(each) is Outgoing:
                    bodies[at] = each.body
                    if each.headers:
                        headers[at] = check_headers(each.headers)
        lengths, blob = codecs.encode_many(bodies, self._codec, limits=self._limits)
        now = time.time_ns() // 1000
        if len(blob) <= CHUNK_BYTES and len(lengths) <= CHUNK_MESSAGES:
            return [Pack(self._codec, now, lengths, blob, dict(enumerate(ids)) if ids else {}, headers)]
        packs = []
        start = offset = 0
        while start < len(lengths):
            end, size = start, 0
            while end < len(lengths) and end - start < CHUNK_MESSAGES:
                if end > start and size + lengths[end] > CHUNK_BYTES:
                    break
                size += lengths[end]
                end += 1
            packs.append(
                Pack(
                    self._codec, now, lengths[start:end], blob[offset : offset + size],
                    dict(enumerate(ids[start:end])) if ids else {},
                    {at - start: each for at, each in headers.items() if start <= at < end},
                )  # fmt: skip
            )
            start, offset = end, offset + size
        return packs

    def _append(self, pack: Pack, ticket: Ticket | None, *, wait: bool, watcher: Any = None, lazy: bool = False) -> int:
        """Give the messages their sequences and hand them to the core. Returns the first one."""
        driver = self._open_driver
        hand = driver.post if lazy else driver.submit
        # Under the lock, so that sequences reach the core in their order.
        with self._state_lock:
            first = self._sequence
            self._sequence = first + len(pack)
            self._handed_bytes += len(pack.blob)
            hand(self._core.append, pack, first, ticket, wait, watcher)
        return first

    def _check_room(self, pack: Pack) -> None:
        """For sends that do not wait: refuse before anything is handed over."""
        self._start()
        core, limits = self._core, self._limits
        on_the_way = self._sequence - 1 - core.stored_up_to
        waiting = core.unsettled + (self._sequence - 1 - core.accepted_up_to)
        bound = self._max_waiting
        if self._journal_path is None:
            bound = limits.queued_messages if bound is None else min(bound, limits.queued_messages)
        if (
            on_the_way >= limits.queued_messages
            or self._handed_bytes - core.stored_bytes + len(pack.blob) > limits.queued_bytes
            or (bound is not None and waiting >= bound)
        ):
            raise Full(
                f"{self.name}: {max(on_the_way, waiting)} messages wait already; nothing was stored. "
                f"Use send(), which waits for room, or raise the limits"
            )

    def _id(self, sequence: int) -> str:
        return f"{self._core.settings.origin}-{sequence}"

    def _settled_now(self) -> Settled:
        return Settled(self._core.acked, self._core.dead)

    @property
    def _newest(self) -> int:
        return self._sequence - 1

    def _left_behind(self) -> tuple[int, str | None]:
        """After closing: how many messages are not settled, and what to tell of it (None: lost with the process)."""
        count = self._core.unsettled
        if not count or self._journal_path is None:
            return count, None
        where = self.addresses[0] if self.addresses else "ADDRESS"
        return count, (
            f"{self.name} was closed with {count} messages not settled. They are safe in {self._journal_path}; "
            f"open it again, or deliver them with: zmqkit journal serve {self._journal_path} {where}"
        )


_LARGEST_ROW: Final = 1 << 12
"""More than the messages of any row: the first sequence after an opening leaves so much room."""


def check_point(until: str) -> Point:
    """Raises `ValueError` for what is not a `Point`."""
    if until not in _POINTS:
        raise ValueError(f"until must be one of {', '.join(_POINTS)}, got {until!r}")
    return until  # type: ignore[return-value]


def check_headers(headers: Headers) -> dict[str, str]:
    """A copy of the user's headers. Raises `EncodeError` for what cannot travel."""
    found = dict(headers)
    size = 0
    for name, value in found.items():
        if type(name) is not str or type(value) is not str:
            raise EncodeError(f"headers go from text to text, got {name!r}: {value!r}")
        if name.startswith(RESERVED):
            raise EncodeError(f"header names beginning with {RESERVED!r} are reserved, got {name!r}")
        try:
            size += len(name.encode()) + len(value.encode())
        except UnicodeEncodeError as error:
            raise EncodeError(f"header {name!r} is not text that can be encoded: {error}") from None
    if size > MAX_HEADERS_BYTES:
        raise EncodeError(f"headers of {size} bytes; at most {MAX_HEADERS_BYTES} are allowed: put data into the body")
    return found


def partly(confirmed: int, error: BaseException) -> PartlySent:
    """`send_many` stopped."""
    return PartlySent(f"{confirmed} messages were sent, then: {type(error).__name__}: {error}", confirmed=confirmed)


def chunk_size(before: int, packs: Iterable[Pack]) -> int:
    """How many bodies to encode next, so that a chunk has about its bytes."""
    size = sum(len(pack.blob) for pack in packs)
    count = sum(len(pack) for pack in packs)
    return max(1, min(CHUNK_MESSAGES, before * 4, count * CHUNK_BYTES // max(size, 1)))


# ---- receiving ---------------------------------------------------------------------


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
        self._put_aside: list[tuple[Parcel, int]] = []
        """Jobs that were taken when Ctrl-C came, and handed to nobody."""
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
        job = None
        taken = None
        try:
            with mailbox.lock:
                while True:
                    if self._put_aside:
                        parcel, index = self._put_aside.pop()
                        taken = (parcel, index)
                    else:
                        parcel = mailbox.peek()
                        if parcel is None:
                            return None
                        if parcel.lost or parcel.next >= len(parcel):
                            mailbox.pop()
                            continue
                        index = parcel.next
                    if parcel.bodies is None:
                        self._decode(parcel)
                    body = parcel.bodies[index]
                    job = self._job(self, parcel, index, body)
                    if taken is None:
                        taken = (parcel, index)
                        parcel.next = index + 1
                        if index + 1 >= len(parcel):
                            mailbox.pop()
                    if parcel.lost or type(body) is DecodeError:
                        taken = None
                        if not parcel.lost:
                            job._settle("rejected", wire.REJECT, None, f"DecodeError: {body}")
                        continue
                    break
            return job
        except BaseException:
            if taken is not None:
                self._put_aside.append(taken)
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
                    self._put_aside.append((job._parcel, job._index))
                else:
                    jobs.append(job)
                return True
            jobs.append(job)
        return True

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

    def _settle(
        self, parcel: Parcel, index: int, kind: int, delay: float | None, reason: str, traceback: str
    ) -> None:
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


def too_late(receipt: ReceiptBase, withdrawn: bool, timeout: float | None) -> WaitTimeout:
    """The error of a send that ran out of time."""
    if withdrawn:
        return Full(f"no room within {timeout} s; nothing was stored", id=receipt.id)
    return WaitTimeout(
        f"not confirmed within {timeout} s; message {receipt.id} is possibly stored, and goes on", id=receipt.id
    )


def outputs_of(result: object) -> Iterator[Any]:
    """What a worker's handler returned, as messages: nothing for None, each of an iterator, else one."""
    if result is None:
        return iter(())
    if isinstance(result, Iterator):
        return result
    return iter((result,))
