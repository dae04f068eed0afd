"""The puller's core: takes leased messages, gives credit, reports what became of them (docs/protocol.md, section 7).

Pure. Jobs are handed to the user in `Parcel`s, as they came; which of them a handler runs is the face's business.
Acks are gathered and sent once a turn.
"""

from __future__ import annotations

import dataclasses
import random
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from zmqkit.errors import DecodeError, LeaseLost
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.runs import runs
from zmqkit.protocol.core import Frames
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore
from zmqkit.protocol.session import Session
from zmqkit.protocol.timers import Timers

SETTLE_OTHERS: Final = 10_000
SETTLE_CHARACTERS: Final = 1 << 19
"""A SETTLE tells of so many failed jobs, or of so much reason and traceback, and the next one of the rest."""

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
        claims: gives out the indexes, each once.
        size: bytes of all its frames: what it took of the credit.
    """

    __slots__ = (
        "acked", "bodies", "claims", "commits", "delivery", "doubted", "lost", "open", "session", "size", "spoiled",
        "told",
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
        self.claims = iter(range(len(delivery.lengths)))
        self.size = size or len(delivery.blob)
        self.commits = 0
        self.doubted: set[int] | None = None

    @property
    def parcel(self) -> Parcel:
        """Itself; what the face takes jobs from has one."""
        return self

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
        "others",
        "parcels",
        "released_bytes",
        "released_messages",
        "session",
    )

    def __init__(self, session: Session, epoch: bytes) -> None:
        self.session = session
        self.epoch = epoch
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


class PullerCore(PatternCore):
    """The puller's state machine.

    Args:
        local: what this side says of itself; its credit is the prefetch. With an inbox `about` names it.
        rng: ids and jitter.
    """

    def __init__(self, local: Local, rng: random.Random) -> None:
        self._about = dict(local.about)
        super().__init__(dataclasses.replace(local, about=self._about), rng)
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
        for name in ("received", "acked", "nacked", "rejected", "released", "settles_stale", "jobs_lost"):
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
        self._sources[session.id] = _Source(session, epoch)

    def lost(self, session: Session, reason: str, now: float) -> None:
        """A pusher is gone: what it lent us is ours no longer."""
        source = self._sources.pop(session.id, None)
        if source is None:
            return
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
            self.held += messages
            self.counters["received"] += messages
            self.out.items.append(parcel)
            self.sessions.owe(session, True, now)
            if ("held", session.id) not in self._timers:
                self._timers.set(("held", session.id), now + HELD_EVERY * self.local.heartbeat.interval)
        elif isinstance(message, wire.Settled):
            self._answered(source, message)
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
        session, local = source.session, self.local
        self.sessions.grant(
            session, local.credit_messages + source.released_messages, local.credit_bytes + source.released_bytes
        )
        ask = 0
        if source.asked:
            self._asks = ask = self._asks + 1
            source.asks[ask], source.asked = source.asked, []
        *more, others = _portions(source.others)
        source.others = []
        commits = self._commits if self._inbox is not None else 0
        for each in more:
            self.sessions.send(session, wire.Settle(source.epoch, [], each, 0, commits).pack(), 0, now)
        self.sessions.send(session, wire.Settle(source.epoch, acks, others, ask, commits).pack(), 0, now)
        self.sessions.owe(session, bool(source.parcels) or bool(source.asks), now)

    # ---- timers --------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """See `Core`."""
        times = (self.sessions.next_deadline(), self._timers.next())
        return min((each for each in times if each is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """See `Core`."""
        while (key := self._timers.pop(now)) is not None:
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
