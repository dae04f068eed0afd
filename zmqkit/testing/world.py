"""One simulated world: its time, its chance, its peers, and a trace of all that happened.

The same seed gives the same trace, in every process and whatever ``PYTHONHASHSEED`` says: all randomness comes from
`World.stream`, one stream a purpose, so that a draw more in one place does not shift the others.
"""

from __future__ import annotations

import heapq
import random
import zlib
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from zmqkit.options import Durability
from zmqkit.testing.clock import HostClock, VirtualClock
from zmqkit.testing.data import DataKind, DataPlane
from zmqkit.testing.faults import Faults, Nemesis
from zmqkit.testing.journal import Disk
from zmqkit.testing.network import SimulatedNetwork
from zmqkit.testing.peers import Factory, SimPeer

MAX_EVENTS = 2_000_000
"""A world with more events than this is one that never rests."""


class World:
    """Everything that one seed determines.

    Args:
        seed: of all randomness.
        hop_timeout_s: when one end of a connection gives up on silence, in seconds; the driver's is about
            0.6 x the session's bound.
        text: keep the last so many lines of a readable trace; 0 for none (faster).
        checks: hold each core against its contract after each turn.
        threaded_journals: the share of incarnations whose journal works in a thread of its own.

    Attributes:
        undone: so many commits, at most, are gone after a power cut on a disk that does not hold them (5).
        clock: the true time.
        network: see `SimulatedNetwork`.
        peers: by name, in the order of their making.
        counts: how often each fault happened.
        branches: what all cores counted, summed up over incarnations that ended; `totals` adds the living ones.
        events: how often each kind of event was told.
        digest: the trace as a number.
        text: the readable trace, None without one.
        sent, received, turns: how much was simulated.
        healed: True in the second phase.
    """

    def __init__(
        self,
        seed: int,
        *,
        hop_timeout_s: float = 1.8,
        text: int = 0,
        checks: bool = True,
        threaded_journals: float = 0.3,
    ) -> None:
        self.seed = seed
        self.checks = checks
        self.threaded_journals = threaded_journals
        self.slow_commits = 0.0
        self.undone = 5
        self.clock = VirtualClock()
        self.counts: Counter[str] = Counter()
        self.branches: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.processes: set[tuple[str, int, str]] = set()
        self.peers: dict[str, SimPeer] = {}
        self.digest = zlib.crc32(str(seed).encode())
        self.text: deque[str] | None = deque(maxlen=text) if text else None
        self.sent = self.received = self.turns = 0
        self.healed = False
        self.nemesis: Nemesis | None = None
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = 0
        self._happened = 0
        self._hosts: dict[str, HostClock] = {}
        self.network = SimulatedNetwork(self, hop_timeout_s)
        self.network.data = DataPlane(self.network)

    # ---- chance and time ---------------------------------------------------------

    def stream(self, purpose: str) -> random.Random:
        """A random generator of its own for one purpose: the same for the same seed and purpose."""
        # Not the string itself: that costs a SHA-512 each. Two crcs make 64 bits.
        name = purpose.encode()
        return random.Random(self.seed << 64 | zlib.crc32(name) << 32 | zlib.crc32(name, 0xC0FFEE))

    def at(self, time: float, function: Callable[..., object], *args: Any) -> None:
        """Call a function at a true time; those of one time in the order of asking."""
        self._order += 1
        heapq.heappush(self._heap, (time, self._order, function, args))

    def after(self, seconds: float, function: Callable[..., object], *args: Any) -> None:
        """Call a function after so many seconds."""
        self._order += 1
        heapq.heappush(self._heap, (self.clock.now + seconds, self._order, function, args))

    def run(self, seconds: float) -> None:
        """Let so much time pass, and everything happen that is due in it."""
        end = self.clock.now + seconds
        heap, clock, pop = self._heap, self.clock, heapq.heappop
        happened = self._happened
        while heap and heap[0][0] <= end:
            time, _, function, args = pop(heap)
            if time > clock.now:
                clock.now = time
            function(*args)
            happened += 1
            if happened > MAX_EVENTS:
                raise AssertionError(f"{MAX_EVENTS} events, and no end: something spins")
        self._happened = happened
        clock.now = end

    def run_until(self, condition: Callable[[], bool], *, within_s: float, every_s: float = 0.1) -> bool:
        """Let time pass until the condition holds; False if it does not within so many seconds."""
        end = self.clock.now + within_s
        while not condition():
            if self.clock.now >= end:
                return False
            self.run(min(every_s, end - self.clock.now + 1e-9))
        return True

    def host_clock(self, host: str) -> HostClock:
        """The clock of one host: it began at some other time, and drifts by up to 200 parts in a million."""
        known = self._hosts.get(host)
        if known is None:
            draw = self.stream(f"host {host}")
            known = HostClock(self.clock, 100_000 * draw.random(), 1.0 + draw.uniform(-2e-4, 2e-4))
            self._hosts[host] = known
        return known

    def leap(self, host: str, seconds: float) -> None:
        """The monotonic clock of a host goes forward at once."""
        self.host_clock(host).leap(seconds)
        for peer in self.peers.values():
            if peer.host == host:
                peer.wake_by(self.clock.now)

    def suspend(self, host: str, seconds: float) -> None:
        """A host sleeps, and its clock with it: to those who live there nothing happened."""
        clock = self.host_clock(host)
        if clock.held is None:
            clock.hold()
            for peer in self.peers.values():
                if peer.host == host and peer.alive:
                    peer.stop()
            self.after(seconds, self.wake, host)

    def wake(self, host: str) -> None:
        """The end of `suspend`."""
        clock = self.host_clock(host)
        if clock.held is not None:
            clock.release()
            for peer in self.peers.values():
                if peer.host == host and peer.alive:
                    peer.resume()

    def hosts(self) -> list[str]:
        """All hosts where a peer runs, or did."""
        return list(dict.fromkeys(peer.host for peer in self.peers.values()))

    # ---- peers -------------------------------------------------------------------

    def peer(
        self,
        name: str,
        factory: Factory,
        *,
        host: str | None = None,
        bind: Sequence[str] = (),
        connect: Sequence[str] = (),
        data: DataKind | None = None,
        data_bind: Sequence[str] = (),
        data_connect: Sequence[str] = (),
        journal: bool | Durability = False,
        logs: Sequence[str] = ("messages", "marks", "dead"),
        may_crash: bool = True,
        start: bool = True,
    ) -> SimPeer:
        """Add a process.

        Args:
            name: unique.
            factory: builds its core, for each incarnation anew.
            host: where it runs; None: on a machine of its own.
            bind: addresses to bind. connect: addresses to connect to.
            data: give it data sockets of this kind. data_bind, data_connect: their addresses.
            journal: give it one; True means ``power``, which survives everything. logs: the names of its logs.
            may_crash: whether `Nemesis` may kill it (and later restart it).
            start: at once.
        """
        if name in self.peers:
            raise ValueError(f"there is a peer {name} already")
        durability: Durability = journal if isinstance(journal, str) else "power"
        disk = Disk(f"{name}.{self.seed}", durability=durability, logs=logs) if journal else None
        peer = SimPeer(
            self, name, factory, host=host or f"host of {name}", number=len(self.peers), disk=disk,
            may_crash=may_crash, data=data,
        )  # fmt: skip
        self.peers[name] = peer
        for address in bind:
            peer.bind(address)
        for address in connect:
            peer.connect(address)
        for address in data_bind:
            peer.bind_data(address)
        for address in data_connect:
            peer.connect_data(address)
        if start:
            peer.start()
        return peer

    def retire(self, peer: SimPeer) -> None:
        """Called by a peer whose process ends: what its core counted is kept."""
        if peer.core is not None:
            self.branches.update(_numbers(peer.core.counters))

    def went_down(self, peer: SimPeer, how: str) -> None:
        """Called by a peer whose process has ended."""
        if self.nemesis is not None:
            self.nemesis.went_down(peer, how)

    def totals(self) -> Counter[str]:
        """What all cores counted, dead or alive."""
        total = Counter(self.branches)
        for peer in self.peers.values():
            if peer.core is not None:
                total.update(_numbers(peer.core.counters))
        return total

    # ---- faults ------------------------------------------------------------------

    def unleash(self, faults: Faults, *, bound_s: float) -> None:
        """Begin the first phase: things go wrong from now on."""
        if self.nemesis is not None:
            raise ValueError("faults are on already")
        self.nemesis = Nemesis(self, faults, bound_s=bound_s)

    def heal(self) -> None:
        """Begin the second phase: everything works, all who crashed come back."""
        self.note(None, "heal")
        self.healed = True
        if self.nemesis is not None:
            self.nemesis.stop()
        else:
            self.network.heal()

    # ---- trace -------------------------------------------------------------------

    def note(self, peer: SimPeer | None, what: str) -> None:
        """Add a line to the readable trace, if there is one."""
        if self.text is not None:
            self.text.append(f"{self.clock.now:10.4f}  {peer.name if peer else '--':<12} {what}")

    @staticmethod
    def show(frames: Sequence[bytes]) -> str:
        """A message as the trace shows it; `Scenario.show` may replace it by what reads better."""
        return " ".join(repr(frame) if len(frame) <= 60 else f"{frame[:57]!r}..({len(frame)})" for frame in frames)


def _numbers(counters: dict[str, int | float]) -> dict[str, int]:
    return {name: int(value) for name, value in counters.items() if value}
