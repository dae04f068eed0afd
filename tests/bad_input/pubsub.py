"""Mutations of the frames of publish-subscribe, and a plane on which one publisher lies. Pure: no socket, no thread."""

from __future__ import annotations

import random
from typing import Any

import msgpack

from tests.bad_input.test_mutations import VALUES
from tests.pubsub.plane import Plane, Site, Took
from zmqkit.patterns.pubsub import wire
from zmqkit.patterns.pubsub.parcels import Gone

HONEST_TOPICS = ("a", "b", "c.d")


class Mutator:
    """Changes frames, by a seed: fields of their heads, their bytes, their number."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice

    def message(self, frames: Any) -> list[bytes]:
        """One message, changed in some way."""
        dice, changed = self.dice, [bytes(each) for each in frames]
        for _ in range(dice.choice([1, 1, 1, 2, 3])):
            at = dice.randrange(len(changed))
            match dice.randrange(10):
                case 0:
                    changed.insert(at, dice.randbytes(dice.randrange(40)))
                case 1 if len(changed) > 1:
                    del changed[at]
                case 2:
                    changed += changed
                case 3 | 4:
                    changed[at] = self.raw(changed[at])
                case _:
                    changed[at] = self.fields(changed[at])
        return changed

    def raw(self, frame: bytes) -> bytes:
        """Some bytes changed, cut off, or put in."""
        dice = self.dice
        if not frame:
            return dice.randbytes(3)
        at = dice.randrange(len(frame))
        match dice.randrange(4):
            case 0:
                return frame[:at]
            case 1:
                return frame[:at] + dice.randbytes(dice.randrange(8)) + frame[at:]
            case 2:
                return frame[:at] + frame[at:] * 2
            case _:
                return frame[:at] + bytes([dice.randrange(256)]) + frame[at + 1 :]

    def fields(self, frame: bytes) -> bytes:
        """One field of the head changed to something else; of a data frame with its size made right."""
        start, end = head_of(frame)
        try:
            head = msgpack.unpackb(frame[start:end], strict_map_key=False)
        except Exception:
            return self.raw(frame)
        packed: bytes = msgpack.packb(self.field(head))
        before = frame[:start]
        if frame[:1] == b"d":
            before = before[:-4] + len(packed).to_bytes(4, "big")
        return before + packed + frame[end:]

    def field(self, value: Any) -> Any:
        """A value with one part of it, at any depth, changed to something else."""
        dice = self.dice
        if isinstance(value, list) and value and dice.random() < 0.9:
            at = dice.randrange(len(value))
            if dice.random() < 0.1:
                return value[:at]
            return [*value[:at], self.field(value[at]), *value[at + 1 :]]
        if isinstance(value, dict) and value and dice.random() < 0.9:
            key = dice.choice(list(value))
            return {**value, key: self.field(value[key])}
        if type(value) is int and dice.random() < 0.6:
            return max(-(2**63), min(2**64 - 1, value + dice.choice([-1, 1, 2, 100, 10**6, 2**40, 2**62])))
        return dice.choice(VALUES)


def head_of(frame: bytes) -> tuple[int, int]:
    """From where to where the head of a frame goes."""
    kind, end = frame[:1], frame.find(b"\0", 1)
    if kind == b"d" and end > 0:
        start = end + 1 + wire.STREAM_BYTES + 4
        return start, start + int.from_bytes(frame[start - 4 : start], "big")
    if kind == b"b":
        return 1 + wire.STREAM_BYTES, len(frame)
    if kind == b"p" and end > 0:
        return end + 1, len(frame)
    return 0, len(frame)


class Fair(Plane):
    """A plane with an honest publisher "pub", and "evil", which says what a test makes it say."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.pub = self.add("pub", 7000)
        self.evil = self.add("evil", 7100)
        self.strange = 0
        self.sent: list[int] = []

    def _site(self, address: str) -> Site:
        """One that is not there: whom evil would like us to connect to."""
        for each in self.sites.values():
            if address in (each.data, each.recovery):
                return each
        return Site("nobody", int(address.rpartition(":")[2]), None)

    @property
    def honest(self) -> str:
        assert self.pub.core is not None
        return self.pub.core.settings.publisher

    def take(self, count: int = 1 << 30) -> None:
        """Take what is there; what the honest publisher sent must be what it published."""
        while self.waiting and count:
            count -= 1
            parcel = self.waiting.popleft()
            if isinstance(parcel, Gone):
                first, publisher = getattr(parcel.error, "first", 0), getattr(parcel.error, "publisher", "")
                self.took.append(Took(publisher, "", first, "", b"", False, parcel.error))
                continue
            for index in parcel.claims:
                took = Took(parcel.publisher, parcel.epoch, parcel.offsets[index], parcel.topic_of(index), b"", False)
                if took.publisher == self.honest:
                    assert self.published[took.publisher, took.offset][0] == took.topic
                    self.took.append(took)
                else:
                    self.strange += 1
                    parcel.sent_at_of(index)
            self.core.consumed(parcel, self.now)

    def lie(self, way: str, *messages: Any) -> None:
        """Evil says something: over "data", or "down", the recovery channel."""
        link = ("d", self.evil.data) if way == "data" else ("c", self.evil.recovery)
        for each in messages:
            self.core.receive_message(link, list(each), self.now)
            self.turn()

    def go_on(self) -> None:
        """The honest publisher publishes, and it comes, all of it and in order."""
        self.sent += self.publish(self.pub, *HONEST_TOPICS, "a")
        got = [each.offset for each in self.took if each.publisher == self.honest and each.error is None]
        assert got == self.sent
        assert not [each for each in self.lost if each.publisher == self.honest]
