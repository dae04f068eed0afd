"""The client for threads. What does not wait is in `zmqkit.patterns.reqrep.calling`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar, overload

from typing_extensions import Unpack

from zmqkit.errors import UsageError
from zmqkit.patterns.reqrep.arrivals import WINDOW, Arrivals
from zmqkit.patterns.reqrep.calling import LOOK_AGAIN, TIMEOUT, ClientBase, Path, answered
from zmqkit.patterns.reqrep.calls import Answer, Call
from zmqkit.patterns.reqrep.methods import METHODS
from zmqkit.patterns.reqrep.proxy import Proxy, TypedProxy
from zmqkit.patterns.reqrep.reply import Reply
from zmqkit.patterns.reqrep.stream import Stream, feed, feed_beside
from zmqkit.peer.base import Common, left_of
from zmqkit.peer.sync import Peer
from zmqkit.transport.tickets import Ticket, WaitExpired

P = TypeVar("P")

log = logging.getLogger("zmqkit.reqrep")


class Client(ClientBase, Peer):
    """Calls methods of servers. With several servers each call goes to the one that has the least to do.

    Args:
        *addresses: to connect to.
        timeout: seconds that a call may take, or a whole stream; None: no limit. `options` sets it for single calls.
        retries: how often a call may be sent again where that is safe; 0: never; None: as often as time allows.
        journal: a file that keeps durable calls (see `options`) until their outcome is known; made if it is not there.
        **common: see `Common`.

    ::

        with zmqkit.Client("tcp://127.0.0.1:5555", timeout=2.0) as calc:
            calc.call("add", 2, b=3)
            calc.submit("add", 2, 3).result()
            for row in calc.stream("rows", 10): ...
            calc.options(timeout=30, retries=0).call("slow")
    """

    __slots__ = ()

    def __init__(
        self,
        *addresses: str,
        timeout: float | None = TIMEOUT,
        retries: int | None = None,
        journal: Path | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(addresses, timeout, retries, journal, common)

    # ---- calling -------------------------------------------------------------------

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method, and wait for what it returns.

        Args:
            method: its name.
            *args: what the codec takes. An iterator is uploaded item by item, one at most.
            **kwargs: the same, by name.

        Raises:
            RemoteError: it was executed, and raised.
            Rejected: the server refused it (`UnknownMethod`, `BadArguments`, `Overloaded`...); nothing was executed.
            NotSent: it never left (`NotSentInTime`: no server could take it in time); nothing was executed.
            OutcomeUnknown: the server was lost, or did not answer in time (`NoReplyInTime`); it may have been executed.
            EncodeError: an argument cannot travel.
        """
        call, upload = self._prepare(method, args, kwargs)
        driver = self._driver
        if driver is None or self._closed:
            driver = self._open_driver
        call.ticket = ticket = driver.ticket()
        try:
            if upload is None and not call.durable:
                answer = driver.ask(ticket, None, self._core.call, call)
            else:
                driver.submit(self._core.call, call)
                ticket.handed = True
                if upload is not None:
                    feed(self, call, _plain(upload))
                answer = driver.wait(ticket) if not call.durable else self._wait_durable(call, ticket)
        except BaseException as error:
            # A Ctrl-C comes out of `submit` when the call was handed over.
            if ticket.handed or not (call.durable or isinstance(error, Exception)):
                self._leave(error, call, driver)
            raise
        return self._value(answer, call)

    def submit(self, method: str, /, *args: Any, **kwargs: Any) -> Reply[Any]:
        """Begin a call, and do not wait: the `Reply` is a future. Takes what `call` takes.

        Raises:
            EncodeError: an argument cannot travel.
        """
        call, upload = self._prepare(method, args, kwargs)
        driver = self._open_driver
        call.ticket = ticket = driver.ticket()
        reply: Reply[Any] = Reply(self, call, ticket)
        try:
            driver.submit(self._core.call, call)
            reply._watch()
        except BaseException as error:
            if not (call.durable or isinstance(error, Exception)):
                self._tell_soon(self._core.cancel, call)  # nobody has the reply
            raise
        if upload is not None:
            feed_beside(self, call, _plain(upload), reply)
        return reply

    def stream(self, method: str, /, *args: Any, **kwargs: Any) -> Stream[Any]:
        """Call a method that yields, and take what it yields as it comes. Takes what `call` takes.

        Errors come from the iteration, see `Stream`.

        Raises:
            EncodeError: an argument cannot travel.
        """
        call, upload = self._prepare(method, args, kwargs, WINDOW)
        driver = self._open_driver
        arrivals = Arrivals(driver.ticket)
        arrivals.grant = lambda limit: self._tell_now(self._core.grant, call, limit)
        call.ticket = arrivals
        stream: Stream[Any] = Stream(self, call, arrivals)
        driver.submit(self._core.call, call)
        if upload is not None:
            feed_beside(self, call, _plain(upload), stream)
        return stream

    @overload
    def proxy(self, /) -> Any: ...
    @overload
    def proxy(self, protocol: type[P], /) -> P: ...
    def proxy(self, protocol: type[Any] | None = None, /) -> Any:
        """An object whose methods are those of the server: ``client.proxy().add(2, 3)``.

        Args:
            protocol: a class that declares them, for type checkers; those that return an iterator are streams.
        """
        return Proxy(self) if protocol is None else TypedProxy(self, protocol)

    def methods(self) -> list[dict[str, Any]]:
        """What the server offers: maps of name, signature, doc, kind ("call" or "stream"), idempotent, concurrency and
        timeout. Raises what `call` raises."""
        found: list[dict[str, Any]] = self.call(METHODS)
        return found

    def results(self) -> Iterator[Reply[Any]]:
        """The outcomes of durable calls that nobody waits for: of an earlier run of this journal, and those whose
        `call` ran out of time. Each comes as a `Reply` that is done, as soon as it is; the iteration ends when none is
        left on its way.
        """
        driver = self._open_driver
        while not self._stopped:
            item = driver.mailbox.take()
            if item is not None:
                yield self._claim(item)
            elif not self._unclaimed or driver.mailbox.closed:
                return
            else:
                driver.wait_items(LOOK_AGAIN)

    def _claim(self, item: Any) -> Reply[Any]:
        reply: Reply[Any] = Reply(self, *self._claimed(item))
        reply._watch()
        return reply

    # ---- waiting -------------------------------------------------------------------

    def _wait_durable(self, call: Call, ticket: Ticket) -> Answer:
        try:
            answer: Answer = self._wait(ticket, left_of(self._patience(call)))
        except WaitExpired:
            self._unclaimed[call] = None
            said = self._open_driver.ticket()
            self._open_driver.submit(self._core.abandon, call, ticket)
            self._open_driver.submit(answered, said)
            self._wait(said, None)
            if not ticket.done:
                raise self._not_yet(call) from None
            self._unclaimed.pop(call, None)  # it came at the last moment
            answer = self._wait(ticket, 0)
        return answer


def _plain(upload: Iterator[Any] | AsyncIterator[Any]) -> Iterator[Any]:
    if isinstance(upload, AsyncIterator):
        raise UsageError("an async iterator cannot be uploaded from threads: use zmqkit.aio, or a plain iterator")
    return upload
