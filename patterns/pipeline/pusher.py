"""The pusher's core: accepts, stores, lends and settles messages (docs/protocol.md, section 7).

Pure. A message's way::

    accepted --stored--> ready --lend--> leased --ack--> acked
                          ^  ^             |---reject, or failed too often--> dead (letter)
                          |  '--backoff----|---nack
                          '----------------'---release, holder lost

What settles is said (to `flush`, to receipts, to the worker above) only when the journal has it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final

from zmqkit.errors import CommitIndeterminate, DecodeError, Full, JournalError
from zmqkit.events import JobDead, JobFailed, JobRedelivered, JournalRecovered, JournalTrouble, StaleSettle
from zmqkit.options import Point
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.backlog import Backlog, runs
from zmqkit.patterns.pipeline.hands import Arrival, Awaited, PusherSettings, Settling, Storing, merge
from zmqkit.patterns.pipeline.leases import Holder, Lot
from zmqkit.patterns.pipeline.letters import Letters
from zmqkit.patterns.pipeline.rows import DEAD, MARKS, MESSAGES, ROW_BYTES, ROW_MESSAGES, Pack, Row, unreadable
from zmqkit.patterns.pipeline.wire import Outcome
from zmqkit.protocol import core
from zmqkit.protocol.core import Frames
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore
from zmqkit.protocol.session import Session
from zmqkit.protocol.timers import Timers

RETRY_STORE: Final = 1.0
"""Seconds until settles that a full disk refused are written again."""


class PusherCore(PatternCore):
    """The pusher's state machine.

    Args:
        local: what this side says of itself.
        settings: see `PusherSettings`.
        rng: ids and jitter.
    """

    def __init__(self, local: Local, settings: PusherSettings, rng: random.Random) -> None:
        super().__init__(local, rng)
        self.settings = settings
        self.backlog = Backlog(durable=settings.durable)
        self.unsettled = 0
        """Messages that were accepted and are not settled."""
        self.acked = 0
        self.dead = 0
        self._timers = Timers()
        self._holders: dict[bytes, Holder] = {}
        self._lease = 1
        self._arrivals: deque[Arrival] = deque()
        self._storing: deque[Storing] = deque()
        self._settling: deque[Settling] = deque()
        self._turn = Settling()
        self.accepted_up_to = 0
        self.stored_up_to = 0
        self.stored_bytes = 0
        """Bytes of bodies that were stored or refused since opening."""
        self._bytes = 0
        self._waits: list[Awaited] = []
        self._watchers: dict[int, list[Any]] = {}
        self.letters = Letters(self.out, settings.durable)
        self._ailing: Exception | None = None
        self._broken: Exception | None = None
        for name in (
            "sent", "acked", "dead", "failed", "delivered", "delivered_bytes", "redelivered", "settles_stale",
            "sends_refused", "commits_failed",
        ):  # fmt: skip
            self.counters.setdefault(name, 0)

    def found(self, first: int, newest: int, waiting: int, letters: int = 0) -> None:
        """What the journal held when it was opened: keys of the first and newest row, and how many messages."""
        self.backlog.found(first, newest, waiting)
        self.unsettled = waiting
        self.letters.count = letters

    def opened_at(self, sequence: int) -> None:
        """The first sequence that this opening gives out."""
        self.accepted_up_to = self.stored_up_to = sequence - 1

    # ---- verbs of the user ---------------------------------------------------------

    def append(self, pack: Pack, first: int, ticket: Any, wait: bool, watcher: Any, now: float) -> None:
        """Accept messages; `ticket` gets None once they are stored, or an exception.

        Args:
            pack: the messages.
            first: the sequence of the first one; the caller gives them out, rising.
            ticket: told when stored; None if nobody waits.
            wait: with no room, wait for it (else `Full`).
            watcher: told (outcome, reason), or an exception, once for each message; None if nobody watches.
        """
        self._arrive(Arrival(pack, first, ticket, wait, watcher))

    def redrive(self, pack: Pack, first: int, letters: Sequence[int], ticket: Any, now: float) -> None:
        """The same for dead letters, claimed, which go as this is stored."""
        self._arrive(Arrival(pack, first, ticket, True, None, letters))

    def _arrive(self, arrival: Arrival) -> None:
        if self._broken is not None:
            self._refuse(arrival, self._broken)
        elif not arrival.wait and not self._has_room(arrival.pack, [each.pack for each in self._arrivals]):
            self._refuse(arrival, Full("no room, and timeout=0: nothing was stored"))
        else:
            self._arrivals.append(arrival)

    def withdraw(self, ticket: Any, answer: Any, now: float) -> None:
        """Give up a send that is not accepted yet; `answer` gets True if it was not, else False."""
        for at, arrival in enumerate(self._arrivals):
            if arrival.ticket is ticket:
                del self._arrivals[at]
                self._passed(arrival)
                self.counters["sends_refused"] += len(arrival.pack)
                self.out.replies.append((answer, True))
                return
        self.out.replies.append((answer, False))

    def wait(self, point: Point, first: int, last: int, ticket: Any, now: float) -> None:
        """`ticket` gets (acked, dead) once all messages from `first` to `last` have come to the point."""
        self._waits.append(Awaited(point, first, last, ticket))

    def watch_for(self, sequence: int, watcher: Any, now: float) -> None:
        """`watcher` gets (outcome, reason) of one message, at once if it is settled already.

        An exception instead where that cannot be known: the message was not stored, or the journal failed.
        """
        if self._is_left(sequence):
            self._watchers.setdefault(sequence, []).append(watcher)
        elif self._broken is not None:
            self.out.replies.append((watcher, self._broken))
        else:
            self.letters.ask(sequence, watcher)

    def forget_wait(self, ticket: Any, answer: Any, now: float) -> None:
        """Nobody waits on this ticket any more; `answer` gets None, after the ticket has got what there is to say."""
        self._check_waits()
        self._waits = [each for each in self._waits if each.ticket is not ticket]
        for watchers in self._watchers.values():
            if ticket in watchers:
                watchers.remove(ticket)
        if not self.letters.forget(ticket, answer):
            self.out.replies.append((answer, None))

    # ---- sessions ------------------------------------------------------------------

    def opened(self, session: Session, now: float) -> None:
        """A puller came."""
        self._holders[session.id] = Holder(session)

    def lost(self, session: Session, reason: str, now: float) -> None:
        """A puller is gone: what it held goes to others."""
        holder = self._holders.pop(session.id)
        if not holder.held:
            return
        if holder.held == 1 and reason in ("process gone", "silent"):
            # It died over this one job: that counts, or a job that kills its workers would go round for ever. (Also
            # where it never said that it had it: it may be dead a millisecond after it came.)
            (lot,) = holder.lots.values()
            index = lot.row_bits.bit_length() - 1
            self._redelivered(lot.row, lot.row_bits)
            self._failed(lot.row, index, None, f"the puller died holding this job alone ({reason})", "", now)
        else:
            for row, bits in holder.rows():
                self._put_back(row, bits)
        self.counters["redelivered"] += holder.held
        self.out.events.append(JobRedelivered(self.local.name, session.peer.instance.hex(), holder.held))

    def heard(self, session: Session, now: float) -> None:
        """A puller received more, or gave credit."""
        holder = self._holders.get(session.id)
        if holder is not None:
            for lot in holder.arrived(session.heard_by_peer):
                lot.row.got |= ((1 << (lot.last - lot.first + 1)) - 1) << lot.index

    def received(self, session: Session, frames: Frames, messages: int, now: float) -> None:
        """A puller settles, or says what it holds."""
        holder = self._holders[session.id]
        message = wire.read(frames)
        if isinstance(message, wire.Settle):
            self._settle(holder, message, now)
            self.sessions.owe(session, holder.held > 0, now)
        elif isinstance(message, wire.Held):
            self._reconcile(holder, message)
        else:
            raise DecodeError("a puller must not deliver")

    # ---- settling ------------------------------------------------------------------

    def _settle(self, holder: Holder, message: wire.Settle, now: float) -> None:
        stale: wire.Ranges = []
        current = message.epoch == self.settings.epoch
        for at in range(0, len(message.acks), 2):
            first, last = message.acks[at], message.acks[at + 1]
            ended: wire.Ranges = []
            if current and holder.holds(first, last):
                for lot, bits in holder.end(first, last):
                    self._done(lot.row, bits << lot.index, "acked", "")
                    for index, count in runs(bits):
                        ended += (lot.first + index, lot.first + index + count - 1)
            stale += wire.gaps(first, last, ended)
        for other in message.others:
            found = list(holder.end(other.lease, other.lease)) if current else []
            if not found:
                stale += (other.lease, other.lease)
            for lot, bits in found:
                self._settle_other(lot, bits, other, now)
        if stale:
            self.counters["settles_stale"] += len(stale) // 2
            self.out.events.append(StaleSettle(self.local.name, holder.session.peer.instance.hex(), len(stale) // 2))
            if len(stale) > 2 * wire.MAX_RANGES:
                stale = [number for pair in wire.merged(stale) for number in pair]
        if message.ask or stale:
            self._turn.answers.append((holder.session, wire.Settled(message.ask, stale)))

    def _settle_other(self, lot: Lot, bits: int, other: wire.Unsettled, now: float) -> None:
        row, row_bits = lot.row, bits << lot.index
        index = row_bits.bit_length() - 1
        if other.kind == wire.NACK:
            self._redelivered(row, row_bits)
            self._failed(row, index, other.delay, other.reason, other.traceback, now)
        elif other.kind == wire.REJECT:
            self._bury(row, index, other.reason, other.traceback, now)
        else:
            self._put_back(row, row_bits, alone=other.kind == wire.ISOLATE)

    def _failed(self, row: Row, index: int, delay: float | None, reason: str, traceback: str, now: float) -> None:
        failures = row.failures.get(index, 0) + 1
        row.failures[index] = failures
        self._turn.rows[row.key] = (row, row.done)
        self.counters["failed"] += 1
        self.out.events.append(JobFailed(self.local.name, row.id(index), reason, traceback, failures))
        if failures >= self.settings.max_failures:
            self._bury(row, index, reason or f"failed {failures} times", traceback, now)
            return
        if delay is None:
            delay = self.settings.backoff.ceiling(failures) * self.rng.random()
        self.backlog.later(row, index, now + delay)

    def _bury(self, row: Row, index: int, reason: str, traceback: str, now: float) -> None:
        letter = row.letter(index, reason, traceback, int((now + self.settings.wall) * 1e6))
        self._turn.letters[row.key + index] = letter.pack(), reason
        self._done(row, 1 << index, "dead", reason)
        self.out.events.append(JobDead(self.local.name, letter.id, reason))

    def _done(self, row: Row, bits: int, outcome: Outcome, reason: str) -> None:
        row.done |= bits
        turn = self._turn
        turn.rows[row.key] = (row, row.done)
        if outcome == "acked":
            turn.acked += bits.bit_count()
        else:
            turn.dead += bits.bit_count()
        turn.ended.append((row.key, bits, outcome, reason))

    def _put_back(self, row: Row, bits: int, *, alone: bool = False) -> None:
        self._redelivered(row, bits)
        self.backlog.again(row, bits, alone=alone)

    @staticmethod
    def _redelivered(row: Row, bits: int) -> None:
        for index, count in runs(bits):
            for at in range(index, index + count):
                row.deliveries[at] = row.deliveries.get(at, 0) + 1

    def _reconcile(self, holder: Holder, message: wire.Held) -> None:
        """Send again what the puller should hold and does not list."""
        if message.epoch != self.settings.epoch:
            return
        missing = holder.missing(message.up_to, message.leases)
        for at in range(0, len(missing), 2):
            for lot, bits in holder.end(missing[at], missing[at + 1]):
                self._put_back(lot.row, bits << lot.index)
                self.counters["redelivered"] += bits.bit_count()

    # ---- storing -------------------------------------------------------------------

    def stored(self, up_to: int, now: float) -> None:
        """The journal has it: now it may be said, and lent."""
        while self._storing and self._storing[0].number <= up_to:
            _, row, tickets, letters = self._storing.popleft()
            self.backlog.stored(row)
            if letters:
                self.letters.went(letters)
            self.stored_up_to = row.last
            self.stored_bytes += len(row.blob)
            self.counters["sent"] += row.count
            self.out.replies.extend((ticket, None) for ticket in tickets)
        while self._settling and self._settling[0].number <= up_to:
            self._settled(self._settling.popleft(), now)
        self.letters.stored(up_to)
        if self._ailing is not None:
            self._ailing = None
            self.out.events.append(JournalRecovered(self.local.name))

    def _settled(self, settling: Settling, now: float) -> None:
        settled = settling.acked + settling.dead
        self.acked += settling.acked
        self.dead += settling.dead
        self.counters["acked"] += settling.acked
        self.counters["dead"] += settling.dead
        self.unsettled -= settled
        for key, letter in settling.letters.items():
            self.letters.bury(key, *letter)
        for row, done in settling.rows.values():
            row.kept = done
            if done == row.all:
                self.backlog.forget(row)
                self._bytes -= len(row.blob)
        if self._watchers:
            # Only now, so that who began to watch while it was being stored is told, too.
            for key, bits, outcome, reason in settling.ended:
                for index, count in runs(bits):
                    for sequence in range(key + index, key + index + count):
                        for watcher in self._watchers.pop(sequence, ()):
                            self.out.replies.append((watcher, (outcome, reason)))
        for session, answer in settling.answers:
            if session.id in self._holders:
                self.sessions.send(session, answer.pack(), 0, now)

    def store_failed(self, up_to: int, error: Exception, now: float) -> None:
        """What was being stored is not, or may not be. New messages are refused; settles are tried again."""
        self.counters["commits_failed"] += 1
        if self._ailing is None and self._broken is None:
            self.out.events.append(JournalTrouble(self.local.name, str(error)))
        while self._storing and self._storing[0].number <= up_to:
            _, row, tickets, letters = self._storing.popleft()
            self.letters.release(letters)
            self.unsettled -= row.count
            self._bytes -= len(row.blob)
            self.stored_up_to = row.last
            self.stored_bytes += len(row.blob)
            self.out.replies.extend((ticket, error) for ticket in tickets)
            for index in range(row.count):
                for watcher in self._watchers.pop(row.key + index, ()):
                    self.out.replies.append((watcher, error))
        self.letters.store_failed(up_to, error)
        owed = Settling()
        while self._settling and self._settling[0].number <= up_to:
            later = self._settling.popleft()
            later.absorb(owed)
            owed = later
        self._turn.absorb(owed)
        if isinstance(error, CommitIndeterminate):
            # What was in that commit is unknown, and was said so above; what comes after it is not stored, for certain.
            self._broken = JournalError(
                f"nothing was stored: the journal failed before ({error}). Close this pusher and open it again"
            )
            for arrival in self._arrivals:
                self._refuse(arrival, self._broken)
            self._arrivals.clear()
            self._stop_asking(self._broken)
        else:
            self._ailing = error
            self._timers.set("store", now + RETRY_STORE)

    def _stop_asking(self, error: Exception) -> None:
        """The journal can be read no more either: who waits for what it would tell is told that."""
        self.out.reads.clear()
        self.letters.stop(error)
        self.out.replies.extend((watcher, error) for watchers in self._watchers.values() for watcher in watchers)
        self._watchers.clear()

    def loaded(self, read: core.Read, rows: Sequence[core.Row], now: float) -> None:
        """Rows from the journal."""
        if read.log == DEAD:
            self.letters.loaded(read, rows)
            return
        try:
            more = self.backlog.loaded(read, rows)
        except DecodeError as error:
            # To go on without it would be to lose what was confirmed.
            raise unreadable(error) from error
        if more is not None and self._broken is None:
            self.out.reads.append(more)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of bodies in rows that are not settled."""
        return self._bytes

    def _has_room(self, pack: Pack, ahead: Sequence[Pack] = ()) -> bool:
        """Whether a pack may be accepted now, after those `ahead` of it."""
        limit = self.settings.max_waiting
        unsettled = self.unsettled + sum(map(len, ahead))
        if not self.settings.durable:
            limits = self.settings.limits
            limit = limits.queued_messages if limit is None else min(limit, limits.queued_messages)
            size = self._bytes + sum(len(each.blob) for each in ahead)
            if size and size + len(pack.blob) > limits.queued_bytes:
                return False
        # One that is larger than the whole limit passes alone.
        return limit is None or unsettled + len(pack) <= limit or not unsettled

    def _refuse(self, arrival: Arrival, error: Exception) -> None:
        self._passed(arrival)
        self.counters["sends_refused"] += len(arrival.pack)
        if arrival.ticket is not None:
            self.out.replies.append((arrival.ticket, error))
        if arrival.watcher is not None:
            self.out.replies.extend([(arrival.watcher, error)] * len(arrival.pack))

    def _passed(self, arrival: Arrival) -> None:
        """It will not be stored: nobody need wait for its sequences."""
        self.letters.release(arrival.letters)
        self.stored_bytes += len(arrival.pack.blob)
        self.accepted_up_to = max(self.accepted_up_to, last := arrival.first + len(arrival.pack) - 1)
        if not self._storing:
            self.stored_up_to = max(self.stored_up_to, last)

    def _admit(self) -> None:
        """Turn what arrived into rows, neighbours together, as far as there is room."""
        while self._arrivals and self._has_room(self._arrivals[0].pack):
            first = self._arrivals.popleft()
            group, count, size = [first], len(first.pack), len(first.pack.blob)
            self._accept(first)
            while self._arrivals:
                each = self._arrivals[0]
                count += len(each.pack)
                size += len(each.pack.blob)
                if (
                    count > ROW_MESSAGES or size > ROW_BYTES or each.pack.codec != first.pack.codec
                    or each.first != group[-1].first + len(group[-1].pack) or not self._has_room(each.pack)
                    or ((each.pack.dated or first.pack.dated) and each.pack.sent_at != first.pack.sent_at)
                ):  # fmt: skip
                    break
                self._accept(each)
                group.append(self._arrivals.popleft())
            row = merge(group, self.settings.origin)
            tickets = [each.ticket for each in group if each.ticket is not None]
            letters = [key for each in group for key in each.letters]
            if letters:
                self.letters.remove(letters)
            number = self._write(MESSAGES, row.key, row.count, row.pack() if self.settings.durable else b"")
            self._storing.append(Storing(number, row, tickets, letters))
            self.accepted_up_to = row.last

    def _accept(self, arrival: Arrival) -> None:
        self.unsettled += len(arrival.pack)
        self._bytes += len(arrival.pack.blob)
        if arrival.watcher is not None:
            for sequence in range(arrival.first, arrival.first + len(arrival.pack)):
                self._watchers[sequence] = [arrival.watcher]

    def _write(self, log: str, key: int, weight: int, value: bytes | None) -> int:
        if self.settings.durable:
            return self.out.write(log, key, weight, value)
        self.out.written += 1
        return self.out.written

    def _write_settled(self, now: float) -> None:
        turn, self._turn = self._turn, Settling()
        for sequence, (letter, _) in turn.letters.items():
            self._write(DEAD, sequence, 1, letter)
        for key, (row, _) in list(turn.rows.items()):
            done = row.done
            turn.rows[key] = (row, done)
            if done == row.all:
                self._write(MESSAGES, key, 0, None)
                if row.marked:
                    self._write(MARKS, key, 0, None)
            else:
                row.marked = True
                self._write(MARKS, key, *row.pack_marks())
        if not turn.rows and not self._storing and not self._settling:
            self._settled(turn, now)  # nothing changed, and nothing is being written that an answer must wait for
            return
        turn.number = self.out.written
        self._settling.append(turn)

    # ---- the turn ------------------------------------------------------------------

    def end_turn(self, now: float) -> None:
        """Store what arrived and what settled; lend what may be lent; tell those who wait."""
        self.backlog.fall_due(now)
        self._store(now)
        if not self.settings.durable and (self._storing or self._settling):
            self.stored(self.out.written, now)
        self._lend(now)
        wanted = self.backlog.wanted() if self._broken is None else None
        if wanted is not None:
            self.out.reads.append(wanted)
        if self._waits:
            self._check_waits()
        super().end_turn(now)

    def _store(self, now: float) -> None:
        """Put out what is to be stored; while the journal refuses, settles first, and senders are told."""
        if self._broken is not None:
            return
        if self._ailing is None:
            if self._turn:
                self._write_settled(now)
            self._admit()
        elif "store" in self._timers:
            for arrival in self._arrivals:
                self._refuse(arrival, self._ailing)
            self._arrivals.clear()
        elif self._turn:
            self._write_settled(now)
        else:
            self._admit()

    def _lend(self, now: float) -> None:
        """Hand out what is ready, to those with room; several pullers share evenly what is left."""
        backlog = self.backlog
        if not backlog.ready:
            return
        # Who is away or silent gets nothing more: what is lent to it would wait for its return, or its end.
        open_holders = [
            each
            for each in self._holders.values()
            if each.session.room_messages > 0 and each.session.link is not None and not each.session.busy
        ]
        while open_holders and backlog.ready:
            holder = open_holders[0] if len(open_holders) == 1 else min(open_holders, key=attrgetter("held"))
            session = holder.session
            most = session.room_messages
            if len(self._holders) > 1:
                # Guided self-scheduling (Polychronopoulos and Kuck, 1987): large runs first, small ones at the end.
                most = min(most, -(-backlog.waiting // (2 * len(self._holders))))
            run = backlog.take(most, session.room_bytes)
            if run is None:
                return
            message = run.row.deliver(self._lease, run.index, run.count, alone=run.alone)
            number = self.sessions.send(session, message.pack(), run.count, now)
            holder.lease(Lot(self._lease, run, number))
            self.sessions.owe(session, True, now)
            self._lease += run.count
            self.counters["delivered"] += run.count
            self.counters["delivered_bytes"] += len(message.blob)
            if session.room_messages <= 0:
                open_holders.remove(holder)

    # ---- waiting -------------------------------------------------------------------

    def _check_waits(self) -> None:
        left = []
        for wait in self._waits:
            if self._broken is not None and wait.point != "accepted":
                self.out.replies.append((wait.ticket, self._broken))
            elif self._reached(wait):
                self.out.replies.append((wait.ticket, (self.acked, self.dead)))
            else:
                left.append(wait)
        self._waits = left

    def _reached(self, wait: Awaited) -> bool:
        if self._arrivals and self._arrivals[0].first <= wait.last:
            return False
        if wait.point == "accepted":
            return True
        if self._storing and self._storing[0].row.key <= wait.last:
            return False
        if wait.point == "journalled":
            return True
        if self.backlog.on_disk(wait.last):
            return False
        for row in self.backlog.rows_up_to(wait.last):
            if row.last < wait.first:
                continue
            low, high = max(0, wait.first - row.key), min(row.last, wait.last) - row.key
            bits = ((1 << (high - low + 1)) - 1) << low
            come = row.kept if wait.point == "settled" else row.kept | row.got
            if come & bits != bits:
                return False
        return True

    def _is_left(self, sequence: int) -> bool:
        """The message is not settled, as far as the journal knows."""
        if self._arrivals and self._arrivals[0].first <= sequence:
            return True
        if self._storing and self._storing[0].row.key <= sequence:
            return True
        if self.backlog.on_disk(sequence):
            return True
        row = self.backlog.row_of(sequence)
        return row is not None and not row.kept >> (sequence - row.key) & 1

    # ---- timers --------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """See `Core`."""
        times = (self.sessions.next_deadline(), self.backlog.next_due(), self._timers.next())
        return min((each for each in times if each is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """See `Core`."""
        self._timers.pop(now)  # "store": end_turn tries again
        super().handle_timer(now)
