"""Publish-subscribe for threads. What does not wait is in `zmqkit.patterns.pubsub.publishing` and `subscribing`."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from types import TracebackType
from typing import Any, Generic, Self, overload

from typing_extensions import TypeVar, Unpack

from zmqkit.errors import Closed, MessagesLost, WaitTimeout
from zmqkit.inbox import Source
from zmqkit.options import Durability, OnFailure, OnGap, OnSlow, Retention, Start
from zmqkit.patterns.pubsub.audience import Subscriber as Audience
from zmqkit.patterns.pubsub.handlers import Handler
from zmqkit.patterns.pubsub.messages import MessageBase, Transaction
from zmqkit.patterns.pubsub.publishing import Bulk, Headers, Path, PublisherBase, bulk_error
from zmqkit.patterns.pubsub.subscribing import SubscriberBase, check_run
from zmqkit.peer.base import Addresses, Common, check_timeout, deadline_of, left_of
from zmqkit.peer.hooks import stop_on_signals
from zmqkit.peer.sync import Peer, run_threads
from zmqkit.transport.tickets import WaitExpired, wait
from zmqkit.transport.waiters import ThreadWaiter

T = TypeVar("T", default=Any)

log = logging.getLogger("zmqkit.pubsub")


class Publisher(PublisherBase, Peer):
    """Tells every subscriber of a topic what is published to it.

    Args:
        *addresses: to bind.
        history: how many of the newest messages are kept in memory, for those who come late or missed some.
        journal: a file that keeps messages and the positions of subscribers; made if it is not there. None: memory
            only.
        durability: how safe a message is when `publish` returns: "power" (synced to the disk), "process" (survives the
            death of the process), "memory". Without a journal it is "memory".
        retention: how much the journal keeps; None: all, until the disk is full.
        last_value: keep the last message of each topic, for subscribers that begin.
        plain: send to plain SUB sockets, topic and body as two frames: no history, no recovery, no headers. Of what
            waits for one of them, more than ``queued_messages`` of `Limits` is dropped.
        recovery: addresses to bind for recovery; None: beside the others (of tcp the next port if it is free).
        **common: see `Common`.

    ::

        with zmqkit.Publisher("tcp://127.0.0.1:5556") as pub:
            pub.wait_for_subscribers(1)
            pub.publish("prices.eu.gold", {"bid": 1.0})
    """

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

    def publish(self, topic: str, body: object, /, *, headers: Headers | None = None) -> int:
        """Publish one message. Returns its offset: one higher than that of the message before, whatever its topic.

        With a journal it returns once the message is stored; without, it waits for nothing.

        Args:
            topic: words with dots between them, as in "prices.eu.gold".
            body: what the codec takes.
            headers: text to text, for the subscribers.

        Raises:
            ValueError: the topic cannot be one.
            EncodeError: the body cannot travel.
            JournalFull: the disk is full, or what may be kept; it was not published.
            CommitIndeterminate: the journal failed, and whether it was stored cannot be known.
        """
        if self._journal_path is None:
            return self._publish_soon(topic, body, headers)
        self._check_wait()
        ticket, offset = self._publish_stored(topic, body, headers)
        self._wait(ticket, None)
        return offset

    def publish_many(self, messages: Iterable[tuple[str, object]], /) -> int:
        """Publish pairs of a topic and a body, stored in groups. Returns how many.

        Raises:
            PartlySent: it stopped midway; `confirmed` of the first are published, and the cause is chained.
        """
        self._check_wait()
        self._start()
        bulk = Bulk(self)
        try:
            for packs in self._packs(messages):
                for ticket in bulk.add(packs):
                    self._wait(ticket, None)
            for ticket in bulk.rest():
                self._wait(ticket, None)
        except Exception as error:
            with contextlib.suppress(Exception):
                for ticket in bulk.rest():
                    self._wait(ticket, None)
            raise bulk_error(bulk.confirmed, error) from error
        return bulk.confirmed

    def wait_for_subscribers(self, count: int = 1, *, topic: str | None = None, timeout: float | None = None) -> None:
        """Block until so many subscribers are there, and what is published from now on reaches them.

        With ``plain=True`` there are no sessions: connections that have subscribed count, and of a topic those that
        have subscribed what it begins with. Over ``inproc://``, where connections cannot be told apart, that is as many
        as have subscribed the same.

        Args:
            count: of subscribers.
            topic: only those that it would reach; None: all.
            timeout: seconds; None: no limit.

        Raises:
            WaitTimeout: they were not there in time.
        """
        self._check_count(count, topic)
        check_timeout(timeout)
        self._check_wait()
        self._start()
        ticket = self._ask(self._core.wait_for_subscribers, count, topic)
        try:
            self._wait_or_forget(ticket, timeout, self._core.forget_subscribers)
        except WaitExpired:
            raise WaitTimeout(self._too_few_subscribers(count, topic, timeout)) from None

    def subscribers(self) -> list[Audience]:
        """Who is subscribed now: name, instance, topics, whether on the data plane, and how far behind.

        Plain subscribers do not say who they are: with ``plain=True`` the list is empty.
        """
        self._check_wait()
        self._start()
        found: list[Audience] = self._wait(self._ask(self._core.subscribers), None)
        return found

    def _check_close(self, linger: float | None) -> None:
        if self._driver is not None and not self._closed and linger != 0:
            self._check_wait()

    def _close(self, linger: float | None) -> None:
        deadline = deadline_of(linger)
        ticket = self._begin_drain(linger)
        if ticket is not None:
            with contextlib.suppress(WaitExpired, Closed):
                self._wait(ticket, linger)
        ended, seconds = self._begin_end(left_of(deadline))
        with contextlib.suppress(WaitExpired):
            wait(ended, seconds)
        self._tell_end()


class Message(MessageBase[T]):
    """One message. ``with message:`` keeps that it was dealt with, where there is a position to keep.

    What an exception in the block does says ``on_error=`` of the subscriber.
    """

    __slots__ = ()

    def commit(self) -> None:
        """Keep that this message, and all before it, are dealt with; returns once that is stored.

        Raises:
            UsageError: there is no position to keep: the subscriber has neither cursor= nor inbox=.
            CursorInUse: another subscriber holds the cursor.
            CursorNotMoved: the publisher that keeps the cursor is gone, or could not store it.
            JournalError: the inbox could not store it; the subclass and the message say why.
        """
        self._subscriber._check_wait()
        ticket = self._commit()
        if ticket is not None:
            self._subscriber._wait(ticket, None)

    def transaction(self) -> Transaction:
        """Effects and position in one commit, in the inbox: ``with message.transaction() as db: ...``.

        Raises:
            UsageError: the subscriber has no ``inbox=``, or an older message is still in hand.
            JournalError: the inbox cannot be written; the subclass and the message say why.
            Duplicate: another that shares the inbox has dealt with it; ``with message:`` swallows this.
        """
        return self._transaction(waits=True)

    def __enter__(self) -> Self:
        self._enter()
        return self

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> bool:
        return self._leave(v)


class Subscriber(SubscriberBase, Peer, Generic[T]):
    """Takes the messages of its topics from one or many publishers, in the order of each publisher's offsets.

    Args:
        *addresses: to connect to.
        topics: one or several: words with dots between them; ``*`` stands for one word, ``#`` at the end for any
            number.
        start: "latest": what is published from now on; "earliest": all that is there; a time: what is of then and
            later; "resume": where the cursor or inbox says. None: "resume" with one of these, else "latest".
        cursor: a name under which the publisher keeps the position: each message comes at least once.
        inbox: an SQLite file of one's own (or a callable that gives a connection) which keeps the position; with
            ``message.transaction()`` each message's effects are there once.
        on_gap: what to do about messages that did not come: "recover" them and raise `MessagesLost` for what is gone;
            "raise" at once; "report" (an event only).
        on_slow: what to do when messages come faster than they are taken: "recover" them later, from the publisher's
            history; "conflate": keep the newest of each topic; "disconnect": end with `MessagesLost`.
        max_age: seconds after which a message is of no use, and dropped. It trusts both clocks. None: never.
        on_error: what an exception in ``with message:`` or a handler does: "raise" (let it through), "retry" (the same
            message comes again), "skip" (log it, and go on).
        group: kept for later.
        plain: read plain PUB sockets: no history, no recovery, no numbers of the publisher's. What a slow subscriber
            has no room for is dropped, and named by `MessagesLost`, but with ``on_slow="conflate"``. Bodies are read by
            ``codec=``.
        recovery: addresses to bind for recovery, of a subscriber that binds; None: beside the others.
        **common: see `Common`.

    ::

        with zmqkit.Subscriber("tcp://127.0.0.1:5556", topics=["prices.*.gold", "alerts.#"]) as sub:
            for message in sub:
                print(message.topic, message.body)
    """

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
        self._last = threading.local()

    @overload
    def receive(self) -> Message[T]: ...
    @overload
    def receive(self, timeout: float | None) -> Message[T] | None: ...
    def receive(self, timeout: float | None = None) -> Message[T] | None:
        """Take the next message; blocks until there is one.

        With a cursor or an inbox, the message that this thread took before counts as dealt with.

        Args:
            timeout: seconds; then None is returned. None: no limit.

        Raises:
            MessagesLost: messages are gone; the next call goes on after them.
            Closed: the subscriber was closed, or stopped.
        """
        self._finish_last()
        message: Message[T] | None = None if self._stopped else self._take()
        if message is None:
            deadline = deadline_of(timeout)
            while True:
                if not self._wait_for_message(deadline):
                    raise self._ended()
                message = self._take()
                if message is not None or left_of(deadline) == 0:
                    break
        return message

    def _wait_for_message(self, deadline: float | None) -> bool:
        """Block until something came, or out of time. False: closed or stopped."""
        driver = self._items_driver
        self._save_sometimes()
        if pause := self._pause(deadline):
            self._sleep(pause)
        elif not (self._stopped or self._closed) and driver.wait_items(left_of(deadline)):
            return not self._stopped
        return self._goes_on(driver.mailbox)

    def _sleep(self, seconds: float) -> None:
        """Until then, or a stop."""
        waiter = ThreadWaiter()
        try:
            self._sleepers[waiter] = None
            if not (self._stopped or self._closed):
                waiter.wait(seconds)
        finally:
            self._sleepers.pop(waiter, None)

    def __iter__(self) -> Iterator[Message[T]]:
        """Messages as they come, until `stop` or `close`. The iterator goes on after `MessagesLost`.

        With a cursor or an inbox, a message counts as dealt with when its thread asks for the next one.
        """
        self._check_open()
        return itertools.chain.from_iterable(_Loops(self))

    def _loop(self) -> Iterator[Message[T]]:
        make = self._message
        while (message := self._next()) is not None:
            yield message
            parcel = message._parcel
            if parcel.spoiled or self._stopped or self._closed:
                continue
            bodies: list[Any] = parcel.bodies or []
            claimed = -1
            try:
                # See `zmqkit.patterns.pipeline.taking` for why no interrupt can lose a claimed index.
                for index in parcel.claims:
                    claimed = index
                    message = make(self, parcel, index, bodies[index])
                    claimed = -1
                    yield message
                    if self._stopped or self._closed:
                        return
            finally:
                if claimed >= 0:
                    self._put_aside(parcel, claimed)

    def _next(self) -> Message[T] | None:
        """The next message, whenever it comes; None: closed or stopped."""
        self._finish_last()
        while not self._stopped:
            message: Message[T] | None = self._take()
            if message is not None:
                return message
            if self._closed or not self._wait_for_message(None):
                break
        return None

    def run(self, handler: Callable[..., object], /, *, threads: int = 1) -> None:
        """Handle messages until `stop`, SIGINT or SIGTERM; what is being handled is finished first.

        Args:
            handler: gets the body; in parameters annotated so the `Message`, and with ``inbox=`` a
                `sqlite3.Connection`, whose changes are committed with the position when the handler returns.
            threads: how many handlers run at a time; with ``inbox=`` one, because effects go by the order.

        Raises:
            MessagesLost: messages are gone, and ``on_error="raise"``; else that is logged. With
                ``on_slow="disconnect"``: it was too slow.
        """
        wanted = Handler(handler, coroutines=False, has_inbox=self._inbox_source is not None)
        check_run(self._inbox_source is not None, threads=threads)

        def handle(message: Message[T]) -> None:
            with message:
                if wanted.in_transaction:
                    with message.transaction() as connection:
                        wanted(message, connection)
                else:
                    wanted(message)

        def loop() -> None:
            while True:
                try:
                    for message in self._loop():
                        handle(message)
                    return
                except MessagesLost as error:
                    if self._on_error == "raise" or self._over is not None:  # after the end nothing comes
                        raise
                    log.error("%s: %s", self.name, error)

        with stop_on_signals(self):  # first: a signal while it opens counts, too
            self._start()
            run_threads(loop, threads, self)

    def _close(self, linger: float | None) -> None:
        assert self._driver is not None
        self._driver.mailbox.stop()
        self._wake_sleepers()
        try:
            self._close_inbox()
        finally:
            self._driver.close(1.0)


class _Loops(Iterator[Iterator[Message[T]]]):
    """Loops over a subscriber's messages, one after the other: an error ends one, and the next goes on after it."""

    def __init__(self, subscriber: Subscriber[T]) -> None:
        self._subscriber = subscriber

    def __next__(self) -> Iterator[Message[T]]:
        if self._subscriber._stopped or self._subscriber._closed:
            raise StopIteration
        return self._subscriber._loop()
