"""A puller's core for plain PUSH sockets: bodies as they come (docs/protocol.md, section 7.6).

Pure. No sessions, no leases: whoever pushed knows nothing more of a message. So all of a job's life is here, and in
memory only: what fails is tried again here, after a while, and is given up after `MAX_FAILURES`; what is not settled
when the puller ends is lost. Of each endpoint no more is taken than the prefetch.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from typing import Any, Final

from zmqkit.errors import UsageError
from zmqkit.events import JobDead, JobFailed
from zmqkit.options import Backoff
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.puller import COUNTED, Parcel
from zmqkit.protocol import wire as msgpack
from zmqkit.protocol.core import Frames, Link
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore

MAX_FAILURES: Final = 20
"""A job on which handlers failed so often is given up."""

BACKOFF: Final = Backoff()
"""Pauses between tries; drawn with full jitter."""


class _Source:
    """One data endpoint.

    Attributes:
        held: jobs of its that are not settled.
        size: bytes of parcels of which some job is not settled.
        room: how many more messages the endpoint may take, as it was told.
        bodies: what came in this turn, one frame each.
        lists: the same of messages of several frames, in msgpack.
    """

    __slots__ = ("bodies", "held", "link", "lists", "room", "size")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.held = 0
        self.size = 0
        self.room = 0
        self.bodies: list[bytes] = []
        self.lists: list[bytes] = []


class PlainPullerCore(PatternCore):
    """The state machine of ``Puller(plain=True)``; verbs and outputs are those of `PullerCore`.

    Args:
        local: what this side would say of itself; its credit is taken as the bound of each endpoint.
        rng: makes up ids, and draws pauses.
        codec: of the bodies: nobody tells.
        wall: wall time minus the driver's clock, in seconds.
    """

    def __init__(self, local: Local, rng: random.Random, codec: str, wall: float) -> None:
        super().__init__(local, rng)
        self.held = 0
        """Jobs that came and are not settled."""
        self._codec = codec
        self._wall = wall
        self._origin = f"{rng.getrandbits(64):016x}-{rng.getrandbits(32):08x}"
        self._sequence = 0
        self._sources: dict[Link, _Source] = {}
        self._up: set[Link] = set()
        self._changed: dict[int, _Source] = {}
        self._parcels: dict[int, Parcel] = {}
        self._dirty: dict[int, Parcel] = {}
        self._later: list[tuple[float, int, Parcel]] = []
        """Jobs that wait to be tried again, by the time when."""
        self._order = 0
        self._shut = False
        self._told_shut: list[Any] = []
        for name in (
            "received", "acked", "nacked", "rejected", "released", "dead", "settles_stale", "jobs_lost",
            "messages_undecodable", "overdue", "recalled", "went_on",
        ):  # fmt: skip
            self.counters.setdefault(name, 0)

    def parcels(self) -> Iterator[Parcel]:
        """All of which some job is not settled."""
        yield from self._parcels.values()

    def connected(self) -> set[str]:
        """Addresses of endpoints that are up."""
        return {str(link[1]) for link in self._up}  # type: ignore[index]

    # ---- verbs of the user ---------------------------------------------------------

    def collect(self, parcel: Parcel, now: float) -> None:
        """The user acked jobs of this parcel; they are in `parcel.acked`."""
        self._dirty[id(parcel)] = parcel

    def ack_asking(self, parcel: Parcel, index: int, ticket: Any, now: float) -> None:
        """Ack a job; `ticket` gets None: there is nobody to ask."""
        parcel.acked.append(index)
        self._dirty[id(parcel)] = parcel
        self.out.replies.append((ticket, None))

    def settle(
        self, parcel: Parcel, index: int, kind: int, delay: float | None, reason: str, traceback: str, now: float
    ) -> None:
        """A job ends otherwise: NACK, REJECT, RELEASE or ISOLATE."""
        if not parcel.open >> index & 1:
            self.counters["settles_stale"] += 1
            return
        self.counters[COUNTED[kind]] += 1
        if kind == wire.REJECT:
            self._dead(parcel, index, reason)
        elif kind == wire.NACK:
            self._failed(parcel, index, delay, reason, traceback, now)
        else:
            self.out.items.append(self._again(parcel, index, alone=kind == wire.ISOLATE))

    def extend(self, parcel: Parcel, index: int, seconds: float | None, now: float) -> None:
        """A job is nobody else's however long it is held."""

    def undecodable(self, parcel: Parcel, index: int, reason: str, now: float) -> None:
        """The body of a job is none, in the codec that was agreed on: it is passed over."""
        if self._end(parcel, 1 << index):
            self.counters["messages_undecodable"] += 1
            self.sessions.bad_frame(None, reason)

    def wait_for_sessions(self, count: int, ticket: Any, now: float) -> None:
        """See `PatternCore`: there are none."""
        self.out.replies.append((ticket, UsageError(
            "plain pushers do not say that they are there: with plain=True receive, and wait for what comes"
        )))  # fmt: skip

    def take_no_more(self, ticket: Any, now: float) -> None:
        """Read the endpoints no more; `ticket` gets None. What came so far is handed out."""
        self._shut = True
        for source in self._sources.values():
            self._changed[id(source)] = source
        self._told_shut.append(ticket)

    def close(self, now: float) -> None:
        """See `Core`. What is not settled is lost: nobody sends it again."""
        self._collect_all()
        self.counters["jobs_lost"] += self.held
        super().close(now)

    # ---- inputs --------------------------------------------------------------------

    def link_up(self, link: Link, now: float) -> None:
        """See `Core`."""
        source = self._sources.get(link)
        if source is None:
            source = self._sources[link] = _Source(link)
        self._changed[id(source)] = source
        self._up.add(link)

    def link_down(self, link: Link, now: float) -> None:
        """See `Core`."""
        self._up.discard(link)

    def link_forgotten(self, link: Link, now: float) -> None:
        """See `PatternCore`. Its jobs are settled as ever."""
        self._up.discard(link)
        source = self._sources.pop(link, None)
        if source is not None:
            self._flush(source, now)

    def receive_message(self, link: Link, frames: Frames, now: float) -> None:
        """See `Core`."""
        source = self._sources.get(link)
        if source is None:
            return
        source.room -= 1
        self._changed[id(source)] = source
        if len(frames) == 1:
            if source.lists:
                self._flush(source, now)
            source.bodies.append(frames[0])
        elif self._codec == "raw":
            if source.bodies:
                self._flush(source, now)
            source.lists.append(msgpack.pack(list(frames)))
        else:
            self.sessions.bad_frame(
                None, f'a message of {len(frames)} frames where a plain pusher sends one; codec="raw" takes a list'
            )

    # ---- settling ------------------------------------------------------------------

    def _collect_all(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for parcel in dirty.values():
            # First the flag, then the queue: an ack that comes in between raises the flag anew.
            parcel.told = False
            acked = parcel.acked
            bits = 0
            while acked:
                bits |= 1 << acked.popleft()
            self.counters["acked"] += self._end(parcel, bits).bit_count()

    def _end(self, parcel: Parcel, bits: int) -> int:
        """These jobs are settled. Returns the bits that were open."""
        bits &= parcel.open
        if bits:
            count = bits.bit_count()
            self.held -= count
            source: _Source = parcel.session
            source.held -= count
            self._drop(parcel, bits)
        return bits

    def _drop(self, parcel: Parcel, bits: int) -> None:
        parcel.open &= ~bits
        source: _Source = parcel.session
        self._changed[id(source)] = source
        if not parcel.open:
            source.size -= parcel.size
            del self._parcels[parcel.delivery.lease]

    def _failed(self, parcel: Parcel, index: int, delay: float | None, reason: str, traceback: str, now: float) -> None:
        delivery = parcel.delivery
        failures = delivery.failures.get(index, 0) + 1
        self.out.events.append(JobFailed(self.local.name, _id(delivery, index), reason, traceback, failures))
        if failures >= MAX_FAILURES:
            self._dead(parcel, index, reason or f"failed {failures} times")
            return
        if delay is None:
            delay = BACKOFF.ceiling(failures) * self.rng.random()
        self._order += 1
        again = self._again(parcel, index, failures=failures)
        heapq.heappush(self._later, (now + delay, self._order, again))

    def _dead(self, parcel: Parcel, index: int, reason: str) -> None:
        """There is no journal: what is said is all that is left of it."""
        self.counters["dead"] += 1
        self.out.events.append(JobDead(self.local.name, _id(parcel.delivery, index), reason))
        self._end(parcel, 1 << index)

    def _again(self, parcel: Parcel, index: int, *, failures: int | None = None, alone: bool = False) -> Parcel:
        """The same job, to be handed out once more; it stays held all the while."""
        before = parcel.delivery
        start = sum(before.lengths[:index])
        body = before.blob[start : start + before.lengths[index]]
        count = before.failures.get(index, 0) if failures is None else failures
        made = self._parcel(
            parcel.session, before.sequence + index, before.sent_at, before.codec, [body],
            failures={0: count}, deliveries={0: before.deliveries.get(index, 0) + 1}, alone=alone or before.alone,
        )  # fmt: skip
        self._drop(parcel, 1 << index)
        return made

    # ---- the turn ------------------------------------------------------------------

    def end_turn(self, now: float) -> None:
        """Hand on what came; let in as much as was settled."""
        self._collect_all()
        while self._later and self._later[0][0] <= now:
            self.out.items.append(heapq.heappop(self._later)[2])
        changed, self._changed = self._changed, {}
        for source in changed.values():
            self._flush(source, now)
            local = self.local
            room = max(0, local.credit_messages - source.held) if source.size < local.credit_bytes else 0
            room = 0 if self._shut else room
            if room != source.room and self._sources.get(source.link) is source:
                source.room = room
                self.out.pulls.append((source.link, room))
        told, self._told_shut = self._told_shut, []
        self.out.replies += [(ticket, None) for ticket in told]
        super().end_turn(now)

    def _flush(self, source: _Source, now: float) -> None:
        sent_at = int((now + self._wall) * 1e6)
        bodies, source.bodies = source.bodies, []
        lists, source.lists = source.lists, []
        for codec, came in ((self._codec, bodies), ("msgpack", lists)):
            if came:
                parcel = self._parcel(source, self._sequence + 1, sent_at, codec, came)
                self._sequence += len(came)
                self.held += len(came)
                source.held += len(came)
                self.counters["received"] += len(came)
                self.out.items.append(parcel)

    def _parcel(
        self, source: _Source, sequence: int, sent_at: int, codec: str, bodies: list[bytes], **more: Any
    ) -> Parcel:
        self._order += 1
        delivery = wire.Deliver(
            self._order, sequence, self._origin, sent_at, codec, list(map(len, bodies)), b"".join(bodies), **more
        )
        parcel = self._parcels[self._order] = Parcel(delivery, source)
        source.size += parcel.size
        return parcel

    # ---- timers --------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """See `Core`."""
        times = (super().next_deadline(), self._later[0][0] if self._later else None)
        return min((each for each in times if each is not None), default=None)


def _id(delivery: wire.Deliver, index: int) -> str:
    return f"{delivery.origin}-{delivery.sequence + index}"
