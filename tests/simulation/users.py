"""What users of simulated pushers and pullers have in hand; and a pusher that counts what it need not count."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any

from tests.simulation.history import Message, waits
from zmqkit.options import Heartbeat
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.hands import PusherSettings
from zmqkit.patterns.pipeline.lanes import READ_ALL
from zmqkit.patterns.pipeline.leases import Holder
from zmqkit.patterns.pipeline.parcels import Source
from zmqkit.patterns.pipeline.puller import Parcel, PullerCore
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.patterns.pipeline.returning import Returning
from zmqkit.patterns.pipeline.rows import MARKS, MESSAGES, Pack
from zmqkit.patterns.pipeline.runs import Run
from zmqkit.protocol import core
from zmqkit.protocol.local import Local
from zmqkit.testing.journal import Disk
from zmqkit.testing.peers import SimPeer
from zmqkit.testing.tickets import SimTicket

LARGEST_ROW = 1 << 12
"""What the face leaves free between the journal's highest key and the first sequence of an opening."""


class JudgedReturning(Returning):
    """Has what a pusher takes from those who come back judged."""

    def _take(self, run: Run) -> Run:
        self._pusher.judge_taken(run)
        return super()._take(run)


class CountingPusher(PusherCore):
    """Counts what the pusher itself need not, and judges whom it lends to after it was opened."""

    first = 0
    disk: Disk | None = None
    given = (0, 0)
    """How far it had lent, as its journal said when it was opened: plain rows, and others."""
    opened_s: float | None = None
    """When its first turn was."""
    on_append: Callable[[int, int, float], None] | None = None
    """Told of each group: first sequence, how many, and when it was handed over."""

    def __init__(self, local: Local, settings: PusherSettings, rng: random.Random) -> None:
        super().__init__(local, settings, rng)
        enabled = settings.durable and "journal" in local.about
        self.returning = JudgedReturning(self, enabled=enabled)
        self.returning.reserved = 8
        self.came_back: set[int] = set()
        """Sequences of what was taken."""

    def end_turn(self, now: float) -> None:
        if self.opened_s is None:
            self.opened_s = now
        super().end_turn(now)

    def judge_taken(self, run: Run) -> None:
        """Somebody presented these, and is leased them now."""
        assert self.disk is not None
        for sequence in range(run.row.key + run.index, run.row.key + run.index + run.count):
            assert waits(self.disk, sequence), f"message {sequence} is settled, and goes on"
            assert sequence not in self.came_back, f"message {sequence} goes on twice"
            self.came_back.add(sequence)

    def _lend_run(self, holder: Holder, run: Run, now: float) -> None:
        heartbeat = self.local.heartbeat
        row = run.row
        assert self.opened_s is not None
        if now < self.opened_s + heartbeat.interval * heartbeat.liveness - 1e-6 and row.key < self.first:
            for sequence in range(row.key + run.index, row.key + run.index + run.count):
                assert sequence > self.given[row.special] or sequence in self.came_back, (
                    f"message {sequence} may be somebody's who comes back, and is lent"
                )
            self.count("lent at once")
        super()._lend_run(holder, run, now)

    def append(self, pack: Pack, first: int, ticket: Any, wait: bool, watcher: Any, now: float) -> None:
        if self.on_append is not None:
            self.on_append(first, len(pack), now)
        super().append(pack, first, ticket, wait, watcher, now)

    def append_all(self, packs: Sequence[Pack], first: int, ticket: Any, now: float) -> None:
        if self.on_append is not None:
            self.on_append(first, sum(map(len, packs)), now)
        super().append_all(packs, first, ticket, now)

    def count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1

    def loaded(self, read: core.Read, rows: Sequence[core.Row], now: float) -> None:
        if read.size_bytes == READ_ALL and read.log == MESSAGES:
            self.count("lanes loaded")
        elif rows and read.log == MARKS:
            self.count("marks loaded")
        elif rows and read.log == MESSAGES:
            self.count("rows of an earlier opening loaded" if rows[0].key < self.first else "rows loaded as room came")
        super().loaded(read, rows, now)

    def store_failed(self, up_to: int, error: Exception, now: float) -> None:
        self.count(f"store_failed: {type(error).__name__}")
        if self._settling:
            self.count("settles written again")
        super().store_failed(up_to, error, now)

    def _reconcile(self, holder: Holder, message: wire.Held) -> None:
        before = self.counters["redelivered"]
        super()._reconcile(holder, message)
        self.count("HELD agrees" if self.counters["redelivered"] == before else "HELD lacks some")


class CountingPuller(PullerCore):
    """Tells what goes on."""

    on_go_on: Callable[[Parcel, bytes, int, int, int], None] | None = None
    """Told of a parcel, its epoch and first lease before, bits of what goes on, and of what is in the user's hands."""

    def go_on(self, source: Source, parcel: Parcel, base: int, bits: int, acks: int, now: float) -> None:
        epoch, lease, held = parcel.session.peer.about["epoch"], parcel.delivery.lease, parcel.open & bits
        if held:
            self.count("went on in hand")
        if acks:
            self.count("acked while its pusher was away")
        super().go_on(source, parcel, base, bits, acks, now)
        if self.on_go_on is not None:
            self.on_go_on(parcel, epoch, lease, bits, held)

    def count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1


class Told(SimTicket):
    """A ticket, or a watcher, that hands on what it is told."""

    __slots__ = ("then",)

    def __init__(self, about: Any, then: Callable[[Any], None]) -> None:
        super().__init__(about)
        self.then = then

    def resolve(self, result: object) -> None:
        super().resolve(result)
        self.then(result)


@dataclasses.dataclass(slots=True, eq=False)
class Job:
    """One job in the hands of a puller's user."""

    parcel: Parcel
    index: int
    message: Message
    claimed: set[int]
    """Of its parcel, by the user."""
    kept_until: float = 0.0
    held_until: float = 0.0
    """It was started, or extended, and may be held at least until then."""

    @property
    def token(self) -> tuple[bytes, int]:
        """Epoch and lease."""
        return self.parcel.session.peer.about["epoch"], self.parcel.delivery.lease + self.index

    @property
    def open(self) -> bool:
        """The core has it as ours."""
        return bool(self.parcel.open >> self.index & 1)

    def start(self, now: float, max_lease: float) -> bool:
        """Claim it, and all before it in its parcel, as a user would. False: it is there no more."""
        while not self.started:
            index = next(self.parcel.claims, None)
            if index is None:
                return False
            assert index not in self.claimed, f"{self.message.name!r}: index {index} is handed out twice"
            self.claimed.add(index)
        if not self.held_until:
            self.held_until = now + max_lease
        return self.open

    @property
    def started(self) -> bool:
        """The user claimed it."""
        return self.index in self.claimed

    def let_go(self) -> None:
        """The user settles it, or loses it."""
        self.message.held.pop(self.token, None)


@dataclasses.dataclass(slots=True)
class User:
    """What the user of one incarnation of a puller has in hand."""

    jobs: list[Job] = dataclasses.field(default_factory=list)
    parcels: dict[Parcel, list[Message]] = dataclasses.field(default_factory=dict)
    newest: dict[bytes, int] = dataclasses.field(default_factory=dict)
    """By session: the highest sequence of a fresh message."""
    leases: dict[bytes, set[int]] = dataclasses.field(default_factory=dict)
    """By session: all that were ever delivered in it."""


def parts_of(made: PusherCore) -> dict[str, int]:
    """Where the messages are that are not settled: each in one place."""
    settling = [*made._settling, made._turn]
    return {
        "being stored": sum(each.row.count for each in made._storing),
        "ready": made.backlog.ready,
        "on disk": made.backlog.waiting - made.backlog.ready - made.backlog.lanes.ready,
        "in lanes": made.backlog.lanes.waiting,
        "held back": made.returning.held,
        "suspected": len(made.suspects.waiting),
        "waiting for an inbox": made.doubt.waiting + sum(run.count for each in settling for _, run in each.lendings),
        "delayed": made.backlog.delayed,
        "leased": sum(each.held for each in made._holders.values()),
        "being settled": sum(each.acked + each.dead + each.expired for each in settling),
    }


def forget(made: PullerCore, parcel: Parcel, now: float) -> None:
    """Have a puller lose a parcel without a word, as a bug of its would."""
    source = made._sources.get(parcel.session.id)
    if source is None:
        parcel.open = 0
    elif source.parcels.pop(parcel.key, None) is not None:
        count = parcel.open.bit_count()
        parcel.open = 0
        made.held -= count
        if not parcel.went_on:
            source.released_messages += count
            source.released_bytes += parcel.size
        made._changed[source.session.id] = source


HEARTBEAT = Heartbeat(0.25, 4)


def local_of(peer: SimPeer, role: str, accepts: str, heartbeat: Heartbeat = HEARTBEAT, **more: Any) -> Local:
    """What a simulated peer says of itself."""
    return Local(
        role=role, accepts=frozenset({accepts}), instance=peer.random.randbytes(16), heartbeat=heartbeat,
        name=peer.name, host=peer.host, pid=peer.pid, started=peer.started, **more,
    )  # fmt: skip


def extend(made: PullerCore, job: Job, seconds: float | None, max_lease: float, now: float) -> None:
    """A user asks for more time."""
    if job.open:
        job.held_until = max(job.held_until, now + (max_lease if seconds is None else seconds))
    made.extend(job.parcel, job.index, seconds, now)
