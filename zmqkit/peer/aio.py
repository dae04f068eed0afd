"""The face of a peer for asyncio and trio: the waiting that all patterns share.

What blocks shortly (binding, opening a journal, joining the I/O thread) runs in a worker thread. No task group or
nursery is held across ``__aenter__``.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import anyio.to_thread

from zmqkit import checks
from zmqkit.errors import WaitTimeout, ZmqkitError
from zmqkit.peer.base import DRAIN, PeerBase, check_timeout
from zmqkit.peer.hooks import on, stop_on_signals
from zmqkit.transport.tickets import Ticket, WaitExpired, wait_async
from zmqkit.transport.waiters import in_trio

log = logging.getLogger("zmqkit")

R = TypeVar("R")


class Peer(PeerBase):
    """What Pusher, Puller and all other peers have in common. See `zmqkit.Peer`."""

    async def open(self) -> Self:
        """Bind, connect and start. See `zmqkit.Peer.open`."""
        await self._start_async()
        return self

    async def close(self, timeout: float | None = -1.0) -> None:
        """Serve what waits for `linger`, say goodbye, give everything back. See `zmqkit.Peer.close`."""
        check_timeout(timeout)
        linger = self._linger if timeout == -1.0 else timeout
        if self._begin_close():
            try:
                await self._close(linger)
            finally:
                self._close_ended.resolve(None)
        else:
            await self._await_end(linger)

    async def wait_for_peers(self, count: int = 1, *, timeout: float | None = None) -> None:
        """Wait until so many others are in session with this peer. See `zmqkit.Peer.wait_for_peers`."""
        checks.count("count", count)
        check_timeout(timeout)
        await self._start_async()
        ticket = self._ask(self._core.wait_for_sessions, count)
        try:
            await self._wait_or_forget(ticket, timeout, self._core.forget_sessions)
        except WaitExpired:
            raise WaitTimeout(self._too_few(count, timeout)) from None

    async def _start_async(self) -> None:
        self._check_open()
        if self._driver is None:
            await in_thread(self._start)

    async def _wait(self, ticket: Ticket, timeout: float | None) -> Any:
        assert self._driver is not None  # who has a ticket of it has opened it
        return await self._driver.wait_async(ticket, timeout)

    async def _wait_or_forget(self, ticket: Ticket, timeout: float | None, forget: Callable[..., None]) -> Any:
        """Wait, and let nothing of it be left behind. Out of time, the I/O thread has the last word."""
        try:
            return await self._wait(ticket, timeout)
        except WaitExpired:
            # It may be that the I/O thread had no time to answer: timeout=0 is to tell how it is.
            await self._wait(self._ask(forget, ticket), None)
            return await self._wait(ticket, 0)
        except BaseException:
            self._tell_soon(forget, ticket, None)
            raise

    async def _await_end(self, patience: float | None) -> None:
        """Another task closes this peer, or has: wait for its end, so long at most."""
        with contextlib.suppress(WaitExpired):
            for ended, seconds in self._being_closed(patience, by_threads=False):
                await wait_async(ended, seconds)

    async def _close(self, linger: float | None) -> None:
        await self._end_driver()

    async def _end_driver(self) -> None:
        driver = self._driver
        assert driver is not None
        # Not to be cancelled halfway: it is bounded, and whoever cancels expects everything to be given back.
        await to_the_end(in_thread, driver.close, 1.0)

    async def __aenter__(self) -> Self:
        try:
            return await self.open()
        except anyio.get_cancelled_exc_class():
            # What opens in a thread is open by then, and `__aexit__` is not called: nobody else would close it.
            with contextlib.suppress(ZmqkitError):
                await to_the_end(self.close, 0)
            raise

    async def __aexit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        await self.close()


async def in_thread(fn: Any, *args: Any) -> Any:
    """Call what blocks shortly, in a worker thread."""
    return await anyio.to_thread.run_sync(fn, *args)


async def to_the_end(step: Callable[..., Coroutine[Any, Any, R]], *args: Any) -> R:
    """Await a bounded step to its end, whoever cancels meanwhile; then that is raised.

    A shielded scope keeps off anyio's own cancellation. That of `asyncio.Task.cancel`, and so of `asyncio.timeout` and
    `asyncio.TaskGroup`, comes through it, and would leave a commit, say, to a thread that nobody waits for.
    """
    with anyio.CancelScope(shield=True):
        result = await step(*args) if in_trio() else await _in_a_task(step(*args))
    return result  # noqa: RET504 - for all that mypy knows, a scope may swallow an exception


async def _in_a_task(step: Coroutine[Any, Any, R]) -> R:
    import asyncio

    task = asyncio.get_running_loop().create_task(step)
    cancelled: BaseException | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None or task.cancelled():
        return task.result()
    try:
        raise cancelled from task.exception()
    finally:
        del cancelled  # or its traceback would hold itself


async def call(
    handler: Callable[..., object], argument: object, limiter: anyio.CapacityLimiter, *, abandon: bool = False
) -> object:
    """Call a handler, plain ones in a worker thread; the limiter says how many of these there may be.

    Cancelled, the thread is waited for, unless it is to be abandoned.
    """
    if inspect.iscoroutinefunction(handler):
        return await handler(argument)
    result, error = await anyio.to_thread.run_sync(
        _outcome, handler, argument, limiter=limiter, abandon_on_cancel=abandon
    )
    if error is not None:
        try:
            raise error
        finally:
            del error  # or its traceback would hold itself
    return await result if inspect.isawaitable(result) else result


def _outcome(handler: Callable[..., object], argument: object) -> tuple[object, BaseException | None]:
    """What a handler returned, or raised: a loop's future does not carry GeneratorExit or StopIteration."""
    try:
        return handler(argument), None
    except BaseException as error:
        return None, error


async def run_tasks(loop: Callable[[], Any], tasks: int, *peers: PeerBase) -> None:
    """Run `loop` in so many tasks. The first error stops all and is raised as it is.

    After a stop what runs has `DRAIN` seconds; then it is cancelled, and what it has in hand is given back.
    """
    errors: list[BaseException] = []
    running = tasks
    cancelled = anyio.get_cancelled_exc_class()
    ended = anyio.Event()

    async def guarded() -> None:
        nonlocal running
        try:
            await loop()
        except BaseException as error:
            if isinstance(error, cancelled) or (
                isinstance(error, BaseExceptionGroup) and error.subgroup(cancelled) is not None
            ):
                raise  # the task group's own
            errors.append(error)
            for peer in peers:
                peer.stop()
        finally:
            running -= 1
            ended.set()

    async with anyio.create_task_group() as group:
        for _ in range(tasks):
            group.start_soon(guarded)
        await ended.wait()
        with anyio.move_on_after(DRAIN):
            while running:
                ended = anyio.Event()
                await ended.wait()
        if running:
            log.warning(
                "%d handlers still run %s s after the stop; what they have in hand is given back", running, DRAIN
            )
        group.cancel_scope.cancel()
    if errors:
        raise errors[0]


__all__ = ["Peer", "call", "in_thread", "on", "run_tasks", "stop_on_signals", "to_the_end"]
