"""The client for asyncio and trio. What does not wait is in `zmqkit.patterns.reqrep.calling`.

The classes bear the names of the sync face, and their docstrings say what differs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from types import TracebackType
from typing import Any, Generic, Self, overload

import anyio
from typing_extensions import TypeVar, Unpack

from zmqkit.errors import Closed, RemoteError
from zmqkit.patterns.reqrep import calls
from zmqkit.patterns.reqrep.arrivals import WINDOW, Arrivals
from zmqkit.patterns.reqrep.calling import LOOK_AGAIN, TIMEOUT, ClientBase, Feed, Path, answered
from zmqkit.patterns.reqrep.calls import Answer, Call
from zmqkit.patterns.reqrep.loops import Loop
from zmqkit.patterns.reqrep.methods import METHODS
from zmqkit.patterns.reqrep.outcomes import interrupted
from zmqkit.patterns.reqrep.proxy import Proxy, TypedProxy
from zmqkit.peer.aio import Peer, in_thread
from zmqkit.peer.base import Common, left_of
from zmqkit.transport.tickets import Ticket, WaitExpired
from zmqkit.transport.waiters import checkpoint

T = TypeVar("T", default=Any)
P = TypeVar("P")

log = logging.getLogger("zmqkit.reqrep")

_END = object()


class Reply(Awaitable[T], Generic[T]):
    """The answer of a call that was submitted: await it, as often as you like. See `zmqkit.Reply`.

    An await that is cancelled leaves the call as it is; `cancel` ends it.

    Attributes:
        id: of the call, as the handler sees it in `Request.id`.
    """

    def __init__(self, client: Client, call: Call, ticket: Ticket) -> None:
        self.id: str = client._request_id(call)
        self._client = client
        self._call = call
        self._ticket = ticket
        self._fault: BaseException | None = None
        """What the upload of an argument raised."""

    def __await__(self) -> Generator[Any, None, T]:
        """The value. Raises what `Client.call` raises, and `concurrent.futures.CancelledError` after `cancel`."""
        return self._wait().__await__()

    async def _wait(self) -> T:
        client = self._client
        if self._ticket.done:
            await checkpoint()
        try:
            answer: Answer = await client._wait(self._ticket, None)
        except Exception as error:
            raise interrupted(error, self._call, client._key) from error
        if self._fault is not None and answer.kind != calls.RESULT:
            raise self._fault
        value: T = client._value(answer, self._call)
        return value

    def done(self) -> bool:
        """Whether an await returns, or raises, at once."""
        return self._ticket.done

    def cancel(self) -> bool:
        """Nobody wants the answer any more. See `zmqkit.Reply.cancel`."""
        if self._ticket.done:
            return False
        self._client._tell_soon(self._client._core.cancel, self._call)
        return True

    def __repr__(self) -> str:
        return f"<Reply {self.id} {self._call.method} {'done' if self._ticket.done else 'on its way'}>"


class Stream(AsyncIterator[T], Generic[T]):
    """The items that a generator over there yields, as they come. See `zmqkit.Stream`."""

    def __init__(self, client: Client, call: Call, arrivals: Arrivals) -> None:
        self._client = client
        self._call = call
        self._arrivals = arrivals
        self._closed = False
        self._fault: BaseException | None = None

    @property
    def id(self) -> str:
        """Of the call, as the handler sees it in `Request.id`."""
        return self._client._request_id(self._call)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """The next item. Cancelled, none is lost. See `zmqkit.Stream`."""
        client, arrivals = self._client, self._arrivals
        waited = False
        while not self._closed:
            over = arrivals.answer  # looked at first: what came before it is here
            item = arrivals.next()
            if item is not None:
                try:
                    value: T = client._item(item, self._call)
                except RemoteError:
                    self._closed = True
                    raise
                return value
            if over is not None:
                self._closed = True
                if over.kind != calls.DONE:
                    if self._fault is not None:
                        raise self._fault
                    client._value(over, self._call)
                break
            ticket = arrivals.wait_for()
            if ticket is None:
                continue
            waited = True
            try:
                await client._wait(ticket, None)
            except Exception as error:
                self._closed = True
                raise interrupted(error, self._call, client._key) from error
        if not waited:
            await checkpoint()
        raise StopAsyncIteration

    async def close(self) -> None:
        """No more is wanted: the server is told, and its generator is closed. Again: nothing happens."""
        self._end()

    def _end(self) -> None:
        if not self._closed:
            self._closed = True
            self._arrivals.drop()
            self._client._tell_soon(self._client._core.cancel, self._call)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        self._end()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            with contextlib.suppress(Exception):
                self._end()

    def __repr__(self) -> str:
        return f"<Stream {self._call.method} {'closed' if self._closed else 'open'}, {self._arrivals.taken} taken>"


class Client(ClientBase, Peer):
    """Calls methods of servers. See `zmqkit.Client`.

    ::

        async with zmqkit.aio.Client("tcp://127.0.0.1:5555", timeout=2.0) as calc:
            await calc.call("add", 2, b=3)
            await calc.submit("add", 2, 3)
            async for row in calc.stream("rows", 10): ...
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

    async def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method, and wait for what it returns. See `zmqkit.Client.call`.

        Cancelled, the call is cancelled at the server, too. An async iterator is uploaded like a plain one; a plain one
        is asked in a worker thread.
        """
        driver = self._driver
        if driver is None or self._closed:
            await self._start_async()
            driver = self._open_driver
        call, upload = self._prepare(method, args, kwargs)
        call.ticket = ticket = driver.ticket()
        try:
            if upload is None and not call.durable:
                answer = await driver.ask_async(ticket, self._core.call, call)
            else:
                driver.submit(self._core.call, call)
                ticket.handed = True
                if upload is not None:
                    await feed(self, call, upload)
                answer = await driver.wait_async(ticket) if not call.durable else await self._wait_durable(call, ticket)
        except BaseException as error:
            if ticket.handed:
                self._leave(error, call, driver)
            raise
        return self._value(answer, call)

    def submit(self, method: str, /, *args: Any, **kwargs: Any) -> Reply[Any]:
        """Begin a call, and do not wait: await the `Reply`. See `zmqkit.Client.submit`.

        Opens the client if that was not done.
        """
        call, upload = self._prepare(method, args, kwargs)
        driver = self._open_driver
        call.ticket = ticket = driver.ticket()
        reply: Reply[Any] = Reply(self, call, ticket)
        driver.submit(self._core.call, call)
        if upload is not None:
            feed_beside(self, call, upload, reply)
        return reply

    def stream(self, method: str, /, *args: Any, **kwargs: Any) -> Stream[Any]:
        """Call a method that yields, and take what it yields as it comes. See `zmqkit.Client.stream`.

        Opens the client if that was not done.
        """
        call, upload = self._prepare(method, args, kwargs, WINDOW)
        driver = self._open_driver
        arrivals = Arrivals(driver.ticket)
        arrivals.grant = lambda limit: self._tell_now(self._core.grant, call, limit)
        call.ticket = arrivals
        stream: Stream[Any] = Stream(self, call, arrivals)
        driver.submit(self._core.call, call)
        if upload is not None:
            feed_beside(self, call, upload, stream)
        return stream

    @overload
    def proxy(self, /) -> Any: ...
    @overload
    def proxy(self, protocol: type[P], /) -> P: ...
    def proxy(self, protocol: type[Any] | None = None, /) -> Any:
        """An object whose methods are those of the server: ``await client.proxy().add(2, 3)``.

        Args:
            protocol: a class that declares them, for type checkers: ``async def`` ones, and plain ones that return an
                async iterator, which are streams.
        """
        return Proxy(self) if protocol is None else TypedProxy(self, protocol)

    async def methods(self) -> list[dict[str, Any]]:
        """What the server offers. See `zmqkit.Client.methods`."""
        found: list[dict[str, Any]] = await self.call(METHODS)
        return found

    def results(self) -> AsyncIterator[Reply[Any]]:
        """The outcomes of durable calls that nobody waits for. See `zmqkit.Client.results`."""
        self._check_open()
        return _Results(self)

    # ---- waiting -------------------------------------------------------------------

    async def _wait_durable(self, call: Call, ticket: Ticket) -> Answer:
        try:
            answer: Answer = await self._wait(ticket, left_of(self._patience(call)))
        except WaitExpired:
            self._unclaimed[call] = None
            said = self._open_driver.ticket()
            self._open_driver.submit(self._core.abandon, call, ticket)
            self._open_driver.submit(answered, said)
            await self._wait(said, None)
            if not ticket.done:
                raise self._not_yet(call) from None
            self._unclaimed.pop(call, None)  # it came at the last moment
            answer = await self._wait(ticket, 0)
        return answer


class _Results:
    """The iterator of `Client.results`. Not a generator: nothing is left to be finalized after a break."""

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        self._client = client

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Reply[Any]:
        client = self._client
        if client._driver is None:
            await client._start_async()
        driver = client._open_driver
        while not client._stopped:
            item = driver.mailbox.take()
            if item is not None:
                return Reply(client, *client._claimed(item))
            if not client._unclaimed or driver.mailbox.closed:
                break
            await driver.wait_items_async(LOOK_AGAIN)
        raise StopAsyncIteration


async def feed(client: Client, call: Call, source: Iterator[Any] | AsyncIterator[Any]) -> None:
    """Upload what an iterator gives, until it or the call ends. Raises what it raises."""
    sending = Feed(client, call)
    step: Callable[[], Coroutine[Any, Any, Any]]
    step = _next_async(source) if isinstance(source, AsyncIterator) else _next_in_thread(source)
    try:
        while not sending.over:
            if not sending.may_send():
                await client._wait(sending.ticket(), None)
                continue
            item = await step()
            if item is _END:
                sending.end()
                return
            sending.send([item])
    except BaseException as error:
        sending.abort(error)
        raise
    finally:
        if sending.over:
            await _close(source)


def _next_async(source: AsyncIterator[Any]) -> Callable[[], Coroutine[Any, Any, Any]]:
    async def step() -> Any:
        try:
            return await anext(source)
        except StopAsyncIteration:
            return _END

    return step


def _next_in_thread(source: Iterator[Any]) -> Callable[[], Coroutine[Any, Any, Any]]:
    async def step() -> Any:
        return await in_thread(next, source, _END)

    return step


async def _close(source: Any) -> None:
    """An iterator of which no more is wanted."""
    with contextlib.suppress(Exception):
        if hasattr(source, "aclose"):
            with anyio.CancelScope(shield=True), anyio.move_on_after(1.0):
                await source.aclose()
        elif hasattr(source, "close"):
            source.close()


def feed_beside(
    client: Client, call: Call, source: Iterator[Any] | AsyncIterator[Any], owner: Reply[Any] | Stream[Any]
) -> None:
    """The same in a task of its own; what the iterator raises is the outcome of the owner."""

    async def run() -> None:
        try:
            await feed(client, call, source)
        except Closed as error:
            log.debug("%s: an upload ended: %s", client.name, error)
        except Exception as error:
            owner._fault = error

    Loop().start(run, name="zmqkit-upload")
