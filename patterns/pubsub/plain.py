"""A subscriber's core for plain PUB sockets: topic and body as they come (docs/protocol.md, section 14.8).

Pure. No sessions, no offsets, no recovery: messages are numbered as they arrive over a connection, and what arrives
while the user is too slow is dropped, and named by these numbers; or, conflated, only the newest of each topic waits.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from zmqkit.errors import MessagesLost
from zmqkit.patterns.pubsub.parcels import Gone, Parcel
from zmqkit.patterns.pubsub.settings import SubscriberSettings
from zmqkit.patterns.pubsub.slow import Conflated, Room
from zmqkit.patterns.pubsub.talk import Block
from zmqkit.patterns.pubsub.topics import Filter
from zmqkit.patterns.pubsub.wire import Data, subscription
from zmqkit.protocol.core import Frames, Link
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore

MAX_TOPIC: Final = 4096
"""Topics of plain publishers may be longer than ours, but not without end."""


class _Source:
    """One data endpoint.

    Attributes:
        publisher: stands for whoever is there: 32 hex digits, made up.
        epoch: of its connection: made up, too.
        count: messages of its that were numbered.
        lost: number of the first one that was dropped while the user is too slow; 0: none.
        topics, places, bodies: what came in this turn: the topics that occur, and of each message which, and its body.
    """

    def __init__(self, publisher: str, epoch: str) -> None:
        self.publisher = publisher
        self.epoch = epoch
        self.up = False
        self.count = 0
        self.lost = 0
        self.topics: dict[str, int] = {}
        self.places: list[int] = []
        self.bodies: list[bytes] = []


class PlainCore(PatternCore):
    """The state machine of ``Subscriber(plain=True)``; verbs and outputs are those of `SubscriberCore`.

    Args:
        local: what this side would say of itself.
        rng: makes up ids.
        settings: topics, limits, ``on_slow`` and ``wall`` count.
        codec: of the bodies: nobody tells.
    """

    def __init__(self, local: Local, rng: random.Random, settings: SubscriberSettings, codec: str) -> None:
        super().__init__(local, rng)
        self.settings = settings
        self.filter = Filter(settings.topics)
        self.room = Room(settings.limits)
        self.conflated = Conflated(settings.limits)
        self.ended = False
        self._behind = False
        """The user is too slow, and has not made up for it."""
        self._codec = codec
        self._sources: dict[Link, _Source] = {}
        self._touched: dict[Link, _Source] = {}
        self._prefixes: Counter[bytes] = Counter()
        """What is subscribed, and by how many patterns."""
        for each in self.filter:
            self._prefixes[_prefix(each)] += 1
        for name in ("messages_received", "messages_dropped", "messages_conflated", "losses_told"):
            self.counters.setdefault(name, 0)

    # ---- verbs of the user ---------------------------------------------------------

    def subscribe(self, patterns: Iterable[str], now: float) -> None:
        """Want more topics."""
        for each in patterns:
            if self.filter.add(each):
                prefix = _prefix(each)
                self._prefixes[prefix] += 1
                if self._prefixes[prefix] == 1:
                    self._tell(prefix, True)

    def unsubscribe(self, patterns: Iterable[str], now: float) -> None:
        """Want fewer topics."""
        for each in patterns:
            if self.filter.remove(each):
                prefix = _prefix(each)
                self._prefixes[prefix] -= 1
                if not self._prefixes[prefix]:
                    del self._prefixes[prefix]
                    self._tell(prefix, False)

    def consumed(self, parcel: Parcel, now: float) -> None:
        """A parcel was taken whole."""
        self.room.take(parcel)
        if self._behind and self.room.half_empty and not self.ended:
            self._catch_up(now)

    def tell_recovery(self, hints: Mapping[str, str], now: float) -> None:
        """There is none."""

    def connected(self) -> set[str]:
        """Addresses of data endpoints that are up."""
        return {str(link[1]) for link, source in self._sources.items() if source.up}  # type: ignore[index]

    def _tell(self, prefix: bytes, on: bool) -> None:
        self.out.sends += [(link, (subscription(prefix, on),)) for link, source in self._sources.items() if source.up]

    # ---- inputs --------------------------------------------------------------------

    def link_up(self, link: Link, now: float) -> None:
        """See `Core`."""
        source = self._sources.get(link)
        if source is None:
            source = self._sources[link] = _Source(_id(self.rng), "")
        source.epoch = _id(self.rng)
        source.up = True
        self.out.sends += [(link, (subscription(each),)) for each in self._prefixes]

    def link_down(self, link: Link, now: float) -> None:
        """See `Core`."""
        source = self._sources.get(link)
        if source is not None:
            source.up = False

    def link_forgotten(self, link: Link, now: float) -> None:
        """See `PatternCore`."""
        self._flush(now)
        source = self._sources.pop(link, None)
        if source is not None and source.lost and not self.ended:
            self._tell_lost(source)

    def receive_message(self, link: Link, frames: Frames, now: float) -> None:
        """See `Core`."""
        source = self._sources.get(link)
        if source is None or self.ended:
            return
        if len(frames) < 2:
            self.sessions.bad_frame(None, "a single frame where a plain publisher sends a topic and a body")
            return
        if len(frames[0]) > MAX_TOPIC:
            self.sessions.bad_frame(None, f"a topic of more than {MAX_TOPIC} bytes")
            return
        try:
            topic = frames[0].decode()
        except UnicodeDecodeError:
            self.sessions.bad_frame(None, "a topic that is not UTF-8")
            return
        if not self.filter.matches(topic):
            return  # a subscription is a prefix there
        source.count += 1
        if self._behind or self.room.full:  # nothing of this turn waits then: room is taken at its end
            self._behind = True
            self._spare(source, topic, frames[1], now)
            return
        source.places.append(source.topics.setdefault(topic, len(source.topics)))
        source.bodies.append(frames[1])
        self._touched[link] = source

    def _spare(self, source: _Source, topic: str, body: bytes, now: float) -> None:
        """There is no room for a message."""
        if self.settings.on_slow == "conflate":
            before, number = self.conflated.dropped, source.count
            data = Data(
                topic, b"", range(number, number + 1), 0, number, self._stamp(now), self._codec, [len(body)], body
            )
            self.conflated.put(source.publisher, source.epoch, data)
            self.counters["messages_conflated"] += self.conflated.dropped - before
            return
        self.counters["messages_dropped"] += 1
        source.lost = source.lost or source.count
        if self.settings.on_slow == "disconnect":
            self.ended = True
            self._tell_lost(source, final=True)

    def _catch_up(self, now: float) -> None:
        """The user keeps up again: name what was dropped, or give what was conflated."""
        self._behind = False
        for source in self._sources.values():
            if source.lost:
                self._tell_lost(source)
        for each in self.conflated.take():
            self._hand_on(Parcel(each.publisher, each.epoch, each.data))

    # ---- the turn ------------------------------------------------------------------

    def end_turn(self, now: float) -> None:
        """See `Core`."""
        if self._touched:
            self._flush(now)
        super().end_turn(now)

    def _flush(self, now: float) -> None:
        """Hand on what came."""
        touched, self._touched = self._touched, {}
        sent_at = self._stamp(now)
        for source in touched.values():
            bodies = source.bodies
            first = source.count - len(bodies) + 1
            block = Block(
                1, source.epoch, range(first, first + len(bodies)), list(source.topics), source.places, sent_at,
                self._codec, list(map(len, bodies)), b"".join(bodies),
            )  # fmt: skip
            source.topics, source.places, source.bodies = {}, [], []
            self._hand_on(Parcel(source.publisher, source.epoch, block))

    def _hand_on(self, parcel: Parcel) -> None:
        self.counters["messages_received"] += parcel.messages
        self.room.put(parcel)
        self.out.items.append(parcel)

    def _stamp(self, now: float) -> int:
        """Microseconds since 1970: when it came, for nobody tells when it was sent."""
        return int((now + self.settings.wall) * 1e6)

    def _tell_lost(self, source: _Source, *, final: bool = False) -> None:
        first, last, source.lost = source.lost, source.count, 0
        self.counters["losses_told"] += 1
        told = f"this subscriber is too slow: messages {first} to {last} of a plain publisher were dropped"
        error = MessagesLost(told, publisher=source.publisher, epoch=source.epoch, first=first, last=last)
        self.out.items.append(Gone(error, final=final))


def _prefix(pattern: str) -> bytes:
    """What a plain subscriber of the pattern subscribes; the rest is left out here."""
    words = pattern.split(".")
    for at, word in enumerate(words):
        if word in ("*", "#"):
            stem = ".".join(words[:at])
            return f"{stem}.".encode() if stem and word == "*" else stem.encode()
    return pattern.encode()


def _id(rng: random.Random) -> str:
    return f"{rng.getrandbits(128):032x}"
