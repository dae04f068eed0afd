"""The half of a pusher's core that accepts and stores (docs/protocol.md, sections 7 and 8).

Pure. What arrives is admitted as far as there is room, becomes rows, and may be lent, and said to be stored, when the
journal has it. What settled is gathered for a turn, written, and told when the journal has that.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

from zmqkit.errors import CommitIndeterminate, DecodeError, Full, JournalError
from zmqkit.events import ClockJumped, JobExpired, JournalRecovered, JournalTrouble
from zmqkit.patterns.pipeline.admission import cut, times
from zmqkit.patterns.pipeline.backlog import Backlog
from zmqkit.patterns.pipeline.dedupe import IDS, Dedupe, pack_id
from zmqkit.patterns.pipeline.doubt import Inbox
from zmqkit.patterns.pipeline.hands import Arrival, Awaited, PusherSettings, Settling, Storing, merge
from zmqkit.patterns.pipeline.lanes import LANES
from zmqkit.patterns.pipeline.leases import Holder
from zmqkit.patterns.pipeline.letter_takers import LetterTakers
from zmqkit.patterns.pipeline.letters import Letters
from zmqkit.patterns.pipeline.recalling import Recalls
from zmqkit.patterns.pipeline.returning import ABOUT as JOURNAL
from zmqkit.patterns.pipeline.returning import Returning
from zmqkit.patterns.pipeline.rows import DEAD, MARKS, MESSAGES, ROW_BYTES, ROW_MESSAGES, Pack, Row, unreadable
from zmqkit.patterns.pipeline.runs import Run, runs
from zmqkit.patterns.pipeline.steering import Steered
from zmqkit.patterns.pipeline.suspects import Suspects
from zmqkit.patterns.pipeline.walltime import STATE, WALL, WallTime
from zmqkit.patterns.pipeline.wire import Outcome
from zmqkit.protocol import core
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore
from zmqkit.protocol.timers import Timers

RETRY_STORE: Final = 1.0
"""Seconds until settles that a full disk refused are written again."""

EXPIRED_KNOWN: Final = 100_000
"""Of the last so many messages that expired it is known, for receipts that ask later."""


class StoringCore(PatternCore):
    """What `PusherCore` stands on; see there for the arguments."""

    def __init__(self, local: Local, settings: PusherSettings, rng: random.Random) -> None:
        super().__init__(local, rng)
        self.settings = settings
        self.backlog = Backlog(durable=settings.durable, wall=settings.wall)
        self.doubt = self.backlog.doubt
        self.dedupe = Dedupe(settings.dedupe)
        self.wall = WallTime(settings.wall)
        self.unsettled = 0
        """Messages that were accepted and are not settled."""
        self.acked = 0
        self.dead = 0
        self.expired = 0
        self._expired: dict[int, None] = {}
        self._expired_lost = (0, -1)
        """The span of those of which it was known once."""
        self._timers = Timers()
        self._holders: dict[bytes, Holder] = {}
        self._recalls = Recalls()
        self.suspects = Suspects()
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
        self._again_watched: list[tuple[int, Any]] = []
        """(sequence, watcher) of what was sent a second time."""
        self._watchers: dict[int, list[Any]] = {}
        self.letters = Letters(self.out, settings.durable)
        self.takers = LetterTakers(self)
        self.steered = Steered(self)
        self.returning = Returning(self, enabled=settings.durable and bool(local.about.get(JOURNAL)))
        self._ailing: Exception | None = None
        self._broken: Exception | None = None
        for name in (
            "sent", "acked", "dead", "expired", "duplicates", "failed", "delivered", "delivered_bytes", "redelivered",
            "settles_stale", "sends_refused", "commits_failed", "recalls",
            "suspected", "lent_alone", "inboxes_behind", "in_doubt", "presented", "taken",
        ):  # fmt: skip
            self.counters.setdefault(name, 0)

    def found(self, first: int, newest: int, waiting: int, letters: int = 0) -> None:
        """What the journal held when it was opened: keys of the first and newest row, and how many messages."""
        self.backlog.found(first, newest, waiting)
        self.unsettled = waiting
        self.letters.count = letters

    def restore(
        self, lanes: Iterable[core.Row], marks: Iterable[core.Row], ids: Iterable[core.Row], state: Iterable[core.Row],
        inboxes: Iterable[core.Row] = (),
    ) -> None:  # fmt: skip
        """After `found`: what the journal holds of rows that are not plain, of ids, of the time, and of inboxes.

        Raises:
            JournalDamaged: it cannot be read.
        """
        state = list(state)
        try:
            self.returning.restore(state, self.unsettled)
            self.backlog.apart(self.backlog.lanes.restore(lanes, {each.key: each.value for each in marks}))
            late = self.dedupe.restore((each.key, each.value) for each in ids)
            self._expired.update(dict.fromkeys(late))
            for each in state:
                if each.key == WALL:
                    self.wall.restore(each.value)
            self.doubt.restore(inboxes, state, self.unsettled)
        except DecodeError as error:
            raise unreadable(error) from error

    def opened_at(self, sequence: int) -> None:
        """The first sequence that this opening gives out."""
        self.accepted_up_to = self.stored_up_to = sequence - 1
        self.doubt.opened_at(sequence)
        self.returning.opened_at(sequence)

    def append(self, pack: Pack, first: int, ticket: Any, wait: bool, watcher: Any, now: float) -> None:
        """Accept messages; `ticket` gets None once they are stored, or an exception.

        Args:
            pack: the messages.
            first: the sequence of the first one; the caller gives them out, rising.
            ticket: told when stored; None if nobody waits. One whose only message was sent before, under the same id
                within the window, gets the sequence of that one.
            wait: with no room, wait for it (else `Full`).
            watcher: told (outcome, reason), or an exception, once for each message; None if nobody watches.
        """
        if pack.plan is not None:
            due, expires = times(pack.plan, self.wall.us(now))
            self._arrive(Arrival(pack, first, ticket, wait, watcher, (), due, expires))
        else:
            self._arrive(Arrival(pack, first, ticket, wait, watcher))

    def append_all(self, packs: Sequence[Pack], first: int, ticket: Any, now: float) -> None:
        """The same for packs that are accepted together, when there is room for all, and stored together."""
        wall_us = self.wall.us(now)
        parts = []
        for pack in packs:
            due, expires = times(pack.plan, wall_us) if pack.plan is not None else (0, 0)
            parts.append(Arrival(pack, first, None, True, None, (), due, expires))
            first += len(pack)
        self._arrive(parts[0]._replace(ticket=ticket, more=parts[1:]))

    def redrive(self, pack: Pack, first: int, letters: Sequence[int], ticket: Any, now: float) -> None:
        """The same for dead letters, claimed, which go as this is stored."""
        self._arrive(Arrival(pack, first, ticket, True, None, letters))

    def _arrive(self, arrival: Arrival) -> None:
        if self._broken is not None:
            self._refuse(arrival, self._broken)
        elif not arrival.wait and not self._has_room(arrival, self._arrivals):
            self._refuse(arrival, Full("no room, and timeout=0: nothing was stored"))
        else:
            self._arrivals.append(arrival)

    def withdraw(self, ticket: Any, answer: Any, now: float) -> None:
        """Give up a send that is not accepted yet; `answer` gets True if it was not, else False."""
        for at, arrival in enumerate(self._arrivals):
            if arrival.ticket is ticket:
                del self._arrivals[at]
                self._passed(arrival)
                self.counters["sends_refused"] += arrival.messages
                self.out.replies.append((answer, True))
                return
        self.out.replies.append((answer, False))

    # ---- settling ------------------------------------------------------------------

    def _done(self, row: Row, bits: int, outcome: Outcome, reason: str) -> None:
        row.done |= bits
        if self.suspects.deaths:
            self.suspects.settled(row, bits)
        turn = self._turn
        turn.rows[row.key] = (row, row.done)
        if outcome == "acked":
            turn.acked += bits.bit_count()
        elif outcome == "expired":
            turn.expired += bits.bit_count()
        else:
            turn.dead += bits.bit_count()
        turn.ended.append((row.key, bits, outcome, reason))

    def _expire(self, now: float) -> None:
        """Settle what outlived its time to live, unless the clock is not to be believed."""
        lanes, wall = self.backlog.lanes, self.wall
        if not wall.believed:
            off = wall.look(now)
            lanes.suspended = off is not None
            if off is not None and wall.to_tell(now):
                self.out.events.append(ClockJumped(self.local.name, round(off, 1)))
        for row, bits in lanes.expired(now):
            self._done(row, bits, "expired", "it outlived its time to live")
            for index, count in runs(bits):
                for at in range(index, index + count):
                    self.out.events.append(JobExpired(self.local.name, row.id(at)))

    # ---- storing -------------------------------------------------------------------

    def stored(self, up_to: int, now: float) -> None:
        """The journal has it: now it may be said, and lent."""
        while self._storing and self._storing[0].number <= up_to:
            _, row, tickets, letters, up_to_here, told = self._storing.popleft()
            self.backlog.stored(row)
            if letters:
                self.letters.went(letters)
            self.stored_up_to = up_to_here
            self.stored_bytes += len(row.blob)
            self.counters["sent"] += row.count
            self.out.replies.extend((ticket, None) for ticket in tickets)
            if told:
                self.out.replies.extend(told)
        while self._settling and self._settling[0].number <= up_to:
            self._settled(self._settling.popleft(), now)
        self.letters.stored(up_to)
        self.takers.stored(up_to, now)
        self.doubt.written(up_to)
        if self.returning.flushed:
            self.returning.written(up_to)
        if self._ailing is not None:
            self._ailing = None
            self.out.events.append(JournalRecovered(self.local.name))

    def _settled(self, settling: Settling, now: float) -> None:
        settled = settling.acked + settling.dead + settling.expired
        self.acked += settling.acked
        self.dead += settling.dead
        self.counters["acked"] += settling.acked
        self.counters["dead"] += settling.dead
        if settling.expired:
            self._count_expired(settling)
        self.unsettled -= settled
        for key, letter in settling.letters.items():
            self.letters.bury(key, *letter)
            self.takers.buried(key)
        for row, done in settling.rows.values():
            row.kept = done
            if row.special:
                self.backlog.lanes.settled(row, done)
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
        for inbox, run in settling.lendings:
            self._marked(inbox, run)
        for session, answer in settling.answers:
            if session.id in self._holders:
                self.sessions.send(session, answer.pack(), 0, now)

    def _marked(self, inbox: Inbox, run: Run) -> None:
        """The journal has it that these may have been lent to an inbox: now they may be."""
        inbox.marking -= run.count
        if inbox.sessions and self.doubt.inboxes.get(inbox.id) is inbox:
            self.doubt.keep(inbox, run.row, run.bits, alone=run.alone)
        else:
            self._free(run.row, run.bits)
            self.backlog.again(run.row, run.bits, alone=run.alone)

    def _free(self, row: Row, bits: int) -> None:
        """It is known that these had no effect in an inbox."""
        row.bound &= ~bits
        row.lend_to(0, bits)
        self._turn.rows[row.key] = (row, row.done)

    def _count_expired(self, settling: Settling) -> None:
        self.expired += settling.expired
        self.counters["expired"] += settling.expired
        for key, bits, outcome, _ in settling.ended:
            if outcome == "expired":
                for index, count in runs(bits):
                    self._expired.update(dict.fromkeys(range(key + index, key + index + count)))
        while len(self._expired) > EXPIRED_KNOWN:
            gone = next(iter(self._expired))
            del self._expired[gone]
            low, high = self._expired_lost
            self._expired_lost = (min(low or gone, gone), max(high, gone))

    def store_failed(self, up_to: int, error: Exception, now: float) -> None:
        """What was being stored is not, or may not be. New messages are refused; settles are tried again."""
        self.counters["commits_failed"] += 1
        if self._ailing is None and self._broken is None:
            self.out.events.append(JournalTrouble(self.local.name, str(error)))
        while self._storing and self._storing[0].number <= up_to:
            _, row, tickets, letters, up_to_here, told = self._storing.popleft()
            self.letters.release(letters)
            self.unsettled -= row.count
            self._bytes -= len(row.blob)
            self.stored_up_to = up_to_here
            self.stored_bytes += len(row.blob)
            self.out.replies.extend((ticket, error) for ticket in tickets)
            self.out.replies.extend((ticket, error) for ticket, _ in told)
            if row.special:
                self.backlog.lanes.refused(row)
            for index in range(row.count):
                self.dedupe.forget(row.key + index)
                for watcher in self._watchers.pop(row.key + index, ()):
                    self.out.replies.append((watcher, error))
        self.letters.store_failed(up_to, error)
        self.takers.store_failed(up_to)
        self.doubt.write_failed(up_to)
        self.returning.write_failed(up_to)
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

    @property
    def waiting_bytes(self) -> int:
        """Bytes of bodies in rows that are not settled."""
        return self._bytes

    def _has_room(self, arrival: Arrival, ahead: Iterable[Arrival] = ()) -> bool:
        """Whether it may be accepted now, after those `ahead` of it."""
        limit = self.settings.max_waiting
        if not self.settings.durable:
            limits = self.settings.limits
            limit = limits.queued_messages if limit is None else min(limit, limits.queued_messages)
            size = self._bytes + sum([each.size for each in ahead])
            if size and size + arrival.size > limits.queued_bytes:
                return False
        if limit is None:
            return True
        unsettled = self.unsettled + sum([each.messages for each in ahead])
        # One that is larger than the whole limit passes alone.
        return unsettled + arrival.messages <= limit or not unsettled

    def _refuse(self, arrival: Arrival, error: Exception) -> None:
        self._passed(arrival)
        self.counters["sends_refused"] += arrival.messages
        if arrival.ticket is not None:
            self.out.replies.append((arrival.ticket, error))
        if arrival.watcher is not None:
            self.out.replies.extend([(arrival.watcher, error)] * arrival.messages)

    def _passed(self, arrival: Arrival) -> None:
        """It will not be stored: nobody need wait for its sequences."""
        self.letters.release(arrival.letters)
        self.stored_bytes += arrival.size
        self.accepted_up_to = max(self.accepted_up_to, last := arrival.first + arrival.messages - 1)
        if not self._storing:
            self.stored_up_to = max(self.stored_up_to, last)

    def _admit(self, now: float) -> None:
        """Turn what arrived into rows, neighbours together, as far as there is room."""
        while self._arrivals and self._has_room(self._arrivals[0]):
            first = self._arrivals.popleft()
            if first.more:
                self._admit_together(first, now)
                continue
            group, count, size = [first], len(first.pack), len(first.pack.blob)
            self._accept(first)
            while self._arrivals:
                each = self._arrivals[0]
                count += len(each.pack)
                size += len(each.pack.blob)
                if (
                    count > ROW_MESSAGES or size > ROW_BYTES or each.pack.codec != first.pack.codec or each.more
                    or each.first != group[-1].first + len(group[-1].pack) or not self._has_room(each)
                    or (each.pack.plan is None) != (first.pack.plan is None)
                    or ((each.pack.dated or first.pack.dated) and each.pack.sent_at != first.pack.sent_at)
                ):  # fmt: skip
                    break
                self._accept(each)
                group.append(self._arrivals.popleft())
            self._admit_group(group, now)

    def _admit_together(self, arrival: Arrival, now: float) -> None:
        """One with `more`: each part becomes rows of its own, and all are told of when the last one is stored."""
        for part in (arrival._replace(ticket=None), *arrival.more):
            self._accept(part)
            self._admit_group([part], now)
        if self._storing:
            self._storing[-1].tickets.append(arrival.ticket)
        else:
            self.out.replies.append((arrival.ticket, None))

    def _admit_group(self, group: list[Arrival], now: float) -> None:
        if group[0].pack.plan is not None:
            self._admit_planned(group, now)
            return
        row = merge(group, self.settings.origin)
        self._bind(row, group)
        tickets = [each.ticket for each in group if each.ticket is not None]
        letters = [key for each in group for key in each.letters]
        if letters:
            self.letters.remove(letters)
        number = self._write(MESSAGES, row.key, row.count, row.pack() if self.settings.durable else b"")
        if row.bound:
            number = self._write_bound(row)
        self._storing.append(Storing(number, row, tickets, letters, row.last))
        self.accepted_up_to = row.last

    def _bind(self, row: Row, group: list[Arrival]) -> None:
        """Dead letters that may have had their effect in an inbox go only there."""
        for each in group:
            inbox = self.doubt.of(each.pack.inbox) if each.pack.inbox else None
            if inbox is not None:
                first, last = max(each.first, row.key), min(each.first + len(each.pack) - 1, row.last)
                if first <= last:
                    self.doubt.bind(inbox, row, ((1 << (last - first + 1)) - 1) << (first - row.key))

    def _write_bound(self, row: Row) -> int:
        row.marked = True
        return self._write(MARKS, row.key, *row.pack_marks())

    def _admit_planned(self, group: list[Arrival], now: float) -> None:
        """The same for those that want more than their turn."""
        wall_us = self.wall.us(now)
        for sequence in self.dedupe.evict(wall_us):
            self._write_beside(IDS, sequence, None)
        rows, ids, hashes, before = cut(group, self.settings.origin, self.backlog.lanes, self.dedupe, wall_us)
        last = group[-1].first + len(group[-1].pack) - 1
        letters = [key for each in group for key in each.letters]
        if letters:
            self.letters.remove(letters)
        if before:
            self._leave_out(group, before)
        for row, fresh, hashed in zip(rows, ids, hashes, strict=True):
            number = self._write(MESSAGES, row.key, row.count, row.pack() if self.settings.durable else b"")
            self._bind(row, group)
            if row.bound:
                number = self._write_bound(row)
            if row.special:
                entry = self.backlog.lanes.accept(row, hashed)
                number = self._write(LANES, row.key, row.count, entry.pack() if self.settings.durable else b"")
            for sequence in fresh:
                number = self._write(IDS, sequence, 0, pack_id(row.ids[sequence - row.key], wall_us))
            is_last = row is rows[-1]
            self._storing.append(
                Storing(number, row, [], letters if is_last else [], last if is_last else row.last, [])
            )
        if any(row.due or row.expires for row in rows):
            self._note_time(now)
        for arrival in group:
            if arrival.ticket is not None:
                self._tell_when_stored(arrival, before)
        if not rows:
            if self._storing:
                self._storing[-1] = self._storing[-1]._replace(up_to=last)
            else:
                self.stored_up_to = last
        self.accepted_up_to = last

    def _leave_out(self, group: list[Arrival], before: dict[int, int]) -> None:
        """What was sent before is not accepted after all."""
        self.counters["duplicates"] += len(before)
        self.unsettled -= len(before)
        for arrival in group:
            for index, length in enumerate(arrival.pack.lengths):
                sequence = arrival.first + index
                if sequence in before:
                    self._bytes -= length
                    self.stored_bytes += length
                    for watcher in self._watchers.pop(sequence, ()):
                        self._again_watched.append((before[sequence], watcher))

    def _tell_when_stored(self, arrival: Arrival, before: dict[int, int]) -> None:
        """Its ticket is told when the last of its messages is stored, be it that which was sent before."""
        sequences = range(arrival.first, arrival.first + len(arrival.pack))
        last = max(before.get(each, each) for each in sequences)
        answer = before.get(arrival.first) if len(arrival.pack) == 1 else None
        for each in reversed(self._storing):
            if each.row.key <= last <= each.row.last:
                assert isinstance(each.told, list)
                each.told.append((arrival.ticket, answer))
                return
        self.out.replies.append((arrival.ticket, answer))

    def _note_time(self, now: float) -> None:
        """Beside other writes, now and then."""
        if self.settings.durable:
            value = self.wall.row(now)
            if value is not None:
                self._write(STATE, WALL, 0, value)

    def _write_beside(self, log: str, key: int, value: bytes | None) -> None:
        if self.settings.durable:
            self._write(log, key, 0, value)

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
                if row.special:
                    self._write(LANES, key, 0, None)
            else:
                row.marked = True
                self._write(MARKS, key, *row.pack_marks())
        if turn.expired:
            self._write_expired(turn, now)
        if not turn.rows and not self._storing and not self._settling:
            self._settled(turn, now)  # nothing changed, and nothing is being written that an answer must wait for
            return
        turn.number = self.out.written
        self._settling.append(turn)

    def _write_expired(self, turn: Settling, now: float) -> None:
        """Who sends an expired message once more is to be told so, also later."""
        for key, bits, outcome, _ in turn.ended:
            if outcome == "expired":
                for index, count in runs(bits):
                    for sequence in range(key + index, key + index + count):
                        value = self.dedupe.expired(sequence)
                        if value is not None:
                            self._write_beside(IDS, sequence, value)
        self._note_time(now)

    def _store(self, now: float) -> None:
        """Put out what is to be stored; while the journal refuses, settles first, and senders are told."""
        if self._broken is not None:
            return
        if self.takers.undropped and (self._ailing is None or "store" not in self._timers):
            self.takers.write(now)
        if self._ailing is None or "store" not in self._timers:
            # What the next opening must know of what is lent.
            beside, returning = bool(self._turn), self.returning
            if self.doubt.to_write(beside=beside):
                self.doubt.flush(self._write)
            if returning.urgent or (beside and returning.changed):
                returning.flush(self._write)
        if self._ailing is None:
            if self._turn:
                self._write_settled(now)
            self._admit(now)
        elif "store" in self._timers:
            for arrival in self._arrivals:
                self._refuse(arrival, self._ailing)
            self._arrivals.clear()
        elif self._turn:
            self._write_settled(now)
        else:
            self._admit(now)
