"""A call that was submitted: a `concurrent.futures.Future` whose value is decoded where it is asked for."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from zmqkit import checks
from zmqkit.errors import Forked
from zmqkit.patterns.reqrep import calls
from zmqkit.patterns.reqrep.calls import Call
from zmqkit.patterns.reqrep.outcomes import interrupted
from zmqkit.transport.tickets import Ticket, WaitExpired

if TYPE_CHECKING:
    from zmqkit.patterns.reqrep.sync import Client

T = TypeVar("T", default=Any)

_NOTHING = object()


class Reply(concurrent.futures.Future[T], Generic[T]):
    """The answer of a call that was submitted; a future like any other, so ``as_completed`` and ``wait`` take it.

    Callbacks run where the answer came in, which is the client's own machinery: be brief there, and do not wait for
    other calls of the same client.

    Attributes:
        id: of the call, as the handler sees it in `Request.id`.
    """

    def __init__(self, client: Client, call: Call, ticket: Ticket) -> None:
        super().__init__()
        self.id: str = client._request_id(call)
        self._client = client
        self._call = call
        self._ticket = ticket
        self._value: Any = _NOTHING
        self._fault: BaseException | None = None
        """What the upload of an argument raised."""
        self._deciding = threading.Lock()

    # ---- as a waiter of its ticket ---------------------------------------------------

    def _watch(self) -> None:
        """Be told when the ticket is resolved, or the client ends."""
        self._ticket._desk.waiting[self] = None
        self._ticket._waiters[self] = None
        if self._ticket.done:
            self.wake()

    def wake(self) -> bool:
        """The ticket is resolved."""
        if self._ticket.done:
            self._ticket._desk.waiting.pop(self, None)
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                super().set_result(None)  # type: ignore[arg-type]
        return True

    # ---- what a future has -----------------------------------------------------------

    def result(self, timeout: float | None = None) -> T:
        """The value; waits for it.

        Args:
            timeout: seconds to wait; None: until the call ends, which it does by its own time.

        Raises:
            TypeError, ValueError: `timeout` is no number of seconds.
            TimeoutError: it has not ended within `timeout` seconds; it goes on, and may be asked again.
            CallError: the call brought no value; see `Client.call`.
            concurrent.futures.CancelledError: it was cancelled.
        """
        value = self._outcome(timeout)
        if isinstance(value, _Raised):
            try:
                raise value.error
            finally:
                del self, value
        found: T = value
        return found

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` would raise; None if it would not. Waits as `result` does."""
        value = self._outcome(timeout)
        return value.error if isinstance(value, _Raised) else None

    def cancel(self) -> bool:
        """Nobody wants the answer any more: the server is told, and a coroutine there is cancelled.

        Returns whether it was still open.
        """
        if self._ticket.done or not super().cancel():
            return False
        self.set_running_or_notify_cancel()
        self._client._tell_soon(self._client._core.cancel, self._call)
        return True

    def _outcome(self, timeout: float | None) -> Any:
        checks.timeout(timeout)
        if self.cancelled():
            raise concurrent.futures.CancelledError(f"{self._call.method}() was cancelled")
        if self._value is not _NOTHING:
            return self._value
        client = self._client
        try:
            answer = client._wait(self._ticket, timeout)
        except WaitExpired:
            raise TimeoutError(f"{self._call.method}() has not ended within {timeout} s; it goes on") from None
        except Forked:
            raise
        except Exception as error:
            self._value = _Raised(interrupted(error, self._call, client._key))
            return self._value
        with self._deciding:
            if self._value is _NOTHING:
                if self._fault is not None and answer.kind != calls.RESULT:
                    self._value = _Raised(self._fault)
                else:
                    try:
                        self._value = client._value(answer, self._call)
                    except Exception as error:
                        self._value = _Raised(error)
        return self._value

    def __repr__(self) -> str:
        state = "cancelled" if self.cancelled() else "done" if self._ticket.done else "on its way"
        return f"<Reply {self.id} {self._call.method} {state}>"


class _Raised:
    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error
