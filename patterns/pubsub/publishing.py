"""Publishing, as the sync and the async face share it: everything of a publisher that does not wait.

Knows the publisher's core and its verbs, codecs and the journal; no event loop.

What several calls of ``publish`` hand over until the core has its turn goes to it together, and shares frames. Without
a journal the callers' threads give the core its turns (see `zmqkit.transport.shared`): a lone message leaves at once,
in its caller's thread; of a flood only each so many messages, or microseconds, one caller does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar, Final

from zmqkit import checks
from zmqkit import codec as codecs
from zmqkit.errors import PartlySent, UsageError
from zmqkit.journal import SqliteJournal
from zmqkit.options import Durability, Retention
from zmqkit.patterns.pubsub.endpoints import DataPeer
from zmqkit.patterns.pubsub.publisher import PublisherCore
from zmqkit.patterns.pubsub.rows import LOGS, ROW_BYTES, ROW_MESSAGES, Found, Pack, begin_epoch
from zmqkit.patterns.pubsub.settings import PublisherSettings, stream_name
from zmqkit.patterns.pubsub.topics import check_topic
from zmqkit.peer.base import Addresses, Common, check_types
from zmqkit.transport.driver import DataKind, Driver
from zmqkit.transport.tickets import Ticket

Headers = Mapping[str, str]
Path = str | PathLike[str]

log = logging.getLogger("zmqkit.pubsub")

ALONE_SECONDS: Final = 15e-6
"""Messages that come sooner than this after the one before has left are many..."""
BURST: Final = 4
"""...when there were so many of them: each then waits for others to go with it..."""
GATHER_MESSAGES: Final = 4096
"""...until there are so many..."""
GATHER_SECONDS: Final = 0.0005
MOST_SECONDS: Final = 0.005
"""...or this is over."""
FIRST_RUN: Final = 64
"""So many messages are encoded together while it is not known how large they are."""
BULK_RUNS: Final = 8
"""So many runs of ``publish_many`` share a turn, where nothing is stored."""

CLOSING: Final = 1.0
"""Seconds that a closing core has for its goodbyes."""

FOR_EVER: Final = 1e6
"""Seconds."""

HISTORY: Final = 1_000
"""Messages that are kept where nothing else is said."""

KNOWN_TOPICS: Final = 20_000
"""So many topics need not be checked again."""


class Gathering:
    """Messages that wait for the core's next turn.

    Attributes:
        first: the first one's offset; the others follow.
        sent_at: microseconds since 1970.
        messages: topic, encoded body and headers of each. Grows by one atomic step a message.
        size: bytes of bodies.
        posted: the core was asked for a turn...
        pressed: ...at once.
        began: on the monotonic clock.
        ticket: resolved when all of it is stored; None: nobody asks.
    """

    __slots__ = ("began", "first", "messages", "posted", "pressed", "sent_at", "size", "ticket")

    def __init__(self, first: int, ticket: Ticket | None) -> None:
        self.first = first
        self.sent_at = time.time_ns() // 1000
        self.messages: list[tuple[str, bytes, dict[str, str] | None]] = []
        self.size = 0
        self.posted = False
        self.pressed = False
        self.began = time.monotonic()
        self.ticket = ticket


class PublisherBase(DataPeer):
    """A publisher without the waiting."""

    _role: ClassVar[str] = "publish"
    _accepts: ClassVar[frozenset[str]] = frozenset({"subscribe"})
    _binds: ClassVar[bool] = True
    _latency: ClassVar[bool] = True
    _data: ClassVar[DataKind] = "XPUB"
    _core: PublisherCore

    def __init__(
        self, addresses: Sequence[str], history: int, journal: Path | None, durability: Durability,
        retention: Retention | None, last_value: bool, plain: bool, recovery: Addresses | None, common: Common,
    ) -> None:  # fmt: skip
        super().__init__(addresses, common)
        if type(history) is not int or history < 0:
            raise ValueError(f"history must be a whole number of 0 or more, got {history!r:.100}")
        if durability not in ("power", "process", "memory"):
            raise ValueError(f'durability must be "power", "process" or "memory", got {durability!r}')
        self._retention = Retention() if retention is None else retention
        check_types(retention=(self._retention, Retention), last_value=(last_value, bool), plain=(plain, bool))
        path = None if journal is None else checks.file_path("journal", journal)
        if plain:
            _check_plain(
                ("journal", path is not None), ("last_value", last_value), ("retention", retention is not None),
                ("history", history not in (0, HISTORY)),
            )  # fmt: skip
        elif path is None and retention is not None:
            raise UsageError("retention= is of a journal: give journal=PATH, too, or history= for what memory keeps")
        # Without a journal durability is memory, whatever was asked; "memory" needs no journal.
        self._journal_path = path if durability != "memory" else None
        self._durability = durability
        self._history = 0 if plain else history
        self._last_value = last_value
        self._plain = plain
        self._set_recovery(recovery)
        self._gathered: Gathering | None = None
        self._ready: list[tuple[Gathering | list[Pack], int, Ticket | None]] = []
        """What goes to the core next, in the order of the offsets, each with its first one."""
        self._next = 1
        self._latest = 0.0
        """When a message was published last, or had left."""
        self._burst = 0
        """How many came one soon after the other."""
        self._gathers = GATHER_SECONDS
        """How long messages wait for others: as long as it took to send the last ones, where that was long."""
        self._known: dict[str, None] = {}

    def _build(self) -> tuple[PublisherCore, Any]:
        if self._journal_path is None:
            return self._make_core(None), None
        journal = SqliteJournal(
            self._journal_path, durability=self._durability, logs=LOGS, kind="publisher", owner=self.name
        )
        try:
            return self._make_core(journal), journal
        except BaseException:
            journal.close()
            raise

    def _make_core(self, journal: SqliteJournal | None) -> PublisherCore:
        local = self._local()
        first, found = (1, Found()) if journal is None else begin_epoch(journal)
        epoch = os.urandom(16).hex() if journal is None else journal.epoch
        settings = PublisherSettings(
            publisher=local.instance.hex() if journal is None else journal.uuid,
            epoch=epoch,
            stream=stream_name(os.urandom(8), epoch),
            history=self._history,
            durable=journal is not None,
            retention=self._retention,
            last_value=self._last_value,
            plain=self._plain,
            wall=time.time() - time.monotonic(),
            limits=self._limits,
        )
        self._next = first
        local = dataclasses.replace(local, about=settings.about(first))
        return PublisherCore(local, settings, self._random(), first, found)

    def _set_up(self, driver: Driver) -> None:
        driver.submit(self._core.recovery_at, self._told_recovery(driver))
        super()._set_up(driver)

    # ---- publishing ----------------------------------------------------------------

    def _encoded(self, topic: str, body: object, headers: Headers | None) -> tuple[str, bytes, dict[str, str] | None]:
        """Check and encode, in the caller's thread."""
        if topic not in self._known:
            self._learn(topic)
        kept = None if headers is None else self._checked(headers)
        return topic, codecs.encode(body, self._codec, limits=self._limits), kept

    def _checked(self, headers: Headers) -> dict[str, str] | None:
        kept = codecs.check_headers(headers)
        if kept and self._plain:
            raise UsageError("plain=True sends topic and body, and nothing else: leave headers= out")
        return kept or None

    def _learn(self, topic: str) -> None:
        check_topic(topic)
        if len(self._known) >= KNOWN_TOPICS:
            self._known = {}
        self._known[topic] = None

    def _publish_soon(self, topic: str, body: object, headers: Headers | None) -> int:
        """Publish where nothing is stored: no wait. Written out, as this is once for every message."""
        driver = self._driver
        if driver is None or self._closed:
            driver = self._open_driver
        if topic not in self._known:
            self._learn(topic)
        kept = None if headers is None else self._checked(headers)
        data = codecs.encode(body, self._codec, limits=self._limits)
        with self._state_lock:
            gathered = self._gathered
            if gathered is None:
                gathered = self._gathered = Gathering(self._next, None)
            messages = gathered.messages
            offset = gathered.first + len(messages)
            messages.append((topic, data, kept))
            gathered.size += len(data)
        now = time.monotonic()
        pause, self._latest = now - self._latest, now
        if pause >= ALONE_SECONDS:
            self._burst = 0
        elif self._burst < BURST:
            self._burst += 1
        else:
            if not gathered.posted:
                driver.defer(self._hand_over)
                gathered.posted = True
                return offset
            few = len(messages) < GATHER_MESSAGES and gathered.size < ROW_BYTES
            if gathered.pressed or (few and now - gathered.began < self._gathers):
                return offset
        gathered.posted = gathered.pressed = True
        driver.submit(self._hand_over)
        self._latest = time.monotonic()
        self._gathers = min(max(GATHER_SECONDS, self._latest - now), MOST_SECONDS)
        return offset

    def _publish_stored(self, topic: str, body: object, headers: Headers | None) -> tuple[Ticket, int]:
        """Publish where it is stored first. Returns what to wait for, and the message's offset."""
        driver = self._open_driver
        message = self._encoded(topic, body, headers)
        with self._state_lock:
            gathered = self._gathered
            if gathered is None:
                gathered = self._gathered = Gathering(self._next, driver.ticket())
            offset = gathered.first + len(gathered.messages)
            gathered.messages.append(message)
            gathered.size += len(message[1])
        if not gathered.posted:
            driver.submit(self._hand_over)
            gathered.posted = True
        assert gathered.ticket is not None
        return gathered.ticket, offset

    def _close_gathering(self) -> None:
        """What comes from now on is gathered anew. Hold the lock."""
        gathered, self._gathered = self._gathered, None
        if gathered is not None:
            self._next = gathered.first + len(gathered.messages)
            self._ready.append((gathered, gathered.first, gathered.ticket))

    def _hand_over(self, now: float) -> None:
        """Give the core all that there is, in its order. Runs where the core may be touched."""
        with self._state_lock:
            self._close_gathering()
            ready, self._ready = self._ready, []
        for what, first, ticket in ready:
            packs = packs_of(what, self._codec) if isinstance(what, Gathering) else what
            self._core.publish(packs, first, ticket, now)

    def _publish_packs(self, packs: list[Pack], *, soon: bool = False) -> Ticket | None:
        """Publish many at once, or soon. Returns what to wait for, if anything."""
        driver = self._open_driver
        ticket = driver.ticket() if self._journal_path is not None else None
        with self._state_lock:
            self._close_gathering()
            self._ready.append((packs, self._next, ticket))
            self._next += sum(len(pack.lengths) for pack in packs)
        if soon:
            driver.defer(self._hand_over)
        else:
            driver.submit(self._hand_over)
        return ticket

    def _packs(self, messages: Iterable[tuple[str, object]]) -> Iterator[list[Pack]]:
        """Checked and encoded, in runs of what a row takes: as many as the last ones let expect."""
        topics: list[str] = []
        bodies: list[object] = []
        run = FIRST_RUN
        for each in messages:
            if not isinstance(each, tuple) or len(each) != 2:
                raise TypeError(f"publish_many takes pairs of a topic and a body, got {each!r:.100}")
            topic, body = each
            if topic not in self._known:
                self._learn(topic)
            topics.append(topic)
            bodies.append(body)
            if len(topics) >= run:
                packs = self._packed(topics, bodies)
                yield packs
                size = sum([len(pack.blob) for pack in packs])
                run = max(1, min(ROW_MESSAGES, ROW_BYTES * run // max(size, 1)))
                topics, bodies = [], []
        if topics:
            yield self._packed(topics, bodies)

    def _packed(self, topics: list[str], bodies: list[object]) -> list[Pack]:
        lengths, blob = codecs.encode_many(bodies, self._codec, limits=self._limits)
        return list(_split(topics, lengths, blob, {}, self._codec, time.time_ns() // 1000))

    # ---- the end -------------------------------------------------------------------

    def _begin_drain(self, linger: float | None) -> Ticket | None:
        """What a closing publisher waits for: that all is with those who listen. None: it waits for nothing."""
        driver = self._driver
        assert driver is not None
        with contextlib.suppress(UsageError):  # it has ended
            driver.submit(self._hand_over)
            if linger != 0 and not self._plain:
                ticket = driver.ticket()
                driver.submit(self._core.wait_drained, ticket)
                return ticket
        return None

    def _begin_end(self, linger: float | None) -> tuple[Ticket, float | None]:
        """Ask the driver to end. Returns what to wait for, and how long: sockets send what they hold meanwhile."""
        driver = self._driver
        assert driver is not None
        flush = FOR_EVER if linger is None else linger
        driver.begin_close(CLOSING, flush=flush)
        return driver.ended, None if linger is None else linger + 2 * CLOSING

    def _tell_end(self) -> None:
        failure = self._driver.failure if self._driver is not None else None
        if failure is not None:
            raise failure  # what its journal holds is not known to be safe

    # ---- subscribers ---------------------------------------------------------------

    def _check_count(self, count: int, topic: str | None) -> None:
        """Raises for what ``wait_for_subscribers`` does not take."""
        checks.count("count", count)
        if topic is not None:
            check_topic(topic)

    def _too_few_subscribers(self, count: int, topic: str | None, timeout: float | None) -> str:
        which = "" if topic is None else f" to {topic!r}"
        wanted = f"{count} subscriber{'' if count == 1 else 's'}{which}"
        return f"{self.name}: {wanted} did not come within {timeout} s: {self._company()}"


class Bulk:
    """What ``publish_many`` has under way: two runs at a time are stored, while the next one is encoded."""

    def __init__(self, publisher: PublisherBase) -> None:
        self.confirmed = 0
        self._publisher = publisher
        self._runs = 0
        self._stored: list[tuple[Ticket, int]] = []

    def add(self, packs: list[Pack]) -> Iterator[Ticket]:
        """Hand over, and yield what to wait for; what comes back from it counts as confirmed."""
        self._runs += 1
        soon = self._publisher._journal_path is None and self._runs % BULK_RUNS != 0
        ticket = self._publisher._publish_packs(packs, soon=soon)
        count = sum(len(pack.lengths) for pack in packs)
        if ticket is None:
            self.confirmed += count
            return
        self._stored.append((ticket, count))
        yield from self.rest(2)

    def rest(self, most: int = 0) -> Iterator[Ticket]:
        """What to wait for until so many are left."""
        if not most:
            self._publisher._open_driver.submit(self._publisher._hand_over)
        while len(self._stored) > most:
            ticket, count = self._stored.pop(0)
            yield ticket
            self.confirmed += count


def _check_plain(*given: tuple[str, bool]) -> None:
    """Raises for what was given, by name, and plain frames have no use for."""
    names = [f"{name}=" for name, is_given in given if is_given]
    if names:
        raise UsageError(
            f"plain=True sends to whoever listens, keeps nothing and answers nobody: leave {' and '.join(names)} out"
        )


def bulk_error(confirmed: int, cause: Exception) -> PartlySent:
    """The error of a ``publish_many`` that stopped midway."""
    return PartlySent(f"stopped after {confirmed} messages were published: {cause}", confirmed=confirmed)


def packs_of(gathered: Gathering, codec: str) -> list[Pack]:
    """What was gathered, in runs of what a row takes."""
    messages, found, start = gathered.messages, [], 0
    while start < len(messages):
        end = start + ROW_MESSAGES
        if gathered.size > ROW_BYTES:
            end, size = start + 1, len(messages[start][1])
            while end < min(len(messages), start + ROW_MESSAGES) and size + len(messages[end][1]) <= ROW_BYTES:
                size += len(messages[end][1])
                end += 1
        topics, bodies, headers = zip(*messages[start:end], strict=True)
        kept = {at: each for at, each in enumerate(headers) if each} if any(headers) else {}
        found.append(_pack(topics, list(map(len, bodies)), b"".join(bodies), kept, codec, gathered.sent_at))
        start = end
    return found


def _split(
    topics: Sequence[str], lengths: list[int], blob: bytes, headers: dict[int, dict[str, str]], codec: str, sent_at: int
) -> Iterator[Pack]:
    if len(lengths) <= ROW_MESSAGES and len(blob) <= ROW_BYTES:
        yield _pack(topics, lengths, blob, headers, codec, sent_at)
        return
    start = at = 0
    while start < len(lengths):
        end, size = start, 0
        while end < len(lengths) and end - start < ROW_MESSAGES and (end == start or size + lengths[end] <= ROW_BYTES):
            size += lengths[end]
            end += 1
        here = {index - start: each for index, each in headers.items() if start <= index < end} if headers else {}
        yield _pack(topics[start:end], lengths[start:end], blob[at : at + size], here, codec, sent_at)
        start, at = end, at + size


def _pack(
    topics: Sequence[str], lengths: list[int], blob: bytes, headers: dict[int, dict[str, str]], codec: str, sent_at: int
) -> Pack:
    table = dict.fromkeys(topics)
    if len(table) == 1:
        return Pack(codec, sent_at, list(table), None, lengths, blob, headers)
    places = {topic: index for index, topic in enumerate(table)}
    return Pack(codec, sent_at, list(table), list(map(places.__getitem__, topics)), lengths, blob, headers)
