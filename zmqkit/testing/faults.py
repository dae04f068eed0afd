"""What goes wrong in a simulation, how often, and the one who sees to it.

Swarm testing (Groce et al., ISSTA 2012): each seed turns a random part of the faults off and scales the others, so
that rare combinations get room. Knows peers and the network; no pattern.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from zmqkit.testing.network import Rates

if TYPE_CHECKING:
    from zmqkit.testing.journal import CommitFate
    from zmqkit.testing.network import Connection
    from zmqkit.testing.peers import SimPeer
    from zmqkit.testing.world import World

NETWORK_FAULTS: Final = (
    "lost", "duplicated", "reordered", "delayed", "break", "half-open break", "break all", "partition, one way, hold",
    "partition, one way, drop", "partition, full, hold", "partition, full, drop", "hop timeout", "lost in a break",
    "lost in a partition", "sent from the pipe", "sent without a connection", "reconnected", "connect failed",
    "unreachable",
)  # fmt: skip
"""Counters that a sweep over a scenario with more than one host should find above 0."""

STALL_FAULTS: Final = ("freeze", "stop")

CRASH_FAULTS: Final = ("crash: at once", "power cut", "crash: amid sends", "restart")
"""... with ``may_crash`` peers."""

JOURNAL_FAULTS: Final = (
    "crash: crash before", "crash: crash in", "crash: crash in, stored", "crash: crash after", "slow commit",
)  # fmt: skip
"""... that have a journal."""

DISK_FAULTS: Final = (
    "commit failed: JournalFull", "commit failed: JournalError", "commit failed: CommitIndeterminate",
)  # fmt: skip
"""... whose disks fail (``Faults.disk_s``)."""

READ_FAULTS: Final = ("read failed",)
"""... that are read again, with ``Faults.read_s``. A read that fails while the journal is opened counts as
``start failed: JournalError``."""

TORN_FAULTS: Final = ("torn tail", "synced commits lost", "start failed: JournalDamaged", "journal replaced")
"""... with ``Faults.torn_s``."""

CLOCK_FAULTS: Final = ("clock leap", "suspend")

IDENTITY_FAULTS: Final = ("pid used again", "restored", "address taken over")
"""... with ``may_crash`` peers, two of which bind."""

_CRASH_FATES: Final[tuple[CommitFate, ...]] = ("crash before", "crash in", "crash in, stored", "crash after")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often what goes wrong. Rates are for one message; times are mean seconds between two, `inf` is never.

    Attributes:
        loss, duplicate, reorder, spike: probability for one message; a spike delays by 50 ms in the mean.
        break_s: a connection breaks.
        partition_s: two hosts are cut off, one way or both.
        freeze_s: a peer's loop stands still while its connections live.
        stop_s: a whole process stands still.
        crash_s: a peer that may crash does.
        disk_s: a disk is full for a while, or a commit fails. A journal whose commit's outcome is unknown is of no
            more use: the peer is restarted after a while.
        slow_commits: probability for one commit of taking 100 ms more.
        read_s: a disk fails to read.
        torn_s: the power fails, and a disk turns out to have lied: commits that were synced are gone. The journal
            cannot be opened; after a while the operator puts an empty one in its place.
        leap_s: a host's monotonic clock leaps forward.
        suspend_s: a host sleeps, and its monotonic clock stands still.
        restore_s: a process is replaced by a snapshot of its beginning: the same ids, and nothing remembered.
        takeover_s: two processes that bind are restarted, each at the other's address.
    """

    loss: float = 0.01
    duplicate: float = 0.01
    reorder: float = 0.01
    spike: float = 0.01
    break_s: float = 2.0
    partition_s: float = 4.0
    freeze_s: float = 5.0
    stop_s: float = 10.0
    crash_s: float = 4.0
    disk_s: float = math.inf
    slow_commits: float = 0.02
    read_s: float = math.inf
    torn_s: float = math.inf
    leap_s: float = math.inf
    suspend_s: float = math.inf
    restore_s: float = math.inf
    takeover_s: float = math.inf

    def swarm(self, rng: random.Random) -> Faults:
        """Each fault off with probability 0.3, else made more or less frequent by a factor of up to 3."""

        def some(value: float, *, rate: bool) -> float:
            factor = math.pow(3.0, rng.uniform(-1.0, 1.0))
            if rng.random() < 0.3:
                return 0.0 if rate else math.inf
            return min(0.3, value * factor) if rate else value * factor

        return Faults(
            **{
                field.name: some(getattr(self, field.name), rate=not field.name.endswith("_s"))
                for field in dataclasses.fields(self)
            }
        )

    @classmethod
    def none(cls) -> Faults:
        """Nothing goes wrong."""
        never = {field.name: math.inf if field.name.endswith("_s") else 0.0 for field in dataclasses.fields(cls)}
        return cls(**never)


class Nemesis:
    """Does what a `Faults` says, until `stop`, and undoes what would not end by itself.

    Durations lie around the bounds where behaviour changes: the hop timeout, and `bound_s`, the session's.
    """

    def __init__(self, world: World, faults: Faults, *, bound_s: float) -> None:
        self.world = world
        self.faults = faults
        self.bound_s = bound_s
        self._rng = world.stream("nemesis")
        self._running = True
        self._down: list[SimPeer] = []
        self._damaged: set[str] = set()
        self._lives: dict[str, int] = {}
        world.network.rates = Rates(faults.loss, faults.duplicate, faults.reorder, faults.spike)
        world.slow_commits = faults.slow_commits
        if faults.torn_s < math.inf:
            for peer in world.peers.values():
                if peer.disk is not None:
                    peer.disk.may_lie = True
        acts: tuple[tuple[float, Callable[[], None]], ...] = (
            (faults.break_s, self._break),
            (faults.partition_s, self._partition),
            (faults.freeze_s, self._freeze),
            (faults.stop_s, self._stop),
            (faults.crash_s, self._crash),
            (faults.disk_s, self._disk),
            (faults.read_s, self._bad_read),
            (faults.torn_s, self._tear),
            (faults.leap_s, self._leap),
            (faults.suspend_s, self._suspend),
            (faults.restore_s, self._restore),
            (faults.takeover_s, self._take_over),
        )
        for mean_s, act in acts:
            if mean_s < math.inf:
                self._next(mean_s, act)

    def stop(self) -> None:
        """No more faults; everything that was broken and can be whole again is."""
        self._running = False
        world = self.world
        world.slow_commits = 0.0
        world.network.heal()
        for host in world.hosts():
            world.wake(host)
        for peer in world.peers.values():
            peer.doom = None
            if peer.disk is not None:
                peer.disk.full = peer.disk.lying = False
                peer.disk.bad_reads = 0
                peer.disk.fates.clear()
            if peer.journal is not None and not peer.journal.usable:
                peer.crash()
                self._down.append(peer)
            peer.resume()
        down, self._down = self._down, []
        for peer in down:
            if not peer.alive:
                self._restart(peer)

    def _next(self, mean_s: float, act: Callable[[], None]) -> None:
        self.world.after(self._rng.expovariate(1.0 / mean_s), self._act, mean_s, act)

    def _act(self, mean_s: float, act: Callable[[], None]) -> None:
        if self._running:
            act()
            self._next(mean_s, act)

    def _some_time(self) -> float:
        """Short, around the hop timeout, around the session's bound, or long."""
        rng = self._rng
        hop = self.world.network.hop_timeout_s
        which = rng.randrange(4)
        if which == 0:
            return hop * rng.uniform(0.02, 0.8)
        if which == 1:
            return hop * rng.uniform(0.9, 1.4)
        if which == 2:
            return self.bound_s * rng.uniform(0.7, 1.3)
        return self.bound_s * rng.uniform(1.3, 3.0)

    def _pick_peer(self, *, crash: bool = False) -> SimPeer | None:
        peers = [
            peer
            for peer in self.world.peers.values()
            if peer.alive and not peer.closing and (peer.may_crash or not crash)
        ]
        return self._rng.choice(peers) if peers else None

    # ---- network -----------------------------------------------------------------

    def _break(self) -> None:
        network = self.world.network
        connections: list[Connection] = list(network.connections.values())
        if not connections:
            return
        if self._rng.random() < 0.15:
            self.world.counts["break all"] += 1
            for connection in connections:
                network.break_connection(connection)
        else:
            network.break_connection(self._rng.choice(connections), half_open=self._rng.random() < 0.25)

    def _partition(self) -> None:
        rng, network = self._rng, self.world.network
        pairs = sorted(
            {
                (connection.dial.peer.host, connection.binder.host)
                for connection in network.connections.values()
                if connection.dial.peer.host != connection.binder.host
            }
        )
        if not pairs:
            return
        one, two = rng.choice(pairs)
        if rng.random() < 0.5:
            one, two = two, one
        full = rng.random() < 0.5
        mode = network.HOLD if rng.random() < 0.5 else network.DROP
        self.world.counts[f"partition, {'full' if full else 'one way'}, {mode}"] += 1
        self.world.note(None, f"partition {one} -> {two}, {'full' if full else 'one way'}, {mode}")
        seconds = self._some_time()
        for source, target in ((one, two), (two, one)) if full else ((one, two),):
            network.partition(source, target, mode)
            self.world.after(seconds, network.mend, source, target)

    # ---- processes ---------------------------------------------------------------

    def _freeze(self) -> None:
        peer = self._pick_peer()
        if peer is not None:
            self.world.counts["freeze"] += 1
            seconds = self._some_time()
            self.world.note(peer, f"freezes for {seconds:.3f} s")
            peer.freeze(seconds)

    def _stop(self) -> None:
        peer = self._pick_peer()
        if peer is not None:
            self.world.counts["stop"] += 1
            seconds = self._some_time()
            self.world.note(peer, f"is stopped for {seconds:.3f} s")
            peer.stop()
            self.world.after(seconds, peer.resume)

    def _crash(self) -> None:
        rng = self._rng
        peer = self._pick_peer(crash=True)
        if peer is None:
            return
        which = rng.random()
        if peer.disk is not None and which < 0.5:
            peer.disk.fates[peer.disk.commits + rng.randint(1, 4)] = rng.choice(_CRASH_FATES)
        elif which < 0.7:
            peer.doom = rng.randint(0, 8)
        else:
            power = rng.random() < 0.3
            self.world.counts["power cut" if power else "crash: at once"] += 1
            peer.crash("power cut" if power else "killed")

    def went_down(self, peer: SimPeer, how: str) -> None:
        """Called by the world when a peer's process ended: a crashed one comes back after a while."""
        if how == "closed":
            return
        if peer not in self._down:
            self._down.append(peer)
        wait = 0.02 if self._rng.random() < 0.3 else self._some_time()
        self.world.after(wait if self._running else 0.02, self._come_back, peer, peer.incarnation)

    def _come_back(self, peer: SimPeer, incarnation: int) -> None:
        if peer in self._down and not peer.alive and peer.incarnation == incarnation:
            self._down.remove(peer)
            self._restart(peer)

    def _restart(self, peer: SimPeer) -> None:
        if peer.stays_down:
            return
        if peer.disk is not None and peer.disk.present < peer.disk.mark and peer.disk.durability == "power":
            # The first try shows that it is damaged; then somebody does something about it.
            if peer.name not in self._damaged:
                self._damaged.add(peer.name)
                peer.start()
                return
            self._damaged.discard(peer.name)
            self.world.counts["journal replaced"] += 1
            peer.disk.replace()
        self.world.counts["restart"] += 1
        peer.start(life=self._lives.pop(peer.name, 0))

    # ---- disks -------------------------------------------------------------------

    def _disk(self) -> None:
        rng = self._rng
        peers = [peer for peer in self.world.peers.values() if peer.alive and peer.disk is not None and peer.may_crash]
        if not peers:
            return
        peer = rng.choice(peers)
        disk = peer.disk
        assert disk is not None
        which = rng.random()
        if which < 0.4:
            disk.full = True
            self.world.after(self._some_time(), setattr, disk, "full", False)
        elif which < 0.7:
            disk.fates[disk.commits + 1] = "error"
        else:
            disk.fates[disk.commits + 1] = "unknown" if rng.random() < 0.5 else "unknown, stored"
            self.world.after(self._some_time(), self._replace, peer, peer.incarnation)

    def _replace(self, peer: SimPeer, incarnation: int) -> None:
        if self._running and peer.alive and peer.incarnation == incarnation:
            peer.crash()

    def _bad_read(self) -> None:
        peers = [peer for peer in self.world.peers.values() if peer.disk is not None and peer.may_crash]
        if peers:
            disk = self._rng.choice(peers).disk
            assert disk is not None
            disk.bad_reads = 1

    def _tear(self) -> None:
        """The power fails, and what a drive called synced was not."""
        peer = self._pick_peer(crash=True)
        if peer is None or peer.disk is None or peer.disk.durability != "power":
            return
        self.world.counts["torn tail"] += 1
        peer.disk.lying = True
        peer.crash("power cut")

    # ---- clocks ------------------------------------------------------------------

    def _leap(self) -> None:
        host = self._rng.choice(self.world.hosts())
        seconds = self._some_time() * self._rng.choice((0.5, 1.0, 10.0))
        self.world.counts["clock leap"] += 1
        self.world.note(None, f"the clock of {host} leaps by {seconds:.3f} s")
        self.world.leap(host, seconds)

    def _suspend(self) -> None:
        host = self._rng.choice(self.world.hosts())
        seconds = self._some_time()
        self.world.counts["suspend"] += 1
        self.world.note(None, f"{host} is suspended for {seconds:.3f} s")
        self.world.suspend(host, seconds)

    # ---- identities --------------------------------------------------------------

    def _restore(self) -> None:
        """As a virtual machine that is set back to a snapshot, with its network connections cut."""
        peer = self._pick_peer(crash=True)
        if peer is None:
            return
        self._lives[peer.name] = peer.life
        peer.crash()

    def _take_over(self) -> None:
        """Two processes die; when they come back, each has the address that the other had."""
        binders = [
            peer
            for peer in self.world.peers.values()
            if peer.may_crash and peer.may_move and peer.binds and not peer.closing
        ]
        if len(binders) < 2:
            return
        one, two = self._rng.sample(binders, 2)
        self.world.counts["address taken over"] += 1
        self.world.note(None, f"{one.name} and {two.name} change places")
        for peer in (one, two):
            peer.crash()
        first, second = (one.binds, one.data_binds), (two.binds, two.data_binds)
        for peer, old, new in ((one, first, second), (two, second, first)):
            for address in old[0]:
                peer.unbind(address)
            for address in old[1]:
                peer.unbind_data(address)
            for address in new[0]:
                peer.bind(address)
            for address in new[1]:
                peer.bind_data(address)
