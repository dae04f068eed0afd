"""Taking jobs from a pipeline, for threads. What does not wait is in `zmqkit.patterns.pipeline.taking`."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, Self, overload

from typing_extensions import TypeVar, Unpack

from zmqkit.errors import Closed, LeaseLost
from zmqkit.inbox import Source
from zmqkit.options import OnError
from zmqkit.patterns.pipeline.executing import check_places, executing
from zmqkit.patterns.pipeline.jobs import BatchBase, JobBase, Run
from zmqkit.patterns.pipeline.pace import Pace
from zmqkit.patterns.pipeline.taking import PullerBase, check_batches, check_effects, check_handler, check_run, takes
from zmqkit.peer.base import Common, deadline_of, left_of
from zmqkit.peer.hooks import stop_on_signals
from zmqkit.peer.sync import Peer, run_threads

T = TypeVar("T", default=Any)

log = logging.getLogger("zmqkit.pipeline")


class Job(JobBase[T]):
    """One delivered message. Use it as ``with job:``, which acks it, or nacks it if the block raises."""

    __slots__ = ()

    def ack(self, *, wait: bool = False) -> None:
        """It is done; it will not come again.

        Args:
            wait: block until the pusher has stored that. Where it is gone, and had a journal, that may be opened again:
                this is waited for, two minutes at most.

        Raises:
            AlreadySettled: it was settled before.
            LeaseLost: it was held longer than ``max_lease=``; this ack changed nothing. With wait also: it was given to
                another puller, or it is not known whether the ack changed anything, as the message says.
        """
        if wait:
            self._puller._check_wait()
            self._puller._wait(self._ack_asking(), None)
        else:
            self._ack()

    def nack(self, *, delay: float | None = None, reason: str | None = None) -> None:
        """It failed; deliver it again, after `delay` seconds (None: the pusher's backoff). Counted as a failure."""
        self._nack(delay, reason)

    def reject(self, reason: str) -> None:
        """It can never succeed: make it a dead letter."""
        self._reject(reason)

    def release(self) -> None:
        """Give it back untried: deliver it again at once, not counted as a failure."""
        self._release()

    def extend(self, seconds: float | None = None) -> None:
        """Hold it for so many seconds from now on; None: for ``max_lease=`` of the puller. Never shortens its time.

        For a handler that works on one job for longer than ``max_lease=``: call it again and again while it goes on.

        Raises:
            LeaseLost: it is too late: the job was given to another puller.
            AlreadySettled: it was settled before.
        """
        self._extend(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> bool:
        if v is None and self.outcome is None:  # the usual way, short: this is once for every job
            try:
                self._ack()
            except LeaseLost as late:
                log.warning("%s", late)
            return False
        return self._leave(v)


class Batch(BatchBase[T], Sequence[Job[T]]):
    """Jobs that are handled together. Use it as ``with batch:``."""

    __slots__ = ()

    @overload
    def __getitem__(self, i: int, /) -> Job[T]: ...
    @overload
    def __getitem__(self, i: slice, /) -> Sequence[Job[T]]: ...
    def __getitem__(self, i: int | slice, /) -> Job[T] | Sequence[Job[T]]:
        found: Job[T] | Sequence[Job[T]] = self._jobs[i]
        return found

    def ack(self) -> None:
        """All are done, but those that were settled one by one."""
        self._ack()

    def nack(self, *, delay: float | None = None) -> None:
        """It failed: each is delivered again alone, and only then is one blamed. A batch of one is nacked."""
        self._nack(delay)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> bool:
        return self._leave(v)


class Puller(PullerBase, Peer, Generic[T]):
    """Takes jobs from one or many pushers.

    Args:
        *addresses: to connect to.
        prefetch: how many jobs each pusher may have in our hands, not settled; 100,000 at most. None: as many as are
            settled in a tenth of a second and a round trip, from 1 to 4,096; 16 to begin with.
        inbox: an SQLite file of one's own, or a callable that gives a connection: with ``job.transaction()`` effects
            are there once. Jobs that any puller with this inbox has done are acked, and not handed out.
        inbox_keep: seconds for which a job is remembered, from when it was sent; what is older is rejected. None: ever.
        dead_letters: take the dead letters of the pushers instead of their messages: with the headers of the message,
            and ``zmqkit-reason``, ``zmqkit-traceback`` and ``zmqkit-died-at`` (microseconds since 1970). An ack throws
            the letter away for good; whatever else becomes of the job, it stays a dead letter, and comes to the next
            puller that asks, not to this one again. ``wait_for_peers`` of a pusher counts this puller, too.
        on_error: what an exception in ``with job:`` or a handler does: "nack" (try again), "reject" (dead letter),
            "raise" (nack, and let it through).
        max_lease: seconds for which a job may be worked on, from when it was taken or from its last `Job.extend`; then
            it is given back as failed, and settling it raises `LeaseLost`. Also the seconds for which a pusher takes
            this puller for busy while its connection stands but its process does not answer; then its jobs go to
            others.
        plain: read plain PUSH sockets of any language; bodies are in `codec` (with "raw", a message of several frames
            is a list of bytes), and what cannot be decoded is told by `BadFrame` and passed over. Jobs are as ever, but
            nobody keeps them elsewhere: one that fails is tried again here, 20 times at most, one that is rejected is
            told by `JobDead` and gone, and what is not settled when this puller ends is lost. ``prefetch`` is for each
            address. Ids are made up here.
        rate: how many jobs are taken a second at most, evenly, by all threads together; None: as many as come.
        **common: see `Common`.
    """

    _job = Job
    _batch = Batch
    _waits = True

    def __init__(
        self,
        *addresses: str,
        prefetch: int | None = None,
        inbox: Source | None = None,
        inbox_keep: float | None = None,
        dead_letters: bool = False,
        on_error: OnError = "nack",
        max_lease: float = 3600.0,
        plain: bool = False,
        rate: float | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(addresses, prefetch, on_error, max_lease, plain, rate, inbox, inbox_keep, dead_letters, common)

    @overload
    def receive(self) -> Job[T]: ...
    @overload
    def receive(self, timeout: float | None) -> Job[T] | None: ...
    def receive(self, timeout: float | None = None) -> Job[T] | None:
        """Take the next job; blocks until there is one.

        Args:
            timeout: seconds; then None is returned. None: no limit.

        Raises:
            Closed: the puller was closed, or stopped.
        """
        pace = self._pace
        if pace is None:
            job: Job[T] | None = None if self._stopped else self._take()
            if job is not None:
                return job
            return self._receive(deadline_of(timeout))
        deadline = deadline_of(timeout)
        if not self._await_turn(pace, deadline):
            return None
        found: Job[T] | None = None
        try:
            found = self._receive(deadline)
        finally:
            if found is None:
                pace.give_back()
        return found

    def _receive(self, deadline: float | None) -> Job[T] | None:
        job: Job[T] | None = None if self._stopped else self._take()
        if job is not None:
            return job
        while self._wait_for_job(deadline):
            job = self._take()
            if job is not None or left_of(deadline) == 0:
                return job
        raise self._ended()

    def _await_turn(self, pace: Pace, deadline: float | None) -> bool:
        """Sleep until the next job may be taken, or the puller is stopped. False: that is too late."""
        turn = pace.reserve()
        try:
            while seconds := pace.pause(turn, deadline):
                if self._stopped or self._closed:
                    return True  # what comes next finds it out
                time.sleep(seconds)
        except BaseException:
            pace.give_back()
            raise
        return seconds is not None

    def _wait_for_job(self, deadline: float | None) -> bool:
        """Block until something came, or out of time. False: closed or stopped."""
        driver = self._items_driver
        for seconds in self._rounds(driver.mailbox, deadline):
            if driver.wait_items(seconds):
                return True
        return self._goes_on(driver.mailbox)

    def __iter__(self) -> Iterator[Job[T]]:
        """Jobs as they come, until `stop` or `close`.

        A thread that is not a daemon keeps the program alive in such a loop after its main thread has ended, as any
        loop does: call `stop` there, or make it a daemon.
        """
        make = self._job
        mailbox = self._open_driver.mailbox
        if self._pace is not None:
            yield from self._paced()
            return
        while not self._stopped:
            item = self._first_item()
            if item is None:
                if self._closed or not self._wait_for_job(None):
                    return
                continue
            parcel = item.parcel
            claimed = -1
            try:
                # See `PullerBase` for why no interrupt can lose a claimed index.
                for index in item.claims:
                    claimed = index
                    job = make(self, parcel, index, parcel.bodies[index])
                    if parcel.spoiled or parcel.lost:
                        made = self._make(parcel, index)
                        if made is None:
                            claimed = -1
                            continue
                        job = made
                    if mailbox.waiters:
                        mailbox.nudge()
                    claimed = -1
                    yield job
                    if self._stopped or self._closed:
                        return
            finally:
                if claimed >= 0:
                    self._put_aside(parcel, [claimed])

    def _paced(self) -> Iterator[Job[T]]:
        with contextlib.suppress(Closed):
            while not self._stopped:
                yield self.receive()

    def batches(self, max: int = 500, wait: float = 0.05) -> Iterator[Batch[T]]:
        """Batches of jobs as they come, until `stop` or `close`.

        Args:
            max: jobs in a batch at most.
            wait: seconds to wait for more, once there is one.
        """
        return self._batches(max, check_batches(max, wait))

    def _fill_waiting(self, taken: list[Run], most: int, wait: float) -> None:
        for seconds in self._fill(taken, most, wait):
            if not self._items_driver.wait_items(seconds) and self._filled():
                return

    def _batches(self, most: int, wait: float) -> Iterator[Batch[T]]:
        _ = self._open_driver
        pace, its_turn = self._pace, False
        while not self._stopped:
            if pace is not None and not its_turn:
                its_turn = self._await_turn(pace, None)
                continue  # it may be stopped by now
            taken: list[Run] = []
            try:
                self._fill_waiting(taken, most, wait)
            except BaseException:
                self._give_back(taken)
                raise
            if taken:
                batch: Batch[T] = Batch(self, taken)
                if pace is not None:
                    pace.more(len(batch) - 1)
                    its_turn = False
                yield batch
            elif self._closed or not self._wait_for_job(None):
                return

    def run(
        self,
        handler: Callable[..., object],
        /,
        *,
        threads: int = 1,
        processes: int = 0,
        executor: concurrent.futures.Executor | None = None,
        batch: int | None = None,
        wait: float = 0.05,
        time_limit: float | None = None,
    ) -> None:
        """Handle jobs until `stop`, SIGINT or SIGTERM; what is being handled is finished first.

        Args:
            handler: gets the body, or the `Job` if its parameter is annotated so; returning acks, raising nacks
                (`Retry` and `Reject` say how).
            threads: how many handlers run at a time.
            processes: run so many at a time, each in a process of its own, to which the handler travels by module and
                name, and bodies by pickle. One that dies over a job fails that job, and is replaced.
            executor: run `threads` at a time there instead: a pool, or a cluster's face of `concurrent.futures`. It
                stays open.
            batch: hand over lists of up to so many bodies (or a `Batch`, by annotation) instead.
            wait: seconds to wait for a batch to fill.
            time_limit: seconds that a handler may take; then its job fails, by `TimeoutError`. Its process is killed;
                a thread runs on, and what it returns is ignored; None: no limit.

        Raises:
            UsageError: the handler cannot run there; also later, if the executor or the system takes no more: jobs that
                could not be begun go back untried.
        """
        check_handler(handler, coroutines=False, yields=False)
        check_run(batch, wait, threads=threads, processes=processes)
        whole = takes(handler, BatchBase if batch is not None else JobBase)
        check_effects(handler, self._inbox_source is not None, whole=whole)
        limit = check_places(handler, processes, executor, time_limit, whole=whole)

        def loop(call: Callable[..., object]) -> None:
            if batch is not None:
                for each in self.batches(batch, wait):
                    with each:
                        call(each if whole else each.bodies)
            else:
                for job in self:
                    with job:
                        call(job if whole else job.body)

        with stop_on_signals(self):  # first: a signal while it opens counts, too
            self._start()
            with executing(handler, processes, executor, limit) as call:
                run_threads(lambda: loop(call), processes or threads, self)

    def _close(self, linger: float | None) -> None:
        assert self._driver is not None
        self._driver.mailbox.stop()
        try:
            self._driver.close(1.0)
        finally:
            self._close_inbox()
        self._tell_lost()
