"""The puller's core: takes leased messages, gives credit, reports what became of them (docs/protocol.md, section 7).

Pure. Jobs are handed to the user in `Parcel`s, as they came; which of them a handler runs is the face's business.
Acks are gathered and sent once a turn.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from zmqkit.errors import DecodeError, LeaseLost
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.holding import Holding, told
from zmqkit.patterns.pipeline.letter_takers import ABOUT
from zmqkit.patterns.pipeline.prefetching import FIRST, Prefetch
from zmqkit.patterns.pipeline.runs import runs
from zmqkit.protocol.core import Frames
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore
from zmqkit.protocol.session import Session
from zmqkit.protocol.timers import Timers

SETTLE_OTHERS: Final = 10_000
SETTLE_CHARACTERS: Final = 1 << 19
"""A SETTLE tells of so many failed jobs, or of so much reason and traceback, and the next one of the rest."""

LEASES: Final = "leases"
"""The timer by which started jobs are looked at."""

LOOK_AGAIN: Final = 0.02
"""Seconds until an inbox that another process writes to is looked into again."""

HELD_EVERY: Final = 10
"""Heartbeat intervals between two reports of what is held."""


class Parcel:
    """A run of jobs as it was delivered. The user's threads add to `acked` and `doubted`, and raise `commits`; all
    else belongs to the core.

    Attributes:
        delivery: the message.
        session: whose it is; in a core without sessions, what it has instead.
        acked: indexes that the user acked and the core has not seen yet.
        commits: how many the inbox had when the last of them was found in it; 0: there is none.
        doubted: indexes of which the user's commit may have gone wrong.
        told: the core has been told to look at `acked`.
        lost: the session is gone; whoever holds these jobs now, it is not us.
        open: bits of the jobs that are not settled, as far as the core knows.
        bodies: decoded, by the face, when the first of them is taken.
        spoiled: some body could not be decoded; a `DecodeError` stands in its place.
        claims: gives out the indexes, each once, up to `offered`.
        overdue: bits of jobs that were held for too long, and are somebody else's.
        through: indexes of jobs that the user has handled, and will settle when something else is done.
        size: bytes of all its frames: what it took of the credit.
    """

    __slots__ = (
        "acked", "bodies", "claims", "commits", "delivery", "doubted", "lost", "offered", "open", "overdue", "session",
        "size", "spoiled", "through", "told",
    )  # fmt: skip

    def __init__(self, delivery: wire.Deliver, session: Any, size: int = 0) -> None:
        self.delivery = delivery
        self.session = session
        self.acked: deque[int] = deque()
        self.told = False
        self.lost = False
        self.open = (1 << len(delivery.lengths)) - 1
        self.bodies: list[Any] | None = None
        self.spoiled = False
        self.offered = len(delivery.lengths)
        self.claims: Any = iter(range(self.offered))
        self.overdue = 0
        self.through: set[int] = set()
        self.size = size or len(delivery.blob)
        self.commits = 0
        self.doubted: set[int] | None = None

    @property
    def parcel(self) -> Parcel:
        """Itself; what the face takes jobs from has one."""
        return self

    @property
    def started(self) -> int:
        """How many of its jobs the user has claimed, the first ones."""
        return self.offered - int(self.claims.__length_hint__())

    def __len__(self) -> int:
        return len(self.delivery.lengths)


class Look(NamedTuple):
    """Among the parcels: a pusher knows so many commits of the inbox, and lends nothing until it hears of as many.

    Whoever takes it looks into the inbox, and tells what it holds by `PullerCore.inbox_at`.
    """

    known: int


class _Source:
    """One pusher, as its puller sees it."""

    __slots__ = (
        "asked",
        "asks",
        "behind",
        "epoch",
        "highest",
        "newest",
        "others",
        "parcels",
        "prefetch",
        "released_bytes",
        "released_messages",
        "reported",
        "session",
        "started",
        "target",
        "unstarted",
    )

    def __init__(self, session: Session, epoch: bytes, target: int, prefetch: Prefetch | None) -> None:
        self.session = session
        self.epoch = epoch
        self.target = target
        """How many of its jobs may be here."""
        self.prefetch = prefetch
        """What sets the target; None: it is fixed."""
        self.reported = 0
        """Of `released_messages`, what the last report told."""
        self.newest: Parcel | None = None
        self.unstarted: deque[Parcel] = deque()
        """Parcels of which some job was not started when it was looked last, in order."""
        self.started = 0
        """The highest lease that was started then."""
        self.parcels: dict[int, Parcel] = {}
        self.highest = 0
        self.behind = 0
        """So many commits of the inbox this pusher knows, and wants to hear of."""
        self.released_messages = 0
        self.released_bytes = 0
        self.others: list[wire.Unsettled] = []
        self.asks: dict[int, list[tuple[int, Any]]] = {}
        self.asked: list[tuple[int, Any]] = []
        """(lease, ticket) of settles in this turn that want an answer."""

    def look(self) -> int:
        """The highest lease that the user has started."""
        waiting = self.unstarted
        while waiting:
            parcel = waiting[0]
            started, offered = parcel.started, parcel.offered
            if started:
                self.started = max(self.started, parcel.delivery.lease + started - 1)
            if started < offered:
                break
            waiting.popleft()
        return self.started

    @property
    def ran_empty(self) -> bool:
        """The pusher used all the credit that it has, and nothing of it is left for the user to take."""
        return self.session.spent and (self.newest is None or self.newest.started == self.newest.offered)


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
        self._inbox: bytes | None = self._about.get("inbox")
        self._looks: list[Look] = []
        self._sources: dict[bytes, _Source] = {}
        self._dirty: dict[int, Parcel] = {}
        self._changed: dict[bytes, _Source] = {}
        self._acks: dict[bytes, wire.Ranges] = {}
        self._tell: dict[bytes, _Source] = {}
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
        ):
            self.counters.setdefault(name, 0)

    def parcels(self) -> Iterator[Parcel]:
        """All of which some job is not settled."""
        for source in self._sources.values():
            yield from source.parcels.values()

    # ---- verbs of the user ---------------------------------------------------------

    def collect(self, parcel: Parcel, now: float) -> None:
        """The user acked jobs of this parcel; they are in `parcel.acked`."""
        self._dirty[id(parcel)] = parcel

    def settle(
        self, parcel: Parcel, index: int, kind: int, delay: float | None, reason: str, traceback: str, now: float
    ) -> None:
        """A job ends otherwise: NACK, REJECT, RELEASE or ISOLATE."""
        source = self._sources.get(parcel.session.id)
        if parcel.lost or source is None or not self._end(source, parcel, 1 << index):
            self.counters["settles_stale"] += 1
            return
        self.counters[COUNTED[kind]] += 1
        lease = parcel.delivery.lease + index
        doubt = parcel.doubted is not None and index in parcel.doubted
        if self._inbox is not None and parcel.overdue >> index & 1:
            doubt = True  # its user may commit yet
        reason, traceback = wire.sendable(reason)[: wire.MAX_REASON], wire.sendable(traceback)[-wire.MAX_TRACEBACK :]
        source.others.append(wire.Unsettled(lease, kind, delay, reason, traceback, doubt))
        self._changed[source.session.id] = source

    def ack_asking(self, parcel: Parcel, index: int, ticket: Any, now: float) -> None:
        """Ack a job; `ticket` gets None when the pusher has stored that, `LeaseLost` if it changed nothing."""
        source = self._sources.get(parcel.session.id)
        if parcel.lost or source is None:
            self.out.replies.append((ticket, LeaseLost("the job was given to another puller; this ack came too late")))
            return
        parcel.acked.append(index)
        self._dirty[id(parcel)] = parcel
        source.asked.append((parcel.delivery.lease + index, ticket))
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

    def _give_back(self, source: _Source, now: float) -> None:
        """Say which jobs nobody has begun, so that they are not in doubt. This gives no credit."""
        others: list[wire.Unsettled] = []
        for first, parcel in source.parcels.items():
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
        self._sources[session.id] = _Source(session, epoch, self.local.credit_messages, prefetch)
        self._note_prefetch()

    def lost(self, session: Session, reason: str, now: float) -> None:
        """A pusher is gone: what it lent us is ours no longer."""
        source = self._sources.pop(session.id, None)
        if source is None:
            return
        self._note_prefetch()
        self._changed.pop(session.id, None)
        for parcel in source.parcels.values():
            parcel.lost = True
            self.held -= parcel.open.bit_count()
            self.counters["jobs_lost"] += parcel.open.bit_count()
            parcel.open = 0
        asked = [each for asks in source.asks.values() for each in asks] + source.asked
        for _, ticket in asked:
            why = f"the pusher was lost ({reason}) before it confirmed the ack: it may deliver the job again"
            self.out.replies.append((ticket, LeaseLost(why)))

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
            self.sessions.owe(session, True, now)
            if ("held", session.id) not in self._timers:
                self._timers.set(("held", session.id), now + HELD_EVERY * self.local.heartbeat.interval)
            if LEASES not in self._timers:
                self._timers.set(LEASES, now + self._holding.pause)
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
        else:
            raise DecodeError("a pusher must not settle")

    def _answered(self, source: _Source, message: wire.Settled) -> None:
        stale = message.stale
        if stale:
            self.counters["settles_stale"] += len(stale) // 2
        for lease, ticket in source.asks.pop(message.ask, ()):
            lost = any(stale[at] <= lease <= stale[at + 1] for at in range(0, len(stale), 2))
            error = LeaseLost("the job was given to another puller; this ack came too late") if lost else None
            self.out.replies.append((ticket, error))

    def _recalled(self, source: _Source, count: int, now: float) -> None:
        """Give back what the user has not started, the last first; at most half of what is held."""
        held = sum(parcel.open.bit_count() for parcel in source.parcels.values())
        left = min(count, held // 2)
        for parcel in reversed(list(source.parcels.values())):
            if left <= 0:
                break
            rest = list(parcel.claims)  # all at once: each index goes to the user or to us
            if not rest:
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

    def _end(self, source: _Source, parcel: Parcel, bits: int) -> int:
        """Mark jobs as settled, and give the pusher as much new credit. Returns the bits that were open."""
        bits &= parcel.open
        if not bits:
            return 0
        parcel.open &= ~bits
        count = bits.bit_count()
        self.held -= count
        source.released_messages += count
        delivery = parcel.delivery
        if not parcel.open:
            # Bytes are given back by the parcel: its bodies are one block in memory.
            del source.parcels[delivery.lease]
            source.released_bytes += parcel.size
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
            first = parcel.delivery.lease
            ranges = self._acks.setdefault(source.session.id, [])
            for index, count in runs(ended):
                ranges += (first + index, first + index + count - 1)

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

    def _report(self, source: _Source, acks: wire.Ranges, now: float) -> None:
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
            self.sessions.send(session, wire.Settle(source.epoch, [], each, 0, commits).pack(), 0, now)
        last = wire.Settle(source.epoch, acks, others, ask, commits, source.look())
        self.sessions.send(session, last.pack(), 0, now)
        self.sessions.owe(session, bool(source.parcels) or bool(source.asks), now)

    def _note_prefetch(self) -> None:
        self.prefetch = min((each.target for each in self._sources.values()), default=self.local.credit_messages)

    def _regrant(self, source: _Source) -> None:
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

    def _tell_held(self, source: _Source, now: float) -> None:
        held: wire.Ranges = []
        for first, parcel in source.parcels.items():
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
