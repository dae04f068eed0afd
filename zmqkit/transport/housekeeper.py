"""The housekeeper of a `SharedPump`: pumps while no thread of its users does, and wakes more of them when needed.

So heartbeats are answered while all users are busy elsewhere, and posted commands do not wait for ever. It is a thread
that does as little as possible: while others pump it looks round every few milliseconds, because waking it at each
step would cost more than all it does. After a while without anything to see it sleeps: on the sockets, or, while a
leader does, until that one leaves.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from zmqkit.transport import interrupts
from zmqkit.transport.readiness import Readiness
from zmqkit.transport.waiters import ThreadWaiter
from zmqkit.transport.wakeup import Waker

if TYPE_CHECKING:
    from zmqkit.transport.shared import SharedPump

TICK_SECONDS = 0.002
QUIET_TICKS = 10
"""After so many looks at which nothing had happened it sleeps."""

LOOK_ROUND_TICKS = 25
"""After so many looks at which something had happened it sees which signals have handlers: that takes a while."""

KEEPER = -1
"""Who leads, when it is the housekeeper."""

LOOP_TICK_SECONDS = 0.01
"""How long an event loop may be busy with other things before it is taken for blocked."""

TICKING, POLLING, ASLEEP = range(3)


class Housekeeper:
    """What the driver's own thread does.

    Attributes:
        depth: TICKING: it will look round soon. POLLING: it leads. ASLEEP: it must be woken.
    """

    def __init__(self, driver: SharedPump) -> None:
        self.depth = TICKING
        self._driver = driver
        self._tick = ThreadWaiter()
        self._waker = Waker()
        # A set of its own, with the driver's in it: no notice that it takes is missed by a leader.
        self._readiness = Readiness()
        self._readiness.add(driver.readiness.fd)
        self._readiness.add(self._waker.fd)
        self._until = math.inf
        self._own_turns = 0
        self._own_polls = 0
        self._more = 1
        self._attends = False

    # ---- from any thread -----------------------------------------------------------------

    def wake(self) -> None:
        """Look round now."""
        self._tick.wake()
        if self.depth == POLLING:
            self._waker.wake()

    def notice(self, due: float, unread: bool) -> None:
        """Nobody leads any more; something is due then, and some sockets may have more than they tell."""
        depth = self.depth
        if depth == ASLEEP or (depth == POLLING and (unread or due < self._until)):
            self.wake()

    def look_at(self, due: float, unread: bool) -> None:
        """Nobody leads, or he is about to look for himself; something is due then, or to be read."""
        if self.depth == POLLING and (unread or due < self._until):
            self.wake()

    def attend(self) -> None:
        """Look round every few milliseconds, while turns are taken: more is coming, and none of it will wake us."""
        if self.depth == POLLING:
            self._attends = True
            self._waker.wake()
        elif self.depth == ASLEEP:
            self._tick.wake()

    def become_forked(self) -> None:
        """This is the child of a fork, where the thread is not."""
        self._readiness.close()
        self._waker.close()

    # ---- its thread ----------------------------------------------------------------------

    def run(self) -> None:
        """Until the driver ends."""
        driver = self._driver
        quiet = ticks = 0
        seen_turns = seen_polls = -1
        while not driver.ending:
            loop = driver.loop
            if loop is not None and loop.alive:
                quiet = self._watch_loop(quiet)
            elif quiet < QUIET_TICKS:
                self._tick.wait(TICK_SECONDS)
                turns, polls = driver._turns - self._own_turns, driver.polls
                quiet = 0 if turns != seen_turns else quiet + 1
                if not driver.ending:
                    self._look(polls != seen_polls)
                seen_turns, seen_polls = turns, polls
                if not quiet:
                    ticks += 1
                    if not ticks % LOOK_ROUND_TICKS:
                        interrupts.look_round()
            elif driver.leader > 0:
                self._sleep()
                quiet = 0
            elif not self._lead():
                quiet = 0

    def _watch_loop(self, quiet: int) -> int:
        """An event loop pumps: do its work where it does not come to it. Returns for how many looks all was quiet."""
        driver = self._driver
        if quiet >= QUIET_TICKS and driver.leader <= 0 and not driver.ending and not driver._commands:
            # Nothing goes on. What comes next wakes the loop, and us to see that it does.
            self._until = driver.due + LOOP_TICK_SECONDS
            self.depth = POLLING
            if driver.due + LOOP_TICK_SECONDS >= self._until and not (driver.ending or driver._commands):
                pause = self._until - time.monotonic()
                self._readiness.poll(-1 if pause == math.inf else max(pause, 0.0))
            self.depth = TICKING
            self._waker.clear()
        turns = driver._turns - self._own_turns
        self._tick.wait(0)  # whatever we were woken for, give the loop its time
        self._tick.wait(LOOP_TICK_SECONDS)
        if driver._turns - self._own_turns != turns:
            return 0
        if not driver.ending:
            own = self._own_turns
            self._turn()
            driver.combine()
            if own != self._own_turns:
                return 0
        return quiet + 1

    def _look(self, progress: bool) -> None:
        """Do what nobody else does."""
        driver = self._driver
        mailbox = driver.mailbox
        if mailbox.threads and len(mailbox):
            # Who came for the first ones is still busy with them.
            mailbox.wake(self._more)
            self._more *= 2
        else:
            self._more = 1
        if driver.leader <= 0:
            if driver.idle and not progress:
                with driver.lead_lock:
                    if driver.leader <= 0:
                        driver.promote(items=True)
            if driver.leader <= 0:
                self._turn()
        driver.combine()

    def _turn(self) -> None:
        driver = self._driver
        if driver.turn_lock.acquire(False):
            try:
                if driver.ending:
                    return
                events = driver.readiness.poll(0)
                if events or driver._commands or driver._wires.unread or driver.due <= time.monotonic():
                    self._own_turns += 1
                    driver.turn(events)
            finally:
                driver.turn_lock.release()

    def _sleep(self) -> None:
        """Until the leader leaves without a follower, or something is posted."""
        driver = self._driver
        self.depth = ASLEEP
        mailbox = driver.mailbox
        left = mailbox.threads and len(mailbox)  # by who took a turn just before, and relied on us to see it
        if driver.leader > 0 and not (driver.ending or driver._commands or left):
            self._tick.wait(None)
        self.depth = TICKING

    def _lead(self) -> bool:
        """Sleep on the sockets, and take what comes. False if somebody else leads now."""
        driver = self._driver
        with driver.lead_lock:
            if driver.leader > 0:
                return False
            driver.leader = KEEPER
        self._until = driver.due
        self.depth = POLLING
        # In this order: who changes one of these looks afterwards whether we are polling.
        if not (driver.ending or driver._commands or driver._wires.unread or driver.due < self._until):
            pause = self._until - time.monotonic()
            events = self._readiness.poll(-1 if pause == math.inf else max(pause, 0.0))
            if any(fd == self._waker.fd for fd, _ in events):
                self._waker.clear()
        self.depth = TICKING
        if driver.leader != KEEPER or self._attends:
            self._attends = False
            return False
        self._turn()
        driver.combine()
        return True
