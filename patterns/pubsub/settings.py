"""What a subscriber is told when it is made, for its core. Pure values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from zmqkit.options import Limits, OnGap, OnSlow, Start


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
