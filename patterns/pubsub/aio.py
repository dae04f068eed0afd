"""Publish-subscribe for asyncio and trio. What does not wait is in `publishing` and `subscribing`.

The classes bear the names of the sync face, and their docstrings say what differs.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, overload

import anyio
import anyio.to_thread
from typing_extensions import TypeVar, Unpack

from zmqkit.errors import Closed, MessagesLost, WaitTimeout
from zmqkit.inbox import Connection, Source
from zmqkit.options import Durability, OnFailure, OnGap, OnSlow, Retention, Start
from zmqkit.patterns.pubsub.audience import Subscriber as Audience
from zmqkit.patterns.pubsub.handlers import Handler
from zmqkit.patterns.pubsub.messages import MessageBase, Transaction
from zmqkit.patterns.pubsub.publishing import Bulk, Headers, Path, PublisherBase, bulk_error
from zmqkit.patterns.pubsub.subscribing import SubscriberBase, check_run
from zmqkit.peer.aio import Peer, call, in_thread, run_tasks, to_the_end
from zmqkit.peer.base import Addresses, Common, check_timeout, deadline_of, left_of
from zmqkit.peer.hooks import stop_on_signals
from zmqkit.transport.tickets import WaitExpired, wait_async
from zmqkit.transport.waiters import async_waiter, checkpoint

T = TypeVar("T", default=Any)

log = logging.getLogger("zmqkit.pubsub")

YIELD_SECONDS = 0.001
LOOK_EVERY = 8
"""What needs no wait is done without a pause for so long; every so many messages the clock is looked at."""


class Publisher(PublisherBase, Peer):
    """Tells every subscriber of a topic what is published to it. See `zmqkit.Publisher`."""

    def __init__(
        self,
        *addresses: str,
        history: int = 1_000,
        journal: Path | None = None,
        durability: Durability = "power",
        retention: Retention | None = None,
        last_value: bool = False,
        plain: bool = False,
        recovery: Addresses | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(addresses, history, journal, durability, retention, last_value, plain, recovery, common)
        self._until_yield = LOOK_EVERY
        self._yielded = 0.0

    async def publish(self, topic: str, body: object, /, *, headers: Headers | None = None) -> int:
        """Publish one message. Returns its offset. See `zmqkit.Publisher.publish`.

        Cancelled, it was not handed over, or it goes on.
        """
        if self._driver is None or self._closed or self._forked:
            await self._start_async()
        if self._journal_path is not None:
            ticket, offset = self._publish_stored(topic, body, headers)
            await self._wait(ticket, None)
            return offset
        self._until_yield -= 1
        if self._until_yield <= 0:
            self._until_yield = LOOK_EVERY
            if time.monotonic() - self._yielded > YIELD_SECONDS:
                await checkpoint()
                self._yielded = time.monotonic()
        return self._publish_soon(topic, body, headers)

    async def publish_many(self, messages: Iterable[tuple[str, object]], /) -> int:
        """Publish pairs of a topic and a body, stored in groups. See `zmqkit.Publisher.publish_many`.

        Cancelled, what was handed over goes on.
        """
        await self._start_async()
        bulk = Bulk(self)
        try:
            for packs in self._packs(messages):
                for ticket in bulk.add(packs):
                    await self._wait(ticket, None)
                await checkpoint()
            for ticket in bulk.rest():
                await self._wait(ticket, None)
        except Exception as error:
            with contextlib.suppress(Exception):
                for ticket in bulk.rest():
                    await self._wait(ticket, None)
            raise bulk_error(bulk.confirmed, error) from error
        return bulk.confirmed

    async def wait_for_subscribers(
        self, count: int = 1, *, topic: str | None = None, timeout: float | None = None
    ) -> None:
        """Wait until so many subscribers are there. See `zmqkit.Publisher.wait_for_subscribers`."""
        self._check_count(count, topic)
        check_timeout(timeout)
        await self._start_async()
        ticket = self._ask(self._core.wait_for_subscribers, count, topic)
        try:
            await self._wait_or_forget(ticket, timeout, self._core.forget_subscribers)
        except WaitExpired:
            raise WaitTimeout(self._too_few_subscribers(count, topic, timeout)) from None

    async def subscribers(self) -> list[Audience]:
        """Who is subscribed now. See `zmqkit.Publisher.subscribers`."""
        await self._start_async()
        found: list[Audience] = await self._wait(self._ask(self._core.subscribers), None)
        return found

    async def _close(self, linger: float | None) -> None:
        deadline = deadline_of(linger)
        try:
            ticket = self._begin_drain(linger)
            if ticket is not None:
                with contextlib.suppress(WaitExpired, Closed):
                    await self._wait(ticket, linger)
        finally:
            await to_the_end(self._end, left_of(deadline))

    async def _end(self, linger: float | None) -> None:
        ended, seconds = self._begin_end(linger)
        with contextlib.suppress(WaitExpired):
            await wait_async(ended, seconds)
        self._tell_end()


class Message(MessageBase[T]):
    """One message. Use it as ``async with message:``. See `zmqkit.Message`."""

    __slots__ = ()

    async def commit(self) -> None:
        """Keep that this message, and all before it, are dealt with. See `zmqkit.Message.commit`."""
        ticket = self._commit()
        if ticket is not None:
            await self._subscriber._wait(ticket, None)

    def transaction(self) -> Transaction:
        """Effects and position in one commit: ``async with message.transaction() as db: ...``.

        See `zmqkit.Message.transaction`.
        """
        return self._transaction(waits=False)

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> bool:
        return self._leave(v)


class Subscriber(SubscriberBase, Peer, Generic[T]):
    """Takes the messages of its topics from one or many publishers. See `zmqkit.Subscriber`."""

    _message = Message

    def __init__(
        self,
        *addresses: str,
        topics: str | Iterable[str] = "#",
        start: Start | datetime | None = None,
        cursor: str | None = None,
        inbox: Source | None = None,
        on_gap: OnGap = "recover",
        on_slow: OnSlow = "recover",
        max_age: float | None = None,
        on_error: OnFailure = "raise",
        group: str | None = None,
        plain: bool = False,
        recovery: Addresses | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            addresses, topics, start, cursor, inbox, on_gap, on_slow, max_age, on_error, group, plain, recovery, common
        )

    @overload
    async def receive(self) -> Message[T]: ...
    @overload
    async def receive(self, timeout: float | None) -> Message[T] | None: ...
    async def receive(self, timeout: float | None = None) -> Message[T] | None:
        """Take the next message. See `zmqkit.Subscriber.receive`. Cancelled, nothing is lost.

        With a cursor or an inbox, the message that any task took before counts as dealt with, unless it is in an
        ``async with`` block.
        """
        if self._driver is None:
            await self._start_async()
        self._finish_last()
        message: Message[T] | None = None if self._stopped else self._take()
        if message is None:
            deadline = deadline_of(timeout)
            while True:
                if not await self._wait_for_message(deadline):
                    raise self._ended()
                message = self._take()
                if message is not None or left_of(deadline) == 0:
                    break
        return message

    async def _wait_for_message(self, deadline: float | None) -> bool:
        """Wait until something came, or out of time. False: closed or stopped."""
        driver = self._items_driver
        self._save_sometimes()
        if pause := self._pause(deadline):
            await self._sleep(pause)
        elif not (self._stopped or self._closed) and await driver.wait_items_async(left_of(deadline)):
            return not self._stopped
        return self._goes_on(driver.mailbox)

    async def _sleep(self, seconds: float) -> None:
        """Until then, or a stop."""
        waiter = async_waiter()
        try:
            self._sleepers[waiter] = None
            if not (self._stopped or self._closed):
                await waiter.wait(seconds)
        finally:
            self._sleepers.pop(waiter, None)

    def __aiter__(self) -> AsyncIterator[Message[T]]:
        """Messages as they come, until `stop` or `close`. It goes on after `MessagesLost`.

        With a cursor or an inbox, a message counts as dealt with when any task asks for the next, unless it is in an
        ``async with`` block.
        """
        self._check_open()
        return _Messages(self)

    async def run(self, handler: Callable[..., object], /, *, tasks: int = 1, threads: int = 1) -> None:
        """Handle messages until `stop`, SIGINT or SIGTERM; what is being handled is finished first.

        Args:
            handler: a coroutine function, or a plain one that then runs in a worker thread. It gets the body; in
                parameters annotated so the `Message`, and with ``inbox=`` a `sqlite3.Connection`, whose changes are
                committed with the position when the handler returns.
            tasks: how many coroutine handlers run at a time; with ``inbox=`` one, because effects go by the order.
            threads: how many plain handlers run at a time; the same.

        Raises:
            MessagesLost: messages are gone, and ``on_error="raise"``; else that is logged. With
                ``on_slow="disconnect"``: it was too slow.
        """
        wanted = Handler(handler, coroutines=True, has_inbox=self._inbox_source is not None)
        check_run(self._inbox_source is not None, tasks=tasks, threads=threads)
        at_a_time = tasks if wanted.asynchronous else threads
        limiter = anyio.CapacityLimiter(at_a_time)

        async def run_one(message: Message[T], connection: Connection | None) -> None:
            if wanted.asynchronous:
                await wanted(message, connection)  # type: ignore[misc]  # it gives a coroutine
            else:
                await call(partial(wanted, message), connection, limiter)

        async def handle(message: Message[T]) -> None:
            async with message:
                if wanted.in_transaction:
                    async with message.transaction() as connection:
                        await run_one(message, connection)
                else:
                    await run_one(message, None)

        async def loop() -> None:
            messages = aiter(self)
            while True:
                try:
                    async for message in messages:
                        await handle(message)
                    return
                except MessagesLost as error:
                    if self._on_error == "raise" or self._over is not None:  # after the end nothing comes
                        raise
                    log.error("%s: %s", self.name, error)

        with stop_on_signals(self):  # first: a signal while it opens counts, too
            await self._start_async()
            await run_tasks(loop, at_a_time, self)

    async def _close(self, linger: float | None) -> None:
        assert self._driver is not None
        self._driver.mailbox.stop()
        self._wake_sleepers()
        try:
            if self._inbox is not None:
                await to_the_end(in_thread, self._close_inbox)
        finally:
            await self._end_driver()


class _Messages(AsyncIterator[Message[T]]):
    """The iterator of ``async for message in subscriber``. It outlives the errors that it raises."""

    __slots__ = ("_left", "_parcel", "_since", "_subscriber")

    def __init__(self, subscriber: Subscriber[T]) -> None:
        self._subscriber = subscriber
        self._parcel: Any = None
        self._left = LOOK_EVERY
        self._since = 0.0

    async def __anext__(self) -> Message[T]:
        subscriber = self._subscriber
        self._left -= 1
        parcel = self._parcel
        if parcel is not None and self._left and not subscriber._stopped:
            # The usual way, short: this is once for every message.
            claimed = -1
            try:
                for index in parcel.claims:
                    claimed = index
                    return Message(subscriber, parcel, index, parcel.bodies[index])
            except BaseException:
                if claimed >= 0:
                    subscriber._put_aside(parcel, claimed)
                raise
        return await self._next()

    async def _next(self) -> Message[T]:
        subscriber = self._subscriber
        if subscriber._driver is None:
            await subscriber._start_async()
        subscriber._finish_last()
        if self._left <= 0:
            self._left = LOOK_EVERY
            if time.monotonic() - self._since > YIELD_SECONDS:
                await checkpoint()
                self._since = time.monotonic()
        while not subscriber._stopped:
            message: Message[T] | None = subscriber._take()
            if message is not None:
                parcel = message._parcel
                self._parcel = None if parcel.spoiled else parcel
                return message
            if subscriber._closed or not await subscriber._wait_for_message(None):
                break
            self._since = time.monotonic()
        raise StopAsyncIteration
