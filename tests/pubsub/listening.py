"""A publisher's core and a subscriber that does as it is told, under virtual time. No socket, no thread."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from tests.protocol.cores import CorePair, Host
from tests.protocol.pair import LINK
from zmqkit.patterns.pubsub import talk, wire
from zmqkit.patterns.pubsub.publisher import PublisherCore, PublisherSettings
from zmqkit.patterns.pubsub.rows import Found, Pack
from zmqkit.patterns.pubsub.topics import private_topic
from zmqkit.protocol.core import Frames
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore
from zmqkit.protocol.session import Session

DATA = ("d", "tcp://127.0.0.1:5556")
PUBLISHER = "a1" * 16
EPOCH = "e1" * 16
STREAM = b"stream-1"
TOKEN = b"token-1"
SECOND = ("b", "x", 99)
"""The link of another listener."""


class Listener(PatternCore):
    """Notes what a publisher says over the recovery channel, and says what it is told to.

    Attributes:
        got: messages of the publisher, in order.
        grants: credit is given as blocks come in; else only by `grant`.
    """

    def __init__(self, local: Local, rng: random.Random) -> None:
        super().__init__(local, rng)
        self.got: list[talk.FromPublisher] = []
        self.grants = True
        self.session: Session | None = None
        self.granted = 0

    def opened(self, session: Session, now: float) -> None:
        self.session = session

    def received(self, session: Session, frames: Frames, messages: int, now: float) -> None:
        message = talk.read_from_publisher(frames)
        assert messages == (len(message.lengths) if isinstance(message, talk.Block) else 0)
        self.got.append(message)
        if self.grants:
            self.grant(messages)

    def say(self, message: Any, now: float) -> None:
        assert self.session is not None
        self.sessions.send(self.session, message.pack(), 0, now)

    def grant(self, messages: int) -> None:
        assert self.session is not None
        self.granted += messages
        self.sessions.grant(self.session, self.granted, 1 << 50)


class Scene(CorePair):
    """A publisher ``b`` and a listener ``c``.

    Attributes:
        frames: what went over the data plane, in order.
        dials: of the publisher.
        disconnects: of the publisher.
    """

    def __init__(
        self, *, about: Mapping[str, Any] | None = None, credit: int = 1 << 30, bound: bool = True,
        rows: dict[str, dict[int, tuple[int, bytes]]] | None = None, first: int = 1, found: Found | None = None,
        epoch: str = EPOCH, **settings: Any,
    ) -> None:  # fmt: skip
        self.frames: list[bytes] = []
        self.dials: list[tuple[str, bool]] = []
        self.disconnects: list[Any] = []
        self.to_second: list[Frames] = []
        made = PublisherSettings(publisher=PUBLISHER, epoch=epoch, stream=STREAM, **settings)

        def publisher(local: Local, rng: random.Random) -> PublisherCore:
            return PublisherCore(local, made, rng, first, found or Found())

        b = Host("b", publisher, role="publish", accepts=frozenset({"subscribe"}))
        c = Host("c", Listener, role="subscribe", accepts=frozenset({"publish"}), about=dict(about or {}),
                 credit_messages=0, credit_bytes=0)  # fmt: skip
        b.rows = {} if rows is None else rows
        self.next = first
        b.core.recovery_at({DATA[1]: ":5557"} if bound else {}, 100.0)
        b.core.link_up(DATA, 100.0)
        super().__init__(c, b)
        c.core.grants = credit > 0
        if credit:
            self.grant(credit)

    def _drain(self, host: Host) -> bool:
        out = host.core.out
        if host is self.b:
            for link, frames in out.sends:
                if link == SECOND:
                    self.to_second.append(frames)
            self.frames += [frames[0] for link, frames in out.sends if link == DATA]
            out.sends = [each for each in out.sends if each[0] != DATA]
            self.dials += out.dials
            self.disconnects += out.disconnects
            out.dials, out.disconnects = [], []
        return super()._drain(host)

    def second(self, about: Mapping[str, Any]) -> Host:
        """Another listener, whose frames `flow_second` hands on."""
        host = Host("second", Listener, role="subscribe", accepts=frozenset({"publish"}), about=dict(about))
        host.core.link_up(LINK, self.now)
        self.flow_second(host)
        return host

    def flow_second(self, host: Host) -> None:
        """Hand on what is on its way to and from the other listener."""
        core = host.core
        for _ in range(20):
            core.end_turn(self.now)
            sends, core.out.sends = core.out.sends, []
            for _, frames in sends:
                self.b.core.receive_message(SECOND, frames, self.now)
            self.flow()
            frames_back, self.to_second = self.to_second, []
            for frames in frames_back:
                core.receive_message(LINK, frames, self.now)

    # ---- the user of the publisher -------------------------------------------------

    def publish(self, *messages: tuple[str, bytes], ticket: Any = None, headers: Any = None) -> int:
        """One pack of messages. Returns the first one's offset."""
        first = self.next
        self.b.core.publish([pack(*messages, headers=headers, sent_at=first)], first, ticket, self.now)
        self.next += len(messages)
        self.flow()
        return first

    # ---- the subscriber ------------------------------------------------------------

    @property
    def got(self) -> list[Any]:
        """What came over the recovery channel."""
        return list(self.c.core.got)

    def say(self, *messages: Any) -> None:
        """Send messages over the recovery channel."""
        for each in messages:
            self.c.core.say(each, self.now)
        self.flow()

    def grant(self, messages: int) -> None:
        """Give credit for so many messages more."""
        self.c.core.grant(messages)
        self.flow()

    def topics(self, *patterns: str) -> None:
        """Say which topics it is about."""
        self.say(talk.Topics(True, list(patterns), [], True))

    def feed(self, number: int = 1, after: int = 0, until: int | None = None, kind: Any = "after", **more: Any) -> None:
        """Ask for a feed."""
        positioned = kind == "after"
        self.say(
            talk.Feed(number, PUBLISHER if positioned else "", more.get("epoch", EPOCH if positioned else ""), after,
                      until, kind)
        )  # fmt: skip

    def subscribe(self, prefix: bytes, token: bytes = TOKEN, on: bool = True) -> None:
        """A subscription comes over the data plane."""
        self.b.core.receive_message(DATA, [wire.subscription(prefix, on), token], self.now)
        self.flow()

    def join(self, number: int = 1) -> str:
        """Subscribe a private topic. Returns its name."""
        private = wire.private_name(self.c.core.local.instance, number)
        self.subscribe(private_topic(private))
        return private

    def fed(self, number: int = 1) -> list[tuple[int, str, bytes]]:
        """Offset, topic and body of what came by a feed."""
        return [each for block in self.blocks(number) for each in opened(block)]

    def blocks(self, number: int = 1) -> list[talk.Block]:
        """The blocks of a feed."""
        return [each for each in self.got if isinstance(each, talk.Block) and each.feed == number]

    def said(self, kind: type) -> list[Any]:
        """All messages of a kind that came."""
        return [each for each in self.got if type(each) is kind]

    def read(self) -> list[Any]:
        """What went over the data plane, read."""
        return [wire.read(each) for each in self.frames]


def pack(*messages: tuple[str, bytes], headers: Any = None, sent_at: int = 1) -> Pack:
    """Messages as a face packs them."""
    topics = list(dict.fromkeys(topic for topic, _ in messages))
    indexes = None if len(topics) == 1 else [topics.index(topic) for topic, _ in messages]
    bodies = [body for _, body in messages]
    return Pack("raw", sent_at, topics, indexes, list(map(len, bodies)), b"".join(bodies), headers or {})


def opened(block: talk.Block) -> list[tuple[int, str, bytes]]:
    """Offset, topic and body of each message of a block."""
    found, start = [], 0
    for at, (offset, length) in enumerate(zip(block.offsets, block.lengths, strict=True)):
        topic = block.topics[0 if block.indexes is None else block.indexes[at]]
        found.append((offset, topic, block.blob[start : start + length]))
        start += length
    return found


def unpacked(frames: list[Any]) -> list[tuple[int, str, bytes]]:
    """Offset, topic and body of each message of data frames, in the order of offsets."""
    found = []
    for frame in frames:
        for data in frame.parts() if isinstance(frame, wire.Mixed) else [frame]:
            if isinstance(data, wire.Data):
                block = talk.Block(1, EPOCH, data.offsets, [data.topic], None, 1, "raw", data.lengths, data.blob)
                found += opened(block)
    return sorted(found)
