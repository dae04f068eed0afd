"""The publisher's core: stores, fans out, remembers, and serves its subscribers (docs/protocol.md, section 14).

Pure. A message's way::

    published --stored--> history --the turn's end--> data plane, one frame a topic
                             '------feeds-----------> sessions of those who ask for it, or live on it

Nothing is sent, by either way, before it is stored. Offsets are given out by the face, rising.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from zmqkit.errors import CommitIndeterminate, DecodeError, JournalError
from zmqkit.events import JournalRecovered, JournalTrouble
from zmqkit.patterns.pubsub import fanout, wire
from zmqkit.patterns.pubsub.history import READ_BYTES
from zmqkit.patterns.pubsub.offsets import LastOffsets
from zmqkit.patterns.pubsub.recovery import Recovery
from zmqkit.patterns.pubsub.rows import (
    EPOCHS,
    MESSAGES,
    ROW_BYTES,
    ROW_MESSAGES,
    STATE,
    Found,
    Pack,
    Row,
    merge,
    pack_epoch,
    pack_state,
    unreadable,
)
from zmqkit.patterns.pubsub.settings import PublisherSettings as PublisherSettings
from zmqkit.protocol import core
from zmqkit.protocol.core import Write
from zmqkit.protocol.local import Local

__all__ = ["PublisherCore", "PublisherSettings"]

BEAT_BYTES: Final = 1024 * 1024
"""After so many bytes on the data plane a beat asks who has seen them."""

BEAT_SOON: Final = 0.25
"""Seconds after which a beat follows what was published."""

RETRY_STORE: Final = 1.0
"""Seconds until the journal is tried again after it was full; until then what is published is refused."""

TRIM_AGAIN: Final = 0.01
"""Seconds until more is deleted, where there is much."""

_NOTHING_FOUND: Final = Found()


class _Arrival(NamedTuple):
    packs: Sequence[Pack]
    first: int
    ticket: Any


class _Storing(NamedTuple):
    number: int
    row: Row
    tickets: list[Any]


class PublisherCore(Recovery):
    """The publisher's state machine.

    Args:
        local: what this side says of itself; its ``about`` is `PublisherSettings.about`.
        settings: see `PublisherSettings`.
        rng: ids and jitter.
        first: the first offset that this opening gives out; `rows.first_offset` of a journal.
        found: what the journal held when it was opened; `rows.look_into`.

    Attributes:
        stored_up_to: all up to this offset is stored, or was refused.
    """

    def __init__(
        self, local: Local, settings: PublisherSettings, rng: random.Random, first: int = 1,
        found: Found = _NOTHING_FOUND,
    ) -> None:  # fmt: skip
        super().__init__(local, settings, rng, found)
        self.sent_up_to = self.stored_up_to = first - 1
        self.offsets = LastOffsets(first - 1)
        self._arrivals: deque[_Arrival] = deque()
        self._storing: deque[_Storing] = deque()
        self._ready: list[Row] = []
        self._written = found.written
        self._upkeep: deque[tuple[int, list[Write]]] = deque()
        self._redo: list[Write] = []
        self._trims = False
        self._valued = found.gone
        self._valuing: core.Read | None = None
        self._fronts: core.Read | None = None
        self._beat_number = 0
        self._unbeaten = 0
        self._told_all = True
        self._ailing: Exception | None = None
        self._broken: Exception | None = None
        self._closing = False
        self.history.begin(first, settings.epoch)
        if settings.durable:
            self._redo = [Write(EPOCHS, first, 0, pack_epoch(settings.epoch))]
            self._values_known = self.values is None or not found.messages

    # ---- verbs of the user ---------------------------------------------------------

    def publish(self, packs: Sequence[Pack], first: int, ticket: Any, now: float) -> None:
        """Publish messages; `ticket` gets None once all are stored, or an exception: then none of them is.

        Args:
            packs: the messages, in their order.
            first: the offset of the first one; the others follow. The caller gives them out, rising.
            ticket: None if nobody waits.
        """
        if self._closing or self._broken is not None:
            self._reject(_Arrival(packs, first, ticket), self._broken or _closed())
        else:
            self._arrivals.append(_Arrival(packs, first, ticket))

    # ---- storing -------------------------------------------------------------------

    def _admit(self) -> None:
        """Turn what arrived into rows; small neighbours share one."""
        packs: list[Pack] = []
        tickets: list[Any] = []
        start = offset = messages = size = 0
        while self._arrivals:
            arrival = self._arrivals.popleft()
            if arrival.first != offset and packs:
                self._take(packs, start, tickets)
                packs, tickets = [], []
            offset = arrival.first
            for pack in arrival.packs:
                count = len(pack.lengths)
                if packs and (
                    messages + count > ROW_MESSAGES or size + len(pack.blob) > ROW_BYTES or pack.codec != packs[0].codec
                ):
                    self._take(packs, start, tickets)
                    packs, tickets = [], []
                if not packs:
                    start, messages, size = offset, 0, 0
                packs.append(pack)
                messages += count
                size += len(pack.blob)
                offset += count
            if arrival.ticket is not None:
                tickets.append(arrival.ticket)
        if packs:
            self._take(packs, start, tickets)

    def _take(self, packs: list[Pack], first: int, tickets: list[Any]) -> None:
        row = merge(packs, first, self._written)
        self._written += len(row.blob)
        if self.settings.durable:
            number = self.out.write(MESSAGES, row.key, row.count, row.pack())
            self._storing.append(_Storing(number, row, tickets))
        else:
            self._accept(row, tickets)

    def _accept(self, row: Row, tickets: list[Any]) -> None:
        """It is stored: now it may be sent, and said."""
        self.history.add(row)
        self.stored_up_to = row.last
        self._ready.append(row)
        self.counters["published"] += row.count
        if tickets:
            self.out.replies.extend((ticket, None) for ticket in tickets)

    def _reject(self, arrival: _Arrival, error: Exception) -> None:
        count = sum(len(pack.lengths) for pack in arrival.packs)
        self.counters["publishes_refused"] += count
        self.stored_up_to = max(self.stored_up_to, arrival.first + count - 1)
        if arrival.ticket is not None:
            self.out.replies.append((arrival.ticket, error))

    def stored(self, up_to: int, now: float) -> None:
        """The journal has it."""
        while self._storing and self._storing[0].number <= up_to:
            _, row, tickets = self._storing.popleft()
            self._accept(row, tickets)
        while self._upkeep and self._upkeep[0][0] <= up_to:
            self._upkeep.popleft()
        self._committed(self.cursors.stored(up_to), "", now)
        self._trims = True
        if self._ailing is not None:
            self._ailing = None
            self.out.events.append(JournalRecovered(self.local.name))

    def store_failed(self, up_to: int, error: Exception, now: float) -> None:
        """What was being stored is not, or may not be. While the journal is full, what is published is refused."""
        self.counters["commits_failed"] += 1
        if self._ailing is None and self._broken is None:
            self.out.events.append(JournalTrouble(self.local.name, str(error)))
        while self._storing and self._storing[0].number <= up_to:
            _, row, tickets = self._storing.popleft()
            self.stored_up_to = row.last
            self.counters["publishes_refused"] += row.count
            self.out.replies.extend((ticket, error) for ticket in tickets)
        while self._upkeep and self._upkeep[0][0] <= up_to:
            self._redo += self._upkeep.popleft()[1]
        self._committed(self.cursors.stored(up_to), f"not stored: {error}"[:1000], now)
        if isinstance(error, CommitIndeterminate):
            # What was in that commit is unknown, and was said so above; what comes after it is not stored, for certain.
            self._broken = JournalError(
                f"nothing was stored: the journal failed before ({error}). Close this publisher and open it again"
            )
            for arrival in self._arrivals:
                self._reject(arrival, self._broken)
            self._arrivals.clear()
            self.feeder.broken = True
            self.out.reads.clear()
        else:
            self._ailing = error
            self._timers.set("store", now + RETRY_STORE)

    def _store(self, now: float) -> None:
        """Put out what is to be stored."""
        if self._broken is not None:
            return
        if self._ailing is not None and "store" in self._timers:
            for arrival in self._arrivals:
                self._reject(arrival, self._ailing)
            self._arrivals.clear()
            return
        if self._ailing is None and self._trims:
            self._trim(now)
        if self._redo:
            writes, self._redo = self._redo, []
            for write in writes:
                self.out.write(*write)
            self._upkeep.append((self.out.written, writes))
            if self._ailing is not None:
                return  # what deletes goes first, and alone: it may be what makes room
        self._admit()
        self.cursors.write(self.out)

    def _trim(self, now: float) -> None:
        """Delete what retention does not keep."""
        history = self.history
        self._trims = False
        keys = history.trim(int((now + self.settings.wall) * 1e6))
        if keys:
            self.counters["deleted"] += len(keys)
            self._redo += [Write(MESSAGES, key, 0, None) for key in keys]
            self._redo += [Write(EPOCHS, key, 0, None) for key in history.epochs.forget(history.gone)]
            self._redo.append(Write(STATE, 1, 0, pack_state(history.gone)))
            self._timers.sooner("trim", now + TRIM_AGAIN)
        elif (due := history.next_due()) is not None:
            self._timers.set("trim", max(now + TRIM_AGAIN, due / 1e6 - self.settings.wall))
        front = history.front_wanted()
        if front is not None:
            self._fronts = front
            self.out.reads.append(front)

    def loaded(self, read: core.Read, rows: Sequence[core.Row], now: float) -> None:
        """Rows from the journal. Raises `JournalDamaged`."""
        try:
            found = [Row.unpack(each.key, each.value) for each in rows]
        except DecodeError as error:
            raise unreadable(error) from error
        if read == self._fronts:
            self._fronts = None
            self.history.front_loaded(found)
            self._trims = True
        if read == self._valuing:
            self._valuing = None
            if self.values is not None:
                self.values.take(found, self.history.epochs.at)
            self._valued = found[-1].last if found else read.last
        self._fed(self.feeder.loaded(read, found), now)

    # ---- the turn ------------------------------------------------------------------

    def end_turn(self, now: float) -> None:
        """Store what arrived, send what is stored, move feeds on, tell those who wait."""
        durable = self.settings.durable
        if durable:
            self._store(now)
        elif self._arrivals:
            self._admit()
        if not durable and (asked := self.cursors.moved()):
            self._committed(asked, "", now)
        if self._ready:
            rows, self._ready = self._ready, []
            self._send(rows, now)
            self._pump_all(now)
        if self.values is not None:
            self._value(now)
        if self._awaiting or self._draining:
            if self._draining and not self._told_all:
                self._beat(now)
            self._check_waits(now)
        super().end_turn(now)
        if self._closing and not self._finished and not self._storing and not self._arrivals:
            self._finish(now)

    def _send(self, rows: list[Row], now: float) -> None:
        """Give the data plane what is stored, in groups."""
        settings, links, sends = self.settings, self._open, self.out.sends
        self.sent_up_to = rows[-1].last
        if not links:
            for row in rows:
                self.offsets.update(row.newest())
            return
        if settings.plain:
            for pair in fanout.plain(rows, self.offsets):
                sends += [(link, pair) for link in links]
            return
        audience = self.audience
        for last, frames in fanout.fan_out(rows, settings.stream, self.offsets, self.coverage):
            for link in links:
                sends += [(link, (frame,)) for frame in frames]
            size = sum(map(len, frames))
            audience.size_bytes += size
            audience.frames += len(frames)
            self._unbeaten += size
            if len(frames) > 1 or self._unbeaten >= BEAT_BYTES:
                self._beat(now, last)
        if self._unbeaten:
            self._told_all = False
            self._timers.sooner("beat", now + BEAT_SOON)

    def _beat(self, now: float, offset: int | None = None) -> None:
        """Tell how far all was sent, and ask who has seen it."""
        self._told_all = offset is None or offset == self.sent_up_to
        offset = self.sent_up_to if offset is None else offset
        self._timers.set("beat", now + max(self.local.heartbeat.interval, BEAT_SOON))
        if self.settings.plain or not self._open:
            self._told_all = True
            return
        self._beat_number += 1
        self.counters["beats"] += 1
        frame = wire.Beat(self.settings.stream, offset, self._beat_number).pack()
        for link in self._open:
            self.out.sends.append((link, (frame,)))
        self.audience.beat(self._beat_number, offset)
        if self._unbeaten >= BEAT_BYTES or self._told_all:
            self._check_lags(now)
        self._unbeaten = 0

    def _value(self, now: float) -> None:
        """Take down last values: of what the journal holds, then of what is published."""
        values, history = self.values, self.history
        assert values is not None
        while self._valuing is None and self._valued < history.last and self._broken is None:
            self._valued = max(self._valued, history.gone)
            if self._valued < history.window:
                read = history.wanted(self._valued, self._valued)
                if read is None:
                    self._valued = history.window
                    continue
                self._valuing = read._replace(size_bytes=4 * READ_BYTES)
                self.out.reads.append(self._valuing)
                return
            row = history.following(self._valued)
            if row is None:
                self._valued = history.last
                break
            values.take([row], history.epochs.at)
            self._valued = row.last
        self.counters["last_values_forgotten"] = values.forgotten
        if not self._values_known and self._valued >= history.last:
            self._values_known = True
            self._release_values(now)

    # ---- the end -------------------------------------------------------------------

    def close(self, now: float) -> None:
        """See `Core`. What was published is stored, and sent, before goodbyes are said."""
        self._closing = True
        self.end_turn(now)

    def _finish(self, now: float) -> None:
        if self._open and not self._told_all:
            self._beat(now)
        super().close(now)

    def _due(self, key: Any, now: float) -> None:
        if key == "beat":
            self._beat(now)
        elif key == "trim":
            self._trims = True
        elif key != "store":
            super()._due(key, now)


def _closed() -> Exception:
    return JournalError("nothing was published: the publisher is closing")
