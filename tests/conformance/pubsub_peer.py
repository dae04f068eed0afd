"""A small subscriber and a small publisher with pyzmq and msgpack alone, written from section 14 of docs/protocol.md.

Nothing of zmqkit is imported here; sessions are those of peer.py. They live while somebody calls `step`, and leave out
what only makes it faster.
"""

from __future__ import annotations

import os
import time
from itertools import accumulate, pairwise
from types import TracebackType
from typing import Any

import zmq

from tests.conformance.peer import RawPeer, pack, unpack

TOPICS, JOINED, LEFT, SEEN, FEED, STOP, COMMIT, CHECK, VALUES = range(1, 10)  # 14.4
BLOCK, BEGUN, DONE, HOLE, EPOCH, COMMITTED, CHECKED, REFUSED, LEAVE = range(20, 29)
PATIENCE_MS = 20_000
SUM_BELOW = 1 << 63


def cut(lengths: list[int], blob: bytes) -> list[Any]:
    """Bodies that lie end to end, decoded."""
    assert sum(lengths) == len(blob)
    return [unpack(blob[start:end]) for start, end in pairwise(accumulate(lengths, initial=0))]


def spread(offsets: Any, count: int) -> list[int]:
    """14.2: a number is the first one's, the others follow."""
    return list(range(offsets, offsets + count)) if isinstance(offsets, int) else offsets


def matches(pattern: str, topic: str) -> bool:
    """14.1"""
    words, wanted = topic.split("."), pattern.split(".")
    if wanted[-1] == "#":
        wanted = wanted[:-1]
        if len(words) < len(wanted):
            return False
        words = words[: len(wanted)]
    return len(words) == len(wanted) and all(each in ("*", word) for each, word in zip(wanted, words, strict=True))


def prefixes(pattern: str) -> list[bytes]:
    """14.1"""
    words = pattern.split(".")
    at = next((at for at, word in enumerate(words) if word in ("*", "#")), None)
    if at is None:
        return [b"d" + pattern.encode() + b"\0"]
    stem = b"d" + ".".join(words[:at]).encode()
    if not at:
        return [b"d"]
    return [stem + b"\0", stem + b"."] if words[at] == "#" else [stem + b"."]


class RawSubscriber(RawPeer):
    """Reads the data plane, and speaks over the recovery channel when it is told to.

    Attributes:
        lose: topics whose next data frame is thrown away, as by a network.
        live: (offset, topic, body) of what came over the data plane.
        gaps: (topic, first possible, last possible) that previous offsets told of.
        fed: feed -> (offset, topic, body).
        said: other messages of the recovery channel, in order.
        beats: (offset, number).
    """

    role = "subscribe"

    def __init__(
        self, address: str, *patterns: str, credit: tuple[int, int] = (1_000, 1 << 20), cursor: str = "",
        durable: bool = False,
    ) -> None:  # fmt: skip
        instance = os.urandom(16)
        self.patterns = patterns
        self.lose: list[str] = []
        self.live: list[tuple[int, str, Any]] = []
        self.gaps: list[tuple[str, int, int]] = []
        self.fed: dict[int, list[tuple[int, str, Any]]] = {}
        self.said: list[list[Any]] = []
        self.beats: list[tuple[int, int]] = []
        self.seen: dict[str, int] = {}
        self._context = zmq.Context()
        self.data = self._context.socket(zmq.XSUB)
        self.data.setsockopt(zmq.LINGER, 0)
        self.data.setsockopt(zmq.RCVHWM, 0)
        self.data.connect(address)
        for each in patterns if not durable else ():
            for prefix in prefixes(each):
                self.data.send(b"\1" + prefix)
        self.data.send(b"\1b")
        self.private = f"{instance.hex()}/1/"
        self.data.send(b"\1p" + self.private.encode() + b"\0")
        self.fence = self._read_fence()
        recovery = self.fence[6]
        if recovery.startswith(":"):  # 14.3
            recovery = address.rpartition(":")[0] + recovery
        self.cursor, self.durable = cursor, durable
        super().__init__(connect=recovery, credit=credit, instance=instance)

    def _open(self) -> zmq.Socket[bytes]:
        self.about = {"cursor": self.cursor, "durable": self.durable}
        return super()._open()

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        self.data.close(0)
        self._context.term()
        super().__exit__(t, v, tb)

    def _read_fence(self) -> list[Any]:
        """14.3: what comes before the fence is not yet whole."""
        begin = b"p" + self.private.encode() + b"\0"
        while True:
            assert self.data.poll(PATIENCE_MS), "no fence came"
            frame = self.data.recv()
            if frame.startswith(begin):
                fence: list[Any] = unpack(frame[len(begin) :])
                assert fence[0] == 1
                self.stream, self.publisher, self.epoch, self.base = fence[1], fence[2], fence[3], fence[5]
                return fence

    # ---- the data plane --------------------------------------------------------------

    def step(self, timeout_s: float = 0.05) -> bool:
        """Take one message of either plane."""
        if self.data.poll(0):
            self._take_frame(self.data.recv())
            return True
        return super().step(min(timeout_s, 0.005))

    def _take_frame(self, frame: bytes) -> None:
        kind = frame[:1]
        if kind == b"b":
            assert frame[1:9] == self.stream
            offset, number = unpack(frame[9:])[:2]
            self.beats.append((offset, number))
            if self.welcomed:
                self.say(SEEN, number)
            return
        assert kind == b"d"
        end = frame.index(0)
        name = frame[1:end].decode()
        assert frame[end + 1 : end + 9] == self.stream
        at = end + 13
        size = int.from_bytes(frame[at - 4 : at], "big")
        head = unpack(frame[at : at + size])
        offsets, previous, group_last, sent_at, codec, lengths, more = head[:7]
        assert codec == "msgpack"
        assert sent_at > 0
        assert isinstance(more, dict)
        bodies = cut(lengths, frame[at + size :])
        found = spread(offsets, len(bodies))
        assert found[-1] <= group_last
        if not name or name.endswith("."):
            topics, indexes = head[7:9]
            assert all(each.startswith(name) for each in topics)
        else:
            topics, indexes, previous = [name], [0] * len(bodies), [previous]
        if topics[0] in self.lose:
            self.lose.remove(topics[0])
            return
        for topic, before in zip(topics, previous, strict=True):
            if before > self.seen.get(topic, self.base) and self._wants(topic):
                self.gaps.append((topic, self.seen.get(topic, self.base) + 1, before))
        for offset, index, body in zip(found, indexes, bodies, strict=True):
            topic = topics[index]
            if self._wants(topic) and offset > self.seen.get(topic, self.base):
                self.seen[topic] = offset
                self.live.append((offset, topic, body))

    def _wants(self, topic: str) -> bool:
        return any(matches(each, topic) for each in self.patterns)

    # ---- the recovery channel --------------------------------------------------------

    def say(self, kind: int, *fields: Any) -> None:
        self.send([pack([kind, *fields])], 0)

    def join(self) -> None:
        """14.4: topics, and that it lives on the data plane."""
        self.until(lambda: self.welcomed)
        about = self.other["about"]
        assert (about["publisher"], about["epoch"], about["stream"]) == (self.publisher, self.epoch, self.stream)
        self.say(TOPICS, True, list(self.patterns), [], True)
        if not self.durable:
            self.say(JOINED, 1, self.base)

    def feed(self, number: int, kind: str, after: int = 0, until: int | None = None, epoch: str | None = None) -> None:
        """Ask for history, and wait until it is there."""
        self.begin(number, kind, after, until, epoch)
        self.until(lambda: self.heard_of(DONE, number))

    def begin(self, number: int, kind: str, after: int = 0, until: int | None = None, epoch: str | None = None) -> None:
        self.fed[number] = []
        publisher, epoch = (self.publisher, epoch or self.epoch) if kind == "after" else ("", "")
        self.say(FEED, number, publisher, epoch, after, until, kind)

    def heard_of(self, kind: int, number: int) -> list[Any] | None:
        """The message of this kind about a feed or a question, if it came."""
        return next((each for each in self.said if each[0] == kind and each[1] == number), None)

    def take(self, body: list[bytes], messages: int) -> None:
        head = unpack(body[0])
        if head[0] != BLOCK:
            assert messages == 0
            self.said.append(head)
            return
        _, feed, _, offsets, topics, indexes, _, codec, lengths, _ = head[:10]
        assert codec == "msgpack"
        bodies = cut(lengths, body[1])
        assert messages == len(bodies) <= 512
        for offset, index, each in zip(
            spread(offsets, messages), indexes or [0] * messages, bodies, strict=True
        ):  # fmt: skip
            self.fed[feed].append((offset, topics[index], each))
        # 5: nothing is kept, so all of it is free again.
        self.credit = (self.credit[0] + messages, self.credit[1] + sum(map(len, body)))
        self.say_state()


class RawPublisher(RawPeer):
    """Publishes on the data plane, and serves one subscriber from all that it ever published.

    Attributes:
        history: (offset, topic, packed body).
        gone: so many of the oldest are not held any more.
        subscriptions: what came over the data plane.
        said: messages of the recovery channel, in order.
        patterns: of the session.
        joined: the subscriber lives on the data plane.
    """

    role = "publish"

    def __init__(self) -> None:
        self.stream = os.urandom(8)
        self.publisher, self.epoch = os.urandom(16).hex(), os.urandom(16).hex()
        self.history: list[tuple[int, str, bytes]] = []
        self.gone = 0
        self.last: dict[str, int] = {}
        self.subscriptions: set[bytes] = set()
        self.said: list[list[Any]] = []
        self.patterns: set[str] = set()
        self.joined = False
        self.cursor: tuple[str, int] | None = None
        self.beat_number = 0
        self.feeds: dict[int, int] = {}
        """Feeds without end, and how far each is."""
        self.waiting: list[list[bytes]] = []
        """BLOCKs that there is no credit for."""
        self._context = zmq.Context()
        self.data = self._context.socket(zmq.XPUB)
        for option, value in ((zmq.LINGER, 0), (zmq.SNDHWM, 0), (zmq.XPUB_VERBOSE, 1)):
            self.data.setsockopt(option, value)
        self.data.bind("tcp://127.0.0.1:*")
        self.data_address = self.data.getsockopt_string(zmq.LAST_ENDPOINT)
        super().__init__(bind="tcp://127.0.0.1:*")

    def _open(self) -> zmq.Socket[bytes]:
        self.about = {
            "publisher": self.publisher, "epoch": self.epoch, "stream": self.stream, "journal": False, "last": 0,
            "last_value": False,
        }  # fmt: skip
        return super()._open()

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        self.data.close(0)
        self._context.term()
        super().__exit__(t, v, tb)

    @property
    def newest(self) -> int:
        return self.history[-1][0] if self.history else 0

    # ---- the data plane --------------------------------------------------------------

    def step(self, timeout_s: float = 0.05) -> bool:
        """Take one message of either plane."""
        if self.data.poll(0):
            change = self.data.recv()
            (self.subscriptions.add if change[:1] == b"\1" else self.subscriptions.discard)(change[1:])
            if change[:2] == b"\1p":
                self._say_fence(change[1:])
            return True
        return super().step(min(timeout_s, 0.005))

    def _say_fence(self, private: bytes) -> None:
        """14.3"""
        port = ":" + self.address.rpartition(":")[2]
        fence = [1, self.stream, self.publisher, self.epoch, self.instance.hex(), self.newest, port]
        self.data.send(private + pack(fence))

    def publish(self, *messages: tuple[str, Any], lost: bool = False) -> None:
        """One group: a frame a topic, and a beat after several (14.2). `lost`: as if a network had lost it."""
        first = self.newest + 1
        by_topic: dict[str, list[tuple[int, bytes]]] = {}
        for offset, (topic, body) in enumerate(messages, first):
            by_topic.setdefault(topic, []).append((offset, pack(body)))
            self.history.append((offset, topic, pack(body)))
        for topic, found in by_topic.items():
            offsets, bodies = [offset for offset, _ in found], [body for _, body in found]
            sent_at = time.time_ns() // 1000
            head = pack(
                [offsets, self.last.get(topic, 0), self.newest, sent_at, "msgpack", list(map(len, bodies)), {}]
            )  # fmt: skip
            self.last[topic] = offsets[-1]
            if not lost:
                size = len(head).to_bytes(4, "big")
                self.data.send(b"d" + topic.encode() + b"\0" + self.stream + size + head + b"".join(bodies))
        if len(by_topic) > 1:
            self.beat()
        for feed in self.feeds:
            self._go_on(feed)

    def beat(self) -> None:
        """14.2"""
        self.beat_number += 1
        self.data.send(b"b" + self.stream + pack([self.newest, self.beat_number]))

    # ---- the recovery channel --------------------------------------------------------

    def say(self, kind: int, *fields: Any) -> None:
        self.send([pack([kind, *fields])], 0)

    def take(self, body: list[bytes], messages: int) -> None:
        assert messages == 0
        message = unpack(body[0])
        self.said.append(message)
        kind, *rest = message
        if kind == TOPICS:
            reset, add, remove, _ = rest
            self.patterns = (set() if reset else self.patterns) - set(remove) | set(add)
        elif kind in (JOINED, LEFT):
            self.joined = kind == JOINED
        elif kind == FEED:
            self._feed(*rest)
        elif kind == STOP:
            self.feeds.pop(rest[0], None)
        elif kind == COMMIT:
            self.cursor = (rest[0], rest[1])
            if rest[2]:
                self.say(COMMITTED, rest[2], "")
        elif kind == CHECK:
            self._check(*rest)

    def _feed(self, feed: int, publisher: str, epoch: str, after: int, until: int | None, kind: str) -> None:
        """14.4"""
        if kind == "after":
            assert (publisher, epoch) == (self.publisher, self.epoch)
            begin = after
        elif kind == "resume" and self.cursor is not None:
            begin = self.cursor[1]
        else:
            assert kind in ("earliest", "resume")
            begin = self.gone
        self.say(BEGUN, feed, self.epoch, begin)
        if begin < self.gone:
            self.say(HOLE, feed, self.epoch, begin + 1, self.gone, [])
        end = self.newest if until is None else min(until, self.newest)
        self._blocks(feed, max(begin, self.gone), end)
        self.waiting.append([pack([DONE, feed, self.epoch, end])])
        self._flush()
        if until is None:
            self.feeds[feed] = end

    def _go_on(self, feed: int) -> None:
        after, self.feeds[feed] = self.feeds[feed], self.newest
        self._blocks(feed, after, self.newest)
        self._flush()

    def _blocks(self, feed: int, after: int, end: int) -> None:
        """A message each: nothing asks for more."""
        for offset, topic, body in self.history:
            if after < offset <= end and any(matches(each, topic) for each in self.patterns):
                sent_at = time.time_ns() // 1000
                head = [BLOCK, feed, self.epoch, offset, [topic], None, sent_at, "msgpack", [len(body)], {}]
                self.waiting.append([pack(head), body])

    def _hear(self, heard: int, messages: int, size_bytes: int) -> None:
        super()._hear(heard, messages, size_bytes)
        self._flush()

    def _flush(self) -> None:
        while self.waiting and (len(self.waiting[0]) == 1 or self.has_room(1)):
            body = self.waiting.pop(0)
            self.send(body, len(body) - 1)

    def _check(self, ask: int, after: int, up_to: int, count: int, total: int) -> None:
        """14.4"""
        found = [
            offset
            for offset, topic, _ in self.history
            if after < offset <= up_to and any(matches(each, topic) for each in self.patterns)
        ]
        self.say(CHECKED, ask, int((len(found), sum(found) % SUM_BELOW) == (count, total)))
