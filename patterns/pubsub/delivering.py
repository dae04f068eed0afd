"""The subscriber's core, first part: messages and losses go to the user, and room comes back.

Pure. Knows streams, parcels and credit; nothing of how messages came.
"""

from __future__ import annotations

import random

from zmqkit.errors import MessagesLost, ZmqkitError
from zmqkit.events import GapFound, MessagesExpired
from zmqkit.patterns.pubsub.parcels import Gone, Parcel
from zmqkit.patterns.pubsub.settings import SubscriberSettings
from zmqkit.patterns.pubsub.slow import Conflated, Room
from zmqkit.patterns.pubsub.streams import Stream
from zmqkit.patterns.pubsub.talk import Block
from zmqkit.patterns.pubsub.topics import Filter
from zmqkit.patterns.pubsub.wire import Data, Mixed
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore
from zmqkit.protocol.session import Session
from zmqkit.protocol.timers import Timers

MAX_ERRORS = 10_000
"""So many errors may follow each other in the mailbox; of more there is an event only."""

COUNTERS = (
    "messages_received", "messages_recovered", "messages_repeated_here", "messages_expired", "messages_conflated",
    "frames_unknown", "gaps_found", "gaps_doubtful", "losses_told", "comparisons", "comparisons_wrong", "fences",
    "times_behind", "publishers_refused",
)  # fmt: skip


class Delivering(PatternCore):
    """What all parts of the subscriber's core share.

    Attributes:
        settings: how it behaves.
        filter: what the user wants now. Never changed: a change makes another one.
        streams: by publisher.
        room: what waits for the user.
        conflated: what waits until there is room, with ``on_slow="conflate"``.
    """

    def __init__(self, local: Local, rng: random.Random, settings: SubscriberSettings) -> None:
        super().__init__(local, rng)
        self.settings = settings
        self.filter = Filter(settings.topics)
        self.streams: dict[str, Stream] = {}
        self.room = Room(settings.limits)
        self.conflated = Conflated(settings.limits)
        self.ended = False
        """Nothing more comes: the user was too slow, and wanted it so."""
        self._errors = 0
        """Put into the mailbox since something was taken from it."""
        self._timers = Timers()
        self._expired: dict[str, int] = {}
        self._released: dict[bytes, list[int]] = {}
        """By session: how much of its credit was used, and is given back."""
        for name in COUNTERS:
            self.counters.setdefault(name, 0)

    # ---- a verb of the user ----------------------------------------------------------

    def consumed(self, parcel: Parcel, now: float) -> None:
        """A parcel from `out.items` was taken whole: there is room for more. To be told of each of them, once."""
        self.room.take(parcel)
        self._errors = 0
        if parcel.session is not None:
            self.give_credit(parcel.session, parcel.credit_messages, parcel.credit_bytes)
        if self.room.half_empty:
            if self.conflated:
                self._let_go()
            self.has_room(now)

    def has_room(self, now: float) -> None:
        """A hook: the user keeps up again."""

    def too_slow(self, now: float) -> None:
        """A hook: more waits for the user than may."""

    def give_credit(self, session: Session, messages: int, size_bytes: int) -> None:
        """What a session's messages took is free again."""
        released = self._released.get(session.id)
        if released is None:
            return
        released[0] += messages
        released[1] += size_bytes
        local = self.local
        self.sessions.grant(session, local.credit_messages + released[0], local.credit_bytes + released[1])

    # ---- messages --------------------------------------------------------------------

    def hand_on(self, stream: Stream, parcel: Parcel) -> None:
        """Give messages to the user."""
        self.counters["messages_received"] += parcel.messages
        self.room.put(parcel)
        self.out.items.append(parcel)

    def hand_on_live(self, stream: Stream, data: Data, chosen: list[int] | None, now: float) -> None:
        """A frame of the data plane, of which messages were chosen; None: all."""
        count = len(data.lengths) if chosen is None else len(chosen)
        if self.too_old(stream, data.sent_at, count, now):
            return
        if self.conflated or (self.settings.on_slow == "conflate" and self.room.full):
            before = self.conflated.dropped
            self.conflated.put(stream.publisher, stream.epoch, data)
            self.counters["messages_conflated"] += self.conflated.dropped - before
            return
        self.hand_on(stream, Parcel(stream.publisher, stream.epoch, data, chosen=chosen))

    def hand_on_mixed(self, stream: Stream, mixed: Mixed, now: float) -> None:
        """A frame of the data plane with messages of several topics, all of which are wanted."""
        if self.conflated or self.room.full:
            self.hand_on_group(stream, mixed.parts(), now)
        elif not self.too_old(stream, mixed.sent_at, len(mixed.lengths), now):
            self.hand_on(stream, Parcel(stream.publisher, stream.epoch, mixed))

    def hand_on_group(self, stream: Stream, frames: list[Data], now: float) -> None:
        """Frames of one group, each whole: their messages go by their offsets."""
        first = frames[0]
        if (
            self.conflated
            or self.room.full
            or any(each.codec != first.codec or each.sent_at != first.sent_at for each in frames)
        ):
            for data in in_order(frames):
                self.hand_on_live(stream, data, None, now)
        elif not self.too_old(stream, first.sent_at, sum([len(each.lengths) for each in frames]), now):
            self.hand_on(stream, Parcel(stream.publisher, stream.epoch, frames))

    def hand_on_block(self, stream: Stream, block: Block, chosen: list[int] | None, size: int, now: float) -> None:
        """Messages of a feed. Their credit comes back when they are taken, or now."""
        session = stream.session
        assert session is not None
        chosen = self._young(stream, block, chosen, now)
        count = len(block.lengths) if chosen is None else len(chosen)
        if not count:
            self.give_credit(session, len(block.lengths), size)
            return
        self.counters["messages_recovered"] += count
        parcel = Parcel(
            stream.publisher, block.epoch, block, chosen=chosen, replayed=True, session=session, credit_bytes=size
        )
        self.hand_on(stream, parcel)

    def _young(self, stream: Stream, block: Block, chosen: list[int] | None, now: float) -> list[int] | None:
        """Those of the chosen messages that are not too old."""
        if self.settings.max_age is None:
            return chosen
        if block.later is None:
            count = len(block.lengths) if chosen is None else len(chosen)
            return [] if self.too_old(stream, block.sent_at, count, now) else chosen
        oldest = self._oldest(now) - block.sent_at
        found = range(len(block.lengths)) if chosen is None else chosen
        young = [at for at in found if block.later[at] >= oldest]
        self._count_expired(stream, len(found) - len(young))
        return young

    def _let_go(self) -> None:
        for each in self.conflated.take():
            parcel = Parcel(each.publisher, each.epoch, each.data)
            self.counters["messages_received"] += parcel.messages
            self.room.put(parcel)
            self.out.items.append(parcel)

    # ---- age -------------------------------------------------------------------------

    def _oldest(self, now: float) -> int:
        assert self.settings.max_age is not None
        return int((now + self.settings.wall - self.settings.max_age) * 1e6)

    def too_old(self, stream: Stream, sent_at: int, count: int, now: float) -> bool:
        """Whether what was sent then is dropped; counts it."""
        if self.settings.max_age is None or sent_at >= self._oldest(now):
            return False
        self._count_expired(stream, count)
        return True

    def _count_expired(self, stream: Stream, count: int) -> None:
        if count:
            self.counters["messages_expired"] += count
            self._expired[stream.publisher] = self._expired.get(stream.publisher, 0) + count

    def tell_expired(self) -> None:
        """One event a turn and publisher."""
        if self._expired:
            expired, self._expired = self._expired, {}
            self.out.events.extend(
                MessagesExpired(self.local.name, publisher, count) for publisher, count in expired.items()
            )

    # ---- losses ----------------------------------------------------------------------

    def gap_found(self, stream: Stream, topic: str, first: int, last: int) -> None:
        """Messages are missing, and may still be had."""
        self.counters["gaps_found"] += 1
        stream.lossy = True
        self.out.events.append(GapFound(self.local.name, stream.publisher, topic, first, last))

    def tell_lost(self, stream: Stream, epoch: str, topics: tuple[str, ...], first: int, last: int, why: str) -> None:
        """Messages are missing for good: that is told at this place, before whatever comes after them."""
        self.counters["losses_told"] += 1
        self._errors += 1
        if self.settings.on_gap == "report" or self._errors > MAX_ERRORS:
            topic = topics[0] if len(topics) == 1 else ""
            self.out.events.append(GapFound(self.local.name, stream.publisher, topic, first, last))
            return
        shown = f" of {', '.join(topics[:3])}{'...' if len(topics) > 3 else ''}" if topics else ""
        message = f"messages{shown} are lost, from offset {first} to {last} of publisher {stream.publisher[:8]}: {why}"
        self.raise_at_place(
            MessagesLost(message, publisher=stream.publisher, epoch=epoch, topics=topics, first=first, last=last)
        )

    def raise_at_place(self, error: ZmqkitError, *, final: bool = False) -> None:
        """The user gets an error after what is before it in the mailbox."""
        if self.conflated:
            self._let_go()
        self.out.items.append(Gone(error, final=final))


def in_order(frames: list[Data]) -> list[Data]:
    """The messages of frames one by one, by their offsets."""
    found = []
    for data in frames:
        start = 0
        for index, (offset, length) in enumerate(zip(data.offsets, data.lengths, strict=True)):
            headers = {0: data.headers[index]} if index in data.headers else {}
            blob = data.blob[start : start + length]
            found.append(data._replace(offsets=range(offset, offset + 1), lengths=[length], blob=blob, headers=headers))
            start += length
    found.sort(key=_first_offset)
    return found


def _first_offset(data: Data) -> int:
    return data.offsets[0]
