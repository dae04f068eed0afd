"""Sending into a pipeline, for threads. What does not wait is in `zmqkit.patterns.pipeline.sending`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

from typing_extensions import TypeVar, Unpack

from zmqkit.errors import Unsettled
from zmqkit.options import Backoff, Durability, Point, Window
from zmqkit.patterns.pipeline.bulk import Bulk, cause_of
from zmqkit.patterns.pipeline.dead import DeadLetter, DeadLettersBase, Sorting
from zmqkit.patterns.pipeline.letters import Page
from zmqkit.patterns.pipeline.outgoing import Headers, Outgoing, asked
from zmqkit.patterns.pipeline.sending import (
    Path,
    PusherBase,
    ReceiptBase,
    Settled,
    check_point,
    too_late,
)
from zmqkit.peer.base import Common, check_timeout, deadline_of, left_of
from zmqkit.peer.sync import Peer
from zmqkit.transport.tickets import Ticket, WaitExpired, wait

T = TypeVar("T", default=Any)

log = logging.getLogger("zmqkit.pipeline")


class Receipt(ReceiptBase):
    """One message on its way. See `ReceiptBase` for the attributes."""

    __slots__ = ()

    def wait(self, until: Point = "settled", *, timeout: float | None = None) -> Settled:
        """Block until the message has come so far.

        Returns the pusher's counts as they are then; `outcome` says what became of this message.

        Raises:
            WaitTimeout: not within `timeout` seconds; it goes on.
            JournalError: it could not be stored.
        """
        pusher: Pusher = self._pusher
        check_point(until)
        pusher._check_wait()
        deadline = deadline_of(timeout)
        try:
            self._stored(pusher._wait(self._ticket, timeout))
            further = self._ask_for(until)
            if further is not None:
                forget = pusher._core.forget_wait
                self._told(until, pusher._wait_or_forget(further, left_of(deadline), forget))
        except WaitExpired:
            raise self._too_early(until, timeout) from None
        return pusher._settled_now()


class DeadLetters(DeadLettersBase):
    """A pusher's dead letters, those of its journal included, in the order in which they were sent.

    Without a journal the last 10,000 are kept.
    """

    __slots__ = ()

    def __iter__(self) -> Iterator[DeadLetter]:
        self._pusher._check_wait()
        after = 0
        while (page := self._page(after)).rows:
            yield from self._letters(page)
            after = page.rows[-1][0]

    def retry(self, *ids: str) -> int:
        """Send messages again, failures forgotten: under their ids, behind all that waits. Returns how many.

        Args:
            *ids: of which messages; those that are not there are passed over. None: all that are there now.

        Raises:
            JournalFull: the disk is full; what was not sent again stays a dead letter.
        """
        return self._sort(Sorting(self, ids, again=True))

    def drop(self, *ids: str) -> int:
        """Throw messages away. Returns how many.

        Args:
            *ids: of which messages; those that are not there are passed over. None: all that are there now.
        """
        return self._sort(Sorting(self, ids, again=False))

    def _page(self, after: int) -> Page:
        page: Page = self._pusher._wait(self._ask_page(after), None)
        return page

    def _sort(self, sorting: Sorting) -> int:
        wait = self._pusher._wait
        while not sorting.over(page := self._page(sorting.after)):
            asked = sorting.ask(page)
            if asked is not None:
                try:
                    tickets = sorting.go_on(page, wait(asked, None))
                except BaseException:
                    sorting.abandon(asked)
                    raise
                for ticket in tickets:
                    sorting.stored(wait(ticket, None))
        return sorting.done


class Pusher(PusherBase, Peer):
    """Hands out messages, each to one of the pullers, until it is settled.

    Args:
        *addresses: to bind.
        journal: a file that keeps what is not settled; made if it is not there. None: memory only. Pullers that are at
            work when this is closed, and come back to it within its heartbeat bound after it was opened again, go on.
        durability: how safe a message is when `send` returns: "power" (synced to the disk), "process" (survives the
            death of the process), "memory". Without a journal it is "memory".
        max_failures: a message on which handlers failed so often becomes a dead letter.
        backoff: pauses between tries; drawn with full jitter.
        max_waiting: how many messages may be accepted and not settled; then `send` waits for room. None: as many
            as the disk (with a journal) or `limits` (without) take.
        dedupe: how long, and how many, ids of ``send(id=)`` are remembered, with a journal also across restarts.
        plain: send to plain PULL sockets of any language, the encoded body as one frame (with codec="raw" a list of
            bytes as so many). A message waits here, in the journal if there is one, until a PULL is connected and has
            room; then it is ZeroMQ's, and counts as acked: whether it arrives, and what becomes of it, nobody tells.
            What ZeroMQ holds for a connection, 1,000 messages at most, is lost with it. No headers, ids or retries.
        **common: see `Common`.
    """

    _receipt = Receipt
    _waits = True

    def __init__(
        self,
        *addresses: str,
        journal: Path | None = None,
        durability: Durability = "power",
        max_failures: int = 20,
        backoff: Backoff | None = None,
        max_waiting: int | None = None,
        dedupe: Window | None = None,
        plain: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(addresses, journal, durability, max_failures, backoff, max_waiting, dedupe, plain, common)

    def send(
        self, body: object, /, *, id: str | None = None, key: str | None = None, priority: int = 0,
        delay: float | None = None, ttl: float | None = None, headers: Headers | None = None,
        timeout: float | None = None,
    ) -> Receipt:  # fmt: skip
        """Send one message; returns once it is stored at the set durability.

        Args:
            body: what the codec takes.
            id: its own id, 1 to 1,000 characters. One that was seen within the window of `dedupe` is not stored again:
                the receipt is that of the first one, also if that has settled.
            key: 1 to 200 characters. Messages of one key go one after another, in the order in which they were sent:
                the next one when the one before has settled. Other keys do not wait.
            priority: messages of a higher one go first, -2**31 to 2**31; never past others of the same key.
            delay, ttl: seconds before which it is not delivered; after which it is not, but counts as expired.
            headers: text to text, for the receiver.
            timeout: seconds to wait for room and for the journal; None: as long as it takes; 0: do not wait for room.

        Raises:
            Full: no room in time; nothing was stored.
            WaitTimeout: out of time after it was accepted; it is possibly stored.
            EncodeError: the body cannot travel.
            JournalFull: the disk is full; it was not stored.
            CommitIndeterminate: the journal failed, and whether it was stored cannot be known.
        """
        check_timeout(timeout)
        self._check_wait()
        pack = self._pack_one(body, asked(id, key, priority, delay, ttl, headers))
        receipt: Receipt = self._begin(pack, wait=timeout != 0)
        try:
            receipt._stored(self._wait(receipt._ticket, timeout or None))
        except WaitExpired:
            raise too_late(receipt, self._take_back(receipt._ticket), timeout) from None
        return receipt

    def send_nowait(
        self, body: object, /, *, id: str | None = None, key: str | None = None, priority: int = 0,
        delay: float | None = None, ttl: float | None = None, headers: Headers | None = None,
    ) -> Receipt:  # fmt: skip
        """Send one message without waiting for anything; the receipt tells when it is stored.

        Raises:
            Full: no room; nothing was stored.
            EncodeError: the body cannot travel.
        """
        pack = self._pack_one(body, asked(id, key, priority, delay, ttl, headers))
        self._check_room(pack)
        receipt: Receipt = self._begin(pack, wait=True, lazy=True)
        return receipt

    def send_many(self, bodies: Iterable[object | Outgoing[Any]], /, *, timeout: float | None = None) -> int:
        """Send all, journalled in groups; returns how many, once all are stored.

        Args:
            bodies: bodies, or `Outgoing` ones.
            timeout: seconds for all of it; None: as long as it takes.

        Raises:
            PartlySent: it stopped midway; `confirmed` of the first are stored, and the cause is chained.
            TypeError: `bodies` is a single body: text, bytes or a mapping.
        """
        self._check_wait()
        bulk = Bulk(self, bodies, timeout)
        self._start()
        try:
            while bulk.hand_over():
                for ticket in bulk.awaited():
                    self._wait(ticket, bulk.left)
            for ticket in bulk.awaited(0):
                self._wait(ticket, bulk.left)
        except Exception as error:
            self._find_stored(bulk)
            cause = cause_of(error)
            raise bulk.partly(cause) from cause
        return bulk.confirmed

    def _find_stored(self, bulk: Bulk) -> None:
        """Wait for what was handed over before it stopped. What has no room by then is taken back."""
        with contextlib.suppress(Exception):
            for ticket in bulk.awaited(0):
                try:
                    self._wait(ticket, bulk.left)
                except WaitExpired:
                    for late in bulk.give_up():
                        self._take_back(late)
                    self._wait(ticket, 0)

    def flush(self, timeout: float | None = None, *, until: Point = "settled") -> Settled:
        """Block until all that was sent before, and is due, has come so far. Returns the counts, and who is not due.

        Args:
            timeout: seconds; None: no limit.
            until: "settled" (acked, or a dead letter), or less: "accepted" by this pusher, "journalled", "received" by
                a puller.

        Raises:
            WaitTimeout: not within `timeout` seconds; what waits goes on.
        """
        check_point(until)
        check_timeout(timeout)
        self._check_wait()
        self._start()
        left = self._drain_outbox(timeout)
        ticket = self._ask(self._core.wait, until, 0, self._newest)
        try:
            counts = self._wait_or_forget(ticket, left, self._core.forget_wait)
        except WaitExpired:
            raise self._unflushed(until, timeout) from None
        return Settled(*counts)

    def dead_letters(self) -> DeadLetters:
        """The messages that failed for good: to look at, to send again, to drop."""
        return DeadLetters(self)

    # ---- waiting -------------------------------------------------------------------

    def _take_back(self, ticket: Ticket) -> bool:
        return bool(self._wait(self._ask(self._core.withdraw, ticket), None))

    def _close(self, linger: float | None) -> None:
        assert self._driver is not None
        deadline = deadline_of(linger)
        try:
            self._end_outbox(linger)
            ticket = self._linger_ticket(linger)
            if ticket is not None:
                try:
                    self._wait(ticket, linger)
                except Exception as error:
                    self._tell_lingered(error, linger)
        finally:
            if self._plain:
                ended, seconds = self._begin_end(left_of(deadline))
                with contextlib.suppress(WaitExpired):
                    wait(ended, seconds)
            else:
                self._driver.close(1.0)
        self._tell_left_behind()

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self.close()
        except Unsettled as error:
            if v is None:
                raise
            log.error("%s", error)  # what left the block is what the caller gets
