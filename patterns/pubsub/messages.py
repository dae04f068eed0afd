"""Messages, as the sync and the async face share them: all of dealing with one that does not wait.

Knows parcels and what was handed out; no event loop.
"""

from __future__ import annotations

import logging
import traceback as tracebacks
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Generic, Literal

import anyio
from typing_extensions import TypeVar

from zmqkit.errors import Duplicate, UsageError
from zmqkit.inbox import Connection, Position
from zmqkit.inbox import Transaction as Commit
from zmqkit.patterns.pubsub.parcels import Parcel
from zmqkit.transport.tickets import Ticket

T = TypeVar("T", default=Any)

Headers = Mapping[str, str]

log = logging.getLogger("zmqkit.pubsub")

PAUSES: Final = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02)
"""Seconds between two looks of a coroutine whether the inbox is free."""


class MessageBase(Generic[T]):
    """One message.

    Attributes:
        body: what was published.
    """

    __slots__ = ("_index", "_outcome", "_parcel", "_subscriber", "body")

    def __init__(self, subscriber: Any, parcel: Parcel, index: int, body: T) -> None:
        self._subscriber = subscriber
        self._parcel = parcel
        self._index = index
        self.body = body
        self._outcome: Literal["entered", "undone", "done", "returned"] | None = None
        """Undone: a transaction of it was rolled back, outside of a with-block, and no other was committed since."""

    @property
    def topic(self) -> str:
        """What it was published to."""
        parcel = self._parcel
        indexes = parcel.indexes
        return parcel.topics[0 if indexes is None else indexes[self._index]]

    @property
    def sequence(self) -> int:
        """Its offset: rises by one with each message of its publisher, whatever the topic."""
        return self._parcel.offsets[self._index]

    @property
    def publisher(self) -> str:
        """Whose it is: 32 hex digits, the journal's where it has one; then they outlive a restart."""
        return self._parcel.publisher

    @property
    def epoch(self) -> str:
        """Which opening of the publisher it is of: 32 hex digits."""
        return self._parcel.epoch

    @property
    def id(self) -> str:
        """Unique, and the same however often it comes."""
        parcel = self._parcel
        return f"{parcel.publisher[:16]}-{parcel.epoch[:8]}-{parcel.offsets[self._index]}"

    @property
    def sent_at(self) -> datetime:
        """When it was published, by the publisher's clock; UTC."""
        return datetime.fromtimestamp(self._parcel.sent_at / 1e6, UTC)

    @property
    def headers(self) -> Headers:
        """What the publisher attached."""
        return self._parcel.headers.get(self._index, {})

    @property
    def replayed(self) -> bool:
        """Whether it came from the publisher's history and not as it was published."""
        return self._parcel.replayed

    def __repr__(self) -> str:
        return f"<Message {self.id} {self.topic!r}>"

    # ---- dealing with it -------------------------------------------------------------

    @property
    def _position(self) -> Position:
        return Position(self._parcel.publisher, self._parcel.epoch, self.sequence)

    def _enter(self) -> None:
        self._outcome = self._outcome or "entered"

    def _commit(self) -> Ticket | None:
        """Keep that it is dealt with. Returns what to wait for, if anything."""
        subscriber = self._subscriber
        if subscriber._progress is None:
            raise UsageError("there is no position to commit: give the subscriber cursor= or inbox=")
        if self._outcome == "done":
            return None
        ticket: Ticket | None = subscriber._keep(self, wait=True)
        self._outcome = "done"
        return ticket

    def _is_done(self) -> None:
        """It is dealt with. An inbox keeps that at once; a cursor's publisher is told soon, and nobody waits for it."""
        if self._outcome != "done":
            self._outcome = "done"
            self._subscriber._keep(self)

    def _is_passed(self) -> None:
        """The next one is asked for, where this one was taken: it is dealt with, unless it is in a with-block, or what
        was tried of it was undone. Then it comes again."""
        if self._outcome is None:
            self._outcome = "done"
            self._subscriber._keep(self, wait=False, lazily=True)
        elif self._outcome == "undone":
            failures, pause = self._subscriber._count_failure(self)
            log.info("message %s: %d transactions were rolled back, again in %.1f s", self.id, failures, pause)
            self._again(pause)

    def _transaction(self, *, waits: bool) -> Transaction:
        inbox = self._subscriber._inbox
        if inbox is None:
            raise UsageError("message.transaction() needs a subscriber with inbox=, as in Subscriber(inbox='state.db')")
        if self._outcome == "done":
            raise UsageError(f"message {self.id} is dealt with, and its position is kept")
        return Transaction(self, waits=waits)

    def _leave(self, error: BaseException | None) -> bool:
        """The end of a with-block. True contains the exception."""
        subscriber = self._subscriber
        if error is None:
            if subscriber._progress is not None:
                self._is_done()
            return False
        if isinstance(error, Duplicate) and subscriber._inbox is not None:
            log.info("%s: %s", subscriber.name, error)
            self._is_done()
            return True
        if not isinstance(error, Exception):
            # Cancelled, interrupted, exiting: nobody's failure.
            if subscriber._progress is not None:
                self._again(0.0)
            return False
        return self._failed(error)

    def _failed(self, error: Exception) -> bool:
        """A handler raised. True contains it."""
        subscriber = self._subscriber
        policy = subscriber._on_error
        if policy == "raise":
            if subscriber._progress is not None:
                self._again(0.0)
            return False
        trace = "".join(tracebacks.format_exception(error))
        if self._outcome in ("done", "returned"):
            log.error("message %s was dealt with, then its handler raised:\n%s", self.id, trace)
        elif policy == "retry":
            failures, pause = subscriber._count_failure(self)
            log.warning("message %s failed %d times, again in %.1f s:\n%s", self.id, failures, pause, trace)
            self._again(pause)
        else:
            log.warning("message %s failed, and is skipped:\n%s", self.id, trace)
            subscriber._count("messages_skipped")
            if subscriber._progress is not None:
                self._is_done()
        return True

    def _again(self, pause: float) -> None:
        """Let it be taken once more."""
        if self._outcome not in ("done", "returned"):
            self._outcome = "returned"
            self._subscriber._give_back(self._parcel, self._index, pause)


class Transaction:
    """What ``with message.transaction() as db:`` enters; coroutines say ``async with``."""

    __slots__ = ("_commit", "_message", "_waits")

    def __init__(self, message: MessageBase[Any], *, waits: bool) -> None:
        self._message = message
        self._waits = waits
        self._commit: Commit | None = None

    def _try_begin(self, *, wait: bool) -> Connection | None:
        message = self._message
        subscriber = message._subscriber
        position = message._position
        if self._commit is not None:
            raise UsageError(f"the transaction of message {message.id} is open already")
        if not subscriber._progress.is_oldest(*position):
            raise UsageError(
                f"an older message than {message.id} is in hand, and its effects would be passed over: with inbox= "
                f"deal with one message after the other"
            )
        commit = subscriber._inbox.begin(wait=wait)
        if commit is None:
            return None
        try:
            subscriber._positions.advance(commit, position, message.id)
        except BaseException:
            commit.rollback()
            raise
        self._commit = commit
        connection: Connection = commit.connection
        return connection

    def __enter__(self) -> Connection:
        connection = self._try_begin(wait=self._waits)
        if connection is None:
            raise UsageError("another task writes to the inbox now, and waiting would stop the loop: say `async with`")
        return connection

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        commit, self._commit = self._commit, None
        assert commit is not None  # it was entered
        message = self._message
        message._outcome = message._outcome or "undone"
        if t is not None:
            commit.rollback()
            return
        commit.commit()
        message._outcome = "done"
        message._subscriber._passed(message)

    async def __aenter__(self) -> Connection:
        tries = 0
        while (connection := self._try_begin(wait=False)) is None:
            await anyio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
            tries += 1
        return connection

    async def __aexit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        self.__exit__(t, v, tb)
