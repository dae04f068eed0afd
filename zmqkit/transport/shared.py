"""The second driver: whoever waits pumps. So a lone call costs no hand-over between threads.

Knows the contract of a core and no pattern. The core and its sockets are guarded by one lock; who holds it gives the
core a *turn*: takes what came, runs the commands, fires what is due, carries out what comes of it.

- Who submits takes a turn at once if the lock is free; if not, whoever holds it runs the command too.
- Of those who wait, one is the *leader*. It sleeps on the sockets, without the lock, and takes the turns, until it has
  what it waits for; then another one leads. The others, the followers, sleep until they have theirs, or are to lead.
- A *housekeeper* (`zmqkit.transport.housekeeper`) pumps while nobody waits.

The leader of those who wait for items takes what came and works on it in its own thread, while the others sleep on:
a burst of short pieces of work is done without any hand-over. Only the housekeeper wakes more of them, if it sees that
one is not enough.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from _thread import get_ident
from collections.abc import Callable, Iterable
from typing import Any

from zmqkit.errors import Closed
from zmqkit.transport import base, interrupts, tickets
from zmqkit.transport.base import BaseDriver, Command
from zmqkit.transport.housekeeper import TICKING, Housekeeper
from zmqkit.transport.interrupts import CLOSED, guard
from zmqkit.transport.loops import AsyncioPump, LoopPump, join
from zmqkit.transport.mailbox import Mailbox, SharedMailbox
from zmqkit.transport.sleeping import SocketSet
from zmqkit.transport.spinning import Spinner, spin_seconds
from zmqkit.transport.tickets import PENDING, Ticket
from zmqkit.transport.waiters import LOOK_SECONDS, AsyncioWaiter, Leader, ThreadWaiter

log = logging.getLogger("zmqkit.transport")

ROUNDS_A_TURN = 20
"""So often a turn looks again whether its sends have hidden that something came; then others have the lock."""

FLUSH_AFTER_SECONDS = 0.0005
"""What is posted waits so long, at most, for more to go with it."""

NOBODY = 0


class SharedPump(BaseDriver):
    """A driver whose users' threads do the work.

    Attributes:
        leader: the thread that leads: its identity, `NOBODY`, or `KEEPER`.
        polling: the leader sleeps, or is about to.
        due: when the core, or the driver itself, wants its next turn at the latest.
        turn_lock: held by who touches core and sockets.
    """

    mailbox: SharedMailbox

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.leader = NOBODY
        self.polling = False
        self.due = math.inf
        self.polls = 0
        self.ending = False
        self.finished = False
        self.turn_lock = threading.Lock()
        self.wake_leader = self._waker.wake
        self.lead_lock = threading.RLock()
        """Held to change who leads and who follows. Reentrant, because a signal handler may wait, too."""
        self.followers: dict[int, ThreadWaiter] = {}
        """Threads that wait for tickets."""
        self.idle: dict[int, ThreadWaiter] = {}
        """Threads that wait for items."""
        self.readiness = SocketSet(self._waker)
        self._spinner = Spinner(self.readiness.poll, spin_seconds())
        self._wires.unread = []
        self.loop: LoopPump | None = None
        """The first event loop in which somebody waited; others' tasks are woken by it."""
        self._leader_waiter = Leader(self)
        self._poll_until = math.inf
        self._turning = 0
        self._last_turn = 0.0
        self.keeper = Housekeeper(self)

    # ---- from any thread -------------------------------------------------------------

    def start(self) -> None:
        """Bind, connect, and start the housekeeper. See `Driver.start`."""
        interrupts.look_round()
        super().start()

    def submit(self, fn: Callable[..., object], *args: Any) -> None:
        """Run ``fn(*args, now)`` at once, here or in the thread that is just giving the core a turn."""
        loop = self.loop
        if loop is not None and loop.thread == get_ident():
            self._append((fn, args))
            self._soon(loop)
            return
        found = interrupts.enter()
        try:
            self._append((fn, args))
            self.combine()
        finally:
            interrupts.leave(found)

    def post(self, fn: Callable[..., object], *args: Any) -> None:
        """Run ``fn(*args, now)`` soon: with what comes next, so that they may share a frame. See `Driver.post`."""
        loop = self.loop
        if loop is not None and loop.thread == get_ident():
            self._append((fn, args))
            self._soon(loop)
            return
        found = interrupts.enter() if get_ident() == guard.main else 0
        try:
            self._append((fn, args))
            if self.keeper.depth or time.monotonic() - self._last_turn > FLUSH_AFTER_SECONDS:
                self.combine()
        finally:
            if found:
                interrupts.leave(found)

    def defer(self, fn: Callable[..., object], *args: Any) -> None:
        """Run ``fn(*args, now)`` with what others do, or when the housekeeper looks round. See `Driver.defer`."""
        self._append((fn, args))
        loop = self.loop
        if loop is not None and loop.thread == get_ident():
            self._soon(loop)
        elif self.keeper.depth:
            self.keeper.attend()

    def post_taking(self, fn: Callable[..., object], *args: Any) -> None:
        """`post` by a thread that takes an item next. See `Driver.post_taking`."""
        if self.loop is not None or get_ident() == guard.main:
            self.post(fn, *args)
            return
        self._append((fn, args))
        if self.keeper.depth or time.monotonic() - self._last_turn > FLUSH_AFTER_SECONDS:
            self.combine(takes=self.keeper.depth == TICKING)
            mailbox = self.mailbox
            if self.keeper.depth != TICKING and mailbox.threads and len(mailbox) > 1:
                mailbox.wake(1)  # the housekeeper, who sees when one thread is not enough, fell asleep meanwhile

    def wait(self, ticket: Ticket, timeout: float | None = None) -> Any:
        """Pump, or follow who does, until the ticket has its result. See `Driver.wait`."""
        try:
            if not ticket.done:
                self._attend(ticket, timeout)
            return ticket.result()
        finally:
            del ticket  # see `Ticket.result`

    def ask(self, ticket: Ticket, timeout: float | None, fn: Callable[..., object], *args: Any) -> Any:
        """Submit, and wait for the result. See `Driver.ask`."""
        try:
            self._attend(ticket, timeout, (fn, args))
            result = ticket._result
            return ticket.result() if result is PENDING or isinstance(result, BaseException) else result
        finally:
            del ticket

    def wait_items(self, timeout: float | None = None) -> bool:
        """Pump, or follow who does, until there is something to take. See `Driver.wait_items`."""
        mailbox = self.mailbox
        if not mailbox.busy():
            try:
                self._attend(None, timeout)
            except BaseException:
                mailbox.nudge()  # we may have been woken, and will not look
                raise
        return bool(mailbox._items or mailbox._returned)

    async def wait_async(self, ticket: Ticket, timeout: float | None = None) -> Any:
        """The same for a task of asyncio or trio: its loop pumps."""
        try:
            if not ticket.done:
                self._join_loop()
            return await tickets.wait_async(ticket, timeout)
        finally:
            del ticket

    async def ask_async(self, ticket: Ticket, fn: Callable[..., object], *args: Any) -> Any:
        """Submit, and wait for the result. See `Driver.ask_async`."""
        loop = self.loop
        try:
            # Not `get_running_loop`, which makes a system call.
            if not isinstance(loop, AsyncioPump) or loop.thread != get_ident() or not loop.asyncio.is_running():
                self.submit(fn, *args)
                ticket.handed = True
                return await self.wait_async(ticket)
            # `submit`, `wait_async` and `AsyncioWaiter.wait` in one, where this loop pumps: many calls come here.
            self._append((fn, args))
            ticket.handed = True
            if not loop.scheduled:
                self._soon(loop)
            waiter = AsyncioWaiter(loop.asyncio, loop.port)
            waiting = self._desk.waiting
            try:
                waiting[waiter] = None
                ticket._waiters[waiter] = None
                if ticket._result is PENDING and self._desk.ended is None:
                    await waiter.future
            finally:
                ticket._waiters.pop(waiter, None)
                waiting.pop(waiter, None)
            result = ticket._result
            return ticket.result() if result is PENDING or isinstance(result, BaseException) else result
        finally:
            del ticket

    async def wait_items_async(self, timeout: float | None = None) -> bool:
        """The same for a task of asyncio or trio: its loop pumps."""
        if not self.mailbox.busy():
            self._join_loop()
        return await self.mailbox.wait_nonempty_async(timeout)

    def become_forked(self) -> None:
        """This is the child of a fork. See `Driver.become_forked`."""
        self.ending = True
        super().become_forked()
        self.readiness.close()
        self.keeper.become_forked()
        self.turn_lock = threading.Lock()
        self.lead_lock = threading.RLock()
        self.polling = False

    def _make_mailbox(self) -> Mailbox[Any]:
        return SharedMailbox()

    def _pumps_here(self) -> bool:
        return self._turning == get_ident() or threading.current_thread() is self._thread

    # ---- event loops -------------------------------------------------------------------

    def _join_loop(self) -> None:
        loop = self.loop
        if loop is not None and loop.alive:
            return
        with self.lead_lock:
            if self.ending or (self.loop is not None and self.loop.alive):
                return
            self.loop = join(self)
        self.loop.arm(self.due)
        self.keeper.wake()

    def _soon(self, loop: LoopPump) -> None:
        """Run what is submitted in the loop's next round, all of it together."""
        if loop.alive:
            loop.soon()
            if self.keeper.depth:
                self.keeper.wake()  # it has an eye on us from here on
        else:
            self.combine()

    # ---- waiting -----------------------------------------------------------------------

    def _attend(self, ticket: Ticket | None, timeout: float | None, command: Command | None = None) -> None:
        """Wait for a ticket, or for items (None), at most so long: as leader if there is none, else as a follower.

        Before that, submit a command: whoever leads runs it.
        """
        me = get_ident()
        if self._turning == me:
            self.check_wait()
        until = math.inf if timeout is None else time.monotonic() + max(timeout, 0.0)
        found = interrupts.enter() if me == guard.main else 0  # in other threads no handler runs
        try:
            if command is not None:
                self._append(command)
                if ticket is not None:
                    ticket.handed = True
            was_polling = self.polling and self.leader == me  # a signal handler of the leader's waits, too
            try:
                if self._take_lead(me, ticket):
                    self._lead(ticket, until, found)
                else:
                    self._follow(me, ticket, until, found)
            finally:
                if found:
                    guard.state = CLOSED  # a plain store: no handler comes between
                if was_polling:
                    self.polling = True
                else:
                    self._step_down(me, ticket)
        finally:
            if found:
                interrupts.leave(found)

    def _take_lead(self, me: int, ticket: Ticket | None) -> bool:
        """True if this thread leads now; else it is entered as a follower."""
        with self.lead_lock:
            if self.leader == me or self.leader <= NOBODY:
                self.leader = me
                return True
            (self.idle if ticket is None else self.followers)[me] = ThreadWaiter()
            return False

    def _step_down(self, me: int, ticket: Ticket | None) -> None:
        """This thread waits no more: if it led, another one must."""
        with self.lead_lock:
            self.followers.pop(me, None)
            self.idle.pop(me, None)
            if self.leader != me:
                return
            self.polling = False
            if self.followers or self.idle:
                # Those who wait for items are let sleep by one of theirs: it will be back.
                self.promote(items=ticket is not None)
            else:
                self.leader = NOBODY
        if self._commands:
            self.combine()  # of somebody who found the lock taken by us
        if self.leader == NOBODY and self.keeper.depth != TICKING:
            self.keeper.notice(self.due, bool(self._wires.unread))

    def promote(self, *, items: bool) -> None:
        """Let one of the followers lead, of those who wait for items only if told so. Hold `lead_lock`."""
        for followers in (self.followers, self.idle) if items else (self.followers,):
            for one, waiter in followers.items():
                self.leader = one
                del followers[one]
                waiter.wake()
                return
        self.leader = NOBODY

    def _follow(self, me: int, ticket: Ticket | None, until: float, found: int) -> None:
        waiter = (self.idle if ticket is None else self.followers).get(me)
        if waiter is None:  # it was promoted already
            self._lead(ticket, until, found)
            return
        self.combine()
        mailbox = self.mailbox
        waiting = self._desk.waiting
        done = mailbox.busy if ticket is None else ticket.is_done
        try:
            waiting[waiter] = None
            if ticket is None:
                mailbox.threads += 1
                mailbox._waiters.append(waiter)
            else:
                ticket._waiters[waiter] = None
            while not done() and self.leader != me:
                left = until - time.monotonic()
                if left <= 0:
                    return
                if found:
                    interrupts.open_up()
                waiter.wait(None if left == math.inf else left)
                if found:
                    guard.state = CLOSED
                if ticket is None and self.leader != me:
                    return  # woken for items: another may have taken them, and who asked looks again
        finally:
            if found:
                guard.state = CLOSED
            waiting.pop(waiter, None)
            if ticket is None:
                mailbox.threads -= 1
                mailbox._leave(waiter)
            else:
                ticket._waiters.pop(waiter, None)
        if not done():
            self._lead(ticket, until, found)

    def _lead(self, ticket: Ticket | None, until: float, found: int) -> None:
        """Sleep on the sockets and take turns, until there is what we wait for, or the time is over."""
        mailbox, commands, wires = self.mailbox, self._commands, self._wires
        desk = self._desk
        poll, clock = self._spinner.poll, time.monotonic
        waiter = self._leader_waiter
        items = ticket is None
        if ticket is not None:
            ticket._waiters[waiter] = None
        try:
            # `busy`, or `is_done`, written out: a lone call asks it often.
            while not (
                (mailbox._items or mailbox._returned or mailbox.closed or mailbox.stopped)
                if ticket is None
                else (ticket._result is not PENDING or desk.ended)
            ):
                if commands:
                    self._lead_turn((), items)
                    continue
                if wires.unread:
                    self._lead_reread(items)
                    continue
                now = clock()
                if now >= until:
                    return
                self._poll_until = wake_at = min(self.due, until)
                if items:
                    mailbox._waiters.appendleft(waiter)
                self.polling = True
                # In this order: who changes one of these looks afterwards whether we are polling.
                if (
                    (mailbox.busy() if ticket is None else ticket._result is not PENDING or desk.ended)
                    or commands
                    or wires.unread
                    or self.due < wake_at
                ):
                    self.polling = False
                    events: Any = ()
                else:
                    self.polls += 1
                    pause = wake_at - now
                    if found:
                        interrupts.open_up()
                        pause = min(pause, LOOK_SECONDS)
                    events = poll(-1 if pause == math.inf else pause if pause > 0 else 0, now, wires.received_bytes)
                    if found:
                        guard.state = CLOSED
                        if guard.called:
                            interrupts.put_off()  # a handler may have installed another one
                    self.polling = False
                if items:
                    mailbox._leave(waiter)
                if events or self.due <= clock():
                    self._lead_turn(events, items, settle=False)
        except (OSError, ValueError):
            if not self.ending:  # else the descriptors are closed: this is the child of a fork
                raise
        finally:
            if found:
                guard.state = CLOSED
            self.polling = False
            if ticket is not None:
                ticket._waiters.pop(waiter, None)
            else:
                mailbox._leave(waiter)

    def _lead_reread(self, items: bool) -> None:
        """Look for what has come meanwhile."""
        with self.turn_lock:
            found = not self.ending and self._wires.reread(time.monotonic())
        if found:
            self._lead_turn((), items)

    def _lead_turn(self, events: Iterable[tuple[int, int]], items: bool, settle: bool = True) -> None:
        with self.turn_lock:
            self.mailbox.leader_takes = items
            try:
                self.turn(events, settle)
            finally:
                self.mailbox.leader_takes = False

    # ---- turns --------------------------------------------------------------------------

    def combine(self, *, takes: bool = False) -> None:
        """Run what is submitted, unless somebody else is about to. It ``takes``: who does this takes an item next."""
        lock = self.turn_lock
        # Looked at again after the release: who appended meanwhile found the lock taken, and went away.
        while self._commands and not self.ending and lock.acquire(False):
            self.mailbox.leader_takes = takes
            try:
                # If others sleep on the sockets already, nobody else looks.
                self.turn((), self.polling or self.keeper.depth != TICKING or self.loop is not None)
            finally:
                self.mailbox.leader_takes = False
                lock.release()

    def turn(self, events: Iterable[tuple[int, int]], settle: bool = True) -> None:
        """Give the core a turn, with what the poll found. Hold `turn_lock`.

        Unless told to ``settle``, it does not look whether more has come meanwhile: who goes to sleep next looks.
        """
        if self.ending:
            return
        self._turning = get_ident()
        try:
            clock = time.monotonic
            core, wires, pump, alarms, commands = self.core, self._wires, self._pump, self._alarms, self._commands
            self._turns += 1
            self._last_turn = now = clock()
            if events:
                for fd, _ in events:
                    if fd == self._waker.fd:
                        self._wakeups += 1
                        self._waker.clear()
                wires.handle(self.readiness.ready(events), now)
            fired = self.due <= now
            rounds = 0
            while True:
                rounds += 1
                for _ in range(len(commands)) if commands else ():
                    fn, args = commands.popleft()
                    try:
                        fn(*args, now)
                    except Exception as error:
                        self._command_raised(fn, args, error)
                if fired:
                    alarms.run(now)
                    due = core.next_deadline()
                    if due is not None and due <= now:
                        pump.handle_timer(now)
                pump.run(now)
                if wires.changes != self.readiness.seen:
                    wires.handle(self.readiness.watch(wires), now)
                elif not (settle and wires.unread and rounds < ROUNDS_A_TURN and wires.reread(now)):
                    break  # and only here, as everything that came in must be carried out
                now = clock()
            wake_at = core.next_deadline()
            if wake_at is None:
                wake_at = math.inf
            elif fired and wake_at < now:
                self._core_errors += 1
                log.error("the core left its deadline %.3f s in the past", now - wake_at)
                wake_at = clock() + base.STUCK_SECONDS
            if alarms.heap and alarms.heap[0][0] < wake_at:
                wake_at = alarms.heap[0][0]
            if self._closing:
                if core.finished or clock() >= self._close_by:
                    self._begin_end(finished=core.finished)
                    return
                wake_at = min(wake_at, self._close_by)
            self.due = wake_at
            if self.polling:
                if wake_at < self._poll_until or wires.unread:
                    self.wake_leader()
            elif self.keeper.depth:
                self.keeper.look_at(wake_at, bool(wires.unread))
            loop = self.loop
            if loop is not None:
                if wake_at < loop.until:
                    loop.arm(wake_at)
                if wires.unread:
                    self.wake_leader()
        except BaseException as error:
            self.failure = error
            log.critical("%s: the driver ends: %s", self.name, error, exc_info=True)
            self._begin_end(finished=False)
            if not isinstance(error, Exception):
                raise
        finally:
            self._turning = 0

    # ---- the end ------------------------------------------------------------------------

    def _begin_end(self, *, finished: bool) -> None:
        """No more turns; whoever waits is told. The housekeeper does the rest."""
        self.finished = finished
        self.ending = True
        self._end(self.failure or Closed(f"{self.name} is closed"))
        self.keeper.wake()

    def _end(self, error: BaseException, *, wake: bool = True) -> None:
        super()._end(error, wake=wake)
        if wake:
            if self.polling:
                self.wake_leader()
            if self.loop is not None:
                self.loop.end()

    def _run(self) -> None:
        """The housekeeper's thread."""
        try:
            with self.turn_lock:
                self.turn(())  # from now on the sockets that `start` opened are watched
            self.keeper.run()
        except BaseException as error:
            self.failure = self.failure or error
            log.critical("%s: the driver ends: %s", self.name, error, exc_info=True)
        finally:
            self.ending = True
            with self.turn_lock:
                with contextlib.suppress(Exception):
                    self.readiness.remove(list(self.readiness.sockets))
                self._tear_down(self.finished)
