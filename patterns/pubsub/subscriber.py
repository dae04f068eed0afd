"""The subscriber's core: what is published comes whole, or its holes are named (docs/protocol.md, section 14).

Pure. Which states a publisher's stream goes through is in `zmqkit.patterns.pubsub.streams`; the parts below:
`delivering` hands on, `committing` has the cursor, `fetching` asks over the recovery channel, `living` takes what comes
over the data plane, `joining` has the data links and fences.

The verbs of the user::

    subscribe(patterns, now)                 more topics
    unsubscribe(patterns, now)               fewer
    commit(publisher, epoch, offset, ticket, now)  move the cursor there; the ticket gets None once it is stored
    consumed(parcel, now)                    a parcel from out.items was taken whole
    tell_recovery({bound data address: hint}, now)  where publishers find our recovery channel, if we bind
    close(now)

What it puts out for the user are `Parcel` and `Gone`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from zmqkit.errors import DecodeError
from zmqkit.events import PeerRefused
from zmqkit.patterns.pubsub import wire
from zmqkit.patterns.pubsub.joining import Joining
from zmqkit.patterns.pubsub.links import DataLink, is_data
from zmqkit.patterns.pubsub.settings import SubscriberSettings as SubscriberSettings
from zmqkit.patterns.pubsub.topics import Filter
from zmqkit.patterns.pubsub.wire import Beat, Data, Fence, Mixed, OtherVersion
from zmqkit.protocol.core import Frames, Link
from zmqkit.protocol.local import Local


class SubscriberCore(Joining):
    """The subscriber's state machine.

    Args:
        local: what this side says of itself: role "subscribe", accepts "publish"; its credit is what feeds may send
            ahead of the user; ``about`` is {"cursor": name or "", "durable": bool}.
        rng: ids and jitter.
        settings: how it behaves.
    """

    def __init__(self, local: Local, rng: random.Random, settings: SubscriberSettings) -> None:
        super().__init__(local, rng, settings)
        self._wanted = dict.fromkeys(settings.topics)
        self._changed = False

    # ---- verbs of the user ---------------------------------------------------------

    def subscribe(self, patterns: Iterable[str], now: float) -> None:
        """Want more topics; patterns that were checked. Of a publisher on the data plane they begin with what is
        published from about now on, of one that is followed by a feed at the feed's place."""
        self._wanted.update(dict.fromkeys(patterns))
        self._changed = True

    def unsubscribe(self, patterns: Iterable[str], now: float) -> None:
        """Want fewer topics. What waits for the user already still comes."""
        for each in patterns:
            self._wanted.pop(each, None)
        self._changed = True

    def close(self, now: float) -> None:
        """See `Core`."""
        self.end_turn(now)
        self.drop_commits(None, "the subscriber was closed before the publisher confirmed it")
        self.ended = True
        super().close(now)

    # ---- inputs --------------------------------------------------------------------

    def link_up(self, link: Link, now: float) -> None:
        """See `Core`."""
        if is_data(link):
            self.data_up(link[1], now)  # type: ignore[index]
            self._rise(now)
        else:
            super().link_up(link, now)

    def link_down(self, link: Link, now: float) -> None:
        """See `Core`."""
        if is_data(link):
            self.data_down(link[1], now)  # type: ignore[index]
            self._rise(now)
        else:
            super().link_down(link, now)

    def link_forgotten(self, link: Link, now: float) -> None:
        """See `PatternCore`."""
        if is_data(link):
            self.data_forgotten(link[1], now)  # type: ignore[index]
            self._rise(now)
        else:
            super().link_forgotten(link, now)

    def receive_message(self, link: Link, frames: Frames, now: float) -> None:
        """See `Core`."""
        if not is_data(link):
            super().receive_message(link, frames, now)
            return
        found = self._links.get(link[1])  # type: ignore[index]
        if found is None or not found.up:
            return
        try:
            if len(frames) != 1:
                raise DecodeError(f"{len(frames)} frames over a data connection; a publisher of zmqkit sends one")
            self._receive_data(found, frames[0], now)
        except DecodeError as error:
            self.sessions.bad_frame(None if found.bound else link, str(error))

    def _receive_data(self, link: DataLink, frame: bytes, now: float) -> None:
        message = wire.read(frame)
        kind = type(message)
        if kind is Data or kind is Mixed:
            stream = link.streams.get(message.stream)  # type: ignore[union-attr]
            if stream is None:
                self.counters["frames_unknown"] += 1
            elif kind is Data:
                self.take_data(stream, message, len(frame), now)  # type: ignore[arg-type]
            else:
                self.take_mixed(stream, message, len(frame), now)  # type: ignore[arg-type]
        elif kind is Beat:
            stream = link.streams.get(message.stream)  # type: ignore[union-attr]
            if stream is not None:
                self.take_beat(stream, message, len(frame), now)  # type: ignore[arg-type]
        elif kind is Fence:
            self.take_fence(link, message, now)  # type: ignore[arg-type]
        else:
            assert isinstance(message, OtherVersion)
            if message.private == link.private and not link.told:
                link.told = True
                reason = f"this side speaks version {wire.VERSION} of publish-subscribe, the other {message.version}"
                self.out.events.append(PeerRefused(self.local.name, "", "version", reason))

    # ---- the turn ------------------------------------------------------------------

    def end_turn(self, now: float) -> None:
        """See `Core`."""
        if self._changed:
            self._changed = False
            if set(self._wanted) != set(self.filter):
                self.use_topics(Filter(self._wanted), now)
        self.tell_expired()
        super().end_turn(now)

    # ---- timers --------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """See `Core`."""
        sessions, own = self.sessions.timers.heap, self._timers.heap
        if sessions and own:
            return min(sessions[0][0], own[0][0])
        return sessions[0][0] if sessions else own[0][0] if own else None

    def handle_timer(self, now: float) -> None:
        """See `Core`."""
        due = self._timers.next()
        overslept = due is not None and now > due + self.local.heartbeat.interval
        while (key := self._timers.pop(now)) is not None:
            assert isinstance(key, tuple)
            what, name = key
            if what == "fence":
                self.fence_late(name, now)
            elif what == "reach" and overslept:
                # We ourselves stood still, and could not try: what is missing is not given up for that.
                self._timers.set(key, now + self.unreachable_after)
            elif what == "unmatched":
                self.unmatched_still(name, now)
            else:
                stream = self.streams.get(name)
                if stream is not None:
                    _TIMERS[what](self, stream, now)
        super().handle_timer(now)


_TIMERS = {
    "reach": SubscriberCore.cannot_be_reached,
    "again": SubscriberCore.ask_again,
    "seen": SubscriberCore.tell_seen_now,
    "compare": SubscriberCore.compare_in_time,
    "shorter": SubscriberCore.compare_less,
}
