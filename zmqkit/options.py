"""Options shared by all patterns: frozen dataclasses, checked when they are made.

This module imports nothing of zmqkit but `zmqkit.checks`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from zmqkit import checks

Durability = Literal["power", "process", "memory"]
"""How safe "stored" is: synced to the disk (`power`), safe from a killed process (`process`), or neither."""

Point = Literal["accepted", "journalled", "received", "settled"]
"""How far a message has come, in this order."""

OnError = Literal["nack", "reject", "raise"]
"""What an exception in a ``with job:`` block or a handler does to its job."""

Start = Literal["latest", "earliest", "resume"]
"""Where a subscriber begins: with what comes, with the oldest that there is, or where it was before."""

OnGap = Literal["recover", "raise", "report"]
"""What a subscriber does about messages that did not come."""

OnSlow = Literal["recover", "conflate", "disconnect"]
"""What becomes of a subscriber that does not keep up."""

OnFailure = Literal["raise", "retry", "skip"]
"""What an exception in a ``with message:`` block or a handler does."""


def _positive(options: object, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        found = checks.number(name, value, "a positive number")
        if not (found > 0 and math.isfinite(found)):
            raise ValueError(f"{name} must be a positive number, got {value!r}")
        if type(value) is not int:
            object.__setattr__(options, name, found)  # a Decimal does not go with floats


@dataclasses.dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the next try: exponential, with full jitter.

    The n-th wait is drawn evenly from 0 to ``min(cap, first * factor ** (n - 1))`` seconds
    (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015).

    Attributes:
        first: the ceiling of the first wait, in seconds.
        factor: by which the ceiling grows with each failure; 1 or more.
        cap: the highest ceiling, in seconds.
    """

    first: float = 0.1
    factor: float = 2.0
    cap: float = 30.0

    def __post_init__(self) -> None:
        _positive(self, "first", "factor", "cap")
        if self.factor < 1:
            raise ValueError(f"factor must be 1 or more, got {self.factor!r}")

    def ceiling(self, failures: int) -> float:
        """The longest wait, in seconds, after so many failures (1 is the first)."""
        steps = min(max(failures, 1) - 1, 64)
        try:
            return min(self.cap, self.first * self.factor**steps)
        except OverflowError:
            return self.cap


@dataclasses.dataclass(frozen=True, slots=True)
class Heartbeat:
    """How life is proved, and when silence is death (ZeroMQ Guide, chapter 4).

    Attributes:
        interval: seconds between two pings while something is outstanding; from 0.001 to 3600.
        liveness: how many intervals of silence are death.
    """

    interval: float = 1.0
    liveness: int = 3

    def __post_init__(self) -> None:
        _positive(self, "interval")
        if not 0.001 <= self.interval <= 3600:
            raise ValueError(f"interval must be from 0.001 to 3600 seconds, got {self.interval!r}")
        if not (isinstance(self.liveness, int) and 1 <= self.liveness <= 1000):
            raise ValueError(f"liveness must be a whole number from 1 to 1000, got {self.liveness!r}")

    @property
    def bound(self) -> float:
        """Seconds of silence after which a peer is dead: interval x liveness."""
        return self.interval * self.liveness


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a stranger, or a fast friend, may make us hold.

    Attributes:
        frame_bytes: the largest frame that is received; a body that is sent is at most 64 KiB smaller, the room of what
            travels with it. In publish-subscribe a frame may hold many messages: frames of 256 KiB, and 2 MiB beside
            the bodies, are received whatever this says.
        nesting: how deep lists and maps in a body may nest.
        queued_messages: how many messages may wait in memory.
        queued_bytes: how many bytes of bodies may wait in memory.
    """

    frame_bytes: int = 64 * 1024 * 1024
    nesting: int = 32
    queued_messages: int = 100_000
    queued_bytes: int = 256 * 1024 * 1024

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{field.name} must be a whole number of 1 or more, got {value!r}")
            if value >= 1 << 62:
                raise ValueError(f"{field.name} must be below 2**62, got {value!r}")
        if self.frame_bytes < 65536:
            raise ValueError(f"frame_bytes must be 65536 or more, got {self.frame_bytes!r}")
        if self.nesting > 500:
            raise ValueError(f"nesting must be 500 or less, got {self.nesting!r}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How long, and how much, is remembered of what is done. Whichever bound is reached first counts.

    Attributes:
        seconds: nothing is remembered for longer.
        count: so many at most.
        size_bytes: so many bytes at most, all together.
    """

    seconds: float = 600.0
    count: int = 100_000
    size_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        _positive(self, "seconds")
        for name, value in (("count", self.count), ("size_bytes", self.size_bytes)):
            if not isinstance(value, int) or not 1 <= value < 1 << 62:
                raise ValueError(f"{name} must be a whole number from 1 to below 2**62, got {value!r}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much a publisher's journal keeps. Whichever bound is reached first counts; None is no bound.

    Without any, all is kept until the disk is full. Messages are deleted by whole rows of the journal, of up to 512
    messages or 256 KiB that were published together. Of a row that stands across a bound nothing is deleted.

    Attributes:
        count: the newest messages: so many are kept, and less than one row more.
        size_bytes: the newest bodies: so many bytes are kept, and less than one row more.
        seconds: nothing that is older, by the publisher's clock; a row is as old as its first message.
    """

    count: int | None = None
    size_bytes: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None:
            _positive(self, "seconds")
        for name, value in (("count", self.count), ("size_bytes", self.size_bytes)):
            if value is not None and (type(value) is not int or not 1 <= value < 1 << 62):
                raise ValueError(f"{name} must be a whole number from 1 to below 2**62, or None, got {value!r}")
