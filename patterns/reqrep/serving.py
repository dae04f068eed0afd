"""The server for threads. What does not wait is in `zmqkit.patterns.reqrep.hosting`."""

from __future__ import annotations

import concurrent.futures
import logging
import time

from typing_extensions import Unpack

from zmqkit.inbox import Source
from zmqkit.options import Durability, Window
from zmqkit.patterns.reqrep.calling import answered
from zmqkit.patterns.reqrep.calls import Execution
from zmqkit.patterns.reqrep.crew import Crew
from zmqkit.patterns.reqrep.hosting import Path, ServerBase
from zmqkit.patterns.reqrep.tasks import PrivateLoop
from zmqkit.peer.base import DRAIN, Common
from zmqkit.peer.hooks import stop_on_signals
from zmqkit.peer.sync import Peer
from zmqkit.transport.driver import Driver
from zmqkit.transport.waiters import ThreadWaiter

log = logging.getLogger("zmqkit.reqrep")

TASKS = 1000
"""Coroutines that run at a time, on the one private loop."""


class Server(ServerBase, Peer):
    """Serves functions: what `method` and `include` name is called by clients. Any number may serve the same.

    Args:
        *addresses: to bind.
        threads: how many handlers run at a time. Coroutines run on an event loop of their own, besides.
        processes: run plain functions in so many processes instead, found there by module and name; 0: in threads.
            Generators, coroutines and functions that take the `Request` stay here.
        executor: run plain functions there instead; not shut down at the end.
        journal: a file that keeps what was begun and answered, so that nothing is executed twice across a restart; made
            if it is not there. None: that is so only as long as the server is open.
        inbox: the SQLite file of your own in which handlers do their work, or a callable that gives a connection to it:
            see `Request.transaction`.
        durability: how safe it is there before a handler begins: "power", "process" or "memory".
        window: how long, and how many, answers are kept for callers that ask again.
        tracebacks: whether a `RemoteError` brings the traceback; None: to callers on this host only.
        **common: see `Common`.

    ::

        server = zmqkit.Server("tcp://127.0.0.1:5555")

        @server.method
        def add(a, b):
            return a + b

        server.run()
    """

    def __init__(
        self,
        *addresses: str,
        threads: int = 8,
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
            addresses, threads, TASKS, processes, executor, journal, durability, inbox, window, tracebacks, common
        )
        self._halted = ThreadWaiter()
        self._crew: Crew[Execution] | None = None
        self._loop: PrivateLoop | None = None

    def _set_up(self, driver: Driver) -> None:
        super()._set_up(driver)
        self._begin_work()

    def _begin_work(self) -> None:
        take = self._take
        if self._has_coroutines:
            # A busy thread must not keep coroutines waiting: the loop takes all, and hands on what is for threads.
            self._loop = PrivateLoop(self)
            take = self._loop.plain.get
        self._crew = Crew(self.name, self._threads, take, self._run, self._look_for_failure)
        self._crew.start()
        if self._loop is not None:
            self._loop.start()

    def _take(self) -> Execution | None:
        """The next execution; waits for it. None: stopped, or closed."""
        driver = self._driver
        assert driver is not None
        mailbox = driver.mailbox
        while not self._stopped:
            execution: Execution | None = mailbox.take()
            if execution is not None:
                return execution
            if mailbox.closed:
                break
            driver.wait_items(None)
        return None

    def _look_for_failure(self) -> None:
        if self._handling.inbox is not None:
            self._handling.inbox.leave()
        driver = self._driver
        if driver is not None and driver.failure is not None:
            self._halted.wake()

    # ---- running -------------------------------------------------------------------

    def run(self) -> None:
        """Serve until `stop`, SIGINT or SIGTERM; then tell clients to go elsewhere, finish what runs (for 8 seconds at
        most), and close.

        Raises what `open` raises, and what ended the server if it did not end by itself.
        """
        with stop_on_signals(self):  # first: a signal while it opens counts, too
            self.open()
            try:
                if not self._stopped:
                    self._halted.wait(None)
            finally:
                self.close(DRAIN)
        failure = self._driver.failure if self._driver is not None else None
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """Take no more calls, and make `run` return. From any thread or signal handler; does not wait."""
        super().stop()
        self._halted.wake()

    def _close(self, linger: float | None) -> None:
        driver = self._driver
        assert driver is not None
        since = time.monotonic()
        deadline = None if linger is None else since + linger
        self._stopped = True
        driver.mailbox.stop()
        try:
            self._drain(driver)
            left = 0
            if self._loop is not None:
                left += self._loop.end(deadline)
            if self._crew is not None:
                self._crew.join(deadline)
            self._refuse_waiting()
            self._leave_running(left, since)
        finally:
            driver.close(1.0)
            self._close_inbox()
            if self._pool is not None:
                self._pool.close()

    def _drain(self, driver: Driver) -> None:
        """Tell clients to go elsewhere, and give back what is not begun."""
        if driver.failure is None:
            self._tell_soon(self._core.drain)
            ticket = driver.ticket()
            driver.submit(answered, ticket)
            driver.wait(ticket)
        self._refuse_waiting()
