"""What publishers and subscribers are told when they are made, for their cores. Pure values."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, Final

from zmqkit.options import Limits, OnGap, OnSlow, Retention, Start


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SubscriberSettings:
    """How a subscriber's core behaves.

    Attributes:
        topics: patterns, checked.
        start: where to begin with a publisher whose position is not known: a time is in microseconds since 1970. None:
            "latest", of a durable subscriber "resume". What begins while it is subscribed is read from its beginning.
        durable: the position is to survive (``cursor=`` or ``inbox=``): all comes by feeds, nothing by the data plane.
        cursor: the position is at the publisher, under a name that ``local.about["cursor"]`` tells.
        positions: publisher -> (epoch, offset): what was dealt with before, from an inbox.
        on_gap: what to do about messages that did not come.
        on_slow: what to do when more waits for the user than `limits` says.
        max_age: seconds; what was sent longer ago when it comes is dropped. None: nothing is.
        limits: ``queued_messages`` and ``queued_bytes`` bound what waits for the user, and again what is held back
            until what was before it has been fetched.
        wall: wall time in seconds minus ``now``: for `max_age`.
        unreachable: after so many seconds without a recovery channel that is told, and what is missing is given up;
            None: four heartbeat bounds, and 10 seconds at least.
    """

    topics: tuple[str, ...] = ("#",)
    start: Start | int | None = None
    durable: bool = False
    cursor: bool = False
    positions: Mapping[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
    on_gap: OnGap = "recover"
    on_slow: OnSlow = "recover"
    max_age: float | None = None
    limits: Limits = Limits()
    wall: float = 0.0
    unreachable: float | None = None


_KEEP_ALL: Final = Retention()


def stream_name(fresh: bytes, epoch: str) -> bytes:
    """What names the frames of one opening: 8 bytes, of random ones and of the epoch.

    A process that is restored from a snapshot draws the same bytes once more. If the journal was not restored with it,
    its offsets have another meaning from then on, and a subscriber whom a fence did not reach must not take them for
    those of the epoch before.
    """
    return hashlib.blake2b(epoch.encode(), key=fresh, digest_size=8).digest()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PublisherSettings:
    """What a publisher's core is made with.

    Attributes:
        publisher: its id, 32 hex digits: the journal's uuid; without a journal the instance.
        epoch: 32 hex digits, of this opening.
        stream: 8 bytes, of `stream_name`: names its frames on the data plane.
        history: without a journal: so many messages are kept for those who come late.
        durable: there is a journal.
        retention: what the journal keeps.
        last_value: keep the last value of each topic.
        plain: for plain subscribers: topic and body as two frames, and nothing else.
        wall: wall time minus the driver's clock, in seconds.
        limits: ``queued_bytes`` bounds the history in memory, the last values, and what waits for one subscriber.
    """

    publisher: str
    epoch: str
    stream: bytes
    history: int = 1_000
    durable: bool = False
    retention: Retention = _KEEP_ALL
    last_value: bool = False
    plain: bool = False
    wall: float = 0.0
    limits: Limits = Limits()

    def about(self, first: int) -> dict[str, Any]:
        """What the publisher says of itself in its handshakes. `first`: the first offset of this opening."""
        return {
            "publisher": self.publisher, "epoch": self.epoch, "stream": self.stream, "journal": self.durable,
            "last": first - 1, "last_value": self.last_value,
        }  # fmt: skip
