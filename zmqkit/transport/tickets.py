"""A ticket is one result to come: handed out with a verb, resolved by the I/O thread, waited for by whoever likes.

Knows waiters; no zmq, no core. Locks are not needed: who resolves writes the result and then looks for waiters, who
waits enters itself and then looks for the result, so one of them sees the other.
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


_PENDING = _Pending()


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


class Ticket:
    """One result to come.

    Args:
        desk: that of the driver which is to resolve it; None for a ticket on its own.
    """

    __slots__ = ("__weakref__", "_desk", "_result", "_waiters")

    def __init__(self, desk: Desk | None = None) -> None:
        self._desk = desk
        self._result: Any = _PENDING
        self._waiters: dict[Waiter, None] = {}

    def resolve(self, result: object) -> bool:
        """Set the result; an exception instance is raised by who waits. The first call counts; True if this was it.

        From the I/O thread only.
        """
        if self._result is not _PENDING:
            return False
        self._result = result
        if self._waiters:
            for waiter in list(self._waiters):
                waiter.wake()
        return True

    @property
    def done(self) -> bool:
        """Whether `result` answers at once."""
        return self._result is not _PENDING or (self._desk is not None and self._desk.ended is not None)

    def result(self) -> Any:
        """The result, or raise it if it is an exception. Raises `WaitExpired` while it is pending."""
        result = self._result
        if result is _PENDING:
            desk = self._desk
            if desk is None or desk.ended is None:
                raise WaitExpired("no result yet")
            result = desk.ended
        if isinstance(result, BaseException):
            try:
                raise result
            finally:
                del result, self  # or the exception's traceback would hold itself
        return result

    def _enter(self, waiter: Waiter) -> None:
        self._waiters[waiter] = None
        if self._desk is not None:
            self._desk.waiting[waiter] = None

    def _leave(self, waiter: Waiter) -> None:
        self._waiters.pop(waiter, None)
        if self._desk is not None:
            self._desk.waiting.pop(waiter, None)


def wait(ticket: Ticket, timeout: float | None = None) -> Any:
    """Block this thread for the ticket's result, at most ``timeout`` seconds (None: for ever).

    Returns the result, or raises it if it is an exception. Raises `WaitExpired` when out of time. Interrupted by
    Ctrl-C or out of time, the ticket is intact and can be waited for again.
    """
    if not ticket.done:
        waiter = ThreadWaiter()
        try:
            ticket._enter(waiter)
            if not ticket.done:
                waiter.wait(timeout)
        finally:
            ticket._leave(waiter)
    try:
        return ticket.result()
    finally:
        del ticket  # see `result`


async def wait_async(ticket: Ticket, timeout: float | None = None) -> Any:
    """The same for a task of asyncio or trio. Cancelled, the ticket is intact. No checkpoint when it is done."""
    if not ticket.done:
        waiter = async_waiter()
        try:
            ticket._enter(waiter)
            if not ticket.done:
                await waiter.wait(timeout)
        finally:
            ticket._leave(waiter)
    try:
        return ticket.result()
    finally:
        del ticket  # see `result`
