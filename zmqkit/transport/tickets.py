"""A ticket is one result to come: handed out with a verb, resolved by the I/O thread, waited for by whoever likes.

Knows waiters; no zmq, no core. Locks are not needed: who resolves writes the result and then looks for waiters, who
waits enters itself and then looks for the result, so one of them sees the other.

Ctrl-C may come after any call. So who waits is entered by a plain store and taken out by one call a ``finally``: a
helper function for both would be a place where an interrupt leaves the second undone.
"""

from __future__ import annotations

from typing import Any

from zmqkit.transport.waiters import ThreadWaiter, Waiter, async_waiter


class WaitExpired(TimeoutError):
    """Out of time; the ticket is intact. Faces translate it into an error of their own."""


class _Pending:
    __slots__ = ()

    def __repr__(self) -> str:
        return "<pending>"


PENDING = _Pending()
"""In place of the result, while there is none."""


class Desk:
    """All tickets of one driver: when the driver ends, everybody who still waits is told why.

    Attributes:
        ended: the exception that every pending ticket raises from now on; None while the driver runs.
    """

    __slots__ = ("ended", "waiting")

    def __init__(self) -> None:
        self.ended: BaseException | None = None
        self.waiting: dict[Waiter, None] = {}

    def ticket(self) -> Ticket:
        """A new ticket."""
        return Ticket(self)

    def end(self, error: BaseException, *, wake: bool = True) -> None:
        """No ticket will be resolved any more. The first call counts."""
        if self.ended is None:
            self.ended = error
        if wake:
            for waiter in list(self.waiting):
                waiter.wake()


_NOBODYS = Desk()
"""Of tickets on their own; it never ends."""


class Ticket:
    """One result to come.

    Args:
        desk: that of the driver which is to resolve it; None for a ticket on its own.

    Attributes:
        handed: `Driver.ask` has handed over what it is for; if it raises then, that may still be done.
    """

    __slots__ = ("__weakref__", "_desk", "_result", "_waiters", "handed")

    def __init__(self, desk: Desk | None = None) -> None:
        self._desk = _NOBODYS if desk is None else desk
        self._result: Any = PENDING
        self._waiters: dict[Waiter, None] = {}
        self.handed = False

    def resolve(self, result: object) -> bool:
        """Set the result; an exception instance is raised by who waits. The first call counts; True if this was it.

        From the I/O thread only.
        """
        if self._result is not PENDING:
            return False
        self._result = result
        if self._waiters:
            for waiter in list(self._waiters):
                waiter.wake()
        return True

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for it now."""
        return bool(self._waiters)

    @property
    def done(self) -> bool:
        """Whether `result` answers at once."""
        return self._result is not PENDING or self._desk.ended is not None

    def is_done(self) -> bool:
        """The same, as a call."""
        return self._result is not PENDING or self._desk.ended is not None

    def result(self) -> Any:
        """The result, or raise it if it is an exception. Raises `WaitExpired` while it is pending."""
        result = self._result
        if result is PENDING:
            result = self._desk.ended
            if result is None:
                raise WaitExpired("no result yet")
        if isinstance(result, BaseException):
            try:
                raise result
            finally:
                del result, self  # or the exception's traceback would hold itself
        return result


def wait(ticket: Ticket, timeout: float | None = None) -> Any:
    """Block this thread for the ticket's result, at most ``timeout`` seconds (None: for ever).

    Returns the result, or raises it if it is an exception. Raises `WaitExpired` when out of time. Interrupted by
    Ctrl-C or out of time, the ticket is intact and can be waited for again.
    """
    if not ticket.done:
        waiter = ThreadWaiter()
        waiters, waiting = ticket._waiters, ticket._desk.waiting
        try:
            waiting[waiter] = None
            try:
                waiters[waiter] = None
                if not ticket.done:
                    waiter.wait(timeout)
            finally:
                waiters.pop(waiter, None)
        finally:
            waiting.pop(waiter, None)
    try:
        return ticket.result()
    finally:
        del ticket  # see `result`


async def wait_async(ticket: Ticket, timeout: float | None = None) -> Any:
    """The same for a task of asyncio or trio. Cancelled, the ticket is intact. No checkpoint when it is done."""
    if not ticket.done:
        waiter = async_waiter()
        waiters, waiting = ticket._waiters, ticket._desk.waiting
        try:
            waiting[waiter] = None
            try:
                waiters[waiter] = None
                if not ticket.done:
                    await waiter.wait(timeout)
            finally:
                waiters.pop(waiter, None)
        finally:
            waiting.pop(waiter, None)
    try:
        return ticket.result()
    finally:
        del ticket  # see `result`
