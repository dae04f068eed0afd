"""Coroutines that answer calls, each a task of asyncio or trio; cancelled when nobody waits for them any more.

Knows how tasks are started from `loops`; no task group is held while a server is open.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import anyio

from zmqkit.patterns.reqrep import calls
from zmqkit.patterns.reqrep.calls import Answer, Execution
from zmqkit.patterns.reqrep.handling import Emitter, Ready
from zmqkit.patterns.reqrep.loops import Loop
from zmqkit.patterns.reqrep.request import current_request
from zmqkit.transport.waiters import checkpoint

if TYPE_CHECKING:
    from zmqkit.patterns.reqrep.hosting import ServerBase

log = logging.getLogger("zmqkit.reqrep")

GRACE = 0.5
"""Seconds that cancelled coroutines have to end."""

LOOK_EVERY = 64
"""After so many executions in a row the loop runs others."""


class _Cancel:
    """What the core resolves when nobody waits for an execution any more."""

    __slots__ = ("_loop", "_scope")

    def __init__(self, loop: Loop, scope: anyio.CancelScope) -> None:
        self._loop = loop
        self._scope = scope

    def resolve(self, _: object) -> bool:
        self._loop.call_soon(self._scope.cancel)
        return True


class Tasks:
    """Takes executions, runs coroutines as tasks of this loop, and hands plain functions on to threads.

    Args:
        server: whose they are; open.

    Attributes:
        plain: what is for threads; None at the end, once for each thread.
        ended: set when nothing more is taken.
    """

    def __init__(self, server: ServerBase, plain: queue.SimpleQueue[Execution | None]) -> None:
        self._server = server
        self.plain = plain
        self._loop: Loop | None = None
        self._scopes: set[anyio.CancelScope] = set()
        self._running = 0
        self._idle: anyio.Event | None = None
        self.ended: anyio.Event | None = None

    def start(self) -> None:
        """Begin, in the running loop."""
        self._loop = Loop()
        self.ended = anyio.Event()
        self._loop.start(self._take, name=f"zmqkit-{self._server.name}")

    async def _take(self) -> None:
        server, plain = self._server, self.plain
        driver, by_name = server._driver, server._methods.by_name
        assert driver is not None
        assert self._loop is not None
        assert self.ended is not None
        mailbox = driver.mailbox
        count = 0
        try:
            while not server._stopped:
                execution: Execution | None = mailbox.take()
                if execution is None:
                    if mailbox.closed:
                        break
                    await driver.wait_items_async(None)
                    continue
                if not by_name[execution.method].asynchronous:
                    plain.put(execution)
                    continue
                self._running += 1
                self._loop.start(self._run, execution, name=f"zmqkit-{execution.method}")
                count += 1
                if not count % LOOK_EVERY:
                    await checkpoint()
        except Exception:
            log.exception("%s: taking calls", server.name)
        finally:
            for _ in range(server._threads):
                plain.put(None)
            self.ended.set()

    async def _run(self, execution: Execution) -> None:
        """One task: it raises nothing but a cancellation from outside."""
        server = self._server
        answer: Answer = calls.Answer(calls.UNKNOWN, code="internal")
        ready: Ready | Answer | None = None
        try:
            ready = server._handling.prepare(execution)
            answer = ready if isinstance(ready, Answer) else await self._execute(ready)
        except Exception as error:
            log.exception("%s: answering %s()", server.name, execution.method)
            answer = calls.Answer(calls.UNKNOWN, code="internal", message=type(error).__name__)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and not self._task_is_cancelled():
                answer = calls.Answer(calls.UNKNOWN, code="cancelled", message="its handler cancelled itself")
                return
            answer = calls.Answer(calls.UNKNOWN, code="stopped", message="the server's event loop ended")
            raise
        finally:
            if isinstance(ready, Ready) and ready.effects is not None:
                ready.effects.roll_back()  # nothing happens if they were settled
            server._finish(execution, answer)
            self._running -= 1
            if not self._running and self._idle is not None:
                self._idle.set()

    @staticmethod
    def _task_is_cancelled() -> bool:
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0

    async def _execute(self, ready: Ready) -> Answer:
        assert self._loop is not None
        execution, answer = ready.execution, None
        current_request.set(ready.request)
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                if ready.until is not None:
                    scope.deadline = anyio.current_time() + max(0.0, ready.until - time.monotonic())
                execution.on_cancel = _Cancel(self._loop, scope)
                if execution.cancelled:
                    scope.cancel()
                answer = await self._call(ready)
            except anyio.get_cancelled_exc_class():
                raise  # the scope takes what it caused
            except BaseException as error:
                answer = self._server._failed(ready, error)
            finally:
                execution.on_cancel = None
                self._scopes.discard(scope)
        handling = self._server._handling
        return handling.settled(ready, handling.given_up(ready) if answer is None else answer)

    async def _call(self, ready: Ready) -> Answer:
        method, handling = ready.method, self._server._handling
        value = method.call(*ready.args, **ready.kwargs)
        if method.streams:
            return await self._stream(ready, value)
        return handling.result(ready, await value)

    async def _stream(self, ready: Ready, values: AsyncIterator[Any]) -> Answer:
        server = self._server
        driver = server._open_driver_or_end()
        emitter = Emitter(server._core, driver, ready.execution)
        try:
            async for value in values:
                body = server._handling.item(ready, value)
                while emitter.wanted and not emitter.may_emit():
                    await driver.wait_async(emitter.ticket())
                if not emitter.wanted:
                    return server._handling.given_up(ready)
                emitter.emit(body)
        finally:
            close = getattr(values, "aclose", None)
            if close is not None:
                with anyio.CancelScope(shield=True), anyio.move_on_after(GRACE):
                    await close()
        return Answer(calls.DONE)

    async def end(self, deadline: float | None) -> int:
        """Wait for what runs, until the deadline on the monotonic clock; then cancel it. Returns how many that were."""
        if self.ended is None:
            return 0
        await self.ended.wait()
        await self._wait_idle(None if deadline is None else max(0.0, deadline - time.monotonic()))
        left = self._running
        for scope in list(self._scopes):
            scope.cancel()
        await self._wait_idle(GRACE)
        return left

    async def _wait_idle(self, seconds: float | None) -> None:
        with anyio.move_on_after(seconds):
            while self._running:
                self._idle = anyio.Event()
                await self._idle.wait()


class PrivateLoop:
    """An asyncio loop in a thread of its own, for the coroutines of a server whose user has none.

    Attributes:
        plain: what is for threads.
    """

    def __init__(self, server: ServerBase) -> None:
        self.plain: queue.SimpleQueue[Execution | None] = queue.SimpleQueue()
        self._server = server
        self._left = 0
        self._end_by: float | None = None
        self._told = False
        self._loop: Loop | None = None
        self._ending: anyio.Event | None = None
        self._thread = threading.Thread(target=self._run, name=f"zmqkit-loop-{server.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception:
            log.exception("%s: the event loop of its coroutines ended, and the server with it", self._server.name)
            self._server._loop_ended()

    async def _main(self) -> None:
        self._loop = Loop()
        self._ending = anyio.Event()
        tasks = Tasks(self._server, self.plain)
        tasks.start()
        if not self._told:
            await self._ending.wait()  # stopped and not closed, what runs goes on
        self._left = await tasks.end(self._end_by)

    def end(self, deadline: float | None) -> int:
        """Wait for what runs, until the deadline on the monotonic clock; then cancel it. Returns how many that were."""
        self._end_by = deadline
        self._told = True
        if self._loop is not None and self._ending is not None:
            self._loop.call_soon(self._ending.set)
        if threading.current_thread() is not self._thread and self._thread.ident is not None:
            self._thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()) + 2 * GRACE + 1.0)
        return self._left
