"""Time that moves only when it is told to.

Knows nothing of cores, networks or worlds: usable alone, wherever code takes a clock as a callable.
"""

from __future__ import annotations


class VirtualClock:
    """The one true time of a simulation, in seconds. Call it to read it.

    Args:
        now: where it begins, in seconds.
    """

    __slots__ = ("now",)

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        """Move on by so many seconds; returns the new time. ValueError if that were backwards."""
        if not seconds >= 0:
            raise ValueError(f"a clock goes forward only, got {seconds!r} seconds")
        self.now += seconds
        return self.now


class HostClock:
    """The monotonic clock of one host: it began at another moment, and runs a little fast or slow.

    It may leap forward (a suspended machine's that counts sleep, a hypervisor's that catches up), and stand still
    (a suspended machine's that does not).

    Two hosts' monotonic clocks have nothing to say to each other; whoever compares them is found out here.

    Args:
        clock: the true time.
        offset: what this host's clock says at true time 0, in seconds.
        rate: how many of its seconds pass in one true second.

    Attributes:
        held: what it says while it stands still; None: it runs.
    """

    __slots__ = ("clock", "held", "offset", "rate")

    def __init__(self, clock: VirtualClock, offset: float = 0.0, rate: float = 1.0) -> None:
        if not rate > 0:
            raise ValueError(f"rate must be positive, got {rate!r}")
        self.clock = clock
        self.offset = offset
        self.rate = rate
        self.held: float | None = None

    def __call__(self) -> float:
        return self.local(self.clock.now)

    def local(self, true: float) -> float:
        """What this host's clock says at a true time."""
        return self.offset + true * self.rate if self.held is None else self.held

    def true(self, local: float) -> float:
        """The true time at which this host's clock says `local`, if it neither leaps nor stands still before."""
        return (local - self.offset) / self.rate

    def leap(self, seconds: float) -> None:
        """Go forward at once. ValueError if that were backwards."""
        if not seconds >= 0:
            raise ValueError(f"a monotonic clock goes forward only, got {seconds!r} seconds")
        self.offset += seconds
        if self.held is not None:
            self.held += seconds

    def hold(self) -> None:
        """Stand still from now on."""
        if self.held is None:
            self.held = self()

    def release(self) -> None:
        """Run on from where it stands."""
        if self.held is not None:
            self.offset = self.held - self.clock.now * self.rate
            self.held = None
