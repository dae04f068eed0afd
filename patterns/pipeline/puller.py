"""The puller's core: takes leased messages, gives credit, reports what became of them (docs/protocol.md, section 7).

Pure. Jobs are handed to the user in `Parcel`s, as they came; which of them a handler runs is the face's business.
Acks are gathered and sent once a turn.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator
from typing import Any, Final

from zmqkit.errors import DecodeError, LeaseLost
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.holding import Holding, told
from zmqkit.patterns.pipeline.kept import HERE, TIMER, Keeping
from zmqkit.patterns.pipeline.letter_takers import ABOUT
from zmqkit.patterns.pipeline.parcels import Asked, Look, Parcel, Source
from zmqkit.patterns.pipeline.prefetching import FIRST, Prefetch
from zmqkit.patterns.pipeline.runs import runs
from zmqkit.protocol.core import Frames
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore
from zmqkit.protocol.session import Session
from zmqkit.protocol.timers import Timers

__all__ = ["Look", "Parcel", "PullerCore"]

SETTLE_OTHERS: Final = 10_000
SETTLE_CHARACTERS: Final = 1 << 19
"""A SETTLE tells of so many failed jobs, or of so much reason and traceback, and the next one of the rest."""

LEASES: Final = "leases"
"""The timer by which started jobs are looked at."""

LOOK_AGAIN: Final = 0.02
"""Seconds until an inbox that another process writes to is looked into again."""

HELD_EVERY: Final = 10
"""Heartbeat intervals between two reports of what is held."""


class PullerCore(PatternCore):
    """The puller's state machine.

    Args:
        local: what this side says of itself; its credit is the prefetch. With an inbox `about` names it.
        rng: ids and jitter.
        max_lease: seconds for which a started job may be held without an extension. None: as long as its
            connection may be silent.
        adaptive: the prefetch of each pusher follows the rate of settles; else it is the credit in `local`.
    """

    def __init__(
        self, local: Local, rng: random.Random, *, max_lease: float | None = None, adaptive: bool = False
    ) -> None:
        credit = FIRST if adaptive else local.credit_messages
        self._about = {**local.about, "recall": True}
        super().__init__(dataclasses.replace(local, credit_messages=credit, about=self._about), rng)
        self._adaptive = adaptive
        self.prefetch = self.local.credit_messages
        """How many jobs each pusher may have here at least."""
        self._holding = Holding(local.busy_bound if max_lease is None else max_lease)
        self._keeping = Keeping(self, self._holding.max_lease)
        self._inbox: bytes | None = self._about.get("inbox")
        self._looks: list[Look] = []
        self._sources: dict[bytes, Source] = {}
        self._dirty: dict[int, Parcel] = {}
        self._changed: dict[bytes, Source] = {}
        self._acks: dict[bytes, wire.Ranges] = {}
        self._tell: dict[bytes, Source] = {}
        """Who must be told, at the turn's end, what is held."""
        self._asks = 0
        self._timers = Timers()
        self.held = 0
        """Jobs that were delivered and are not settled."""
        for name in (
            "received",
            "acked",
            "nacked",
            "rejected",
            "released",
            "settles_stale",
            "jobs_lost",
            "overdue",
            "recalled",
            "went_on",
        ):
            self.counters.setdefault(name, 0)

    def parcels(self) -> Iterator[Parcel]:
        """All of which some job is not settled."""
        for source in self._sources.values():
            yield from source.parcels.values()
        yield from self._keeping.parcels()

    # ---- verbs of the user ---------------------------------------------------------

    def collect(self, parcel: Parcel, now: float) -> None:
        """The user acked jobs of this parcel; they are in `parcel.acked`."""
        self._dirty[id(parcel)] = parcel

    def settle(
        self, parcel: Parcel, index: int, kind: int, delay: float | None, reason: str, traceback: str, now: float
    ) -> None:
        """A job ends otherwise: NACK, REJECT, RELEASE or ISOLATE."""
        source = self._sources.get(parcel.session.id)
        left = self._keeping.of(parcel) if source is None else None
        if parcel.lost or not parcel.open >> index & 1 or (source is None and left is None):
            self.counters["settles_stale"] += 1
            return
        self.counters[COUNTED[kind]] += 1
        doubt = parcel.doubted is not None and index in parcel.doubted
        if self._inbox is not None and parcel.overdue >> index & 1:
            doubt = True  # its user may commit yet
        reason, traceback = wire.sendable(reason)[: wire.MAX_REASON], wire.sendable(traceback)[-wire.MAX_TRACEBACK :]
        other = wire.Unsettled(0, kind, delay, reason, traceback, doubt)
        if source is not None:
            self.end_otherwise(source, parcel, index, other)
        elif left is not None:
            left.others[index] = other
            parcel.open &= ~(1 << index)

    def ack_asking(self, parcel: Parcel, index: int, ticket: Any, now: float) -> None:
        """Ack a job; `ticket` gets None when the pusher has stored that, `LeaseLost` if it changed nothing."""
        source, asked = self._sources.get(parcel.session.id), Asked(parcel, index, ticket)
        gone = parcel.lost or parcel.gone >> index & 1
        if gone or (source is None and not self._keeping.ask(asked)):
            self.out.replies.append((ticket, LeaseLost("the job was given to another puller; this ack came too late")))
            return
        parcel.acked.append(index)
        self._dirty[id(parcel)] = parcel
        if source is not None:
            source.asked.append(asked)
            self._changed[source.session.id] = source

    def extend(self, parcel: Parcel, index: int, seconds: float | None, now: float) -> None:
        """A job may be held for so many seconds from now on; None: for `max_lease`. It never shortens its time."""
        if parcel.lost or not parcel.open >> index & 1:
            return
        until = self._holding.extend(parcel, index, seconds, now)
        if until != math.inf:
            self._timers.sooner(LEASES, until)

    def hungry(self, now: float) -> None:
        """The user waits, and holds all that there is: if that is because of our credit, there is more of it."""
        for source in self._sources.values():
            if source.prefetch is not None and source.ran_empty and source.prefetch.ran_empty():
                self._regrant(source)

    def close(self, now: float) -> None:
        """See `Core`. The goodbye itself gives back what is not settled, uncounted.

        To release it before would give credit, and the pusher would lend the same jobs to us once more.
        """
        self.end_turn(now)
        if self._inbox is not None:
            for source in self._sources.values():
                self._give_back(source, now)
        super().close(now)
        self._keeping.close()

    def _give_back(self, source: Source, now: float) -> None:
        """Say which jobs nobody has begun, so that they are not in doubt. This gives no credit."""
        others: list[wire.Unsettled] = []
        for parcel in source.parcels.values():
            first = parcel.delivery.lease
            left = list(parcel.claims)  # each is given out once: nobody can take it any more
            others += [wire.Unsettled(first + index, wire.RELEASE) for index in left if parcel.open >> index & 1]
        for each in _portions(others) if others else []:
            self.sessions.send(source.session, wire.Settle(source.epoch, [], each, 0, self._commits).pack(), 0, now)

    # ---- the inbox -----------------------------------------------------------------

    @property
    def _commits(self) -> int:
        commits: int = self._about.get("commits", 0)
        return commits

    def inbox_at(self, commits: int, now: float) -> None:
        """The inbox has so many commits: it was looked."""
        if self._inbox is None:
            return
        self._about["commits"] = max(self._commits, commits)
        for source in self._sources.values():
            if 0 < source.behind <= self._commits:
                source.behind = 0
                self._changed[source.session.id] = source

    def look_later(self, look: Look, now: float) -> None:
        """The inbox could not be read just now: ask for the same look again soon."""
        self._looks.append(look)
        self._timers.set("look", now + LOOK_AGAIN)

    # ---- sessions ------------------------------------------------------------------

    def opened(self, session: Session, now: float) -> None:
        """A pusher came."""
        epoch = session.peer.about.get("epoch")
        if type(epoch) is not bytes or len(epoch) != 16:
            self.sessions.bad_frame(session.link, "a pusher without an epoch")
            self.sessions.goodbye(session, "no epoch", now)
            return
        if self.local.about.get(ABOUT) and session.peer.about.get(ABOUT) is not True:
            # It would lend messages, and an ack of one is no word on a letter.
            self.sessions.bad_frame(session.link, "a pusher that lends no dead letters")
            self.sessions.goodbye(session, "no dead letters", now)
            return
        prefetch = Prefetch(now) if self._adaptive else None
        source = self._sources[session.id] = Source(session, epoch, self.local.credit_messages, prefetch)
        self._note_prefetch()
        if source.journal:
            # One opening of a journal at a time: whoever had it before and is away is gone.
            for old in self._sources.values():
                if old.journal == source.journal and old.epoch != epoch and old.session.link is None:
                    self.sessions.goodbye(old.session, "replaced", now)
            self._keeping.present(source, now)

    def lost(self, session: Session, reason: str, now: float) -> None:
        """A pusher is gone: what it lent us is ours no longer, unless it is opened anew and goes on with it."""
        source = self._sources.pop(session.id, None)
        if source is None:
            return
        self._note_prefetch()
        self._changed.pop(session.id, None)
        self._acks.pop(session.id, None)
        self._keeping.lost(session)
        self.held -= sum(parcel.open.bit_count() for parcel in source.parcels.values())
        if source.journal and reason not in HERE and not self.local.about.get(ABOUT):
            self._keeping.keep(source, now)
            for other in self._sources.values():
                if other.journal == source.journal:
                    self._keeping.present(other, now)
            return
        for parcel in source.parcels.values():
            parcel.lost = True
            self.counters["jobs_lost"] += parcel.open.bit_count()
            parcel.open = 0
        asked = [each for asks in source.asks.values() for each in asks] + source.asked
        for each in asked:
            why = f"the pusher was lost ({reason}) before it confirmed the ack: it may deliver the job again"
            self.out.replies.append((each.ticket, LeaseLost(why)))

    def heard(self, session: Session, now: float) -> None:
        """A pusher heard of settles, or gave credit."""
        source = self._sources.get(session.id)
        if source is not None and source.unheard:
            source.heard()

    def received(self, session: Session, frames: Frames, messages: int, now: float) -> None:
        """A pusher lends, or answers."""
        source = self._sources.get(session.id)
        if source is None:
            return
        message = wire.read(frames)
        if isinstance(message, wire.Deliver):
            if messages != len(message.lengths):
                raise DecodeError("DELIVER that counts otherwise than its session says")
            if message.lease <= source.highest:
                raise DecodeError("DELIVER with a lease number that was given before")
            parcel = Parcel(message, session, sum(map(len, frames)))
            source.parcels[message.lease] = parcel
            source.highest = message.lease + messages - 1
            source.newest = parcel
            source.unstarted.append(parcel)
            if source.prefetch is not None and not self.held:
                source.prefetch.begin(now)
            self.held += messages
            self.counters["received"] += messages
            self.out.items.append(parcel)
            self._watch(source, now)
        elif isinstance(message, wire.Settled):
            self._answered(source, message)
        elif isinstance(message, wire.Recall):
            self._recalled(source, message.most, now)
        elif isinstance(message, wire.Known):
            if message.inbox == self._inbox:
                source.behind = message.commits
                if message.commits <= self._commits:
                    self.inbox_at(self._commits, now)
                else:
                    self.out.items.append(Look(message.commits))
        elif isinstance(message, wire.Taken):
            self._keeping.taken(source, message, now)
        else:
            raise DecodeError("a pusher must not settle")

    def _answered(self, source: Source, message: wire.Settled) -> None:
        stale = message.stale
        if stale:
            self.counters["settles_stale"] += len(stale) // 2
        for parcel, index, ticket in source.asks.pop(message.ask, ()):
            lease = parcel.delivery.lease + index
            lost = any(stale[at] <= lease <= stale[at + 1] for at in range(0, len(stale), 2))
            error = LeaseLost("the job was given to another puller; this ack came too late") if lost else None
            self.out.replies.append((ticket, error))

    def _recalled(self, source: Source, count: int, now: float) -> None:
        """Give back what the user has not started, the last first; at most half of what is held."""
        held = sum(parcel.open.bit_count() for parcel in source.parcels.values())
        left = min(count, held // 2)
        for parcel in reversed(list(source.parcels.values())):
            if left <= 0:
                break
            rest = list(parcel.claims)  # all at once: each index goes to the user or to us
            if not rest:
                if parcel.went_on:
                    continue
                break  # those before were claimed before
            kept, given = rest[: max(0, len(rest) - left)], rest[max(0, len(rest) - left) :]
            parcel.offered = given[0]
            parcel.claims = iter(range(kept[0], given[0]) if kept else range(0))
            if kept:
                self.out.items.append(parcel)  # who saw that nothing was left may have put it away
            for index in given:
                self.settle(parcel, index, wire.RELEASE, None, "", "", now)
            self.counters["recalled"] += len(given)
            left -= len(given)

    # ---- settling ------------------------------------------------------------------

    def _end(self, source: Source, parcel: Parcel, bits: int) -> int:
        """Mark jobs as settled, and give the pusher as much new credit. Returns the bits that were open."""
        bits &= parcel.open
        if not bits:
            return 0
        parcel.open &= ~bits
        count = bits.bit_count()
        self.held -= count
        if not parcel.open:
            del source.parcels[parcel.key]
        if not parcel.went_on:  # which took no credit
            source.released_messages += count
            # Bytes are given back by the parcel: its bodies are one block in memory.
            source.released_bytes += 0 if parcel.open else parcel.size
        self._changed[source.session.id] = source
        return bits

    def _collect_all(self, now: float) -> None:
        dirty, self._dirty = self._dirty, {}
        for parcel in dirty.values():
            # First the flag, then the queue: an ack that comes in between raises the flag anew.
            parcel.told = False
            acked = parcel.acked
            bits = 0
            if parcel.commits > self._commits:
                self.inbox_at(parcel.commits, now)
            source = self._sources.get(parcel.session.id)
            if source is None and self._keep_acks(parcel):
                continue
            if parcel.lost or source is None:
                self.counters["settles_stale"] += len(acked)
                acked.clear()
                continue
            if len(acked) == len(parcel):
                acked.clear()
                bits = parcel.open
            else:
                while acked:
                    bits |= 1 << acked.popleft()
            ended = self._end(source, parcel, bits)
            self.counters["acked"] += ended.bit_count()
            if parcel.gone:
                self.counters["settles_stale"] += (bits & parcel.gone).bit_count()
            self._tell_acked(source, parcel, ended)

    def _tell_acked(self, source: Source, parcel: Parcel, bits: int) -> None:
        first = parcel.delivery.lease
        ranges = self._acks.setdefault(source.session.id, [])
        for index, count in runs(bits):
            ranges += (first + index, first + index + count - 1)
        if source.journal and bits:
            source.ended.append((parcel, bits))

    def end_otherwise(self, source: Source, parcel: Parcel, index: int, other: wire.Unsettled) -> None:
        """A job that is open ends otherwise than by an ack; `other` says how."""
        self._end(source, parcel, 1 << index)
        source.others.append(other._replace(lease=parcel.delivery.lease + index))
        if source.journal:
            source.other_of.append((parcel, index))

    # ---- when a pusher is opened anew ----------------------------------------------

    def _keep_acks(self, parcel: Parcel) -> bool:
        """Acks whose session is gone wait for the next one. False: the jobs are lost."""
        left = self._keeping.of(parcel)
        if left is None:
            return False
        while parcel.acked:
            bit = 1 << parcel.acked.popleft()
            self.counters["acked"] += bool(parcel.open & bit)
            left.acks |= parcel.open & bit
            parcel.open &= ~bit
        return True

    def go_on(self, source: Source, parcel: Parcel, base: int, bits: int, acks: int, now: float) -> None:
        """These jobs of a parcel go on with this pusher, some of them acked meanwhile. `base`: see `Source.rehome`."""
        source.rehome(parcel, base, bits)
        self.held += bits.bit_count()
        self._tell_acked(source, parcel, self._end(source, parcel, acks))
        self._watch(source, now)

    def _watch(self, source: Source, now: float) -> None:
        """Something is held: say so now and then, and see how long it is."""
        self.sessions.owe(source.session, True, now)
        if ("held", source.session.id) not in self._timers:
            self._timers.set(("held", source.session.id), now + HELD_EVERY * self.local.heartbeat.interval)
        if LEASES not in self._timers:
            self._timers.set(LEASES, now + self._holding.pause)

    def tell_held(self, source: Source) -> None:
        """Say, at the turn's end, what is held."""
        self._tell[source.session.id] = source

    def set_timer(self, key: str, when: float) -> None:
        """Have one of our parts called by then."""
        self._timers.set(key, when)

    # ---- the turn ------------------------------------------------------------------

    def end_turn(self, now: float) -> None:
        """Report what was settled, and give new credit with it."""
        self._collect_all(now)
        acks, self._acks = self._acks, {}
        changed, self._changed = self._changed, {}
        for name, source in changed.items():
            self._report(source, acks.get(name, []), now)
        if self._tell:
            # After the settles: what is not listed as held and was not settled is taken back.
            tell, self._tell = self._tell, {}
            for name, source in tell.items():
                if name in self._sources:
                    self._tell_held(source, now)
        super().end_turn(now)

    def _report(self, source: Source, acks: wire.Ranges, now: float) -> None:
        session = source.session
        if source.prefetch is not None:
            if source.ran_empty:
                source.prefetch.ran_empty()
            source.prefetch.settled(source.released_messages - source.reported, session.trip, now)
        source.reported = source.released_messages
        self._regrant(source)
        ask = 0
        if source.asked:
            self._asks = ask = self._asks + 1
            source.asks[ask], source.asked = source.asked, []
        *more, others = _portions(source.others)
        source.others = []
        commits = self._commits if self._inbox is not None else 0
        for each in more:
            number = self.sessions.send(session, wire.Settle(source.epoch, [], each, 0, commits).pack(), 0, now)
            if source.journal:
                source.unheard.append(source.told(number, each, acks=False))
        last = wire.Settle(source.epoch, acks, others, ask, commits, source.look())
        number = self.sessions.send(session, last.pack(), 0, now)
        if source.journal:
            source.unheard.append(source.told(number, others))
        self.sessions.owe(session, bool(source.parcels) or bool(source.asks), now)

    def _note_prefetch(self) -> None:
        self.prefetch = min((each.target for each in self._sources.values()), default=self.local.credit_messages)

    def _regrant(self, source: Source) -> None:
        """Give credit for what was settled. A target that fell takes nothing back that was given."""
        if source.prefetch is not None and source.target != source.prefetch.target:
            source.target = source.prefetch.target
            self._note_prefetch()
        self.sessions.grant(
            source.session,
            source.target + source.released_messages,
            self.local.credit_bytes + source.released_bytes,
        )

    # ---- timers --------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """See `Core`."""
        times = (self.sessions.next_deadline(), self._timers.next())
        return min((each for each in times if each is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """See `Core`."""
        while (key := self._timers.pop(now)) is not None:
            if key == LEASES:
                self._look_for_overdue(now)
                continue
            if key == TIMER:
                self._keeping.expire(now)
                continue
            if key == "look":
                looks, self._looks = self._looks, []
                self.out.items.extend(looks)
                continue
            assert isinstance(key, tuple)
            source = self._sources.get(key[1])
            if source is not None:
                # Also that nothing is held: once, so that the pusher does not wait for what nobody has.
                self._tell[source.session.id] = source
                if source.parcels:
                    self._timers.set(key, now + HELD_EVERY * self.local.heartbeat.interval)
        super().handle_timer(now)

    def _look_for_overdue(self, now: float) -> None:
        """Give back, as failed, what was held for too long; not what was acked and is still to be collected."""
        self._collect_all(now)
        reason = f"held longer than max_lease ({self._holding.max_lease:g} s)"
        late, again = self._holding.look(self.parcels(), now)
        for parcel, bits in late:
            # First the bits, then the flag: who acks finds the flag down, and then the bits.
            parcel.overdue |= bits
            parcel.told = False
            self.counters["overdue"] += bits.bit_count()
            for index in told(bits):
                self.settle(parcel, index, wire.NACK, None, reason, "", now)
        if again is not None:
            self._timers.set(LEASES, again)

    def _tell_held(self, source: Source, now: float) -> None:
        held: wire.Ranges = []
        for parcel in source.parcels.values():
            first = parcel.delivery.lease
            for index, count in runs(parcel.open):
                held += (first + index, first + index + count - 1)
        self.sessions.send(source.session, wire.Held(source.epoch, source.highest, held).pack(), 0, now)


def _portions(others: list[wire.Unsettled]) -> list[list[wire.Unsettled]]:
    """Outcomes as so many lists that each fits into a head, tracebacks and all; at least one list."""
    found: list[list[wire.Unsettled]] = [[]]
    size = 0
    for each in others:
        size += len(each.reason) + len(each.traceback)
        if found[-1] and (size > SETTLE_CHARACTERS or len(found[-1]) >= SETTLE_OTHERS):
            found.append([])
            size = len(each.reason) + len(each.traceback)
        found[-1].append(each)
    return found


COUNTED: Final = {wire.NACK: "nacked", wire.REJECT: "rejected", wire.RELEASE: "released", wire.ISOLATE: "released"}
