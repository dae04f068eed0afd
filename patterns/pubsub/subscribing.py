"""Subscribing, as the sync and the async face share it: everything of a subscriber that does not wait.

Knows the subscriber's core and its verbs, codecs and the inbox; no event loop. Messages are taken from the mailbox's
first parcel as jobs are (see `zmqkit.patterns.pipeline.taking`): by an iterator of its indexes that all takers share,
so that no interrupt, no cancellation and no other thread loses a message or doubles it.
"""

from __future__ import annotations

import copy
import logging
import math
import random
import time
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final, cast, get_args

from zmqkit import checks
from zmqkit import codec as codecs
from zmqkit.errors import Closed, DecodeError, UsageError
from zmqkit.events import BadFrame
from zmqkit.inbox import Inbox, Position, Positions, Source, check_source
from zmqkit.options import Backoff, OnFailure, OnGap, OnSlow, Start
from zmqkit.patterns.pubsub.endpoints import DataPeer
from zmqkit.patterns.pubsub.messages import MessageBase
from zmqkit.patterns.pubsub.parcels import OVERHEAD_BYTES, Gone, Parcel
from zmqkit.patterns.pubsub.plain import PlainCore
from zmqkit.patterns.pubsub.positions import Progress
from zmqkit.patterns.pubsub.subscriber import SubscriberCore, SubscriberSettings
from zmqkit.patterns.pubsub.talk import MAX_CURSOR
from zmqkit.patterns.pubsub.topics import check_patterns
from zmqkit.peer.base import Addresses, Common, check_types, left_of
from zmqkit.transport.driver import DataKind, Driver
from zmqkit.transport.mailbox import Mailbox
from zmqkit.transport.waiters import Waiter

log = logging.getLogger("zmqkit.pubsub")

SPENT_AT_ONCE: Final = 64
"""So many parcels that were taken whole are told to the core together, or fewer if they are large."""

SAVE_SECONDS: Final = 0.5
"""How often the inbox is told of messages that were passed over without a transaction of theirs."""

MAX_FAILING: Final = 10_000
"""Of so many messages it is remembered how often they failed."""


class Last:
    """What was taken last."""

    message: MessageBase[Any] | None = None


class Aside:
    """Messages of a parcel that were taken and given back.

    Attributes:
        due: not to be taken before; on the monotonic clock.
    """

    __slots__ = ("claims", "due", "parcel")

    def __init__(self, parcel: Parcel | Gone, indexes: Iterable[int], due: float = 0.0) -> None:
        self.parcel = parcel
        self.claims = iter(list(indexes))
        self.due = due


class SubscriberBase(DataPeer):
    """A subscriber without the waiting."""

    _role: ClassVar[str] = "subscribe"
    _accepts: ClassVar[frozenset[str]] = frozenset({"publish"})
    _binds: ClassVar[bool] = False
    _latency: ClassVar[bool] = True
    _data: ClassVar[DataKind] = "XSUB"
    _core: Any
    _message: ClassVar[type[Any]]

    def __init__(
        self,
        addresses: Sequence[str],
        topics: str | Iterable[str],
        start: Start | datetime | None,
        cursor: str | None,
        inbox: Source | None,
        on_gap: OnGap,
        on_slow: OnSlow,
        max_age: float | None,
        on_error: OnFailure,
        group: str | None,
        plain: bool,
        recovery: Addresses | None,
        common: Common,
    ) -> None:
        super().__init__(addresses, common)
        self._topics = check_patterns(topics)
        self._from = _checked_start(start)
        self._cursor = _checked_cursor(cursor)
        check_source(inbox)
        self._inbox_source = inbox
        self._on_gap = cast(OnGap, _one_of("on_gap", on_gap, get_args(OnGap)))
        self._on_slow = cast(OnSlow, _one_of("on_slow", on_slow, get_args(OnSlow)))
        self._on_error = cast(OnFailure, _one_of("on_error", on_error, get_args(OnFailure)))
        oldest = math.inf if max_age is None else checks.seconds("max_age", max_age)
        self._max_age = None if math.isinf(oldest) else oldest
        if group is not None:
            raise UsageError("group= is kept for groups of subscribers that share messages, which there are none yet")
        if cursor is not None and inbox is not None:
            raise UsageError("cursor= keeps the position at the publisher, inbox= here: choose one")
        if start == "resume" and cursor is None and inbox is None:
            raise UsageError('start="resume" needs to know where it was: give cursor= or inbox=')
        if (cursor is not None or inbox is not None) and start not in (None, "resume", "earliest"):
            raise UsageError(
                f"start={start!r} cannot be kept with cursor= or inbox=: they go on where they were, and begin with "
                "the earliest where they are new; leave start= out"
            )
        check_types(plain=(plain, bool))
        self._plain = plain
        if plain:
            _check_plain(
                ("start", start not in (None, "latest"), "has no history"),
                ("cursor", cursor is not None, "keeps no position"),
                ("inbox", inbox is not None, "numbers nothing"), ("max_age", max_age is not None, "stamps nothing"),
                ("on_gap", on_gap != "recover", "numbers nothing, so that no gap is noticed"),
            )  # fmt: skip
        self._set_recovery(recovery)
        self._inbox: Inbox | None = None
        self._positions: Positions | None = None
        self._progress: Progress | None = None
        self._one_by_one = False
        self._failures: dict[str, int] = {}
        self._backoff = Backoff()
        self._over: Exception | None = None
        """What ended it, for good, because the user was too slow."""
        self._held_up = 0.0
        """Until when the first message is not to be taken."""
        self._sleepers: dict[Waiter, None] = {}
        """Who waits for that; a dictionary, because entering and leaving it are single calls."""
        self._spent: deque[Parcel] = deque()
        self._untold = 0
        # The core's own measure of room, see `slow.Room`; a little of it may be untold. A feed waits for its credit.
        limits = self._limits
        self._tell_from = min(limits.queued_bytes, limits.queued_messages * OVERHEAD_BYTES) // 16
        """So many bytes are worth a turn of the core."""
        self._commits: dict[str, Position] = {}
        self._unsaved: dict[str, Position] = {}
        self._last: Any = Last()
        """Where it is noted what was taken last: by threads each its own, by tasks together."""
        self._saved_at = 0.0

    # ---- opening -------------------------------------------------------------------

    def _build(self) -> tuple[SubscriberCore | PlainCore, Any]:
        known: list[Position] = []
        if self._inbox_source is not None:
            self._inbox = Inbox(self._inbox_source)
            try:
                self._positions = Positions(self._inbox)
                known = self._positions.all()
            except BaseException:
                self._inbox.close()
                raise
        durable = self._inbox is not None or self._cursor is not None
        self._progress = Progress(known) if durable else None
        self._one_by_one = durable or self._on_error == "retry"
        core = self._make_core(known)
        for name in ("messages_skipped", "messages_undecodable", "duplicates_dropped"):
            core.counters.setdefault(name, 0)
        return core, None

    def _make_core(self, known: list[Position]) -> SubscriberCore | PlainCore:
        start = self._from
        limits = self._limits
        durable = self._progress is not None
        settings = SubscriberSettings(
            topics=tuple(self._topics),
            start=max(int(start.timestamp() * 1e6), 0) if isinstance(start, datetime) else start,
            durable=durable,
            cursor=self._cursor is not None,
            positions={each.publisher: (each.epoch, each.offset) for each in known},
            on_gap=self._on_gap,
            on_slow=self._on_slow,
            max_age=self._max_age,
            limits=limits,
            wall=time.time() - time.monotonic(),
        )
        local = self._local(
            about={"cursor": self._cursor or "", "durable": durable},
            credit_messages=limits.queued_messages,
            credit_bytes=limits.queued_bytes,
        )
        if self._plain:
            return PlainCore(local, self._random(), settings, self._codec)
        return SubscriberCore(local, self._random(), settings)

    def _set_up(self, driver: Driver) -> None:
        driver.submit(self._core.tell_recovery, self._told_recovery(driver))
        super()._set_up(driver)

    # ---- topics --------------------------------------------------------------------

    def subscribe(self, *topics: str) -> None:
        """Want more topics, from about now on. From any thread; waits for nothing.

        Raises:
            ValueError: one cannot be a topic or a pattern; none is added.
        """
        patterns = check_patterns(topics)
        self._change_topics([*self._topics, *patterns], "subscribe", patterns)

    def unsubscribe(self, *topics: str) -> None:
        """Want fewer topics, named as they were when they were added. What waits already still comes."""
        patterns = check_patterns(topics)
        gone = set(patterns)
        self._change_topics([each for each in self._topics if each not in gone], "unsubscribe", patterns)

    def _change_topics(self, topics: list[str], verb: str, patterns: list[str]) -> None:
        self._check_open()
        with self._state_lock:
            self._topics = list(dict.fromkeys(topics))
            if self._driver is not None:
                self._driver.submit(getattr(self._core, verb), patterns)

    # ---- taking --------------------------------------------------------------------

    @property
    def _items_driver(self) -> Driver:
        """Opens the subscriber if that was not done; after a close that of then, so that loops end and do not raise."""
        driver = self._driver
        return driver if driver is not None else self._open_driver

    @property
    def _mailbox(self) -> Mailbox[Any]:
        driver = self._driver
        return driver.mailbox if driver is not None else self._open_driver.mailbox

    def _first_item(self) -> Any | None:
        """The first parcel of which something is left, decoded; None if there is none that may be taken now."""
        mailbox = self._mailbox
        if self._closed:
            return None
        spent = self._spent
        with mailbox.lock:
            while True:
                item = mailbox.peek()
                if item is None or item.claims.__length_hint__():
                    break
                if type(item) is Parcel:
                    spent.append(item)  # first, so that an interrupt here makes it twice and not never
                    self._untold += item.size if item.session is None else self._tell_from
                mailbox.pop()
        if spent and (self._untold >= self._tell_from or len(spent) >= SPENT_AT_ONCE):
            self._tell_spent()
        if item is None:
            return None
        if type(item) is Aside and item.due > time.monotonic():
            self._held_up = item.due
            return None
        parcel = item.parcel
        if parcel.bodies is None:
            self._decode(parcel)
        return item

    def _take(self) -> Any | None:
        """The next message that is here, None if none is. Whatever interrupts it, nothing is lost or given twice.

        Raises `MessagesLost` at its place.
        """
        progress = self._progress
        if progress is None:
            return self._take_one()
        self._save_sometimes()
        message: Any | None = None
        try:
            with progress.lock:
                message = self._take_one()
            if message is not None:
                self._last.message = message
            return message
        except BaseException:
            if message is not None:  # interrupted while the lock was let go
                self._put_aside(message._parcel, message._index)
            raise

    def _take_one(self) -> Any | None:
        if self._over is not None and not self._stopped:
            raise copy.copy(self._over)
        while (item := self._first_item()) is not None:
            parcel = item.parcel
            claimed = -1
            try:
                for index in item.claims:
                    claimed = index
                    message = self._make(parcel, index)
                    if self._mailbox.waiters:
                        self._mailbox.nudge()
                    if message is not None:
                        return message
                    claimed = -1
            except BaseException as error:
                if claimed >= 0 and not (type(parcel) is Gone and error is parcel.error):
                    self._put_aside(parcel, claimed)
                raise
        return None

    def _make(self, parcel: Parcel | Gone, index: int) -> Any | None:
        """The message of this index; None if it is nobody's: it was dealt with before, or cannot be decoded."""
        if type(parcel) is Gone:
            if parcel.final:
                self._over = copy.copy(parcel.error)
            raise parcel.error
        assert type(parcel) is Parcel
        assert parcel.bodies is not None
        body = parcel.bodies[index]
        progress = self._progress
        if progress is not None and not progress.take(parcel.publisher, parcel.epoch, parcel.offsets[index]):
            self._count("duplicates_dropped")
            return None
        message = self._message(self, parcel, index, body)
        if type(body) is DecodeError:
            self._tell_undecodable(message, body)
            if progress is not None:
                message._is_done()
            return None
        return message

    def _decode(self, parcel: Parcel) -> None:
        try:
            bodies = codecs.decode_many(parcel.lengths, parcel.blob, parcel.codec, limits=self._limits)
        except DecodeError as error:
            bodies = [error] * len(parcel)
        except UsageError as error:
            bodies = [DecodeError(str(error))] * len(parcel)
        # Where a message may come again before the next one, or needs to be looked at, each goes the longer way.
        parcel.spoiled = self._one_by_one or DecodeError in set(map(type, bodies))
        parcel.bodies = bodies

    def _put_aside(self, parcel: Parcel | Gone, index: int, due: float = 0.0) -> None:
        self._mailbox.put_back([Aside(parcel, (index,), due)])

    def _give_back(self, parcel: Parcel, index: int, pause: float) -> None:
        """A message that failed: the next one to be taken, so many seconds from now."""
        self._put_aside(parcel, index, time.monotonic() + pause if pause else 0.0)

    def _tell_spent(self) -> None:
        """Let the core know what of the mailbox was taken, so that there is room for more."""
        driver = self._driver
        if driver is not None and not self._closed:
            self._untold = 0
            driver.post(self._collect_spent)

    def _collect_spent(self, now: float) -> None:
        """Runs where the core may be touched."""
        spent = self._spent
        while spent:
            parcel = spent.popleft()
            if not parcel.told:
                parcel.told = True
                self._core.consumed(parcel, now)

    def _tell_undecodable(self, message: MessageBase[Any], error: DecodeError) -> None:
        reason = f"message {message.id} of topic {message.topic!r} cannot be decoded, and is passed over: {error}"
        self._tell_soon(self._note_undecodable, reason)

    def _note_undecodable(self, reason: str, now: float) -> None:
        core = self._core
        core.counters["messages_undecodable"] += 1
        core.out.events.append(BadFrame(self.name, reason))

    def _count(self, name: str) -> None:
        self._tell_soon(self._count_now, name)

    def _count_now(self, name: str, now: float) -> None:
        self._core.counters[name] += 1

    # ---- waiting -------------------------------------------------------------------

    def _pause(self, deadline: float | None) -> float:
        """How long to wait for a message that failed to come again, before anything else; 0: there is none."""
        pause = self._held_up - time.monotonic()
        if pause <= 0:
            return 0.0
        left = left_of(deadline)
        return pause if left is None else min(pause, left)

    def _goes_on(self, mailbox: Mailbox[Any]) -> bool:
        """Whether more may come, after a wait in which nothing did. Raises what ended the driver."""
        if mailbox.failure is not None and not self._closed:
            raise mailbox.failure
        return not (self._stopped or self._closed or mailbox.closed)

    def _ended(self) -> Closed:
        return Closed(f"{self.name} was {'closed' if self._closed else 'stopped'}")

    def stop(self) -> None:
        """Make loops end and run() return, after what they are just handling. From any thread or signal handler."""
        super().stop()
        self._wake_sleepers()

    def _wake_sleepers(self) -> None:
        for waiter in list(self._sleepers):
            waiter.wake()

    # ---- positions -----------------------------------------------------------------

    def _finish_last(self) -> None:
        """The next message is asked for: the one before it is dealt with."""
        if self._progress is not None:
            noted = self._last
            last = getattr(noted, "message", None)
            if last is not None:
                noted.message = None
                last._is_passed()

    def _keep(self, message: MessageBase[Any], *, wait: bool = False, lazily: bool = False) -> Any | None:
        """A message is dealt with: keep that. Returns a ticket if there is something to wait for.

        Args:
            wait: a cursor's publisher is to answer.
            lazily: an inbox need not be told at once: no effect in it depends on that.
        """
        self._failures.pop(message.id, None)
        position = self._passed(message)
        if position is None:
            return None  # an older one is in hand
        if self._positions is not None:
            if lazily:
                self._unsaved[position.publisher] = position
            else:
                self._unsaved.pop(position.publisher, None)
                self._positions.store(position, message.id)
            return None
        if wait:
            return self._ask(self._core.commit, position.publisher, position.epoch, position.offset)
        first = not self._commits
        self._commits[position.publisher] = position
        if first:
            self._tell_soon(self._commit_soon)
        return None

    def _commit_soon(self, now: float) -> None:
        """Runs where the core may be touched."""
        commits, self._commits = self._commits, {}
        for each in commits.values():
            self._core.commit(each.publisher, each.epoch, each.offset, None, now)

    def _passed(self, message: MessageBase[Any]) -> Position | None:
        assert self._progress is not None
        return self._progress.done(message.publisher, message.epoch, message.sequence)

    def _save_sometimes(self, *, at_once: bool = False) -> None:
        """Tell the inbox, now and then, of messages that nobody had a transaction for."""
        if self._unsaved and (at_once or time.monotonic() >= self._saved_at + SAVE_SECONDS):
            assert self._positions is not None
            unsaved, self._unsaved = self._unsaved, {}
            self._saved_at = time.monotonic()
            for each in unsaved.values():
                self._positions.store(each, str(each.offset))

    def _count_failure(self, message: MessageBase[Any]) -> tuple[int, float]:
        """How often a message has failed, and how long to wait until it is tried again."""
        failures = self._failures
        count = failures.pop(message.id, 0) + 1
        failures[message.id] = count
        if len(failures) > MAX_FAILING:
            del failures[next(iter(failures))]
        return count, random.uniform(0.0, self._backoff.ceiling(count))

    def _close_inbox(self) -> None:
        if self._inbox is not None:
            try:
                self._save_sometimes(at_once=True)
            except Exception as error:
                log.warning("%s: what was passed over last is not kept, and comes again: %s", self.name, error)
            self._inbox.close()


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be {', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}, got {value!r}")
    return value


def _check_plain(*given: tuple[str, bool, str]) -> None:
    """Raises for the first that was given: its name, and why a plain PUB makes no sense of it."""
    for name, is_given, why in given:
        if is_given:
            raise UsageError(f"a plain PUB {why}: plain=True goes without {name}=")


def _checked_start(start: object) -> Start | datetime | None:
    if start is None:
        return None
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise ValueError(f"start must be a time with a time zone, as in datetime.now(timezone.utc), got {start!r}")
        return start
    if not isinstance(start, str) or start not in get_args(Start):
        raise ValueError(f'start must be "latest", "earliest", "resume" or a datetime, got {start!r}')
    return cast(Start, start)


def _checked_cursor(cursor: object) -> str | None:
    if cursor is None:
        return None
    if not isinstance(cursor, str):
        raise TypeError(f"cursor must be text: a name for the position that the publisher keeps, got {cursor!r}")
    if not 1 <= len(cursor) <= MAX_CURSOR or not cursor.isprintable():
        raise ValueError(f"cursor must be printable text of 1 to {MAX_CURSOR} characters, got {cursor!r:.100}")
    return cursor


def check_run(has_inbox: bool, **at_a_time: int) -> None:
    """Raises for what ``run`` does not take."""
    for name, count in at_a_time.items():
        checks.whole(name, count)
        if has_inbox and count > 1:
            raise UsageError(f"{name}={count} with inbox=: effects are committed in the order of messages, one by one")
