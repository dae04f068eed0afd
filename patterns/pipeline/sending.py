"""Sending, as the sync and the async face share it: everything of a pusher that does not wait.

Knows the pusher's core and its verbs, codecs and the journal; no event loop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any, ClassVar, Final, Literal

from zmqkit import checks
from zmqkit import codec as codecs
from zmqkit.errors import (
    Full,
    JournalDamaged,
    Unsettled,
    UsageError,
    WaitTimeout,
    ZmqkitError,
)
from zmqkit.inbox import Connection
from zmqkit.journal import SqliteJournal
from zmqkit.journal.store import HIGHEST_KEY
from zmqkit.options import Backoff, Durability, Point, Window
from zmqkit.patterns.pipeline.dedupe import IDS
from zmqkit.patterns.pipeline.doubt import INBOXES
from zmqkit.patterns.pipeline.endpoints import CLOSING, FOR_EVER, PipePeer
from zmqkit.patterns.pipeline.hands import PusherSettings
from zmqkit.patterns.pipeline.lanes import LANES
from zmqkit.patterns.pipeline.outbox import OutboxTransaction, Relay
from zmqkit.patterns.pipeline.outgoing import NOTHING, Outgoing, Wanted, check_plain, plan_of, wanted_of
from zmqkit.patterns.pipeline.outlets import FRAMES, OutletPusherCore
from zmqkit.patterns.pipeline.packing import CHUNK_BYTES as CHUNK_BYTES
from zmqkit.patterns.pipeline.packing import CHUNK_MESSAGES as CHUNK_MESSAGES
from zmqkit.patterns.pipeline.packing import pack_many
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.patterns.pipeline.returning import about_of
from zmqkit.patterns.pipeline.rows import DEAD, MARKS, MESSAGES, DeadRow, Pack, Plan
from zmqkit.patterns.pipeline.steering import ROLE
from zmqkit.patterns.pipeline.steward import Steward, address_for, make_private, remove
from zmqkit.patterns.pipeline.walltime import STATE
from zmqkit.peer.base import Common, check_types
from zmqkit.protocol import core
from zmqkit.protocol.local import Local
from zmqkit.transport.driver import Driver
from zmqkit.transport.tickets import Ticket, WaitExpired, wait

Path = str | PathLike[str]

log = logging.getLogger("zmqkit.pipeline")

MAX_FAILURES: Final = 20
"""The default of ``max_failures=``."""

PAGE_BYTES: Final = 1 << 20
"""What is read at a time when a journal is opened."""

MAX_FRAMES: Final = 1_000
"""A plain message may have so many."""

LOGS: Final = (MESSAGES, MARKS, DEAD, LANES, IDS, STATE, INBOXES)
"""Of a pusher's journal."""

_POINTS: Final = ("accepted", "journalled", "received", "settled")


# ---- sending -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Settled:
    """How many messages have settled since this pusher was opened, those it found in its journal included.

    Attributes:
        acked: a handler succeeded.
        dead: they became dead letters.
        expired: they outlived their time to live.
        not_due: ids of those whose delay has not run out, which `flush` does not wait for; 1,000 at most.
    """

    acked: int = 0
    dead: int = 0
    expired: int = 0
    not_due: tuple[str, ...] = ()


class ReceiptBase:
    """One message on its way.

    Attributes:
        id: of the message; it survives redelivery.
        outcome: "acked", "dead" or "expired", once `wait` has found it settled; None before.
    """

    __slots__ = ("_pusher", "_sequence", "_ticket", "id", "outcome")

    def __init__(self, pusher: Any, id: str, sequence: int, ticket: Ticket) -> None:
        self.id = id
        self.outcome: Literal["acked", "dead", "expired"] | None = None
        self._pusher = pusher
        self._sequence = sequence
        self._ticket = ticket

    def __repr__(self) -> str:
        return f"<Receipt {self.id} {self.outcome or 'on its way'}>"

    def _ask_for(self, until: Point) -> Ticket | None:
        """What to wait for once the message is stored; None if nothing more."""
        pusher, sequence = self._pusher, self._sequence
        ticket: Ticket | None = None
        if until == "received":
            ticket = pusher._ask(pusher._core.wait, until, sequence, sequence)
        elif until == "settled" and self.outcome is None:
            ticket = pusher._ask(pusher._core.watch_for, sequence)
        return ticket

    def _stored(self, before: int | None) -> None:
        """It is stored; or it was before, under this sequence, by a message of the same id."""
        if before is not None:
            self._sequence = before

    def _told(self, until: Point, answer: tuple[Any, Any]) -> None:
        if until == "settled":
            self.outcome = answer[0]

    def _too_early(self, until: Point, timeout: float | None) -> WaitTimeout:
        return WaitTimeout(f"message {self.id} is not {until} within {timeout} s", id=self.id)


class PusherBase(PipePeer):
    """A pusher without the waiting."""

    _socket = "PUSH"
    _role: ClassVar[str] = "push"
    _accepts: ClassVar[frozenset[str]] = frozenset({"pull"})
    _binds: ClassVar[bool] = True
    _core: PusherCore
    _receipt: ClassVar[type[Any]]
    _waits: ClassVar[bool]
    """Whether a verb of this face may block."""

    def __init__(
        self, addresses: Sequence[str], journal: Path | None, durability: Durability, max_failures: int,
        backoff: Backoff | None, max_waiting: int | None, dedupe: Window | None, plain: bool, common: Common,
    ) -> None:  # fmt: skip
        super().__init__(addresses, common)
        if durability not in ("power", "process", "memory"):
            raise ValueError(f'durability must be "power", "process" or "memory", got {durability!r}')
        checks.whole("max_failures", max_failures)
        checks.whole("max_waiting", max_waiting, none=True)
        path = None if journal is None else checks.file_path("journal", journal)
        # Without a journal durability is memory, whatever was asked; "memory" needs no journal.
        self._journal_path = path if durability != "memory" else None
        self._durability = durability
        self._max_failures = max_failures
        self._backoff = Backoff() if backoff is None else backoff
        check_types(backoff=(self._backoff, Backoff))
        self._max_waiting = max_waiting
        self._dedupe = Window() if dedupe is None else dedupe
        check_types(dedupe=(self._dedupe, Window))
        self._set_plain(plain, max_failures=max_failures != MAX_FAILURES, backoff=backoff is not None)
        self._journal: SqliteJournal | None = None
        self._sequence = 1
        self._handed_bytes = 0
        self._relay: Relay | None = None
        self._control: str | None = None
        """Where a journal's control socket is."""

    def _build(self) -> tuple[PusherCore, Any]:
        journal = None
        epoch = os.urandom(16)
        uuid = os.urandom(16).hex()
        if self._journal_path is not None:
            journal = SqliteJournal(self._journal_path, durability=self._durability, logs=LOGS, owner=self.name)
            uuid, epoch = journal.uuid, bytes.fromhex(journal.epoch)
        settings = PusherSettings(
            origin=f"{uuid[:16]}-{epoch.hex()[:8]}",
            epoch=epoch,
            durable=journal is not None,
            wall=time.time() - time.monotonic(),
            max_failures=self._max_failures,
            backoff=self._backoff,
            max_waiting=self._max_waiting,
            limits=self._limits,
            dedupe=self._dedupe,
        )
        local = self._local(about=about_of(epoch, None if journal is None or self._plain else uuid))
        self._control = None if journal is None else address_for(uuid)
        if self._control is not None:
            local = dataclasses.replace(local, accepts=local.accepts | {ROLE})
        core = self._make_core(local, settings)
        if self._control is not None:
            core.steered.address, core.steered.steward = self._control, Steward(self)
        if journal is not None:
            messages, marks = journal.totals(MESSAGES), journal.totals(MARKS)
            waiting = messages.weight - marks.weight
            core.found(messages.first_key, messages.last_key, waiting, journal.totals(DEAD).weight)
            try:
                unusual = list(_all_of(journal, LANES))
                # Marks of plain rows are read with their rows, however many wait.
                theirs = _all_of(journal, MARKS, unusual[0].key, unusual[-1].key) if unusual else ()
                core.restore(unusual, theirs, *(_all_of(journal, log) for log in (IDS, STATE, INBOXES)))
            except BaseException:
                journal.close()
                raise
            # A row's key is its first message's sequence; sequences within rows may be higher than any key.
            self._sequence = journal.highest(MESSAGES) + _LARGEST_ROW
        core.opened_at(self._sequence)
        self._journal = journal
        return core, journal

    def _make_core(self, local: Local, settings: PusherSettings) -> PusherCore:
        kind = OutletPusherCore if self._plain else PusherCore
        return kind(local, settings, self._random())

    def _endpoints(self, binds: list[str]) -> dict[str, Any]:
        found = super()._endpoints(binds)
        if self._control is not None:
            found["binds"] = [*found.get("binds", []), self._control]
        return found

    def _begin_close(self) -> bool:
        begins = super()._begin_close()
        if begins and self._control is not None and self._driver is not None and not self._forked:
            remove(self._control)
        return begins

    def _bound(self, driver: Driver) -> tuple[str, ...]:
        return tuple(address for address in super()._bound(driver) if address != self._control)

    # ---- the outbox ----------------------------------------------------------------

    def _set_up(self, driver: Driver) -> None:
        super()._set_up(driver)
        if self._control is not None:
            make_private(self._control)
        if self._journal is not None and not self._plain and os.path.exists(f"{self._journal.path}-outboxes"):
            self._outbox_relay()  # what is left there from an earlier life is sent

    def _outbox_relay(self) -> Relay:
        with self._state_lock:
            if self._relay is None:
                assert self._journal is not None
                self._relay = Relay(self, self._journal.path, self._journal.uuid)
            return self._relay

    def transaction(self, db: Connection | Path | None = None, /) -> OutboxTransaction:
        """Send if and only if a transaction of yours is committed: ``with push.transaction(db) as outbox: ...``.
        With `zmqkit.aio` it is ``async with``; the commit runs in a worker thread, if the connection may be used there.

        ``outbox.send(body)`` writes the message into the table ``zmqkit_outbox`` beside your own rows. The end of the
        block commits, an exception rolls back; then the messages go to the journal, under their ids. Where a
        transaction is open on `db` already, such as that of ``job.transaction()``, its owner commits, and the messages
        go then. What a crash leaves there is sent when the journal is opened again.

        Args:
            db: a connection, or the path of an SQLite file; then ``outbox.connection`` is one for the block.

        Raises:
            UsageError: the pusher has no ``journal=``, or `db` is none of these.
            JournalError: the database cannot be written; the subclass and the message say why.
        """
        return OutboxTransaction(self, db, waits=self._waits)

    def _drain_outbox(self, seconds: float | None) -> float | None:
        """Wait until what was committed before is in the journal. Returns the seconds left. See `Relay.flush`."""
        return seconds if self._relay is None else self._relay.flush(seconds)

    def _end_outbox(self, linger: float | None) -> None:
        relay = self._relay
        if relay is not None:
            if linger != 0 and not relay.drain(linger):
                log.warning("%s: some messages wait in an outbox; the next opening sends them", self.name)
            relay.end()

    # ---- sending -------------------------------------------------------------------

    def _pack_one(self, body: object, found: Wanted) -> Pack:
        if self._plain:
            return self._pack_plain(body, found)
        data = codecs.encode(body, self._codec, limits=self._limits)
        return self._packed(self._codec, data, found, {0: found.headers} if found.headers else {})

    @staticmethod
    def _packed(codec: str, data: bytes, found: Wanted, headers: dict[int, dict[str, str]]) -> Pack:
        now = time.time_ns() // 1000
        if found is NOTHING:
            return Pack(codec, now, [len(data)], data, {}, headers)
        keys = {} if found.key is None else {0: found.key}
        plan = plan_of(keys, found, found.id is not None)
        return Pack(codec, now, [len(data)], data, {} if found.id is None else {0: found.id}, headers, False, plan)

    def _pack_plain(self, body: object, found: Wanted) -> Pack:
        """For plain pullers: no headers; and in the codec "raw" a list of bytes is as many frames."""
        check_plain(found)
        codec, kept = self._codec, {}
        if codec == "raw" and isinstance(body, list | tuple) and body:
            frames = [codecs.encode(each, "raw", limits=self._limits) for each in body]
            if len(frames) > MAX_FRAMES:
                raise UsageError(f"a message of {len(frames)} frames; at most {MAX_FRAMES} are allowed")
            codec, body, kept = "msgpack", frames, {0: {FRAMES: str(len(frames))}}
        data = codecs.encode(body, codec, limits=self._limits)
        return self._packed(codec, data, found, kept)

    def _pack_many(self, bodies: list[Any], ids: list[str] | None = None) -> list[Pack]:
        """Encode bodies, `Outgoing` ones among them. See `packing.pack_many`."""
        if self._plain:
            plain = [(each.body, wanted_of(each)) if type(each) is Outgoing else (each, NOTHING) for each in bodies]
            if self._codec == "raw" and any(isinstance(body, list | tuple) for body, _ in plain):
                return [self._pack_plain(*each) for each in plain]
            for _, found in plain:
                check_plain(found)
        return pack_many(bodies, self._codec, self._limits, time.time_ns() // 1000, ids)

    def _append(self, pack: Pack, ticket: Ticket | None, *, wait: bool, watcher: Any = None, lazy: bool = False) -> int:
        """Give the messages their sequences and hand them to the core. Returns the first one."""
        driver = self._open_driver
        hand = driver.post if lazy else driver.submit
        # Under the lock, so that sequences reach the core in their order.
        with self._state_lock:
            first = self._sequence
            self._sequence = first + len(pack)
            self._handed_bytes += len(pack.blob)
            hand(self._core.append, pack, first, ticket, wait, watcher)
        return first

    def _append_all(self, packs: Sequence[Pack], ticket: Ticket) -> None:
        """The same for packs that are accepted together: all of them, or none."""
        driver = self._open_driver
        with self._state_lock:
            first = self._sequence
            self._sequence = first + sum(map(len, packs))
            self._handed_bytes += sum([len(pack.blob) for pack in packs])
            driver.post(self._core.append_all, packs, first, ticket)

    def _relay_pack(self, pack: Pack) -> Ticket:
        """Take messages from an outbox, also while this closes. Returns what to wait for until they are stored."""
        driver = self._driver
        assert driver is not None  # who has an outbox has opened it
        ticket = driver.ticket()
        with self._state_lock:
            first, self._sequence = self._sequence, self._sequence + len(pack)
            self._handed_bytes += len(pack.blob)
            driver.submit(self._core.append, pack, first, ticket, True, None)
        return ticket

    def _redrive(self, letter: DeadRow, key: int) -> Ticket:
        """Send a dead letter, claimed, again. Returns what to wait for until that is stored."""
        headers = {0: dict(letter.headers)} if letter.headers else {}
        keys = {} if letter.key is None else {0: letter.key}
        plan = Plan(keys, letter.priority) if keys or letter.priority else None
        pack = Pack(
            letter.codec,
            letter.sent_at,
            [len(letter.body)],
            letter.body,
            {0: letter.id},
            headers,
            True,
            plan,
            letter.inbox,
        )
        driver = self._open_driver
        ticket = driver.ticket()
        with self._state_lock:
            first, self._sequence = self._sequence, self._sequence + 1
            self._handed_bytes += len(pack.blob)
            driver.submit(self._core.redrive, pack, first, (key,), ticket)
        return ticket

    def _begin(self, pack: Pack, *, wait: bool, lazy: bool = False) -> Any:
        ticket = self._open_driver.ticket()
        first = self._append(pack, ticket, wait=wait, lazy=lazy)
        return self._receipt(self, pack.ids.get(0) or self._id(first), first, ticket)

    @property
    def _bounded(self) -> bool:
        """What waits is bounded: senders may wait for room."""
        return self._max_waiting is not None or self._journal_path is None

    def _check_room(self, pack: Pack) -> None:
        """For sends that do not wait: refuse before anything is handed over."""
        self._start()
        core, limits = self._core, self._limits
        on_the_way = self._sequence - 1 - core.stored_up_to
        waiting = core.unsettled + (self._sequence - 1 - core.accepted_up_to)
        size = self._handed_bytes - core.stored_bytes
        bound = self._max_waiting
        if self._journal_path is None:
            bound = limits.queued_messages if bound is None else min(bound, limits.queued_messages)
            size += core.waiting_bytes
        if (
            on_the_way >= limits.queued_messages
            or (size and size + len(pack.blob) > limits.queued_bytes)
            or (bound is not None and waiting >= bound)
        ):
            raise Full(
                f"{self.name}: {counted(max(on_the_way, waiting))} waiting already; nothing was stored. "
                f"Use send(), which waits for room, or raise the limits"
            )

    def _id(self, sequence: int) -> str:
        return f"{self._core.settings.origin}-{sequence}"

    def _settled_now(self) -> Settled:
        return Settled(self._core.acked, self._core.dead, self._core.expired)

    def stats(self) -> dict[str, int | float]:
        """Counters by name, since opening, and ``waiting``: how many messages are not settled now, what the journal
        held before included. Empty before opening."""
        found = super().stats()
        if found:
            found["waiting"] = self._core.unsettled
        return found

    @property
    def _newest(self) -> int:
        return self._sequence - 1

    def _unflushed(self, until: Point, timeout: float | None) -> WaitTimeout:
        count = self._core.unsettled
        waiting = f"{counted(count)} {'is' if count == 1 else 'are'} not settled"
        late = f"after {timeout} s"
        told = f"{waiting} {late}" if until == "settled" else f"not all is {until} {late}; {waiting}"
        return WaitTimeout(f"{told}{self._doubtful()}; {self._company()}")

    def _doubtful(self) -> str:
        """What to add about messages that wait for their inbox; nothing if none does."""
        doubt = self._core.doubt
        if not doubt.in_doubt:
            return ""
        where = ", ".join(each.id.hex() for each in list(doubt.inboxes.values()) if each.in_doubt)
        return f", {doubt.in_doubt} of them in doubt: only pullers with the inbox {where} get those"

    def _withdraw_soon(self, ticket: Ticket) -> None:
        """Give up a send that is not accepted yet, without waiting for the answer."""
        self._tell_soon(self._core.withdraw, ticket, None)

    def _check_close(self, linger: float | None) -> None:
        if self._driver is not None and not self._closed and self._lingers(linger):
            self._check_wait()

    def _lingers(self, linger: float | None) -> bool:
        """Whether there is something to wait for."""
        return linger != 0 and bool(self._core.unsettled or self._newest > self._core.stored_up_to)

    def _linger_ticket(self, linger: float | None) -> Ticket | None:
        """What a closing pusher waits for; None if there is nothing to wait for."""
        driver = self._driver
        assert driver is not None
        if not self._lingers(linger):
            return None
        ticket = driver.ticket()
        driver.submit(self._core.wait, "settled", 0, self._newest, ticket)
        return ticket

    def _begin_end(self, linger: float | None) -> tuple[Ticket, float | None]:
        """Ask the driver of a plain pusher to end; its sockets send meanwhile what ZeroMQ holds.

        Returns what to wait for, and how long.
        """
        driver = self._driver
        assert driver is not None
        driver.begin_close(CLOSING, flush=FOR_EVER if linger is None else linger)
        return driver.ended, None if linger is None else linger + 2 * CLOSING

    def _tell_lingered(self, error: Exception, linger: float | None) -> None:
        """Waiting for what `_linger_ticket` gave ended with this; what is left is told by `_tell_left_behind`."""
        if isinstance(error, WaitExpired):
            log.debug("%s: not all is settled after %s s", self.name, linger)
        else:
            log.warning("%s: %s", self.name, error)

    def _left_behind(self) -> tuple[int, str | None]:
        """After closing: how many messages are not settled, and what to tell of it (None: lost with the process)."""
        count = self._core.unsettled
        if not count or self._journal is None:
            return count, None
        try:
            self._journal.check_place()
        except JournalDamaged as error:
            lost = (
                f"{self.name} was closed with {counted(count)} not settled, and its journal {self._journal_path} was "
                "removed or replaced while it was open: what waited is lost, unless it was moved elsewhere"
            )
            log.error(lost)
            raise Unsettled(lost, count=count) from error
        where = self.addresses[0] if self.addresses else "ADDRESS"
        return count, (
            f"{self.name} was closed with {counted(count)} not settled{self._doubtful()}. What waits is safe in "
            f"{self._journal_path}; open it again, or deliver with: zmqkit journal serve {self._journal_path} {where}"
        )

    def _lost_with_it(self) -> str:
        count = self._core.unsettled
        if not count:
            return ""
        kept = "lost" if self._journal_path is None else f"kept in {self._journal_path}"
        return f": {counted(count)} not settled, {kept}"

    def _tell_left_behind(self) -> None:
        failure = self._driver.failure if self._driver is not None else None
        if failure is not None:
            raise failure  # what its journal holds is not known to be safe
        count, told = self._left_behind()
        if told is not None:
            warnings.warn(told, RuntimeWarning, stacklevel=5)
        elif count:
            raise Unsettled(
                f"{self.name} was closed with {counted(count)} not settled, and no journal: "
                f"what waited is lost, or its settling was not heard. Give journal=PATH to keep it",
                count=count,
            )

    def _close_at_exit(self, seconds: float) -> None:
        """Sends go on for the little time there is; what is left is named."""
        driver = self._driver
        if driver is not None and not self._closed and self._core.unsettled + self._newest - self._core.stored_up_to:
            with contextlib.suppress(WaitExpired, ZmqkitError):
                wait(self._ask(self._core.wait, "settled", 0, self._newest), seconds)
        if self._control is not None and driver is not None and not self._closed:
            remove(self._control)
        super()._close_at_exit(seconds)
        self._tell_left_behind()


def _all_of(journal: SqliteJournal, log: str, first: int = 1, last: int = HIGHEST_KEY) -> Iterator[core.Row]:
    """All rows of a log, or of a span of it, page by page."""
    while first <= last and (page := journal.read(core.Read(log, first, last, PAGE_BYTES))):
        yield from page
        first = page[-1].key + 1


_LARGEST_ROW: Final = 1 << 12
"""More than the messages of any row: the first sequence after an opening leaves so much room."""


def counted(messages: int) -> str:
    """So many messages, in words."""
    return f"{messages} message{'' if messages == 1 else 's'}"


def check_point(until: str) -> Point:
    """Raises `ValueError` for what is not a `Point`."""
    if until not in _POINTS:
        raise ValueError(f"until must be one of {', '.join(_POINTS)}, got {until!r}")
    return until  # type: ignore[return-value]


def too_late(receipt: ReceiptBase, withdrawn: bool, timeout: float | None) -> WaitTimeout:
    """The error of a send that ran out of time."""
    if withdrawn:
        return Full(f"no room within {timeout} s; nothing was stored", id=receipt.id)
    return WaitTimeout(
        f"not confirmed within {timeout} s; message {receipt.id} is possibly stored, and goes on", id=receipt.id
    )
