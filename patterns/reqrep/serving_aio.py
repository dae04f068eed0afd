"""The server for asyncio and trio. See `zmqkit.Server`; what does not wait is in `zmqkit.patterns.reqrep.hosting`."""

from __future__ import annotations

import concurrent.futures
import queue
import time

from typing_extensions import Unpack

from zmqkit.inbox import Source
from zmqkit.options import Durability, Window
from zmqkit.patterns.reqrep.calling import answered
from zmqkit.patterns.reqrep.calls import Execution
from zmqkit.patterns.reqrep.crew import Crew
from zmqkit.patterns.reqrep.hosting import Path, ServerBase
from zmqkit.patterns.reqrep.tasks import Tasks
from zmqkit.peer.aio import Peer, in_thread, to_the_end
from zmqkit.peer.base import DRAIN, Common
from zmqkit.peer.hooks import stop_on_signals


class Server(ServerBase, Peer):
    """Serves functions. See `zmqkit.Server`.

    Coroutines run as tasks of the loop that opened it, and are cancelled when their caller cancels or his time is out;
    plain functions run in threads.

    Args:
        threads: how many plain functions run at a time.
        tasks: how many coroutines run at a time.
    """

    def __init__(
        self,
        *addresses: str,
        threads: int = 8,
        tasks: int = 1000,
        processes: int = 0,
        executor: concurrent.futures.Executor | None = None,
        journal: Path | None = None,
        inbox: Source | None = None,
        durability: Durability = "power",
        window: Window | None = None,
        tracebacks: bool | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            addresses, threads, tasks, processes, executor, journal, durability, inbox, window, tracebacks, common
        )
        self._crew: Crew[Execution] | None = None
        self._runs: Tasks | None = None

    async def _start_async(self) -> None:
        await super()._start_async()
        self._begin_work()

    def _begin_work(self) -> None:
        """In the loop that is to run the coroutines."""
        if self._runs is None:
            plain: queue.SimpleQueue[Execution | None] = queue.SimpleQueue()
            self._runs = Tasks(self, plain)
            self._crew = Crew(self.name, self._threads, plain.get, self._run, lambda: None)
            self._crew.start()
            self._runs.start()

    async def run(self) -> None:
        """Serve until `stop`, SIGINT or SIGTERM; then tell clients to go elsewhere, finish what runs (for 8 seconds at
        most), and close. See `zmqkit.Server.run`.
        """
        with stop_on_signals(self):  # first: a signal while it opens counts, too
            await self.open()
            try:
                assert self._runs is not None
                assert self._runs.ended is not None
                await self._runs.ended.wait()
            finally:
                await to_the_end(self.close, DRAIN)
        failure = self._driver.failure if self._driver is not None else None
        if failure is not None:
            raise failure

    async def _close(self, linger: float | None) -> None:
        driver = self._driver
        assert driver is not None
        since = time.monotonic()
        deadline = None if linger is None else since + linger
        self._stopped = True
        driver.mailbox.stop()
        # bounded, and whoever cancels expects everything to be given back
        await to_the_end(self._close_all, deadline, since)

    async def _close_all(self, deadline: float | None, since: float) -> None:
        driver = self._driver
        assert driver is not None
        try:
            if driver.failure is None:
                self._tell_soon(self._core.drain)
                ticket = driver.ticket()
                driver.submit(answered, ticket)
                await driver.wait_async(ticket)
            self._refuse_waiting()
            left = 0
            if self._runs is not None and self._crew is not None:
                left += await self._runs.end(deadline)
                await in_thread(self._crew.join, deadline)
            self._refuse_waiting()
            self._leave_running(left, since)
        finally:
            await self._end_driver()
            self._close_inbox()
        if self._pool is not None:
            await in_thread(self._pool.close)
