"""Taking jobs from a pipeline, for asyncio and trio. What does not wait is in `zmqkit.patterns.pipeline.taking`.

The classes bear the names of the sync face, and their docstrings say what differs.
"""

from __future__ import annotations

import concurrent.futures
import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Generic, Self, overload

import anyio.to_thread
from typing_extensions import TypeVar, Unpack

from zmqkit.errors import Closed, LeaseLost
from zmqkit.inbox import Source
from zmqkit.options import OnError
from zmqkit.patterns.pipeline.children import late
from zmqkit.patterns.pipeline.executing import Hands, check_places, executing
from zmqkit.patterns.pipeline.jobs import BatchBase, JobBase, Run
from zmqkit.patterns.pipeline.pace import Pace
from zmqkit.patterns.pipeline.taking import PullerBase, check_batches, check_effects, check_handler, check_run, takes
from zmqkit.peer.aio import Peer, call, in_thread, run_tasks, to_the_end
from zmqkit.peer.base import Common, deadline_of, left_of
from zmqkit.peer.hooks import stop_on_signals
from zmqkit.transport.waiters import checkpoint

T = TypeVar("T", default=Any)

log = logging.getLogger("zmqkit.pipeline")

YIELD_SECONDS = 0.001
LOOK_EVERY = 8
"""Jobs that are here already are handed out without a pause for so long; every so many jobs the clock is looked at."""


class Job(JobBase[T]):
    """One delivered message. Use it as ``async with job:``. See `zmqkit.Job`."""

    __slots__ = ()

    async def ack(self, *, wait: bool = False) -> None:
        """It is done. See `zmqkit.Job.ack`."""
        if wait:
            await self._puller._wait(self._ack_asking(), None)
        else:
            self._ack()

    async def nack(self, *, delay: float | None = None, reason: str | None = None) -> None:
        """It failed; deliver it again. See `zmqkit.Job.nack`."""
        self._nack(delay, reason)

    async def reject(self, reason: str) -> None:
        """It can never succeed: make it a dead letter."""
        self._reject(reason)

    async def release(self) -> None:
        """Give it back untried."""
        self._release()

    async def extend(self, seconds: float | None = None) -> None:
        """Hold it for longer. See `zmqkit.Job.extend`."""
        self._extend(seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> bool:
        if v is None and self.outcome is None:
            try:
                self._ack()
            except LeaseLost as late:
                log.warning("%s", late)
            return False
        return self._leave(v)


class Batch(BatchBase[T], Sequence[Job[T]]):
    """Jobs that are handled together. Use it as ``async with batch:``. See `zmqkit.Batch`."""

    __slots__ = ()

    @overload
    def __getitem__(self, i: int, /) -> Job[T]: ...
    @overload
    def __getitem__(self, i: slice, /) -> Sequence[Job[T]]: ...
    def __getitem__(self, i: int | slice, /) -> Job[T] | Sequence[Job[T]]:
        found: Job[T] | Sequence[Job[T]] = self._jobs[i]
        return found

    async def ack(self) -> None:
        """All are done, but those that were settled one by one."""
        self._ack()

    async def nack(self, *, delay: float | None = None) -> None:
        """It failed. See `zmqkit.Batch.nack`."""
        self._nack(delay)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> bool:
        return self._leave(v)


class Puller(PullerBase, Peer, Generic[T]):
    """Takes jobs from one or many pushers. See `zmqkit.Puller`."""

    _job = Job
    _batch = Batch
    _waits = False

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
    async def receive(self) -> Job[T]: ...
    @overload
    async def receive(self, timeout: float | None) -> Job[T] | None: ...
    async def receive(self, timeout: float | None = None) -> Job[T] | None:
        """Take the next job. See `zmqkit.Puller.receive`. Cancelled, no job is lost."""
        if self._driver is None:
            await self._start_async()
        pace = self._pace
        if pace is None:
            job: Job[T] | None = None if self._stopped else self._take()
            if job is not None:
                return job
            return await self._receive(deadline_of(timeout))
        deadline = deadline_of(timeout)
        if not await self._await_turn(pace, deadline):
            return None
        found: Job[T] | None = None
        try:
            found = await self._receive(deadline)
        finally:
            if found is None:
                pace.give_back()
        return found

    async def _receive(self, deadline: float | None) -> Job[T] | None:
        job: Job[T] | None = None if self._stopped else self._take()
        if job is not None:
            return job
        while await self._wait_for_job(deadline):
            job = self._take()
            if job is not None or left_of(deadline) == 0:
                return job
        raise self._ended()

    async def _await_turn(self, pace: Pace, deadline: float | None) -> bool:
        """Sleep until the next job may be taken, or the puller is stopped. False: that is too late."""
        turn = pace.reserve()
        try:
            while seconds := pace.pause(turn, deadline):
                if self._stopped or self._closed:
                    return True  # what comes next finds it out
                await anyio.sleep(seconds)
        except BaseException:
            pace.give_back()
            raise
        return seconds is not None

    async def _wait_for_job(self, deadline: float | None) -> bool:
        """Wait until something came, or out of time. False: closed or stopped."""
        driver = self._items_driver
        for seconds in self._rounds(driver.mailbox, deadline):
            if await driver.wait_items_async(seconds):
                return True
        return self._goes_on(driver.mailbox)

    def __aiter__(self) -> AsyncIterator[Job[T]]:
        """Jobs as they come, until `stop` or `close`."""
        self._check_open()
        return _Jobs(self)

    def batches(self, max: int = 500, wait: float = 0.05) -> AsyncIterator[Batch[T]]:
        """Batches of jobs as they come. See `zmqkit.Puller.batches`. Cancelled, no job is lost."""
        wait = check_batches(max, wait)
        self._check_open()
        return _Batches(self, max, wait)

    async def _fill_waiting(self, taken: list[Run], most: int, wait: float) -> None:
        for seconds in self._fill(taken, most, wait):
            if not await self._items_driver.wait_items_async(seconds) and self._filled():
                return

    async def _next_batch(self, most: int, wait: float) -> Batch[T] | None:
        """None: closed or stopped."""
        pace, its_turn = self._pace, False
        while not self._stopped:
            if pace is not None and not its_turn:
                its_turn = await self._await_turn(pace, None)
                continue  # it may be stopped by now
            taken: list[Run] = []
            try:
                await self._fill_waiting(taken, most, wait)
                if taken:
                    await checkpoint()
            except BaseException:
                self._give_back(taken)
                raise
            if taken:
                batch: Batch[T] = Batch(self, taken)
                if pace is not None:
                    pace.more(len(batch) - 1)
                return batch
            if self._closed or not await self._wait_for_job(None):
                break
        return None

    async def run(
        self,
        handler: Callable[..., object],
        /,
        *,
        tasks: int = 1,
        threads: int = 1,
        processes: int = 0,
        executor: concurrent.futures.Executor | None = None,
        batch: int | None = None,
        wait: float = 0.05,
        time_limit: float | None = None,
    ) -> None:
        """Handle jobs until `stop`, SIGINT or SIGTERM; what is being handled is finished first.

        Args:
            handler: a coroutine function, or a plain one that then runs in a worker thread. It gets the body, or the
                `Job` if its parameter is annotated so.
            tasks: how many coroutine handlers run at a time.
            threads: how many plain handlers run at a time.
            processes: run plain handlers in so many processes; see `zmqkit.Puller.run`.
            executor: run plain handlers there, `threads` at a time; see `zmqkit.Puller.run`.
            batch: hand over lists of up to so many bodies (or a `Batch`, by annotation) instead.
            wait: seconds to wait for a batch to fill.
            time_limit: seconds that a handler may take; a coroutine is then cancelled. See `zmqkit.Puller.run`.

        Raises:
            UsageError: as there.
        """
        check_handler(handler, coroutines=True, yields=False)
        check_run(batch, wait, tasks=tasks, threads=threads, processes=processes)
        whole = takes(handler, BatchBase if batch is not None else JobBase)
        check_effects(handler, self._inbox_source is not None, whole=whole)
        limit = check_places(handler, processes, executor, time_limit, whole=whole)
        at_a_time = tasks if inspect.iscoroutinefunction(handler) else processes or threads
        limiter = anyio.CapacityLimiter(at_a_time)

        async def loop(run: Callable[..., object]) -> None:
            if batch is not None:
                async for each in self.batches(batch, wait):
                    async with each:
                        await call_within(limit, run, each if whole else each.bodies, limiter)
            else:
                async for job in self:
                    async with job:
                        await call_within(limit, run, job if whole else job.body, limiter)

        with stop_on_signals(self):  # first: a signal while it opens counts, too
            await self._start_async()
            with executing(handler, processes, executor, limit) as run:
                await run_tasks(lambda: loop(run), at_a_time, self)

    async def _close(self, linger: float | None) -> None:
        assert self._driver is not None
        self._driver.mailbox.stop()
        try:
            await self._end_driver()
        finally:
            if self._effects is not None:
                await to_the_end(in_thread, self._close_inbox)
        self._tell_lost()


class _Jobs(Generic[T]):
    """The iterator of ``async for job in puller``. Not a generator: nothing is left to be finalized after a break."""

    __slots__ = ("_item", "_left", "_puller", "_since")

    def __init__(self, puller: Puller[T]) -> None:
        self._puller = puller
        self._item: Any = None
        self._left = LOOK_EVERY
        self._since = 0.0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Job[T]:
        puller = self._puller
        if puller._pace is not None:
            try:
                return await puller.receive()
            except Closed:
                raise StopAsyncIteration from None
        self._left -= 1
        item = self._item
        if item is not None and self._left and not puller._stopped:
            # The usual way, short: this is once for every job. See `PullerBase` for why nothing can get lost here.
            parcel = item.parcel
            if not (parcel.lost or parcel.spoiled):
                for index in item.claims:
                    return puller._job(puller, parcel, index, parcel.bodies[index])
        return await self._next()

    async def _next(self) -> Job[T]:
        puller = self._puller
        if puller._driver is None:
            await puller._start_async()
        if self._left <= 0:
            self._left = LOOK_EVERY
            if time.monotonic() - self._since > YIELD_SECONDS:
                await checkpoint()
                self._since = time.monotonic()
        while not puller._stopped:
            job: Job[T] | None = puller._take()
            if job is not None:
                self._item = job._parcel
                return job
            if puller._closed or not await puller._wait_for_job(None):
                break
            self._since = time.monotonic()
        raise StopAsyncIteration


class _Batches(Generic[T]):
    """The same for ``async for batch in puller.batches()``."""

    __slots__ = ("_max", "_puller", "_wait")

    def __init__(self, puller: Puller[T], max: int, wait: float) -> None:
        self._puller = puller
        self._max = max
        self._wait = wait

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch[T]:
        if self._puller._driver is None:
            await self._puller._start_async()
        batch = await self._puller._next_batch(self._max, self._wait)
        if batch is None:
            raise StopAsyncIteration
        return batch


async def call_within(
    limit: float | None, handler: Callable[..., object], argument: object, limiter: anyio.CapacityLimiter
) -> object:
    """Call a handler; a coroutine is cancelled when its time is over, others see to it themselves."""
    if limit is None or not inspect.iscoroutinefunction(handler):
        return await call(handler, argument, limiter, abandon=isinstance(handler, Hands))
    with anyio.move_on_after(limit) as scope:
        return await call(handler, argument, limiter)
    assert scope.cancelled_caught
    raise late(limit, "and was cancelled")
