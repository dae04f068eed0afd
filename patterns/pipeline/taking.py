"""Taking jobs, as the sync and the async face share it: everything of a puller that does not wait.

Knows the puller's core and its verbs, and codecs; no event loop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, get_type_hints

from typing_extensions import TypeVar

from zmqkit import checks
from zmqkit import codec as codecs
from zmqkit.errors import (
    Closed,
    DecodeError,
    InboxRolledBack,
    UsageError,
)
from zmqkit.inbox import Source, check_source
from zmqkit.options import Limits, OnError
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.effects import Effects
from zmqkit.patterns.pipeline.endpoints import PipePeer
from zmqkit.patterns.pipeline.jobs import Run, note, records_of
from zmqkit.patterns.pipeline.letter_takers import ABOUT
from zmqkit.patterns.pipeline.pace import pace_of
from zmqkit.patterns.pipeline.plain import PlainPullerCore
from zmqkit.patterns.pipeline.prefetching import MOST
from zmqkit.patterns.pipeline.puller import Look, Parcel, PullerCore
from zmqkit.peer.base import Common, check_types, left_of
from zmqkit.transport.driver import Driver
from zmqkit.transport.mailbox import Mailbox

T = TypeVar("T", default=Any)

Headers = Mapping[str, str]

log = logging.getLogger("zmqkit.pipeline")

PREFETCH: Final = 256
"""Of each address of plain pushers. Of others the prefetch adapts itself."""
MAX_PREFETCH: Final = 100_000
"""With more in one hand, what is settled out of order would not fit into a message."""
PREFETCH_BYTES: Final = 64 * 1024 * 1024

MAX_LEASE: Final = 3600.0
"""The default of ``max_lease=``, in seconds."""

LOOK_ROUND: Final = 5.0
"""Seconds after which a waiting puller looks whether it waits for itself."""


DONE: Final = object()
"""Stands in the place of a body: this job was done before, the inbox says."""
FORGOTTEN: Final = object()
"""Likewise: it is older than what the inbox remembers."""


class Aside:
    """Jobs of a parcel that were taken and given back: interrupted, or not for this batch."""

    __slots__ = ("claims", "parcel")

    def __init__(self, parcel: Parcel, indexes: Iterable[int]) -> None:
        self.parcel = parcel
        self.claims = iter(list(indexes))


class PullerBase(PipePeer):
    """A puller without the waiting."""

    _socket = "PULL"
    _role: ClassVar[str] = "pull"
    _accepts: ClassVar[frozenset[str]] = frozenset({"push"})
    _binds: ClassVar[bool] = False
    _core: PullerCore | PlainPullerCore
    _job: ClassVar[type[Any]]
    _batch: ClassVar[type[Any]]
    _waits: ClassVar[bool]
    """Whether a verb of this face may block."""
    _ends_leases: ClassVar[bool] = True
    """Whether jobs that are held for longer than ``max_lease`` are given back."""

    def __init__(
        self, addresses: Sequence[str], prefetch: int | None, on_error: OnError, max_lease: float, plain: bool,
        rate: float | None, inbox: Source | None, inbox_keep: float | None, dead_letters: bool, common: Common,
    ) -> None:  # fmt: skip
        super().__init__(addresses, common)
        checks.whole("prefetch", prefetch, most=MAX_PREFETCH, none=True)
        if on_error not in ("nack", "reject", "raise"):
            raise ValueError(f'on_error must be "nack", "reject" or "raise", got {on_error!r}')
        lease = checks.number("max_lease", max_lease, "a positive number of seconds, below 1e9")
        if not 0 < lease < 1e9:
            raise ValueError(f"max_lease must be a positive number of seconds, below 1e9, got {max_lease!r}")
        self._prefetch = PREFETCH if prefetch is None else prefetch
        self._adaptive = prefetch is None and not plain
        self._on_error: OnError = on_error
        self._max_lease = lease
        self._pace = pace_of(rate)
        self._warned = False
        self._inbox_source, self._inbox_keep = inbox, inbox_keep
        self._effects: Effects | None = None
        self._rolled_back: InboxRolledBack | None = None
        if inbox is not None or inbox_keep is not None:
            _check_inbox(inbox, inbox_keep)
        check_types(dead_letters=(dead_letters, bool))
        if dead_letters and inbox is not None:
            raise UsageError("an inbox knows which messages were done, and dead letters were not: leave inbox= out")
        self._dead_letters = dead_letters
        self._set_plain(plain, max_lease=lease != MAX_LEASE, inbox=inbox is not None, dead_letters=dead_letters)

    def _after_fork(self) -> None:
        super()._after_fork()
        if self._driver is not None:
            # The parent's I/O thread was told of acks; here nobody was, and each ack must find that out.
            for parcel in self._core.parcels():
                parcel.told = False

    def _frame_limits(self) -> Limits:
        limits = super()._frame_limits()
        if self._plain:  # what ZeroMQ holds besides waits for nobody else either
            limits = dataclasses.replace(limits, queued_messages=min(limits.queued_messages, self._prefetch))
        return limits

    def _build(self) -> tuple[PullerCore | PlainPullerCore, Any]:
        about: dict[str, Any] = {ABOUT: True} if self._dead_letters else {}
        self._rolled_back = None
        if self._inbox_source is not None:
            self._close_inbox()  # of an attempt to open that failed later
            self._effects = Effects(self._inbox_source, self._inbox_keep)
            about = {"inbox": self._effects.uuid, "commits": self._effects.look(wait=True)}
        local = self._local(
            credit_messages=self._prefetch, credit_bytes=PREFETCH_BYTES, busy_bound=self._max_lease, about=about
        )
        if self._plain:
            return PlainPullerCore(local, self._random(), self._codec, time.time() - time.monotonic()), None
        lease = self._max_lease if self._ends_leases else math.inf
        return PullerCore(local, self._random(), max_lease=lease, adaptive=self._adaptive), None

    # ---- taking --------------------------------------------------------------------

    @property
    def _items_driver(self) -> Driver:
        """Opens the puller if that was not done; after a close that of then, so that loops end and do not raise."""
        driver = self._driver
        return driver if driver is not None else self._open_driver

    @property
    def _mailbox(self) -> Mailbox[Any]:
        driver = self._driver
        return driver.mailbox if driver is not None else self._open_driver.mailbox

    # Jobs are taken from the mailbox's first parcel, which stays there until all of it is taken. `claims` is an
    # iterator that all takers share: CPython gives each index to exactly one of them. In a ``for`` over it no interrupt
    # can come between the claim and the next statement, so a claimed index is always known to the code that must
    # put it back. Nor can one come while a single call claims several.
    #
    # In CPython 3.13 the jump from the end of a loop to its beginning is outside the ``with`` or ``try`` that the loop
    # stands in, if it depends on a condition; interrupts come there (python/cpython#130279). So where a lock is held or
    # jobs are in hand, a loop ends with a plain statement or stands in a function of its own.

    def _first_item(self) -> Any | None:
        """The first parcel of which something is left, decoded; None if there is none."""
        mailbox = self._mailbox
        if self._closed:
            return None
        look: Look | None = None
        with mailbox.lock:
            while True:
                item = mailbox.peek()
                if type(item) is Look:
                    look = item
                elif item is None or (not item.parcel.lost and item.claims.__length_hint__()):
                    break
                mailbox.pop()
        if look is not None or self._rolled_back is not None:
            try:
                self._look(look)
            except BaseException:
                if look is not None and self._rolled_back is None:
                    mailbox.put_back([look])
                raise
        if item is not None and item.parcel.bodies is None:
            self._decode(item.parcel)
        return item

    def _look(self, look: Look | None) -> None:
        """A pusher knows more commits of the inbox than it was told: see what the file says.

        Raises `InboxRolledBack` if it says less, now and whenever something is taken.
        """
        effects = self._effects
        if look is not None and effects is not None and self._rolled_back is None:
            commits = effects.look(wait=self._waits)
            assert isinstance(self._core, PullerCore)  # a plain one has no inbox
            if commits is None:
                self._usable().post(self._core.look_later, look)
            elif commits >= look.known:
                self._usable().post(self._core.inbox_at, commits)
            else:
                inbox = effects.uuid.hex()
                self._rolled_back = InboxRolledBack(
                    f"the inbox {effects.path} has had {commits} commits, and a pusher knows of {look.known}: an older "
                    "copy of it was put back, and effects since then are lost, or are there without their record. Put "
                    "the newer file back; or, to go on with this one, whatever was done twice, let the pusher forget "
                    f"what it knows: zmqkit journal release JOURNAL --inbox {inbox}",
                    inbox=inbox,
                    commits=commits,
                    known=look.known,
                )
        if self._rolled_back is not None:
            raise self._rolled_back

    def _take(self) -> Any | None:
        """The next job that is here, None if none is. Whatever interrupts it, no job is lost or handed out twice."""
        while (item := self._first_item()) is not None:
            parcel: Parcel = item.parcel
            claimed = -1
            try:
                for index in item.claims:
                    claimed = index
                    job = self._make(parcel, index)
                    if self._mailbox.waiters:
                        self._mailbox.nudge()
                    if job is not None:
                        return job
                    claimed = -1
            except BaseException:
                if claimed >= 0:
                    self._put_aside(parcel, [claimed])
                raise
        return None

    def _make(self, parcel: Parcel, index: int) -> Any | None:
        """The job of this index; None if it is nobody's: lost, or its body cannot be decoded (then it is rejected)."""
        if parcel.lost or parcel.gone >> index & 1:
            return None
        assert parcel.bodies is not None
        body = parcel.bodies[index]
        job = self._job(self, parcel, index, body)
        if body is DONE:
            job._ack()
            return None
        if body is FORGOTTEN:
            job._settle("rejected", wire.REJECT, None, "it is older than what the inbox remembers")
            return None
        if type(body) is DecodeError:
            if isinstance(self._core, PlainPullerCore):
                told = f"a body of a plain pusher that cannot be decoded as {parcel.delivery.codec}: {body}"
                self._usable().post(self._core.undecodable, parcel, index, told)
            else:
                job._settle("rejected", wire.REJECT, None, f"DecodeError: {body}")
            return None
        return job

    def _take_run(self, most: int) -> Run | None:
        """The next jobs of one parcel that are here, at most so many; None if none is."""
        while (item := self._first_item()) is not None:
            parcel: Parcel = item.parcel
            indexes: list[int] = []
            try:
                if parcel.delivery.alone:
                    most = 1
                indexes.extend(itertools.islice(item.claims, most))
                if parcel.lost:
                    continue
                if parcel.spoiled:
                    indexes = [at for at in indexes if self._make(parcel, at) is not None]
                if indexes:
                    return Run(parcel, indexes)
            except BaseException:
                if indexes:
                    self._put_aside(parcel, indexes)
                raise
        return None

    def _decode(self, parcel: Parcel) -> None:
        delivery = parcel.delivery
        try:
            bodies = codecs.decode_many(delivery.lengths, delivery.blob, delivery.codec, limits=self._limits)
        except DecodeError as error:
            bodies = [error] * len(parcel)
        except UsageError as error:
            bodies = [DecodeError(str(error))] * len(parcel)
        # Two threads may come here for one parcel, and the inbox may tell the second one more: so the flag goes first,
        # and is never taken back.
        if self._effects is not None and self._pass_over(parcel, bodies):
            parcel.spoiled = True
        if DecodeError in set(map(type, bodies)):
            parcel.spoiled = True
        parcel.bodies = bodies

    def _pass_over(self, parcel: Parcel, bodies: list[Any]) -> bool:
        """Mark what is not to be handed out: the inbox knows it, or cannot know it any more. True: there is some."""
        assert self._effects is not None
        # What was called back from the end of it is somebody else's: others may have done that meanwhile.
        records = records_of(parcel, range(parcel.offered))
        known = self._effects.look_up(records, wait=self._waits)
        note(parcel, self._effects.commits)
        if not (known.done or known.forgotten):
            return False
        for index, record in enumerate(records):
            if record.id in known.done:
                bodies[index] = DONE
                self._effects.dropped += 1
            elif record.id in known.forgotten:
                bodies[index] = FORGOTTEN
        return True

    def _close_inbox(self) -> None:
        effects = self._effects
        if effects is not None:
            effects.close()

    def stats(self) -> dict[str, int | float]:
        """Counters by name, since opening; with an inbox ``duplicates_dropped`` and ``duplicates_late``, too: jobs that
        were known to be done before they were handed out, and those that were found out in their transaction."""
        found = super().stats()
        effects = self._effects
        if found and effects is not None:
            found |= {"duplicates_dropped": effects.dropped, "duplicates_late": effects.late}
        return found

    def _take_more(self, taken: list[Run], most: int) -> bool:
        """Add jobs that are here, up to `most` in all. True when the batch must not grow further."""
        count = sum(len(run.indexes) for run in taken)
        while count < most:
            run = self._take_run(most - count)
            if run is None:
                # All credit is in our own hands: more can only come after these are settled, or where there is more.
                return self._core.held <= count and self._spent(count)
            if run.parcel.delivery.alone and taken:
                self._put_aside(*run)
                return True
            taken.append(run)
            count += len(run.indexes)
            if run.parcel.delivery.alone:
                return True
        return True

    def _fill(self, taken: list[Run], most: int, wait: float) -> Iterator[float]:
        """Take what is here, and so again after each wait; yields how long to wait at most, until the batch is full or
        its time is over. Empty, it is not waited for."""
        full = self._take_more(taken, most)
        deadline = time.monotonic() + wait
        while taken and not full and (left := deadline - time.monotonic()) > 0:
            yield left
            full = self._take_more(taken, most)

    def _filled(self) -> bool:
        """After a wait for nothing: whether there is no more to wait for. With a prefetch that grows there may be."""
        mailbox = self._mailbox
        return not self._adaptive or self._stopped or self._closed or mailbox.closed or mailbox.stopped

    def _give_back(self, taken: list[Run]) -> None:
        """Jobs that were taken and reached nobody."""
        for run in reversed(taken):
            self._put_aside(*run)

    def _put_aside(self, parcel: Parcel, indexes: list[int]) -> None:
        self._mailbox.put_back([Aside(parcel, indexes)])

    def _spent(self, count: int) -> bool:
        """So many jobs are all that may be here. If that is no fixed number, there will be more."""
        if not self._adaptive:
            return count >= self._prefetch
        core = self._core
        assert isinstance(core, PullerCore)
        prefetch = core.prefetch
        if count >= prefetch and prefetch < MOST:
            with contextlib.suppress(Closed):
                self._usable().post(core.hungry)
            return False
        return count >= prefetch

    # ---- waiting -------------------------------------------------------------------

    def _rounds(self, mailbox: Mailbox[Any], deadline: float | None) -> Iterator[float]:
        """How long to wait for a job, time and again, until out of time or closed or stopped."""
        look_at = time.monotonic() + LOOK_ROUND
        if self._adaptive and self._core.held:
            self._spent(self._core.held)
        while not (self._stopped or self._closed or mailbox.closed):
            left = left_of(deadline)
            if left is not None and left <= LOOK_ROUND:
                yield left
                return
            yield LOOK_ROUND
            if time.monotonic() >= look_at:  # or another took what we were woken for
                self._warn_of_credit()

    def _goes_on(self, mailbox: Mailbox[Any]) -> bool:
        """Whether more may come, after a wait in which nothing did. Raises what ended the I/O thread."""
        if mailbox.failure is not None and not self._closed:
            raise mailbox.failure
        return not (self._stopped or self._closed or mailbox.closed)

    def _ended(self) -> Closed:
        return Closed(f"{self.name} was {'closed' if self._closed else 'stopped'}")

    def _warn_of_credit(self) -> None:
        """Nothing comes, and all that may come was handed out and not settled: say so, once."""
        if not self._warned and self._core.held and self._spent(self._core.held):
            self._warned = True
            log.warning(
                "%s waits for a job, but all %d that it may hold were handed out and not settled: ack them, or use "
                '"with job:"; a larger prefetch= only hides it',
                self.name,
                self._core.held,
            )

    # ---- settling ------------------------------------------------------------------

    def _collect(self, parcel: Parcel) -> None:
        """Tell the core that something of this parcel is acked. Once: it looks for the rest itself."""
        parcel.told = True
        try:
            self._usable().post(self._core.collect, parcel)
        except UsageError:  # closed, or forked: nothing happened, and the next one shall hear of it too
            parcel.told = False
            raise

    def _settle(self, parcel: Parcel, index: int, kind: int, delay: float | None, reason: str, traceback: str) -> None:
        self._usable().post(self._core.settle, parcel, index, kind, delay, reason, traceback)

    def _extend(self, parcel: Parcel, index: int, seconds: float | None) -> None:
        self._usable().post(self._core.extend, parcel, index, seconds)

    def _usable(self) -> Any:
        driver = self._driver
        if driver is None or self._closed:
            raise Closed(
                f"{self.name} was closed, and lost the jobs that were not settled: plain pushers do not send them again"
                if self._plain
                else f"{self.name} was closed, and gave back the jobs that were not settled: "
                "their pusher delivers them again"
            )
        return driver

    def _tell_lost(self) -> None:
        """After closing: what a plain puller had taken, and nobody has settled."""
        lost = self._core.counters["jobs_lost"] if self._plain else 0
        if lost:
            log.warning(
                "%s was closed with %d jobs of plain pushers that were not settled: they are lost", self.name, lost
            )


def _check_inbox(inbox: Source | None, keep: float | None) -> None:
    """Raises for what ``inbox=`` and ``inbox_keep=`` do not take."""
    check_source(inbox)
    if keep is None:
        return
    if inbox is None:
        raise UsageError("inbox_keep= says how long an inbox remembers: give inbox=, too")
    if not 0 < checks.number("inbox_keep", keep, "a positive number of seconds, below 1e10") < 1e10:
        raise ValueError(f"inbox_keep must be a positive number of seconds, below 1e10, got {keep!r}")


def check_effects(handler: Callable[..., object], has_inbox: bool, *, whole: bool) -> None:
    """Raises `UsageError` for a handler that could not make use of the inbox."""
    if has_inbox and not whole:
        shown = getattr(handler, "__qualname__", repr(handler))
        raise UsageError(
            f"with inbox=, {shown} must get the Job, for its transaction: annotate its parameter as a Job (with batch= "
            "as a Batch)"
        )


def check_batches(most: int, wait: float) -> float:
    """The seconds to wait. Raises for what `Puller.batches` does not take."""
    checks.whole("max", most)
    return checks.seconds("wait", wait)


def check_handler(handler: Callable[..., object], *, coroutines: bool, yields: bool) -> None:
    """Raises `UsageError` for a handler that this face would not run."""
    if not callable(handler):
        raise UsageError(f"a handler is a function, got {handler!r}")
    shown = getattr(handler, "__qualname__", repr(handler))
    if not coroutines and (inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler)):
        raise UsageError(f"{shown} is a coroutine function: use zmqkit.aio")
    if not yields and (inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler)):
        raise UsageError(f"{shown} yields, and nobody would take that here: use a Worker, which sends it on")
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return  # some that are written in C do not tell
    try:
        signature.bind(None)
    except TypeError as error:
        raise UsageError(
            f"{shown}{signature} cannot be called with one argument ({error}): a handler gets the body of a job, or "
            f"the Job if its parameter is annotated so; with batch= a list of bodies"
        ) from None


def check_run(batch: int | None, wait: float = 0.0, *, processes: int = 0, **at_a_time: int) -> None:
    """Raises for what ``run`` does not take."""
    for name, count in at_a_time.items():
        checks.whole(name, count)
        if processes and count > 1:
            raise UsageError(f"processes= says how many handlers run at a time: leave {name}= out")
    checks.whole("batch", batch, none=True)
    checks.seconds("wait", wait)


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
