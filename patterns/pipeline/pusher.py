"""The pusher's core: lends and settles messages (docs/protocol.md, section 7).

Pure. A message's way::

    accepted --stored--> ready --lend--> leased --ack--> acked
                          ^  ^             |---reject, or failed too often--> dead (letter)
                          |  '--backoff----|---nack
                          '----------------'---release, holder lost

A message with a delay, or behind another of its key, is held between stored and ready; one with a time to live is
expired at its end, unless it is leased. How messages are accepted and stored is in `storing`.

What settles is said (to `flush`, to receipts, to the worker above) only when the journal has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from zmqkit.errors import DecodeError, JournalError
from zmqkit.events import InDoubt, JobDead, JobFailed, JobRedelivered, StaleSettle
from zmqkit.options import Point
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.doubt import Inbox
from zmqkit.patterns.pipeline.hands import Awaited, Counts
from zmqkit.patterns.pipeline.leases import Holder, Lot
from zmqkit.patterns.pipeline.rows import DEAD, Row, unreadable
from zmqkit.patterns.pipeline.runs import Run, runs
from zmqkit.patterns.pipeline.steering import Answer
from zmqkit.patterns.pipeline.storing import StoringCore
from zmqkit.patterns.pipeline.suspects import MAY_HAVE_DIED
from zmqkit.protocol import core
from zmqkit.protocol.core import Frames
from zmqkit.protocol.session import Session

NOT_DUE_IDS = 1_000
"""So many ids of messages whose delay has not run out are told at most."""


class PusherCore(StoringCore):
    """The pusher's state machine.

    Args:
        local: what this side says of itself.
        settings: see `PusherSettings`.
        rng: ids and jitter.
    """

    _keeps = False
    """Some puller is kept for suspects."""

    # ---- verbs of the user ---------------------------------------------------------

    def wait(self, point: Point, first: int, last: int, ticket: Any, now: float) -> None:
        """`ticket` gets `Counts` once all messages from `first` to `last` have come to the point.

        Those that are not due need not come to "received" or "settled".
        """
        self._waits.append(Awaited(point, first, last, ticket))

    def watch_for(self, sequence: int, watcher: Any, now: float) -> None:
        """`watcher` gets (outcome, reason) of one message, at once if it is settled already.

        An exception instead where that cannot be known: the message was not stored, or the journal failed.
        """
        if self._is_left(sequence):
            self._watchers.setdefault(sequence, []).append(watcher)
        elif self._broken is not None:
            self.out.replies.append((watcher, self._broken))
        elif sequence in self._expired:
            self.out.replies.append((watcher, ("expired", "it outlived its time to live")))
        elif self._expired_lost[0] <= sequence <= self._expired_lost[1]:
            self.out.replies.append(
                (watcher, JournalError("the message has settled; how is not known any more: too many have expired"))
            )
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

    def steered_answer(self, session: bytes, answer: Answer, now: float) -> None:
        """What who steers in this session is told."""
        self.steered.answer(session, answer, now)

    # ---- sessions ------------------------------------------------------------------

    def opened(self, session: Session, now: float) -> None:
        """A puller came."""
        if self.steered.opened(session, now) or self.takers.opened(session, now):
            return
        holder = self._holders[session.id] = Holder(session)
        found = inbox_of(session.peer.about)
        if found is None:
            self.doubt.meet(None)
        else:
            self._meet(holder, *found, now)
        holder.version = self.doubt.version

    def _meet(self, holder: Holder, id: bytes, commits: int, now: float) -> None:
        """It presents an inbox: see whether that is as far as it was."""
        inbox = holder.inbox = self.doubt.meet(id)
        if inbox is None:
            holder.behind = True
            self.sessions.goodbye(holder.session, "too many inboxes", now)
        elif commits < inbox.commits:
            holder.behind = True
            self.counters["inboxes_behind"] += 1
            self.sessions.send(holder.session, wire.Known(id, inbox.commits).pack(), 0, now)
        else:
            self.doubt.heard(inbox, commits)

    def release(self, inbox: bytes, ticket: Any, now: float) -> None:
        """An operator says that an inbox answers no more: what is in doubt there goes anywhere.

        `ticket` gets the number of these messages that wait; None if no such inbox is known.
        """
        found = self.doubt.inboxes.get(inbox)
        if found is None:
            self.out.replies.append((ticket, None))
            return
        holders = [each for each in self._holders.values() if each.inbox is found]
        gone = self.doubt.release(found)
        for run in gone:
            self._free(run.row, run.bits)
            self.backlog.again(run.row, run.bits, alone=run.alone)
        for holder in holders:
            holder.inbox = self.doubt.meet(inbox)
            holder.behind = False
            holder.version = self.doubt.version
        self.out.replies.append((ticket, sum(run.count for run in gone)))

    def lost(self, session: Session, reason: str, now: float) -> None:
        """A puller is gone: what it held goes to others."""
        if self.takers.lost(session, now) or self.steered.lost(session, now):
            return
        holder = self._holders.pop(session.id)
        self._recalls.forget(session.id)
        self.returning.lost(session)
        inbox = holder.inbox
        for run in self.doubt.leave(inbox):
            self._free(run.row, run.bits)
            self.backlog.again(run.row, run.bits, alone=run.alone)
        if not holder.held:
            return
        if inbox is not None:
            # Whether its effects are there, only this inbox can tell.
            for row, bits in holder.rows():
                self.doubt.bind(inbox, row, bits)
        if self.suspects.to_blame(holder, reason):
            # It died over this one job: that counts, or a job that kills its workers would go round for ever. (Also
            # where it never said that it had it: it may be dead a millisecond after it came.)
            (lot,) = holder.lots.values()
            index = lot.row_bits.bit_length() - 1
            self._redelivered(lot.row, lot.row_bits)
            # The first time it goes at once to the next puller: who died, died of something else, as a rule.
            delay = None if index in lot.row.failures else 0.0
            self._failed(lot.row, index, delay, f"the puller died holding this job alone ({reason})", "", now)
        else:
            if reason in MAY_HAVE_DIED:
                self.counters["suspected"] += self.suspects.died(holder)
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
        if self.steered.received(session, frames, now):
            return
        message = wire.read(frames)
        if session.id in self.takers.sessions:
            self.takers.received(session, message, now)
            return
        holder = self._holders[session.id]
        if isinstance(message, wire.Settle):
            if message.commits and holder.inbox is not None:
                self.doubt.heard(holder.inbox, message.commits)
                holder.behind = message.commits < holder.inbox.commits and holder.behind
                self.returning.loaded()
            self._settle(holder, message, now)
            self.sessions.owe(session, holder.held > 0, now)
        elif isinstance(message, wire.Held):
            self._reconcile(holder, message)
        elif isinstance(message, wire.Present):
            self.returning.present(holder, message, now)
        else:
            raise DecodeError("a puller must not deliver")

    # ---- settling ------------------------------------------------------------------

    def _settle(self, holder: Holder, message: wire.Settle, now: float) -> None:
        stale: wire.Ranges = []
        current = message.epoch == self.settings.epoch
        before = holder.held
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
                self._settle_other(holder, lot, bits, other, now)
        if message.started and current:
            holder.started, holder.stride = max(holder.started, message.started), max(1, before - holder.held)
        if stale:
            self.counters["settles_stale"] += len(stale) // 2
            self.out.events.append(StaleSettle(self.local.name, holder.session.peer.instance.hex(), len(stale) // 2))
            if len(stale) > 2 * wire.MAX_RANGES:
                stale = [number for pair in wire.merged(stale) for number in pair]
        if message.ask or stale:
            self._turn.answers.append((holder.session, wire.Settled(message.ask, stale)))

    def _settle_other(self, holder: Holder, lot: Lot, bits: int, other: wire.Unsettled, now: float) -> None:
        row, row_bits = lot.row, bits << lot.index
        if holder.inbox is not None:
            if other.doubt:
                self.doubt.bind(holder.inbox, row, row_bits)
            elif row.inboxes and not row_bits & row.bound:
                self._free(row, row_bits)
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
        self.backlog.later(row, index, now + delay, alone=self.suspects.alone(row.key + index))

    def _bury(self, row: Row, index: int, reason: str, traceback: str, now: float) -> None:
        letter = row.letter(index, reason, traceback, int((now + self.settings.wall) * 1e6))
        self._turn.letters[row.key + index] = letter.pack(), reason
        self._done(row, 1 << index, "dead", reason)
        self.out.events.append(JobDead(self.local.name, letter.id, reason))

    def _put_back(self, row: Row, bits: int, *, alone: bool = False) -> None:
        self._redelivered(row, bits)
        if self.suspects.deaths:
            bits, apart = self.suspects.split(row, bits)
            if apart:
                self.backlog.again(row, apart, alone=True)
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
                if holder.inbox is not None:
                    self.doubt.bind(holder.inbox, lot.row, bits << lot.index)
                self._put_back(lot.row, bits << lot.index)
                self.counters["redelivered"] += bits.bit_count()

    # ---- storing -------------------------------------------------------------------

    def loaded(self, read: core.Read, rows: Sequence[core.Row], now: float) -> None:
        """Rows from the journal."""
        if read.log == DEAD:
            if not self.takers.loaded(read, rows, now):
                self.letters.loaded(read, rows)
            return
        self.returning.loaded()
        try:
            more = self.backlog.loaded(read, rows)
        except DecodeError as error:
            # To go on without it would be to lose what was confirmed.
            raise unreadable(error) from error
        if more is not None and self._broken is None:
            self.out.reads.append(more)

    @property
    def broken(self) -> bool:
        """The journal failed in such a way that nothing more is stored until it is opened again."""
        return self._broken is not None

    # ---- the turn ------------------------------------------------------------------

    def end_turn(self, now: float) -> None:
        """Store what arrived and what settled; lend what may be lent; tell those who wait."""
        returning = self.returning
        if returning.holding:
            returning.turn(now)
        self.backlog.fall_due(now)
        if self.backlog.lanes.entries or not self.wall.believed:
            self._expire(now)
        self._store(now)
        if not self.settings.durable and (self._storing or self._settling):
            self.stored(self.out.written, now)
        if returning.look:
            returning.answer(now)
        self._lend(now)
        if self._turn.lendings or returning.urgent:
            self._store(now)  # at once: nothing else may come for long
        if self._broken is None:
            if self.takers.sessions:
                self.takers.end_turn(now)
            wanted = self.backlog.wanted()
            if wanted is not None:
                self.out.reads.append(wanted)
            if self.backlog.lanes.entries:
                self.out.reads.extend(self.backlog.lanes.wanted())
        if self.doubt.in_doubt or self.counters["in_doubt"]:
            self._tell_doubt(now)
        if self._again_watched:
            watched, self._again_watched = self._again_watched, []
            for sequence, watcher in watched:
                self.watch_for(sequence, watcher, now)
        if self._waits:
            self._check_waits()
        super().end_turn(now)

    def _lend(self, now: float) -> None:
        """Hand out what is ready, to those with room; several pullers share evenly what is left."""
        backlog, lanes, doubt = self.backlog, self.backlog.lanes, self.backlog.doubt
        if self.suspects.waiting or self._keeps:
            self._lend_alone(now)
        if not backlog.ready and not lanes.ready and not doubt.waiting:
            if len(self._holders) > 1 and not backlog.waiting and not self.suspects.waiting:
                self._recall(now)
            return
        # Who is away or silent gets nothing more: what is lent to it would wait for its return, or its end.
        open_holders = [
            each
            for each in self._holders.values()
            if each.session.room_messages > 0 and each.session.link is not None and not each.session.busy
            and not each.kept and not each.behind and each.version <= doubt.stored
        ]  # fmt: skip
        if doubt.waiting:
            self._lend_kept(open_holders, now)
        while open_holders and (backlog.ready or lanes.ready):
            holder = open_holders[0] if len(open_holders) == 1 else min(open_holders, key=attrgetter("held"))
            session = holder.session
            most = session.room_messages
            if len(self._holders) > 1:
                # Guided self-scheduling (Polychronopoulos and Kuck, 1987): large runs first, small ones at the end.
                most = min(most, -(-backlog.waiting // (2 * len(self._holders))))
            inbox = holder.inbox
            if inbox is not None:
                most = min(most, session.room_messages - inbox.waiting - inbox.marking)
                if most <= 0:
                    open_holders.remove(holder)
                    continue
            run = backlog.take(most, session.room_bytes)
            if run is None:
                return
            if run.alone and self.suspects.alone(run.row.key + run.index):
                self.suspects.waiting.append((run.row, run.index))
                self._lend_alone(now)
                open_holders = [each for each in open_holders if not each.kept and each.session.room_messages > 0]
                continue
            if inbox is not None and not doubt.covers(inbox, run):
                self._mark(inbox, run)
            else:
                self._lend_run(holder, run, now)
                if session.room_messages <= 0:
                    open_holders.remove(holder)

    def _lend_kept(self, holders: list[Holder], now: float) -> None:
        """Hand out what waits for one inbox, to those that present it."""
        for holder in list(holders):
            session, inbox = holder.session, holder.inbox
            while inbox is not None and inbox.waiting and session.room_messages > 0:
                suspect = self.suspects.alone(inbox.first)
                if suspect and holder.held:
                    # One puller of this inbox is kept for it: it gets nothing more, so that it is empty soon.
                    holder.kept = not any(each.kept and each.inbox is inbox for each in self._holders.values())
                    break
                run = self.doubt.take(inbox, session.room_messages, session.room_bytes)
                assert run is not None  # some wait
                self._lend_run(holder, run, now)
                if suspect:
                    self.counters["lent_alone"] += 1
                    holder.kept = True
                    break
            self._keeps |= holder.kept
            if session.room_messages <= 0 or holder.kept:
                holders.remove(holder)

    def _mark(self, inbox: Inbox, run: Run) -> None:
        """Have it stored that this run may have been lent to an inbox; then it waits there."""
        run.row.lend_to(inbox.number, run.bits | run.row.inboxes.get(inbox.number, 0))
        inbox.marking += run.count
        self._turn.rows[run.row.key] = (run.row, run.row.done)
        self._turn.lendings.append((inbox, run))

    def _lend_run(self, holder: Holder, run: Run, now: float) -> None:
        session = holder.session
        message = run.row.deliver(self._lease, run.index, run.count, alone=run.alone)
        number = self.sessions.send(session, message.pack(), run.count, now)
        holder.lease(Lot(self._lease, run, number))
        self.returning.lent(run)
        self.sessions.owe(session, True, now)
        self._lease += run.count
        self.counters["delivered"] += run.count
        self.counters["delivered_bytes"] += len(message.blob)

    def _tell_doubt(self, now: float) -> None:
        self.counters["in_doubt"] = self.doubt.in_doubt
        for inbox, id in self.doubt.missed(now, self._doubt_bound):
            self.out.events.append(InDoubt(self.local.name, id, inbox.id.hex(), inbox.in_doubt))

    @property
    def _doubt_bound(self) -> float:
        """Seconds without a puller with their inbox after which jobs in doubt are told."""
        heartbeat = self.local.heartbeat
        return heartbeat.interval * heartbeat.liveness

    def next_lease(self) -> int:
        """A number for one more lease."""
        return self.next_leases(1)

    def next_leases(self, count: int) -> int:
        """The first of so many neighbouring numbers for leases."""
        self._lease += count
        return self._lease - count

    def _lend_alone(self, now: float) -> None:
        """Lend suspects, each to a puller that holds nothing else."""
        suspects = self.suspects
        late = [each for each in suspects.waiting if each[0].special and self.backlog.lanes.entries[each[0].key].late]
        for row, index in late:  # it expires
            suspects.waiting.remove((row, index))
            self.backlog.again(row, 1 << index, alone=True)
        stored = self.doubt.stored
        known = [each for each in self._holders.values() if not each.behind and each.version <= stored]
        for holder in suspects.lendings(known):
            run = Run(*suspects.waiting.popleft(), 1, True)
            if holder.inbox is not None and not self.doubt.covers(holder.inbox, run):
                self._mark(holder.inbox, run)
                continue
            self._lend_run(holder, run, now)
            self.counters["lent_alone"] += 1
        self._keeps = any(each.kept for each in self._holders.values())

    def _recall(self, now: float) -> None:
        """Nothing is ready: if somebody has nothing to do, ask those who have most of it for some."""
        asked, again = self._recalls.due(self._holders.values(), now)
        for holder, count in asked:
            self.sessions.send(holder.session, wire.Recall(count).pack(), 0, now)
            self.counters["recalls"] += 1
        if again is not None and "recall" not in self._timers:
            self._timers.set("recall", again)

    # ---- waiting -------------------------------------------------------------------

    def _check_waits(self) -> None:
        left = []
        for wait in self._waits:
            if self._broken is not None and wait.point != "accepted":
                self.out.replies.append((wait.ticket, self._broken))
            elif self._reached(wait):
                self.out.replies.append((wait.ticket, self._counts(wait)))
            else:
                left.append(wait)
        self._waits = left

    def _counts(self, wait: Awaited) -> Counts:
        not_due: tuple[str, ...] = ()
        if wait.point in ("received", "settled"):
            not_due = self.backlog.lanes.not_due(wait.first, wait.last, NOT_DUE_IDS)
        return Counts(self.acked, self.dead, self.expired, not_due)

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
        lanes = self.backlog.lanes
        return not lanes.entries or not lanes.blocks(wait.first, wait.last, received=wait.point == "received")

    def _is_left(self, sequence: int) -> bool:
        """The message is not settled, as far as the journal knows."""
        if self._arrivals and self._arrivals[0].first <= sequence:
            return True
        if self._storing and self._storing[0].row.key <= sequence:
            return True
        if self.backlog.lanes.entries and self.backlog.lanes.find(sequence) is not None:
            return self.backlog.lanes.is_left(sequence)
        if self.backlog.on_disk(sequence):
            return True
        row = self.backlog.row_of(sequence)
        return row is not None and not row.kept >> (sequence - row.key) & 1

    def close(self, now: float) -> None:
        """See `Core`."""
        if self._broken is None and self._ailing is None:
            if self.doubt.tighten():
                self.doubt.flush(self._write)
            if self.unsettled and self.returning.tighten(self._holders.values()):
                self.returning.flush(self._write)
        super().close(now)

    # ---- timers --------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """See `Core`."""
        times = (
            self.sessions.next_deadline(), self.backlog.next_due(), self._timers.next(), self.wall.next_time(),
            self.doubt.next_time(self._doubt_bound), self.returning.due,
        )  # fmt: skip
        return min((each for each in times if each is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """See `Core`."""
        while self._timers.pop(now) is not None:  # "store", "recall": end_turn tries again
            pass
        super().handle_timer(now)


def inbox_of(about: Mapping[str, Any]) -> tuple[bytes, int] | None:
    """What inbox a puller presents, and how many commits it has; None: none."""
    id, commits = about.get("inbox"), about.get("commits")
    if type(id) is not bytes or len(id) != 16:
        return None
    return id, commits if type(commits) is int and commits >= 0 else 0
