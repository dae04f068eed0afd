"""Sending into a pipeline, for asyncio and trio. What does not wait is in `zmqkit.patterns.pipeline.sending`.

The classes bear the names of the sync face, and their docstrings say what differs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import anyio.to_thread
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
from zmqkit.peer.aio import Peer, in_thread, to_the_end
from zmqkit.peer.base import Common, check_timeout, deadline_of, left_of
from zmqkit.transport.tickets import Ticket, WaitExpired, wait_async
from zmqkit.transport.waiters import checkpoint

T = TypeVar("T", default=Any)

log = logging.getLogger("zmqkit.pipeline")

YIELD_SECONDS = 0.001
LOOK_EVERY = 8
"""Jobs that are here already are handed out without a pause for so long; every so many jobs the clock is looked at."""


class Receipt(ReceiptBase):
    """One message on its way. See `zmqkit.Receipt`."""

    __slots__ = ()

    async def wait(self, until: Point = "settled", *, timeout: float | None = None) -> Settled:
        """Wait until the message has come so far. See `zmqkit.Receipt.wait`."""
        pusher: Pusher = self._pusher
        check_point(until)
        deadline = deadline_of(timeout)
        try:
            self._stored(await pusher._wait(self._ticket, timeout))
            further = self._ask_for(until)
            if further is not None:
                forget = pusher._core.forget_wait
                self._told(until, await pusher._wait_or_forget(further, left_of(deadline), forget))
        except WaitExpired:
            raise self._too_early(until, timeout) from None
        return pusher._settled_now()


class DeadLetters(DeadLettersBase):
    """A pusher's dead letters. See `zmqkit.DeadLetters`."""

    __slots__ = ()

    def __aiter__(self) -> AsyncIterator[DeadLetter]:
        return _Letters(self)

    async def retry(self, *ids: str) -> int:
        """Send messages again. See `zmqkit.DeadLetters.retry`."""
        return await self._sort(Sorting(self, ids, again=True))

    async def drop(self, *ids: str) -> int:
        """Throw messages away. See `zmqkit.DeadLetters.drop`."""
        return await self._sort(Sorting(self, ids, again=False))

    async def _page(self, after: int) -> Page:
        page: Page = await self._pusher._wait(self._ask_page(after), None)
        return page

    async def _sort(self, sorting: Sorting) -> int:
        wait = self._pusher._wait
        while not sorting.over(page := await self._page(sorting.after)):
            for ticket in await to_the_end(self._claim, sorting, page):
                sorting.stored(await wait(ticket, None))
        return sorting.done

    async def _claim(self, sorting: Sorting, page: Page) -> list[Ticket]:
        """What is claimed is dealt with."""
        asked = sorting.ask(page)
        return [] if asked is None else sorting.go_on(page, await self._pusher._wait(asked, None))


class _Letters:
    """The iterator of ``async for letter in pusher.dead_letters()``."""

    __slots__ = ("_after", "_here", "_letters")

    def __init__(self, letters: DeadLetters) -> None:
        self._letters = letters
        self._here: Iterator[DeadLetter] = iter(())
        self._after = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> DeadLetter:
        for letter in self._here:
            return letter
        await self._letters._pusher._start_async()
        page = await self._letters._page(self._after)
        if not page.rows:
            raise StopAsyncIteration
        self._after = page.rows[-1][0]
        self._here = self._letters._letters(page)
        return next(self._here)


class Pusher(PusherBase, Peer):
    """Hands out messages, each to one of the pullers, until it is settled. See `zmqkit.Pusher`."""

    _receipt = Receipt
    _waits = False

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

    async def send(
        self, body: object, /, *, id: str | None = None, key: str | None = None, priority: int = 0,
        delay: float | None = None, ttl: float | None = None, headers: Headers | None = None,
        timeout: float | None = None,
    ) -> Receipt:  # fmt: skip
        """Send one message; returns once it is stored. See `zmqkit.Pusher.send`.

        Cancelled, the message is withdrawn if it was not accepted yet; else it is possibly stored, and goes on.
        """
        await self._start_async()
        check_timeout(timeout)
        pack = self._pack_one(body, asked(id, key, priority, delay, ttl, headers))
        receipt: Receipt = self._begin(pack, wait=timeout != 0)
        try:
            receipt._stored(await self._wait(receipt._ticket, timeout or None))
        except WaitExpired:
            raise too_late(receipt, await self._take_back(receipt._ticket), timeout) from None
        except BaseException:
            self._withdraw_soon(receipt._ticket)
            raise
        return receipt

    def send_nowait(
        self, body: object, /, *, id: str | None = None, key: str | None = None, priority: int = 0,
        delay: float | None = None, ttl: float | None = None, headers: Headers | None = None,
    ) -> Receipt:  # fmt: skip
        """Send one message without waiting. See `zmqkit.Pusher.send_nowait`. Opens the pusher if that was not done."""
        pack = self._pack_one(body, asked(id, key, priority, delay, ttl, headers))
        self._check_room(pack)
        receipt: Receipt = self._begin(pack, wait=True, lazy=True)
        return receipt

    async def send_many(self, bodies: Iterable[object | Outgoing[Any]], /, *, timeout: float | None = None) -> int:
        """Send all, journalled in groups. See `zmqkit.Pusher.send_many`."""
        bulk = Bulk(self, bodies, timeout)
        await self._start_async()
        try:
            while bulk.hand_over():
                for ticket in bulk.awaited():
                    await self._wait(ticket, bulk.left)
                await checkpoint()
            for ticket in bulk.awaited(0):
                await self._wait(ticket, bulk.left)
        except Exception as error:
            await self._find_stored(bulk)
            cause = cause_of(error)
            raise bulk.partly(cause) from cause
        except BaseException:
            bulk.withdraw_soon()
            raise
        return bulk.confirmed

    async def _find_stored(self, bulk: Bulk) -> None:
        """Wait for what was handed over before it stopped. What has no room by then is taken back."""
        with contextlib.suppress(Exception):
            for ticket in bulk.awaited(0):
                try:
                    await self._wait(ticket, bulk.left)
                except WaitExpired:
                    for late in bulk.give_up():
                        await self._take_back(late)
                    await self._wait(ticket, 0)

    async def flush(self, timeout: float | None = None, *, until: Point = "settled") -> Settled:
        """Wait until all that was sent before has come so far. See `zmqkit.Pusher.flush`."""
        check_point(until)
        check_timeout(timeout)
        await self._start_async()
        left = timeout
        if self._relay is not None:
            left = await anyio.to_thread.run_sync(self._drain_outbox, timeout, abandon_on_cancel=True)
        ticket = self._ask(self._core.wait, until, 0, self._newest)
        try:
            counts = await self._wait_or_forget(ticket, left, self._core.forget_wait)
        except WaitExpired:
            raise self._unflushed(until, timeout) from None
        return Settled(*counts)

    def dead_letters(self) -> DeadLetters:
        """The messages that failed for good. See `zmqkit.Pusher.dead_letters`."""
        return DeadLetters(self)

    # ---- waiting -------------------------------------------------------------------

    async def _take_back(self, ticket: Ticket) -> bool:
        return bool(await self._wait(self._ask(self._core.withdraw, ticket), None))

    async def _close(self, linger: float | None) -> None:
        deadline = deadline_of(linger)
        try:
            if self._relay is not None:
                await to_the_end(in_thread, self._end_outbox, linger)
            ticket = self._linger_ticket(linger)
            if ticket is not None:
                try:
                    await self._wait(ticket, linger)
                except Exception as error:
                    self._tell_lingered(error, linger)
        finally:
            if self._plain:
                with contextlib.suppress(WaitExpired):
                    await to_the_end(wait_async, *self._begin_end(left_of(deadline)))
            else:
                await self._end_driver()
        self._tell_left_behind()

    async def __aexit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        try:
            await self.close()
        except Unsettled as error:
            if v is None:
                raise
            log.error("%s", error)  # what left the block is what the caller gets
