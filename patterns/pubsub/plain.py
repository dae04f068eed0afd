"""A subscriber's core for plain PUB sockets: topic and body as they come (docs/protocol.md, section 14.8).

Pure. No sessions, no offsets, no recovery: messages are numbered as they arrive over a connection, and what arrives
while the user is too slow is dropped, and named by these numbers.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Final

from zmqkit.errors import MessagesLost
from zmqkit.events import GapFound
from zmqkit.patterns.pubsub.parcels import Gone, Parcel
from zmqkit.patterns.pubsub.settings import SubscriberSettings
from zmqkit.patterns.pubsub.slow import Room
from zmqkit.patterns.pubsub.talk import Block
from zmqkit.patterns.pubsub.topics import Filter
from zmqkit.patterns.pubsub.wire import subscription
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
        lost: number of the first one that was dropped since the user kept up; 0: none.
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
        settings: topics, limits, ``on_slow``, ``on_gap`` and ``wall`` count.
        codec: of the bodies: nobody tells.
    """

    def __init__(self, local: Local, rng: random.Random, settings: SubscriberSettings, codec: str) -> None:
        super().__init__(local, rng)
        self.settings = settings
        self.filter = Filter(settings.topics)
        self.room = Room(settings.limits)
        self.ended = False
        self._codec = codec
        self._sources: dict[Link, _Source] = {}
        self._touched: dict[Link, _Source] = {}
        for name in ("messages_received", "messages_dropped", "losses_told"):
            self.counters.setdefault(name, 0)

    # ---- verbs of the user ---------------------------------------------------------

    def subscribe(self, patterns: Iterable[str], now: float) -> None:
        """Want more topics."""
        added = [each for each in patterns if self.filter.add(each)]
        self._tell(added, True)

    def unsubscribe(self, patterns: Iterable[str], now: float) -> None:
        """Want fewer topics."""
        removed = [each for each in patterns if self.filter.remove(each)]
        self._tell(removed, False)

    def consumed(self, parcel: Parcel, now: float) -> None:
        """A parcel was taken whole."""
        self.room.take(parcel)

    def tell_recovery(self, hints: Mapping[str, str], now: float) -> None:
        """There is none."""

    def connected(self) -> set[str]:
        """Addresses of data endpoints that are up."""
        return {str(link[1]) for link, source in self._sources.items() if source.up}  # type: ignore[index]

    def _tell(self, patterns: Iterable[str], on: bool) -> None:
        for link, source in self._sources.items():
            if source.up:
                self.out.sends += [(link, (subscription(_prefix(each), on),)) for each in patterns]

    # ---- inputs --------------------------------------------------------------------

    def link_up(self, link: Link, now: float) -> None:
        """See `Core`."""
        source = self._sources.get(link)
        if source is None:
            source = self._sources[link] = _Source(_id(self.rng), "")
        source.epoch = _id(self.rng)
        source.up = True
        self.out.sends += [(link, (subscription(_prefix(each)),)) for each in self.filter]

    def link_down(self, link: Link, now: float) -> None:
        """See `Core`."""
        source = self._sources.get(link)
        if source is not None:
            source.up = False

    def link_forgotten(self, link: Link, now: float) -> None:
        """See `PatternCore`."""
        self._flush(now)
        self._sources.pop(link, None)

    def receive_message(self, link: Link, frames: Frames, now: float) -> None:
        """See `Core`."""
        source = self._sources.get(link)
        if source is None or self.ended:
            return
        if len(frames) < 2 or len(frames[0]) > MAX_TOPIC:
            self.sessions.bad_frame(None, f"{len(frames)} frames where a plain publisher sends a topic and a body")
            return
        try:
            topic = frames[0].decode()
        except UnicodeDecodeError:
            self.sessions.bad_frame(None, "a topic that is not UTF-8")
            return
        if not self.filter.matches(topic):
            return  # a subscription is a prefix there
        source.count += 1
        if self.room.full:
            self._drop(source)
            return
        source.places.append(source.topics.setdefault(topic, len(source.topics)))
        source.bodies.append(frames[1])
        self._touched[link] = source

    def _drop(self, source: _Source) -> None:
        self.counters["messages_dropped"] += 1
        source.lost = source.lost or source.count
        if self.settings.on_slow == "disconnect":
            self.ended = True
            self._tell_lost(source, source.count, final=True)

    # ---- the turn ------------------------------------------------------------------

    def end_turn(self, now: float) -> None:
        """See `Core`."""
        if self._touched:
            self._flush(now)
        super().end_turn(now)

    def _flush(self, now: float) -> None:
        """Hand on what came."""
        touched, self._touched = self._touched, {}
        sent_at = int((now + self.settings.wall) * 1e6)
        for source in touched.values():
            bodies = source.bodies
            first = source.count - len(bodies) + 1
            if source.lost:  # before these: within a turn there is never less room
                self._tell_lost(source, first - 1)
            block = Block(
                1, source.epoch, range(first, first + len(bodies)), list(source.topics), source.places, sent_at,
                self._codec, list(map(len, bodies)), b"".join(bodies),
            )  # fmt: skip
            parcel = Parcel(source.publisher, source.epoch, block)
            source.topics, source.places, source.bodies = {}, [], []
            self.counters["messages_received"] += parcel.messages
            self.room.put(parcel)
            self.out.items.append(parcel)

    def _tell_lost(self, source: _Source, last: int, *, final: bool = False) -> None:
        first, source.lost = source.lost, 0
        self.counters["losses_told"] += 1
        if self.settings.on_gap == "report" and not final:
            self.out.events.append(GapFound(self.local.name, source.publisher, "", first, last))
            return
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
