"""The request that a handler is just answering. Knows the clock; no socket, no event loop."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Mapping
from contextvars import ContextVar

from zmqkit.errors import UsageError
from zmqkit.patterns.reqrep.calls import Execution
from zmqkit.patterns.reqrep.effects import Effects, Transaction
from zmqkit.patterns.reqrep.outcomes import id_of

current_request: ContextVar[Request | None] = ContextVar("zmqkit request", default=None)
"""Set by who runs a handler, for all that the handler calls."""


class Request:
    """What a handler may know of the call that it answers, beside its arguments.

    A handler gets it in a parameter that is annotated as `Request`, and code that it calls from `Request.current()`.
    Calls that are made meanwhile inherit its deadline: a `Client` waits no longer than the caller does.
    """

    __slots__ = ("_effects", "_execution", "_until", "_waits")

    def __init__(
        self, execution: Execution, until: float | None, effects: Effects | None = None, *, waits: bool = True
    ) -> None:
        self._execution = execution
        self._until = until
        self._effects = effects
        self._waits = waits

    @classmethod
    def current(cls) -> Request | None:
        """The request that is being answered here; None outside of handlers."""
        return current_request.get()

    @property
    def id(self) -> str:
        """Of the call: the caller's own ``request_id``, else one that is unique; a retry has the same."""
        execution = self._execution
        return execution.id or id_of(execution.client, execution.number)

    @property
    def method(self) -> str:
        """The name that was called."""
        return self._execution.method

    @property
    def attempt(self) -> int:
        """Which sending of the call this is: 1 is the first."""
        return self._execution.attempt

    @property
    def headers(self) -> Mapping[str, str]:
        """What the caller attached."""
        return self._execution.headers

    @property
    def identity(self) -> str | None:
        """Who the caller is, where that was proved; None otherwise."""
        return None

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more: cancelled, or out of time."""
        return self._execution.cancelled or (self._until is not None and time.monotonic() >= self._until)

    def remaining(self) -> float | None:
        """How many seconds the caller will still wait (the method's own ``timeout`` counted); None: for ever."""
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    def raise_if_cancelled(self) -> None:
        """For long handlers in threads, which nobody can interrupt: stop here if nobody waits any more.

        Raises:
            concurrent.futures.CancelledError: nobody does.
        """
        if self.cancelled:
            raise concurrent.futures.CancelledError(f"nobody waits for {self.method}() any more")

    def transaction(self) -> Transaction:
        """Effect and reply in one commit, in the server's ``inbox=``: ``with request.transaction() as db: ...``.

        What is done with the connection is committed when the handler has returned, together with its reply; whoever
        asks again is given that reply, also after a crash. If the handler raises, nothing of it was done. One handler
        at a time is within its transaction: begin it late, and do nothing slow in it. Coroutines say ``async with``.

        Raises:
            UsageError: the server has no ``inbox=``, or the method gives a stream.
            JournalError: the inbox cannot be written; the subclass and the message say why.
            Duplicate: another server that shares the inbox was first; its reply is given, whatever the handler does.
        """
        if self._effects is None:
            raise UsageError("request.transaction() needs a server with inbox=, as in Server(..., inbox='state.db')")
        return Transaction(self._effects, waits=self._waits)

    def __repr__(self) -> str:
        return f"<Request {self.id} {self.method}>"


def inherited(deadline: float | None) -> float | None:
    """The deadline of a call that is made here: that of the current request if it is sooner."""
    request = current_request.get()
    if request is not None:
        until = request._until
        if until is not None and (deadline is None or until < deadline):
            return until
    return deadline
