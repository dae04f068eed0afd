"""A stream of items for threads, and uploads from threads. What does not wait is in `arrivals` and `calling`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self

from typing_extensions import TypeVar

from zmqkit.errors import RemoteError
from zmqkit.patterns.reqrep import calls
from zmqkit.patterns.reqrep.arrivals import Arrivals
from zmqkit.patterns.reqrep.calling import Feed
from zmqkit.patterns.reqrep.calls import Call
from zmqkit.patterns.reqrep.outcomes import interrupted

if TYPE_CHECKING:
    from zmqkit.patterns.reqrep.reply import Reply
    from zmqkit.patterns.reqrep.sync import Client

T = TypeVar("T", default=Any)


class Stream(Iterator[T], Generic[T]):
    """The items that a generator over there yields, as they come. Leave it early with `close`, or by ``with``.

    The server is never more than a window of 64 items ahead. A stream is never begun twice: when the server is lost,
    `StreamBroken` says how many items had come.
    """

    def __init__(self, client: Client, call: Call, arrivals: Arrivals) -> None:
        self._client = client
        self._call = call
        self._arrivals = arrivals
        self._closed = False
        self._fault: BaseException | None = None
        """What the upload of an argument raised."""

    @property
    def id(self) -> str:
        """Of the call, as the handler sees it in `Request.id`."""
        return self._client._request_id(self._call)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        """The next item; waits for it.

        Raises:
            StreamBroken: the server was lost.
            NoReplyInTime: the time for the whole stream is out.
            CallError: as `Client.call` does. It is the last that comes.
        """
        arrivals = self._arrivals
        while not self._closed:
            over = arrivals.answer is not None  # looked at first: what came before it is here
            item = arrivals.next()
            if item is not None:
                try:
                    value: T = self._client._item(item, self._call)
                except RemoteError:
                    self._closed = True
                    raise
                return value
            if over:
                self._end()
                break
            ticket = arrivals.wait_for()
            if ticket is None:
                continue
            try:
                self._client._wait(ticket, None)
            except Exception as error:
                self._closed = True
                raise interrupted(error, self._call, self._client._key) from error
        raise StopIteration

    def _end(self) -> None:
        answer = self._arrivals.answer
        assert answer is not None
        self._closed = True
        if answer.kind != calls.DONE:
            if self._fault is not None:
                raise self._fault
            self._client._value(answer, self._call)

    def close(self) -> None:
        """No more is wanted: the server is told, and its generator is closed. Again: nothing happens."""
        if not self._closed:
            self._closed = True
            self._arrivals.drop()
            self._client._tell_soon(self._client._core.cancel, self._call)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        # Dropped midway, as by ``next(client.stream(...))``: do not let the other side wait for our credit for ever.
        if not getattr(self, "_closed", True):
            with contextlib.suppress(Exception):
                self.close()

    def __repr__(self) -> str:
        return f"<Stream {self._call.method} {'closed' if self._closed else 'open'}, {self._arrivals.taken} taken>"


def feed(client: Client, call: Call, source: Iterator[Any]) -> None:
    """Upload what an iterator gives, until it or the call ends. Raises what it raises."""
    sending = Feed(client, call)
    try:
        while not sending.over:
            if not sending.may_send():
                client._wait(sending.ticket(), None)
                continue
            try:
                item = next(source)
            except StopIteration:
                sending.end()
                return
            sending.send([item])
    except BaseException as error:
        sending.abort(error)
        raise
    finally:
        close = getattr(source, "close", None)
        if sending.over and close is not None:
            close()


def feed_beside(client: Client, call: Call, source: Iterator[Any], owner: Reply[Any] | Stream[Any]) -> None:
    """The same in a thread of its own; what the iterator raises is the outcome of the owner."""

    def run() -> None:
        try:
            feed(client, call, source)
        except BaseException as error:
            owner._fault = error

    threading.Thread(target=run, name="zmqkit-upload", daemon=True).start()
