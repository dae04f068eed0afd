"""The async face of `Worker`. See `zmqkit.Worker`."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, Self

import anyio
from typing_extensions import Unpack

from zmqkit.errors import Unsettled
from zmqkit.options import OnError
from zmqkit.patterns.pipeline.custody import (
    LOOK_FOR_STOP,
    Custody,
    TwoSided,
    results_of,
)
from zmqkit.patterns.pipeline.jobs import JobBase
from zmqkit.patterns.pipeline.pulling_aio import Puller, call_within
from zmqkit.patterns.pipeline.pushing_aio import Pusher
from zmqkit.patterns.pipeline.taking import check_handler, check_run
from zmqkit.peer.aio import Peer, run_tasks, to_the_end
from zmqkit.peer.base import Addresses, Common
from zmqkit.peer.hooks import stop_on_signals
from zmqkit.transport.tickets import Ticket, WaitExpired
from zmqkit.transport.waiters import async_waiter


class Worker(TwoSided, Peer):
    """Takes jobs from a source, handles them, and sends what comes of them to a sink. See `zmqkit.Worker`.

    Args:
        handler: a coroutine function, an async generator function, or a plain function, which runs in a worker thread.
        tasks: how many coroutine handlers run at a time.
        threads: how many plain handlers run at a time.
    """

    _source: Puller[Any]
    _sink: Pusher | None
    _puller = Puller
    _pusher = Pusher

    def __init__(
        self,
        handler: Callable[..., object],
        /,
        *,
        source: Addresses | Puller[Any],
        sink: Addresses | Pusher | None = None,
        tasks: int = 1,
        threads: int = 1,
        processes: int = 0,
        batch: int | None = None,
        time_limit: float | None = None,
        on_error: OnError = "nack",
        **common: Unpack[Common],
    ) -> None:
        check_handler(handler, coroutines=True, yields=True)
        check_run(batch, tasks=tasks, threads=threads, processes=processes)
        plain = not (inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler))
        at_a_time = processes or threads if plain else tasks
        super().__init__(handler, at_a_time, batch, on_error, processes, time_limit, source, sink, common)

    # ---- a peer of two sides -------------------------------------------------------

    async def open(self) -> Self:
        """Open both sides; the sink first, so that nothing is taken that cannot be passed on."""
        for side in reversed(self._sides):
            await side.open()
        return self

    async def close(self, timeout: float | None = -1.0) -> None:
        """Give back what is not settled, and close both sides."""
        await to_the_end(self._close_both, timeout)

    async def _close_both(self, timeout: float | None) -> None:
        await self._source.close(timeout)
        if self._sink is not None:
            with contextlib.suppress(Unsettled):  # the inputs were not acked: they come again
                await self._sink.close(0)
            await self._sink._await_end(self._sink._linger if timeout == -1.0 else timeout)

    async def wait_for_peers(self, count: int = 1, *, timeout: float | None = None) -> None:
        """Wait until each side has so many peers."""
        for side in self._sides:
            await side.wait_for_peers(count, timeout=timeout)

    # ---- working -------------------------------------------------------------------

    async def run(self) -> None:
        """Work until `stop`, SIGINT or SIGTERM; then finish what runs, wait for outputs to settle, and close."""
        with stop_on_signals(self):  # first: a signal while it opens counts, too
            await self.open()
            self._limiter = anyio.CapacityLimiter(self._parts.at_a_time)
            try:
                with self._parts.executing():
                    await run_tasks(self._loop, self._parts.at_a_time, self)
                await self._wait_idle()
            finally:
                await self.close()

    async def _wait_idle(self) -> None:
        waiter = async_waiter()

        def wake() -> None:
            waiter.wake()

        self._parts.on_idle = wake
        if not self._parts.idle.is_set() and not await waiter.wait(self._drain_left()):
            self._tell_unsettled()

    async def _loop(self) -> None:
        parts = self._parts
        if parts.batch is None:
            async for job in self._source:
                await self._handle(job)
        else:
            async for batch in self._source.batches(parts.batch):
                await self._handle_batch(batch)

    async def _handle(self, job: JobBase[Any]) -> None:
        with self._parts.take(job) as custody:
            await self._pass_on(job, await self._call(self._parts.argument(job)), custody)

    async def _call(self, argument: object) -> object:
        parts = self._parts
        if inspect.isasyncgenfunction(parts.handler):
            return await call_within(parts.time_limit, self._yielded, argument, self._limiter)
        return await call_within(parts.time_limit, parts.call, argument, self._limiter)

    async def _yielded(self, argument: object) -> object:
        found: Any = self._parts.handler(argument)
        return iter([each async for each in found])

    async def _handle_batch(self, batch: Any) -> None:
        try:
            results = results_of(await self._call(batch.bodies), batch)
        except BaseException as error:
            if not batch._leave(error):
                raise
            return
        for job, result in zip(batch, results, strict=True):
            with self._parts.take(job) as custody:
                await self._pass_on(job, result, custody)

    async def _pass_on(self, job: JobBase[Any], result: object, custody: Custody) -> None:
        sink = self._sink
        for ticket, outputs in self._parts.pass_on(sink, job, result, custody):
            assert sink is not None
            if not await self._wait_for_room(sink, ticket):
                custody.given_up(outputs)
                return

    async def _wait_for_room(self, sink: Pusher, ticket: Ticket) -> bool:
        """Wait until the sink has taken what it had no room for. False: stopped, and there was none in time."""
        while True:
            try:
                await sink._wait(ticket, LOOK_FOR_STOP)
                return True
            except WaitExpired:
                if self._drain_left() <= 0 and await sink._take_back(ticket):
                    return False
