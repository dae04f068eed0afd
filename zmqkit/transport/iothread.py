"""The first driver: one background thread a peer, which owns its sockets and its journal and pumps its core.

Knows the contract of a core and no pattern. Users' threads and tasks never touch a socket: they `post` calls of the
core's verbs, wait on tickets, and take from the mailbox. So heartbeats go on while a user's loop is blocked, an async
peer never syncs a disk on its loop, and a cancelled wait loses nothing.

The thread sleeps in two depths. After activity it *dozes*: it looks round every millisecond, so that a busy producer
need not wake it, which costs a system call. After `DOZE_SECONDS` of silence it *sleeps*, and every `post` wakes it.
The order closes the race: the sleeper raises its flag, then looks at the queue; a producer appends, then looks at the
flag.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

from zmqkit.transport import base, tickets
from zmqkit.transport.base import BaseDriver
from zmqkit.transport.gathering import Gathering
from zmqkit.transport.sleeping import Polling, Sleeper, Watching
from zmqkit.transport.tickets import Ticket

log = logging.getLogger("zmqkit.transport")

DOZE_SECONDS = 0.005
DOZE_POLL_SECONDS = 0.001
SLEEP_SECONDS = 30.0
"""The longest sleep, where nothing is due."""

AWAKE, DOZING, SLEEPING = 0, 1, 2


class IoThread(BaseDriver):
    """A driver with a thread of its own."""

    _depth = AWAKE
    _sleeper: ClassVar[type[Polling | Watching]] = Polling

    # ---- from any thread -------------------------------------------------------------

    def post(self, fn: Callable[..., object], *args: Any) -> None:
        """Run ``fn(*args, now)`` in the I/O thread, soon. See `Driver.post`."""
        try:
            self._append((fn, args))
        finally:  # also when Ctrl-C comes right after the append
            if self._depth == SLEEPING:
                self._wake()

    defer = post

    def submit(self, fn: Callable[..., object], *args: Any) -> None:
        """The same, at once: for calls that somebody waits for."""
        try:
            self._append((fn, args))
        finally:
            if self._depth:
                self._wake()

    def wait(self, ticket: Ticket, timeout: float | None = None) -> Any:
        """Block this thread for the ticket's result. See `tickets.wait`."""
        try:
            if not ticket.done:
                self.check_wait()
            return tickets.wait(ticket, timeout)
        finally:
            del ticket  # see `Ticket.result`

    def post_taking(self, fn: Callable[..., object], *args: Any) -> None:
        """See `Driver.post_taking`: here it makes no difference."""
        self.post(fn, *args)

    def ask(self, ticket: Ticket, timeout: float | None, fn: Callable[..., object], *args: Any) -> Any:
        """Submit, and wait for the result. See `Driver.ask`."""
        try:
            self.submit(fn, *args)
            ticket.handed = True
            return self.wait(ticket, timeout)
        finally:
            del ticket

    def wait_items(self, timeout: float | None = None) -> bool:
        """Block this thread until there is something to take. See `Mailbox.wait_nonempty`."""
        if not self.mailbox.busy():
            self.check_wait()
        return self.mailbox.wait_nonempty(timeout)

    async def ask_async(self, ticket: Ticket, fn: Callable[..., object], *args: Any) -> Any:
        """Submit, and wait for the result. See `Driver.ask_async`."""
        try:
            self.submit(fn, *args)
            ticket.handed = True
            return await self.wait_async(ticket)
        finally:
            del ticket

    async def wait_async(self, ticket: Ticket, timeout: float | None = None) -> Any:
        """The same for a task of asyncio or trio."""
        try:
            if not ticket.done:
                self.check_wait()
            return await tickets.wait_async(ticket, timeout)
        finally:
            del ticket

    async def wait_items_async(self, timeout: float | None = None) -> bool:
        """The same for a task of asyncio or trio."""
        if not self.mailbox.busy():
            self.check_wait()
        return await self.mailbox.wait_nonempty_async(timeout)

    def become_forked(self) -> None:
        """This is the child of a fork. See `Driver.become_forked`."""
        super().become_forked()
        self._depth = AWAKE

    def _pumps_here(self) -> bool:
        return threading.current_thread() is self._thread

    # ---- in the I/O thread -------------------------------------------------------------

    def _run(self) -> None:
        finished = False
        sleeper = self._sleeper(self._waker, self._wires)
        try:
            self._loop(sleeper)
            finished = self.core.finished
        except BaseException as error:
            self.failure = error
            log.critical("%s: the driver ends: %s", self.name, error, exc_info=True)
        finally:
            sleeper.close()
            self._tear_down(finished)

    def _loop(self, sleeper: Sleeper) -> None:
        clock = time.monotonic
        core, wires, pump, alarms, commands = self.core, self._wires, self._pump, self._alarms, self._commands
        gathering = Gathering(commands, clock, time.sleep)
        ready: list[Any] = []
        active = clock()
        while True:
            self._turns += 1
            now = clock()
            busy = False
            if ready:
                busy = wires.handle(ready, now)
                active = now
            # So many as there are now: a producer that never pauses must not keep the sockets waiting.
            for _ in range(len(commands)):
                fn, args = commands.popleft()
                try:
                    fn(*args, now)
                except Exception as error:
                    self._command_raised(fn, args, error)
                active = now
            alarms.run(now)
            due = core.next_deadline()
            fired = due is not None and due <= now
            if fired:
                pump.handle_timer(now)
            pump.run(now)
            if sleeper.settle(now):
                busy = True
            if self._closing and (core.finished or clock() >= self._close_by):
                return
            if pump.told:
                waited, pump.told = pump.told, 0
                gathering.gather(waited)

            # How long, and how deeply, to sleep.
            told, now = now, clock()
            due = core.next_deadline()
            # What came due since it was told the time, while the journal was written say, is no fault of the core's.
            if fired and due is not None and due < told:
                self._core_errors += 1
                log.error("the core left its deadline %.3f s in the past", now - due)
                due = now + base.STUCK_SECONDS
            wake_at = min(
                now + SLEEP_SECONDS if due is None else due,
                alarms.next() or math.inf,
                self._close_by,
                now + SLEEP_SECONDS,
            )
            pause = 0.0 if busy else max(wake_at - now, 0.0)
            if pause:
                if now - active < DOZE_SECONDS:
                    pause = min(pause, DOZE_POLL_SECONDS)
                    self._depth = DOZING
                else:
                    self._depth = SLEEPING
                if commands:
                    pause = 0.0
            ready = sleeper.sleep(pause)
            self._wakeups = sleeper.wakeups
            self._depth = AWAKE


class WideIoThread(IoThread):
    """The same for a core with hundreds of connections of its own: those that are quiet cost nothing."""

    _sleeper = Watching
